//! The classification head: normalise, product with the class weights, loss, and its own gradient.
//!
//! Autograd on [N, C] would keep several such matrices. Here the logits are edited and exponentiated in place into
//! G = d loss / d logits, so one [N, C] tensor is alive, and d features and d weights are two products with it.

use serde::{Deserialize, Serialize};
use tch::{Tensor, no_grad_guard};

use super::Loss;

/// Norms are no smaller than this when they divide.
const MIN_NORM: f64 = 1e-12;

/// What logits are made of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    /// W x
    Plain,
    /// W x with rows of W normalised: |x| cos(theta)
    Weights,
    /// s cos(theta)
    Normalised,
}

#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub kind: HeadKind,
    /// s of the normalised head; the other heads ignore it.
    pub scale: f64,
}

/// Loss and gradient of a batch, or of one replica's part of it.
pub struct HeadGradient {
    /// Scalar: sum of the loss values / `examples`.
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

    /// s of each example's target logit s cos, [N, 1], from the norms of its features and of its class weights.
    pub(super) fn target_scale(&self, feature_norm: &Tensor, target_norm: &Tensor) -> Tensor {
        match self.kind {
            HeadKind::Plain => feature_norm * target_norm,
            HeadKind::Weights => feature_norm.shallow_clone(),
            HeadKind::Normalised => feature_norm.full_like(self.scale),
        }
    }

    /// features [N, D], weights [C, D], labels [N] i64 below C. The loss is the sum over these N examples divided by
    /// `examples`: N, the size of the whole batch that the N are a part of, or that divided by the loss's share. Exact
    /// gradient of -log tau(softmax(z)_y) with the target logit z_y = s t(cos theta_y), up to the weights' clamp
    /// (`Unified`). f32 or f64 throughout.
    pub fn gradient(
        &self,
        loss: &dyn Loss,
        features: &Tensor,
        weights: &Tensor,
        labels: &Tensor,
        examples: f64,
        step: u64,
    ) -> HeadGradient {
        let _guard = no_grad_guard();
        let labels = labels.unsqueeze(1);
        let (feature_norm, weight_norm) = (norm(features), norm(weights)); // [N, 1], [C, 1]
        let target_norm = weight_norm.index_select(0, &labels.squeeze_dim(1));
        let scaled = self.scaled(features, &feature_norm);

        let mut z = scaled.mm(&weights.tr()); // the one [N, C] tensor
        if self.kind != HeadKind::Plain {
            z *= weight_norm.tr().reciprocal();
        }
        let s = self.target_scale(&feature_norm, &target_norm);
        let target = z.gather(1, &labels, false);
        let mut line = loss.target(&(&target / &s).clamp(-1.0, 1.0), step);
        let (of_classes, smoothing) = (loss.of_classes(), loss.smoothing());
        let of_targets = |of: Option<&Tensor>| of.map(|of| of.index_select(0, &labels.squeeze_dim(1)).unsqueeze(1));
        if let Some(margin) = of_targets(of_classes.and_then(|of| of.margins.as_ref())) {
            line.intercept -= margin;
        }
        let mut target = &line.slope * target + &line.intercept * &s;
        let _ = z.scatter_(1, &labels, &target);
        if let Some(offsets) = of_classes.and_then(|of| of.offsets.as_ref()) {
            z += offsets;
            target = z.gather(1, &labels, false);
        }
        let mean = (smoothing > 0.0).then(|| z.mean_dim([1i64].as_slice(), true, z.kind()));

        // In place: each row is read before it is written. The largest probability can't underflow, so the target's
        // -log p comes from it: log p_y = z_y - z_max + log p_max.
        let (maximum, most_likely) = z.max_dim(1, true);
        let _ = z.internal_softmax_out(&z, 1, false);
        let nll = maximum - &target - z.gather(1, &most_likely, false).log();
        let (mut value, weight) = loss.weigh(&(-&nll).exp(), &nll);
        let mut weight = weight / examples;
        if let Some(of_class) = of_targets(of_classes.and_then(|of| of.weights.as_ref())) {
            // not in place: value may be nll itself
            (value, weight) = (&value * &of_class, weight * &of_class);
        }

        // z becomes G but for each row's weight, which the small factors of the products carry. The target's column
        // is (p - 1) t'(c).
        let mut target_gradient = (-nll).expm1();
        if let Some(mean) = mean {
            // the mean over classes of -log p_j is the target's plus its distance from the mean logit
            value = &value + (target - mean) * smoothing;
            let each = smoothing / z.size()[1] as f64;
            z -= each;
            target_gradient += smoothing - each;
        }
        let _ = z.scatter_(1, &labels, &(&target_gradient * &line.slope));
        if self.kind != HeadKind::Plain {
            z *= weight_norm.tr().reciprocal();
        }
        let mut d_features = z.mm(weights) * &weight;
        let mut d_weights = z.tr().mm(&(scaled * &weight));
        drop(z);

        // what the norms contribute: s depends on them (through the intercept), and normalising projects them out
        let through_s = target_gradient * weight * line.intercept;
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
        HeadGradient { loss: value.sum(value.kind()) / examples, features: d_features, weights: d_weights }
    }

