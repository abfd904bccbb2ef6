//! Layers that look their numbers up in `Weights`, with PyTorch's names and defaults.

use tch::Tensor;

use super::weights::{Buffer, Init, Layout, Parameter, Weights};

/// Square convolution without bias, Kaiming-initialised, padded to keep the size at stride 1.
pub struct Convolution {
    weight: Parameter,
    kernel: i64,
    stride: i64,
}

impl Convolution {
    pub fn new(layout: &mut Layout, name: &str, inputs: i64, outputs: i64, kernel: i64, stride: i64) -> Convolution {
        let shape = [outputs, inputs, kernel, kernel];
        Convolution {
            weight: layout.parameter(&format!("{name}.weight"), &shape, Init::Kaiming, false),
            kernel,
            stride,
        }
    }

    /// Computes in the kind of `x`; the weights themselves stay f32.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        let weight = weights.parameter(self.weight).to_kind(x.kind());
        let padding = self.kernel / 2;
        x.conv2d::<Tensor>(&weight, None, [self.stride; 2], [padding; 2], [1; 2], 1)
    }
}

/// BatchNorm over N, H, W: momentum 0.1, eps 1e-5, weight 1, bias 0.
pub struct BatchNorm {
    weight: Parameter,
    bias: Parameter,
    running_mean: Buffer,
    running_var: Buffer,
}

impl BatchNorm {
    pub fn new(layout: &mut Layout, name: &str, channels: i64) -> BatchNorm {
        BatchNorm {
            weight: layout.parameter(&format!("{name}.weight"), &[channels], Init::Constant(1.0), true),
            bias: layout.parameter(&format!("{name}.bias"), &[channels], Init::Constant(0.0), true),
            running_mean: layout.buffer(&format!("{name}.running_mean"), &[channels], 0.0),
            running_var: layout.buffer(&format!("{name}.running_var"), &[channels], 1.0),
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor, train: bool) -> Tensor {
        x.batch_norm(
            Some(weights.parameter(self.weight)),
            Some(weights.parameter(self.bias)),
            Some(weights.buffer(self.running_mean)),
            Some(weights.buffer(self.running_var)),
            train,
            0.1,
            1e-5,
            true,
        )
    }
}
