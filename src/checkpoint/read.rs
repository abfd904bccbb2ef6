//! Reading: first the checksum of all bytes, then libhdf5, then the digest of what was understood.

use std::borrow::Cow;
use std::fs;
use std::io::{Seek, SeekFrom};
use std::path::Path;

use hdf5::{File, Group, H5Type};

use super::content::{Block, CLASS_NAMES, TENSOR_GROUPS, Values, blocks, digest, same_values};
use super::{Checkpoint, END_MARK, FILETYPE, NamedTensor, RunInfo, TRAILER_LEN, VERSION, file_checksum, file_of};
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, text, texts, trailer};
use crate::state::{
    Column, EPOCH_COLUMNS, EpochRecord, PolicyState, PolicyVector, Predictions, SAMPLE_COLUMNS, SampleRecord, Status,
    Value,
};

/// Reads the whole checkpoint that `file_of` finds; NaN and all other values come back bit for bit.
///
/// Errors (`Error::Failed`, one sentence with the path): not there, not HDF5, truncated, damaged, another program's
/// file, another major version of the format.
pub fn read(path: &Path) -> Result<Checkpoint> {
    read_with(path, true)
}

/// The same without the tensors, which may be a thousand times the rest. Errors: those of `read`.
pub fn read_history(path: &Path) -> Result<Checkpoint> {
    read_with(path, false)
}

/// The shape of one data set, `model/fc6.weight` say, of a file that was read before. Errors: those of `read`, or no such data set.
pub fn shape(path: &Path, dataset: &str) -> Result<Vec<usize>> {
    let path = &file_of(path)?;
    let shape = || -> Outcome<Vec<usize>> { Ok(open(path)?.dataset(dataset)?.shape()) };
    shape().map_err(|Cause(text)| Error::file(path, format!("{dataset}: {text}")))
}

fn read_with(path: &Path, with_tensors: bool) -> Result<Checkpoint> {
    let path = &file_of(path)?;
    read_file(path, with_tensors).map_err(|Cause(text)| match hdf5_file::instead_of_a_checkpoint(path) {
        Some(kind) => Error::file(path, format!("{kind}; wanted is a checkpoint: a run's final.h5 or epoch-*.h5")),
        None => Error::file(path, text),
    })
}

fn read_file(path: &Path, with_tensors: bool) -> Outcome<Checkpoint> {
    check_bytes(path)?;
    let file = open(path)?;

    let policy = read_policy(&file)?;
    let mut tensors = Vec::new();
    for (name, _) in TENSOR_GROUPS {
        if with_tensors && file.link_exists(name) {
            read_tensors(&file.group(name)?, &mut tensors)?;
        }
    }
    tensors.sort_by(|a, b| a.path.cmp(&b.path));
    let checkpoint = Checkpoint {
        info: RunInfo {
            config: text(&file, "config")?,
            seed: number(&file, "seed")?,
            ranks: number(&file, "ranks")? as usize,
            threads: number(&file, "threads")? as usize,
            libtorch: text(&file, "libtorch")?,
            device: text(&file, "device")?,
            classes: if file.link_exists("classes") { texts(&file, CLASS_NAMES)? } else { Vec::new() },
        },
        epoch: number(&file, "epoch")? as usize,
        history: read_records(&file, policy.mu.len())?,
        policy,
        tensors,
        test: read_test(&file)?,
        predictions: read_predictions(&file)?,
    };
    // the digest is one of the tensors too; all bytes have been checked
    if with_tensors && digest(&checkpoint, &blocks(&checkpoint, &[], &[])?) != text(&file, "digest")? {
        return Err("damaged: its content does not match its digest".into());
    }
    Ok(checkpoint)
}

fn open(path: &Path) -> Outcome<File> {
    let file = hdf5_file::open(path)?;
    hdf5_file::check_kind(&file, FILETYPE, VERSION, "an amlfs checkpoint")?;
    Ok(file)
}

/// Whether the file is whole and holds this configuration and these data sets, bit for bit.
pub(super) fn holds(path: &Path, info: &RunInfo, blocks: &[Block]) -> Outcome<bool> {
    check_bytes(path)?;
    let file = open(path)?;
    let same = |block: &Block| -> Outcome<bool> {
        let dataset = file.dataset(&block.path)?;
        let stored;
        let values = match &block.values {
            Values::F32(_) | Values::InState(..) => Values::F32(Cow::Owned(dataset.read_raw()?)),
            Values::F64(_) => Values::F64(Cow::Owned(dataset.read_raw()?)),
            Values::I64(_) => Values::I64(dataset.read_raw()?),
            Values::U64(_) => Values::U64(dataset.read_scalar()?),
            Values::U8(_) => Values::U8(dataset.read_raw()?),
            Values::Texts(_) => {
                stored = texts(&file, &block.path)?;
                Values::Texts(&stored)
            }
        };
        Ok(dataset.shape() == block.shape && same_values(&values, &block.values))
    };
    for block in blocks {
        if !same(block)? {
            return Ok(false);
        }
    }
    Ok(text(&file, "config")? == info.config)
}

/// Whether the bytes are those that were written: only then is the file safe to give to libhdf5.
pub(super) fn check_bytes(path: &Path) -> Outcome<()> {
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    let trailer: [u8; TRAILER_LEN as usize] = trailer::last_bytes(&file)?;
    let (mark, checksum) = trailer.split_at(END_MARK.len());
    if mark != END_MARK {
        return Err("truncated, or not an amlfs checkpoint (no checksum at its end)".into());
    }
    (&file).seek(SeekFrom::Start(0))?;
    if file_checksum(&file, length - checksum.len() as u64)?.to_le_bytes() != checksum {
        return Err("damaged: its content does not match its checksum".into());
    }
    Ok(())
}