    fn scaled(&self, features: &Tensor, feature_norm: &Tensor) -> Tensor {
        match self.kind {
            HeadKind::Normalised => features * (self.scale / feature_norm),
            HeadKind::Plain | HeadKind::Weights => features.shallow_clone(),
        }
    }
}

/// Euclidean norm of each row of x [N, D]: [N, 1].
pub(super) fn norm(x: &Tensor) -> Tensor {
    x.norm_scalaropt_dim(2, [1i64].as_slice(), true).clamp_min(MIN_NORM)
}

/// gradient [N, D] -= x (x . gradient) / |x|^2, row by row and in place: no second [N, D].
fn project_out(gradient: &mut Tensor, x: &Tensor, norm: &Tensor) {
    // a batched product of single rows: the only row-wise dot product that makes no [N, D] of its own
    let dot = x.unsqueeze(1).bmm(&gradient.unsqueeze(2)).squeeze_dim(2);
    let _ = gradient.addcmul_(x, &-(dot / (norm * norm)));
}

#[cfg(test)]
mod tests {
    use std::f64::consts::PI;

    use rand::RngExt;
    use tch::{Device, Kind};

    use super::super::{FixedLoss, Space, SpaceKind, TauWeights, Unified};
    use super::*;
    use crate::rng::{Purpose, Rng, rng};

    const KINDS: [HeadKind; 3] = [HeadKind::Plain, HeadKind::Weights, HeadKind::Normalised];
    const EXAMPLES: i64 = 48;
    const CLASSES: i64 = 20;

    fn head(kind: HeadKind) -> Head {
        Head { kind, scale: 12.0 }
    }

    /// (features, weights, labels), with cosines over the whole of [-1, 1].
    fn inputs(seed: i64, kind: Kind) -> (Tensor, Tensor, Tensor) {
        tch::manual_seed(seed);
        let weights = Tensor::randn([CLASSES, 6], (Kind::Double, Device::Cpu));
        let labels = Tensor::randint(CLASSES, [EXAMPLES], (Kind::Int64, Device::Cpu));
        let near = Tensor::rand([EXAMPLES, 1], (Kind::Double, Device::Cpu)) * 3.0 - 1.5;
        let noise = Tensor::randn([EXAMPLES, 6], (Kind::Double, Device::Cpu));
        let features = weights.index_select(0, &labels) * near + noise;
        (features.to_kind(kind), weights.to_kind(kind), labels)
    }

    /// The same loss in f64 by autograd alone: t of the target cosine, softmax, -log tau(p).
    /// Returns (loss, d features, d weights).
    fn reference(
        head: Head,
        (features, weights, labels): &(Tensor, Tensor, Tensor),
        t: impl Fn(&Tensor) -> Tensor,
        loss: impl Fn(&Tensor) -> Tensor,
    ) -> [Tensor; 3] {
        let x = features.to_kind(Kind::Double).detach().set_requires_grad(true);
        let w = weights.to_kind(Kind::Double).detach().set_requires_grad(true);
        let length = |x: &Tensor| (x * x).sum_dim_intlist(1, true, Kind::Double).sqrt();
        let cosine = (&x / length(&x)).mm(&(&w / length(&w)).tr());
        let s = match head.kind {
            HeadKind::Plain => length(&x) * length(&w).tr(),
            HeadKind::Weights => length(&x).expand([EXAMPLES, CLASSES], false),
            HeadKind::Normalised => cosine.full_like(head.scale),
        };
        let is_target = labels.one_hot(CLASSES).to_kind(Kind::Bool);
        let z = s * t(&cosine).where_self(&is_target, &cosine);
        let p = z.softmax(1, Kind::Double).gather(1, &labels.unsqueeze(1), false);
        let total = loss(&p).sum(Kind::Double) / EXAMPLES as f64;
        total.backward();
        [total.detach(), x.grad(), w.grad()]
    }

