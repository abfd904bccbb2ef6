//! The nearest theta of a space for a known loss: where a search starts to have that loss first (AM-LFS figure 1).
//!
//! Nearest by least squares, as training feels a loss:
//! * t and its derivative together, over the cosine, uniformly on [-1, 1];
//! * the logarithm of the weights, over p on [0, 1], where an example counts 1 - p, the size of its cross-entropy gradient.
//!
//! t is linear in what is sought, one interval by itself (`lines`) or all together (`derivatives`); so are log weights that
//! are constant (`derivatives`). The weight p / (p + r) of a line of tau takes a search for one number.

use tch::{Device, Kind, Tensor};

use super::derivatives::knot;
use super::unified::MIN_SLOPE;
use super::{FixedLoss, Function, Loss, Space, SpaceKind, TauWeights};

/// An annealed loss is taken as it is after so many steps: at its end.
const LAST_STEP: u64 = 1 << 40;
/// Differences of log weights are told up to this p: beyond it there is next to no gradient to weigh.
pub const MOST_P: f64 = 0.99;
/// theta has so many decimals: 1 and not 0.9999999999999998.
const DECIMALS: f64 = 1e9;

/// The nearest theta, and how far it is from the loss.
#[derive(Debug)]
pub struct Nearest {
    /// Of the space's length.
    pub theta: Vec<f64>,
    /// Of t, in cosine.
    pub t: Difference,
    /// Of the natural logarithm of the weights.
    pub log_weight: Difference,
}

#[derive(Debug, PartialEq)]
pub struct Difference {
    pub root_mean_square: f64,
    pub largest: f64,
    /// The cosine, or the p, where it is.
    pub at: f64,
}

/// The nearest theta for `loss` at the end of its annealing; the unified loss clamps its weights at `w_max`.
pub fn nearest(loss: FixedLoss, space: Space, w_max: f64) -> Nearest {
    let known = Known::new(loss, space.intervals);
    let (t, tau) = match space.kind {
        SpaceKind::Lines => (lines_of_t(&known), lines_of_tau(&known, w_max)),
        SpaceKind::Derivatives => (derivatives_of_t(&known), constant_weights(&known)),
    };
    let theta: Vec<f64> = [t, tau].concat().iter().map(|value| (value * DECIMALS).round() / DECIMALS + 0.0).collect(); // no -0
    let function = Function::Unified { space: space.kind, w_max, tau_weights: TauWeights::Raw, logit_adjustment: 0.0 };
    let found = Known::of(&*function.build(&theta, &[], Device::Cpu, Kind::Double), space.intervals);
    Nearest { theta, t: known.difference_of_t(&found), log_weight: known.difference_of_log_weights(&found) }
}

/// A loss at points of every interval, interval by interval.
struct Known {
    intervals: Vec<Interval>,
}

struct Interval {
    t: Vec<TargetPoint>,
    tau: Vec<WeightPoint>,
}

/// t and its derivative at a cosine, which counts `share`: all of [-1, 1] counts 1.
struct TargetPoint {
    cosine: f64,
    value: f64,
    slope: f64,
    share: f64,
}

/// The value and the log weight of an example at p, which counts `share`: all of [0, 1] counts 1.
struct WeightPoint {
    p: f64,
    value: f64,
    log_weight: f64,
    share: f64,
}

impl Known {
    fn new(loss: FixedLoss, intervals: usize) -> Known {
        Known::of(&loss, intervals)
    }

    fn of(loss: &dyn Loss, intervals: usize) -> Known {
        let points = (12_000 / intervals).clamp(50, 2000);
        let interval = |i: usize| Interval {
            t: target_points(loss, knot(i, intervals), knot(i + 1, intervals), points),
            tau: weight_points(loss, i, intervals, points),
        };
        Known { intervals: (0..intervals).map(interval).collect() }
    }

    fn difference_of_t(&self, found: &Known) -> Difference {
        let points =
            self.intervals.iter().zip(&found.intervals).flat_map(|(ours, theirs)| ours.t.iter().zip(&theirs.t));
        difference(points.map(|(ours, theirs)| (ours.cosine, ours.share, (ours.value - theirs.value).abs())), 1.0)
    }

    fn difference_of_log_weights(&self, found: &Known) -> Difference {
        let points = self.intervals.iter().zip(&found.intervals);
        let points = points.flat_map(|(ours, theirs)| ours.tau.iter().zip(&theirs.tau));
        let differences =
            points.map(|(ours, theirs)| (ours.p, ours.share, (ours.log_weight - theirs.log_weight).abs()));
        difference(differences, MOST_P)
    }
}

