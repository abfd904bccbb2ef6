//! What a person wants to know of a run.

use crate::checkpoint::Checkpoint;
use crate::config::{Change, ModelName, Origin, TypedConfig, word};
use crate::pace::hours_and_minutes;
use crate::policy;
use crate::state::{EpochRecord, Status, seconds_by_phase};
use crate::terminal::{epoch_header, epoch_row};

/// A table of more epochs is cut down to its first and last ones.
const WHOLE_TABLE: usize = 30;
const FIRST: usize = 5;
const LAST: usize = 20;
/// Characters of a setting's value that are shown.
const VALUE_WIDTH: usize = 60;

/// `all`: every epoch, and the configuration.
pub fn of(checkpoint: &Checkpoint, all: bool) -> String {
    let Checkpoint { info, policy, history, test, .. } = checkpoint;
    let mut lines = Vec::new();
    match TypedConfig::from_toml(&info.config) {
        Ok(config) => {
            lines.push(line("run", &what(&config, info.seed)));
            lines.push(line("epochs", &epochs(checkpoint.epoch, config.train.epochs)));
            lines.extend(ran_on(checkpoint));
            lines.extend(settings(&config));
        }
        Err(why) => {
            lines.push(line("epochs", &format!("{}; seed {}", checkpoint.epoch, info.seed)));
            lines.extend(ran_on(checkpoint));
            lines.push(line("settings", &format!("not those of this version: {why}")));
        }
    }
    lines.push(String::new());
    lines.extend(best(history).map(|best| line("best", &best)));
    lines.extend(test.iter().map(|(name, value)| line("test", &format!("{name} {value:.4}"))));
    lines.extend(steps(history).map(|steps| line("steps of mu", &steps)));
    lines.extend(failed(history).map(|failed| line("failed", &failed)));
    lines.extend(time(history).map(|time| line("time", &time)));
    if !policy.mu.is_empty() {
        lines.push(String::new());
        lines.extend(mu_table(checkpoint));
    }
    if !history.is_empty() {
        lines.push(String::new());
        lines.extend(table(history, all));
    }
    if all {
        lines.push(String::new());
        lines.push("configuration".into());
        lines.extend(info.config.lines().map(|line| format!("  {line}")));
    }
    lines.join("\n") + "\n"
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<12}{text}")
}

/// The run in a sentence.
pub fn what(config: &TypedConfig, seed: u64) -> String {
    let TypedConfig { data, model, loss, search, .. } = config;
    let network = match model.name {
        ModelName::ResnetCifar | ModelName::Resnet => format!("ResNet-{}", model.depth),
        name => word(&name),
    };
    let on = format!("on {} with {network}", word(&data.kind));
    if loss.name != "unified" {
        let margin = loss.margin.map_or(String::new(), |margin| format!(" (margin {margin})"));
        return format!("training {on}, loss {}{margin}, seed {seed}", loss.name);
    }
    let space = word(&search.space().kind);
    let theta = format!("M = {} intervals, space {space}", search.intervals);
    if !search.schedule.is_empty() {
        return format!("training {on}, replay of a search's loss, {theta}, seed {seed}");
    }
    let name = search.name.as_ref().map_or(String::new(), |name| format!("search {name}, "));
    let (policy, samples) = (&search.policy, search.samples);
    format!("search {on}: {name}policy {policy}, B = {samples} samples, {theta}, seed {seed}")
}

fn epochs(done: usize, all: usize) -> String {
    let state = if done >= all { "complete" } else { "not complete: --resume goes on" };
    format!("{done} of {all}, {state}")
}

fn ran_on(checkpoint: &Checkpoint) -> [String; 2] {
    let Checkpoint { info, tensors, .. } = checkpoint;
    let count = |group: &str| {
        let tensors = tensors.iter().filter(|tensor| tensor.path.starts_with(group));
        tensors.map(|tensor| tensor.values.len()).sum::<usize>()
    };
    [
        line(
            "ran on",
            &format!(
                "{} rank(s) x {} thread(s), {}, libtorch {}",
                info.ranks, info.threads, info.device, info.libtorch
            ),
        ),
        line("model", &format!("{} numbers, optimizer {}", count("model/"), count("optimizer/"))),
    ]
}