    fn assert_close(found: &HeadGradient, expected: &[Tensor; 3], tolerance: f64, what: &str) {
        for (i, (found, expected)) in
            [&found.loss, &found.features, &found.weights].into_iter().zip(expected).enumerate()
        {
            let error = (found.to_kind(Kind::Double) - expected).norm() / expected.norm();
            let error = f64::try_from(error).unwrap();
            assert!(error < tolerance, "{what}, output {i}: relative error {error}");
        }
    }

    /// theta inside the clamps: slopes above the floor, tau above its floor, weights below w_max.
    fn random_theta(rng: &mut Rng, intervals: usize) -> Vec<f64> {
        let mut part = |low: f64, high: f64| (0..intervals).map(|_| rng.random_range(low..high)).collect::<Vec<f64>>();
        [part(0.2, 2.0), part(-0.5, 0.5), part(0.2, 2.0), part(0.0, 0.6)].concat()
    }

    /// A piecewise-linear function of x, differentiable by autograd.
    fn pieces(x: &Tensor, parameters: &[f64], low: f64, high: f64) -> Tensor {
        let count = parameters.len() / 2;
        let mut y = x.zeros_like();
        for i in 0..count {
            let edge = |i: usize| low + (high - low) * i as f64 / count as f64;
            let above = if i == 0 { x.ones_like().to_kind(Kind::Bool) } else { x.ge(edge(i)) };
            let below = if i + 1 == count { x.ones_like().to_kind(Kind::Bool) } else { x.lt(edge(i + 1)) };
            let inside = above.logical_and(&below).to_kind(Kind::Double);
            y += inside * (x * parameters[i] + parameters[count + i]);
        }
        y
    }

    #[test]
    fn the_unified_loss_and_its_gradient_equal_f64_autograd() {
        let mut rng = rng(11, Purpose::Theta, &[]);
        for round in 0..12 {
            let intervals = [1, 3, 6, 10][round % 4];
            let theta = random_theta(&mut rng, intervals);
            let (t, tau) = theta.split_at(2 * intervals);
            for kind in KINDS {
                for (precision, tolerance) in [(Kind::Float, 1e-5), (Kind::Double, 1e-12)] {
                    let inputs = inputs(round as i64, precision);
                    let loss = Unified::lines(&theta, 4.0, TauWeights::Raw, Device::Cpu, precision);
                    let found = head(kind).gradient(&loss, &inputs.0, &inputs.1, &inputs.2, EXAMPLES as f64, 0);
                    let expected = reference(
                        head(kind),
                        &inputs,
                        |c| pieces(c, t, -1.0, 1.0),
                        |p| -pieces(p, tau, 0.0, 1.0).log(),
                    );
                    assert_close(&found, &expected, tolerance, &format!("{kind:?} {precision:?} round {round}"));
                }
            }
        }
    }

    #[test]
    fn fixed_losses_and_their_gradients_equal_f64_autograd() {
        let psi4 = |c: &Tensor| {
            let theta = c.clamp(-1.0 + 1e-9, 1.0 - 1e-9).acos();
            let k = (&theta * (4.0 / PI)).detach().floor();
            let sign = -(k.remainder(2.0) * 2.0) + 1.0;
            (theta * 4.0).cos() * sign - k * 2.0
        };
        let arc = |c: &Tensor| {
            let moved = (c.clamp(-1.0 + 1e-9, 1.0 - 1e-9).acos() + 0.5).cos();
            (c - 0.5 * 0.5f64.sin()).where_self(&c.lt(-(0.5f64.cos())), &moved)
        };
        let mixed = |c: &Tensor| (c * 5.0 + psi4(c)) / 6.0;
        let cross_entropy = |p: &Tensor| -p.log();
        let focal = |p: &Tensor| -(-p + 1.0).pow_tensor_scalar(2.0) * p.log();
        type Function<'a> = &'a dyn Fn(&Tensor) -> Tensor;
        let identity: Function = &|c| c.shallow_clone();
        let cases: [(FixedLoss, Function, Function); 5] = [
            (FixedLoss::Softmax, identity, &cross_entropy),
            (FixedLoss::Focal { gamma: 2.0 }, identity, &focal),
            (FixedLoss::AmSoftmax { m: 0.35 }, &|c| c - 0.35, &cross_entropy),
            (FixedLoss::Angular { m: 4 }, &mixed, &cross_entropy),
            (FixedLoss::ArcFace { m: 0.5 }, &arc, &cross_entropy),
        ];
        for (loss, t, value) in cases {
            for kind in KINDS {
                let inputs = inputs(5, Kind::Double);
                let found = head(kind).gradient(&loss, &inputs.0, &inputs.1, &inputs.2, EXAMPLES as f64, 1_000_000);
                assert_close(&found, &reference(head(kind), &inputs, t, value), 1e-8, &format!("{loss:?} {kind:?}"));
            }
        }
    }

