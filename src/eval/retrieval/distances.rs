//! Distances between features, a block of rows at a time: no matrix of all of them is ever held.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::eval::kernels::blocks;
use crate::eval::kernels::inner_products::{OneThread, check_matrix, has_one_dnn, product};
use crate::tensor_memory::numbers;

/// Rows of one product: with a block of `blocks::ITEMS_PER_BLOCK` features they and their scores fit a cache.
const PIECE: i64 = 1024;
/// Distances that are looked at at once.
const LANES: usize = 32;
/// A distance below this share of the squares that it is a difference of has lost digits.
const CANCELLED: f32 = 0.125;
/// Features, at most about, that tell the origin.
const SAMPLED: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Metric {
    /// 2 - 2 cos: the squared Euclidean distance of the unit features.
    Cosine,
    /// The squared Euclidean distance.
    Euclidean,
}

/// Features [N, D] f32 that distances can be measured between.
///
/// Most distances are |x|^2 + |y|^2 - 2 xy, from one product of matrices in f32. That loses what |x|^2 has more digits than
/// the distance: features with a large common offset are moved to an origin first, and distances that are still small
/// beside the squares (`CANCELLED`) are measured again, as differences in f64 of the features as they were given. So all have
/// f32's precision, whatever the features are.
pub struct Points {
    /// [N, D] on the device that scores: the features, with `Cosine` of norm 1, less the origin.
    moved: Tensor,
    /// [N]: squared norms of `moved`.
    squares: Vec<f32>,
    /// [N, D] in the CPU's memory, as they were given.
    given: Tensor,
    /// [N]: what these rows are multiplied by.
    scales: Vec<f64>,
    one_dnn: bool,
}

// SAFETY: threads only make views and products of the tensors, which libtorch allows
unsafe impl Sync for Points {}

/// Some rows, ascending and at least one, of features [N, D] f32; scores are computed on their device.
pub struct Rows<'a> {
    pub features: &'a Tensor,
    pub rows: &'a [usize],
    /// What they are, for errors.
    pub name: &'a str,
}

impl Points {
    /// The points of each set; distances are measured between those that are made together. Errors: other numbers of
    /// features, or devices; a feature that is not finite; with `Cosine` rows of norm zero.
    pub fn new<const N: usize>(sets: [Rows; N], metric: Metric) -> Result<[Points; N]> {
        check_alike(&sets)?;
        let _one = OneThread::new(); // sums whose order does not depend on the number of threads
        let chosen = sets.iter().map(Rows::chosen).collect::<Result<Vec<Tensor>>>()?;
        let given: Vec<Tensor> = chosen.iter().map(|features| features.to_device(Device::Cpu)).collect();
        let norms = sets.iter().zip(&given).map(|(set, given)| set.norms(given, metric)).collect::<Result<Vec<_>>>()?;
        let unit = unit(norms.iter().flatten());
        let scale = |&norm: &f64| if metric == Metric::Cosine { 1.0 / norm } else { unit };
        let scales: Vec<Vec<f64>> = norms.iter().map(|norms| norms.iter().map(scale).collect()).collect();
        let origin = origin(&given, &scales)?;
        let as_given = origin.is_none() && scales.iter().flatten().all(|&scale| scale == 1.0);
        let mut points = Vec::with_capacity(N);
        for ((chosen, given), scales) in chosen.into_iter().zip(given).zip(scales) {
            let moved = if as_given { chosen } else { moved(&chosen, &scales, origin.as_ref())? };
            let squares = rows(&moved.to_device(Device::Cpu)).map(|row| squared_norm(row) as f32).collect();
            points.push(Points { one_dnn: has_one_dnn(&moved), moved, squares, given, scales });
        }
        Ok(points.try_into().unwrap_or_else(|_| unreachable!("one for each set")))
    }

    /// All of a, then all of b, which were made together.
    pub fn join(a: &Points, b: &Points) -> Result<Points> {
        let moved = Tensor::f_cat(&[&a.moved, &b.moved], 0)?;
        let as_given = a.moved.data_ptr() == a.given.data_ptr();
        let given = if as_given { moved.shallow_clone() } else { Tensor::f_cat(&[&a.given, &b.given], 0)? };
        let scales = [&a.scales[..], &b.scales].concat();
        Ok(Points { moved, squares: [&a.squares[..], &b.squares].concat(), given, scales, one_dnn: a.one_dnn })
    }

    /// The points of the range; memory is shared.
    pub fn part(&self, range: Range<usize>) -> Result<Points> {
        let narrow = |tensor: &Tensor| tensor.f_narrow(0, range.start as i64, range.len() as i64);
        Ok(Points {
            moved: narrow(&self.moved)?,
            squares: self.squares[range.clone()].to_vec(),
            given: narrow(&self.given)?,
            scales: self.scales[range.clone()].to_vec(),
            one_dnn: self.one_dnn,
        })
    }

