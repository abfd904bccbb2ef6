//! .pth files: what `torch.save(state_dict, FILE)` writes, for `torch.load(FILE)`, also with `weights_only=True`.
//!
//! A zip archive, stored without compression: `archive/data.pkl` is a pickle (protocol 2) of a dictionary from names to
//! tensors, `archive/data/N` the bytes of tensor N (torch/serialization.py, torch/_utils.py). tch writes TorchScript
//! archives alone, which `torch.load` refuses as weights.

use std::io::{Cursor, Write};

use zip::ZipWriter;
use zip::result::ZipResult;
use zip::write::FileOptions;

use crate::checkpoint::NamedTensor;

/// Where PyTorch has the records begin, so that they can be mapped.
const ALIGNMENT: u16 = 64;

/// Of pickle's protocol 2 (CPython's Lib/pickletools.py).
mod opcode {
    pub const PROTO: u8 = 0x80;
    pub const EMPTY_DICT: u8 = b'}';
    pub const MARK: u8 = b'(';
    pub const SETITEMS: u8 = b'u';
    pub const GLOBAL: u8 = b'c';
    pub const BINUNICODE: u8 = b'X';
    pub const BININT: u8 = b'J';
    pub const LONG1: u8 = 0x8a;
    pub const TUPLE: u8 = b't';
    pub const BINPERSID: u8 = b'Q';
    pub const NEWFALSE: u8 = 0x89;
    pub const EMPTY_TUPLE: u8 = b')';
    pub const REDUCE: u8 = b'R';
    pub const STOP: u8 = b'.';
}

/// The whole file. Equal tensors give equal bytes.
pub fn bytes(tensors: &[NamedTensor]) -> ZipResult<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = FileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut write = |name: &str, bytes: &[u8]| -> ZipResult<()> {
        archive.start_file_aligned(format!("archive/{name}"), stored, ALIGNMENT)?;
        Ok(archive.write_all(bytes)?)
    };
    write("data.pkl", &pickle(tensors))?;
    write("byteorder", b"little")?;
    for (number, tensor) in tensors.iter().enumerate() {
        let values: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        write(&format!("data/{number}"), &values)?;
    }
    write("version", b"3\n")?;
    Ok(archive.finish()?.into_inner())
}

/// {name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict())}
fn pickle(tensors: &[NamedTensor]) -> Vec<u8> {
    use opcode::*;
    let mut out = vec![PROTO, 2, EMPTY_DICT, MARK];
    for (number, tensor) in tensors.iter().enumerate() {
        text(&mut out, &tensor.path);
        global(&mut out, "torch._utils", "_rebuild_tensor_v2");
        out.push(MARK);
        // the storage: ("storage", torch.FloatStorage, number, "cpu", count), which torch.load looks up
        out.push(MARK);
        text(&mut out, "storage");
        global(&mut out, "torch", "FloatStorage");
        text(&mut out, &number.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.values.len());
        out.extend([TUPLE, BINPERSID]);
        integer(&mut out, 0);
        integers(&mut out, &tensor.shape);
        let stride = |from: usize| tensor.shape[from + 1..].iter().product();
        integers(&mut out, &(0..tensor.shape.len()).map(stride).collect::<Vec<usize>>());
        out.push(NEWFALSE);
        global(&mut out, "collections", "OrderedDict");
        out.extend([EMPTY_TUPLE, REDUCE, TUPLE, REDUCE]);
    }
    out.extend([SETITEMS, STOP]);
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(opcode::BINUNICODE);
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.push(opcode::GLOBAL);
    out.extend(format!("{module}\n{name}\n").as_bytes());
}

fn integers(out: &mut Vec<u8>, values: &[usize]) {
    out.push(opcode::MARK);
    values.iter().for_each(|&value| integer(out, value));
    out.push(opcode::TUPLE);
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(value) => {
            out.push(opcode::BININT);
            out.extend(value.to_le_bytes());
        }
        Err(_) => {
            out.extend([opcode::LONG1, 8]);
            out.extend((value as i64).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Tensor;

    use super::*;

    #[test]
    fn libtorch_reads_the_tensors_bit_for_bit() {
        let shapes = [("conv.weight", vec![4, 3, 2, 2]), ("fc.bias", vec![7]), ("alpha", vec![]), ("none", vec![0, 3])];
        let tensors: Vec<NamedTensor> = shapes
            .map(|(name, shape)| NamedTensor {
                path: name.into(),
                values: (0..shape.iter().product()).map(|i| (i as f32 * 0.7).sin()).collect(),
                shape,
            })
            .into();
        let file = tempfile::NamedTempFile::with_suffix(".pth").unwrap();
        std::fs::write(file.path(), bytes(&tensors).unwrap()).unwrap();
        let found = Tensor::loadz_multi(file.path()).unwrap();
        assert_eq!(found.len(), tensors.len());
        for tensor in &tensors {
            let (_, read) = found.iter().find(|(name, _)| *name == tensor.path).expect("it is there");
            assert_eq!(read.size(), tensor.shape.iter().map(|&side| side as i64).collect::<Vec<_>>());
            assert_eq!(Vec::<f32>::try_from(read.contiguous().reshape(-1)).unwrap(), tensor.values);
        }
        assert_eq!(bytes(&tensors).unwrap(), std::fs::read(file.path()).unwrap());
    }
}
