//! The 20-layer network of SphereFace (Liu et al. 2017), which AM-Softmax and AM-LFS train: four stages, each a
//! convolution of stride 2 and then residual units; no BatchNorm, no pooling. wy1iu/sphereface:
//! train/code/sphereface_model.prototxt, names as there and in clcarwin/sphereface_pytorch. At 112 x 96 it has
//! 22,666,944 parameters up to the embedding.

use tch::Tensor;

use super::layers::{Convolution, Linear, Prelu};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase, scaled};

/// (channels, residual units) of each stage.
const STAGES: [(i64, usize); 4] = [(64, 1), (128, 2), (256, 4), (512, 1)];
const EMBEDDING: i64 = 512;

pub struct SphereFace {
    stages: Vec<Stage>,
    embedding: Linear,
    classifier: Parameter,
}

struct Stage {
    head: Layer,
    units: Vec<[Layer; 2]>,
}

struct Layer {
    convolution: Convolution,
    activation: Prelu,
}

impl SphereFace {
    /// For images of `size` (height, width). `width` scales all channels and the embedding; 1 is the published network.
    pub fn new(layout: &mut TensorLayout, size: (usize, usize), width: f64, classes: usize) -> SphereFace {
        let scaled = |channels| scaled(channels, width);
        let mut inputs = 3;
        let mut stages = Vec::new();
        for (stage, (channels, units)) in STAGES.into_iter().enumerate() {
            let channels = scaled(channels);
            let mut layer = |number: usize, inputs: i64| {
                let name = format!("conv{}_{number}", stage + 1);
                let shape = [channels, inputs, 3, 3];
                let convolution = match number {
                    1 => Convolution::with_fast_bias(layout, &name, shape, 2, Init::Xavier),
                    _ => Convolution::with_init(layout, &name, shape, 1, Init::Gaussian(0.01)),
                };
                let activation = Prelu::new(layout, &format!("relu{}_{number}", stage + 1), channels);
                Layer { convolution, activation }
            };
            let head = layer(1, inputs);
            let units = (0..units).map(|unit| [layer(2 * unit + 2, channels), layer(2 * unit + 3, channels)]);
            stages.push(Stage { head, units: units.collect() });
            inputs = channels;
        }
        // each stage's convolution halves the size, rounding up
        let side = |pixels: usize| STAGES.iter().fold(pixels as i64, |pixels, _| (pixels + 1) / 2);
        let pixels = side(size.0) * side(size.1);
        let embedding =
            Linear::with_bias(layout, "fc5", inputs * pixels, scaled(EMBEDDING), Init::Xavier, Role::FastBias);
        let shape = [classes as i64, scaled(EMBEDDING)];
        SphereFace { stages, embedding, classifier: layout.parameter("fc6.weight", &shape, Init::Xavier, Role::Weight) }
    }
}

impl Layer {
    fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        self.activation.forward(weights, &self.convolution.forward(weights, x))
    }
}

impl Model for SphereFace {
    fn features(&self, weights: &Weights, images: &Tensor, _: Phase) -> Features {
        let mut x = images.shallow_clone();
        for stage in &self.stages {
            x = stage.head.forward(weights, &x);
            for [first, second] in &stage.units {
                x = second.forward(weights, &first.forward(weights, &x)) + x;
            }
        }
        Features::of_one_branch(self.embedding.forward(weights, &x.flatten(1, -1)))
    }

