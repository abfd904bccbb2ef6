//! Known losses as fixed points of the same form; margins and annealing as in their papers (docs/recipes.md).

use tch::Tensor;

use super::{HeadKind, Line, Loss};

/// Below this sin(theta) ArcFace's slope sin(theta + m) / sin(theta) is held: it is infinite at theta = 0.
const MIN_SINE: f64 = 1e-3;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FixedLoss {
    Softmax,
    /// L-Softmax (Liu et al. 2016; plain head) and A-Softmax (SphereFace; normalised weights):
    /// t(c) = (lambda cos + psi) / (1 + lambda), psi = (-1)^k cos(m theta) - 2k on [k pi/m, (k+1) pi/m],
    /// lambda = max(5, 1000 / (1 + 0.12 it)), it = step + 1. Without annealing m = 4 does not get off the ground.
    Angular {
        m: usize,
    },
    /// t(c) = c - m (AM-Softmax, CosFace).
    AmSoftmax {
        m: f64,
    },
    /// t(c) = cos(theta + m); c - m sin m where theta + m > pi.
    ArcFace {
        m: f64,
    },
    /// -(1 - p)^gamma log p (Lin et al. 2017; AM-LFS equation 6).
    Focal {
        gamma: f64,
    },
    /// (1 - p^q) / q (Zhang and Sabuncu 2018, equation 6): between cross-entropy (q -> 0) and 1 - p (q = 1).
    GeneralisedCrossEntropy {
        q: f64,
    },
    /// Cross-entropy with (1 - epsilon) of the label and epsilon / C of each class (Szegedy et al. 2016, section 7).
    LabelSmoothing {
        epsilon: f64,
    },
    /// Cross-entropy weighted by the inverse of a class's effective number of examples (Cui et al. 2019).
    ClassBalanced {
        beta: f64,
    },
    /// t(c) = c - m (n_min / n_y)^(1/4) for a class of n_y examples (LDAM, Cao et al. 2019, equation 13); weighted as
    /// `ClassBalanced` with beta = 0.9999, as they do towards the end.
    Ldam {
        m: f64,
        weighted: bool,
    },
    /// Softmax of z_j + log n_j (Ren et al. 2020, equation 3).
    BalancedSoftmax,
}

impl FixedLoss {
    /// Whether it is a function of the target's cosine and probability alone, as the searched loss is.
    pub fn is_in_the_form(self) -> bool {
        !matches!(
            self,
            FixedLoss::LabelSmoothing { .. }
                | FixedLoss::ClassBalanced { .. }
                | FixedLoss::Ldam { .. }
                | FixedLoss::BalancedSoftmax
        )
    }
}

/// A fixed loss that can be chosen.
pub struct FixedLossKind {
    /// What `loss.name` and `amlfs train --loss` say.
    pub name: &'static str,
    /// The head that it was published with.
    pub head: HeadKind,
    /// What `loss.margin` means to it, if anything.
    pub margin: Option<Margin>,
    /// Takes the margin, 0 if it has none.
    pub new: fn(f64) -> FixedLoss,
}

impl FixedLossKind {
    /// With its default margin.
    pub fn by_default(&self) -> FixedLoss {
        (self.new)(self.margin.as_ref().map_or(0.0, |margin| margin.default))
    }
}

pub struct Margin {
    pub default: f64,
    pub allows: fn(f64) -> bool,
    /// `allows` in words.
    pub range: &'static str,
}

