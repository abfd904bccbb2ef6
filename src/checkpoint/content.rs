//! A checkpoint's content as a flat list of data sets: what is written, digested and compared.

use std::borrow::Cow;

use super::Checkpoint;
use crate::hdf5_file::Outcome;
use crate::state::{Column, EPOCH_COLUMNS, Predictions, SAMPLE_COLUMNS, TensorSpec, Value};

/// Groups of tensors, and the minor version of the format that brought them. `last` is there where `model` is an average.
pub const TENSOR_GROUPS: [(&str, i32); 3] = [("last", 1), ("model", 0), ("optimizer", 0)];

/// The data set of the classes' names.
pub const CLASS_NAMES: &str = "classes/name";

/// A data set in the file.
pub struct Block<'a> {
    /// Without a leading slash.
    pub path: String,
    pub shape: Vec<usize>,
    pub values: Values<'a>,
    pub units: &'static str,
    pub long_name: String,
    /// Minor version of the format that brought it; the digest is of what 1.0 has.
    pub since: i32,
}

#[derive(Clone)]
pub enum Values<'a> {
    F32(Cow<'a, [f32]>),
    /// F32, where a state vector has them: a copy in the file's order is made when it is needed, of one tensor at a time.
    InState(&'a TensorSpec, &'a [f32]),
    F64(Cow<'a, [f64]>),
    I64(Vec<i64>),
    U64(u64),
    U8(Vec<u8>),
    Texts(&'a [String]),
}

/// The content of a checkpoint, sorted by path; its tensors are those that it has, and those that `specs` describe in `state`.
///
/// Errors: the history is ragged, or a tensor's shape and values disagree.
pub fn blocks<'a>(checkpoint: &'a Checkpoint, specs: &'a [TensorSpec], state: &'a [f32]) -> Outcome<Vec<Block<'a>>> {
    let mut blocks = history_blocks(checkpoint)?;
    let policy = &checkpoint.policy;
    let gaussian = [
        ("mu", &policy.mu, "mean of the distribution of loss parameters"),
        ("sigma", &policy.sigma, "standard deviation of the distribution of loss parameters"),
    ];
    let memory = policy.memory.iter().map(|vector| (&vector.name[..], &vector.values, &vector.long_name[..]));
    for (name, values, long_name) in gaussian.into_iter().chain(memory) {
        blocks.push(Block {
            path: format!("policy/{name}"),
            shape: vec![values.len()],
            values: Values::F64(Cow::Borrowed(values)),
            units: "1",
            long_name: long_name.to_owned(),
            since: 0,
        });
    }
    blocks.push(Block {
        path: "policy/step".to_owned(),
        shape: Vec::new(),
        values: Values::U64(policy.step),
        units: "1",
        long_name: "number of updates of mu".to_owned(),
        since: 0,
    });
    let own = checkpoint.tensors.iter().map(|tensor| {
        let (shape, count) = (&tensor.shape, tensor.values.len());
        match shape.iter().product::<usize>() == count {
            true => Ok((&tensor.path, shape, Values::F32(Cow::Borrowed(&tensor.values)))),
            false => Err(format!("{} has {count} values for shape {shape:?}", tensor.path)),
        }
    });
    let of_state = specs.iter().map(|spec| Ok((&spec.path, &spec.shape, Values::InState(spec, state))));
    for tensor in own.chain(of_state) {
        let (path, shape, values) = tensor?;
        let group = TENSOR_GROUPS.iter().find(|(group, _)| path.starts_with(&format!("{group}/")));
        blocks.push(Block {
            path: path.clone(),
            shape: shape.clone(),
            values,
            units: "1",
            long_name: path.replacen('/', " state: ", 1),
            since: group.ok_or_else(|| format!("{path} is in no group of tensors"))?.1,
        });
    }
    for (metric, value) in &checkpoint.test {
        blocks.push(Block {
            path: format!("test/{metric}"),
            shape: Vec::new(),
            values: Values::F64(Cow::Owned(vec![*value])),
            units: "1",
            long_name: format!("{metric} on the test set"),
            since: 0,
        });
    }
    let classes = &checkpoint.info.classes;
    if !classes.is_empty() {
        blocks.push(Block {
            path: CLASS_NAMES.to_owned(),
            shape: vec![classes.len()],
            values: Values::Texts(classes),
            units: "1",
            long_name: "name of each class, by label".to_owned(),
            since: 3,
        });
    }
    if let Some(Predictions { image, label, predicted }) = &checkpoint.predictions {
        for (name, values, long_name) in [
            ("image", image, "number of each test image in the data"),
            ("label", label, "its class"),
            ("predicted", predicted, "its most likely class by the final model"),
        ] {
            blocks.push(Block {
                path: format!("predictions/{name}"),
                shape: vec![values.len()],
                values: Values::I64(values.clone()),
                units: "1",
                long_name: long_name.to_owned(),
                since: 3,
            });
        }
    }
    blocks.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(blocks)
}

