//! Checkpoints: HDF5 files that are whole or not there (docs/format.md).
//!
//! libhdf5 may crash on damaged metadata, so every file ends with a checksum over all its bytes that is compared before
//! libhdf5 opens it. Standard HDF5 readers ignore bytes after the end of the HDF5 data.

mod content;
mod read;
mod sample_file;
#[cfg(test)]
mod tests;
mod write;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::state::{EpochRecord, PolicyState, Predictions, TensorSpec};

pub use read::{read, read_history, shape};
pub use sample_file::{SavedSample, read_sample, write_sample};
pub use write::{write, write_state};

const FILETYPE: &str = "amlfs checkpoint";
/// Major and minor number of the format, not of the program.
const VERSION: [i32; 2] = [1, 3];
/// The file's last 12 bytes: this, then the CRC-32 (little-endian) of every byte before it.
const END_MARK: &[u8; 8] = b"AMLFSEND";
const TRAILER_LEN: u64 = 12;

/// What a run was started with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// The whole resolved configuration, TOML.
    pub config: String,
    pub seed: u64,
    pub ranks: usize,
    /// Threads per rank.
    pub threads: usize,
    /// Version of libtorch.
    pub libtorch: String,
    pub device: String,
    /// Names of the classes, by label; empty where the task is not to tell classes apart.
    pub classes: Vec<String>,
}

/// Everything that a run needs to go on, and its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub info: RunInfo,
    /// Epochs completed.
    pub epoch: usize,
    pub policy: PolicyState,
    /// One record per epoch, all with the same number of samples and of parameters (`policy.mu.len()`).
    pub history: Vec<EpochRecord>,
    /// In any order; `read` sorts them by path.
    pub tensors: Vec<NamedTensor>,
    /// Metrics of the test set by name, in `final.h5` only; `read` sorts them by name.
    pub test: Vec<(String, f64)>,
    /// On the test set, in `final.h5` of a classifier only.
    pub predictions: Option<Predictions>,
}

/// A tensor as PyTorch's state dict has it.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// `model/layer1.0.conv1.weight`, `optimizer/layer1.0.conv1.weight/momentum`: below a group of `content::TENSOR_GROUPS`.
    pub path: String,
    pub shape: Vec<usize>,
    /// Row-major in the order of `shape`.
    pub values: Vec<f32>,
}

/// The state vector that `specs` describe; elements that no spec covers are 0, tensors that no spec names are ignored.
///
/// Errors: a spec's tensor is missing or has another shape (`Error::Failed`, names the tensor).
pub fn from_named(tensors: &[NamedTensor], specs: &[TensorSpec]) -> Result<Vec<f32>> {
    let length = specs.iter().map(|spec| spec.offset + spec.len()).max().unwrap_or(0);
    let mut state = vec![0.0; length];
    for spec in specs {
        let Some(tensor) = tensors.iter().find(|tensor| tensor.path == spec.path) else {
            return Err(Error::failed(format!("the checkpoint has no tensor {}", spec.path)));
        };
        if tensor.shape != spec.shape || tensor.values.len() != spec.len() {
            return Err(Error::failed(format!(
                "the checkpoint's tensor {} has shape {:?}, the network needs {:?}",
                spec.path, tensor.shape, spec.shape
            )));
        }
        spec.write(&tensor.values, &mut state);
    }
    Ok(state)
}

/// The file of a run that is complete.
pub const FINAL: &str = "final.h5";

/// `epoch-0001.h5` for the state after the first epoch.
pub fn epoch_file(dir: &Path, epoch: usize) -> PathBuf {
    dir.join(format!("epoch-{epoch:04}.h5"))
}

/// The epoch file of the highest epoch; `None` if there is none or no such directory.
///
/// Errors: the directory can't be listed.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(epochs(dir)?.into_iter().max().map(|epoch| epoch_file(dir, epoch)))
}

/// The epochs that have an epoch file, in no order; none if there is no such directory.
///
/// Errors: the directory can't be listed.
pub fn epochs(dir: &Path) -> Result<Vec<usize>> {
    Ok(names(dir)?.iter().filter_map(|name| epoch_number(name)).collect())
}

/// The checkpoint that `path` means: itself, or of a run's directory final.h5, else its newest epoch. Error: a directory
/// without one.
pub fn file_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let last = path.join(FINAL);
    if last.exists() {
        return Ok(last);
    }
    newest(path)?.ok_or_else(|| Error::file(path, "a directory without a checkpoint (final.h5 or epoch-*.h5)"))
}

/// Removes the epoch files of all epochs but `keep`, and what killed writers left behind.
///
/// Errors: the directory can't be listed or a file can't be removed.
pub fn prune(dir: &Path, keep: &[usize]) -> Result<()> {
    for name in names(dir)? {
        let old = epoch_number(&name).is_some_and(|epoch| !keep.contains(&epoch));
        let stale = name.ends_with(".h5.tmp");
        if old || stale {
            let path = dir.join(name);
            fs::remove_file(&path).map_err(|error| Error::file(&path, format!("can't be removed: {error}")))?;
        }
    }
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<String>>>()
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| Error::file(dir, format!("can't be listed: {error}"))),
    }
}

fn epoch_number(name: &str) -> Option<usize> {
    let epoch = name.strip_prefix("epoch-")?.strip_suffix(".h5")?.parse().ok()?;
    // only names that `epoch_file` gives: not epoch-1.h5 or epoch-+001.h5
    (epoch_file(Path::new(""), epoch).to_str() == Some(name)).then_some(epoch)
}

/// CRC-32 of the first `length` bytes of a file.
fn file_checksum(file: &fs::File, length: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut rest = file.take(length);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(hasher.finalize()),
            count => hasher.update(&buffer[..count]),
        }
    }
}