    #[test]
    fn losses_that_know_their_classes_and_smoothing_equal_f64_autograd() {
        let counts: Vec<u64> = (0..CLASSES as u64).map(|class| 1 + class * class).collect();
        let cases = [
            FixedLoss::ClassBalanced { beta: 0.99 },
            FixedLoss::Ldam { m: 0.5, weighted: false },
            FixedLoss::Ldam { m: 0.5, weighted: true },
            FixedLoss::BalancedSoftmax,
            FixedLoss::LabelSmoothing { epsilon: 0.1 },
            FixedLoss::GeneralisedCrossEntropy { q: 0.7 },
        ];
        for loss in cases {
            for kind in KINDS {
                let inputs = inputs(7, Kind::Double);
                let built = super::super::Function::Fixed(loss).build(&[], &counts, Device::Cpu, Kind::Double);
                let found = head(kind).gradient(&*built, &inputs.0, &inputs.1, &inputs.2, EXAMPLES as f64, 0);

                let x = inputs.0.detach().set_requires_grad(true);
                let w = inputs.1.detach().set_requires_grad(true);
                let n = Tensor::from_slice(&counts.iter().map(|&count| count as f64).collect::<Vec<_>>());
                let is_target = inputs.2.one_hot(CLASSES).to_kind(Kind::Double);
                let of_target = |of: &Tensor| of.index_select(0, &inputs.2);
                let margin = match loss {
                    FixedLoss::Ldam { m, .. } => (n.reciprocal() * n.min()).pow_tensor_scalar(0.25) * m,
                    _ => n.zeros_like(),
                };
                let offsets = if loss == FixedLoss::BalancedSoftmax { n.log() } else { n.zeros_like() };
                let log_p = (logits_of(kind, &x, &w, &(is_target * margin)) + offsets).log_softmax(1, Kind::Double);
                let own = log_p.gather(1, &inputs.2.unsqueeze(1), false).squeeze_dim(1);
                let balancing = |beta: f64| {
                    let effective = (-(&n * beta.ln()).expm1()) / (1.0 - beta);
                    let weight = effective.reciprocal();
                    of_target(&(&weight / weight.mean(Kind::Double)))
                };
                let each = match loss {
                    FixedLoss::LabelSmoothing { epsilon } => {
                        own * (epsilon - 1.0) - log_p.mean_dim([1i64].as_slice(), false, Kind::Double) * epsilon
                    }
                    FixedLoss::GeneralisedCrossEntropy { q } => (1.0 - (own * q).exp()) / q,
                    FixedLoss::ClassBalanced { beta } => -own * balancing(beta),
                    FixedLoss::Ldam { weighted: true, .. } => -own * balancing(0.9999),
                    _ => -own,
                };
                let total = each.sum(Kind::Double) / EXAMPLES as f64;
                total.backward();
                assert_close(&found, &[total.detach(), x.grad(), w.grad()], 1e-9, &format!("{loss:?} {kind:?}"));
            }
        }
    }

    /// A margin in a space of one interval, and logits adjusted by half of log n.
    #[test]
    fn the_unified_loss_with_adjusted_logits_and_its_gradient_equal_f64_autograd() {
        let counts: Vec<u64> = (0..CLASSES as u64).map(|class| 1 + class * class).collect();
        let function = |logit_adjustment| super::super::Function::Unified {
            space: SpaceKind::Derivatives,
            w_max: 4.0,
            tau_weights: TauWeights::Raw,
            logit_adjustment,
        };
        let n = Tensor::from_slice(&counts.iter().map(|&count| count as f64).collect::<Vec<_>>());
        for kind in KINDS {
            let inputs = inputs(9, Kind::Double);
            let built = function(0.5).build(&[0.0, -0.3, 0.0], &counts, Device::Cpu, Kind::Double);
            let found = head(kind).gradient(&*built, &inputs.0, &inputs.1, &inputs.2, EXAMPLES as f64, 0);
            let x = inputs.0.detach().set_requires_grad(true);
            let w = inputs.1.detach().set_requires_grad(true);
            let is_target = inputs.2.one_hot(CLASSES).to_kind(Kind::Double);
            let z = logits_of(kind, &x, &w, &(is_target * 0.3)) + n.log() * 0.5;
            let total = z.cross_entropy_loss::<Tensor>(&inputs.2, None, tch::Reduction::Mean, -100, 0.0);
            total.backward();
            assert_close(&found, &[total.detach(), x.grad(), w.grad()], 1e-9, &format!("{kind:?}"));

            let balanced = super::super::Function::Fixed(FixedLoss::BalancedSoftmax);
            let [softmax, balanced] = [function(1.0), balanced].map(|function| {
                let loss = function.build(&[0.0; 3], &counts, Device::Cpu, Kind::Double);
                head(kind).gradient(&*loss, &inputs.0, &inputs.1, &inputs.2, EXAMPLES as f64, 0)
            });
            let expected = [balanced.loss, balanced.features, balanced.weights];
            assert_close(&softmax, &expected, 1e-12, &format!("balanced softmax, {kind:?}"));
        }
    }

