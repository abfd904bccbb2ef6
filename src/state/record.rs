//! What is recorded of an epoch. The columns are a record's data sets in checkpoints, the columns of metrics.csv, the
//! keys of `inspect --json` and the columns of the terminal's table: a new figure is a field and a line in this file.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// How a sample's epoch ended. The numbers are those of `/history/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Trained, with a finite reward.
    Ok = 0,
    /// Loss, weights or reward were not finite.
    Failed = 1,
    /// No reward was due: inside a round, or not needed in a warm-up epoch.
    #[default]
    NotMeasured = 2,
}

impl Status {
    pub fn from_number(number: u8) -> Option<Status> {
        [Status::Ok, Status::Failed, Status::NotMeasured].into_iter().find(|&status| status as u8 == number)
    }
}

/// One sample (theta_i) in one epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleRecord {
    /// theta_i [P]; empty for a fixed loss.
    pub theta: Vec<f64>,
    pub status: Status,
    /// NaN unless `status` is `Ok`.
    pub reward: f64,
    /// NaN where there was no update.
    pub advantage: f64,
    /// Mean training loss of the epoch; NaN if not trained.
    pub train_loss: f64,
    /// Wall-clock seconds of training and of validation.
    pub train_seconds: f64,
    pub validation_seconds: f64,
}

/// One epoch of the search: a row of every `/history` data set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EpochRecord {
    /// The distribution's mean [P] that the epoch's thetas were drawn from.
    pub mu: Vec<f64>,
    /// One per sample, B of them.
    pub samples: Vec<SampleRecord>,
    /// Index of the sample whose model went on; -1 inside a round.
    pub best: i64,
    pub learning_rate: f64,
    /// |gradient of mu| and |change of mu| (Euclidean); 0 where there was no update.
    pub gradient_norm: f64,
    pub delta_norm: f64,
    /// |change of mu| in units of sigma, and what it would have been had the rewards been dealt out at random
    /// (`policy::length_by_chance`); 0 where there was no update.
    pub delta_sigmas: f64,
    pub chance_sigmas: f64,
    /// Training images of a sample's epoch; NaN in files that don't say it.
    pub images: f64,
    /// Training images per second over all ranks.
    pub images_per_second: f64,
    /// Seconds of the whole epoch, of waiting for the slowest rank, and of Allgather + policy + Bcast; then, not in the first,
    /// what the run lost to checkpoints at the exchange before it: waiting for one that was not written yet.
    pub seconds: f64,
    pub wait_seconds: f64,
    pub exchange_seconds: f64,
    pub checkpoint_seconds: f64,
}

/// A figure of each record R.
pub struct Column<R> {
    pub name: &'static str,
    pub units: &'static str,
    pub long_name: &'static str,
    pub value: Value<R>,
    /// Minor version of the checkpoint format (docs/format.md) that brought it; NaN for older files.
    pub since: i32,
    /// Its place in the terminal's table, if it has one.
    pub shown: Option<Shown>,
}

/// How a record tells the figure, and how it takes it from a checkpoint; without `set` it follows from others.
pub enum Value<R> {
    Number { get: fn(&R) -> f64, set: Option<fn(&mut R, f64)> },
    Count { get: fn(&R) -> i64, set: Option<fn(&mut R, i64)> },
}

pub struct Shown {
    pub head: &'static str,
    /// Characters, with the space before it.
    pub width: usize,
    /// After the decimal point.
    pub digits: usize,
    /// 1.0e-1 instead of 0.1.
    pub scientific: bool,
}

const fn shown(head: &'static str, width: usize, digits: usize) -> Option<Shown> {
    Some(Shown { head, width, digits, scientific: false })
}

/// The record's field of this name, stored in checkpoints.
macro_rules! stored {
    ($kind:ident $field:ident, $units:literal, $long_name:literal, $since:literal, $shown:expr) => {
        Column {
            name: stringify!($field),
            units: $units,
            long_name: $long_name,
            value: Value::$kind { get: |record| record.$field, set: Some(|record, value| record.$field = value) },
            since: $since,
            shown: $shown,
        }
    };
}

macro_rules! derived {
    ($kind:ident $name:literal, $units:literal, $long_name:literal, $get:expr, $shown:expr) => {
        Column {
            name: $name,
            units: $units,
            long_name: $long_name,
            value: Value::$kind { get: $get, set: None },
            since: 0,
            shown: $shown,
        }
    };
}

