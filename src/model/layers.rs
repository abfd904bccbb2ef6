//! Layers that look their numbers up in `Weights`, with PyTorch's names and defaults.

use tch::{Kind, Tensor};

use super::weights::{Buffer, Init, Layout, Parameter, Role, Weights};

/// Square convolution, padded to keep the size at stride 1.
pub struct Convolution {
    weight: Parameter,
    bias: Option<Parameter>,
    kernel: i64,
    stride: i64,
}

impl Convolution {
    /// Without bias, Kaiming-initialised.
    pub fn new(layout: &mut Layout, name: &str, inputs: i64, outputs: i64, kernel: i64, stride: i64) -> Convolution {
        Convolution::with_init(layout, name, [outputs, inputs, kernel, kernel], stride, Init::Kaiming)
    }

    /// Without bias; shape [O, I, K, K].
    pub fn with_init(layout: &mut Layout, name: &str, shape: [i64; 4], stride: i64, init: Init) -> Convolution {
        let weight = layout.parameter(&format!("{name}.weight"), &shape, init, Role::Weight);
        Convolution { weight, bias: None, kernel: shape[3], stride }
    }

    /// With a bias that starts at 0 and is treated as Caffe's models do.
    pub fn with_fast_bias(layout: &mut Layout, name: &str, shape: [i64; 4], stride: i64, init: Init) -> Convolution {
        let bias = layout.parameter(&format!("{name}.bias"), &shape[..1], Init::Constant(0.0), Role::FastBias);
        Convolution { bias: Some(bias), ..Convolution::with_init(layout, name, shape, stride, init) }
    }

    /// Computes in the kind of `x`; the weights themselves stay f32.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        let weight = weights.parameter(self.weight).to_kind(x.kind());
        let bias = self.bias.map(|bias| weights.parameter(bias).to_kind(x.kind()));
        let padding = self.kernel / 2;
        x.conv2d(&weight, bias.as_ref(), [self.stride; 2], [padding; 2], [1; 2], 1)
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
            weight: layout.parameter(&format!("{name}.weight"), &[channels], Init::Constant(1.0), Role::NormOrBias),
            bias: layout.parameter(&format!("{name}.bias"), &[channels], Init::Constant(0.0), Role::NormOrBias),
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

/// max(0, x) + slope min(0, x), a slope per channel that starts at 0.25.
pub struct Prelu {
    slope: Parameter,
}

impl Prelu {
    pub fn new(layout: &mut Layout, name: &str, channels: i64) -> Prelu {
        let name = format!("{name}.weight");
        Prelu { slope: layout.parameter(&name, &[channels], Init::Constant(0.25), Role::Weight) }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        x.prelu(&weights.parameter(self.slope).to_kind(x.kind()))
    }
}

/// x W^T + b in f32, with Caffe's treatment of the bias.
pub struct Linear {
    weight: Parameter,
    bias: Parameter,
}

impl Linear {
    pub fn with_fast_bias(layout: &mut Layout, name: &str, inputs: i64, outputs: i64, init: Init) -> Linear {
        Linear {
            weight: layout.parameter(&format!("{name}.weight"), &[outputs, inputs], init, Role::Weight),
            bias: layout.parameter(&format!("{name}.bias"), &[outputs], Init::Constant(0.0), Role::FastBias),
        }
    }

    /// x [N, inputs] -> [N, outputs] f32.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        x.to_kind(Kind::Float).linear(weights.parameter(self.weight), Some(weights.parameter(self.bias)))
    }
}