/// Of (place, share, difference); the largest up to the place `last`.
fn difference(points: impl Iterator<Item = (f64, f64, f64)>, last: f64) -> Difference {
    let (mut square, mut largest, mut at) = (0.0, 0.0, 0.0);
    for (place, share, difference) in points {
        square += share * difference * difference;
        if place <= last && difference > largest {
            (largest, at) = (difference, place);
        }
    }
    Difference { root_mean_square: f64::sqrt(square), largest, at }
}

/// Equally spaced by the angle: where its sine is small, t' of ArcFace is without bound, and t' sin theta is not.
fn target_points(loss: &dyn Loss, low: f64, high: f64, count: usize) -> Vec<TargetPoint> {
    let (first, last) = (high.acos(), low.acos());
    let angles: Vec<f64> = (0..count).map(|k| first + (last - first) * (k as f64 + 0.5) / count as f64).collect();
    let cosines: Vec<f64> = angles.iter().map(|angle| angle.cos()).collect();
    let line = loss.target(&Tensor::from_slice(&cosines), LAST_STEP);
    let (slopes, intercepts) = (numbers(&line.slope), numbers(&line.intercept));
    let sines: f64 = angles.iter().map(|angle| angle.sin()).sum();
    let point = |k: usize| TargetPoint {
        cosine: cosines[k],
        value: slopes[k] * cosines[k] + intercepts[k],
        slope: slopes[k],
        share: angles[k].sin() / sines * (high - low) / 2.0,
    };
    (0..count).map(point).collect()
}

fn weight_points(loss: &dyn Loss, interval: usize, intervals: usize, count: usize) -> Vec<WeightPoint> {
    let place = |k: usize| (interval as f64 + (k as f64 + 0.5) / count as f64) / intervals as f64;
    let p: Vec<f64> = (0..count).map(place).collect();
    let tensor = Tensor::from_slice(&p);
    let (values, weights) = loss.weigh(&tensor, &-tensor.log());
    let (values, weights) = (numbers(&values), numbers(&weights));
    let point = |k: usize| WeightPoint {
        p: p[k],
        value: values[k],
        log_weight: weights[k].ln(),
        share: 2.0 * (1.0 - p[k]) / (count * intervals) as f64,
    };
    (0..count).map(point).collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor).expect("one dimension of f64")
}

/// The best line for an interval of t, and how its squared errors grow with what differs from it:
/// share (value - its value)^2 + (share + spread) (slope - its slope)^2.
struct BestLine {
    /// Mean cosine; the line's value there is `value`.
    middle: f64,
    value: f64,
    slope: f64,
    share: f64,
    /// share times the variance of the cosine
    spread: f64,
}

fn best_lines(known: &Known) -> impl Iterator<Item = BestLine> {
    known.intervals.iter().map(|Interval { t, .. }| {
        let sum = |of: &dyn Fn(&TargetPoint) -> f64| t.iter().map(|point| point.share * of(point)).sum::<f64>();
        let share = sum(&|_| 1.0);
        let (middle, value) = (sum(&|point| point.cosine) / share, sum(&|point| point.value) / share);
        let spread = sum(&|point| (point.cosine - middle).powi(2));
        let slopes = sum(&|point| (point.cosine - middle) * point.value + point.slope);
        BestLine { middle, value, slope: slopes / (share + spread), share, spread }
    })
}

/// Slopes, then biases [2M].
fn lines_of_t(known: &Known) -> Vec<f64> {
    let line = |line: BestLine| {
        let slope = line.slope.max(MIN_SLOPE);
        (slope, line.value - slope * line.middle)
    };
    let (slopes, biases): (Vec<f64>, Vec<f64>) = best_lines(known).map(line).unzip();
    [slopes, biases].concat()
}

/// Log slopes, then t(0) [M + 1].
fn derivatives_of_t(known: &Known) -> Vec<f64> {
    let lines: Vec<BestLine> = best_lines(known).collect();
    let intervals = lines.len();
    // t(c) = t(0) + the lengths that [0, c] has in each interval, times slopes
    let length = |c: f64, i: usize| {
        let inside = |x: f64| x.clamp(knot(i, intervals), knot(i + 1, intervals));
        inside(c) - inside(0.0)
    };
    let (mut rows, mut right) = (Vec::new(), Vec::new());
    for (i, line) in lines.iter().enumerate() {
        let (by_value, by_slope) = (line.share.sqrt(), (line.share + line.spread).sqrt());
        rows.extend((0..intervals).map(|j| by_value * length(line.middle, j)).chain([by_value]));
        right.push(by_value * line.value);
        rows.extend((0..=intervals).map(|j| if i == j { by_slope } else { 0.0 }));
        right.push(by_slope * line.slope);
    }
    let rows = Tensor::from_slice(&rows).view([-1, intervals as i64 + 1]);
    let (found, ..) = rows.linalg_lstsq(&Tensor::from_slice(&right).view([-1, 1]), None, "gelsd");
    let slopes: Vec<f64> = numbers(&found.view(-1))[..intervals].iter().map(|slope| slope.max(MIN_SLOPE)).collect();
    let without_offset = |line: &BestLine| (0..intervals).map(|j| slopes[j] * length(line.middle, j)).sum::<f64>();
    let offset: f64 = lines.iter().map(|line| line.share * (line.value - without_offset(line))).sum();
    slopes.iter().map(|slope| slope.ln()).chain([offset]).collect()
}

