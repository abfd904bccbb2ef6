//! Where the features of a benchmark's images come from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Tensor};

use super::{Embedder, Tolerant};
use crate::comm::Comm;
use crate::data::{Embeddings, EncodedImages, Images, PlainFeatures, decode};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::read_feature;
use crate::eval::{normalise_rows, unit_rows_of};
use crate::train::EVALUATION_BATCH;

/// Features of images, in an order. What turns out to be broken is noted, and another direction stands for it.
pub struct FeatureSource<'a> {
    from: From<'a>,
    broken: BTreeMap<usize, String>,
}

enum From<'a> {
    Images(&'a mut Embedder, Arc<Tolerant>),
    /// Files, threads, and how many numbers a feature has.
    Devkit(Vec<PathBuf>, usize, Option<usize>),
    /// And threads.
    Embeddings(Embeddings, usize),
    Plain(PlainFeatures),
}

/// Whether a file is a whole image of those that `prepare` reads, by its beginning and end. Error: why not.
pub fn look_at_image(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    decode::looks_whole(&bytes).map_err(|why| Error::file(path, why))
}

/// Whether a file can be a feature of the devkit, by its size. Error: why not.
pub fn look_at_feature(path: &Path) -> Result<()> {
    const SMALLEST: u64 = 16 + 4;
    let length = std::fs::metadata(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?.len();
    if length < SMALLEST { read_feature(path).map(|_| ()) } else { Ok(()) }
}

impl<'a> FeatureSource<'a> {
    /// Images that are embedded now.
    pub fn images(embedder: &'a mut Embedder, images: EncodedImages) -> FeatureSource<'a> {
        FeatureSource::new(From::Images(embedder, Arc::new(Tolerant::new(images))))
    }

    /// The devkit's files, one for each image; read by so many threads. `dimensions` they have to have, if that is known.
    pub fn devkit(paths: Vec<PathBuf>, threads: usize, dimensions: Option<usize>) -> FeatureSource<'a> {
        FeatureSource::new(From::Devkit(paths, threads, dimensions))
    }

    /// Written by `amlfs export embeddings`; read by so many threads.
    pub fn embeddings(embeddings: Embeddings, threads: usize) -> FeatureSource<'a> {
        FeatureSource::new(From::Embeddings(embeddings, threads))
    }

    /// Of another program.
    pub fn plain(features: PlainFeatures) -> FeatureSource<'a> {
        FeatureSource::new(From::Plain(features))
    }

    fn new(from: From<'a>) -> FeatureSource<'a> {
        FeatureSource { from, broken: BTreeMap::new() }
    }

    pub fn count(&self) -> usize {
        match &self.from {
            From::Images(_, images) => images.count(),
            From::Devkit(paths, ..) => paths.len(),
            From::Embeddings(embeddings, _) => embeddings.count(),
            From::Plain(features) => features.count(),
        }
    }

    /// Those that were read so far and are broken, and why.
    pub fn broken(&self) -> &BTreeMap<usize, String> {
        &self.broken
    }

    /// Unit features of some of the images: [n, D] f32. Errors: a damaged or zero row of a file of many; no feature at all to
    /// tell D by.
    pub fn read(&mut self, range: Range<usize>) -> Result<Tensor> {
        match &mut self.from {
            From::Images(embedder, images) => {
                let as_images: Arc<dyn Images> = images.clone();
                let rows = embedder.embed(&as_images, range)?;
                self.broken.append(&mut images.broken());
                Ok(rows)
            }
            From::Devkit(paths, threads, dimensions) => {
                let found = read_files(&paths[range.clone()], *threads);
                let mut rows = Vec::with_capacity(found.len());
                for (index, found) in range.zip(found) {
                    let length = *dimensions;
                    rows.push(found.and_then(|row| usable(row, length, &paths[index])));
                    match rows.last() {
                        Some(Ok(row)) => *dimensions = Some(row.len()),
                        Some(Err(why)) => drop(self.broken.insert(index, why.to_string())),
                        None => unreachable!("a row was pushed"),
                    }
                }
                let Some(length) = *dimensions else {
                    return Err(rows
                        .into_iter()
                        .find_map(|row| row.err())
                        .unwrap_or_else(|| Error::failed("no features")));
                };
                let mut direction = vec![0f32; length];
                direction[0] = 1.0;
                let values: Vec<f32> =
                    rows.into_iter().flat_map(|row| row.unwrap_or_else(|_| direction.clone())).collect();
                normalise_rows(&Tensor::from_slice(&values).view([-1, length as i64]), 0)
            }
            From::Embeddings(embeddings, threads) => {
                let read = |rows: Range<usize>, values: &mut [f32]| embeddings.read(rows, values);
                unit_rows_of(range, embeddings.dimensions(), *threads, read)
            }
            From::Plain(plain) => {
                let rows = plain.features.narrow(0, range.start as i64, range.len() as i64);
                normalise_rows(&rows, range.start).map_err(|why| Error::file(plain.path(), why))
            }
        }
    }
}

