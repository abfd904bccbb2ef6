//! The searched loss: t on the target cosine and tau on the target probability, in pieces (equations 16, 17).

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::derivatives::{self, Lines};
use super::{Line, Loss};

/// Slopes are used no smaller than this: t and tau must grow (AM-LFS section 3.3).
pub const MIN_SLOPE: f64 = 1e-2;
/// tau(p) is floored here in the reported value.
const MIN_TAU: f64 = 1e-6;
/// p is floored here in the weight, so that p / p = 1 also where f32 underflows.
const MIN_P: f64 = 1e-30;

/// How examples are weighted.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TauWeights {
    /// As tau says.
    Raw,
    /// Divided by their mean over the batch.
    Normalised,
}

pub struct Unified {
    t: Pieces,
    tau: Tau,
    w_max: f64,
    tau_weights: TauWeights,
}

enum Tau {
    /// tau(p) = a p + b.
    Lines(Pieces),
    /// -log tau(p) = a nll + b.
    Powers(Pieces),
}

impl Unified {
    /// theta [4M] = [a^t, b^t, a^tau, b^tau].
    pub fn lines(theta: &[f64], w_max: f64, tau_weights: TauWeights, device: Device, kind: Kind) -> Unified {
        assert!(!theta.is_empty() && theta.len().is_multiple_of(4), "theta has 4M numbers");
        let (t, tau) = theta.split_at(theta.len() / 2);
        // t and tau must grow
        let pieces = |parameters: &[f64], low| {
            let (slopes, biases) = parameters.split_at(parameters.len() / 2);
            let slopes: Vec<f64> = slopes.iter().map(|&slope| slope.max(MIN_SLOPE)).collect();
            Pieces::new(&slopes, biases, low, device, kind)
        };
        Unified { t: pieces(t, -1.0), tau: Tau::Lines(pieces(tau, 0.0)), w_max, tau_weights }
    }

    /// theta [2M + 1], as `derivatives` has it. Weights that are divided by their mean are relative: those of theta are divided by
    /// their geometric mean first, so that w_max bounds what one interval weighs against the others, not a level that means nothing.
    pub fn derivatives(theta: &[f64], w_max: f64, tau_weights: TauWeights, device: Device, kind: Kind) -> Unified {
        assert!(theta.len() >= 3 && !theta.len().is_multiple_of(2), "theta has 2M + 1 numbers");
        let (t, loss) = match tau_weights {
            TauWeights::Raw => derivatives::lines(theta),
            TauWeights::Normalised => derivatives::lines(&derivatives::without_level(theta)),
        };
        let pieces = |lines: Lines, low| Pieces::new(&lines.slopes, &lines.intercepts, low, device, kind);
        Unified { t: pieces(t, -1.0), tau: Tau::Powers(pieces(loss, 0.0)), w_max, tau_weights }
    }

    /// The values and the weights [N], before they are normalised.
    fn weigh_raw(&self, p: &Tensor, nll: &Tensor) -> (Tensor, Tensor) {
        match &self.tau {
            // w = a p / (a p + b), clamped to [0, w_max] and w_max wherever a p + b <= a p / w_max
            Tau::Lines(pieces) => {
                let (a, b) = pieces.at(p);
                let floored = p.clamp_min(MIN_P);
                let denominator = &floored + &b / &a;
                let singular = denominator.le_tensor(&(&floored / self.w_max));
                let weight = (&floored / denominator).masked_fill(&singular, self.w_max).clamp(0.0, self.w_max);
                // With b = 0 the value is nll - log a, finite without a floor, and for a = 1 cross-entropy to the last
                // bit.
                let value = -(&a * p + &b).clamp_min(MIN_TAU).log();
                ((nll - a.log()).where_self(&b.eq(0.0), &value), weight)
            }
            Tau::Powers(pieces) => {
                let (weight, constant) = pieces.at(p);
                (&weight * nll + constant, weight.clamp_max(self.w_max))
            }
        }
    }
}

impl Loss for Unified {
    fn target(&self, cosine: &Tensor, _step: u64) -> Line {
        let (slope, intercept) = self.t.at(cosine);
        Line { slope, intercept }
    }

    fn weigh(&self, p: &Tensor, nll: &Tensor) -> (Tensor, Tensor) {
        let (value, weight) = self.weigh_raw(p, nll);
        let weight = match self.tau_weights {
            TauWeights::Raw => weight,
            TauWeights::Normalised => &weight / weight.mean(weight.kind()).clamp_min(MIN_TAU),
        };
        (value, weight)
    }
}

/// A line for each of M equal intervals from `low` to 1, which are closed below and open above, the last one closed.
struct Pieces {
    slope: Tensor,
    intercept: Tensor,
    low: f64,
}