/// Log weights [M].
fn constant_weights(known: &Known) -> Vec<f64> {
    known.intervals.iter().map(|interval| mean(&interval.tau, |point| point.log_weight)).collect()
}

/// Slopes, then biases [2M]: b / a decides the weight p / (p + b / a), and a the value.
fn lines_of_tau(known: &Known, w_max: f64) -> Vec<f64> {
    let line = |Interval { tau, .. }: &Interval| {
        let ratio = nearest_ratio(tau, w_max);
        // -log tau = -log a - log (p + ratio)
        let log_slope = mean(tau, |point| -point.value - (point.p + ratio).max(1e-6).ln());
        let slope = log_slope.exp().max(MIN_SLOPE);
        (slope, slope * ratio)
    };
    let (slopes, biases): (Vec<f64>, Vec<f64>) = known.intervals.iter().map(line).unzip();
    [slopes, biases].concat()
}

/// r of the weights p / (p + r). It is sought by the weight that it gives in the middle, among those of the loss.
fn nearest_ratio(points: &[WeightPoint], w_max: f64) -> f64 {
    let middle = mean(points, |point| point.p);
    let ratio = |log_weight: f64| middle * (-log_weight).exp_m1();
    let error = |log_weight: f64| {
        let ratio = ratio(log_weight);
        mean(points, |point| {
            let inverse = (1.0 + ratio / point.p).max(1.0 / w_max);
            (point.log_weight + inverse.ln()).powi(2)
        })
    };
    let log_weights = || points.iter().map(|point| point.log_weight.min(w_max.ln()));
    let (low, high) = (log_weights().fold(f64::INFINITY, f64::min), log_weights().fold(f64::NEG_INFINITY, f64::max));
    ratio(lowest(low, high, error))
}

/// Where `cost` is lowest between `low` and `high`: the best of a grid, then of finer ones around it.
fn lowest(mut low: f64, mut high: f64, cost: impl Fn(f64) -> f64) -> f64 {
    const STEPS: usize = 32;
    let mut best = low;
    for _ in 0..10 {
        let step = (high - low) / STEPS as f64;
        let places = (0..=STEPS).map(|k| low + k as f64 * step);
        best = places.min_by(|a, b| cost(*a).total_cmp(&cost(*b))).expect("33 places");
        (low, high) = ((best - step).max(low), (best + step).min(high));
    }
    best
}

