//! Networks. A `Model` is the architecture alone and is shared by all replicas; the numbers are in `Weights`.

mod layers;
mod resnet_cifar;
mod sphereface;
mod weights;

pub use layers::{BatchNorm, Convolution, Linear, Prelu};
pub use resnet_cifar::ResNetCifar;
pub use sphereface::SphereFace;
pub use weights::{Buffer, Entry, Init, Layout, Parameter, Role, Weights};

use tch::Tensor;

use crate::config;

pub trait Model: Send + Sync {
    /// images [N, 3, H, W], f32 or the precision of the convolutions, channels_last -> embeddings [N, D] f32.
    /// `train`: BatchNorm uses the batch's statistics and updates the running ones.
    fn embed(&self, weights: &Weights, images: &Tensor, train: bool) -> Tensor;

    /// The class weights W [C, D] of the softmax branch.
    fn classifier(&self) -> Parameter;
}

/// Name of the class weights.
pub fn classifier_name(config: &config::Model) -> &'static str {
    match config.name {
        config::ModelName::ResnetCifar => "linear.weight",
        config::ModelName::Sphereface => "fc6.weight",
    }
}

/// The network of a configuration for images of `size` (height, width) and `classes` classes, and the tensors it wants.
pub fn build(config: &config::Model, size: (usize, usize), classes: usize) -> (Box<dyn Model>, Layout) {
    let mut layout = Layout::default();
    let model: Box<dyn Model> = match config.name {
        config::ModelName::ResnetCifar => Box::new(ResNetCifar::new(&mut layout, config.depth, classes)),
        config::ModelName::Sphereface => Box::new(SphereFace::new(&mut layout, size, config.width, classes)),
    };
    (model, layout)
}
