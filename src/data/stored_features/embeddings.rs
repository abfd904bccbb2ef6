//! Embeddings of a set of images: one HDF5 file with a matrix, names and labels (docs/format.md). Readers map the matrix
//! into memory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use tch::Tensor;

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, column, dataset, texts, trailer, write_column, write_text, write_texts};
use crate::mapped_file::MappedFile;

const FILETYPE: &str = "amlfs embeddings";
/// Major and minor number of the format, not of the program.
const VERSION: [i32; 2] = [1, 0];
const NUMBER: usize = size_of::<f32>();

/// A file of embeddings [N, D] f32. Names stay in the file until they are asked for.
pub struct Embeddings {
    path: PathBuf,
    matrix: MappedFile,
    dimensions: usize,
    crc32: Vec<u32>,
    labels: Vec<u32>,
}

impl Embeddings {
    /// Errors: not there, truncated, damaged, another program's file, another major version.
    pub fn open(path: &Path) -> Result<Embeddings> {
        Embeddings::open_file(path).map_err(|Cause(why)| Error::file(path, why))
    }

    fn open_file(path: &Path) -> Outcome<Embeddings> {
        let file = File::open(path)?;
        let range = trailer::check(&file)?;
        let hdf5 = hdf5_file::open(path)?;
        hdf5_file::check_kind(&hdf5, FILETYPE, VERSION, "a file of embeddings")?;
        let (crc32, labels) = (column(&hdf5, "crc32")?, column(&hdf5, "label")?);
        let matrix = dataset(&hdf5, "embedding")?;
        let (rows, dimensions) = match matrix.shape()[..] {
            [rows, dimensions] if rows > 0 && dimensions > 0 => (rows, dimensions),
            _ => return Err("it has no embeddings".into()),
        };
        let length = rows.checked_mul(dimensions).and_then(|count| count.checked_mul(NUMBER));
        let here = matrix.dtype()?.is::<f32>() && matrix.offset() == Some(range.start);
        if !here || length.map(|length| length as u64) != Some(range.end - range.start) {
            return Err("damaged: its embeddings are not where its trailer says".into());
        }
        let columns: [&Vec<u32>; 2] = [&crc32, &labels];
        if columns.iter().any(|column| column.len() != rows) || dataset(&hdf5, "name")?.size() != rows {
            return Err(format!("damaged: its columns do not have {rows} rows").into());
        }
        let matrix = MappedFile::range(path, &file, &range)?;
        Ok(Embeddings { path: path.to_owned(), matrix, dimensions, crc32, labels })
    }

