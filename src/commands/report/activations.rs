//! How strongly a search's loss pulls at easy and hard examples, by its own network (figure 4 of the paper).

use std::path::Path;

use tch::Tensor;

use crate::embedding::StoredRun;
use crate::error::Result;
use crate::figures::{Axis, Figure, Series, Shape};
use crate::loss::{FixedLoss, Function};
use crate::runs::Run;
use crate::task;

pub const CAPTION: &str = "The size of the loss's gradient by the target's logit, w (1 - p) t', averaged over examples whose target has that \
     cosine, by the network of the first run's checkpoint: hard examples on the left. Grey: the share of examples. On \
     held-out images where the task has some of the same classes, else on training images.";

/// About so many images.
const IMAGES: usize = 2048;
const BINS: usize = 24;
/// Means of fewer examples are not drawn.
const LEAST_EXAMPLES: usize = 5;

/// data: where the run's data are now, if not where they were. Errors: they or the run's device are not there.
pub fn figure(run: &Run, data: Option<&Path>) -> Result<Figure> {
    let stored = StoredRun::open(&run.path, |typed| {
        typed.data.path = data.map(Path::to_owned).or(typed.data.path.take());
    })?;
    let mut task = task::open(&stored.config, &stored.devices)?;
    task.load(&stored.state(task.specs())?);
    let searched = (stored.config.loss.function, run.checkpoint.policy.mu.clone());
    let pull = task.pull(IMAGES, &[searched, (Function::Fixed(FixedLoss::Softmax), Vec::new())])?;

    let cosines = numbers(&pull.cosine);
    let (low, high) = cosines.iter().fold((1.0f64, -1.0f64), |(low, high), &c| (low.min(c), high.max(c)));
    let width = ((high - low) / BINS as f64).max(f64::MIN_POSITIVE);
    let bin = |cosine: f64| (((cosine - low) / width) as usize).min(BINS - 1);
    let middle = |bin: usize| low + (bin as f64 + 0.5) * width;
    let mut counts = [0usize; BINS];
    cosines.iter().for_each(|&cosine| counts[bin(cosine)] += 1);

    let line = |strength: &Tensor, label: &str, colour, shape| {
        let mut sums = [0.0; BINS];
        cosines.iter().zip(numbers(strength)).for_each(|(&cosine, strength)| sums[bin(cosine)] += strength);
        let enough = (0..BINS).filter(|&bin| counts[bin] >= LEAST_EXAMPLES);
        let points = enough.map(|bin| [middle(bin), sums[bin] / counts[bin] as f64]).collect();
        Series { label: label.into(), colour, shape, points, ..Series::default() }
    };
    let share = |bin: usize| counts.get(bin).map_or(0.0, |&count| count as f64 / cosines.len() as f64);
    let histogram = Series {
        label: "share of examples".into(),
        colour: 6,
        shape: Shape::Bars,
        points: (0..=BINS).map(|bin| [low + bin as f64 * width, share(bin)]).collect(),
        spread: vec![[0.0; 2]; BINS + 1],
    };
    Ok(Figure {
        name: "gradient-by-activation".into(),
        title: "How the loss pulls at easy and hard examples".into(),
        x: Axis::linear("cosine of the target"),
        y: Axis::linear("gradient; share of examples"),
        series: vec![
            histogram,
            line(&pull.strength[1], "softmax", 1, Shape::Dashed),
            line(&pull.strength[0], "searched", 0, Shape::Line),
        ],
        ..Figure::default()
    })
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor).expect("f64 on the CPU")
}
