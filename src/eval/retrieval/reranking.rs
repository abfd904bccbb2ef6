//! Re-ranking with k-reciprocal encoding (Zhong et al., CVPR 2017, arXiv:1701.08398), as the authors publish it:
//! zhunzhong07/person-re-ranking, evaluation/utils/re_ranking.m and python-version/re_ranking_feature.py.
//!
//! With R = queries + gallery images, no [R, R] matrix is held: neighbours come of blocks of distances (`neighbours.rs`),
//! and the encodings are sparse. Junk is no part of it, as in the Python; Matlab's keeps it among the neighbours.

use std::ops::Range;

use super::distances::Points;
use super::neighbours::Neighbours;
use crate::comm::Comm;
use crate::error::{Error, Result};
use crate::eval::kernels::blocks::{blocks, on_threads};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reranking {
    /// Neighbours, besides the image, that may be reciprocal. For a neighbour's own set it is k1 / 2, rounded to even as
    /// in the Python; the Matlab has one less where k1 is 3, 7, 11, ...
    pub k1: usize,
    /// Neighbours, the image among them, whose encodings are averaged; 1: none are.
    pub k2: usize,
    /// The weight of the original distance; the rest is the Jaccard distance's.
    pub lambda: f64,
}

impl Default for Reranking {
    /// The paper's for Market-1501.
    fn default() -> Reranking {
        Reranking { k1: 20, k2: 6, lambda: 0.3 }
    }
}

/// A row or a column of a sparse matrix: indices, ascending, and values.
type Sparse = Vec<(u32, f32)>;

/// Queries and gallery, encoded.
pub struct Reranked {
    lambda: f64,
    query: Points,
    gallery: Points,
    /// The largest distance of each query to any image.
    largest: Vec<f32>,
    /// Each query's k-reciprocal encoding.
    encodings: Vec<Sparse>,
    /// For each image, the gallery images whose encodings contain it, with its values there.
    inverted: Vec<Sparse>,
}

/// What the encodings are made of. Images are queries, then gallery.
struct Encoder {
    /// Features in the CPU's memory.
    images: Points,
    neighbours: Neighbours,
    reranking: Reranking,
}

impl Reranked {
    /// All ranks call this with the same features. Errors: k1 or k2 of 0; a lambda that is not in [0, 1].
    pub fn new(
        comm: &Comm,
        query: &Points,
        gallery: &Points,
        reranking: Reranking,
        threads: usize,
    ) -> Result<Reranked> {
        let Reranking { k1, k2, lambda } = reranking;
        if k1 == 0 || k2 == 0 || !(0.0..=1.0).contains(&lambda) {
            return Err(Error::failed(format!(
                "re-ranking needs k1 > 0, k2 > 0 and lambda in [0, 1], not {k1}, {k2} and {lambda}"
            )));
        }
        let images = Points::join(query, gallery)?;
        let (query, gallery) = (images.part(0..query.count())?, images.part(query.count()..images.count())?);
        let kept = (k1 + 1).max(k2).min(images.count());
        let neighbours = Neighbours::find(comm, &images, kept, threads)?;
        let largest = (0..query.count()).map(|query| neighbours.largest(query)).collect();
        let mut encodings = Encoder { images: images.on_cpu(), neighbours, reranking }.encodings(threads)?;
        let mut inverted = vec![Sparse::new(); images.count()];
        for (i, encoding) in (0..).zip(encodings.drain(query.count()..)) {
            encoding.into_iter().for_each(|(image, value)| inverted[image as usize].push((i, value)));
        }
        Ok(Reranked { lambda, query, gallery, largest, encodings, inverted })
    }

