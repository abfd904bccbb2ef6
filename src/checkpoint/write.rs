//! Writing, with verification before the file gets its name.

use std::fs;
use std::io::Write;
use std::path::Path;

use hdf5::{Group, H5Type};

use super::content::{Block, Values, blocks, digest};
use super::{Checkpoint, END_MARK, FILETYPE, VERSION, file_checksum, read};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, write_text};
use crate::state::TensorSpec;

/// Elements in a chunk at most; 4 MiB of f32.
const CHUNK_LEN: usize = 1 << 20;

/// Writes a checkpoint so that `path` is at any time either what it was before or the whole new file, on disk.
///
/// Verification reads all of it back, one data set at a time.
///
/// Errors (`Error::Failed`, with the path and the cause): no space and other I/O errors; a ragged history; a tensor that
/// is in no group of tensors, or whose shape and values disagree. The temporary file is then removed.
pub fn write(path: &Path, checkpoint: &Checkpoint) -> Result<()> {
    write_state(path, checkpoint, &[], &[])
}

/// The same with the tensors that `specs` describe in a state vector, of which one at a time is copied. Panics if a spec
/// reaches beyond `state`.
pub fn write_state(path: &Path, checkpoint: &Checkpoint, specs: &[TensorSpec], state: &[f32]) -> Result<()> {
    let written = atomic_file::write(path, |temporary| {
        let blocks = blocks(checkpoint, specs, state)?;
        write_and_verify(temporary, checkpoint, &blocks)
    });
    written.map_err(|Cause(text)| Error::file(path, format!("can't write the checkpoint: {text}")))
}

fn write_and_verify(temporary: &Path, checkpoint: &Checkpoint, blocks: &[Block]) -> Outcome<()> {
    write_hdf5(temporary, checkpoint, blocks)?;
    seal(temporary)?;

    let same = read::holds(temporary, &checkpoint.info, blocks);
    if !same.map_err(|Cause(text)| format!("reading it back failed: {text}"))? {
        return Err("reading it back gave something else".into());
    }
    Ok(())
}

fn write_hdf5(path: &Path, checkpoint: &Checkpoint, blocks: &[Block]) -> Outcome<()> {
    let file = hdf5_file::create(path)?;
    hdf5_file::write_kind(&file, FILETYPE, VERSION)?;
    let info = &checkpoint.info;
    for (name, text) in [
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
            Values::InState(spec, state) => write_block(&file, block, &spec.read(state))?,
            Values::F64(values) => write_block(&file, block, values)?,
            Values::I64(values) => write_block(&file, block, values)?,
            Values::U64(value) => write_block(&file, block, &[*value])?,
            Values::U8(values) => write_block(&file, block, values)?,
            Values::Texts(texts) => write_block(&file, block, &hdf5_file::as_stored(texts)?)?,
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
    // checksums need chunks, and chunks need a size; texts lie elsewhere
    let texts = matches!(block.values, Values::Texts(_));
    if !block.shape.is_empty() && !values.is_empty() && !texts {
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

/// Appends the checksum of the whole file.
pub(super) fn seal(path: &Path) -> Outcome<()> {
    let mut file = fs::OpenOptions::new().read(true).append(true).open(path)?;
    file.write_all(END_MARK)?;
    let checksum = file_checksum(&fs::File::open(path)?, u64::MAX)?;
    file.write_all(&checksum.to_le_bytes())?;
    Ok(())
}
