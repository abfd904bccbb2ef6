//! What all our HDF5 files have in common: how they are opened, described and completed. Checkpoints, packed images and
//! embeddings are built on it.

pub mod trailer;
mod wrong_kind;

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use hdf5::plist::dataset_create::{AllocTime, FillTime};
use hdf5::types::VarLenUnicode;
use hdf5::{Dataset, File, H5Type, Location};

pub use wrong_kind::instead_of_a_checkpoint;

/// Opens a file for reading; only what a checksum has approved, because libhdf5 may crash on damaged metadata.
pub fn open(path: &Path) -> Outcome<File> {
    hdf5::silence_errors(true);
    Ok(File::with_options().with_fapl(|fapl| fapl.file_locking(false)).open(path)?)
}

pub fn create(path: &Path) -> Outcome<File> {
    hdf5::silence_errors(true);
    Ok(File::with_options()
        // Lustre and NFS may refuse locks; the 1.10 format has checksums on its metadata
        .with_fapl(|fapl| fapl.file_locking(false).libver_v110())
        .with_fcpl(|fcpl| fcpl.obj_track_times(false))
        .create(path)?)
}

/// Writes the root attributes `filetype` and `version` (major and minor number of the format).
pub fn write_kind(file: &File, filetype: &str, version: [i32; 2]) -> Outcome<()> {
    write_text(file, "filetype", filetype)?;
    file.new_attr::<i32>().shape(version.len()).create("version")?.write_raw(&version)?;
    Ok(())
}

/// Refuses files of another kind or of another major version; `what` names ours.
pub fn check_kind(file: &File, filetype: &str, version: [i32; 2], what: &str) -> Outcome<()> {
    let found = text(file, "filetype").map_err(|_| format!("not {what} (no filetype)"))?;
    if found != filetype {
        return Err(format!("not {what} (its filetype is \"{found}\")").into());
    }
    let found = file.attr("version").and_then(|attribute| attribute.read_raw::<i32>());
    match found.as_deref() {
        Ok([major, _]) if *major == version[0] => Ok(()),
        Ok([major, minor]) => Err(format!("format version {major}.{minor}; this amlfs reads {}.x", version[0]).into()),
        _ => Err("damaged: it has no format version".into()),
    }
}

pub fn text(location: &Location, name: &str) -> Outcome<String> {
    let attribute = location.attr(name).map_err(|_| format!("damaged: it has no attribute {name}"))?;
    Ok(attribute.read_scalar::<VarLenUnicode>()?.as_str().to_owned())
}

pub fn write_text(location: &Location, name: &str, text: &str) -> Outcome<()> {
    let text: VarLenUnicode = text.parse().map_err(|_| format!("{name} contains a NUL character"))?;
    location.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
    Ok(())
}

pub fn dataset(file: &File, name: &str) -> Outcome<Dataset> {
    Ok(file.dataset(name).map_err(|_| format!("damaged: it has no data set {name}"))?)
}

pub fn column<T: H5Type>(file: &File, name: &str) -> Outcome<Vec<T>> {
    Ok(dataset(file, name)?.read_raw()?)
}

pub fn texts(file: &File, name: &str) -> Outcome<Vec<String>> {
    let texts = column::<VarLenUnicode>(file, name)?;
    Ok(texts.iter().map(|text| text.as_str().to_owned()).collect())
}

/// A one-dimensional data set.
pub fn write_column<T: H5Type>(file: &File, name: &str, values: &[T], units: &str, long_name: &str) -> Outcome<()> {
    let builder = file.new_dataset_builder().obj_track_times(false).empty::<T>();
    let dataset = builder.shape(values.len()).create(name)?;
    dataset.write_raw(values)?;
    describe(&dataset, units, long_name)?;
    // closing a data set writes what is left, but would swallow the error
    dataset.flush()?;
    Ok(())
}

