//! An exponential average of the weights and of BatchNorm's statistics (Polyak and Juditsky 1992): a model with less of
//! the noise that the last steps left, above all at a high learning rate.

use tch::{Tensor, no_grad};

use crate::model::Weights;

pub struct Average {
    /// Time constant in epochs.
    epochs: f64,
    /// [P], as `Weights::flat`.
    flat: Tensor,
    /// As `Weights::flat_buffers`.
    flat_buffers: Tensor,
}

impl Average {
    /// Starts at `weights`.
    pub fn new(epochs: f64, weights: &Weights) -> Average {
        no_grad(|| Average { epochs, flat: weights.flat.copy(), flat_buffers: weights.flat_buffers.copy() })
    }

    /// After a training step: average <- d average + (1 - d) weights, d = exp(-1 / steps in the time constant).
    pub fn follow(&mut self, weights: &Weights, steps_per_epoch: u64) {
        let share = -(-1.0 / (self.epochs * steps_per_epoch as f64)).exp_m1();
        no_grad(|| {
            let _ = self.flat.lerp_(&weights.flat, share);
            let _ = self.flat_buffers.lerp_(&weights.flat_buffers, share);
        });
    }

    /// Exchanges the average and the weights.
    pub fn swap(&mut self, weights: &mut Weights) {
        let pairs = [(&mut self.flat, &mut weights.flat), (&mut self.flat_buffers, &mut weights.flat_buffers)];
        no_grad(|| {
            for (ours, theirs) in pairs {
                let kept = ours.copy();
                ours.copy_(theirs);
                theirs.copy_(&kept);
            }
        });
    }

    /// What a sample's epoch starts from: the tensors that are saved.
    pub fn state(&mut self) -> [&mut Tensor; 2] {
        [&mut self.flat, &mut self.flat_buffers]
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::model::{Init, Role, TensorLayout};

    fn weights() -> Weights {
        let mut layout = TensorLayout::default();
        layout.parameter("a.weight", &[3], Init::Constant(1.0), Role::Weight);
        layout.buffer("a.running_mean", &[2], 5.0);
        Weights::new(&layout, 1, Device::Cpu)
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn it_is_the_sum_of_the_past_with_falling_weights() {
        let mut weights = weights();
        let mut average = Average::new(2.0, &weights);
        let past = [4.0, -1.0, 2.5, 0.0, 7.0];
        for value in past {
            no_grad(|| {
                let _ = weights.flat.fill_(value);
                let _ = weights.flat_buffers.fill_(2.0 * value);
            });
            average.follow(&weights, 4);
        }
        // closed form, in f64: a time constant of 2 epochs of 4 steps
        let d = (-1.0f64 / 8.0).exp();
        let expected = |start: f64, factor: f64| {
            let terms = past.iter().rev().enumerate().map(|(age, value)| (1.0 - d) * d.powi(age as i32) * value);
            start * d.powi(past.len() as i32) + factor * terms.sum::<f64>()
        };
        for (tensor, expected) in [(&average.flat, expected(1.0, 1.0)), (&average.flat_buffers, expected(5.0, 2.0))] {
            assert!(numbers(tensor).iter().all(|&value| (value as f64 - expected).abs() < 1e-6), "{expected}");
        }
    }

    #[test]
    fn swapping_twice_changes_nothing_and_once_exchanges() {
        let mut weights = weights();
        let mut average = Average::new(0.5, &weights);
        no_grad(|| weights.flat += 1.0);
        average.swap(&mut weights);
        assert_eq!((numbers(&weights.flat), numbers(&average.flat)), (vec![1.0; 3], vec![2.0; 3]));
        assert_eq!(numbers(weights.parameter(weights_first())), vec![1.0; 3], "the network sees it");
        average.swap(&mut weights);
        assert_eq!((numbers(&weights.flat), numbers(&average.flat)), (vec![2.0; 3], vec![1.0; 3]));
    }

    fn weights_first() -> crate::model::Parameter {
        TensorLayout::default().parameter("a.weight", &[3], Init::Constant(1.0), Role::Weight)
    }
}