/// The row if it has that many numbers and a direction.
fn usable(row: Vec<f32>, length: Option<usize>, path: &Path) -> Result<Vec<f32>> {
    match length {
        Some(length) if length != row.len() => {
            Err(Error::file(path, format!("{} features, but others have {length}", row.len())))
        }
        _ if row.iter().all(|&value| value == 0.0) => Err(Error::file(path, "all its numbers are 0")),
        _ => Ok(row),
    }
}

/// Features of the first `count` items on all ranks, each of which reads a share: [count, D] f32 on the readers' device.
/// Shares are whole batches of the embedder, so that no bit depends on the number of ranks.
pub fn read_shared(comm: &Comm, count: usize, mut read: impl FnMut(Range<usize>) -> Result<Tensor>) -> Result<Tensor> {
    let batches = count.div_ceil(EVALUATION_BATCH);
    let start = |rank: usize| (batches * rank / comm.size() * EVALUATION_BATCH).min(count);
    let share = |rank: usize| start(rank)..start(rank + 1);
    let mine = match share(comm.rank()) {
        share if share.is_empty() => Ok(None),
        share => read(share).map(Some),
    };
    let mine = comm.agree(mine)?;
    let length = comm.all_max(mine.as_ref().map_or(0, |rows| rows.size()[1] as u64)) as usize;
    let parts: Vec<Tensor> = (0..comm.size())
        .map(|rank| {
            let rows = share(rank).len();
            let mut values = vec![0f32; rows * length];
            if let Some(mine) = mine.as_ref().filter(|_| rank == comm.rank()) {
                mine.to_device(Device::Cpu).copy_data(&mut values, rows * length);
            }
            comm.broadcast(&mut values, rank);
            Tensor::from_slice(&values).view([rows as i64, length as i64])
        })
        .collect();
    Ok(Tensor::cat(&parts, 0).to_device(mine.map_or(Device::Cpu, |rows| rows.device())))
}

fn read_files(paths: &[PathBuf], threads: usize) -> Vec<Result<Vec<f32>>> {
    let share = paths.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = paths
            .chunks(share)
            .map(|paths| scope.spawn(|| paths.iter().map(|path| read_feature(path)).collect::<Vec<_>>()))
            .collect();
        readers.into_iter().flat_map(|reader| reader.join().expect("no panic in a reader")).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::megaface::devkit::write_feature;

    #[test]
    fn feature_files_become_unit_rows_in_order_and_broken_ones_are_told_for_any_number_of_threads() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..7).map(|i| directory.path().join(format!("{i}_a.bin"))).collect();
        for (i, path) in paths.iter().enumerate() {
            write_feature(path, &[3.0 * (i + 1) as f32, 4.0 * (i + 1) as f32 * if i % 2 == 0 { 1.0 } else { -1.0 }])
                .unwrap();
        }
        for threads in [1, 3, 20] {
            let rows = FeatureSource::devkit(paths.clone(), threads, None).read(1..7).unwrap();
            let rows = Vec::<Vec<f32>>::try_from(rows).unwrap();
            assert_eq!(rows.len(), 6);
            for (i, row) in rows.iter().enumerate() {
                assert!((row[0] - 0.6).abs() < 1e-6 && (row[1].abs() - 0.8).abs() < 1e-6, "{row:?}");
                assert_eq!(row[1] < 0.0, i % 2 == 0);
            }
        }
        write_feature(&paths[4], &[1.0, 2.0, 3.0]).unwrap();
        write_feature(&paths[2], &[0.0, 0.0]).unwrap();
        std::fs::remove_file(&paths[0]).unwrap();
        let mut source = FeatureSource::devkit(paths.clone(), 2, None);
        let rows = Vec::<Vec<f32>>::try_from(source.read(0..7).unwrap()).unwrap();
        assert_eq!((rows.len(), &rows[2][..]), (7, &[1.0, 0.0][..]));
        let broken: Vec<(usize, &str)> = source.broken().iter().map(|(&i, why)| (i, &why[..])).collect();
        assert_eq!(broken.iter().map(|&(i, _)| i).collect::<Vec<_>>(), [0, 2, 4]);
        assert!(broken[0].1.contains("0_a.bin: can't be read"), "{broken:?}");
        assert!(broken[1].1.ends_with("2_a.bin: all its numbers are 0"), "{broken:?}");
        assert!(broken[2].1.ends_with("4_a.bin: 3 features, but others have 2"), "{broken:?}");
        assert!(FeatureSource::devkit(paths, 2, None).read(0..1).is_err(), "nothing tells the length");
    }
}
