//! Layers that look their numbers up in `Weights`, with PyTorch's names and defaults.

use rand::Rng as _;
use tch::{Kind, Tensor};

use super::norm_relu::Norm;
use super::weights::{Buffer, Init, Parameter, Role, TensorLayout, Weights};
use crate::device;
use crate::model::Phase;
use crate::rng::{Purpose, rng};

/// Of BatchNorm's running statistics.
const MOMENTUM: f64 = 0.1;

/// A block of oneDNN's channels, at most. With fewer and a stride its gradient of 1 x 1 weights writes beyond its memory
/// (github.com/uxlfoundation/oneDNN/issues/6035): libtorch 2.13 with AVX2 and no AVX-512, in the layout of channels_last.
const BLOCK: i64 = 16;

/// Square convolution, padded to keep the size at stride 1.
pub struct Convolution {
    weight: Parameter,
    bias: Option<Parameter>,
    kernel: i64,
    stride: i64,
}

impl Convolution {
    /// Without bias, Kaiming-initialised.
    pub fn new(
        layout: &mut TensorLayout,
        name: &str,
        inputs: i64,
        outputs: i64,
        kernel: i64,
        stride: i64,
    ) -> Convolution {
        Convolution::with_init(layout, name, [outputs, inputs, kernel, kernel], stride, Init::Kaiming)
    }

    /// Without bias; shape [O, I, K, K].
    pub fn with_init(layout: &mut TensorLayout, name: &str, shape: [i64; 4], stride: i64, init: Init) -> Convolution {
        let weight = layout.parameter(&format!("{name}.weight"), &shape, init, Role::Weight);
        Convolution { weight, bias: None, kernel: shape[3], stride }
    }

    /// With a bias that starts at 0 and learns twice as fast, without weight decay, as in Caffe's models.
    pub fn with_fast_bias(
        layout: &mut TensorLayout,
        name: &str,
        shape: [i64; 4],
        stride: i64,
        init: Init,
    ) -> Convolution {
        let bias = layout.parameter(&format!("{name}.bias"), &shape[..1], Init::Constant(0.0), Role::FastBias);
        Convolution { bias: Some(bias), ..Convolution::with_init(layout, name, shape, stride, init) }
    }

    /// Computes in the kind of `x`; the weights themselves stay f32.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        let weight = weights.parameter(self.weight).to_kind(x.kind());
        let bias = self.bias.map(|bias| weights.parameter(bias).to_kind(x.kind()));
        let (padding, stride) = (self.kernel / 2, self.stride);
        if self.kernel == 1 && stride > 1 && x.size()[1] < BLOCK {
            // the pixels that it sees, first
            let x = x.slice(2, None, None, stride).slice(3, None, None, stride);
            return x.conv2d(&weight, bias.as_ref(), [1; 2], [0; 2], [1; 2], 1);
        }
        x.conv2d(&weight, bias.as_ref(), [stride; 2], [padding; 2], [1; 2], 1)
    }
}

/// BatchNorm over all dimensions but the channels': weight 1, bias 0.
pub struct BatchNorm {
    weight: Parameter,
    bias: Parameter,
    running_mean: Buffer,
    running_var: Buffer,
    eps: f64,
}

impl BatchNorm {
    /// eps is 1e-5.
    pub fn new(layout: &mut TensorLayout, name: &str, channels: i64) -> BatchNorm {
        BatchNorm::with_eps(layout, name, channels, 1e-5)
    }

    pub fn with_eps(layout: &mut TensorLayout, name: &str, channels: i64, eps: f64) -> BatchNorm {
        BatchNorm {
            weight: layout.parameter(&format!("{name}.weight"), &[channels], Init::Constant(1.0), Role::NormOrBias),
            bias: layout.parameter(&format!("{name}.bias"), &[channels], Init::Constant(0.0), Role::NormOrBias),
            running_mean: layout.buffer(&format!("{name}.running_mean"), &[channels], 0.0),
            running_var: layout.buffer(&format!("{name}.running_var"), &[channels], 1.0),
            eps,
        }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        x.batch_norm(
            Some(weights.parameter(self.weight)),
            Some(weights.parameter(self.bias)),
            Some(weights.buffer(self.running_mean)),
            Some(weights.buffer(self.running_var)),
            phase != Phase::Test,
            MOMENTUM,
            self.eps,
            true,
        )
    }

    /// max(0, `forward` + shortcut).
    fn relu(&self, weights: &Weights, x: &Tensor, shortcut: Option<&Tensor>, phase: Phase) -> Tensor {
        let norm = Norm {
            weight: weights.parameter(self.weight),
            bias: weights.parameter(self.bias),
            running_mean: weights.buffer(self.running_mean),
            running_var: weights.buffer(self.running_var),
            momentum: MOMENTUM,
            eps: self.eps,
        };
        if phase != Phase::Test
            && let Some(y) = norm.relu(x, shortcut)
        {
            return y;
        }
        let mut y = self.forward(weights, x, phase);
        if let Some(shortcut) = shortcut {
            y = y.g_add_(shortcut);
        }
        y.relu_()
    }
}

/// A convolution and its BatchNorm.
pub struct NormalisedConvolution {
    pub convolution: Convolution,
    pub norm: BatchNorm,
}

impl NormalisedConvolution {
    pub fn forward(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        self.norm.forward(weights, &self.convolution.forward(weights, x), phase)
    }

    /// max(0, `forward`).
    pub fn relu(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        self.norm.relu(weights, &self.convolution.forward(weights, x), None, phase)
    }

    /// max(0, `forward` + shortcut).
    pub fn add_relu(&self, weights: &Weights, x: &Tensor, shortcut: &Tensor, phase: Phase) -> Tensor {
        self.norm.relu(weights, &self.convolution.forward(weights, x), Some(shortcut), phase)
    }
}

