//! The nearest neighbours of all images among all, and the largest distance of each.
//!
//! Distances are symmetric: a block of rows is compared with itself and what comes after it, and every distance found
//! counts for both images. What is kept does not depend on the order in which distances come, hence neither on how
//! blocks are dealt out to ranks and threads.

use std::ops::Range;
use std::sync::Mutex;

use super::distances::Points;
use crate::comm::Comm;
use crate::error::Result;
use crate::eval::kernels::blocks::{on_threads, own_blocks};

/// Distances that are compared with their thresholds at once.
const LANES: usize = 32;
/// Images whose neighbours are exchanged at once: bounds the memory of many ranks.
const EXCHANGED: usize = 4096;

/// The nearest neighbours of each image that were found so far.
pub struct Neighbours {
    kept: usize,
    /// At most `kept`, ascending; equal distances by index.
    nearest: Vec<Vec<(f32, u32)>>,
    /// A larger distance changes nothing.
    thresholds: Vec<f32>,
    largest: Vec<f32>,
}

impl Neighbours {
    /// All ranks call this and have all neighbours.
    pub fn find(comm: &Comm, images: &Points, kept: usize, threads: usize) -> Result<Neighbours> {
        let own = comm.agree(Neighbours::of_blocks(images, kept, own_blocks(comm, images.count()), threads))?;
        let mut all = Neighbours::new(images.count(), kept);
        for start in (0..images.count()).step_by(EXCHANGED) {
            let range = start..(start + EXCHANGED).min(images.count());
            let records: Vec<f64> = range.clone().flat_map(|image| own.record(image)).collect();
            for records in comm.all_gather(&records).chunks_exact(records.len()) {
                for (image, record) in range.clone().zip(records.chunks_exact(2 * kept + 1)) {
                    let (pairs, largest) = record.split_at(2 * kept);
                    let nearest = pairs.chunks_exact(2).map(|pair| (pair[0] as f32, pair[1] as u32));
                    all.take(image, nearest.filter(|&(distance, _)| distance < f32::INFINITY), largest[0] as f32);
                }
            }
        }
        Ok(all)
    }

    fn new(images: usize, kept: usize) -> Neighbours {
        Neighbours {
            kept,
            nearest: vec![Vec::new(); images],
            thresholds: vec![f32::INFINITY; images],
            largest: vec![f32::NEG_INFINITY; images],
        }
    }

    /// The first `count` neighbours of an image, the nearest first, itself among them.
    pub fn first(&self, image: usize, count: usize) -> impl ExactSizeIterator<Item = u32> {
        self.nearest[image].iter().take(count).map(|&(_, other)| other)
    }

    /// The largest distance of an image to any.
    pub fn largest(&self, image: usize) -> f32 {
        self.largest[image]
    }

    /// What these blocks of rows tell.
    fn of_blocks(images: &Points, kept: usize, blocks: Vec<Range<usize>>, threads: usize) -> Result<Neighbours> {
        let count = images.count();
        let free = Mutex::new(Vec::new()); // one for each thread
        on_threads(threads, blocks, |block| {
            let taken = free.lock().expect("no thread panics").pop();
            let mut found = taken.unwrap_or_else(|| Neighbours::new(count, kept));
            let distances = images.distances(block.clone(), &images.part(block.start..count)?)?;
            for (image, row) in block.clone().zip(distances.chunks_exact(count - block.start)) {
                found.add_row(image, block.start, row);
                found.add_column(image, block.end, &row[block.len()..]);
            }
            free.lock().expect("no thread panics").push(found);
            Ok(())
        })?;
        let mut all = Neighbours::new(count, kept);
        for found in free.into_inner().expect("no thread panics") {
            for (image, (nearest, largest)) in found.nearest.into_iter().zip(found.largest).enumerate() {
                all.take(image, nearest, largest);
            }
        }
        Ok(all)
    }

    /// Distances of an image to `others` and those after it.
    fn add_row(&mut self, image: usize, others: usize, distances: &[f32]) {
        let mut largest = [f32::NEG_INFINITY; LANES];
        for (start, lanes) in (others..).step_by(LANES).zip(distances.chunks(LANES)) {
            let threshold = self.thresholds[image];
            if lanes.iter().fold(false, |any, &distance| any | (distance <= threshold)) {
                (start..).zip(lanes).for_each(|(other, &distance)| self.add(image, distance, other as u32));
            }
            largest.iter_mut().zip(lanes).for_each(|(largest, &distance)| *largest = larger(*largest, distance));
        }
        self.largest[image] = largest.into_iter().fold(self.largest[image], larger);
    }

