//! Runs as analyses read them: what each of them was, which are the same but for their seeds, and how they compare.

use std::path::{Path, PathBuf};

use crate::checkpoint::{self, Checkpoint};
use crate::config::{Config, DataKind, Reward, TypedConfig};
use crate::error::{Error, Result};

/// Tables of the configuration that say how a loss was found; the others are the conditions under which.
const OF_THE_LOSS: [&str; 2] = ["loss.", "search."];
/// Differences of settings that a label names at most.
const NAMED_DIFFERENCES: usize = 3;

/// A run, from its final or its newest checkpoint.
pub struct Run {
    /// As it was typed.
    pub path: PathBuf,
    /// Without its tensors.
    pub checkpoint: Checkpoint,
    pub config: Config,
    pub arm: Arm,
}

/// What a run is in a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arm {
    /// The policy that learned from rewards.
    Search(String),
    /// A fixed loss, by its name.
    Loss(String),
    /// A control: every sample has the same loss, and the best goes on after each round.
    Select,
    /// A control: as many whole trainings with the same loss, of which the best is kept.
    BestOf,
    /// A control: losses are drawn, and nothing is learned.
    Fixed,
    /// A training with what a search had learned.
    Replay,
    /// A training with one given theta.
    Held,
}

/// Runs with the same settings and other seeds.
pub struct Group<'a> {
    pub label: String,
    pub runs: Vec<&'a Run>,
}

/// Groups that were trained under the same conditions: on the same data with the same network and the same training.
pub struct Comparison<'a> {
    /// The settings in which the conditions differ from those of the other comparisons, `key = value`.
    pub conditions: Vec<String>,
    /// In the order in which their first runs were named.
    pub groups: Vec<Group<'a>>,
}

/// Mean and spread over runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    pub count: usize,
    pub mean: f64,
    /// Standard error of the mean; NaN for one run.
    pub error: f64,
}

impl Run {
    /// path: a run's directory or a checkpoint. Errors: no checkpoint there; not the checkpoint of a run that this version
    /// knows.
    pub fn open(path: &Path) -> Result<Run> {
        let checkpoint = checkpoint::read_history(path)?;
        let config = TypedConfig::from_toml(&checkpoint.info.config).and_then(TypedConfig::resolve);
        let config = config.map_err(|why| Error::file(path, why))?;
        Ok(Run { path: path.to_owned(), arm: Arm::of(&config), checkpoint, config })
    }

    /// Opens what can be opened. Returns it, and what was left out with the reason. Error: nothing is left, or runs of
    /// different tasks.
    pub fn open_all(paths: &[PathBuf]) -> Result<(Vec<Run>, Vec<String>)> {
        let (mut runs, mut left_out): (Vec<Run>, Vec<String>) = Default::default();
        for path in paths {
            match Run::open(path) {
                Ok(run) if run.checkpoint.history.is_empty() => {
                    left_out.push(Error::file(path, "no epoch is finished yet").to_string())
                }
                Ok(run) => runs.push(run),
                Err(why) => left_out.push(why.to_string()),
            }
        }
        let Some(first) = runs.first() else {
            return Err(Error::failed(format!("no run that can be read: {}", left_out.join("; "))));
        };
        if let Some(other) = runs.iter().find(|run| run.task() != first.task()) {
            let (path, task) = (first.path.display(), first.task());
            let why = format!("a run on {:?}, while {path} is one on {task:?}: name runs of one task", other.task());
            return Err(Error::file(&other.path, why.to_lowercase()));
        }
        Ok((runs, left_out))
    }

    /// The distribution's mean [P] before an epoch, or after the last one; `None` where the run has not got there.
    pub fn mu(&self, epoch: usize) -> Option<&[f64]> {
        let Checkpoint { history, policy, .. } = &self.checkpoint;
        match history.get(epoch) {
            Some(record) => Some(&record.mu),
            None => (epoch == history.len()).then_some(&policy.mu),
        }
    }

    pub fn task(&self) -> DataKind {
        self.config.typed().data.kind
    }

    pub fn seed(&self) -> u64 {
        self.config.run.seed
    }

    /// Whether all epochs are done.
    pub fn is_finished(&self) -> bool {
        self.checkpoint.epoch == self.config.train.epochs
    }

    /// A metric of the test set by its name; `None` before the end, and where it is not a number.
    pub fn test(&self, metric: &str) -> Option<f64> {
        let found = self.checkpoint.test.iter().find(|(name, _)| name == metric);
        found.map(|&(_, value)| value).filter(|value| value.is_finite())
    }

    /// The test metric that comparisons are made with.
    pub fn main_metric(&self) -> &'static str {
        let of_uneven_classes = matches!(self.config.search.reward(), Reward::Recall | Reward::BalancedLikelihood);
        match self.task() {
            DataKind::Faces => "rank1",
            DataKind::Reid => "map",
            _ if of_uneven_classes => "recall",
            DataKind::Cifar10 | DataKind::Cifar100 | DataKind::Glyphs | DataKind::Images => "top1",
        }
    }
}