    /// Whether the file ends as ours do.
    pub fn are_in(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| trailer::is_there(&file))
    }

    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// [N]: equal for images of one identity.
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Paths of the images below the directory that was embedded.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = || texts(&hdf5_file::open(&self.path)?, "name");
        names().map_err(|Cause(why)| Error::file(&self.path, why))
    }

    /// D.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Some rows, into `values` [n, D]. Error: a damaged row.
    pub fn read(&self, range: Range<usize>, values: &mut [f32]) -> Result<()> {
        let length = self.dimensions * NUMBER;
        let bytes = &self.matrix[range.start * length..range.end * length];
        let rows = bytes.chunks_exact(length).zip(values.chunks_exact_mut(self.dimensions));
        for (row, (bytes, values)) in range.zip(rows) {
            if crc32fast::hash(bytes) != self.crc32[row] {
                return Err(Error::file(&self.path, format!("damaged: row {row} does not match its checksum")));
            }
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}

/// Writes a file of embeddings row by row, in bounded memory. Dropped unfinished, it leaves nothing.
pub struct EmbeddingsWriter {
    path: PathBuf,
    /// The rows, in a file beside `path` that has no name any more.
    bytes: BufWriter<File>,
    dimensions: usize,
    crc32: Vec<u32>,
}

impl EmbeddingsWriter {
    /// Errors: `path` exists, or nothing can be written beside it.
    pub fn new(path: &Path) -> Result<EmbeddingsWriter> {
        atomic_file::refuse_existing(path)?;
        let part = atomic_file::with_suffix(path, ".part");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&part);
        // without a name it goes with the program, however that ends
        let file = file.and_then(|file| fs::remove_file(&part).map(|()| file));
        let file = file.map_err(|why| atomic_file::cannot_write(path, why))?;
        Ok(EmbeddingsWriter { path: path.to_owned(), bytes: BufWriter::new(file), dimensions: 0, crc32: Vec::new() })
    }

    /// Appends rows [n, D] f32.
    pub fn push(&mut self, rows: &Tensor) -> Result<()> {
        self.dimensions = rows.size()[1] as usize;
        for row in Vec::<Vec<f32>>::try_from(rows.to_device(tch::Device::Cpu))? {
            let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.crc32.push(crc32fast::hash(&bytes));
            self.bytes.write_all(&bytes).map_err(|why| cannot_write(&self.path, why))?;
        }
        Ok(())
    }

    /// labels [N] below the number of identities; names [N]; `source` says for people what was embedded.
    pub fn finish(self, labels: &[u32], names: &[String], identities: &[String], source: &str) -> Result<()> {
        let EmbeddingsWriter { path, bytes, dimensions, crc32 } = self;
        let written = atomic_file::write(&path, |temporary| -> Outcome<()> {
            let bytes = bytes.into_inner().map_err(|why| why.into_error())?;
            let file = hdf5_file::create(temporary)?;
            hdf5_file::write_kind(&file, FILETYPE, VERSION)?;
            write_text(&file, "amlfs_version", env!("CARGO_PKG_VERSION"))?;
            write_text(&file, "source", source)?;
            write_column(&file, "crc32", &crc32, "1", "CRC-32 of each embedding's bytes")?;
            write_column(&file, "label", labels, "1", "number of each image's identity")?;
            write_texts(&file, "name", names, "each image's path below the directory")?;
            write_texts(&file, "identity", identities, "name of each identity, by label")?;
            let shape = [crc32.len(), dimensions];
            let offset = hdf5_file::reserve::<f32>(&file, "embedding", &shape, "1", "unit embedding of each image")?;
            file.flush()?;
            file.close()?;
            let range = offset..offset + (shape[0] * shape[1] * NUMBER) as u64;
            let whole = 0..bytes.metadata()?.len();
            hdf5_file::fill(temporary, &range, &bytes, &[whole])?;
            trailer::seal(temporary, &range)?;
            Embeddings::open(temporary).map_err(|why| format!("reading it back failed: {why}"))?;
            Ok(())
        });
        written.map_err(|Cause(why)| cannot_write(&path, why))
    }
}

fn cannot_write(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::file(path, format!("can't write the embeddings: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn file(directory: &Path) -> PathBuf {
        let path = directory.join("e.h5");
        let mut writer = EmbeddingsWriter::new(&path).unwrap();
        let rows = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([6, 4]);
        writer.push(&rows.narrow(0, 0, 2)).unwrap();
        writer.push(&rows.narrow(0, 2, 4)).unwrap();
        let names: Vec<String> = (0..6).map(|i| format!("{}/{i}.png", i / 2)).collect();
        writer.finish(&[0, 0, 1, 1, 2, 2], &names, &["0".into(), "1".into(), "2".into()], "here").unwrap();
        path
    }

    #[test]
    fn rows_names_and_labels_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
        let found = Embeddings::open(&path).unwrap();
        assert_eq!((found.count(), found.labels()), (6, &[0, 0, 1, 1, 2, 2][..]));
        let mut rows = [0.0; 8];
        found.read(1..3, &mut rows).unwrap();
        assert_eq!(rows, [4., 5., 6., 7., 8., 9., 10., 11.]);
        assert_eq!(found.names().unwrap()[5], "2/5.png");
        assert!(EmbeddingsWriter::new(&path).is_err());
    }

    #[test]
    fn a_writer_that_does_not_finish_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("e.h5");
        let mut writer = EmbeddingsWriter::new(&path).unwrap();
        writer.push(&Tensor::ones([2, 4], (Kind::Float, Device::Cpu))).unwrap();
        let error =
            writer.finish(&[0, 0], &["a\0b".into(), "c".into()], &["0".into()], "here").unwrap_err().to_string();
        assert!(error.contains("e.h5: can't write the embeddings: the name \"a\\0b\" contains a NUL"), "{error}");
        drop(EmbeddingsWriter::new(&path).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(directory.path());
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            fs::write(&path, &bad).unwrap();
            assert!(Embeddings::open(&path).and_then(|found| found.read(0..6, &mut [0.0; 24])).is_err(), "byte {at}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(Embeddings::open(&path).is_err(), "length {length}");
        }
    }
}
