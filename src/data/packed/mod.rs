//! Packed data sets: one HDF5 file with all images of a data set, encoded or raw (docs/format.md).
//!
//! The images are one contiguous range of bytes that readers map into memory: no HDF5 lock in the loader, one page cache
//! for all ranks of a node, no million small files on a cluster's file system.
//!
//! libhdf5 may crash on damaged metadata, so a trailer holds a checksum that is compared before libhdf5 opens the file.
//! The images have a CRC-32 each, compared whenever one is read.

#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};

use hdf5::types::VarLenUnicode;
use image::RgbImage;

use super::{Images, decode};
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, TEXTS, column, dataset, text, texts, trailer};
use crate::mapped_file::MappedFile;

pub use write::{Content, NameOf, write};

const FILETYPE: &str = "amlfs images";
/// Major and minor number of the format, not of the program.
const VERSION: [i32; 2] = [1, 2];

/// How images are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Store {
    /// RGB bytes [H, W, 3].
    Raw,
    /// JPEG files of the data set's size.
    Jpeg,
    /// Image files, each of its own size.
    #[value(skip)]
    Files,
}

impl Store {
    pub fn name(self) -> &'static str {
        match self {
            Store::Raw => "raw",
            Store::Jpeg => "jpeg",
            Store::Files => "files",
        }
    }

    pub fn from_name(name: &str) -> Option<Store> {
        [Store::Raw, Store::Jpeg, Store::Files].into_iter().find(|store| store.name() == name)
    }
}

/// Which part of a re-identification benchmark an image belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    Train = 0,
    Query = 1,
    Gallery = 2,
}

/// Which part of a classification data set an image belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    Train = 0,
    Validation = 1,
    Test = 2,
}

/// Camera and split of each image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CamerasAndSplits {
    pub cameras: Vec<u32>,
    pub splits: Vec<Split>,
}

/// A packed file. Names stay in the file until they are asked for.
pub struct Packed {
    path: PathBuf,
    /// (0, 0): each image has its own.
    size: (usize, usize),
    store: Store,
    input: Option<String>,
    bytes: MappedFile,
    /// Image `i` is `bytes[offsets[i]..offsets[i + 1]]`.
    offsets: Vec<u64>,
    crc32: Vec<u32>,
    labels: Vec<u32>,
    identities: Vec<String>,
    cameras_and_splits: Option<CamerasAndSplits>,
    subsets: Option<Vec<Subset>>,
}

impl Packed {
    /// Opens a packed file and checks everything but the images themselves.
    ///
    /// Errors (`Error::Failed`, with the path): not there, a directory, not HDF5, truncated, damaged, another program's file, another
    /// major version of the format, columns that contradict each other.
    pub fn open(path: &Path) -> Result<Packed> {
        Packed::refuse_directory(path, "faces")?;
        Packed::open_file(path).map_err(|Cause(text)| Error::file(path, text))
    }

    /// `kind` is what packs it: faces, reid or images.
    pub(super) fn refuse_directory(path: &Path, kind: &str) -> Result<()> {
        if !path.is_dir() {
            return Ok(());
        }
        // without a slash at its end
        let tree = path.components().as_path().display();
        Err(Error::file(path, format!("a directory; pack it first: amlfs prepare {kind} {tree} --out {kind}.h5")))
    }

    fn open_file(path: &Path) -> Outcome<Packed> {
        let file = File::open(path)?;
        let range = trailer::check(&file)?;
        let hdf5 = hdf5_file::open(path)?;
        hdf5_file::check_kind(&hdf5, FILETYPE, VERSION, "a packed data set")?;

        let name = text(&hdf5, "store")?;
        let store = Store::from_name(&name).ok_or_else(|| format!("this amlfs can't read images stored as {name}"))?;
        let side = |name| -> Outcome<usize> {
            let attribute = hdf5.attr(name).map_err(|_| format!("damaged: it has no attribute {name}"))?;
            // more would be no image, and could overflow
            match (attribute.read_scalar::<u64>()?, store) {
                (0, Store::Files) => Ok(0),
                (side @ 1..=0xFFFF, Store::Raw | Store::Jpeg) => Ok(side as usize),
                (side, _) => Err(format!("damaged: its {name} is {side}").into()),
            }
        };

        let dataset = dataset(&hdf5, "bytes")?;
        let here = dataset.dtype()?.is::<u8>() && dataset.offset() == Some(range.start);
        if !here || dataset.size() as u64 != range.end - range.start {
            return Err("damaged: its images are not where its trailer says".into());
        }
        let packed = Packed {
            bytes: MappedFile::range(path, &file, &range)?,
            path: path.to_owned(),
            size: (side("height")?, side("width")?),
            store,
            input: text(&hdf5, "input").ok(),
            offsets: column(&hdf5, "offsets")?,
            crc32: column(&hdf5, "crc32")?,
            labels: column(&hdf5, "label")?,
            identities: texts(&hdf5, "identity")?,
            cameras_and_splits: cameras_and_splits(&hdf5)?,
            subsets: subsets(&hdf5)?,
        };
        packed.check_columns(self::dataset(&hdf5, "name")?.size())?;
        Ok(packed)
    }

