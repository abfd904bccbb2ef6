//! What `inspect --follow` draws.

use std::time::Duration;

use super::follow::Seen;
use super::summary::what;
use crate::pace::{Pace, hours_and_minutes};
use crate::run_directory::Metrics;
use crate::search;
use crate::state::EpochRecord;

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Components of mu, and ranks, that are shown.
const MOVES: usize = 5;
const RANKS: usize = 4;
/// Characters beside a curve or a bar: its name and its number.
const BESIDE: usize = 34;
const WIDEST: usize = 100;

/// The lines for a terminal of this width, in characters; they may be longer.
pub fn of(seen: &Seen, width: usize) -> Vec<String> {
    let what = what(seen.config.typed(), seen.config.run.seed);
    let mut lines: Vec<String> = what.split(": ").map(String::from).chain([progress(seen)]).collect();
    lines.extend(seen.ranks.iter().take(RANKS).map(|rank| format!("  {rank}")));
    if seen.ranks.len() > RANKS {
        lines.push(format!("  and {} ranks more", seen.ranks.len() - RANKS));
    }
    let room = width.clamp(BESIDE + 10, WIDEST) - BESIDE;
    if !seen.epochs.is_empty() {
        lines.push(String::new());
        lines.extend(curves(&seen.epochs, room));
    }
    let moves = moves(seen, room);
    if !moves.is_empty() {
        lines.push(String::new());
        lines.extend(moves);
    }
    if let Some(metrics) = &seen.test {
        lines.push(String::new());
        lines.extend(metrics.iter().map(|(name, value)| test(name, *value)));
    }
    lines
}

/// A metric of the test set, as a run's own output has it.
pub fn test(name: &str, value: f64) -> String {
    format!("test {name:12} {value:.4}")
}

fn progress(seen: &Seen) -> String {
    let (done, all) = (seen.epochs.len(), seen.config.train.epochs);
    let state = match &seen.owner {
        _ if seen.test.is_some() => return format!("{done} of {all} epochs, complete"),
        Some((owner, true)) => owner.clone(),
        Some((owner, false)) => format!("no sign of life of {owner}"),
        None => "nobody works on it: stopped, to be gone on with by --resume".into(),
    };
    let left = match &seen.owner {
        Some((_, true)) => to_go(seen).map_or(String::new(), |left| format!(", {} to go", hours_and_minutes(left))),
        _ => String::new(),
    };
    format!("{done} of {all} epochs{left}; {state}")
}

/// By the pace of the last epochs, from when they were saved.
fn to_go(seen: &Seen) -> Option<Duration> {
    let ranks = seen.ranks.len().max(1);
    let time = |epoch: &Metrics| EpochRecord {
        seconds: epoch.figure("seconds"),
        checkpoint_seconds: epoch.figure("checkpoint_seconds"),
        ..EpochRecord::default()
    };
    let history: Vec<EpochRecord> = seen.epochs.iter().map(time).collect();
    let finite = history.iter().all(|record| (record.seconds + record.checkpoint_seconds).is_finite());
    let work = search::work(&seen.config, ranks);
    if !finite || history.len() > work.len() {
        return None;
    }
    let left = Pace::new(work, 0).left(&history)?;
    let since = seen.saved.and_then(|saved| saved.elapsed().ok()).unwrap_or_default();
    Some(left.saturating_sub(since))
}

/// Rewards of the rounds so far, on one scale.
fn curves(epochs: &[Metrics], room: usize) -> Vec<String> {
    let figures = ["reward_max", "reward_mean", "reward_min"];
    let of = |name: &str| -> Vec<f64> {
        epochs.iter().map(|epoch| epoch.figure(name)).filter(|value| value.is_finite()).collect()
    };
    let rewards = figures.map(of);
    let all = || rewards.iter().flatten().copied();
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let line = |(name, values): (&str, &Vec<f64>)| {
        let last = values.last().map_or(String::new(), |last| format!("  {last:.4}"));
        format!("{:12} {}{last}", name.replace('_', " "), sparkline(values, low, high, room))
    };
    let mut lines: Vec<String> = figures.into_iter().zip(&rewards).map(line).collect();
    if low.is_finite() {
        lines.push(format!("{:12} from {low:.4} to {high:.4}", "scale"));
    }
    lines
}

/// A block for each value, or for the mean of several where there is not room for all.
fn sparkline(values: &[f64], low: f64, high: f64, room: usize) -> String {
    let per_block = values.len().div_ceil(room.max(1)).max(1);
    let block = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let share = if high > low { (mean - low) / (high - low) } else { 0.5 };
        BLOCKS[((share * BLOCKS.len() as f64) as usize).min(BLOCKS.len() - 1)]
    };
    values.chunks(per_block).map(block).collect()
}

