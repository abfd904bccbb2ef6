//! Where the features of a benchmark's images come from.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::Embedder;
use crate::comm::Comm;
use crate::data::{Embeddings, Images};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::read_feature;
use crate::eval::normalise_rows;
use crate::train::EVALUATION_BATCH;

pub enum FeatureSource<'a> {
    /// Embedded now.
    Images(&'a mut Embedder, Arc<dyn Images>),
    /// The devkit's files, one for each image; read by so many threads.
    Devkit(Vec<PathBuf>, usize),
    /// Written by `amlfs export embeddings`.
    File(Embeddings),
}

impl FeatureSource<'_> {
    pub fn count(&self) -> usize {
        match self {
            FeatureSource::Images(_, images) => images.count(),
            FeatureSource::Devkit(paths, _) => paths.len(),
            FeatureSource::File(embeddings) => embeddings.count(),
        }
    }

    /// Unit features of some of the images: [n, D] f32. Errors: a missing, damaged or zero feature; features of several
    /// lengths.
    pub fn read(&mut self, range: Range<usize>) -> Result<Tensor> {
        match self {
            FeatureSource::Images(embedder, images) => embedder.embed(images, range),
            FeatureSource::Devkit(paths, threads) => {
                normalise_rows(&read_files(&paths[range.clone()], *threads)?, range.start)
            }
            FeatureSource::File(embeddings) => normalise_rows(&embeddings.rows(range.clone())?, range.start),
        }
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
            comm.broadcast_f32(&mut values, rank);
            Tensor::from_slice(&values).view([rows as i64, length as i64])
        })
        .collect();
    Ok(Tensor::cat(&parts, 0).to_device(mine.map_or(Device::Cpu, |rows| rows.device())))
}

fn read_files(paths: &[PathBuf], threads: usize) -> Result<Tensor> {
    let share = paths.len().div_ceil(threads).max(1);
    let parts = std::thread::scope(|scope| {
        let readers: Vec<_> = paths
            .chunks(share)
            .map(|paths| scope.spawn(|| paths.iter().map(|path| read_feature(path)).collect::<Result<Vec<_>>>()))
            .collect();
        readers.into_iter().map(|reader| reader.join().expect("no panic in a reader")).collect::<Result<Vec<_>>>()
    })?;
    let rows = parts.concat();
    let length = rows.first().map_or(0, Vec::len);
    if let Some(index) = rows.iter().position(|row| row.len() != length) {
        let why = format!("{} features, but {} has {length}", rows[index].len(), paths[0].display());
        return Err(Error::file(&paths[index], why));
    }
    Ok(Tensor::from_slice(&rows.concat()).view([rows.len() as i64, length as i64]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::megaface::devkit::write_feature;

    #[test]
    fn feature_files_become_unit_rows_in_order_for_any_number_of_threads() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..7).map(|i| directory.path().join(format!("{i}_a.bin"))).collect();
        for (i, path) in paths.iter().enumerate() {
            write_feature(path, &[3.0 * (i + 1) as f32, 4.0 * (i + 1) as f32 * if i % 2 == 0 { 1.0 } else { -1.0 }])
                .unwrap();
        }
        for threads in [1, 3, 20] {
            let rows = FeatureSource::Devkit(paths.clone(), threads).read(1..7).unwrap();
            let rows = Vec::<Vec<f32>>::try_from(rows).unwrap();
            assert_eq!(rows.len(), 6);
            for (i, row) in rows.iter().enumerate() {
                assert!((row[0] - 0.6).abs() < 1e-6 && (row[1].abs() - 0.8).abs() < 1e-6, "{row:?}");
                assert_eq!(row[1] < 0.0, i % 2 == 0);
            }
        }
        write_feature(&paths[4], &[1.0, 2.0, 3.0]).unwrap();
        let error = FeatureSource::Devkit(paths.clone(), 2).read(0..7).err().unwrap().to_string();
        assert!(error.ends_with(&format!("4_a.bin: 3 features, but {} has 2", paths[0].display())), "{error}");
        write_feature(&paths[4], &[0.0, 0.0]).unwrap();
        let error = FeatureSource::Devkit(paths.clone(), 2).read(3..7).err().unwrap().to_string();
        assert!(error.contains("row 4"), "{error}");
    }
}
