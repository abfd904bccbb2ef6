//! Writing: temporary file, verification, fsync, rename.

use std::fs;
use std::io::Write;
use std::path::Path;

use hdf5::types::VarLenUnicode;
use hdf5::{Group, H5Type, Location};

use super::layout::{Block, Values, blocks, digest};
use super::{Cause, Checkpoint, END_MARK, FILETYPE, Outcome, VERSION, file_checksum, read, temporary_file};
use crate::error::{Error, Result};

/// Elements in a chunk at most; 4 MiB of f32.
const CHUNK_LEN: usize = 1 << 20;

/// Writes a checkpoint so that `path` is at any time either what it was before or the whole new file, on disk.
///
/// Verification reads all of it back, one data set at a time.
///
/// Errors (`Error::Failed`, with the path and the cause): no space and other I/O errors; a ragged history; a tensor that
/// is not below `model` or `optimizer`, or whose shape and values disagree. The temporary file is then removed.
pub fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    let temporary = temporary_file(path);
    write_and_rename(path, &temporary, checkpoint).map_err(|Cause(text)| {
        // it may not exist, and the first error is the one to report
        let _ = fs::remove_file(&temporary);
        Error::file(path, format!("can't write the checkpoint: {text}"))
    })
}

fn write_and_rename(path: &Path, temporary: &Path, checkpoint: &Checkpoint) -> Outcome<()> {
    let blocks = blocks(checkpoint)?;
    write_hdf5(temporary, checkpoint, &blocks)?;
    seal(temporary)?;

    let same = read::holds(temporary, &checkpoint.info, &blocks);
    if !same.map_err(|Cause(text)| format!("reading it back failed: {text}"))? {
        return Err("reading it back gave something else".into());
    }

    fs::File::open(temporary)?.sync_all()?;
    fs::rename(temporary, path)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir)?.sync_all()?;
    Ok(())
}

fn write_hdf5(path: &Path, checkpoint: &Checkpoint, blocks: &[Block]) -> Outcome<()> {
    hdf5::silence_errors(true);
    let file = hdf5::File::with_options()
        // Lustre and NFS may refuse locks; the 1.10 format has checksums on its metadata
        .with_fapl(|fapl| fapl.file_locking(false).libver_v110())
        .with_fcpl(|fcpl| fcpl.obj_track_times(false))
        .create(path)?;

    let info = &checkpoint.info;
    for (name, text) in [
        ("filetype", FILETYPE),
        ("amlfs_version", env!("CARGO_PKG_VERSION")),
        ("git_sha1", option_env!("AMLFS_GIT_SHA1").unwrap_or("unknown")),
        ("date", &jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        ("config", &info.config),
        ("libtorch", &info.libtorch),
        ("device", &info.device),
        ("digest", &digest(checkpoint, blocks)),
    ] {
        write_text(&file, name, text)?;
    }
    file.new_attr::<i32>().shape(VERSION.len()).create("version")?.write_raw(&VERSION)?;
    for (name, number) in [
        ("seed", info.seed),
        ("ranks", info.ranks as u64),
        ("threads", info.threads as u64),
        ("epoch", checkpoint.epoch as u64),
    ] {
        file.new_attr::<u64>().create(name)?.write_scalar(&number)?;
    }
    for block in blocks {
        match &block.values {
            Values::F32(values) => write_block(&file, block, values)?,
            Values::F64(values) => write_block(&file, block, values)?,
            Values::I64(values) => write_block(&file, block, values)?,
            Values::U64(value) => write_block(&file, block, &[*value])?,
            Values::U8(values) => write_block(&file, block, values)?,
        }
    }
    file.flush()?;
    file.close()?;
    Ok(())
}

fn write_block<T: H5Type>(root: &Group, block: &Block, values: &[T]) -> Outcome<()> {
    let (parent, name) = block.path.rsplit_once('/').ok_or_else(|| format!("{} is in no group", block.path))?;
    let mut group = root.clone();
    for part in parent.split('/') {
        group = match group.link_exists(part) {
            true => group.group(part)?,
            false => group.create_group_builder().obj_track_times(false).create(part)?,
        };
    }
    let mut builder = group.new_dataset_builder().obj_track_times(false);
    // checksums need chunks, and chunks need a size
    if !block.shape.is_empty() && !values.is_empty() {
        builder = builder.chunk(chunk_shape(&block.shape)).fletcher32();
    }
    let builder = builder.empty::<T>();
    let dataset = match block.shape.is_empty() {
        true => builder.shape(()).create(name)?,
        false => builder.shape(block.shape.clone()).create(name)?,
    };
    dataset.write_raw(values)?;
    write_text(&dataset, "units", block.units)?;
    write_text(&dataset, "long_name", &block.long_name)?;
    // closing a data set writes what is left, but would swallow the error
    dataset.flush()?;
    Ok(())
}

/// As many whole rows as fit in a chunk, or a part of one row.
fn chunk_shape(shape: &[usize]) -> Vec<usize> {
    let mut chunk = shape.to_vec();
    let mut room = CHUNK_LEN;
    for size in chunk.iter_mut().rev() {
        *size = (*size).min(room).max(1);
        room /= *size;
    }
    chunk
}

fn write_text(location: &Location, name: &str, text: &str) -> Outcome<()> {
    let text: VarLenUnicode = text.parse().map_err(|_| format!("{name} contains a NUL character"))?;
    location.new_attr::<VarLenUnicode>().create(name)?.write_scalar(&text)?;
    Ok(())
}

/// Appends the checksum of the whole file.
pub(super) fn seal(path: &Path) -> Outcome<()> {
    let mut file = fs::OpenOptions::new().read(true).append(true).open(path)?;
    file.write_all(END_MARK)?;
    let checksum = file_checksum(&fs::File::open(path)?, u64::MAX)?;
    file.write_all(&checksum.to_le_bytes())?;
    Ok(())
}