    fn check_columns(&self, names: usize) -> Outcome<()> {
        let count = self.labels.len();
        if count == 0 {
            return Err("it has no images".into());
        }
        if self.offsets.len() != count + 1 || self.crc32.len() != count || names != count {
            return Err(format!(
                "damaged: {count} labels, but {} offsets, {} checksums and {names} names",
                self.offsets.len(),
                self.crc32.len()
            )
            .into());
        }
        if let Some(CamerasAndSplits { cameras, splits }) = &self.cameras_and_splits
            && (cameras.len() != count || splits.len() != count)
        {
            let (cameras, splits) = (cameras.len(), splits.len());
            return Err(format!("damaged: {count} labels, but {cameras} cameras and {splits} splits").into());
        }
        if let Some(subsets) = self.subsets.as_ref().filter(|subsets| subsets.len() != count) {
            return Err(format!("damaged: {count} labels, but {} subsets", subsets.len()).into());
        }
        let covered = self.offsets[0] == 0 && self.offsets[count] == self.bytes.len() as u64;
        if !covered || !self.offsets.is_sorted() {
            return Err("damaged: its offsets do not divide its bytes".into());
        }
        let raw = self.image_len() as u64;
        let wrong = |range: &[u64]| self.store == Store::Raw && range[1] - range[0] != raw;
        if let Some(index) = self.offsets.windows(2).position(wrong) {
            return Err(format!("damaged: image {index} has not {raw} bytes").into());
        }
        let classes = self.identities.len();
        if let Some(index) = self.labels.iter().position(|&label| label as usize >= classes) {
            let label = self.labels[index];
            return Err(format!("damaged: image {index} has label {label}, but there are {classes} identities").into());
        }
        Ok(())
    }

    pub fn store(&self) -> Store {
        self.store
    }

    /// All that the file was made from, as its writer put it; `None` before format 1.1.
    pub fn input(&self) -> Option<&str> {
        self.input.as_deref()
    }

    /// Names of the identities by label.
    pub fn identities(&self) -> &[String] {
        &self.identities
    }

    /// Cameras and splits, of people only.
    pub fn cameras_and_splits(&self) -> Option<&CamerasAndSplits> {
        self.cameras_and_splits.as_ref()
    }

    /// Subset of each image, of classification data only.
    pub fn subsets(&self) -> Option<&[Subset]> {
        self.subsets.as_deref()
    }

    /// Name of image `index`: its path below the source's root, or its record's key. Opens the file anew; all names at
    /// once are `names`.
    ///
    /// Errors: the file can't be read any more.
    pub fn name(&self, index: usize) -> Result<String> {
        let name = || -> Outcome<String> {
            let names = dataset(&hdf5_file::open(&self.path)?, "name")?;
            let name = names.read_slice_1d::<VarLenUnicode, _>(index..index + 1)?;
            Ok(name[0].as_str().to_owned())
        };
        name().map_err(|Cause(text)| Error::file(&self.path, text))
    }

    /// Names of all images; about 0.1 s and 20 MB for half a million.
    ///
    /// Errors: the file can't be read any more.
    pub fn names(&self) -> Result<Vec<String>> {
        let names = || texts(&hdf5_file::open(&self.path)?, "name");
        names().map_err(|Cause(text)| Error::file(&self.path, text))
    }

