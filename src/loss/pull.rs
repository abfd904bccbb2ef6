//! How strongly a loss pulls at the targets of examples, by how near they are (AM-LFS figure 4).

use tch::{Kind, Tensor};

use super::head::norm;
use super::{Head, Loss};

/// Of N examples.
pub struct Pull {
    /// [N] f64: the cosine of each example and its target.
    pub cosine: Tensor,
    /// [N] f64 for each loss: |d loss / d z| = w (1 - p) t'(c), with z the target's logit before t.
    pub strength: Vec<Tensor>,
}

impl Head {
    /// features [N, D], weights [C, D], labels [N] i64 below C.
    pub fn pull(&self, losses: &[&dyn Loss], features: &Tensor, weights: &Tensor, labels: &Tensor) -> Pull {
        let (features, weights) = (features.to_kind(Kind::Double), weights.to_kind(Kind::Double));
        let target_weights = weights.index_select(0, labels);
        let (of_features, of_targets) = (norm(&features), norm(&target_weights));
        let cosine = (&features * &target_weights).sum_dim_intlist([1i64].as_slice(), true, Kind::Double);
        let cosine = (cosine / &of_features / &of_targets).clamp(-1.0, 1.0);
        let s = self.target_scale(&of_features, &of_targets);
        let (labels, logits) = (labels.unsqueeze(1), self.logits(&features, &weights));
        let strength = |loss: &&dyn Loss| {
            // an annealed loss is taken at its end
            let line = loss.target(&cosine, u64::MAX >> 1);
            let target = (&line.slope * &cosine + &line.intercept) * &s;
            let logits = logits.scatter(1, &labels, &target);
            let nll = -logits.log_softmax(1, Kind::Double).gather(1, &labels, false);
            let p = (-&nll).exp();
            let (_, weight) = loss.weigh(&p, &nll);
            (weight * -(-nll).expm1() * line.slope).squeeze_dim(1)
        };
        Pull { strength: losses.iter().map(strength).collect(), cosine: cosine.squeeze_dim(1) }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::loss::{FixedLoss, HeadKind, TauWeights, Unified};

    #[test]
    fn it_is_the_derivative_of_the_loss_by_the_target_s_logit() {
        tch::manual_seed(3);
        let options = (Kind::Double, Device::Cpu);
        let (features, weights) = (Tensor::randn([7, 5], options), Tensor::randn([4, 5], options));
        let labels = Tensor::from_slice(&[0i64, 1, 2, 3, 0, 1, 2]);
        let theta = [0.1, -0.2, 0.3, -0.3, 0.2, -0.4, 0.5];
        let searched = Unified::derivatives(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Double);
        let losses: [&dyn Loss; 3] = [&searched, &FixedLoss::ArcFace { m: 0.3 }, &FixedLoss::Focal { gamma: 2.0 }];
        for kind in [HeadKind::Plain, HeadKind::Weights, HeadKind::Normalised] {
            let head = Head { kind, scale: 8.0 };
            let pull = head.pull(&losses, &features, &weights, &labels);
            for (loss, strength) in losses.iter().zip(&pull.strength) {
                // value of each example's loss where its target logit is moved by h
                let norms = |rows: &Tensor| rows.norm_scalaropt_dim(2, [1i64], true);
                let targets = weights.index_select(0, &labels);
                let s = match kind {
                    HeadKind::Plain => norms(&features) * norms(&targets),
                    HeadKind::Weights => norms(&features),
                    HeadKind::Normalised => norms(&features).full_like(8.0),
                };
                let value = |h: f64| {
                    let cosine = pull.cosine.unsqueeze(1) + h / &s;
                    let line = loss.target(&cosine, u64::MAX >> 1);
                    let target = (line.slope * &cosine + line.intercept) * &s;
                    let logits = head.logits(&features, &weights).scatter(1, &labels.unsqueeze(1), &target);
                    let nll = -logits.log_softmax(1, Kind::Double).gather(1, &labels.unsqueeze(1), false);
                    loss.weigh(&(-&nll).exp(), &nll).0.squeeze_dim(1)
                };
                let h = 1e-6;
                let numerical = (value(-h) - value(h)) / (2.0 * h);
                let worst = (numerical - strength).abs().max().double_value(&[]);
                assert!(worst < 1e-6, "{kind:?}: {worst}");
            }
        }
    }
}
