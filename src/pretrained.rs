//! Weights to start from: another run's network, or ImageNet's ResNet-50 for person re-identification (docs/reid.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::tensor::TensorView;
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
    /// The file's tensors that nothing took.
    pub unused: Vec<String>,
}

/// `take_over` from a file. Errors: no such file, or its.
pub fn load(path: &Path, specs: &[TensorSpec], classifiers: &[&str], state: &mut [f32]) -> Result<InitReport> {
    if path.is_dir() {
        let why = "a directory; --init takes a .safetensors file, which 'amlfs export weights' makes of a checkpoint";
        return Err(Error::file(path, why));
    }
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    take_over(&bytes, specs, classifiers, state).map_err(|why| Error::file(path, why))
}

/// Overwrites the model's tensors in `state` (laid out by `specs`) that a .safetensors file has: a whole network's of ours
/// (`amlfs export weights`) or a backbone's, each also with `module.` in front (`Tensors::find`). `classifiers`, the class
/// weights, keep their random values if the file's have another shape: it knows other classes.
///
/// Errors: not safetensors; two tensors of one name; another tensor of another shape; one that is not f32 or not finite;
/// nothing that fits.
pub fn take_over(
    bytes: &[u8],
    specs: &[TensorSpec],
    classifiers: &[&str],
    state: &mut [f32],
) -> std::result::Result<InitReport, String> {
    let tensors = Tensors::new(bytes, specs)?;
    let mut report = InitReport { found: 0, missing: Vec::new(), unused: Vec::new() };
    let mut used = BTreeSet::new();
    for spec in specs {
        // with an average there are two: it, and the weights that training goes on with
        let Some((group @ ("model" | "last"), name)) = spec.path.split_once('/') else { continue };
        let counts = group == "model";
        let Some((its_name, tensor)) = tensors.find(name) else {
            report.missing.extend(counts.then(|| name.to_owned()));
            continue;
        };
        let (shape, dtype) = (tensor.shape(), tensor.dtype());
        if shape != spec.shape && classifiers.contains(&name) {
            report.missing.extend(counts.then(|| format!("{name} ({shape:?} there, {:?} here)", spec.shape)));
            continue;
        }
        if dtype != Dtype::F32 || shape != spec.shape {
            let here = format!("the network's {name} is {:?} F32", spec.shape);
            return Err(format!("{its_name} is {shape:?} {dtype:?} there; {here}"));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        let values: Vec<f32> = numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(format!("{its_name} has a number that is not finite"));
        }
        spec.write(&values, state);
        report.found += usize::from(counts);
        used.insert(its_name);
    }
    let names = || tensors.by_name.values().map(|(name, _)| name);
    if report.found == 0 {
        let [theirs, ours] = [&mut names().map(String::as_str) as &mut dyn Iterator<Item = &str>, &mut model(specs)]
            .map(|names| names.take(3).collect::<Vec<_>>().join(", "));
        return Err(format!("none of its tensors ({theirs} ...) has a name of the network's ({ours} ...)"));
    }
    report.unused = names().filter(|name| !used.contains(name.as_str())).cloned().collect();
    Ok(report)
}

const BACKBONE: &str = "backbone.";

/// Names of the model's tensors.
fn model(specs: &[TensorSpec]) -> impl Iterator<Item = &str> {
    specs.iter().filter_map(|spec| spec.path.strip_prefix("model/"))
}

/// A file's tensors, each with its name, by the name without `module.`.
struct Tensors<'a> {
    by_name: BTreeMap<String, (String, TensorView<'a>)>,
    /// Whether the file's names, and whether our network's, tell a backbone from heads.
    with_backbone: bool,
    ours_with_backbone: bool,
}