/// The preset, and a line for each setting that is another.
fn settings(config: &TypedConfig) -> Vec<String> {
    let Origin { presets, named, changes } = match config.origin() {
        Ok(origin) => origin,
        Err(why) => return vec![line("preset", &format!("not one of this version: {why}"))],
    };
    let preset = match (&presets[..], named) {
        ([], _) => "not named in the file; the defaults differ least".into(),
        (presets, false) => format!("not named in the file; {} differs least", presets.join(" or ")),
        (presets, true) => presets.join(""),
    };
    let differs = if changes.is_empty() { "; every setting is its own" } else { "; other settings than its own:" };
    let changed = |Change { key, value, preset }: &Change| {
        let show = |value: &Option<String>| value.as_deref().map_or("not set".into(), shortened);
        format!("{:12}{key} = {} (preset: {})", "", show(value), show(preset))
    };
    [line("preset", &(preset + differs))].into_iter().chain(changes.iter().map(changed)).collect()
}

fn shortened(value: &str) -> String {
    match value.chars().count() {
        count if count > VALUE_WIDTH => value.chars().take(VALUE_WIDTH - 3).chain("...".chars()).collect(),
        _ => value.into(),
    }
}

/// The exchange with the highest reward of the sample that went on.
fn best(history: &[EpochRecord]) -> Option<String> {
    let rewarded = history.iter().enumerate().filter_map(|(i, record)| {
        let sample = record.chosen()?;
        sample.reward.is_finite().then_some((i + 1, record.best, sample.reward))
    });
    let (epoch, sample, reward) = rewarded.reduce(|best, next| if next.2 > best.2 { next } else { best })?;
    Some(format!("reward {reward:.4} of sample {sample} in epoch {epoch}"))
}

/// Whether mu moved more than it would have by chance.
fn steps(history: &[EpochRecord]) -> Option<String> {
    let steps = policy::steps(history)?;
    let policy::Steps { count, sigmas, chance, .. } = steps;
    let verdict = steps.verdict();
    Some(format!("{count} of {sigmas:.3} sigmas (root mean square), {chance:.3} if by chance: {verdict}"))
}

/// Samples that failed, and when.
fn failed(history: &[EpochRecord]) -> Option<String> {
    let count = |of: fn(&EpochRecord) -> i64| history.iter().map(of).sum::<i64>();
    let measured =
        |record: &EpochRecord| record.samples.iter().filter(|s| s.status != Status::NotMeasured).count() as i64;
    let (failed, all) = (count(EpochRecord::failed), count(measured));
    if failed == 0 {
        return (all > 0).then(|| format!("none of {all} samples"));
    }
    let epochs = history.iter().enumerate().filter(|(_, record)| record.failed() > 0);
    let epochs: Vec<String> = epochs.map(|(i, _)| (i + 1).to_string()).collect();
    let text = format!("{failed} of {all} samples, in epochs {}", epochs.join(", "));
    Some(shortened(&text))
}

/// Where the time went.
fn time(history: &[EpochRecord]) -> Option<String> {
    let phases = seconds_by_phase(history);
    let total: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
    let share = |(name, seconds): (&str, f64)| format!("{name} {:.1} %", 100.0 * seconds / total);
    (total > 0.0).then(|| {
        let time = hours_and_minutes(std::time::Duration::from_secs_f64(total));
        format!("{time}: {}", phases.map(share).join(", "))
    })
}

