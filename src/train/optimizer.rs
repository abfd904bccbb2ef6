//! SGD, Adam and AMSGrad on the flat parameter buffer, with PyTorch's definitions. Ours, because tch's optimisers
//! can't save their state.

use tch::{Tensor, no_grad_guard};

use crate::config::{self, OptimizerName};
use crate::model::{Role, TensorLayout};

const BETAS: (f64, f64) = (0.9, 0.999);
const EPS: f64 = 1e-8;

pub struct Optimizer {
    name: OptimizerName,
    momentum: f64,
    nesterov: bool,
    /// [P]: weight decay of each element (L2: added to the gradient).
    decay: Tensor,
    /// [P]: factor of each element's learning rate; `None`: all are 1.
    factors: Option<Tensor>,
    /// One [P] tensor for each of `slots`.
    state: Vec<Tensor>,
}

impl Optimizer {
    /// For parameters in the flat order of `layout`, with the state on the device of `flat` [P].
    pub fn new(config: &config::Train, layout: &TensorLayout, flat: &Tensor) -> Optimizer {
        let mut decay = vec![0f32; layout.parameter_count()];
        let mut factors = vec![1f32; layout.parameter_count()];
        for entry in layout.entries().0 {
            let range = entry.offset..entry.offset + entry.count();
            match entry.role {
                Role::NormOrBias if !config.decay_norm_and_bias => {}
                Role::Weight | Role::NormOrBias => decay[range].fill(config.weight_decay as f32),
                Role::FastBias => factors[range].fill(2.0),
            }
        }
        let uniform = factors.iter().all(|&factor| factor == 1.0);
        Optimizer {
            name: config.optimizer,
            momentum: config.momentum,
            nesterov: config.nesterov,
            decay: Tensor::from_slice(&decay).to_device(flat.device()),
            factors: (!uniform).then(|| Tensor::from_slice(&factors).to_device(flat.device())),
            state: Self::slots(config.optimizer).iter().map(|_| flat.zeros_like()).collect(),
        }
    }

