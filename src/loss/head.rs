//! The classification head: normalise, product with the class weights, loss, and its own gradient.
//!
//! Autograd on [N, C] would keep several such matrices. Here the logits are edited and exponentiated in place into
//! G = d loss / d logits, so one [N, C] tensor is alive, and d features and d weights are two products with it.

use tch::{Tensor, no_grad_guard};

use super::Loss;
use crate::config::HeadKind;

/// Norms are no smaller than this when they divide.
const MIN_NORM: f64 = 1e-12;

#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub kind: HeadKind,
    /// s of the normalised head; the other heads ignore it.
    pub scale: f64,
}

/// Of one head on one batch, or part of one.
pub struct HeadGradient {
    /// Scalar: sum of the loss values / `batch`.
    pub loss: Tensor,
    /// [N, D], d loss / d features.
    pub features: Tensor,
    /// [C, D], d loss / d weights.
    pub weights: Tensor,
}

impl Head {
    /// features [N, D], weights [C, D] -> logits [N, C] as used at test time: no margin. For arg max and softmax.
    pub fn logits(&self, features: &Tensor, weights: &Tensor) -> Tensor {
        let mut logits = self.scaled(features, &norm(features)).mm(&weights.tr());
        if self.kind != HeadKind::Plain {
            logits /= norm(weights).tr();
        }
        logits
    }

    /// features [N, D], weights [C, D], labels [N] i64 below C. The loss is the sum over these N examples divided by
    /// `batch`, the size of the whole batch that the N may be a part of. Exact gradient of -log tau(softmax(z)_y) with
    /// the target logit z_y = s t(cos theta_y), up to the weights' clamp (`Unified`). f32 or f64 throughout.
    pub fn gradient(
        &self,
        loss: &dyn Loss,
        features: &Tensor,
        weights: &Tensor,
        labels: &Tensor,
        batch: i64,
        step: u64,
    ) -> HeadGradient {
        let _guard = no_grad_guard();
        let labels = labels.unsqueeze(1);
        let (feature_norm, weight_norm) = (norm(features), norm(weights)); // [N, 1], [C, 1]
        let target_norm = weight_norm.index_select(0, &labels.squeeze_dim(1));
        let scaled = self.scaled(features, &feature_norm);

        let mut z = scaled.mm(&weights.tr()); // the one [N, C] tensor
        if self.kind != HeadKind::Plain {
            z /= weight_norm.tr();
        }
        let s = match self.kind {
            HeadKind::Plain => &feature_norm * &target_norm,
            HeadKind::Weights => feature_norm.shallow_clone(),
            HeadKind::Normalised => feature_norm.full_like(self.scale),
        };
        let target = z.gather(1, &labels, false);
        let line = loss.target(&(&target / &s).clamp(-1.0, 1.0), step);
        let target = &line.slope * target + &line.intercept * &s;
        let _ = z.scatter_(1, &labels, &target);

        let maximum = z.amax(1, true);
        z -= &maximum;
        let _ = z.exp_();
        let sum = z.sum_dim_intlist(1, true, z.kind());
        let nll = sum.log() - (target - maximum);
        let (value, weight) = loss.weigh(&(-&nll).exp(), &nll);
        let weight = weight / batch as f64;

        // z becomes G, with the target's column already times t'(c): what the products need
        z *= &weight / sum;
        let target_gradient = weight * (-nll).expm1(); // w (p - 1)
        let _ = z.scatter_(1, &labels, &(&target_gradient * &line.slope));
        if self.kind != HeadKind::Plain {
            z /= weight_norm.tr();
        }
        let mut d_features = z.mm(weights);
        let mut d_weights = z.tr().mm(&scaled);
        drop(z);

        // what the norms contribute: s depends on them (through the intercept), and normalising projects them out
        let through_s = target_gradient * line.intercept;
        match self.kind {
            HeadKind::Plain => {
                d_features += features * (&through_s * &target_norm / &feature_norm);
                let rows = weights.index_select(0, &labels.squeeze_dim(1));
                let _ =
                    d_weights.index_add_(0, &labels.squeeze_dim(1), &(rows * (through_s * feature_norm / target_norm)));
            }
            HeadKind::Weights => {
                d_features += features * (through_s / feature_norm);
                project_out(&mut d_weights, weights, &weight_norm);
            }
            HeadKind::Normalised => {
                project_out(&mut d_features, features, &feature_norm);
                d_features *= self.scale / feature_norm;
                project_out(&mut d_weights, weights, &weight_norm);
            }
        }
        HeadGradient { loss: value.sum(value.kind()) / batch as f64, features: d_features, weights: d_weights }
    }

    fn scaled(&self, features: &Tensor, feature_norm: &Tensor) -> Tensor {
        match self.kind {
            HeadKind::Normalised => features * (self.scale / feature_norm),
            HeadKind::Plain | HeadKind::Weights => features.shallow_clone(),
        }
    }
}

/// Euclidean norm of each row of x [N, D]: [N, 1].
fn norm(x: &Tensor) -> Tensor {
    x.norm_scalaropt_dim(2, [1i64].as_slice(), true).clamp_min(MIN_NORM)
}

/// gradient [N, D] -= x (x . gradient) / |x|^2, row by row and in place: no second [N, D].
fn project_out(gradient: &mut Tensor, x: &Tensor, norm: &Tensor) {
    // a batched product of single rows: the only row-wise dot product that makes no [N, D] of its own
    let dot = x.unsqueeze(1).bmm(&gradient.unsqueeze(2)).squeeze_dim(2);
    let _ = gradient.addcmul_(x, &-(dot / (norm * norm)));
}
