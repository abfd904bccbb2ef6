//! Networks. A `Model` is the architecture alone and is shared by all replicas; the numbers are in `Weights`.

mod layers;
mod mgn;
mod norm_relu;
mod resnet;
mod resnet50;
mod resnet_cifar;
mod sft;
mod sphere_reid;
mod sphereface;
#[cfg(test)]
mod test_numbers;
mod weights;

pub use layers::{BatchNorm, Convolution, Dropout, Linear, Prelu};
pub use mgn::Mgn;
pub use resnet::ResNet;
pub use resnet_cifar::ResNetCifar;
pub use resnet50::ResNet50;
pub use sft::Sft;
pub use sphere_reid::SphereReid;
pub use sphereface::SphereFace;
pub use weights::{Buffer, Entry, Init, Parameter, Role, TensorLayout, Weights};

use tch::Tensor;

use crate::config::{self, ModelName};

pub trait Model: Send + Sync {
    /// images [N, 3, H, W], f32 or the precision of the convolutions, channels_last -> what the losses see.
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features;

    /// The class weights W [C, D] of each softmax branch. The searched loss, or the fixed one in its place, is theirs.
    fn classifiers(&self) -> &[Parameter];

    /// images as above -> test-time embeddings [N, D] f32.
    fn embed(&self, weights: &Weights, images: &Tensor) -> Tensor {
        self.features(weights, images, Phase::Test).softmax.swap_remove(0)
    }
}

/// In training, BatchNorm uses the batch's statistics and updates the running ones, and dropout drops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Phase {
    Train(Dropout),
    Test,
}

/// What the losses of a network with several branches see.
pub struct Features {
    /// One for each of `Model::classifiers`, [N, D] f32; or [kN, D], for which the labels repeat.
    pub softmax: Vec<Tensor>,
    /// [N, D] f32: what the triplet loss compares; none for networks without one.
    pub triplet: Vec<Tensor>,
}

impl Features {
    pub fn of_one_branch(features: Tensor) -> Features {
        Features { softmax: vec![features], triplet: Vec::new() }
    }
}

/// Names of the class weights.
pub fn classifier_names(config: &config::Model) -> &'static [&'static str] {
    match config.name {
        ModelName::ResnetCifar => &["linear.weight"],
        ModelName::Resnet => &["fc.weight"],
        ModelName::Sphereface => &["fc6.weight"],
        ModelName::SphereReid | ModelName::Sft => &["classifier.weight"],
        ModelName::Mgn => &mgn::CLASSIFIERS,
    }
}

/// The network of a configuration for images of `size` (height, width) and `classes` classes, and the tensors it wants.
pub fn build(config: &config::Model, size: (usize, usize), classes: usize) -> (Box<dyn Model>, TensorLayout) {
    let (mut layout, width) = (TensorLayout::default(), config.width);
    let model: Box<dyn Model> = match config.name {
        ModelName::ResnetCifar => Box::new(ResNetCifar::new(&mut layout, config.depth, classes)),
        ModelName::Resnet => Box::new(ResNet::new(&mut layout, config.depth, width, classes)),
        ModelName::Sphereface => Box::new(SphereFace::new(&mut layout, size, width, classes)),
        ModelName::SphereReid => Box::new(SphereReid::new(&mut layout, width, config.last_stride, classes)),
        ModelName::Sft => Box::new(Sft::new(&mut layout, width, config.last_stride, classes)),
        ModelName::Mgn => Box::new(Mgn::new(&mut layout, width, classes)),
    };
    (model, layout)
}

/// A number of channels or dimensions at `width` times the published one.
fn scaled(channels: i64, width: f64) -> i64 {
    ((channels as f64 * width).round() as i64).max(1)
}