    fn classifiers(&self) -> &[Parameter] {
        std::slice::from_ref(&self.classifier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::scattered;
    use super::*;
    use tch::{Device, Kind};

    fn network(width: f64) -> (SphereFace, TensorLayout) {
        let mut layout = TensorLayout::default();
        (SphereFace::new(&mut layout, (112, 96), width, 10), layout)
    }

    #[test]
    fn the_published_network_has_22_666_944_parameters_up_to_the_embedding() {
        let layout = network(1.0).1;
        assert_eq!(layout.parameter_count() - 10 * 512, 22_666_944);
        let entries = layout.entries().0;
        assert_eq!(entries.iter().filter(|entry| entry.name.starts_with("conv") && entry.shape.len() == 4).count(), 20);
        // conv1_1: Xavier's deviation is sqrt(1 / fan_in); the units' is 0.01
        let weights = Weights::new(&layout, 1, Device::Cpu);
        for (name, deviation) in [("conv1_1.weight", (1.0f64 / 27.0).sqrt()), ("conv3_5.weight", 0.01)] {
            let index = entries.iter().position(|entry| entry.name == name).unwrap();
            let found = f64::try_from(weights.parameters()[index].std(false)).unwrap();
            assert!((found / deviation - 1.0).abs() < 0.05, "{name}: {found}");
        }
    }

    #[test]
    fn embeddings_scale_with_the_width_and_other_sizes_fit() {
        let (model, layout) = network(0.125);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        let images = Tensor::randn([2, 3, 112, 96], (Kind::Float, Device::Cpu));
        assert_eq!(model.embed(&weights, &images).size(), [2, 64]);
        let mut layout = TensorLayout::default();
        let model = SphereFace::new(&mut layout, (33, 20), 0.125, 10);
        let images = Tensor::randn([2, 3, 33, 20], (Kind::Float, Device::Cpu));
        assert_eq!(model.embed(&Weights::new(&layout, 1, Device::Cpu), &images).size(), [2, 64]);
    }

    #[test]
    fn shapes_and_outputs_are_those_of_the_same_network_in_pytorch() {
        let (model, layout) = network(1.0);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        // PyTorch numbers a network's parameters in the order of its layers, weight before bias
        let mut entries: Vec<_> = layout.entries().0.into_iter().zip(weights.parameters()).collect();
        entries.retain(|(entry, _)| entry.name != "fc6.weight");
        entries.sort_by_key(|(entry, _)| {
            let (layer, parameter) = entry.name.split_once('.').unwrap();
            let place = layer.trim_start_matches(char::is_alphabetic).to_owned();
            (place, !layer.starts_with("conv"), parameter == "bias")
        });
        let counts: Vec<usize> = entries.iter().map(|(entry, _)| entry.count()).collect();
        let head = |inputs: usize, channels: usize| vec![9 * inputs * channels, channels, channels];
        let units = |channels: usize, units: usize| [9 * channels * channels, channels].repeat(2 * units);
        let expected = [
            [head(3, 64), units(64, 1), head(64, 128), units(128, 2)].concat(),
            [head(128, 256), units(256, 4), head(256, 512), units(512, 1), vec![11_010_048, 512]].concat(),
        ];
        assert_eq!(counts, expected.concat());
        tch::no_grad(|| {
            for (number, (entry, parameter)) in entries.iter().enumerate() {
                let fan_in = entry.count() as f64 / entry.shape[0] as f64;
                let scale = if entry.shape.len() == 1 { 0.25 } else { (12.0 / fan_in).sqrt() };
                let values = Tensor::from_slice(&scattered(entry.count(), number)) * scale;
                parameter.shallow_clone().copy_(&values.reshape(&entry.shape));
            }
        });
        let images = Tensor::from_slice(&scattered(2 * 3 * 112 * 96, 99)).to_kind(Kind::Float).reshape([2, 3, 112, 96]);
        let found = tch::no_grad(|| model.embed(&weights, &images));
        // what tests/reference/sphereface.py prints: every 64th component, and the norms
        let expected = [
            [0.313979, 0.396541, -1.583157, 0.220639, -0.208395, 0.156434, -0.335267, -0.322176],
            [0.567872, 0.344419, -1.56954, 0.091117, -0.201892, 0.186649, -0.188473, -0.311313f32],
        ];
        let components = found.slice(1, None, None, 64).contiguous();
        assert!(components.allclose(&Tensor::from_slice2(&expected), 1e-4, 1e-4, false), "{components}");
        let norms = Vec::<f64>::try_from(found.norm_scalaropt_dim(2, [1i64].as_slice(), false)).unwrap();
        assert!((norms[0] - 12.69164).abs() < 1e-3 && (norms[1] - 12.90345).abs() < 1e-3, "{norms:?}");
    }
}