/// A column for each group of mu's components, a row for each interval.
fn mu_table(checkpoint: &Checkpoint) -> Vec<String> {
    let mu = &checkpoint.policy.mu;
    let space = TypedConfig::from_toml(&checkpoint.info.config).map(|config| config.search.space());
    let Some(space) = space.ok().filter(|space| space.dimension() == mu.len()) else {
        return vec![format!("mu {mu:.4?}")];
    };
    let groups = space.groups();
    let mut rest = &mu[..];
    let columns: Vec<&[f64]> = groups.iter().map(|group| rest.split_off(..group.size).expect("as many")).collect();
    let heads: String = groups.iter().map(|group| format!(" {:>12}", group.name)).collect();
    let mut lines = vec![format!("mu: interval{heads}")];
    for i in 0..space.intervals {
        let cell = |column: &&[f64]| column.get(i).map_or(format!("{:13}", ""), |value| format!(" {value:12.4}"));
        let row: String = columns.iter().map(cell).collect();
        lines.push(format!("{:12}{}", i + 1, row.trim_end()));
    }
    lines
}

/// A row for each epoch; of a long run for the first and the last ones, unless `all` are wanted.
fn table(history: &[EpochRecord], all: bool) -> Vec<String> {
    let row = |i: usize| epoch_row(i + 1, &history[i]);
    let count = history.len();
    let head = vec![epoch_header()].into_iter();
    if all || count <= WHOLE_TABLE {
        return head.chain((0..count).map(row)).collect();
    }
    let between = format!("{:>6} {} epochs, which --all shows", "...", count - FIRST - LAST);
    head.chain((0..FIRST).map(row)).chain([between]).chain((count - LAST..count).map(row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::SampleRecord;

    fn record(rewards: &[f64], best: i64) -> EpochRecord {
        let sample = |&reward: &f64| SampleRecord {
            reward,
            status: if reward.is_finite() { Status::Ok } else { Status::Failed },
            train_seconds: 30.0,
            validation_seconds: 10.0,
            ..SampleRecord::default()
        };
        EpochRecord {
            samples: rewards.iter().map(sample).collect(),
            best,
            seconds: 60.0,
            wait_seconds: 10.0,
            exchange_seconds: 10.0,
            checkpoint_seconds: 20.0,
            ..EpochRecord::default()
        }
    }

    #[test]
    fn the_best_reward_is_that_of_a_sample_that_went_on() {
        let history = [record(&[0.2, 0.4], 1), record(&[0.9, 0.1], -1), record(&[0.3, f64::NAN], 0)];
        assert_eq!(best(&history).unwrap(), "reward 0.4000 of sample 1 in epoch 1");
        assert_eq!(best(&[record(&[f64::NAN], 0), record(&[], 5)]), None);
        assert_eq!(failed(&history).unwrap(), "1 of 6 samples, in epochs 3");
        assert_eq!(failed(&history[..2]).unwrap(), "none of 4 samples");
        assert_eq!(failed(&[]), None);
    }

    #[test]
    fn the_parts_of_the_time_add_up() {
        let expected = "0 h 03 min: training 37.5 %, rewards 12.5 %, waiting for the slowest rank 12.5 %, exchange 12.5 %, \
                        checkpoints 25.0 %";
        assert_eq!(time(&[record(&[0.1], 0), record(&[0.1], 0)]).unwrap(), expected);
        assert_eq!(time(&[]), None);
    }

    #[test]
    fn a_long_run_shows_its_first_and_last_epochs_and_all_on_request() {
        let history = vec![record(&[0.5], 0); 200];
        let lines = table(&history, false);
        assert_eq!(lines.len(), 1 + FIRST + 1 + LAST);
        assert_eq!(lines[6], "   ... 175 epochs, which --all shows");
        assert!(lines[5].starts_with("     5 ") && lines[7].starts_with("   181 ") && lines[26].starts_with("   200 "));
        assert_eq!(table(&history, true).len(), 201);
        assert_eq!(table(&history[..WHOLE_TABLE], false).len(), 1 + WHOLE_TABLE);
    }
}