fn read_policy(file: &File) -> Outcome<PolicyState> {
    let mu = values::<f64>(file, "policy/mu", None)?;
    let shape = [mu.len()];
    let mut names =
        file.group("policy").and_then(|group| group.member_names()).map_err(|_| "damaged: it has no policy")?;
    names.retain(|name| !["mu", "sigma", "step"].contains(&&name[..]));
    names.sort();
    let vector = |name: String| -> Outcome<PolicyVector> {
        let path = format!("policy/{name}");
        Ok(PolicyVector {
            values: values(file, &path, Some(&shape))?,
            long_name: text(&*file.dataset(&path)?, "long_name")?,
            name,
        })
    };
    Ok(PolicyState {
        sigma: values(file, "policy/sigma", Some(&shape))?,
        step: scalar(file, "policy/step")?,
        memory: names.into_iter().map(vector).collect::<Outcome<_>>()?,
        mu,
    })
}

fn read_records(file: &File, width: usize) -> Outcome<Vec<EpochRecord>> {
    let Ok([epochs, batch]) = <[usize; 2]>::try_from(file.dataset("history/status")?.shape()) else {
        return Err("damaged: history/status is not of two dimensions".into());
    };
    let mu = values::<f64>(file, "history/mu", Some(&[epochs, width]))?;
    let theta = values::<f64>(file, "history/theta", Some(&[epochs, batch, width]))?;
    let status = values::<u8>(file, "history/status", Some(&[epochs, batch]))?;

    let mut samples = Vec::with_capacity(status.len());
    for (row, &number) in status.iter().enumerate() {
        let status = Status::from_number(number).ok_or_else(|| format!("damaged: unknown status {number}"))?;
        let theta = theta[row * width..(row + 1) * width].to_vec();
        samples.push(SampleRecord { theta, status, ..SampleRecord::default() });
    }
    for column in SAMPLE_COLUMNS {
        read_column(file, column, &mut samples, &[epochs, batch])?;
    }
    let mut samples = samples.into_iter();
    let mut history: Vec<EpochRecord> = (0..epochs)
        .map(|epoch| EpochRecord {
            mu: mu[epoch * width..(epoch + 1) * width].to_vec(),
            samples: samples.by_ref().take(batch).collect(),
            ..EpochRecord::default()
        })
        .collect();
    for column in EPOCH_COLUMNS {
        read_column(file, column, &mut history, &[epochs])?;
    }
    Ok(history)
}

/// Reads a stored column into the records. A column that is younger than the file's format becomes NaN.
fn read_column<R>(file: &File, column: &Column<R>, records: &mut [R], shape: &[usize]) -> Outcome<()> {
    let path = format!("history/{}", column.name);
    let missing = column.since > 0 && !file.link_exists(&path);
    match column.value {
        Value::Number { set: Some(set), .. } if missing => records.iter_mut().for_each(|record| set(record, f64::NAN)),
        Value::Number { set: Some(set), .. } => {
            let numbers = values(file, &path, Some(shape))?;
            records.iter_mut().zip(numbers).for_each(|(record, number)| set(record, number));
        }
        Value::Count { set: Some(set), .. } if !missing => {
            let counts = values(file, &path, Some(shape))?;
            records.iter_mut().zip(counts).for_each(|(record, count)| set(record, count));
        }
        _ => {}
    }
    Ok(())
}

fn read_tensors(group: &Group, tensors: &mut Vec<NamedTensor>) -> Outcome<()> {
    for dataset in group.datasets()? {
        tensors.push(NamedTensor {
            path: dataset.name().trim_start_matches('/').to_owned(),
            shape: dataset.shape(),
            values: dataset.read_raw()?,
        });
    }
    group.groups()?.iter().try_for_each(|group| read_tensors(group, tensors))
}

fn read_test(file: &File) -> Outcome<Vec<(String, f64)>> {
    if !file.link_exists("test") {
        return Ok(Vec::new());
    }
    let mut metrics = Vec::new();
    for metric in file.group("test")?.member_names()? {
        let value = scalar(file, &format!("test/{metric}"))?;
        metrics.push((metric, value));
    }
    metrics.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(metrics)
}

fn read_predictions(file: &File) -> Outcome<Option<Predictions>> {
    if !file.link_exists("predictions") {
        return Ok(None);
    }
    let label = values(file, "predictions/label", None)?;
    let shape = [label.len()];
    let of = |name: &str| values(file, &format!("predictions/{name}"), Some(&shape));
    Ok(Some(Predictions { image: of("image")?, predicted: of("predicted")?, label }))
}

/// All values of a data set, row-major; an error unless it has the expected shape.
fn values<T: H5Type>(file: &File, path: &str, expected: Option<&[usize]>) -> Outcome<Vec<T>> {
    let dataset = file.dataset(path).map_err(|_| format!("damaged: it has no {path}"))?;
    match expected {
        Some(expected) if dataset.shape() != expected => {
            Err(format!("damaged: {path} has shape {:?} instead of {expected:?}", dataset.shape()).into())
        }
        _ => Ok(dataset.read_raw()?),
    }
}

fn scalar<T: H5Type>(file: &File, path: &str) -> Outcome<T> {
    let dataset = file.dataset(path).map_err(|_| format!("damaged: it has no {path}"))?;
    Ok(dataset.read_scalar()?)
}

fn number(file: &File, name: &str) -> Outcome<u64> {
    let attribute = file.attr(name).map_err(|_| format!("damaged: it has no attribute {name}"))?;
    Ok(attribute.read_scalar()?)
}