    /// Takes distances of `others` and the images after it to one image, as neighbours of theirs.
    fn add_column(&mut self, image: usize, others: usize, distances: &[f32]) {
        for (start, lanes) in (others..).step_by(LANES).zip(distances.chunks(LANES)) {
            let thresholds = &self.thresholds[start..][..lanes.len()];
            if lanes.iter().zip(thresholds).fold(false, |any, (distance, threshold)| any | (distance <= threshold)) {
                (start..).zip(lanes).for_each(|(other, &distance)| self.add(other, distance, image as u32));
            }
        }
        let largest = self.largest[others..].iter_mut();
        largest.zip(distances).for_each(|(largest, &distance)| *largest = larger(*largest, distance));
    }

    fn add(&mut self, image: usize, distance: f32, other: u32) {
        if distance > self.thresholds[image] {
            return;
        }
        let nearest = &mut self.nearest[image];
        let before = |&(found, index): &(f32, u32)| found < distance || (found == distance && index < other);
        nearest.insert(nearest.partition_point(before), (distance, other));
        nearest.truncate(self.kept);
        if nearest.len() == self.kept {
            self.thresholds[image] = nearest[self.kept - 1].0;
        }
    }

    fn take(&mut self, image: usize, nearest: impl IntoIterator<Item = (f32, u32)>, largest: f32) {
        nearest.into_iter().for_each(|(distance, other)| self.add(image, distance, other));
        self.largest[image] = larger(self.largest[image], largest);
    }

    /// [2 kept + 1]: distances and indices, then of infinity, and the largest distance.
    fn record(&self, image: usize) -> impl Iterator<Item = f64> {
        let nearest = self.nearest[image].iter().flat_map(|&(distance, other)| [f64::from(distance), f64::from(other)]);
        let missing = std::iter::repeat_n(f64::INFINITY, 2 * (self.kept - self.nearest[image].len()));
        nearest.chain(missing).chain([f64::from(self.largest[image])])
    }
}

/// Without f32::max's care for NaN, so that the compiler can vectorise it.
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::kernels::blocks::blocks;
    use crate::eval::retrieval::distances::{Metric, Rows};
    use tch::{Device, Kind, Tensor};

    #[test]
    fn neighbours_are_those_of_sorting() {
        tch::manual_seed(4);
        // few distinct distances, then hardly a tie
        for (values, count) in [(3, 700), (1000, 300), (3, 1)] {
            let features = Tensor::randint(values, [count as i64, 4], (Kind::Float, Device::Cpu));
            let [images] = Points::new(
                [Rows { features: &features, rows: &(0..count).collect::<Vec<_>>(), name: "images" }],
                Metric::Euclidean,
            )
            .unwrap();
            let rows: Vec<Vec<f32>> = (&features).try_into().unwrap();
            for kept in [1, 21, 300].map(|kept| kept.min(count)) {
                let found = Neighbours::find(&Comm::single(), &images, kept, 1).unwrap();
                let parts = [0, 1, 2].map(|part| {
                    let blocks = blocks(count).skip(part).step_by(3).collect();
                    Neighbours::of_blocks(&images, kept, blocks, 2).unwrap()
                });
                let mut merged = Neighbours::new(count, kept);
                for image in 0..count {
                    let of = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
                    let mut expected: Vec<(f32, u32)> = rows.iter().map(|row| of(&rows[image], row)).zip(0..).collect();
                    expected.sort_by(|a, b| a.0.total_cmp(&b.0)); // stable
                    assert_eq!(found.nearest[image], expected[..kept]);
                    assert_eq!(found.largest(image), expected[count - 1].0);
                    for part in &parts {
                        merged.take(image, part.nearest[image].clone(), part.largest[image]);
                    }
                    assert_eq!(merged.nearest[image], found.nearest[image]);
                    assert_eq!(merged.largest(image), found.largest(image));
                }
            }
        }
    }
}