    /// Names of the state tensors, as PyTorch's optimisers call them.
    pub fn slots(name: OptimizerName) -> &'static [&'static str] {
        match name {
            OptimizerName::Sgd => &["momentum_buffer"],
            OptimizerName::Adam => &["exp_avg", "exp_avg_sq"],
            OptimizerName::Amsgrad => &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"],
        }
    }

    /// The state tensors [P], in the order of `slots`.
    pub fn state(&mut self) -> &mut [Tensor] {
        &mut self.state
    }

    /// Takes over another device's state.
    pub fn copy_from(&mut self, other: &Optimizer) {
        let _guard = no_grad_guard();
        for (ours, theirs) in self.state.iter_mut().zip(&other.state) {
            ours.copy_(theirs);
        }
    }

    /// One step. `step` counts from 0 over the whole run: Adam's bias correction needs no state of its own.
    /// Uses `gradient` [P] as scratch.
    pub fn step(&mut self, flat: &mut Tensor, gradient: &mut Tensor, learning_rate: f64, step: u64) {
        let _guard = no_grad_guard();
        let _ = gradient.addcmul_(flat, &self.decay);
        match self.name {
            OptimizerName::Sgd => {
                let buffer = &mut self.state[0];
                *buffer *= self.momentum;
                *buffer += &*gradient;
                if self.nesterov {
                    *gradient += &*buffer * self.momentum;
                } else {
                    gradient.copy_(buffer);
                }
                *gradient *= learning_rate;
                if let Some(factors) = &self.factors {
                    *gradient *= factors;
                }
                *flat -= &*gradient;
            }
            OptimizerName::Adam | OptimizerName::Amsgrad => {
                let exponent = (step + 1) as f64;
                let correction = (1.0 - BETAS.0.powf(exponent), 1.0 - BETAS.1.powf(exponent));
                let [mean, square, rest @ ..] = &mut self.state[..] else { unreachable!("Adam has two slots") };
                let _ = mean.lerp_(gradient, 1.0 - BETAS.0);
                *square *= BETAS.1;
                *square += &*gradient * &*gradient * (1.0 - BETAS.1);
                let largest = match rest {
                    [largest] => {
                        largest.copy_(&largest.maximum(square));
                        &*largest
                    }
                    _ => &*square,
                };
                let denominator = (largest / correction.1).sqrt() + EPS;
                let mut change = &*mean / denominator * (learning_rate / correction.0);
                if let Some(factors) = &self.factors {
                    change *= factors;
                }
                *flat -= change;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Init;

    /// Minimises sum(c (x - target)^2) with ours and with plain f64 formulas from PyTorch's documentation.
    fn run(toml: &str, reference: impl Fn(&mut [f64], f64, f64, i32) -> f64) {
        let mut layers = config::Layers::new(Some("demo"), None, None).unwrap();
        for line in toml.lines() {
            layers.set_text(line).unwrap();
        }
        let train = layers.resolve().unwrap().train;
        let mut layout = TensorLayout::default();
        layout.parameter("a.weight", &[2], Init::Constant(0.0), Role::Weight);
        layout.parameter("b.bias", &[1], Init::Constant(0.0), Role::NormOrBias);
        layout.parameter("c.bias", &[1], Init::Constant(0.0), Role::FastBias);
        let mut flat = Tensor::from_slice(&[1.0f32, -2.0, 0.5, 0.7]);
        let mut optimizer = Optimizer::new(&train, &layout, &flat);
        let mut x = [1.0, -2.0, 0.5, 0.7f64];
        let mut state = [[0.0; 3]; 4];
        for step in 0..30 {
            let gradient_of = |i: usize, x: f64| {
                [1.0, 0.3, 2.0, 0.6][i] * (x - [0.2, 0.4, -0.1, 0.3][i]) * if step % 3 == 0 { 2.0 } else { -0.4 }
            };
            let values = Vec::<f32>::try_from(&flat).unwrap();
            let mut gradient = Tensor::from_slice(&[0, 1, 2, 3].map(|i| gradient_of(i, values[i] as f64) as f32));
            optimizer.step(&mut flat, &mut gradient, 0.05, step);
            for i in 0..4 {
                let decayed = [true, true, train.decay_norm_and_bias, false][i];
                let gradient = gradient_of(i, x[i]) + if decayed { train.weight_decay * x[i] } else { 0.0 };
                let rate = if i < 3 { 0.05 } else { 2.0 * 0.05 };
                x[i] -= reference(&mut state[i], gradient, rate, step as i32 + 1);
            }
        }
        for (ours, expected) in Vec::<f32>::try_from(&flat).unwrap().into_iter().zip(x) {
            assert!((ours as f64 - expected).abs() < 2e-6, "{ours} is not {expected}");
        }
    }

    #[test]
    fn sgd_follows_its_formula() {
        let momentum = |state: &mut [f64], gradient: f64| {
            state[0] = 0.9 * state[0] + gradient;
            state[0]
        };
        run("train.weight_decay=0.01", |state, gradient, rate, _| rate * momentum(state, gradient));
        run(
            "train.weight_decay=0.01\ntrain.nesterov=true\ntrain.decay_norm_and_bias=false",
            |state, gradient, rate, _| rate * (gradient + 0.9 * momentum(state, gradient)),
        );
    }

    #[test]
    fn adam_and_amsgrad_follow_their_formulas() {
        for (name, amsgrad) in [("adam", false), ("amsgrad", true)] {
            run(&format!("train.optimizer={name}\ntrain.weight_decay=0.01"), move |state, gradient, rate, step| {
                state[0] = 0.9 * state[0] + 0.1 * gradient;
                state[1] = 0.999 * state[1] + 0.001 * gradient * gradient;
                state[2] = state[2].max(state[1]);
                let second = if amsgrad { state[2] } else { state[1] };
                let corrected = (second / (1.0 - 0.999f64.powi(step))).sqrt();
                rate * state[0] / (1.0 - 0.9f64.powi(step)) / (corrected + 1e-8)
            });
        }
    }
}