impl<'a> Tensors<'a> {
    /// Errors: not safetensors; two tensors of one name.
    fn new(bytes: &'a [u8], specs: &[TensorSpec]) -> std::result::Result<Tensors<'a>, String> {
        let file = SafeTensors::deserialize(bytes).map_err(|why| match bytes.starts_with(b"\x89HDF") {
            true => "an HDF5 file; of a checkpoint, 'amlfs export weights' makes a .safetensors file".to_owned(),
            false => format!("not a .safetensors file ({why}); a .pth file is made one as docs/reid.md says"),
        })?;
        let mut by_name = BTreeMap::new();
        for (name, tensor) in file.iter() {
            let short = name.trim_start_matches("module.").to_owned();
            if let Some((other, _)) = by_name.insert(short, (name.to_owned(), tensor)) {
                return Err(format!("{other} and {name} are one tensor twice"));
            }
        }
        let with_backbone = by_name.keys().any(|name| name.starts_with(BACKBONE));
        let ours_with_backbone = model(specs).any(|name| name.starts_with(BACKBONE));
        Ok(Tensors { by_name, with_backbone, ours_with_backbone })
    }

    /// The tensor for ours called `name`, with its own name.
    ///
    /// A network of one part takes what has its names, also below `backbone.`. One with heads takes a whole network's
    /// tensors by their names, and of a file without `backbone.` only the backbone's: the file's `fc.weight` would be
    /// another network's classifier. MGN's branches, `p1.layer4.0.conv1.weight` and so on, are copies of the backbone's
    /// `layer4.0.conv1.weight` unless the file has branches itself.
    fn find(&self, name: &str) -> Option<(&str, &TensorView<'a>)> {
        let branch = ["p1.", "p2.", "p3."].iter().find_map(|prefix| name.strip_prefix(prefix));
        let inner = name.strip_prefix(BACKBONE).or(branch);
        let below = |name: &str| format!("{BACKBONE}{name}");
        let names = match (self.ours_with_backbone, self.with_backbone) {
            (false, _) => vec![name.to_owned(), below(name)],
            (true, true) => [Some(name.to_owned()), branch.map(below)].into_iter().flatten().collect(),
            (true, false) => inner.map(str::to_owned).into_iter().collect(),
        };
        let (name, tensor) = names.iter().find_map(|name| self.by_name.get(name))?;
        Some((name, tensor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    fn spec(path: &str, shape: &[usize], offset: usize) -> TensorSpec {
        TensorSpec { path: path.into(), shape: shape.into(), offset, channels_last: shape.len() == 4 }
    }

    /// A network with a backbone, MGN's branches and a head.
    fn specs() -> Vec<TensorSpec> {
        vec![
            spec("model/p1.layer4.0.conv1.weight", &[1, 2, 1, 2], 0),
            spec("model/p2.layer4.0.conv1.weight", &[1, 2, 1, 2], 4),
            spec("model/fc.weight", &[2], 8),
            spec("model/backbone.bn1.weight", &[1], 10),
            spec("model/bn1.weight", &[2], 11),
            spec("optimizer/p1.layer4.0.conv1.weight/exp_avg", &[1, 2, 1, 2], 13),
        ]
    }

    const LENGTH: usize = 17;

    /// What `specs` takes over from a file with tensors of these names, shapes and values.
    fn loaded(tensors: &[(&str, &[usize], &[f32])]) -> Result<(InitReport, Vec<f32>)> {
        let tensors: Vec<_> =
            tensors.iter().map(|(name, shape, values)| (*name, Dtype::F32, *shape, values.to_vec())).collect();
        let mut state = vec![0.0; LENGTH];
        load(file(&tensors).path(), &specs(), &["fc.weight"], &mut state).map(|report| (report, state))
    }

    #[test]
    fn a_backbones_tensors_are_found_and_lie_in_memory_as_the_network_wants() {
        let layer = [1.0, 2.0, 3.0, 4.0];
        for prefix in ["", "module.", "backbone.", "module.backbone."] {
            let name = |name: &str| format!("{prefix}{name}");
            let (conv, norm, classifier) = (name("layer4.0.conv1.weight"), name("bn1.weight"), name("fc.weight"));
            let tensors: [(&str, &[usize], &[f32]); 3] =
                [(&conv, &[1, 2, 1, 2], &layer), (&norm, &[1], &[5.0]), (&classifier, &[3], &[1.0; 3])];
            let (report, state) = loaded(&tensors).unwrap();
            let missing = ["fc.weight", "bn1.weight"].map(String::from).to_vec();
            assert_eq!(report, InitReport { found: 3, missing, unused: vec![classifier.clone()] }, "{prefix}");
            assert_eq!(state[..12], [1.0, 3.0, 2.0, 4.0, 1.0, 3.0, 2.0, 4.0, 0.0, 0.0, 5.0, 0.0], "{prefix}");
        }
    }

    #[test]
    fn a_whole_networks_tensors_are_found_by_their_own_names() {
        for prefix in ["", "module."] {
            let names = specs().into_iter().filter_map(|spec| Some(spec.path.strip_prefix("model/")?.to_owned()));
            let names: Vec<String> = names.map(|name| format!("{prefix}{name}")).collect();
            let tensors: [(&str, &[usize], &[f32]); 5] = [
                (&names[0], &[1, 2, 1, 2], &[1.0; 4]),
                (&names[1], &[1, 2, 1, 2], &[2.0; 4]),
                (&names[2], &[2], &[3.0; 2]),
                (&names[3], &[1], &[4.0]),
                (&names[4], &[2], &[5.0; 2]),
            ];
            let (report, state) = loaded(&tensors).unwrap();
            assert_eq!(report, InitReport { found: 5, missing: vec![], unused: vec![] });
            assert_eq!(state[..13], [1., 1., 1., 1., 2., 2., 2., 2., 3., 3., 4., 5., 5.]);
        }
    }

    #[test]
    fn class_weights_of_other_classes_stay_random_and_are_told() {
        let (report, state) = loaded(&[("backbone.bn1.weight", &[1], &[4.0]), ("fc.weight", &[3], &[3.0; 3])]).unwrap();
        assert!(report.missing.contains(&"fc.weight ([3] there, [2] here)".into()), "{report:?}");
        assert_eq!((report.found, &state[8..10]), (1, &[0.0, 0.0][..]));
    }

    #[test]
    fn a_network_without_a_backbone_takes_what_has_its_names() {
        let specs = [spec("model/conv1_1.weight", &[2], 0), spec("model/fc6.weight", &[2], 2)];
        for prefix in ["", "module.", "backbone."] {
            let names = ["conv1_1.weight", "fc6.weight"].map(|name| format!("{prefix}{name}"));
            let tensors = names.each_ref().map(|name| (name.as_str(), Dtype::F32, &[2usize][..], vec![7.0; 2]));
            let mut state = vec![0.0; 4];
            let report = load(file(&tensors).path(), &specs, &["fc6.weight"], &mut state).unwrap();
            assert_eq!((report.found, state), (2, vec![7.0; 4]), "{prefix}");
        }
    }

    #[test]
    fn with_an_average_it_and_the_weights_that_train_on_both_start_from_the_file() {
        let mut specs = specs();
        let last = |spec: &TensorSpec| TensorSpec { path: spec.path.replace("model/", "last/"), ..spec.clone() };
        specs
            .extend(specs.clone().iter().take(5).map(|spec| TensorSpec { offset: spec.offset + LENGTH, ..last(spec) }));
        let file = file(&[("layer4.0.conv1.weight", Dtype::F32, &[1, 2, 1, 2], vec![1.0, 2.0, 3.0, 4.0])]);
        let mut state = vec![0.0; LENGTH + 13];
        let report = load(file.path(), &specs, &[], &mut state).unwrap();
        assert_eq!((report.found, report.missing.len()), (2, 3), "each is counted once");
        assert_eq!(state[LENGTH..], state[..13]);
        assert_eq!(state[LENGTH..LENGTH + 4], [1.0, 3.0, 2.0, 4.0]);
    }

    #[test]
    fn files_that_do_not_fit_are_errors_that_say_why() {
        let error = |file: tempfile::NamedTempFile| {
            load(file.path(), &specs(), &["fc.weight"], &mut [0.0; LENGTH]).unwrap_err().to_string()
        };
        let of = |dtype, shape, values: Vec<f32>| file(&[("module.layer4.0.conv1.weight", dtype, shape, values)]);
        let other_shape = error(of(Dtype::F32, &[1], vec![1.0]));
        let expected =
            "module.layer4.0.conv1.weight is [1] F32 there; the network's p1.layer4.0.conv1.weight is [1, 2, 1, 2] F32";
        assert!(other_shape.ends_with(expected), "{other_shape}");
        let other_kind = error(of(Dtype::I32, &[1, 2, 1, 2], vec![1.0; 4]));
        assert!(other_kind.contains("[1, 2, 1, 2] I32 there"), "{other_kind}");
        let broken = error(of(Dtype::F32, &[1, 2, 1, 2], vec![1.0, f32::NAN, 1.0, 1.0]));
        assert!(broken.ends_with("layer4.0.conv1.weight has a number that is not finite"), "{broken}");
        let one = |name| (name, Dtype::F32, &[2usize][..], vec![1.0, 2.0]);
        let unrelated = error(file(&[one("base.conv.weight")]));
        let expected =
            "none of its tensors (base.conv.weight ...) has a name of the network's (p1.layer4.0.conv1.weight, ";
        assert!(unrelated.contains(expected), "{unrelated}");
        let twice = error(file(&[one("module.bn1.weight"), one("bn1.weight")]));
        assert!(twice.ends_with("bn1.weight are one tensor twice"), "{twice}");
        let directory = tempfile::tempdir().unwrap();
        let of_directory = load(directory.path(), &specs(), &[], &mut [0.0; LENGTH]).unwrap_err().to_string();
        assert!(of_directory.contains("a directory; --init takes a .safetensors file"), "{of_directory}");
        for (bytes, why) in
            [(&b"PK not this"[..], "not a .safetensors file"), (b"\x89HDF\r\n\x1a\n", "'amlfs export weights'")]
        {
            let text = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(text.path(), bytes).unwrap();
            let error = error(text);
            assert!(error.contains(why), "{error}");
        }
    }
}
