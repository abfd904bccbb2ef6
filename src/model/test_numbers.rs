//! Numbers that tests here and the scripts in tests/reference make alike, so that networks can be compared.

use tch::{Kind, Tensor, no_grad};

use super::{TensorLayout, Weights};

/// Number of classes of the networks in tests/reference/reid_models.py.
pub const CLASSES: usize = 751;

/// `scattered` of tests/reference/: -0.5 to 0.5.
pub fn scattered(count: usize, number: usize) -> Vec<f64> {
    let wave = |i| ((12.9898 * i as f64 + 78.233 * number as f64).sin() * 43758.5453).rem_euclid(1.0) - 0.5;
    (0..count).map(wave).collect()
}

/// Fills a network as tests/reference/reid_models.py does: tensor i, in the order of all names, from `scattered(i)`.
pub fn fill(layout: &TensorLayout, weights: &Weights) {
    let (parameters, buffers) = layout.entries();
    let parameters = parameters.iter().zip(weights.parameters());
    let mut tensors: Vec<_> = parameters.chain(buffers.iter().zip(weights.buffers())).collect();
    tensors.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    no_grad(|| {
        for (number, (entry, tensor)) in tensors.iter().enumerate() {
            let v = Tensor::from_slice(&scattered(entry.count(), number)).reshape(&entry.shape);
            let fan_in = entry.count() as f64 / entry.shape[0] as f64;
            let last = entry.name.rsplit('.').next().unwrap();
            let values = match last {
                "weight" if entry.shape.len() > 1 => v * (12.0 / fan_in).sqrt(),
                "weight" if entry.name == "prelu.weight" => v * 0.2 + 0.25,
                "weight" => v * 0.4 + 1.0,
                "running_var" => v + 1.0,
                _ => v * 0.2,
            };
            tensor.shallow_clone().copy_(&values);
        }
    });
}

/// Images [N, 3, H, W] as the scripts have them.
pub fn images(count: usize, height: usize, width: usize) -> Tensor {
    let values = scattered(count * 3 * height * width, 9999);
    let images = (Tensor::from_slice(&values) * 2.0).to_kind(Kind::Float);
    images.reshape([count as i64, 3, height as i64, width as i64])
}

/// Some components of a row, and its norm.
pub type Row<'a> = (&'a [f32], f64);

/// Compares every `step`-th component of rows [N, D], and the rows' norms, with what the scripts print.
pub fn assert_rows(found: &Tensor, step: i64, expected: &[Row]) {
    let components = found.slice(1, None, None, step).contiguous();
    let norms = found.norm_scalaropt_dim(2, [1i64].as_slice(), false);
    assert_eq!(found.size()[0] as usize, expected.len());
    for (row, (values, norm)) in expected.iter().enumerate() {
        let row = row as i64;
        let components = components.get(row);
        assert!(components.allclose(&Tensor::from_slice(values), 1e-4, 1e-4, false), "row {row}: {components}");
        let found = norms.double_value(&[row]);
        assert!((found / norm - 1.0).abs() < 1e-4, "row {row}: norm {found}, not {norm}");
    }
}
