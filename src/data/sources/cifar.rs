//! CIFAR-10 in its official binary version: records of one label byte and 3072 pixel bytes (red plane, green, blue).

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::data::Images;
use crate::error::{Error, Result};

const PLANE: usize = 32 * 32;
const RECORD: usize = 1 + 3 * PLANE;

/// Batch files mapped into memory: one page cache for all ranks of a node.
pub struct Cifar10 {
    batches: Vec<Mmap>,
    /// Number of the first image of each batch, and the total.
    starts: Vec<usize>,
}

impl Cifar10 {
    pub const CLASSES: usize = 10;

    /// (training, test) from `directory` or its `cifar-10-batches-bin`. Errors: a batch file that is missing, not a
    /// whole number of records, or holds a label above 9.
    pub fn open(directory: &Path) -> Result<(Cifar10, Cifar10)> {
        let inner = directory.join("cifar-10-batches-bin");
        let directory = if inner.is_dir() { &inner } else { directory };
        let training: Vec<_> = (1..=5).map(|i| directory.join(format!("data_batch_{i}.bin"))).collect();
        Ok((Cifar10::map(&training)?, Cifar10::map(&[directory.join("test_batch.bin")])?))
    }

    fn map(paths: &[PathBuf]) -> Result<Cifar10> {
        let mut data = Cifar10 { batches: Vec::new(), starts: vec![0] };
        for path in paths {
            let file = File::open(path).map_err(|why| Error::file(path, format!("can't be opened: {why}")))?;
            let length = file.metadata().map_err(|why| Error::file(path, why))?.len();
            if length == 0 || length % RECORD as u64 != 0 {
                let why = format!(
                    "{length} bytes are no whole number of {RECORD}-byte CIFAR-10 records; the file is truncated or not CIFAR-10"
                );
                return Err(Error::file(path, why));
            }
            // SAFETY: read-only; data sets do not change under a running job, as for every reader of them.
            let batch =
                unsafe { Mmap::map(&file) }.map_err(|why| Error::file(path, format!("can't be mapped: {why}")))?;
            for (number, record) in batch.chunks_exact(RECORD).enumerate() {
                if record[0] as usize >= Cifar10::CLASSES {
                    return Err(Error::file(
                        path,
                        format!("record {number} has label {}; CIFAR-10's are 0 to 9", record[0]),
                    ));
                }
            }
            data.starts.push(data.starts[data.starts.len() - 1] + batch.len() / RECORD);
            data.batches.push(batch);
        }
        Ok(data)
    }

    fn record(&self, index: usize) -> &[u8] {
        let batch = self.starts.partition_point(|&start| start <= index) - 1;
        &self.batches[batch][(index - self.starts[batch]) * RECORD..][..RECORD]
    }
}

impl Images for Cifar10 {
    fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn size(&self) -> (usize, usize) {
        (32, 32)
    }

    fn label(&self, index: usize) -> u32 {
        self.record(index)[0] as u32
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        let (red, rest) = self.record(index)[1..].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[red[i], green[i], blue[i]]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, labels: &[u8]) {
        let records: Vec<u8> = labels
            .iter()
            .flat_map(|&label| {
                [vec![label], vec![label + 10; PLANE], vec![label + 20; PLANE], vec![label + 30; PLANE]].concat()
            })
            .collect();
        std::fs::write(directory.join(name), records).unwrap();
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for i in 1..=5 {
            write(directory.path(), &format!("data_batch_{i}.bin"), &[i, 9]);
        }
        write(directory.path(), "test_batch.bin", &[3]);
        directory
    }

    #[test]
    fn images_are_read_across_batches_as_rgb() {
        let directory = directory();
        let (training, test) = Cifar10::open(directory.path()).unwrap();
        assert_eq!((training.count(), test.count()), (10, 1));
        assert_eq!((0..10).map(|i| training.label(i)).collect::<Vec<_>>(), [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
        let mut pixels = vec![0; 3 * PLANE];
        training.read(4, &mut pixels).unwrap();
        assert_eq!((&pixels[..3], &pixels[3 * PLANE - 3..]), (&[13, 23, 33][..], &[13, 23, 33][..]));
    }

    #[test]
    fn bad_files_are_named() {
        let directory = directory();
        let error = || Cifar10::open(directory.path()).err().unwrap().to_string();
        write(directory.path(), "data_batch_2.bin", &[2, 11]);
        assert!(error().ends_with("data_batch_2.bin: record 1 has label 11; CIFAR-10's are 0 to 9"));
        std::fs::write(directory.path().join("data_batch_2.bin"), vec![0; 5000]).unwrap();
        assert!(error().contains("data_batch_2.bin: 5000 bytes are no whole number"));
        std::fs::remove_file(directory.path().join("test_batch.bin")).unwrap();
        write(directory.path(), "data_batch_2.bin", &[2]);
        assert!(error().contains("test_batch.bin: can't be opened"));
    }
}
