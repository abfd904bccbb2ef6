//! ResNet for 32 x 32 images (He et al. 2016, section 4.2): depth 6n + 2, stages of 16, 32, 64 channels, option A
//! shortcuts. ResNet-20 has 269,722 parameters with the usual biased classifier; ours has no bias (AM-LFS
//! equation 2: f_j = W_j^T x), hence 269,712.

use tch::{Kind, Tensor};

use super::layers::{BatchNorm, Convolution, NormalisedConvolution};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase};

pub struct ResNetCifar {
    stem: NormalisedConvolution,
    blocks: Vec<BasicBlock>,
    classifier: Parameter,
}

struct BasicBlock {
    first: NormalisedConvolution,
    second: NormalisedConvolution,
    /// Channels that the shortcut lacks; 0: the identity.
    widened_by: i64,
}

impl ResNetCifar {
    /// `depth` = 6n + 2. Names as in akamaster/pytorch_resnet_cifar10.
    pub fn new(layout: &mut TensorLayout, depth: usize, classes: usize) -> ResNetCifar {
        let mut layer = |conv: &str, norm: &str, inputs: i64, outputs: i64, stride: i64| {
            let convolution = Convolution::new(layout, conv, inputs, outputs, 3, stride);
            NormalisedConvolution { convolution, norm: BatchNorm::new(layout, norm, outputs) }
        };
        let stem = layer("conv1", "bn1", 3, 16, 1);
        let mut blocks = Vec::new();
        let mut inputs = 16;
        for (stage, channels) in [16, 32, 64].into_iter().enumerate() {
            for block in 0..(depth - 2) / 6 {
                let stride = if channels == inputs { 1 } else { 2 };
                let name = format!("layer{}.{block}", stage + 1);
                blocks.push(BasicBlock {
                    first: layer(&format!("{name}.conv1"), &format!("{name}.bn1"), inputs, channels, stride),
                    second: layer(&format!("{name}.conv2"), &format!("{name}.bn2"), channels, channels, 1),
                    widened_by: channels - inputs,
                });
                inputs = channels;
            }
        }
        let classifier = layout.parameter("linear.weight", &[classes as i64, 64], Init::Kaiming, Role::Weight);
        ResNetCifar { stem, blocks, classifier }
    }
}

impl Model for ResNetCifar {
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
        let mut x = self.stem.relu(weights, images, phase);
        for block in &self.blocks {
            let y = block.first.relu(weights, &x, phase);
            x = block.second.add_relu(weights, &y, &block.shortcut(&x), phase);
        }
        Features::of_one_branch(x.mean_dim([2i64, 3].as_slice(), false, Kind::Float))
    }

    fn classifiers(&self) -> &[Parameter] {
        std::slice::from_ref(&self.classifier)
    }
}

impl BasicBlock {
    /// Option A: every second pixel, and zeros for the new channels, half of them on each side.
    fn shortcut(&self, x: &Tensor) -> Tensor {
        if self.widened_by == 0 {
            return x.shallow_clone();
        }
        let side = self.widened_by / 2;
        x.slice(2, None, None, 2).slice(3, None, None, 2).constant_pad_nd([0, 0, 0, 0, side, side])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dropout;
    use super::*;
    use tch::Device;

    fn network(depth: usize) -> (ResNetCifar, TensorLayout) {
        let mut layout = TensorLayout::default();
        (ResNetCifar::new(&mut layout, depth, 10), layout)
    }

    #[test]
    fn parameter_counts_are_the_published_ones_less_the_classifiers_bias() {
        for (depth, published) in [(20, 269_722), (32, 464_154), (56, 853_018)] {
            assert_eq!(network(depth).1.parameter_count(), published - 10);
        }
    }

    #[test]
    fn embeddings_have_64_dimensions_and_batch_statistics_change_the_buffers_only_in_training() {
        let (model, layout) = network(8);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let before = weights.flat_buffers.copy();
        assert_eq!(model.embed(&weights, &images).size(), [4, 64]);
        assert!(weights.flat_buffers.equal(&before));
        let dropout = Dropout { seed: 1, step: 0, stream: 0, first: 0 };
        let _ = model.features(&weights, &images, Phase::Train(dropout));
        assert!(!weights.flat_buffers.equal(&before));
    }

    #[test]
    fn bfloat16_is_close_to_f32() {
        let (model, layout) = network(8);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        let images = Tensor::randn([4, 3, 32, 32], (Kind::Float, Device::Cpu));
        let full = model.embed(&weights, &images);
        let half = model.embed(&weights, &images.to_kind(Kind::BFloat16));
        assert_eq!(half.kind(), Kind::Float);
        let error = f64::try_from((&full - half).norm() / full.norm()).unwrap();
        assert!(error < 0.03, "relative error {error}");
    }
}