/// Every fixed loss: a new one is a variant above and a line here.
pub const FIXED_LOSSES: &[FixedLossKind] = &[
    FixedLossKind { name: "softmax", head: HeadKind::Plain, margin: None, new: |_| FixedLoss::Softmax },
    FixedLossKind {
        name: "l-softmax",
        head: HeadKind::Plain,
        margin: MULTIPLIER,
        new: |m| FixedLoss::Angular { m: m as usize },
    },
    FixedLossKind {
        name: "a-softmax",
        head: HeadKind::Weights,
        margin: MULTIPLIER,
        new: |m| FixedLoss::Angular { m: m as usize },
    },
    FixedLossKind {
        name: "am-softmax",
        head: HeadKind::Normalised,
        margin: OFFSET,
        new: |m| FixedLoss::AmSoftmax { m },
    },
    FixedLossKind { name: "cosface", head: HeadKind::Normalised, margin: OFFSET, new: |m| FixedLoss::AmSoftmax { m } },
    FixedLossKind {
        name: "arcface",
        head: HeadKind::Normalised,
        margin: Some(Margin {
            default: 0.5,
            allows: |m| (0.0..std::f64::consts::FRAC_PI_2).contains(&m),
            range: "at least 0 and below pi/2 (radians)",
        }),
        new: |m| FixedLoss::ArcFace { m },
    },
    FixedLossKind {
        name: "focal",
        head: HeadKind::Plain,
        margin: Some(Margin { default: 2.0, allows: |gamma| (0.0..=10.0).contains(&gamma), range: "0 to 10 (gamma)" }),
        new: |gamma| FixedLoss::Focal { gamma },
    },
    FixedLossKind {
        name: "gce",
        head: HeadKind::Plain,
        margin: Some(Margin { default: 0.7, allows: |q| q > 0.0 && q <= 1.0, range: "above 0 and at most 1 (q)" }),
        new: |q| FixedLoss::GeneralisedCrossEntropy { q },
    },
    FixedLossKind {
        name: "label-smoothing",
        head: HeadKind::Plain,
        margin: Some(Margin {
            default: 0.1,
            allows: |epsilon| (0.0..1.0).contains(&epsilon),
            range: "at least 0 and below 1 (epsilon)",
        }),
        new: |epsilon| FixedLoss::LabelSmoothing { epsilon },
    },
    FixedLossKind {
        name: "class-balanced",
        head: HeadKind::Plain,
        margin: Some(Margin {
            default: 0.9999,
            allows: |beta| (0.0..1.0).contains(&beta),
            range: "at least 0 and below 1 (beta)",
        }),
        new: |beta| FixedLoss::ClassBalanced { beta },
    },
    FixedLossKind {
        name: "ldam",
        head: HeadKind::Normalised,
        margin: Some(Margin { default: 0.5, allows: |m| (0.0..2.0).contains(&m), range: "at least 0 and below 2" }),
        new: |m| FixedLoss::Ldam { m, weighted: false },
    },
    FixedLossKind {
        name: "balanced-softmax",
        head: HeadKind::Plain,
        margin: None,
        new: |_| FixedLoss::BalancedSoftmax,
    },
];

/// cos(m theta)
const MULTIPLIER: Option<Margin> = Some(Margin {
    default: 4.0,
    allows: |m| (1..=8).any(|whole| m == f64::from(whole)),
    range: "a whole number from 1 to 8",
});
/// cos(theta) - m
const OFFSET: Option<Margin> =
    Some(Margin { default: 0.35, allows: |m| (0.0..2.0).contains(&m), range: "at least 0 and below 2" });

impl Loss for FixedLoss {
    fn target(&self, cosine: &Tensor, step: u64) -> Line {
        match *self {
            FixedLoss::Softmax
            | FixedLoss::Focal { .. }
            | FixedLoss::GeneralisedCrossEntropy { .. }
            | FixedLoss::LabelSmoothing { .. }
            | FixedLoss::ClassBalanced { .. }
            | FixedLoss::Ldam { .. }
            | FixedLoss::BalancedSoftmax => shifted(cosine, 0.0),
            FixedLoss::AmSoftmax { m } => shifted(cosine, -m),
            FixedLoss::Angular { m } => {
                let lambda = (1000.0 / (1.0 + 0.12 * (step + 1) as f64)).max(5.0);
                let (value, slope) = psi(cosine, m);
                let mix = |softmax: &Tensor, margin: Tensor| (softmax * lambda + margin) / (1.0 + lambda);
                tangent(cosine, mix(cosine, value), mix(&cosine.ones_like(), slope))
            }
            FixedLoss::ArcFace { m } => {
                let sine = (-(cosine * cosine) + 1.0).clamp_min(0.0).sqrt();
                let value = cosine * m.cos() - &sine * m.sin();
                let slope = m.cos() + cosine * m.sin() / sine.clamp_min(MIN_SINE);
                // theta + m > pi, where cos(theta + m) would rise again
                let beyond = cosine.lt(-m.cos());
                let value = (cosine - m * m.sin()).where_self(&beyond, &value);
                tangent(cosine, value, slope.masked_fill(&beyond, 1.0))
            }
        }
    }

