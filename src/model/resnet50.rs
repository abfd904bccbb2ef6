//! ResNet-50 without its classifier (He et al. 2016), as torchvision has it: stride in the 3 x 3 convolutions, its names
//! below a prefix, 23,508,032 parameters. Person re-identification networks are built from its parts.

use tch::{Kind, Tensor};

use super::layers::{BatchNorm, Convolution, NormalisedConvolution};
use super::weights::{Init, TensorLayout, Weights};
use super::{Phase, scaled};

/// (channels of the 3 x 3 convolutions, blocks, stride) of each stage; its outputs have four times the channels.
const STAGES: [(i64, usize, i64); 4] = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)];
const EXPANSION: i64 = 4;

/// Channels of the last stage's output.
pub fn outputs(width: f64) -> i64 {
    EXPANSION * scaled(STAGES[3].0, width)
}

pub struct ResNet50 {
    stem: Stem,
    stages: Vec<Stage>,
}

/// 7 x 7 convolution and 3 x 3 max pooling: a quarter of the size.
pub struct Stem(NormalisedConvolution);

/// Consecutive blocks of a stage.
pub struct Stage(Vec<Bottleneck>);

struct Bottleneck {
    /// 1 x 1, 3 x 3, 1 x 1.
    layers: [NormalisedConvolution; 3],
    shortcut: Option<NormalisedConvolution>,
}

impl ResNet50 {
    /// Names below `prefix`, which ends with a dot or is empty. `width` scales all channels; 1 is the published network.
    /// `last_stride`: of the last stage, 2 as published or 1 for twice the height and width.
    pub fn new(layout: &mut TensorLayout, prefix: &str, width: f64, last_stride: i64) -> ResNet50 {
        let stem = Stem::new(layout, prefix, width);
        let strides = [1, 2, 2, last_stride];
        let stages = (1..=4)
            .map(|number| Stage::new(layout, prefix, number, 0..STAGES[number - 1].1, width, strides[number - 1]))
            .collect();
        ResNet50 { stem, stages }
    }