/// [E] each, in the order of metrics.csv.
#[rustfmt::skip]
pub const EPOCH_COLUMNS: &[Column<EpochRecord>] = &[
    stored!(Number learning_rate, "1", "learning rate of the epoch", 0, Some(Shown { head: "lr", width: 8, digits: 1, scientific: true })),
    derived!(Number "reward_min", "1", "lowest reward", |r| lowest(&r.rewards()), shown("reward min", 12, 4)),
    derived!(Number "reward_mean", "1", "mean reward", |r| mean(&r.rewards()), shown("mean", 8, 4)),
    derived!(Number "reward_max", "1", "highest reward", |r| highest(&r.rewards()), shown("max", 8, 4)),
    stored!(Count best, "1", "index of the sample whose model went on, -1 for none", 0, shown("best", 6, 0)),
    derived!(Count "failed", "1", "number of samples that failed", EpochRecord::failed, None),
    stored!(Number gradient_norm, "1", "Euclidean norm of the gradient of mu", 0, shown("|grad|", 9, 3)),
    stored!(Number delta_norm, "1", "Euclidean norm of the change of mu", 0, shown("|dmu|", 7, 3)),
    stored!(Number delta_sigmas, "1", "norm of the change of mu in units of sigma", 1, None),
    stored!(Number chance_sigmas, "1", "delta_sigmas if the same rewards had been dealt out at random, root mean square", 1, None),
    derived!(Number "train_loss", "1", "mean training loss", |r| mean(&r.finite(|s| s.train_loss)), shown("train loss", 12, 4)),
    stored!(Number images, "1", "training images of a sample's epoch", 2, None),
    stored!(Number images_per_second, "1/s", "training images per second over all ranks", 0, shown("images/s", 10, 0)),
    stored!(Number seconds, "s", "wall-clock time of the epoch", 0, None),
    derived!(Number "train_seconds", "s", "wall-clock time of training", EpochRecord::train_seconds, shown("train s", 10, 2)),
    derived!(Number "validation_seconds", "s", "wall-clock time of validation", EpochRecord::validation_seconds, shown("valid s", 9, 2)),
    stored!(Number wait_seconds, "s", "time of waiting for the slowest rank", 0, shown("wait s", 9, 2)),
    stored!(Number exchange_seconds, "s", "time of gathering rewards, updating mu and broadcasting the best model", 0, shown("exch s", 8, 3)),
    stored!(Number checkpoint_seconds, "s", "time lost to checkpoints at the exchange before", 0, shown("save s", 8, 3)),
];

/// [E, B] each.
#[rustfmt::skip]
pub const SAMPLE_COLUMNS: &[Column<SampleRecord>] = &[
    stored!(Number reward, "1", "reward: validation metric of the sample's model", 0, None),
    stored!(Number advantage, "1", "reward as the update of mu used it", 0, None),
    stored!(Number train_loss, "1", "mean training loss", 0, None),
    stored!(Number train_seconds, "s", "wall-clock time of training", 0, None),
    stored!(Number validation_seconds, "s", "wall-clock time of validation", 0, None),
];

impl<R> Column<R> {
    pub fn number(&self, record: &R) -> f64 {
        match self.value {
            Value::Number { get, .. } => get(record),
            Value::Count { get, .. } => get(record) as f64,
        }
    }

    /// The shortest text that gives the number back.
    pub fn text(&self, record: &R) -> String {
        match self.value {
            Value::Number { get, .. } => get(record).to_string(),
            Value::Count { get, .. } => get(record).to_string(),
        }
    }

    fn serialize_into<M: SerializeMap>(&self, record: &R, map: &mut M) -> Result<(), M::Error> {
        match self.value {
            Value::Number { get, .. } => map.serialize_entry(self.name, &get(record)),
            Value::Count { get, .. } => map.serialize_entry(self.name, &get(record)),
        }
    }
}

/// mu, the samples and every column.
impl Serialize for EpochRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mu", &self.mu)?;
        map.serialize_entry("samples", &self.samples)?;
        EPOCH_COLUMNS.iter().try_for_each(|column| column.serialize_into(self, &mut map))?;
        map.end()
    }
}

/// theta, the status and every column.
impl Serialize for SampleRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("theta", &self.theta)?;
        map.serialize_entry("status", &self.status)?;
        SAMPLE_COLUMNS.iter().try_for_each(|column| column.serialize_into(self, &mut map))?;
        map.end()
    }
}

impl EpochRecord {
    /// The sample that went on; `None` inside a round.
    pub fn chosen(&self) -> Option<&SampleRecord> {
        self.samples.get(usize::try_from(self.best).ok()?)
    }

    /// Samples that failed.
    pub fn failed(&self) -> i64 {
        self.samples.iter().filter(|sample| sample.status == Status::Failed).count() as i64
    }

