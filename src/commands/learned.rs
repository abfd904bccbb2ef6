//! What a search learned, or a loss from a file, as settings of another run.

use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use crate::checkpoint::{self, Checkpoint};
use crate::cli::{Replayed, RunArguments};
use crate::comm;
use crate::config::{Config, TypedConfig};
use crate::error::{Error, Result};
use crate::loss_file::LossFile;
use crate::policy::{self, Steps};
use crate::state::EpochRecord;

/// What `--init-mu` or `--replay` names.
struct Learned {
    /// What theta is a loss with: the space, the loss's own settings, and of a run the spread that fits the space.
    settings: Table,
    /// theta [P], and of each epoch [E, P]; of a loss by itself there are none.
    mean: Vec<f64>,
    means: Vec<Vec<f64>>,
    chosen: Vec<Vec<f64>>,
    /// How far mu moved; of a loss by itself it is not known.
    steps: Option<Steps>,
}

/// The configuration of a search that starts from the mean that `file`'s ended with, or from its loss. Errors: neither a
/// search's checkpoint nor a loss.
pub fn started_from(arguments: &RunArguments, file: &Path) -> Result<Config> {
    let (learned, source) = (Learned::read(file)?, format!("--init-mu {}", file.display()));
    let mut layers = arguments.layers(None, Some((source.clone(), learned.settings)))?;
    layers.set(&source, "search.mu", numbers(&learned.mean))?;
    let config = layers.resolve()?;
    warn_of_sigma(arguments, &config, &source);
    Ok(config)
}

/// A loss by itself says no sigma, and a search's own may be another space's.
fn warn_of_sigma(arguments: &RunArguments, config: &Config, source: &str) {
    let own = arguments.layers(None, None).and_then(|layers| layers.resolve());
    let Some(own) = own.ok().filter(|own| own.space().kind != config.space().kind) else { return };
    let (ours, theirs) = (&own.search.sigmas, &config.search.sigmas);
    if comm::launcher_rank() == 0 && !ours.is_empty() && theirs.is_empty() && config.search.sigma == own.search.sigma {
        log::warn!(
            "{source}: its space is not that of the search, whose sigmas it can't have: all of theta has search.sigma = {} \
             (docs/search.md)",
            config.search.sigma
        );
    }
}

/// A mean that wandered is a loss at random, and rarely a good one, unless it went to a margin (docs/search.md). `offset`: of t, where
/// the space has it.
fn warn_of_chance(steps: Option<&Steps>, offset: Option<f64>, source: &str) {
    if let Some(Steps { sigmas, chance, beyond_chance: Some(false), .. }) = steps
        && offset.is_none_or(|offset| offset >= 0.0)
        && comm::launcher_rank() == 0
    {
        let offset = offset.map(|offset| format!(", and to no margin (t_offset is {offset:.2})")).unwrap_or_default();
        log::warn!(
            "{source}: its mean moved no farther than chance would have moved it ({sigmas:.2} sigmas a round, {chance:.2} by \
             chance){offset}: nothing says that it is better than where the search began (docs/search.md)"
        );
    }
}

/// The configuration of a training with what `file`'s search learned, or with its loss. Errors: neither a search's
/// checkpoint nor a loss, or a loss without the epochs that are wanted.
pub fn replayed(arguments: &RunArguments, file: &Path, what: Replayed) -> Result<Config> {
    let (learned, source) = (Learned::read(file)?, format!("--replay {}", file.display()));
    let rows = match what {
        Replayed::Mean => vec![learned.mean.clone()],
        Replayed::Means => learned.means,
        Replayed::Chosen => learned.chosen,
    };
    if rows.is_empty() {
        let why = "a loss by itself, without a search's epochs; leave --replay-as out";
        return Err(Error::config(format!("{source}: {why}")));
    }
    let mut layers = arguments.layers(None, Some((source.clone(), learned.settings)))?;
    for (key, value) in [
        ("search.policy", "select".into()),
        ("search.samples", 1.into()),
        // a schedule may change the loss in every epoch
        ("search.round_epochs", 1.into()),
        ("search.warmup_epochs", 0.into()),
    ] {
        layers.set(&source, key, value)?;
    }
    let epochs = layers.resolve()?.train.epochs;
    let schedule = if what == Replayed::Mean { rows } else { stretched(&rows, epochs) };
    layers.set(&source, "search.schedule", Value::Array(schedule.iter().map(|row| numbers(row)).collect()))?;
    let config = layers.resolve()?;
    if what != Replayed::Chosen {
        let offset = config.space().names().iter().position(|name| name == "t_offset").map(|i| learned.mean[i]);
        warn_of_chance(learned.steps.as_ref(), offset, &source);
    }
    Ok(config)
}

impl Learned {
    fn read(file: &Path) -> Result<Learned> {
        if LossFile::is_named(file) { Ok(Learned::of_loss(LossFile::read(file)?)) } else { Learned::of_run(file) }
    }

    fn of_run(file: &Path) -> Result<Learned> {
        let checkpoint = searched(file)?;
        let settings = losses(&checkpoint, file)?;
        let means = checkpoint.history.iter().map(|record| record.mu.clone()).collect();
        let steps = policy::steps(&checkpoint.history);
        Ok(Learned { settings, chosen: chosen(&checkpoint.history), means, mean: checkpoint.policy.mu, steps })
    }