    /// The same in the CPU's memory; those that are there already are not copied.
    pub fn on_cpu(&self) -> Points {
        Points {
            moved: self.moved.to_device(Device::Cpu),
            squares: self.squares.clone(),
            given: self.given.shallow_clone(),
            scales: self.scales.clone(),
            one_dnn: self.one_dnn,
        }
    }

    pub fn count(&self) -> usize {
        self.squares.len()
    }

    /// Distances from each of `rows` to all of `to`: [rows, to]. How sums are rounded depends on the range, so callers take
    /// the ranges that `blocks` gives, which depend on neither ranks nor threads.
    pub fn distances(&self, rows: Range<usize>, to: &Points) -> Result<Vec<f32>> {
        let features = self.moved.f_narrow(0, rows.start as i64, rows.len() as i64)?;
        let mut distances = vec![0f32; rows.len() * to.count()];
        let mut start = 0;
        let piece = if to.moved.device() == Device::Cpu { PIECE } else { to.count() as i64 };
        for piece in to.moved.f_split(piece, 0)? {
            let scores = product(&piece, &features, self.one_dnn)?.tr().f_contiguous()?.f_to_device(Device::Cpu)?;
            let columns = start..start + piece.size()[0] as usize;
            let into = distances.chunks_exact_mut(to.count());
            let scores = numbers::<f32>(&scores).chunks_exact(columns.len());
            for ((row, into), scores) in rows.clone().zip(into).zip(scores) {
                self.expand(row, to, columns.start, scores, &mut into[columns.clone()]);
            }
            start = columns.end;
        }
        Ok(distances)
    }

    /// Distances of a row to those of `to` from `first` on, of the inner products with them.
    fn expand(&self, row: usize, to: &Points, first: usize, scores: &[f32], distances: &mut [f32]) {
        let square = self.squares[row];
        let others = &to.squares[first..first + scores.len()];
        for (k, distances) in distances.chunks_mut(LANES).enumerate() {
            let lanes = k * LANES..k * LANES + distances.len();
            let mut cancelled = false;
            for (distance, (score, other)) in
                distances.iter_mut().zip(scores[lanes.clone()].iter().zip(&others[lanes.clone()]))
            {
                let squares = square + other;
                *distance = squares - 2.0 * score;
                cancelled |= *distance < CANCELLED * squares;
            }
            if cancelled {
                for (column, distance) in lanes.zip(distances) {
                    if *distance < CANCELLED * (square + others[column]) {
                        *distance = self.difference(row, to, first + column);
                    }
                }
            }
        }
    }

    /// The distance between two rows. Panics unless the features are `on_cpu`.
    pub fn distance(&self, i: usize, j: usize) -> f32 {
        let squares = self.squares[i] + self.squares[j];
        let distance = squares - 2.0 * inner_product(row(&self.moved, i), row(&self.moved, j));
        if distance < CANCELLED * squares { self.difference(i, self, j) } else { distance }
    }

    /// The distance between a row and one of `to`, exact but for the rounding to f32.
    fn difference(&self, i: usize, to: &Points, j: usize) -> f32 {
        let (a, b) = (self.scales[i], to.scales[j]);
        sum_in_lanes(row(&self.given, i), row(&to.given, j), |x, y| {
            let difference = a * f64::from(x) - b * f64::from(y);
            difference * difference
        }) as f32
    }
}

impl Rows<'_> {
    /// These rows alone: [rows, D], contiguous.
    fn chosen(&self) -> Result<Tensor> {
        let features = self.features.detach().contiguous();
        if self.rows.len() as i64 == features.size()[0] {
            return Ok(features);
        }
        let rows: Vec<i64> = self.rows.iter().map(|&row| row as i64).collect();
        Ok(features.f_index_select(0, &Tensor::from_slice(&rows).to_device(features.device()))?)
    }

    /// The norms [rows] of what `chosen` returned.
    fn norms(&self, chosen: &Tensor, metric: Metric) -> Result<Vec<f64>> {
        let norms: Vec<f64> = rows(chosen).map(|row| squared_norm(row).sqrt()).collect();
        let bad = norms.iter().position(|&norm| !norm.is_finite() || (metric == Metric::Cosine && norm == 0.0));
        match bad {
            Some(i) => Err(Error::failed(format!(
                "{}: features of row {}: their norm is {}",
                self.name, self.rows[i], norms[i]
            ))),
            None => Ok(norms),
        }
    }
}