    fn finite(&self, value: fn(&SampleRecord) -> f64) -> Vec<f64> {
        self.samples.iter().map(value).filter(|value| value.is_finite()).collect()
    }

    /// Of the samples that have one.
    pub fn rewards(&self) -> Vec<f64> {
        self.finite(|sample| sample.reward)
    }

    /// Wall-clock time of training, and of validation.
    pub fn train_seconds(&self) -> f64 {
        seconds_by_phase([self])[0].1
    }

    pub fn validation_seconds(&self) -> f64 {
        seconds_by_phase([self])[1].1
    }
}

/// Where the wall-clock time of these epochs went, in seconds. Training and measuring share what is neither waiting nor exchange as
/// samples' seconds say, over all epochs: a round's waiting is told in its last one, and a resumed one did some of its work before. All samples'
/// seconds are known, not which rank they belong to; ranks share them evenly.
pub fn seconds_by_phase<'a>(history: impl IntoIterator<Item = &'a EpochRecord>) -> [(&'static str, f64); 5] {
    let history: Vec<&EpochRecord> = history.into_iter().collect();
    let sum = |of: fn(&EpochRecord) -> f64| history.iter().map(|r| of(r)).filter(|x| x.is_finite()).sum::<f64>();
    let [wait, exchange] = [sum(|r| r.wait_seconds), sum(|r| r.exchange_seconds)];
    let training = sum(|r| r.samples.iter().map(|sample| sample.train_seconds).sum());
    let measuring = sum(|r| r.samples.iter().map(|sample| sample.validation_seconds).sum());
    let busy = (sum(|r| r.seconds) - wait - exchange).max(0.0) / (training + measuring).max(f64::MIN_POSITIVE);
    [
        ("training", training * busy),
        ("rewards", measuring * busy),
        ("waiting for the slowest rank", wait),
        ("exchange", exchange),
        ("checkpoints", sum(|r| r.checkpoint_seconds)),
    ]
}

// of the samples that have a value; NaN if none has

pub fn lowest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::min).unwrap_or(f64::NAN)
}

pub fn highest(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::max).unwrap_or(f64::NAN)
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EpochRecord {
        let sample = |reward: f64, status| SampleRecord {
            theta: vec![1.0],
            status,
            reward,
            train_seconds: 3.0,
            validation_seconds: 1.0,
            ..SampleRecord::default()
        };
        EpochRecord {
            mu: vec![0.5],
            samples: vec![sample(0.2, Status::Ok), sample(f64::NAN, Status::Failed), sample(0.4, Status::Ok)],
            best: 2,
            seconds: 10.0,
            wait_seconds: 1.0,
            exchange_seconds: 1.0,
            ..EpochRecord::default()
        }
    }

    fn text(name: &str) -> String {
        EPOCH_COLUMNS.iter().find(|column| column.name == name).unwrap().text(&record())
    }

    #[test]
    fn derived_figures_are_of_the_samples_that_have_one() {
        assert_eq!(["reward_min", "reward_max", "best", "failed"].map(text), ["0.2", "0.4", "2", "1"]);
        assert!((text("reward_mean").parse::<f64>().unwrap() - 0.3).abs() < 1e-12);
        assert_eq!(["train_seconds", "validation_seconds"].map(text), ["6", "2"], "of 8 busy seconds");
    }

    #[test]
    fn every_column_is_a_key_in_json_and_a_status_is_a_word() {
        let json = serde_json::to_value(record()).unwrap();
        assert!(EPOCH_COLUMNS.iter().all(|column| json.get(column.name).is_some()));
        assert!(SAMPLE_COLUMNS.iter().all(|column| json["samples"][0].get(column.name).is_some()));
        assert_eq!(json["samples"][1]["status"], "failed");
        assert_eq!(serde_json::to_value(Status::NotMeasured).unwrap(), "not-measured");
        assert!(json["samples"][1]["reward"].is_null(), "JSON has no NaN");
    }

    #[test]
    fn stored_columns_take_what_they_told() {
        let (from, mut to) = (record(), EpochRecord::default());
        for column in EPOCH_COLUMNS {
            match column.value {
                Value::Number { get, set: Some(set) } => set(&mut to, get(&from)),
                Value::Count { get, set: Some(set) } => set(&mut to, get(&from)),
                _ => {}
            }
        }
        to = EpochRecord { mu: from.mu.clone(), samples: from.samples.clone(), ..to };
        assert_eq!(format!("{to:?}"), format!("{from:?}"), "as text, where NaN equals itself");
    }
}