/// Where mu has gone furthest from its start, and its last step.
fn moves(seen: &Seen, room: usize) -> Vec<String> {
    let (Some(first), Some(last)) = (seen.epochs.first(), seen.epochs.last()) else { return Vec::new() };
    let sigmas = seen.config.search.component_sigmas();
    let names = seen.config.space().names();
    if names.len() != last.mu.len() || first.mu.len() != last.mu.len() {
        return Vec::new();
    }
    let way = |i: usize| (last.mu[i] - first.mu[i]) / sigmas[i];
    let mut ways: Vec<(f64, &String)> =
        (0..names.len()).filter(|&i| sigmas[i] > 0.0).map(|i| (way(i), &names[i])).collect();
    ways.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    ways.truncate(MOVES);
    ways.retain(|(way, _)| *way != 0.0);
    let longest = ways.first().map_or(1.0, |(way, _)| way.abs());
    let line = |(way, name): &(f64, &String)| {
        let bar = BLOCKS[7].to_string().repeat(((way.abs() / longest * room as f64 / 2.0).round() as usize).max(1));
        format!("  {name:14} {way:+7.2}  {bar}")
    };
    let mut lines = Vec::new();
    if !ways.is_empty() {
        lines.push("mu's longest ways from its start to the last round's, in sigmas".into());
        lines.extend(ways.iter().map(line));
    }
    let updated = seen.epochs.iter().rev().find(|epoch| epoch.figure("chance_sigmas") > 0.0);
    lines.extend(updated.map(|epoch| {
        let [step, chance] = ["delta_sigmas", "chance_sigmas"].map(|name| epoch.figure(name));
        format!("mu's last step: {step:.3} sigmas, {chance:.3} if by chance")
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;
    use crate::state::{SampleRecord, Status};

    /// Of the preset demo, after epochs with these rewards; mu_i moves by its number per epoch.
    fn seen(rewards: &[[f64; 2]]) -> Seen {
        let mut layers = Layers::new(Some("demo"), None, Some("paper")).unwrap();
        layers.set_text("search.intervals=1").unwrap();
        let record = |(epoch, rewards): (usize, &[f64; 2])| EpochRecord {
            mu: (0..4).map(|i| (i * epoch) as f64 * if i == 2 { -0.4 } else { 0.2 }).collect(),
            samples: rewards
                .map(|reward| SampleRecord { reward, status: Status::Ok, ..SampleRecord::default() })
                .into(),
            delta_sigmas: 0.75,
            chance_sigmas: 0.5,
            seconds: 60.0,
            ..EpochRecord::default()
        };
        Seen {
            config: layers.resolve().unwrap(),
            epochs: rewards.iter().enumerate().map(record).map(|record| Metrics::of(&record)).collect(),
            saved: None,
            test: None,
            owner: Some(("process 1 on node".into(), true)),
            ranks: (0..6).map(|rank| format!("rank {rank} waits")).collect(),
        }
    }

    #[test]
    fn rewards_are_on_one_scale_and_the_furthest_components_of_mu_come_first() {
        let lines = of(&seen(&[[0.0, 0.5], [f64::NAN, f64::NAN], [0.5, 1.0]]), 80);
        for expected in [
            "3 of 14 epochs, 0 h 11 min to go; process 1 on node",
            "  rank 3 waits",
            "  and 2 ranks more",
            "reward max   ▅█  1.0000",
            "reward mean  ▃▇  0.7500",
            "reward min   ▁▅  0.5000",
            "scale        from 0.0000 to 1.0000",
            "mu's last step: 0.750 sigmas, 0.500 if by chance",
        ] {
            assert!(lines.iter().any(|line| line == expected), "no '{expected}' in {lines:#?}");
        }
        let first = lines.iter().position(|line| line.starts_with("mu's longest")).unwrap() + 1;
        let ways: Vec<&str> = lines[first..first + 3].iter().map(|line| line[..24].trim()).collect();
        assert_eq!(ways, ["tau_slope_1      -8.00", "tau_bias_1       +6.00", "t_bias_1         +2.00"]);
    }

    #[test]
    fn a_run_is_shown_before_its_first_epoch_at_its_end_and_without_its_process() {
        let mut run = seen(&[]);
        assert_eq!(of(&run, 80)[2], "0 of 14 epochs; process 1 on node");
        run.owner = None;
        assert!(of(&run, 80)[2].starts_with("0 of 14 epochs; nobody works on it"));
        run.owner = Some(("process 1 on node".into(), false));
        assert_eq!(of(&run, 80)[2], "0 of 14 epochs; no sign of life of process 1 on node");
        run.test = Some(vec![("top1".into(), 0.5)]);
        assert_eq!(of(&run, 80).last().unwrap(), "test top1         0.5000");
    }

    #[test]
    fn a_long_run_fits() {
        let run = seen(&(0..5000).map(|i| [i as f64, 2.0 * i as f64]).collect::<Vec<_>>());
        for width in [20, 80, 120, 300] {
            let lines = of(&run, width);
            let curve = lines.iter().find(|line| line.starts_with("reward max")).unwrap();
            assert!(curve.chars().count() <= width.max(BESIDE + 10), "{curve}");
        }
        assert_eq!(sparkline(&[1.0, 1.0], 1.0, 1.0, 5), "▅▅");
    }
}
