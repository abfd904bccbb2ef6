//! What a finished search learned, as settings of another run.

use std::path::Path;

use toml::{Table, Value};

use crate::checkpoint::{self, Checkpoint};
use crate::cli::{Replayed, RunArguments};
use crate::config::{Config, TypedConfig};
use crate::error::{Error, Result};
use crate::state::EpochRecord;

/// The configuration of a search that starts from the mean that `file`'s ended with. Errors: no search's checkpoint.
pub fn started_from(arguments: &RunArguments, file: &Path) -> Result<Config> {
    let (checkpoint, source) = (searched(file)?, format!("--init-mu {}", file.display()));
    let mut layers = arguments.layers(None, Some((source.clone(), losses(&checkpoint, file)?)))?;
    layers.set(&source, "search.mu", numbers(&checkpoint.policy.mu))?;
    layers.resolve()
}

/// The configuration of a training with what `file`'s search learned. Errors: no search's checkpoint.
pub fn replayed(arguments: &RunArguments, file: &Path, what: Replayed) -> Result<Config> {
    let (checkpoint, source) = (searched(file)?, format!("--replay {}", file.display()));
    let mut layers = arguments.layers(None, Some((source.clone(), losses(&checkpoint, file)?)))?;
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
    let history = &checkpoint.history;
    let schedule = match what {
        Replayed::Mean => vec![checkpoint.policy.mu.clone()],
        Replayed::Means => stretched(&history.iter().map(|record| record.mu.clone()).collect::<Vec<_>>(), epochs),
        Replayed::Chosen => stretched(&chosen(history), epochs),
    };
    layers.set(&source, "search.schedule", Value::Array(schedule.iter().map(|row| numbers(row)).collect()))?;
    layers.resolve()
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
    search.insert("space".into(), Value::try_from(typed.search.space().kind).expect("a name"));
    let loss = part("loss", &["w_max", "tau_weights", "head", "scale"]);
    Ok(Table::from_iter([("search".into(), search.into()), ("loss".into(), loss.into())]))
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