/// max(0, x) + slope min(0, x), a slope per channel that starts at 0.25.
pub struct Prelu {
    slope: Parameter,
}

impl Prelu {
    pub fn new(layout: &mut TensorLayout, name: &str, channels: i64) -> Prelu {
        let name = format!("{name}.weight");
        Prelu { slope: layout.parameter(&name, &[channels], Init::Constant(0.25), Role::Weight) }
    }

    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        x.prelu(&weights.parameter(self.slope).to_kind(x.kind()))
    }
}

/// x W^T + b in f32.
pub struct Linear {
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    /// Without bias.
    pub fn new(layout: &mut TensorLayout, name: &str, inputs: i64, outputs: i64, init: Init) -> Linear {
        let weight = layout.parameter(&format!("{name}.weight"), &[outputs, inputs], init, Role::Weight);
        Linear { weight, bias: None }
    }

    /// With a bias that starts at 0; `role` is `NormOrBias` or `FastBias`.
    pub fn with_bias(
        layout: &mut TensorLayout,
        name: &str,
        inputs: i64,
        outputs: i64,
        init: Init,
        role: Role,
    ) -> Linear {
        let bias = layout.parameter(&format!("{name}.bias"), &[outputs], Init::Constant(0.0), role);
        Linear { bias: Some(bias), ..Linear::new(layout, name, inputs, outputs, init) }
    }

    /// x [N, inputs] -> [N, outputs] f32.
    pub fn forward(&self, weights: &Weights, x: &Tensor) -> Tensor {
        let bias = self.bias.map(|bias| weights.parameter(bias));
        x.to_kind(Kind::Float).linear(weights.parameter(self.weight), bias)
    }
}

/// What dropout's masks are drawn from: an example's mask is the same on any number of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropout {
    pub seed: u64,
    /// Training step of the run, and the sample's stream of random numbers.
    pub step: u64,
    pub stream: u64,
    /// Place in the batch of the first example.
    pub first: u64,
}

impl Dropout {
    /// x [N, D] f32 with each number dropped with probability 1/2, the others doubled.
    pub fn drop_half(&self, x: &Tensor) -> Tensor {
        let (rows, columns) = (x.size()[0] as u64, x.size()[1] as usize);
        let mut bits = vec![0u8; rows as usize * columns];
        for (row, bits) in (self.first..self.first + rows).zip(bits.chunks_exact_mut(columns)) {
            rng(self.seed, Purpose::Dropout, &[self.step, self.stream, row]).fill_bytes(bits);
        }
        bits.iter_mut().for_each(|byte| *byte = (*byte & 1) * 2);
        x * device::send(&Tensor::from_slice(&bits).view_as(x), x.device()).to_kind(Kind::Float)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::scattered;
    use super::*;
    use tch::Device;

    #[test]
    fn convolutions_of_few_channels_with_a_stride_have_the_gradients_of_f64() {
        for (channels, outputs, kernel, size) in
            [(4, 8, 1, 8), (4, 8, 1, 7), (8, 16, 1, 4), (4, 8, 3, 8), (20, 40, 1, 8)]
        {
            let mut layout = TensorLayout::default();
            let convolution = Convolution::new(&mut layout, "conv", channels, outputs, kernel, 2);
            let weights = Weights::new(&layout, 1, Device::Cpu);
            let count = 20 * channels * size * size;
            let pixels = Tensor::from_slice(&scattered(count as usize, 1)).view([20, size, size, channels]);
            let like_images = |kind| pixels.to_kind(kind).permute([0, 3, 1, 2]).set_requires_grad(true);
            let (x, exact_x) = (like_images(Kind::Float), like_images(Kind::Double));
            let weight = weights.parameter(convolution.weight);
            let exact_weight = weight.detach().to_kind(Kind::Double).set_requires_grad(true);
            let padding = kernel / 2;
            let exact = exact_x.conv2d(&exact_weight, None::<&Tensor>, [2; 2], [padding; 2], [1; 2], 1);
            exact.square().sum(Kind::Double).backward();
            // a broken heap shows soon
            for _ in 0..20 {
                convolution.forward(&weights, &x).square().sum(Kind::Float).backward();
            }
            let y = convolution.forward(&weights, &x);
            assert_eq!(y.size(), exact.size());
            for (found, exact, times) in [
                (y.detach(), exact.detach(), 1.0),
                (x.grad(), exact_x.grad(), 20.0),
                (weight.grad(), exact_weight.grad(), 20.0),
            ] {
                let error = (found.to_kind(Kind::Double) / times - &exact).norm() / exact.norm();
                let error = f64::try_from(error).unwrap();
                assert!(error < 1e-5, "{channels} channels, kernel {kernel}, size {size}: {error}");
            }
        }
    }

    #[test]
    fn dropout_drops_half_whatever_the_parts_of_a_batch() {
        let dropout = Dropout { seed: 1, step: 5, stream: 0, first: 0 };
        let x = Tensor::ones([64, 512], (Kind::Float, Device::Cpu));
        let whole = dropout.drop_half(&x);
        let kept = whole.eq(2.0).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(kept + whole.eq(0.0).sum(Kind::Int64).int64_value(&[]), 64 * 512);
        assert!((kept - 32 * 512).abs() < 500, "{kept}"); // 5 deviations of 91
        let part = Dropout { first: 40, ..dropout }.drop_half(&x.narrow(0, 0, 24));
        assert!(part.equal(&whole.narrow(0, 40, 24)));
        assert!(!Dropout { step: 6, ..dropout }.drop_half(&x).equal(&whole));
    }
}
