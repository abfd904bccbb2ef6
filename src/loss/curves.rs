//! Losses as curves: f64, on the CPU, at the end of their annealing.

use tch::Tensor;

use super::Loss;

/// t(c) at cosines in [-1, 1].
pub fn target_curve(loss: &dyn Loss, cosines: &[f64]) -> Vec<f64> {
    let cosine = Tensor::from_slice(cosines);
    let line = loss.target(&cosine, u64::MAX >> 1);
    numbers(&(line.slope * cosine + line.intercept))
}

/// -log tau(p), and the weights of examples, at probabilities in (0, 1].
pub fn value_and_weight_curves(loss: &dyn Loss, p: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let p = Tensor::from_slice(p);
    let (value, weight) = loss.weigh(&p, &-p.log());
    (numbers(&value), numbers(&weight))
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor).expect("f64 on the CPU")
}