    fn of_loss(file: LossFile) -> Learned {
        let LossFile {
            head, scale, space, intervals, w_max, tau_weights, logit_adjustment, mean, means, chosen, ..
        } = file;
        let part = |keys: Vec<(&str, Option<Value>)>| -> Table {
            keys.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
        };
        let loss = part(vec![
            ("head", Some(word(head))),
            ("scale", scale.map(Into::into)),
            ("w_max", Some(w_max.into())),
            ("tau_weights", tau_weights.map(word)),
            ("logit_adjustment", logit_adjustment.map(Into::into)),
        ]);
        let search = part(vec![("space", Some(word(space))), ("intervals", Some((intervals as i64).into()))]);
        let settings = Table::from_iter([("search".into(), search.into()), ("loss".into(), loss.into())]);
        Learned { settings, mean, means, chosen, steps: None }
    }
}

/// The checkpoint of a search. Errors: of a training with a fixed loss; without a finished epoch.
pub fn searched(file: &Path) -> Result<Checkpoint> {
    let checkpoint = checkpoint::read(file)?;
    if checkpoint.policy.mu.is_empty() {
        return Err(Error::file(file, "the checkpoint of a training with a fixed loss: it has learned no loss"));
    }
    if checkpoint.history.is_empty() {
        return Err(Error::file(file, "the checkpoint of a search without a finished epoch: it has learned no loss"));
    }
    Ok(checkpoint)
}

/// What the search's theta is a loss with: its space, with the spread that fits it, and the loss's own settings.
fn losses(checkpoint: &Checkpoint, file: &Path) -> Result<Table> {
    let typed = TypedConfig::from_toml(&checkpoint.info.config).map_err(|why| Error::file(file, why))?;
    let stored = Table::try_from(&typed).expect("a configuration is a table");
    let part = |table: &str, keys: &[&str]| -> Table {
        let value = |&key: &&str| Some((key.to_owned(), stored[table].get(key)?.clone()));
        keys.iter().filter_map(value).collect()
    };
    let mut search = part("search", &["intervals", "sigma", "sigmas"]);
    search.insert("space".into(), word(typed.search.space().kind));
    let mut loss = part("loss", &["w_max", "tau_weights", "head", "scale"]);
    // left out, it is 0 whatever this run's preset has
    loss.insert("logit_adjustment".into(), typed.loss.logit_adjustment.unwrap_or_default().into());
    Ok(Table::from_iter([("search".into(), search.into()), ("loss".into(), loss.into())]))
}

/// As the configuration writes it.
fn word(value: impl Serialize) -> Value {
    Value::try_from(value).expect("a name")
}

fn numbers(values: &[f64]) -> Value {
    Value::Array(values.iter().map(|&value| value.into()).collect())
}

/// The loss that the model which went on was trained with in each epoch.
pub fn chosen(history: &[EpochRecord]) -> Vec<Vec<f64>> {
    let theta = |epoch: usize| {
        // the round's last epoch knows who went on
        let best = history[epoch..].iter().map(|record| record.best).find(|&best| best >= 0);
        let best = best.and_then(|best| history[epoch].samples.get(best as usize));
        best.map_or_else(|| history[epoch].mu.clone(), |sample| sample.theta.clone())
    };
    (0..history.len()).map(theta).collect()
}

/// `rows` over `epochs` epochs: each of these takes the place of its middle, between the two nearest rows.
fn stretched(rows: &[Vec<f64>], epochs: usize) -> Vec<Vec<f64>> {
    let last = (rows.len() - 1) as f64;
    let row = |epoch: usize| -> Vec<f64> {
        let place = ((epoch as f64 + 0.5) * rows.len() as f64 / epochs as f64 - 0.5).clamp(0.0, last);
        let (low, share) = (place.floor() as usize, place.fract());
        let high = (low + 1).min(rows.len() - 1);
        rows[low].iter().zip(&rows[high]).map(|(low, high)| low + share * (high - low)).collect()
    };
    (0..epochs).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SampleRecord;

    #[test]
    fn as_many_epochs_take_every_row_and_more_or_fewer_lie_between() {
        let rows = vec![vec![0.0, 1.0], vec![1.0, 1.0], vec![4.0, -1.0]];
        assert_eq!(stretched(&rows, 3), rows);
        let longer = stretched(&rows, 6);
        assert_eq!(longer.iter().map(|row| row[0]).collect::<Vec<_>>(), [0.0, 0.25, 0.75, 1.75, 3.25, 4.0]);
        assert_eq!(stretched(&rows, 1), [[1.0, 1.0]]);
        assert_eq!(stretched(&rows[..1], 2), [[0.0, 1.0], [0.0, 1.0]]);
    }

    #[test]
    fn the_chosen_loss_of_every_epoch_of_a_round_is_that_of_its_best_sample() {
        let record = |best: i64, thetas: [f64; 2]| EpochRecord {
            mu: vec![9.0],
            samples: thetas.map(|theta| SampleRecord { theta: vec![theta], ..SampleRecord::default() }).into(),
            best,
            ..EpochRecord::default()
        };
        let history = [record(-1, [1.0, 2.0]), record(1, [1.0, 2.0]), record(0, [3.0, 4.0])];
        assert_eq!(chosen(&history), [[2.0], [2.0], [3.0]]);
    }
}
