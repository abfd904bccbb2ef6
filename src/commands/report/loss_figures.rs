//! What a search's mean is as a loss: t, the weights, and the loss value beside known ones (figure 1 of the paper).

use tch::{Device, Kind};

use crate::figures::{Axis, Figure, Series, Shape};
use crate::loss::{FixedLoss, Function, Loss, TauWeights, target_curve, value_and_weight_curves};
use crate::runs::Group;

/// Points of a curve.
const POINTS: usize = 201;
/// The probabilities that are drawn; beyond, focal loss is 0.
const P: [f64; 2] = [1e-3, 0.97];
/// Step of a numerical derivative, in sigmas.
const STEP: f64 = 1e-3;

pub fn all(group: &Group) -> Vec<(Figure, String)> {
    let Function::Unified { space, w_max, .. } = group.runs[0].config.loss.function else { return Vec::new() };
    let curves = Curves {
        group,
        function: Function::Unified { space, w_max, tau_weights: TauWeights::Raw, logit_adjustment: 0.0 },
    };
    let band = "The band is one sigma of the distribution to either side of the last mean, to first order.";
    vec![
        (curves.transform(), format!("What takes the place of the target's cosine c. {SEEDS} {band}")),
        (
            curves.weights(),
            format!(
                "How much an example counts by the probability p of its label: below 1 on the left, hard examples are \
                 attended to less than by softmax. {} {band}",
                normalised(group)
            ),
        ),
        (
            curves.loss(),
            format!(
                "The loss value of a label with probability p, on a log scale, beside known losses (figure 1 of the paper). {band}"
            ),
        ),
    ]
}

const SEEDS: &str = "Means of several runs are averaged.";

fn normalised(group: &Group) -> &'static str {
    match group.runs[0].config.typed().loss.tau_weights {
        TauWeights::Raw => "",
        TauWeights::Normalised => "In training they are divided by their mean over a batch; here they are not.",
    }
}

struct Curves<'a> {
    group: &'a Group<'a>,
    function: Function,
}