fn history_blocks(checkpoint: &Checkpoint) -> Outcome<Vec<Block<'static>>> {
    let history = &checkpoint.history;
    let epochs = history.len();
    let width = checkpoint.policy.mu.len();
    let batch = history.first().map_or(0, |epoch| epoch.samples.len());
    for (row, epoch) in history.iter().enumerate() {
        let thetas_fit = epoch.samples.iter().all(|sample| sample.theta.len() == width);
        if epoch.mu.len() != width || epoch.samples.len() != batch || !thetas_fit {
            return Err(format!("history row {row} is not of {batch} samples with {width} parameters").into());
        }
    }
    let samples: Vec<_> = history.iter().flat_map(|epoch| &epoch.samples).collect();
    let block = |name: &str, shape: Vec<usize>, values: Values<'static>, long_name: &str| Block {
        path: format!("history/{name}"),
        shape,
        values,
        units: "1",
        long_name: long_name.to_owned(),
        since: 0,
    };
    let f64s = |values: Vec<f64>| Values::F64(Cow::Owned(values));

    let mu = history.iter().flat_map(|epoch| &epoch.mu).copied().collect();
    let theta = samples.iter().flat_map(|sample| &sample.theta).copied().collect();
    let status = samples.iter().map(|sample| sample.status as u8).collect();
    let mut blocks = vec![
        block("mu", vec![epochs, width], f64s(mu), "mean that the epoch's thetas were drawn from"),
        block("theta", vec![epochs, batch, width], f64s(theta), "loss parameters of the samples"),
        block("status", vec![epochs, batch], Values::U8(status), "0 ok, 1 failed, 2 not measured"),
    ];
    let epoch_records: Vec<_> = history.iter().collect();
    blocks.extend(EPOCH_COLUMNS.iter().filter_map(|column| column_block(column, &epoch_records, vec![epochs])));
    blocks.extend(SAMPLE_COLUMNS.iter().filter_map(|column| column_block(column, &samples, vec![epochs, batch])));
    Ok(blocks)
}

/// A column that is stored.
fn column_block<R>(column: &Column<R>, records: &[&R], shape: Vec<usize>) -> Option<Block<'static>> {
    let values = match column.value {
        Value::Number { get, set: Some(_) } => {
            Values::F64(Cow::Owned(records.iter().map(|record| get(record)).collect()))
        }
        Value::Count { get, set: Some(_) } => Values::I64(records.iter().map(|record| get(record)).collect()),
        _ => return None,
    };
    Some(Block {
        path: format!("history/{}", column.name),
        shape,
        values,
        units: column.units,
        long_name: column.long_name.to_owned(),
        since: column.since,
    })
}

/// CRC-32 of the logical content as docs/format.md defines it: equal for equal content, however it is stored.
pub fn digest(checkpoint: &Checkpoint, blocks: &[Block]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    let info = &checkpoint.info;
    for text in [
        &info.config,
        &info.seed.to_string(),
        &info.ranks.to_string(),
        &info.threads.to_string(),
        &info.libtorch,
        &info.device,
        &checkpoint.epoch.to_string(),
    ] {
        hasher.update(text.as_bytes());
        hasher.update(&[0]);
    }
    for block in blocks.iter().filter(|block| block.since == 0) {
        hasher.update(block.path.as_bytes());
        hasher.update(&[0]);
        for &size in [block.shape.len()].iter().chain(&block.shape) {
            hasher.update(&(size as u64).to_le_bytes());
        }
        match &block.values {
            Values::F32(values) => update(&mut hasher, values, |value| value.to_le_bytes()),
            Values::InState(spec, state) => update(&mut hasher, &spec.read(state), |value| value.to_le_bytes()),
            Values::F64(values) => update(&mut hasher, values, |value| value.to_le_bytes()),
            Values::I64(values) => update(&mut hasher, values, |value| value.to_le_bytes()),
            Values::U64(value) => hasher.update(&value.to_le_bytes()),
            Values::U8(values) => hasher.update(values),
            Values::Texts(_) => unreachable!("1.0 has none"),
        }
    }
    format!("crc32:{:08x}", hasher.finalize())
}

fn update<T: Copy, const N: usize>(hasher: &mut crc32fast::Hasher, values: &[T], bytes: fn(T) -> [u8; N]) {
    let mut buffer = Vec::new();
    // one update per element is ten times slower
    for part in values.chunks(4096) {
        buffer.clear();
        for &value in part {
            buffer.extend_from_slice(&bytes(value));
        }
        hasher.update(&buffer);
    }
}

/// Bit for bit, so that NaN equals itself.
pub fn same_values(a: &Values, b: &Values) -> bool {
    match (a, b) {
        (a, Values::InState(spec, state)) => same_values(a, &Values::F32(spec.read(state))),
        (Values::F32(a), Values::F32(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
        }
        (Values::F64(a), Values::F64(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.to_bits() == b.to_bits())
        }
        (Values::I64(a), Values::I64(b)) => a == b,
        (Values::U64(a), Values::U64(b)) => a == b,
        (Values::U8(a), Values::U8(b)) => a == b,
        (Values::Texts(a), Values::Texts(b)) => a == b,
        _ => false,
    }
}
