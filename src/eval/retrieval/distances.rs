//! Distances between features, a block of rows at a time: no matrix of all of them is ever held.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::eval::kernels::blocks;
use crate::eval::kernels::inner_products::{OneThread, check_matrix, has_one_dnn, product, to_vec};

/// Rows of one product: with a block of `blocks::ITEMS_PER_BLOCK` features they and their scores fit a cache.
const PIECE: i64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Metric {
    /// 2 - 2 cos: the squared Euclidean distance of the unit features.
    Cosine,
    /// The squared Euclidean distance.
    Euclidean,
}

/// Features [N, D] f32 and their squared norms [N].
pub struct Points {
    features: Tensor,
    squares: Vec<f32>,
    one_dnn: bool,
}

// SAFETY: threads only make views and products of the tensor, which libtorch allows
unsafe impl Sync for Points {}

impl Points {
    /// These rows, ascending and at least one, of features [N, D] f32; scores are computed on their device. `what` they
    /// are, for errors: features that are not finite or too large to be squared, and with `Cosine` rows of norm zero.
    pub fn new(features: &Tensor, rows: &[usize], metric: Metric, what: &str) -> Result<Points> {
        check_matrix(features, what)?;
        let mut features = features.detach().contiguous();
        if rows.len() as i64 != features.size()[0] {
            let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
            features = features.f_index_select(0, &Tensor::from_slice(&rows).to_device(features.device()))?;
        }
        let _one = OneThread::new(); // sums whose order does not depend on the number of threads
        let mut squares = Vec::with_capacity(rows.len());
        for block in features.split(blocks::ITEMS_PER_BLOCK as i64, 0) {
            let sums = (&block * &block).f_sum_dim_intlist(1, false, Kind::Float)?;
            squares.extend(to_vec(&sums)?);
        }
        for (&square, row) in squares.iter().zip(rows) {
            if !(4.0 * square).is_finite() || (metric == Metric::Cosine && square == 0.0) {
                return Err(Error::failed(format!("{what}: features of row {row}: their norm is {}", square.sqrt())));
            }
        }
        if metric == Metric::Cosine {
            let norms = Tensor::from_slice(&squares).sqrt().view([-1, 1]).to_device(features.device());
            features = features.f_div(&norms)?;
            squares.fill(1.0);
        }
        Ok(Points { one_dnn: has_one_dnn(&features), features, squares })
    }

    /// All of a, then all of b. Error: other numbers of features, or another device.
    pub fn join(a: &Points, b: &Points) -> Result<Points> {
        a.check_like(b)?;
        let features = Tensor::f_cat(&[&a.features, &b.features], 0)?;
        Ok(Points { features, squares: [&a.squares[..], &b.squares].concat(), one_dnn: a.one_dnn })
    }

    /// The points of the range; memory is shared.
    pub fn part(&self, range: Range<usize>) -> Result<Points> {
        let features = self.features.f_narrow(0, range.start as i64, range.len() as i64)?;
        Ok(Points { features, squares: self.squares[range].to_vec(), one_dnn: self.one_dnn })
    }

    /// The same in the CPU's memory; those that are there already are not copied.
    pub fn on_cpu(&self) -> Points {
        let features = self.features.to_device(Device::Cpu);
        Points { features, squares: self.squares.clone(), one_dnn: self.one_dnn }
    }

    pub fn count(&self) -> usize {
        self.squares.len()
    }

    /// Error: other numbers of features, or another device.
    pub fn check_like(&self, other: &Points) -> Result<()> {
        let of = |points: &Points| (points.features.size()[1], points.features.device());
        let ((a, on), (b, other_on)) = (of(self), of(other));
        if (a, on) == (b, other_on) {
            return Ok(());
        }
        Err(Error::failed(format!("{a} features per query on {on:?}, but {b} per gallery image on {other_on:?}")))
    }

    /// Distances from each of `rows` to all of `to`: [rows, to]. How sums are rounded depends on the range, so callers take
    /// the ranges that `blocks` gives, which depend on neither ranks nor threads.
    pub fn distances(&self, rows: Range<usize>, to: &Points) -> Result<Vec<f32>> {
        let features = self.features.f_narrow(0, rows.start as i64, rows.len() as i64)?;
        let mut distances = vec![0f32; rows.len() * to.count()];
        let mut start = 0;
        let piece = if to.features.device() == Device::Cpu { PIECE } else { to.count() as i64 };
        for piece in to.features.f_split(piece, 0)? {
            let scores = product(&piece, &features, self.one_dnn)?.tr().f_contiguous()?.f_to_device(Device::Cpu)?;
            // SAFETY: a contiguous CPU tensor of f32 that outlives the slice and that nothing else refers to
            let scores = unsafe { std::slice::from_raw_parts(scores.data_ptr() as *const f32, scores.numel()) };
            let columns = start..start + piece.size()[0] as usize;
            let into = distances.chunks_exact_mut(to.count());
            for ((row, into), scores) in rows.clone().zip(into).zip(scores.chunks_exact(columns.len())) {
                let square = self.squares[row];
                let others = scores.iter().zip(&to.squares[columns.clone()]);
                for (distance, (score, other)) in into[columns.clone()].iter_mut().zip(others) {
                    *distance = square + other - 2.0 * score;
                }
            }
            start = columns.end;
        }
        Ok(distances)
    }

    /// The distance between two rows. Panics unless the features are `on_cpu`.
    pub fn distance(&self, i: usize, j: usize) -> f32 {
        assert!(self.features.device() == Device::Cpu && self.features.is_contiguous());
        let length = self.features.size()[1] as usize;
        let row = |i: usize| {
            assert!(i < self.count());
            // SAFETY: row i of a contiguous CPU tensor [count, length] of f32 that nothing writes to
            unsafe { std::slice::from_raw_parts((self.features.data_ptr() as *const f32).add(i * length), length) }
        };
        self.squares[i] + self.squares[j] - 2.0 * inner_product(row(i), row(j))
    }
}

/// Summed in lanes, so that the compiler can vectorise it.
fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