impl Curves<'_> {
    fn build(&self, theta: &[f64]) -> Box<dyn Loss + Send> {
        self.function.build(theta, &[], Device::Cpu, Kind::Double)
    }

    /// The mean of the distribution before an epoch, or after the last; over the runs that have got there.
    fn mu(&self, epoch: usize) -> Option<Vec<f64>> {
        let found: Vec<&[f64]> = self.group.runs.iter().filter_map(|run| run.mu(epoch)).collect();
        let first = found.first()?;
        Some((0..first.len()).map(|i| found.iter().map(|mu| mu[i]).sum::<f64>() / found.len() as f64).collect())
    }

    /// Curves of the first, the middle and the last epoch's mean, the last with a band.
    fn epochs(&self, x: &[f64], value: impl Fn(&dyn Loss) -> Vec<f64>, log: bool) -> Vec<Series> {
        let last = self.group.epochs();
        let points = |values: &[f64]| x.iter().zip(values).map(|(&x, &y)| [x, y]).collect::<Vec<_>>();
        let identity = self.group.runs[0].config.space().identity();
        let mut found = Vec::new();
        for (epoch, colour, shape) in [(0, 5, Shape::Dashed), (last / 2, 5, Shape::Line), (last, 0, Shape::Line)] {
            let Some(theta) = self.mu(epoch) else { continue };
            if theta == identity {
                continue; // softmax is there already
            }
            let values = value(&*self.build(&theta));
            let spread = if epoch == last { self.band(&theta, &value, &values, log) } else { Vec::new() };
            let label = format!("after epoch {epoch}");
            found.push(Series { label, colour, shape, points: points(&values), spread });
        }
        found
    }

    /// One standard deviation of the value if theta has the policy's sigma; of its logarithm for a log scale.
    fn band(&self, theta: &[f64], value: &impl Fn(&dyn Loss) -> Vec<f64>, values: &[f64], log: bool) -> Vec<[f64; 2]> {
        let scaled = |value: f64| if log { value.max(1e-300).ln() } else { value };
        let mut variance = vec![0.0; values.len()];
        for (i, &sigma) in
            self.group.runs[0].checkpoint.policy.sigma.iter().enumerate().filter(|(_, sigma)| **sigma > 0.0)
        {
            let moved = |by: f64| {
                let mut theta = theta.to_vec();
                theta[i] += by * sigma;
                value(&*self.build(&theta))
            };
            let (up, down) = (moved(STEP), moved(-STEP));
            for ((variance, up), down) in variance.iter_mut().zip(up).zip(down) {
                *variance += ((scaled(up) - scaled(down)) / (2.0 * STEP)).powi(2);
            }
        }
        let edges = |(value, variance): (&f64, f64)| {
            let deviation = variance.sqrt();
            match log {
                true => [value * (-deviation).exp(), value * deviation.exp()],
                false => [value - deviation, value + deviation],
            }
        };
        values.iter().zip(variance).map(edges).collect()
    }

    fn transform(&self) -> Figure {
        let cosines: Vec<f64> = (0..POINTS).map(|i| -1.0 + 2.0 * i as f64 / (POINTS - 1) as f64).collect();
        let known = [
            ("softmax", FixedLoss::Softmax, 6),
            ("AM-softmax, m = 0.35", FixedLoss::AmSoftmax { m: 0.35 }, 4),
            ("ArcFace, m = 0.5", FixedLoss::ArcFace { m: 0.5 }, 2),
        ];
        let of = |loss: &dyn Loss| target_curve(loss, &cosines);
        Figure {
            name: "target-transform".into(),
            title: "t: what the target's cosine becomes".into(),
            x: Axis::linear("target cosine c"),
            y: Axis::linear("t(c)"),
            series: with_known(&cosines, &known, of, self.epochs(&cosines, of, false)),
            ..Figure::default()
        }
    }

    fn weights(&self) -> Figure {
        let known = [("softmax", FixedLoss::Softmax, 6), ("focal, gamma = 2", FixedLoss::Focal { gamma: 2.0 }, 4)];
        let p = probabilities();
        let of = |loss: &dyn Loss| value_and_weight_curves(loss, &p).1;
        Figure {
            name: "example-weights".into(),
            title: "tau: what an example weighs".into(),
            x: Axis::linear("probability p of the label"),
            y: Axis::linear("weight w(p)"),
            series: with_known(&p, &known, of, self.epochs(&p, of, false)),
            ..Figure::default()
        }
    }

    fn loss(&self) -> Figure {
        let known = [("softmax", FixedLoss::Softmax, 6), ("focal, gamma = 2", FixedLoss::Focal { gamma: 2.0 }, 4)];
        let p = probabilities();
        let of = |loss: &dyn Loss| value_and_weight_curves(loss, &p).0;
        Figure {
            name: "loss-values".into(),
            title: "The loss beside known ones".into(),
            x: Axis::linear("probability p of the label"),
            y: Axis::log("loss value"),
            series: with_known(&p, &known, of, self.epochs(&p, of, true)),
            ..Figure::default()
        }
    }
}

/// Known losses below the searched one.
fn with_known(
    x: &[f64],
    known: &[(&str, FixedLoss, usize)],
    value: impl Fn(&dyn Loss) -> Vec<f64>,
    searched: Vec<Series>,
) -> Vec<Series> {
    let line = |&(label, loss, colour): &(&str, FixedLoss, usize)| Series {
        label: label.into(),
        colour,
        shape: Shape::Dashed,
        points: x.iter().zip(value(&loss)).map(|(&x, y)| [x, y]).collect(),
        ..Series::default()
    };
    known.iter().map(line).chain(searched).collect()
}

fn probabilities() -> Vec<f64> {
    (0..POINTS).map(|i| P[0] + (P[1] - P[0]) * i as f64 / (POINTS - 1) as f64).collect()
}