    /// Whether these are the names of all images; reads a part of them at a time.
    ///
    /// Errors: the file can't be read any more.
    fn are_named(&self, name: NameOf) -> Result<bool> {
        let same = || -> Outcome<bool> {
            let names = dataset(&hdf5_file::open(&self.path)?, "name")?;
            for start in (0..self.count()).step_by(TEXTS) {
                let part = names.read_slice_1d::<VarLenUnicode, _>(start..(start + TEXTS).min(self.count()))?;
                if part.iter().zip(start..).any(|(found, index)| found.as_str() != name(index)) {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        same().map_err(|Cause(text)| Error::file(&self.path, text))
    }

    /// [N]: CRC-32 and length of each image's bytes; equal for equal images.
    pub fn fingerprints(&self) -> impl Iterator<Item = (u32, u64)> {
        self.crc32.iter().zip(self.offsets.windows(2)).map(|(&crc32, ends)| (crc32, ends[1] - ends[0]))
    }

    /// Image `index` as it is stored: raw pixels or an image file.
    ///
    /// Errors: damaged (names file and image).
    pub fn stored(&self, index: usize) -> Result<&[u8]> {
        let bytes = &self.bytes[self.offsets[index] as usize..self.offsets[index + 1] as usize];
        match crc32fast::hash(bytes) == self.crc32[index] {
            true => Ok(bytes),
            false => Err(self.image_error(index, "damaged: it does not match its checksum")),
        }
    }

    /// Image `index` in its own size.
    ///
    /// Errors: damaged (names file and image).
    pub fn image(&self, index: usize) -> Result<RgbImage> {
        let stored = self.stored(index)?;
        match self.store {
            Store::Raw => RgbImage::from_raw(self.size.1 as u32, self.size.0 as u32, stored.to_vec())
                .ok_or_else(|| self.image_error(index, "has not as many bytes as pixels")),
            Store::Jpeg | Store::Files => decode::any(stored).map_err(|why| self.image_error(index, &why)),
        }
    }

    fn image_len(&self) -> usize {
        self.size.0 * self.size.1 * 3
    }

    pub(super) fn image_error(&self, index: usize, why: &str) -> Error {
        // without a name the number must do
        let name = self.name(index).map(|name| format!(" ({name})")).unwrap_or_default();
        Error::file(&self.path, format!("image {index}{name}: {why}"))
    }
}

/// Both columns or none.
fn cameras_and_splits(file: &hdf5::File) -> Outcome<Option<CamerasAndSplits>> {
    match (file.link_exists("camera"), file.link_exists("split")) {
        (false, false) => return Ok(None),
        (true, true) => {}
        _ => return Err("damaged: of the data sets camera and split it has one".into()),
    }
    let split = |number: &u8| match number {
        0 => Ok(Split::Train),
        1 => Ok(Split::Query),
        2 => Ok(Split::Gallery),
        _ => Err(format!("damaged: it has an image of split {number}; there are 0, 1 and 2")),
    };
    let splits = column::<u8>(file, "split")?.iter().map(split).collect::<std::result::Result<_, _>>()?;
    Ok(Some(CamerasAndSplits { cameras: column(file, "camera")?, splits }))
}

fn subsets(file: &hdf5::File) -> Outcome<Option<Vec<Subset>>> {
    if !file.link_exists("subset") {
        return Ok(None);
    }
    let subset = |number: &u8| match number {
        0 => Ok(Subset::Train),
        1 => Ok(Subset::Validation),
        2 => Ok(Subset::Test),
        _ => Err(format!("damaged: it has an image of subset {number}; there are 0, 1 and 2")),
    };
    Ok(Some(column::<u8>(file, "subset")?.iter().map(subset).collect::<std::result::Result<_, _>>()?))
}

/// Images of a size of their own can't be read so: `Resized` and `ClassImages` give them one.
impl Images for Packed {
    fn count(&self) -> usize {
        self.labels.len()
    }

    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        let stored = self.stored(index)?;
        match self.store {
            Store::Raw => pixels.copy_from_slice(stored),
            Store::Jpeg => {
                decode::jpeg_into(stored, self.size, pixels).map_err(|why| self.image_error(index, &why))?;
            }
            Store::Files => {
                return Err(Error::file(&self.path, "its images have sizes of their own: they are no faces"));
            }
        }
        Ok(())
    }
}
