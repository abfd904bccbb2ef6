//! Loss functions of the form -log tau(softmax(z)_y) (AM-LFS equations 10, 16, 17).
//!
//! Every loss here, searched or fixed, answers two questions about each example, and `head` does the rest:
//! which line a c + b takes the place of the cosine c of the target logit, and what weight the example's
//! cross-entropy gradient gets.

mod curves;
mod derivatives;
mod fixed;
mod head;
mod nearest;
mod of_classes;
mod pull;
mod space;
mod triplet;
mod unified;

pub use curves::{target_curve, value_and_weight_curves};
pub use fixed::{FIXED_LOSSES, FixedLoss, FixedLossKind};
pub use head::{Head, HeadGradient, HeadKind};
pub use nearest::{Difference, MOST_P, Nearest, nearest};
use of_classes::{OfClasses, WithClasses};
pub use pull::Pull;
pub use space::{Group, Space, SpaceKind, Transforms};
pub use triplet::batch_hard_triplet;
pub use unified::{TauWeights, Unified};

use tch::{Device, Kind, Tensor};

/// The target logit near the example's cosine c: z_y = s (slope c + intercept). For a curved t this is its tangent,
/// which gives both the exact value and the exact gradient.
pub struct Line {
    /// [N], the derivative of t at c.
    pub slope: Tensor,
    /// [N], t(c) - slope c.
    pub intercept: Tensor,
}

pub trait Loss {
    /// cosine [N] in [-1, 1]; `step` counts training steps from 0 (for annealed losses).
    fn target(&self, cosine: &Tensor, step: u64) -> Line;

    /// p [N] = softmax(z)_y and nll [N] = -log p. Returns the loss values [N] and the weights w [N] with
    /// d loss / d z = w d nll / d z.
    fn weigh(&self, p: &Tensor, nll: &Tensor) -> (Tensor, Tensor);

    /// What classes get by how many examples they have; `None`: they are all the same to this loss.
    fn of_classes(&self) -> Option<&OfClasses> {
        None
    }

    /// The share of the target distribution that is spread evenly over all classes (label smoothing).
    fn smoothing(&self) -> f64 {
        0.0
    }
}

/// Which loss a run trains with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// The searched one.
    Unified {
        space: SpaceKind,
        w_max: f64,
        tau_weights: TauWeights,
        /// Times log n, added to the logit of a class of n training examples; 0: none.
        logit_adjustment: f64,
    },
    Fixed(FixedLoss),
}

impl Function {
    /// theta f64, of the space's length, for the unified loss; a fixed one ignores it. `counts`: training examples of each
    /// class; without them a loss that asks for them has all classes the same, as in a curve. Tensors are of the given
    /// kind, on the given device.
    pub fn build(self, theta: &[f64], counts: &[u64], device: Device, kind: Kind) -> Box<dyn Loss + Send> {
        match self {
            Function::Unified { space, w_max, tau_weights, logit_adjustment } => {
                let new = match space {
                    SpaceKind::Lines => Unified::lines,
                    SpaceKind::Derivatives => Unified::derivatives,
                };
                let loss = new(theta, w_max, tau_weights, device, kind);
                if logit_adjustment == 0.0 || counts.is_empty() {
                    return Box::new(loss);
                }
                Box::new(WithClasses { loss, of: OfClasses::adjusting_logits(logit_adjustment, counts, device, kind) })
            }
            Function::Fixed(loss) => match OfClasses::new(loss, counts, device, kind).filter(|_| !counts.is_empty()) {
                Some(of) => Box::new(WithClasses { loss, of }),
                None => Box::new(loss),
            },
        }
    }
}
