//! Writing: images copied by the kernel, verification before the file gets its name.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use super::{CamerasAndSplits, FILETYPE, Images, Packed, Store, Subset, VERSION};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, trailer, write_column, write_many_texts, write_text, write_texts};

/// A packed file but for the images' bytes. `lengths`, `crc32` and `labels` have an element per image.
#[derive(Clone, Debug)]
pub struct Content {
    /// Height and width in pixels; (0, 0) with `Store::Files`.
    pub size: (usize, usize),
    pub store: Store,
    /// Where the images come from, for people.
    pub source: String,
    /// All that it was made from, to compare: text that `Packed::input` gives back.
    pub input: String,
    /// When, RFC 3339.
    pub date: String,
    /// Bytes.
    pub lengths: Vec<u64>,
    /// CRC-32 of each image's bytes.
    pub crc32: Vec<u32>,
    /// Below the number of identities.
    pub labels: Vec<u32>,
    /// Names by label.
    pub identities: Vec<String>,
    /// Only for people: faces have neither.
    pub cameras_and_splits: Option<CamerasAndSplits>,
    /// Only for classification data.
    pub subsets: Option<Vec<Subset>>,
}

/// The name of an image by its number.
pub type NameOf<'a> = &'a dyn Fn(usize) -> String;

/// Writes a packed file with the images of `bytes`, which are its `pieces`, one after the other, so that `path` is at any time
/// either what it was before or the whole new file, on disk. All of it is read back before it gets its name; then `may_be_named`
/// is asked.
///
/// Errors (`Error::Failed`, with the path and the cause): no space and other I/O errors; images that do not match their
/// lengths and checksums; content that `Packed::open` would refuse. The temporary file is then removed.
pub fn write(
    path: &Path,
    content: &Content,
    name: NameOf,
    bytes: &File,
    pieces: &[Range<u64>],
    may_be_named: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let write = |temporary: &Path| {
        write_and_verify(temporary, content, name, bytes, pieces)?;
        may_be_named().map_err(|why| Cause(why.to_string()))
    };
    atomic_file::write(path, write)
        .map_err(|Cause(text)| Error::file(path, format!("can't write the packed data set: {text}")))
}

fn write_and_verify(
    temporary: &Path,
    content: &Content,
    name: NameOf,
    bytes: &File,
    pieces: &[Range<u64>],
) -> Outcome<()> {
    let range = write_hdf5(temporary, content, name)?;
    hdf5_file::fill(temporary, &range, bytes, pieces).map_err(|Cause(why)| format!("the images have {why}"))?;
    trailer::seal(temporary, &range)?;
    Ok(verify(temporary, content, name).map_err(|error| format!("reading it back failed: {error}"))?)
}

/// Writes everything but the images; returns where they belong.
pub(super) fn write_hdf5(path: &Path, content: &Content, name: NameOf) -> Outcome<Range<u64>> {
    let file = hdf5_file::create(path)?;
    hdf5_file::write_kind(&file, FILETYPE, VERSION)?;
    for (name, value) in [
        ("amlfs_version", env!("CARGO_PKG_VERSION")),
        ("date", &content.date),
        ("store", content.store.name()),
        ("source", &content.source),
        ("input", &content.input),
    ] {
        write_text(&file, name, value)?;
    }
    for (name, number) in [("height", content.size.0), ("width", content.size.1)] {
        file.new_attr::<u64>().create(name)?.write_scalar(&(number as u64))?;
    }

    let mut offsets = vec![0];
    offsets.extend(content.lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    }));
    write_column(&file, "offsets", &offsets, "bytes", "begin of each image in bytes, and the end of the last one")?;
    write_column(&file, "crc32", &content.crc32, "1", "CRC-32 of each image's bytes")?;
    write_column(&file, "label", &content.labels, "1", "number of each image's identity")?;
    let count = content.labels.len();
    write_many_texts(&file, "name", count, name, "each image's path below the source's root, or its record's key")?;
    write_texts(&file, "identity", &content.identities, "name of each identity, by label")?;

    if let Some(CamerasAndSplits { cameras, splits }) = &content.cameras_and_splits {
        let splits: Vec<u8> = splits.iter().map(|&split| split as u8).collect();
        write_column(&file, "camera", cameras, "1", "number of the camera that took each image")?;
        write_column(&file, "split", &splits, "1", "0: image to train on, 1: query, 2: gallery")?;
    }

    if let Some(subsets) = &content.subsets {
        let subsets: Vec<u8> = subsets.iter().map(|&subset| subset as u8).collect();
        write_column(&file, "subset", &subsets, "1", "0: image to train on, 1: validation, 2: test")?;
    }

    let total = offsets[offsets.len() - 1];
    let long_name = "the images, one after the other, as the attribute store says";
    let offset = hdf5_file::reserve::<u8>(&file, "bytes", &[total as usize], "1", long_name)?;
    file.flush()?;
    file.close()?;
    Ok(offset..offset + total)
}

fn verify(path: &Path, content: &Content, name: NameOf) -> Result<()> {
    let packed = Packed::open(path)?;
    let same = packed.size == content.size
        && packed.store == content.store
        && packed.input.as_ref() == Some(&content.input)
        && packed.offsets.windows(2).map(|range| range[1] - range[0]).eq(content.lengths.iter().copied())
        && packed.crc32 == content.crc32
        && packed.labels == content.labels
        && packed.identities == content.identities
        && packed.cameras_and_splits == content.cameras_and_splits
        && packed.subsets == content.subsets
        && packed.are_named(name)?;
    if !same {
        return Err(Error::failed("it gave something else"));
    }
    (0..packed.count()).try_for_each(|index| packed.stored(index).map(|_| ()))
}