    /// images [N, 3, H, W] -> the last stage's output [N, 2048, H / 32, W / 32] (rounded up), or twice that size.
    pub fn forward(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Tensor {
        let x = self.stem.forward(weights, images, phase);
        self.stages.iter().fold(x, |x, stage| stage.forward(weights, &x, phase))
    }

    /// images [N, 3, H, W] -> the mean over height and width of `forward`'s result: [N, 2048] f32.
    pub fn average(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Tensor {
        self.forward(weights, images, phase).mean_dim([2i64, 3].as_slice(), false, Kind::Float)
    }
}

impl Stem {
    pub fn new(layout: &mut TensorLayout, prefix: &str, width: f64) -> Stem {
        let channels = scaled(64, width);
        Stem(layer(layout, [prefix, "conv1"], [prefix, "bn1"], [channels, 3, 7, 7], 2))
    }

    pub fn forward(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Tensor {
        let x = self.0.relu(weights, images, phase);
        x.max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)
    }
}

impl Stage {
    /// Blocks `blocks` of stage `number` (1 to 4), the first of which has `stride` if it is the stage's first.
    pub fn new(
        layout: &mut TensorLayout,
        prefix: &str,
        number: usize,
        blocks: std::ops::Range<usize>,
        width: f64,
        stride: i64,
    ) -> Stage {
        let channels = scaled(STAGES[number - 1].0, width);
        let before = if number == 1 { scaled(64, width) } else { EXPANSION * scaled(STAGES[number - 2].0, width) };
        let block = |block: usize| {
            let name = format!("{prefix}layer{number}.{block}.");
            let (inputs, stride) = if block == 0 { (before, stride) } else { (EXPANSION * channels, 1) };
            Bottleneck::new(layout, &name, inputs, channels, stride)
        };
        Stage(blocks.map(block).collect())
    }

    /// The blocks of stage `number` after its first one.
    pub fn rest(layout: &mut TensorLayout, prefix: &str, number: usize, width: f64) -> Stage {
        Stage::new(layout, prefix, number, 1..STAGES[number - 1].1, width, 1)
    }

    /// All blocks of stage `number`.
    pub fn whole(layout: &mut TensorLayout, prefix: &str, number: usize, width: f64, stride: i64) -> Stage {
        Stage::new(layout, prefix, number, 0..STAGES[number - 1].1, width, stride)
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        self.0.iter().fold(x.shallow_clone(), |x, block| block.forward(weights, &x, phase))
    }
}

impl Bottleneck {
    fn new(layout: &mut TensorLayout, name: &str, inputs: i64, channels: i64, stride: i64) -> Bottleneck {
        let outputs = EXPANSION * channels;
        let layers = [
            layer(layout, [name, "conv1"], [name, "bn1"], [channels, inputs, 1, 1], 1),
            layer(layout, [name, "conv2"], [name, "bn2"], [channels, channels, 3, 3], stride),
            layer(layout, [name, "conv3"], [name, "bn3"], [outputs, channels, 1, 1], 1),
        ];
        let shape = [outputs, inputs, 1, 1];
        let shortcut = (stride != 1 || inputs != outputs)
            .then(|| layer(layout, [name, "downsample.0"], [name, "downsample.1"], shape, stride));
        Bottleneck { layers, shortcut }
    }

    fn forward(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        let [first, second, third] = &self.layers;
        let shortcut = self.shortcut.as_ref().map(|layer| layer.forward(weights, x, phase));
        let y = second.relu(weights, &first.relu(weights, x, phase), phase);
        third.add_relu(weights, &y, shortcut.as_ref().unwrap_or(x), phase)
    }
}

/// A convolution without bias and its BatchNorm; shape [O, I, K, K].
pub fn layer(
    layout: &mut TensorLayout,
    convolution: [&str; 2],
    norm: [&str; 2],
    shape: [i64; 4],
    stride: i64,
) -> NormalisedConvolution {
    // Kaiming by fan out, as torchvision's
    let init = Init::Gaussian((2.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt());
    let convolution = Convolution::with_init(layout, &convolution.concat(), shape, stride, init);
    NormalisedConvolution { convolution, norm: BatchNorm::new(layout, &norm.concat(), shape[0]) }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::{Row, assert_rows, fill, images};
    use super::*;
    use tch::Device;

    #[test]
    fn the_published_network_has_25_557_032_parameters_with_its_classifier() {
        let mut layout = TensorLayout::default();
        ResNet50::new(&mut layout, "", 1.0, 2);
        assert_eq!(layout.parameter_count() + 2048 * 1000 + 1000, 25_557_032);
        let (parameters, buffers) = layout.entries();
        assert_eq!(parameters.len() + buffers.len(), 265);
    }

    #[test]
    fn shapes_and_outputs_are_torchvisions() {
        // tests/reference/reid_models.py
        let cases: [(i64, [i64; 4], [Row; 2]); 2] = [
            (
                2,
                [2, 2048, 2, 1],
                [
                    (&[0.057815, 3.174581, 0.0, 0.038815, 1.614789, 0.049287, 0.112755, 0.366576], 45.62128),
                    (&[0.087449, 2.88853, 0.0, 0.024394, 1.595737, 0.16134, 0.218442, 0.348377], 45.50322),
                ],
            ),
            (
                1,
                [2, 2048, 4, 2],
                [
                    (&[0.000975, 1.643052, 0.014839, 0.364683, 1.096416, 0.262766, 0.196721, 0.325094], 49.60218),
                    (&[0.013262, 1.358939, 0.007876, 0.335639, 0.98977, 0.261099, 0.126221, 0.323718], 49.36095),
                ],
            ),
        ];
        for (last_stride, shape, expected) in cases {
            let mut layout = TensorLayout::default();
            let network = ResNet50::new(&mut layout, "", 1.0, last_stride);
            let weights = Weights::new(&layout, 1, Device::Cpu);
            fill(&layout, &weights);
            let images = images(2, 64, 32);
            let output = tch::no_grad(|| network.forward(&weights, &images, Phase::Test));
            assert_eq!(output.size(), shape);
            let average = tch::no_grad(|| network.average(&weights, &images, Phase::Test));
            assert_rows(&average, 256, &expected);
        }
    }
}