impl Pieces {
    /// [M] each.
    fn new(slopes: &[f64], intercepts: &[f64], low: f64, device: Device, kind: Kind) -> Pieces {
        let tensor = |values: &[f64]| Tensor::from_slice(values).to_kind(kind).to_device(device);
        Pieces { slope: tensor(slopes), intercept: tensor(intercepts), low }
    }

    /// Slope and bias [N] of the interval each x [N] lies in; x outside the domain counts as its nearest end.
    fn at(&self, x: &Tensor) -> (Tensor, Tensor) {
        let intervals = self.slope.size()[0];
        let scaled = (x - self.low) * (intervals as f64 / (1.0 - self.low));
        // NaN becomes some interval's line times NaN: it stays NaN, and the look-up stays in bounds.
        let index = scaled.nan_to_num(0.0, None, None).floor().clamp(0.0, (intervals - 1) as f64).to_kind(Kind::Int64);
        (self.slope.take(&index), self.intercept.take(&index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(theta: &[f64]) -> Unified {
        Unified::lines(theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Double)
    }

    fn weigh(loss: &Unified, p: f64) -> (f64, f64) {
        let p = Tensor::from_slice(&[p]);
        let (value, weight) = loss.weigh(&p, &-p.log());
        (value.double_value(&[0]), weight.double_value(&[0]))
    }

    #[test]
    fn intervals_are_closed_below_and_the_last_one_above() {
        let pieces = Pieces::new(&[1.0, 2.0], &[0.1, 0.2], -1.0, Device::Cpu, Kind::Double);
        let (slope, bias) = pieces.at(&Tensor::from_slice(&[-1.5, -1.0, -1e-9, 0.0, 1.0, 1.5, f64::NAN]));
        assert_eq!(Vec::<f64>::try_from(slope).unwrap(), [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 1.0]);
        assert_eq!(Vec::<f64>::try_from(bias).unwrap(), [0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.1]);
    }

    #[test]
    fn weights_follow_the_stated_rule() {
        let tau = |a: f64, b: f64| unified(&[1.0, 0.0, a, b]);
        let (value, weight) = weigh(&tau(0.5, 0.25), 0.5);
        assert!((value - -(0.5f64.ln())).abs() < 1e-12 && (weight - 0.5).abs() < 1e-12);
        // a p + b <= a p / w_max, also where it is negative: w_max, and the value is floored
        assert_eq!(weigh(&tau(1.0, -0.4), 0.5).1, 4.0);
        let (value, weight) = weigh(&tau(1.0, -0.9), 0.5);
        assert!((value - -(1e-6f64.ln())).abs() < 1e-12 && weight == 4.0);
        // slopes are clamped, also negative ones
        assert!((weigh(&tau(-3.0, 0.01), 0.5).1 - 0.005 / 0.015).abs() < 1e-12);
        // softmax has weight 1 even where p underflows
        assert_eq!(weigh(&tau(1.0, 0.0), 0.0).1, 1.0);
    }

    #[test]
    fn normalised_weights_have_mean_one() {
        let loss = Unified::lines(&[1.0, 0.0, 1.0, 0.3], 4.0, TauWeights::Normalised, Device::Cpu, Kind::Double);
        let p = Tensor::from_slice(&[0.1, 0.5, 0.9]);
        let (_, weight) = loss.weigh(&p, &-p.log());
        assert!((weight.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn the_level_of_relative_weights_means_nothing_and_no_bound_takes_their_differences_away() {
        let at = |level: f64| {
            let theta = [0.0, 0.0, 0.0, level - 0.5, level + 0.5];
            let loss = Unified::derivatives(&theta, 4.0, TauWeights::Normalised, Device::Cpu, Kind::Double);
            let p = Tensor::from_slice(&[0.2, 0.7]);
            Vec::<f64>::try_from(loss.weigh(&p, &-p.log()).1).unwrap()
        };
        for level in [-3.0, 0.0, 1.9] {
            let [low, high] = at(level)[..] else { panic!("two weights") };
            assert!((high / low - 1f64.exp()).abs() < 1e-9 && (low + high - 2.0).abs() < 1e-9, "{level}: {low} {high}");
        }
    }

    #[test]
    fn derivatives_weigh_examples_by_the_interval_of_their_p() {
        let theta = [0.0, 0.0, 0.0, 2f64.ln(), 9f64.ln()];
        let loss = Unified::derivatives(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Double);
        assert!((weigh(&loss, 0.7).1 - 4.0).abs() < 1e-12, "no more than w_max");
        let (value, weight) = weigh(&loss, 0.2);
        assert!((weight - 2.0).abs() < 1e-12);
        // the integral of the weight by nll: 9 down to p = 0.5, 2 from there
        let expected = 9.0 * 2f64.ln() + 2.0 * (0.5f64 / 0.2).ln();
        assert!((value - expected).abs() < 1e-12, "{value} {expected}");
    }
}