fn mean(points: &[WeightPoint], of: impl Fn(&WeightPoint) -> f64) -> f64 {
    let sum = |of: &dyn Fn(&WeightPoint) -> f64| points.iter().map(|point| point.share * of(point)).sum::<f64>();
    sum(&of) / sum(&|_| 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::{FIXED_LOSSES, Head, HeadKind};
    use super::*;

    const SPACES: [SpaceKind; 2] = [SpaceKind::Lines, SpaceKind::Derivatives];

    fn space(kind: SpaceKind, intervals: usize) -> Space {
        Space { kind, intervals }
    }

    fn built(kind: SpaceKind, theta: &[f64]) -> Box<dyn Loss + Send> {
        let function =
            Function::Unified { space: kind, w_max: 4.0, tau_weights: TauWeights::Raw, logit_adjustment: 0.0 };
        function.build(theta, &[], Device::Cpu, Kind::Double)
    }

    #[test]
    fn losses_that_a_space_has_are_found_exactly() {
        for kind in SPACES {
            for intervals in [1, 5, 6, 50] {
                let space = space(kind, intervals);
                let softmax = nearest(FixedLoss::Softmax, space, 4.0);
                assert_eq!(softmax.theta, space.identity(), "{space:?}");
                assert!(softmax.t.largest < 1e-12 && softmax.log_weight.largest == 0.0, "{softmax:?}");
                let margin = nearest(FixedLoss::AmSoftmax { m: 0.35 }, space, 4.0);
                let shifted: Vec<f64> = space
                    .names()
                    .iter()
                    .zip(space.identity())
                    .map(|(name, value)| if name.starts_with("t_bias") || name == "t_offset" { -0.35 } else { value })
                    .collect();
                assert_eq!(margin.theta, shifted, "{space:?}");
                assert!(margin.t.largest < 1e-12 && margin.log_weight.largest == 0.0, "{margin:?}");
            }
        }
    }

    /// The sum that is to be least, by its definition.
    fn error(loss: FixedLoss, kind: SpaceKind, intervals: usize, theta: &[f64]) -> [f64; 2] {
        let (known, found) = (Known::new(loss, intervals), Known::of(&*built(kind, theta), intervals));
        let pairs = known.intervals.iter().zip(&found.intervals);
        let of_t = |a: &Interval, b: &Interval| -> f64 {
            let square = |(a, b): (&TargetPoint, &TargetPoint)| {
                a.share * ((a.value - b.value).powi(2) + (a.slope - b.slope).powi(2))
            };
            a.t.iter().zip(&b.t).map(square).sum()
        };
        let of_tau = |a: &Interval, b: &Interval| -> f64 {
            let square = |(a, b): (&WeightPoint, &WeightPoint)| a.share * (a.log_weight - b.log_weight).powi(2);
            a.tau.iter().zip(&b.tau).map(square).sum()
        };
        [pairs.clone().map(|(a, b)| of_t(a, b)).sum(), pairs.map(|(a, b)| of_tau(a, b)).sum()]
    }

    #[test]
    fn no_neighbour_of_the_nearest_theta_is_nearer() {
        for kind in SPACES {
            for loss in FIXED_LOSSES {
                let margin = loss.margin.as_ref().map_or(0.0, |margin| margin.default);
                let (loss, space) = ((loss.new)(margin), space(kind, 6));
                let found = nearest(loss, space, 4.0).theta;
                let least = error(loss, kind, 6, &found);
                for i in 0..found.len() {
                    for step in [-0.01, 0.01] {
                        let mut theta = found.clone();
                        theta[i] += step;
                        let other = error(loss, kind, 6, &theta);
                        // weights of a line are singular at p = -r, and the points there few
                        let further = least.iter().zip(other).all(|(least, other)| other >= 0.999 * least - 1e-9);
                        assert!(further, "{loss:?}, {kind:?}: {} {step:+} {least:?} {other:?}", space.names()[i]);
                    }
                }
            }
        }
    }

    #[test]
    fn more_intervals_are_nearer() {
        for kind in SPACES {
            // not ArcFace: its t jumps where theta + m = pi, a continuous one never does
            for loss in [FixedLoss::Angular { m: 4 }, FixedLoss::Focal { gamma: 2.0 }] {
                let errors = [2, 6, 30].map(|intervals| nearest(loss, space(kind, intervals), 4.0));
                let of = |found: &Nearest| found.t.root_mean_square + found.log_weight.root_mean_square;
                assert!(errors.windows(2).all(|pair| of(&pair[1]) < 0.7 * of(&pair[0])), "{loss:?} {errors:?}");
            }
        }
    }

    /// (loss, d features, d weights) of a batch.
    fn gradient(loss: &dyn Loss) -> (f64, Tensor, Tensor) {
        let wave = |count: usize, by: f64| {
            let values: Vec<f64> = (0..count).map(|i| (i as f64 * by).sin()).collect();
            Tensor::from_slice(&values)
        };
        let (features, weights) = (wave(64 * 8, 12.9898).view([64, 8]), wave(10 * 8, 78.233).view([10, 8]));
        let labels = Tensor::from_slice(&(0..64).map(|i| i % 10).collect::<Vec<i64>>());
        let head = Head { kind: HeadKind::Normalised, scale: 16.0 };
        let found = head.gradient(loss, &features, &weights, &labels, 64.0, LAST_STEP);
        (found.loss.double_value(&[]), found.features, found.weights)
    }

    #[test]
    fn a_search_that_starts_there_has_the_losss_values_and_gradients() {
        let apart = |a: &(f64, Tensor, Tensor), b: &(f64, Tensor, Tensor)| {
            let share = |a: &Tensor, b: &Tensor| f64::try_from((a - b).norm() / b.norm()).unwrap();
            share(&a.1, &b.1).max(share(&a.2, &b.2))
        };
        for kind in SPACES {
            for (loss, least) in [
                (FixedLoss::AmSoftmax { m: 0.3 }, 1e-12),
                // slopes that change within an interval
                (FixedLoss::ArcFace { m: 0.5 }, 0.12),
                (FixedLoss::Angular { m: 4 }, 0.35),
            ] {
                let nearest = nearest(loss, space(kind, 6), 4.0);
                let (found, expected) = (gradient(&*built(kind, &nearest.theta)), gradient(&loss));
                // nll changes by no more than the logit, which is s = 16 times t
                let within = 16.0 * nearest.t.largest + 1e-12;
                assert!((found.0 - expected.0).abs() <= within, "{loss:?}, {kind:?}: {} {}", found.0, expected.0);
                let off = apart(&found, &expected);
                assert!(off < least, "{loss:?}, {kind:?}: {off}");
            }
        }
    }
}