    /// Final distances of these queries to the gallery: [queries, gallery].
    pub fn distances(&self, queries: Range<usize>) -> Result<Vec<f32>> {
        let mut distances = self.query.distances(queries.clone(), &self.gallery)?;
        let (lambda, rest) = (self.lambda as f32, (1.0 - self.lambda) as f32);
        let mut common = vec![0f32; self.gallery.count()];
        for (query, row) in queries.zip(distances.chunks_exact_mut(self.gallery.count())) {
            common.fill(0.0);
            for &(image, value) in &self.encodings[query] {
                for &(gallery, other) in &self.inverted[image as usize] {
                    common[gallery as usize] += value.min(other);
                }
            }
            for (distance, common) in row.iter_mut().zip(&common) {
                let jaccard = 1.0 - common / (2.0 - common);
                *distance = jaccard * rest + normalised(*distance, self.largest[query]) * lambda;
            }
        }
        Ok(distances)
    }
}

impl Encoder {
    /// An image's k-reciprocal neighbours, k = `count`: those of its first k that have it among their own first k.
    fn reciprocal(&self, image: u32, count: usize) -> impl Iterator<Item = u32> {
        let mutual = move |&other: &u32| self.neighbours.first(other as usize, count).any(|theirs| theirs == image);
        self.neighbours.first(image as usize, count).filter(mutual)
    }

    /// The reciprocal neighbours, and those of each of them that mostly are ours as well: indices and weights, which
    /// fall exponentially with the distance and sum to 1.
    fn encoding(&self, image: u32) -> Sparse {
        let half = (self.reranking.k1 as f64 / 2.0).round_ties_even() as usize;
        let reciprocal: Vec<u32> = self.reciprocal(image, self.reranking.k1 + 1).collect();
        let mut set = reciprocal.clone();
        for &candidate in &reciprocal {
            let theirs: Vec<u32> = self.reciprocal(candidate, half + 1).collect();
            let common = theirs.iter().filter(|&other| reciprocal.contains(other)).count();
            if 3 * common > 2 * theirs.len() {
                set.extend(theirs);
            }
        }
        set.sort_unstable();
        set.dedup();
        let largest = self.neighbours.largest(image as usize);
        let weight = |&other: &u32| (-normalised(self.images.distance(image as usize, other as usize), largest)).exp();
        let weights: Vec<f32> = set.iter().map(weight).collect();
        let sum: f32 = weights.iter().sum();
        set.into_iter().zip(weights).map(|(other, weight)| (other, weight / sum)).collect()
    }

    /// Each image's final encoding: the mean of those of its first k2 neighbours; with k2 = 1 its own.
    fn encodings(&self, threads: usize) -> Result<Vec<Sparse>> {
        let count = self.images.count();
        let each = |encode: &(dyn Fn(u32) -> Sparse + Sync)| -> Result<Vec<Sparse>> {
            let work = |block: Range<usize>| Ok(block.map(|image| encode(image as u32)).collect::<Vec<_>>());
            Ok(on_threads(threads, blocks(count).collect(), work)?.into_iter().flatten().collect())
        };
        let encodings = each(&|image| self.encoding(image))?;
        if self.reranking.k2 == 1 {
            return Ok(encodings); // an image whose equals come before it is not its own first neighbour
        }
        let first = |image: u32| self.neighbours.first(image as usize, self.reranking.k2);
        each(&|image| mean(first(image).map(|other| &encodings[other as usize])))
    }
}

/// The distance as a share of the largest; 0 where all images have the same features.
fn normalised(distance: f32, largest: f32) -> f32 {
    if largest > 0.0 { distance / largest } else { 0.0 }
}

fn mean<'a>(rows: impl ExactSizeIterator<Item = &'a Sparse>) -> Sparse {
    let count = rows.len() as f32;
    let mut values: Sparse = rows.flatten().copied().collect();
    values.sort_by_key(|&(index, _)| index); // stable: the order of addition is the rows'
    let of_index = |values: &[(u32, f32)]| (values[0].0, values.iter().map(|&(_, value)| value).sum::<f32>() / count);
    values.chunk_by(|a, b| a.0 == b.0).map(of_index).collect()
}

#[cfg(test)]
mod tests;
