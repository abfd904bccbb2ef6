//! Weights to start from: safetensors files for a network with a backbone, one branch and a head.

use amlfs::pretrained::take_over;
use amlfs::state::TensorSpec;
use proptest::collection::vec;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};

use super::{bytes, fuzz};

const SHAPES: &[&[usize]] = &[&[1, 2, 1, 2], &[2], &[3], &[0], &[]];

fn specs() -> Vec<TensorSpec> {
    let spec = |path: &str, shape: &[usize], offset| TensorSpec {
        path: path.into(),
        shape: shape.into(),
        offset,
        channels_last: shape.len() == 4,
    };
    vec![
        spec("model/backbone.conv1.weight", &[1, 2, 1, 2], 0),
        spec("model/p1.conv1.weight", &[1, 2, 1, 2], 4),
        spec("model/fc.weight", &[2], 8),
        spec("last/fc.weight", &[2], 10),
    ]
}

#[test]
fn weights_to_start_from() {
    let name = (
        prop::sample::select(&["", "module.", "backbone.", "module.backbone.", "p1."][..]),
        prop::sample::select(&["conv1.weight", "fc.weight", "other"][..]),
    );
    let name = name.prop_map(|(prefix, name)| format!("{prefix}{name}"));
    let shape = prop_oneof![9 => Just(None), 1 => prop::sample::select(SHAPES).prop_map(Some)];
    let value = prop_oneof![99 => -2f32..2.0, 1 => Just(f32::NAN)];
    let tensors = prop::collection::btree_map(name, (shape, vec(value, 4)), 1..5);
    let file = tensors.prop_map(|tensors| {
        let numbers: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .into_iter()
            .map(|(name, (shape, values))| {
                let fitting = if name.ends_with("conv1.weight") { SHAPES[0] } else { SHAPES[1] };
                let shape = shape.unwrap_or(fitting);
                let count = shape.iter().product();
                let bytes = values.into_iter().take(count).flat_map(f32::to_le_bytes).collect();
                (name, shape.to_vec(), bytes)
            })
            .collect();
        let views = numbers
            .iter()
            .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    });
    let specs = specs();
    fuzz("weights", bytes(file), |bytes| {
        let mut state = [7.0; 12];
        let Ok(report) = take_over(&bytes, &specs, &["fc.weight"], &mut state) else { return false };
        assert_eq!(report.found + report.missing.len(), 3, "each tensor of the model is found or missing");
        assert!(report.found > 0 && state.iter().all(|number| number.is_finite()));
        let fc = report.missing.iter().any(|name| name.starts_with("fc.weight"));
        assert_eq!(fc, state[8..] == [7.0; 4], "both or none of the model's and the average's");
        true
    });
}