impl Arm {
    fn of(config: &Config) -> Arm {
        let (search, space) = (&config.search, config.space());
        let given = search.mu.as_ref().is_some_and(|mu| *mu != space.identity());
        let whole = search.round_epochs >= config.train.epochs;
        match &search.policy[..] {
            _ if space.intervals == 0 => Arm::Loss(config.typed().loss.name.clone()),
            "select" if !search.schedule.is_empty() => Arm::Replay,
            "select" if given && search.samples == 1 => Arm::Held,
            "select" if whole => Arm::BestOf,
            "select" => Arm::Select,
            "fixed" => Arm::Fixed,
            policy => Arm::Search(policy.into()),
        }
    }

    /// samples: B.
    pub fn label(&self, samples: usize) -> String {
        match self {
            Arm::Search(_) => "search".into(),
            Arm::Loss(name) => name.clone(),
            Arm::Select => "select".into(),
            Arm::BestOf => format!("best of {samples}"),
            Arm::Fixed => "fixed policy".into(),
            Arm::Replay => "replay".into(),
            Arm::Held => "held loss".into(),
        }
    }

    /// One sentence for readers who do not know the controls.
    pub fn meaning(&self) -> &'static str {
        match self {
            Arm::Search(_) => "the loss was searched while the network trained",
            Arm::Loss(_) => "one training with a known loss",
            Arm::Select => {
                "control of a search's cost: the same loss in every sample, each with its own order of the data; the best \
                 goes on after each round"
            }
            Arm::BestOf => {
                "control of a search's cost: whole trainings with one loss, of which the best by reward is kept"
            }
            Arm::Fixed => "control: losses are drawn as in a search, but their distribution never learns",
            Arm::Replay => "one training, with what an earlier search had learned",
            Arm::Held => "one training with a loss that was given",
        }
    }
}

/// A difference between two runs' settings that counts for what they learn.
fn differences(a: &Run, b: &Run) -> Vec<(String, String)> {
    let found = a.config.typed().different_settings(b.config.typed());
    // replays of different searches are one arm
    let replays = a.arm == Arm::Replay && b.arm == Arm::Replay;
    let counts = |key: &str| {
        key != "search.name"
            && !key.starts_with("run.")
            && !(replays && ["search.schedule", "search.mu"].contains(&key))
    };
    found.into_iter().filter(|(key, _, _)| counts(key)).map(|(key, ours, _)| (key, ours)).collect()
}

fn of_the_loss(key: &str) -> bool {
    OF_THE_LOSS.iter().any(|table| key.starts_with(table))
}

/// Sorts runs into comparisons and groups, both in the order of their first runs.
pub fn compare(runs: &[Run]) -> Vec<Comparison<'_>> {
    let same_conditions = |a: &Run, b: &Run| differences(a, b).iter().all(|(key, _)| of_the_loss(key));
    let same_settings = |a: &Run, b: &Run| a.arm == b.arm && differences(a, b).is_empty();
    let sorted_runs = sorted(runs.iter().collect(), same_conditions);
    let firsts: Vec<&Run> = sorted_runs.iter().map(|runs| runs[0]).collect();
    let mut comparisons = Vec::new();
    for runs in sorted_runs {
        let conditions = settings_apart(runs[0], &firsts, |key| !of_the_loss(key));
        comparisons.push(Comparison { conditions, groups: labelled(sorted(runs, same_settings)) });
    }
    comparisons
}

/// Runs with those that are the same as their first one.
fn sorted(runs: Vec<&Run>, same: impl Fn(&Run, &Run) -> bool) -> Vec<Vec<&Run>> {
    let mut found: Vec<Vec<&Run>> = Vec::new();
    for run in runs {
        match found.iter_mut().find(|runs| same(runs[0], run)) {
            Some(runs) => runs.push(run),
            None => found.push(vec![run]),
        }
    }
    found
}

/// Where two groups would have the same label, the settings in which they differ are added.
fn labelled(groups: Vec<Vec<&Run>>) -> Vec<Group<'_>> {
    let label = |run: &Run| run.arm.label(run.config.search.samples);
    let firsts: Vec<&Run> = groups.iter().map(|runs| runs[0]).collect();
    let mut found = Vec::new();
    for runs in groups {
        let mut alike = firsts.clone();
        alike.retain(|first| label(first) == label(runs[0]));
        let settings = settings_apart(runs[0], &alike, of_the_loss).join(", ");
        let label = label(runs[0]);
        found.push(Group { label: if settings.is_empty() { label } else { format!("{label} ({settings})") }, runs });
    }
    found
}

/// `key = value` of the run's settings that are others in one of `others`.
fn settings_apart(run: &Run, others: &[&Run], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found: Vec<(String, String)> = others.iter().flat_map(|other| differences(run, other)).collect();
    found.retain(|(key, _)| wanted(key));
    found.sort();
    found.dedup();
    found.truncate(NAMED_DIFFERENCES);
    found.into_iter().map(|(key, value)| format!("{key} = {value}")).collect()
}

