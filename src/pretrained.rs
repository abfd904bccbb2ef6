//! Weights of another network to start from: ImageNet's ResNet-50 for person re-identification (docs/reid.md).

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};
use crate::state::TensorSpec;

/// What was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Model tensors that the file gave.
    pub found: usize,
    /// Those that it did not, and that keep their random weights.
    pub missing: Vec<String>,
}

/// Overwrites the model's tensors in `state` (laid out by `specs`) that a .safetensors file has under torchvision's names:
/// `backbone.conv1.weight` takes its `conv1.weight`, and the copies of a stage in MGN's branches, `p1.layer4.0.conv1.weight`
/// and so on, its `layer4.0.conv1.weight`. Heads have no such prefix and keep their random weights.
///
/// Errors: no such file; not safetensors; a tensor of another shape or not f32; nothing that fits.
pub fn load(path: &Path, specs: &[TensorSpec], state: &mut [f32]) -> Result<InitReport> {
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|why| {
        let hint = "a .pth file is made one as docs/reid.md says";
        Error::file(path, format!("not a .safetensors file ({why}); {hint}"))
    })?;
    let mut report = InitReport { found: 0, missing: Vec::new() };
    for spec in specs {
        // with an average there are two: it, and the weights that training goes on with
        let Some((group @ ("model" | "last"), name)) = spec.path.split_once('/') else { continue };
        let counts = group == "model";
        let tensor = name.split_once('.').and_then(|(_, name)| file.tensor(name).ok());
        let Some(tensor) = tensor else {
            report.missing.extend(counts.then(|| name.to_owned()));
            continue;
        };
        if tensor.dtype() != Dtype::F32 || tensor.shape() != spec.shape {
            let (shape, dtype) = (tensor.shape(), tensor.dtype());
            let why = format!("{name} is {shape:?} {dtype:?} there; the network needs {:?} F32", spec.shape);
            return Err(Error::file(path, why));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(Error::file(path, format!("{name} has a number that is not finite")));
        }
        spec.write(&values, state);
        report.found += usize::from(counts);
    }
    match report.found {
        0 => Err(Error::file(path, "none of its tensors has a name of the network's")),
        _ => Ok(report),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(tensors: &[(&str, Dtype, &[usize], Vec<f32>)]) -> tempfile::NamedTempFile {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, dtype, shape, _), bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).unwrap()));
        let file = tempfile::NamedTempFile::new().unwrap();
        safetensors::serialize_to_file(views, None, file.path()).unwrap();
        file
    }

    fn specs() -> Vec<TensorSpec> {
        let spec = |path: &str, shape: &[usize], offset| TensorSpec {
            path: path.into(),
            shape: shape.into(),
            offset,
            channels_last: shape.len() == 4,
        };
        vec![
            spec("model/p1.layer4.0.conv1.weight", &[1, 2, 1, 2], 0),
            spec("model/p2.layer4.0.conv1.weight", &[1, 2, 1, 2], 4),
            spec("model/fc.weight", &[2], 8), // not torchvision's classifier
            spec("optimizer/p1.layer4.0.conv1.weight/exp_avg", &[1, 2, 1, 2], 10),
        ]
    }

    #[test]
    fn copies_of_a_stage_find_its_name_and_lie_in_memory_as_the_network_wants() {
        let layer = ("layer4.0.conv1.weight", Dtype::F32, &[1, 2, 1, 2][..], vec![1.0, 2.0, 3.0, 4.0]);
        let file = file(&[layer, ("fc.weight", Dtype::F32, &[3], vec![1.0, 2.0, 3.0])]);
        let mut state = vec![0.0; 14];
        let report = load(file.path(), &specs(), &mut state).unwrap();
        assert_eq!(report, InitReport { found: 2, missing: vec!["fc.weight".into()] });
        assert_eq!(state, [1.0, 3.0, 2.0, 4.0, 1.0, 3.0, 2.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn with_an_average_it_and_the_weights_that_train_on_both_start_from_the_file() {
        let mut specs = specs();
        let last = |spec: &TensorSpec| TensorSpec { path: spec.path.replace("model/", "last/"), ..spec.clone() };
        specs.extend(specs.clone().iter().take(3).map(|spec| TensorSpec { offset: spec.offset + 14, ..last(spec) }));
        let file = file(&[("layer4.0.conv1.weight", Dtype::F32, &[1, 2, 1, 2], vec![1.0, 2.0, 3.0, 4.0])]);
        let mut state = vec![0.0; 24];
        let report = load(file.path(), &specs, &mut state).unwrap();
        assert_eq!(report, InitReport { found: 2, missing: vec!["fc.weight".into()] }, "each is counted once");
        assert_eq!(state[14..], state[..10]);
        assert_eq!(state[14..18], [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn files_that_do_not_fit_are_errors_that_say_why() {
        let error =
            |file: tempfile::NamedTempFile| load(file.path(), &specs(), &mut [0.0; 14]).unwrap_err().to_string();
        let of = |dtype, shape, values: Vec<f32>| file(&[("layer4.0.conv1.weight", dtype, shape, values)]);
        let named = "p1.layer4.0.conv1.weight";
        let other_shape = error(of(Dtype::F32, &[1], vec![1.0]));
        let expected = format!("{named} is [1] F32 there; the network needs [1, 2, 1, 2] F32");
        assert!(other_shape.ends_with(&expected), "{other_shape}");
        let other_kind = error(of(Dtype::I32, &[1, 2, 1, 2], vec![1.0; 4]));
        assert!(other_kind.contains("[1, 2, 1, 2] I32 there"), "{other_kind}");
        let broken = error(of(Dtype::F32, &[1, 2, 1, 2], vec![1.0, f32::NAN, 1.0, 1.0]));
        assert!(broken.ends_with(&format!("{named} has a number that is not finite")), "{broken}");
        let unrelated = file(&[("conv.weight", Dtype::F32, &[2], vec![1.0, 2.0])]);
        assert!(error(unrelated).ends_with("none of its tensors has a name of the network's"));
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(text.path(), "PK not this").unwrap();
        assert!(error(text).contains("not a .safetensors file"));
    }
}
