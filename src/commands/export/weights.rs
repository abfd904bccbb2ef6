//! A network's weights under their names in PyTorch.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};

use super::{format_of, pth};
use crate::atomic_file;
use crate::checkpoint::{self, NamedTensor};
use crate::cli::{ExportWeightsArguments, WeightsFormat};
use crate::error::{Error, Result};
use crate::terminal;

/// What comes before a .safetensors file's header: its length.
const LENGTH: usize = 8;

pub fn export(arguments: &ExportWeightsArguments) -> Result<()> {
    let ExportWeightsArguments { model, out, format } = arguments;
    let endings = [("safetensors", WeightsFormat::Safetensors), ("pth", WeightsFormat::Pth)];
    let format = format_of(*format, out, endings)?;
    atomic_file::refuse_existing(out)?;
    let checkpoint = checkpoint::read(model)?;
    let tensors: Vec<NamedTensor> = checkpoint
        .tensors
        .into_iter()
        .filter_map(|tensor| Some(NamedTensor { path: tensor.path.strip_prefix("model/")?.to_owned(), ..tensor }))
        .collect();
    let bytes = match format {
        WeightsFormat::Safetensors => {
            // normalisation and training settings are in the configuration
            let metadata = BTreeMap::from([
                ("amlfs_config", checkpoint.info.config),
                ("epoch", checkpoint.epoch.to_string()),
                ("format", "pt".to_owned()),
            ]);
            safetensors(&tensors, &metadata).map_err(|why| Error::file(out, why))?
        }
        WeightsFormat::Pth => pth::bytes(&tensors).map_err(|why| Error::file(out, why))?,
    };
    // not the safetensors' own serialize_to_file: only their owner can read its files
    atomic_file::write_bytes(out, &bytes)?;
    terminal::line(&format!("{}: {} tensors", out.display(), tensors.len()));
    Ok(())
}

/// A .safetensors file: equal content is equal bytes. The library has its metadata in a HashMap, whose order differs from
/// process to process, so they are put into the header here.
fn safetensors(
    tensors: &[NamedTensor],
    metadata: &BTreeMap<&str, String>,
) -> std::result::Result<Vec<u8>, safetensors::SafeTensorError> {
    let values: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|tensor| {
            (&tensor.path, &tensor.shape, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views = values
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()?;
    let without = safetensors::serialize(views, None)?;
    let (length, rest) = without.split_at(LENGTH);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize;
    let (header, numbers) = rest.split_at(length);

    let metadata = serde_json::to_string(metadata).expect("texts are JSON");
    let mut header = [br#"{"__metadata__":"#, metadata.as_bytes(), b",", &header[1..]].concat();
    // the numbers begin at a multiple of 8
    header.resize(header.len().next_multiple_of(LENGTH), b' ');
    Ok([&(header.len() as u64).to_le_bytes()[..], &header, numbers].concat())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;

    #[test]
    fn a_safetensors_file_has_its_metadata_in_order_and_is_what_the_library_reads() {
        let tensors = [("a.weight", vec![2, 3]), ("b", vec![])].map(|(name, shape)| NamedTensor {
            path: name.into(),
            values: (0..shape.iter().product()).map(|i| i as f32 / 3.0).collect(),
            shape,
        });
        let metadata = BTreeMap::from([("z", "1".to_owned()), ("a", "2".into()), ("format", "pt \"\u{e4}\"\n".into())]);
        let bytes = safetensors(&tensors, &metadata).unwrap();
        assert_eq!(&bytes[LENGTH..LENGTH + 30], br#"{"__metadata__":{"a":"2","form"#);
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], metadata["format"]);
        let found = SafeTensors::deserialize(&bytes).unwrap();
        for tensor in &tensors {
            let view = found.tensor(&tensor.path).unwrap();
            assert_eq!(view.shape(), tensor.shape);
            let values: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(view.data(), values);
        }
        assert_eq!(found.len(), 2);
    }
}