impl Group<'_> {
    /// Epochs of its longest run.
    pub fn epochs(&self) -> usize {
        self.runs.iter().map(|run| run.checkpoint.history.len()).max().unwrap_or(0)
    }

    /// The test metric of those runs that have it, by seed.
    pub fn tests(&self, metric: &str) -> Vec<(u64, f64)> {
        self.runs.iter().filter_map(|run| Some((run.seed(), run.test(metric)?))).collect()
    }

    /// Differences of a test metric from another group's, of the seeds that both have.
    pub fn paired(&self, other: &Group, metric: &str) -> Vec<f64> {
        let theirs = other.tests(metric);
        let of = |seed: u64| theirs.iter().find(|(other, _)| *other == seed).map(|&(_, value)| value);
        self.tests(metric).into_iter().filter_map(|(seed, value)| Some(value - of(seed)?)).collect()
    }
}

impl Mean {
    /// `None` of no values.
    pub fn of(values: &[f64]) -> Option<Mean> {
        let count = values.len();
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / (count as f64 - 1.0) / count as f64).sqrt();
        (count > 0).then_some(Mean { count, mean, error: if count > 1 { error } else { f64::NAN } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, settings: &[(&str, &str)], top1: f64) -> Run {
        let stored = include_str!("config/stored.toml");
        let mut table: toml::Table = stored.parse().unwrap();
        let mut set = |key: &str, value: &str| {
            let (group, name) = key.split_once('.').unwrap();
            let value: toml::Table = format!("x = {value}").parse().unwrap();
            table[group].as_table_mut().unwrap().insert(name.into(), value["x"].clone());
        };
        set("run.seed", &seed.to_string());
        settings.iter().for_each(|(key, value)| set(key, value));
        if settings.contains(&SEARCH[0]) {
            table["loss"].as_table_mut().unwrap().remove("margin");
        }
        let config = TypedConfig::from_toml(&table.to_string()).unwrap().resolve().unwrap();
        let info = checkpoint::RunInfo {
            config: config.to_toml(),
            seed,
            ranks: 1,
            threads: 1,
            libtorch: String::new(),
            device: String::new(),
            classes: Vec::new(),
        };
        let test = vec![("top1".to_owned(), top1)];
        let policy = crate::search::policy(&config).state().clone();
        let checkpoint =
            Checkpoint { info, epoch: 0, policy, history: Vec::new(), tensors: Vec::new(), test, predictions: None };
        Run { path: "run".into(), arm: Arm::of(&config), checkpoint, config }
    }

    const SEARCH: &[(&str, &str)] =
        &[("loss.name", "'unified'"), ("search.samples", "4"), ("search.policy", "'natural'")];

    fn search<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut settings: Vec<(&str, &str)> = SEARCH.to_vec();
        settings.extend(more);
        settings
    }

    #[test]
    fn arms_are_known_from_their_settings() {
        let arm = |more: &[(&str, &str)]| run(1, &search(more), 0.5).arm;
        assert_eq!(run(1, &[], 0.5).arm, Arm::Loss("arcface".into()));
        assert_eq!(arm(&[]), Arm::Search("natural".into()));
        assert_eq!(arm(&[("search.policy", "'fixed'")]), Arm::Fixed);
        let select = [("search.policy", "'select'"), ("search.data_order", "'independent'")];
        assert_eq!(arm(&select), Arm::Select);
        assert_eq!(arm(&[&select[..], &[("search.round_epochs", "14")]].concat()), Arm::BestOf);
    }

    #[test]
    fn other_seeds_are_a_group_and_other_training_is_another_comparison() {
        let wide = search(&[("search.sigma", "0.5")]);
        let noisy = [("data.label_noise", "0.2")];
        let runs = [
            run(1, &[], 0.5),
            run(1, SEARCH, 0.6),
            run(2, &[("run.threads", "2")], 0.5),
            run(2, SEARCH, 0.7),
            run(1, &wide, 0.4),
            run(1, &noisy, 0.3),
        ];
        let found = compare(&runs);
        let labels = |comparison: &Comparison| {
            comparison.groups.iter().map(|group| (group.label.clone(), group.runs.len())).collect::<Vec<_>>()
        };
        let group = |label: &str, count| (label.to_owned(), count);
        assert_eq!(
            labels(&found[0]),
            [group("arcface", 2), group("search (search.sigma = 0.05)", 2), group("search (search.sigma = 0.5)", 1)]
        );
        assert_eq!(labels(&found[1]), [group("arcface", 1)]);
        assert_eq!(
            (found[0].conditions.join(""), found[1].conditions.join("")),
            ("data.label_noise = 0.0".into(), "data.label_noise = 0.2".into())
        );
        let paired = found[0].groups[1].paired(&found[0].groups[0], "top1");
        assert!((paired[0] - 0.1).abs() < 1e-12 && (paired[1] - 0.2).abs() < 1e-12);
    }

    #[test]
    fn a_mean_has_the_standard_error_of_its_runs() {
        let mean = Mean::of(&[1.0, 2.0, 6.0]).unwrap();
        assert_eq!((mean.count, mean.mean), (3, 3.0));
        assert!((mean.error - (14.0f64 / 2.0 / 3.0).sqrt()).abs() < 1e-12);
        assert!(Mean::of(&[1.0]).unwrap().error.is_nan() && Mean::of(&[]).is_none());
    }
}