    fn weigh(&self, p: &Tensor, nll: &Tensor) -> (Tensor, Tensor) {
        match *self {
            FixedLoss::Focal { gamma } => {
                let q = -(-nll).expm1(); // 1 - p without cancellation
                let modulation = q.pow_tensor_scalar(gamma);
                // gamma = 0 and q = 0 would be 0 * infinity
                let change = p * nll * q.clamp_min(1e-30).pow_tensor_scalar(gamma - 1.0) * gamma;
                (&modulation * nll, modulation + change)
            }
            FixedLoss::GeneralisedCrossEntropy { q } => (-(nll * -q).expm1() / q, (nll * -q).exp()),
            _ => (nll.shallow_clone(), nll.ones_like()),
        }
    }

    fn smoothing(&self) -> f64 {
        if let FixedLoss::LabelSmoothing { epsilon } = *self { epsilon } else { 0.0 }
    }
}

fn shifted(cosine: &Tensor, by: f64) -> Line {
    Line { slope: cosine.ones_like(), intercept: cosine.full_like(by) }
}

fn tangent(cosine: &Tensor, value: Tensor, slope: Tensor) -> Line {
    let intercept = value - &slope * cosine;
    Line { slope, intercept }
}

/// psi(theta) and its derivative by the cosine, by Chebyshev polynomials: cos(m theta) = T_m(c) and
/// d T_m / d c = m U_{m-1}(c). No acos, whose gradient is infinite at |c| = 1.
fn psi(cosine: &Tensor, m: usize) -> (Tensor, Tensor) {
    let (mut t, mut t_next) = (cosine.ones_like(), cosine.shallow_clone()); // T_0, T_1
    let (mut u, mut u_next) = (cosine.zeros_like(), cosine.ones_like()); // U_{-1}, U_0
    for _ in 0..m {
        (t, t_next) = (t_next.shallow_clone(), cosine * 2.0 * &t_next - t);
        (u, u_next) = (u_next.shallow_clone(), cosine * 2.0 * &u_next - u);
    }
    // k: how many of the angles pi/m, 2 pi/m, ... lie below theta
    let mut k = cosine.zeros_like();
    for j in 1..m {
        k += cosine.lt((j as f64 * std::f64::consts::PI / m as f64).cos()).to_kind(cosine.kind());
    }
    let sign = 1.0 - k.remainder(2.0) * 2.0;
    (&sign * t - k * 2.0, sign * u * m as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

    fn at(loss: FixedLoss, cosine: f64, step: u64) -> (f64, f64) {
        let line = loss.target(&Tensor::from_slice(&[cosine]), step);
        let (slope, intercept) = (line.slope.double_value(&[0]), line.intercept.double_value(&[0]));
        (slope * cosine + intercept, slope)
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * (1.0 + b.abs()), "{a} is not {b}");
    }

    /// The value against the closed form and the slope against its numerical derivative by the cosine.
    fn check(loss: FixedLoss, step: u64, formula: impl Fn(f64) -> f64) {
        for degrees in [3.0, 20.0, 44.0, 46.0, 61.0, 89.0, 95.0, 134.0, 137.0, 160.0, 177.0f64] {
            let theta = degrees.to_radians();
            let (value, slope) = at(loss, theta.cos(), step);
            close(value, formula(theta));
            let h = 1e-6;
            let derivative = (formula(theta + h) - formula(theta - h)) / ((theta + h).cos() - (theta - h).cos());
            assert!(
                (slope - derivative).abs() < 1e-4 * (1.0 + derivative.abs()),
                "{loss:?} at {degrees}: {slope} {derivative}"
            );
        }
    }

    fn psi_by_angle(theta: f64, m: f64) -> f64 {
        let k = (theta * m / PI).floor();
        (-1f64).powf(k) * (m * theta).cos() - 2.0 * k
    }

    #[test]
    fn names_are_unique_and_every_margin_allows_its_default() {
        for (i, kind) in FIXED_LOSSES.iter().enumerate() {
            assert!(FIXED_LOSSES[..i].iter().all(|other| other.name != kind.name), "{}", kind.name);
            assert!(kind.margin.as_ref().is_none_or(|margin| (margin.allows)(margin.default)), "{}", kind.name);
        }
    }

    #[test]
    fn margins_hold_the_ends_of_their_ranges() {
        for (name, allowed, refused) in [
            ("l-softmax", [1.0, 8.0], [0.0, 9.0]),
            ("a-softmax", [1.0, 8.0], [0.0, 2.5]),
            ("am-softmax", [0.0, 1.99], [-0.1, 2.0]),
            ("cosface", [0.0, 1.99], [-0.1, 2.0]),
            ("arcface", [0.0, 1.57], [-0.1, PI / 2.0]),
            ("focal", [0.0, 10.0], [-0.1, 10.1]),
            ("gce", [0.01, 1.0], [0.0, 1.1]),
            ("label-smoothing", [0.0, 0.99], [-0.1, 1.0]),
            ("class-balanced", [0.0, 0.9999], [-0.1, 1.0]),
            ("ldam", [0.0, 1.99], [-0.1, 2.0]),
        ] {
            let kind = FIXED_LOSSES.iter().find(|kind| kind.name == name).unwrap();
            let Margin { allows, range, .. } = kind.margin.as_ref().unwrap();
            assert!(allowed.into_iter().all(allows), "{name}: {range}");
            assert!(!refused.into_iter().chain([f64::NAN]).any(allows), "{name}: {range}");
        }
    }

    #[test]
    fn targets_equal_their_closed_forms() {
        check(FixedLoss::Softmax, 0, f64::cos);
        check(FixedLoss::AmSoftmax { m: 0.35 }, 0, |theta| theta.cos() - 0.35);
        for m in 1..=5 {
            let lambda = 1000.0 / 1.12; // 892.857, as in SphereFace's published log
            let annealed =
                |lambda: f64, theta: f64| (lambda * theta.cos() + psi_by_angle(theta, m as f64)) / (1.0 + lambda);
            check(FixedLoss::Angular { m }, 0, |theta| annealed(lambda, theta));
            check(FixedLoss::Angular { m }, 1_000_000, |theta| annealed(5.0, theta));
        }
        check(FixedLoss::ArcFace { m: 0.5 }, 0, |theta| {
            if theta + 0.5 <= PI { (theta + 0.5).cos() } else { theta.cos() - 0.5 * 0.5f64.sin() }
        });
    }

    #[test]
    fn targets_are_finite_at_the_ends() {
        for loss in [FixedLoss::Angular { m: 4 }, FixedLoss::ArcFace { m: 0.5 }] {
            for cosine in [-1.0, 1.0] {
                let (value, slope) = at(loss, cosine, 0);
                assert!(value.is_finite() && slope.is_finite(), "{loss:?} at {cosine}");
            }
        }
    }

    #[test]
    fn generalised_cross_entropy_equals_its_closed_form() {
        for (p, q) in [(0.5f64, 0.7), (0.9, 1.0), (1e-6, 0.3), (1.0, 0.7)] {
            let probability = Tensor::from_slice(&[p]);
            let loss = FixedLoss::GeneralisedCrossEntropy { q };
            let (found, weight) = loss.weigh(&probability, &-probability.log());
            close(found.double_value(&[0]), (1.0 - p.powf(q)) / q);
            close(weight.double_value(&[0]), p.powf(q)); // d / d (-log p)
        }
    }

    #[test]
    fn focal_loss_equals_its_closed_form() {
        for (p, gamma) in [(0.5, 2.0), (0.9, 2.0), (1e-6, 1.0), (0.3, 0.0), (0.2, 5.0f64)] {
            let value = |p: f64| -(1.0 - p).powf(gamma) * p.ln();
            let probability = Tensor::from_slice(&[p]);
            let (found, weight) = FixedLoss::Focal { gamma }.weigh(&probability, &-probability.log());
            close(found.double_value(&[0]), value(p));
            let h = 1e-6 * p;
            let derivative = (value(p + h) - value(p - h)) / (2.0 * h) * -p; // by -log p
            assert!((weight.double_value(&[0]) - derivative).abs() < 1e-6 * (1.0 + derivative.abs()));
        }
        let one = Tensor::from_slice(&[1.0f64]);
        let (value, weight) = FixedLoss::Focal { gamma: 2.0 }.weigh(&one, &one.zeros_like());
        assert_eq!((value.double_value(&[0]), weight.double_value(&[0])), (0.0, 0.0));
    }
}
