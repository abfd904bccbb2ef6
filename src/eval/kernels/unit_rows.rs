//! Features as unit vectors: their inner products are cosines.

use std::ops::Range;
use std::sync::Mutex;

use tch::{Device, Kind, Tensor};

use super::inner_products::{check_matrix, to_vec};
use crate::error::{Error, Result};
use crate::tensor_memory::numbers_mut;

/// features [N, D] f32 -> [N, D], rows divided by their Euclidean norms. A row whose norm is zero or not finite is an
/// error that names it, counted from `first`.
pub fn normalise_rows(features: &Tensor, first: usize) -> Result<Tensor> {
    divided(features)?.map_err(|(row, norm)| no_direction(first + row, norm))
}

/// Rows that are read and divided at once: they are still in a cache then.
const ROWS_AT_ONCE: usize = 128;

/// The rows of a range of items, [n, dimensions] f32, that `read` writes, divided by their norms: the bits of `normalise_rows`, by so
/// many threads. Errors: those of `read` and of `normalise_rows`.
pub fn unit_rows_of(
    range: Range<usize>,
    dimensions: usize,
    threads: usize,
    read: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
) -> Result<Tensor> {
    let rows = Tensor::empty([range.len() as i64, dimensions as i64], (Kind::Float, Device::Cpu));
    // SAFETY: a new tensor; its parts are written by one thread each while it is not used otherwise
    let values = unsafe { numbers_mut(&rows) };
    let next = Mutex::new(values.chunks_mut(ROWS_AT_ONCE * dimensions).enumerate());
    let work = |rows: Tensor| {
        let mut failed = None;
        loop {
            let Some((part, values)) = next.lock().expect("no thread panics").next() else { return failed };
            let (start, count) = (part * ROWS_AT_ONCE, values.len() / dimensions);
            let first = range.start + start;
            let divide = || {
                let mut part = rows.narrow(0, start as i64, count as i64);
                let norms = norms(&part)?.map_err(|(row, norm)| no_direction(first + row, norm))?;
                let _ = part.f_divide_(&norms)?;
                Ok(())
            };
            if let Err(why) = read(first..first + count, values).and_then(|()| divide()) {
                failed.get_or_insert((part, why));
            }
        }
    };
    let threads = threads.min(range.len().div_ceil(ROWS_AT_ONCE));
    let failures: Vec<(usize, Error)> = if threads <= 1 {
        work(rows.shallow_clone()).into_iter().collect()
    } else {
        std::thread::scope(|scope| {
            let start = |_| {
                let (work, rows) = (&work, rows.shallow_clone());
                scope.spawn(move || work(rows))
            };
            let running: Vec<_> = (0..threads).map(start).collect();
            running.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        })
    };
    match failures.into_iter().min_by_key(|(part, _)| *part) {
        Some((_, why)) => Err(why),
        None => Ok(rows),
    }
}

/// Does the same with features that a network has just made. `None`: a row's norm is zero or not finite, which tells that
/// the network has failed.
pub fn unit_rows(features: &Tensor) -> Result<Option<Tensor>> {
    Ok(divided(features)?.ok())
}

fn no_direction(row: usize, norm: f32) -> Error {
    Error::failed(format!("features of row {row}: their norm is {norm}"))
}

/// The unit rows, or the number and the norm of the first row that has no direction.
fn divided(features: &Tensor) -> Result<std::result::Result<Tensor, (usize, f32)>> {
    check_matrix(features, "features")?;
    Ok(norms(features)?.map(|norms| features / norms))
}

/// [N, 1], or the number and the norm of the first row that has no direction.
fn norms(features: &Tensor) -> Result<std::result::Result<Tensor, (usize, f32)>> {
    let norms = features.norm_scalaropt_dim(2, [1i64].as_slice(), true);
    let bad = to_vec(&norms)?.into_iter().enumerate().find(|(_, norm)| !norm.is_finite() || *norm == 0.0);
    Ok(bad.map_or(Ok(norms), Err))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_read_in_parts_have_the_same_bits_and_errors_for_any_number_of_threads() {
        let rows = Tensor::randn([1000, 37], (Kind::Float, Device::Cpu));
        let values = to_vec(&rows).unwrap();
        let expected = to_vec(&normalise_rows(&rows, 0).unwrap().narrow(0, 300, 700)).unwrap();
        for threads in [1, 2, 5] {
            let read = |range: Range<usize>, out: &mut [f32]| {
                out.copy_from_slice(&values[37 * range.start..37 * range.end]);
                Ok(())
            };
            assert_eq!(to_vec(&unit_rows_of(300..1000, 37, threads, read).unwrap()).unwrap(), expected);
            let broken = |range: Range<usize>, out: &mut [f32]| {
                out.fill(1.0);
                (0..)
                    .zip(range)
                    .filter(|(_, row)| [990, 567].contains(row))
                    .for_each(|(i, _)| out[37 * i..37 * (i + 1)].fill(0.0));
                Ok(())
            };
            let error = unit_rows_of(300..1000, 37, threads, broken).unwrap_err().to_string();
            assert_eq!(error, "features of row 567: their norm is 0");
        }
    }

    #[test]
    fn only_rows_without_a_direction_give_no_unit_rows() {
        let rows = Tensor::from_slice(&[3f32, 4., 0., 2.]).view([2, 2]);
        let unit = Vec::<f32>::try_from(unit_rows(&rows).unwrap().unwrap().view(-1)).unwrap();
        assert_eq!(unit, [0.6, 0.8, 0., 1.]);
        for bad in [0.0, f64::NAN, f64::INFINITY] {
            let _ = rows.get(1).fill_(bad);
            assert!(unit_rows(&rows).unwrap().is_none());
            assert!(normalise_rows(&rows, 5).unwrap_err().to_string().contains("row 6"));
        }
        assert!(unit_rows(&rows.to_kind(Kind::Double)).is_err(), "an error that says nothing about the network");
    }
}