pub fn write_texts(file: &File, name: &str, texts: &[String], long_name: &str) -> Outcome<()> {
    write_many_texts(file, name, texts.len(), &|index| texts[index].clone(), long_name)
}

/// Error: a name that HDF5 can't hold.
pub fn as_stored(texts: &[String]) -> Outcome<Vec<VarLenUnicode>> {
    texts.iter().map(|text| parsed(text)).collect()
}

/// Texts that are handed to HDF5 at a time.
pub const TEXTS: usize = 1 << 14;

/// A column of texts that are never in memory all at once.
pub fn write_many_texts(
    file: &File,
    name: &str,
    count: usize,
    text: &dyn Fn(usize) -> String,
    long_name: &str,
) -> Outcome<()> {
    let builder = file.new_dataset_builder().obj_track_times(false).empty::<VarLenUnicode>();
    let dataset = builder.shape(count).create(name)?;
    for start in (0..count).step_by(TEXTS) {
        let part = (start..(start + TEXTS).min(count)).map(text);
        let part = part.map(|text| parsed(&text)).collect::<Outcome<Vec<VarLenUnicode>>>()?;
        dataset.write_slice(&part, start..start + part.len())?;
    }
    describe(&dataset, "1", long_name)?;
    dataset.flush()?;
    Ok(())
}

fn parsed(text: &str) -> Outcome<VarLenUnicode> {
    text.parse().map_err(|_| Cause(format!("the name {text:?} contains a NUL character")))
}

pub fn describe(dataset: &Dataset, units: &str, long_name: &str) -> Outcome<()> {
    write_text(dataset, "units", units)?;
    write_text(dataset, "long_name", long_name)
}

/// A contiguous data set of T that has its place in the file, but no content yet. Returns the offset of its bytes.
pub fn reserve<T: H5Type>(file: &File, name: &str, shape: &[usize], units: &str, long_name: &str) -> Outcome<u64> {
    let dataset = file
        .new_dataset_builder()
        .obj_track_times(false)
        // gives it its place now, without writing zeros there
        .alloc_time(Some(AllocTime::Early))
        .fill_time(FillTime::Never)
        .empty::<T>()
        .shape(shape)
        .create(name)?;
    describe(&dataset, units, long_name)?;
    let offset = dataset.offset().ok_or("HDF5 gave the data set no place")?;
    dataset.flush()?;
    Ok(offset)
}

/// Copies `pieces` of `bytes` into the range of `path` that `reserve` found, one after the other; the kernel does it
/// (copy_file_range).
pub fn fill(path: &Path, range: &Range<u64>, mut bytes: &fs::File, pieces: &[Range<u64>]) -> Outcome<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut copied = 0;
    for piece in pieces {
        bytes.seek(SeekFrom::Start(piece.start))?;
        copied += io::copy(&mut bytes.take(piece.end - piece.start), &mut file)?;
    }
    if copied != range.end - range.start {
        return Err(format!("{copied} bytes instead of {}", range.end - range.start).into());
    }
    Ok(())
}

/// Why a file can't be written or read: part of a sentence that the file's path begins.
pub struct Cause(pub String);

pub type Outcome<T> = std::result::Result<T, Cause>;

impl From<String> for Cause {
    fn from(text: String) -> Cause {
        Cause(text)
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Cause {
        Cause(text.to_owned())
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Cause {
        Cause(error.to_string())
    }
}

impl From<hdf5::Error> for Cause {
    fn from(error: hdf5::Error) -> Cause {
        // the innermost frame is the cause; the others say who called whom
        let text = match error.stack().as_ref().and_then(|stack| stack.last()) {
            Some(frame) => frame.desc().to_owned(),
            None => error.to_string(),
        };
        // failed system calls come with time, buffer address and file name on several lines
        match text.split_once("error message = '").and_then(|(_, rest)| rest.split_once('\'')) {
            Some((reason, _)) => Cause(reason.to_owned()),
            None => Cause(format!("HDF5: {}", text.lines().next().unwrap_or_default())),
        }
    }
}