fn check_alike(sets: &[Rows]) -> Result<()> {
    sets.iter().try_for_each(|set| check_matrix(set.features, set.name))?;
    let of = |set: &Rows| (set.features.size()[1], set.features.device());
    match sets.iter().find(|&set| of(set) != of(&sets[0])) {
        None => Ok(()),
        Some(other) => {
            let ((a, on), (b, other_on)) = (of(&sets[0]), of(other));
            let devices = if on == other_on { String::new() } else { format!(" ({on:?} and {other_on:?})") };
            Err(Error::failed(format!(
                "{} has {a} features for each image, {} has {b}{devices}: they are not of one network",
                sets[0].name, other.name
            )))
        }
    }
}

/// A power of two that brings all squared norms well within f32's range; 1 where they are.
fn unit<'a>(norms: impl Iterator<Item = &'a f64> + Clone) -> f64 {
    let largest = norms.clone().copied().fold(0.0, f64::max);
    let is_usual = |&norm: &f64| norm == 0.0 || (2f64.powi(-40)..=2f64.powi(60)).contains(&norm);
    if norms.clone().all(is_usual) { 1.0 } else { 2f64.powi(60 - largest.log2().ceil() as i32) }
}

/// A point [D] f64 amidst the features; `None`: 0 is as good. It needs not be exact, so a sample tells it. It has few digits:
/// whole numbers, whose distances are exact, remain so.
fn origin(given: &[Tensor], scales: &[Vec<f64>]) -> Result<Option<Tensor>> {
    let count: usize = scales.iter().map(Vec::len).sum();
    let mut samples = Vec::new();
    for (given, scales) in given.iter().zip(scales) {
        let chosen: Vec<usize> = (0..scales.len()).step_by(count.div_ceil(SAMPLED)).collect();
        let scales: Vec<f64> = chosen.iter().map(|&row| scales[row]).collect();
        let chosen: Vec<i64> = chosen.iter().map(|&row| row as i64).collect();
        let rows = given.f_index_select(0, &Tensor::from_slice(&chosen))?.to_kind(Kind::Double);
        samples.push(rows * Tensor::from_slice(&scales).view([-1, 1]));
    }
    let sample = Tensor::f_cat(&samples, 0)?;
    let mean = sample.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let squared = |tensor: &Tensor| tensor.square().sum(Kind::Double).double_value(&[]);
    let variance = squared(&(&sample - &mean)) / sample.size()[0] as f64;
    if squared(&mean) <= variance {
        return Ok(None);
    }
    let deviation = (variance / mean.size()[0] as f64).sqrt();
    let step = 2f64.powf(deviation.log2().floor());
    Ok(Some(if step > 0.0 { (mean / step).round() * step } else { mean }))
}

/// features [N, D] f32 -> [N, D] f32: rows multiplied by `scales` [N], less the origin [D].
fn moved(features: &Tensor, scales: &[f64], origin: Option<&Tensor>) -> Result<Tensor> {
    let device = features.device();
    let in_range = scales.iter().all(|scale| (1e-30..1e30).contains(scale));
    let scales = Tensor::from_slice(scales).to_device(device).view([-1, 1]);
    if origin.is_none() && in_range {
        return Ok(features.f_mul(&scales.to_kind(Kind::Float))?);
    }
    let origin = origin.map_or_else(|| Tensor::zeros([1], (Kind::Double, device)), |origin| origin.to_device(device));
    let rows = blocks::ITEMS_PER_BLOCK as i64;
    let mut parts = Vec::new();
    for (features, scales) in features.f_split(rows, 0)?.into_iter().zip(scales.f_split(rows, 0)?) {
        parts.push((features.f_to_kind(Kind::Double)? * scales - &origin).f_to_kind(Kind::Float)?);
    }
    Ok(Tensor::f_cat(&parts, 0)?)
}

fn rows(tensor: &Tensor) -> impl Iterator<Item = &[f32]> {
    let length = tensor.size()[1] as usize;
    (0..tensor.size()[0] as usize).map(move |i| &numbers(tensor)[i * length..][..length])
}

fn row(tensor: &Tensor, i: usize) -> &[f32] {
    let length = tensor.size()[1] as usize;
    &numbers(tensor)[i * length..][..length]
}

fn squared_norm(row: &[f32]) -> f64 {
    sum_in_lanes(row, row, |x, y| f64::from(x) * f64::from(y))
}

fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    sum_in_lanes(a, b, |x, y| x * y)
}

/// Sums what `term` makes of two rows, in lanes, so that the compiler can vectorise it.
fn sum_in_lanes<T: Copy + Default + std::ops::AddAssign>(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> T) -> T {
    const LANES: usize = 16;
    let mut sums = [T::default(); LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    let mut sum = T::default();
    a_rest.iter().zip(b_rest).for_each(|(&a, &b)| sum += term(a, b));
    sums.into_iter().for_each(|lane| sum += lane);
    sum
}

#[cfg(test)]
mod tests;