    /// By autograd: s (cos - margin) [N, C].
    fn logits_of(kind: HeadKind, x: &Tensor, w: &Tensor, margin: &Tensor) -> Tensor {
        let length = |x: &Tensor| (x * x).sum_dim_intlist(1, true, Kind::Double).sqrt();
        let cosine = (x / length(x)).mm(&(w / length(w)).tr());
        let s = match kind {
            HeadKind::Plain => length(x) * length(w).tr(),
            HeadKind::Weights => length(x).expand([EXAMPLES, CLASSES], false),
            HeadKind::Normalised => cosine.full_like(head(kind).scale),
        };
        s * (cosine - margin)
    }

    fn bits(gradient: &HeadGradient) -> Vec<u32> {
        [&gradient.loss, &gradient.features, &gradient.weights]
            .into_iter()
            .flat_map(|tensor| Vec::<f32>::try_from(tensor.reshape(-1)).unwrap())
            .map(f32::to_bits)
            .collect()
    }

    #[test]
    fn mu_0_is_softmax_and_a_shifted_t_is_am_softmax_to_the_last_bit() {
        let space = Space { kind: SpaceKind::Lines, intervals: 6 };
        let mut am_softmax = space.identity();
        am_softmax[6..12].fill(-0.35);
        for (theta, fixed) in [(space.identity(), FixedLoss::Softmax), (am_softmax, FixedLoss::AmSoftmax { m: 0.35 })] {
            let unified = Unified::lines(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Float);
            for kind in KINDS {
                let (x, w, y) = inputs(3, Kind::Float);
                let gradient = |loss: &dyn Loss| bits(&head(kind).gradient(loss, &x, &w, &y, EXAMPLES as f64, 0));
                assert!(gradient(&unified) == gradient(&fixed), "{fixed:?} {kind:?}");
            }
        }
    }

    #[test]
    fn every_theta_and_every_feature_gives_finite_gradients() {
        let mut rng = rng(12, Purpose::Theta, &[]);
        for round in 0..40 {
            let theta: Vec<f64> = (0..24).map(|_| rng.random_range(-30.0..30.0)).collect();
            let loss = Unified::lines(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Float);
            for kind in KINDS {
                let (x, w, y) = inputs(round, Kind::Float);
                for scale in [0.0, 1e-3, 1.0, 100.0] {
                    let found = head(kind).gradient(&loss, &(&x * scale), &w, &y, EXAMPLES as f64, 0);
                    for tensor in [&found.loss, &found.features, &found.weights] {
                        assert_eq!(i64::try_from(tensor.isfinite().all()).unwrap(), 1, "{kind:?}, scale {scale}");
                    }
                }
            }
        }
    }

    #[test]
    fn parts_of_a_batch_add_up_to_the_batch() {
        let (x, w, y) = inputs(9, Kind::Double);
        let loss = FixedLoss::AmSoftmax { m: 0.2 };
        for kind in KINDS {
            let whole = head(kind).gradient(&loss, &x, &w, &y, EXAMPLES as f64, 0);
            let part = |start: i64, count: i64| {
                let rows = |tensor: &Tensor| tensor.narrow(0, start, count);
                head(kind).gradient(&loss, &rows(&x), &w, &rows(&y), EXAMPLES as f64, 0)
            };
            let (a, b) = (part(0, 20), part(20, EXAMPLES - 20));
            let expected = [a.loss + b.loss, Tensor::cat(&[a.features, b.features], 0), a.weights + b.weights];
            assert_close(&whole, &expected, 1e-12, "parts");
        }
    }
}
