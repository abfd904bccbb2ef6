//! Losses that know how many examples each class has, for uneven classes: baselines, and the searched loss with adjusted logits.

use tch::{Device, Kind, Tensor};

use super::{FixedLoss, Line, Loss};

/// Of LDAM's weights (Cao et al. 2019, their code).
const DEFERRED_BETA: f64 = 0.9999;

/// What a class's examples, or its logit, get; [C] each.
#[derive(Default)]
pub struct OfClasses {
    /// Subtracted from the target's cosine.
    pub margins: Option<Tensor>,
    /// Added to the class's logit in training, whatever the example.
    pub offsets: Option<Tensor>,
    /// Factors of examples' losses.
    pub weights: Option<Tensor>,
}

impl OfClasses {
    /// For classes of so many training examples, those without any as if they had one; `None`: the loss does not ask.
    pub fn new(loss: FixedLoss, class_counts: &[u64], device: Device, kind: Kind) -> Option<OfClasses> {
        let classes = class_counts.len() as f64;
        let counts = at_least_one(class_counts);
        let tensor = |values: Vec<f64>| Some(tensor(&values, device, kind));
        let each = |of: &dyn Fn(f64) -> f64| counts.iter().map(|&count| of(count)).collect::<Vec<f64>>();
        // the effective number of examples, Cui et al. 2019, equation 2; the mean over classes is 1
        let balancing = |beta: f64| {
            let weights = each(&|count| (1.0 - beta) / (1.0 - beta.powf(count)));
            let sum: f64 = weights.iter().sum();
            tensor(weights.into_iter().map(|weight| weight * classes / sum).collect())
        };
        match loss {
            FixedLoss::ClassBalanced { beta } => Some(OfClasses { weights: balancing(beta), ..OfClasses::default() }),
            FixedLoss::Ldam { m, weighted } => {
                let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
                let margins = each(&|count| m * (least / count).powf(0.25));
                let weights = weighted.then(|| balancing(DEFERRED_BETA)).flatten();
                Some(OfClasses { margins: tensor(margins), weights, ..OfClasses::default() })
            }
            FixedLoss::BalancedSoftmax => Some(OfClasses::adjusting_logits(1.0, class_counts, device, kind)),
            _ => None,
        }
    }

    /// Offsets of `adjustment` log n for classes of n training examples (Menon et al. 2021, equation 10, less a constant).
    pub fn adjusting_logits(adjustment: f64, counts: &[u64], device: Device, kind: Kind) -> OfClasses {
        let offsets: Vec<f64> = at_least_one(counts).into_iter().map(|count| adjustment * count.ln()).collect();
        OfClasses { offsets: Some(tensor(&offsets, device, kind)), ..OfClasses::default() }
    }
}

fn tensor(values: &[f64], device: Device, kind: Kind) -> Tensor {
    Tensor::from_slice(values).to_kind(kind).to_device(device)
}

fn at_least_one(counts: &[u64]) -> Vec<f64> {
    counts.iter().map(|&count| count.max(1) as f64).collect()
}

/// A loss with what its classes get.
pub struct WithClasses<L> {
    pub loss: L,
    pub of: OfClasses,
}

impl<L: Loss> Loss for WithClasses<L> {
    fn target(&self, cosine: &Tensor, step: u64) -> Line {
        self.loss.target(cosine, step)
    }

    fn weigh(&self, p: &Tensor, nll: &Tensor) -> (Tensor, Tensor) {
        self.loss.weigh(p, nll)
    }

    fn of_classes(&self) -> Option<&OfClasses> {
        Some(&self.of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(loss: FixedLoss, counts: &[u64]) -> Vec<f64> {
        let OfClasses { margins, offsets, weights } = OfClasses::new(loss, counts, Device::Cpu, Kind::Double).unwrap();
        Vec::try_from(margins.or(offsets).or(weights).unwrap()).unwrap()
    }

    #[test]
    fn what_classes_get_is_published() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(found.len() == expected.len() && worst < 1e-6, "{found:?}, not {expected:?}");
        };
        // 1 / 16 ^ (1 / 4) = 1 / 2
        close(of(FixedLoss::Ldam { m: 0.5, weighted: false }, &[160, 10, 10]), &[0.25, 0.5, 0.5]);
        let deferred =
            OfClasses::new(FixedLoss::Ldam { m: 0.5, weighted: true }, &[160, 10], Device::Cpu, Kind::Double);
        let deferred = Vec::<f64>::try_from(deferred.unwrap().weights.unwrap()).unwrap();
        close(deferred, &of(FixedLoss::ClassBalanced { beta: 0.9999 }, &[160, 10]));
        close(of(FixedLoss::BalancedSoftmax, &[10, 1]), &[10f64.ln(), 0.0]);
        // beta = 0: every class weighs the same; near 1: by 1 / n
        close(of(FixedLoss::ClassBalanced { beta: 0.0 }, &[100, 7]), &[1.0, 1.0]);
        // (1 - 0.9) / (1 - 0.9^1) = 1, (1 - 0.9) / (1 - 0.9^2) = 0.1 / 0.19
        let (one, two) = (1.0, 0.1 / 0.19);
        close(of(FixedLoss::ClassBalanced { beta: 0.9 }, &[1, 2]), &[2.0 * one / (one + two), 2.0 * two / (one + two)]);
    }
}
