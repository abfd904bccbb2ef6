//! How a search went, from the history of a group's runs: means over seeds.

use crate::figures::{Axis, Figure, Series, Shape};
use crate::loss::Group as Part;
use crate::policy::{self, Steps};
use crate::runs::{Comparison, Group, Mean};
use crate::state::{EpochRecord, SampleRecord, highest, lowest, mean, seconds_by_phase};

use super::verdict::Row;

pub const REWARDS_OF_ALL: &str = "The reward of the sample that went on, on held-out data: mean over seeds. Rewards are comparable between groups that \
     measure the same one.";
/// Standard errors that chance may make.
const NOISE: f64 = 2.0;
/// Bands of more lines hide each other.
const MOST_BANDS: usize = 2;
/// Below this share of the rate before, a learning rate has stepped.
const STEP: f64 = 0.7;

/// Figures and their captions.
pub fn all(group: &Group) -> Vec<(Figure, String)> {
    let mut found = vec![(rewards(group), rewards_caption(group))];
    found.extend(parts(group).into_iter().map(|(part, from)| (mu(group, &part, from), mu_caption(group, &part))));
    found.push((steps(group), STEPS.into()));
    let directions = directions(group);
    found.push((directions, DIRECTIONS.into()));
    found
}

const STEPS: &str = "How far a round moved the mean of the distribution, in units of sigma, and how far it would have moved had the same \
     rewards been dealt out to the samples at random. Where the two are equal, the search wanders.";
const DIRECTIONS: &str = "Correlation of a component of the sampled losses with their rewards within a round, over all rounds and runs. What lies \
     inside of the grey bars (two standard errors of no correlation) may be chance; so may one in twenty of the rest.";

/// Of each epoch the values that the runs have, where there are any.
fn by_epoch(group: &Group, value: impl Fn(&EpochRecord) -> f64) -> Vec<(f64, Vec<f64>)> {
    let at = |epoch: usize| {
        let records = group.runs.iter().filter_map(|run| run.checkpoint.history.get(epoch));
        let values: Vec<f64> = records.map(&value).filter(|value| value.is_finite()).collect();
        ((epoch + 1) as f64, values)
    };
    (0..group.epochs()).map(at).filter(|(_, values)| !values.is_empty()).collect()
}

fn means(group: &Group, value: impl Fn(&EpochRecord) -> f64) -> Vec<[f64; 2]> {
    let mean = |(epoch, values): (f64, Vec<f64>)| [epoch, values.iter().sum::<f64>() / values.len() as f64];
    by_epoch(group, value).into_iter().map(mean).collect()
}

fn chosen(record: &EpochRecord) -> f64 {
    record.chosen().map_or(f64::NAN, |sample| sample.reward)
}

/// The epochs after which the learning rate fell.
fn rate_steps(group: &Group) -> Vec<[f64; 2]> {
    let history = &group.runs[0].checkpoint.history;
    let fell = history.windows(2).enumerate().filter(|(_, pair)| pair[1].learning_rate < STEP * pair[0].learning_rate);
    fell.map(|(epoch, _)| [epoch as f64 + 1.5, 0.0]).collect()
}

fn rate_marks(group: &Group) -> Series {
    let points = rate_steps(group);
    let label = if points.is_empty() { "" } else { "learning rate steps down" };
    Series { label: label.into(), colour: 6, shape: Shape::Marks, points, ..Series::default() }
}

fn rewards(group: &Group) -> Figure {
    let spread = |side: fn(&[f64]) -> f64| means(group, move |record| side(&record.rewards()));
    let (low, high) = (spread(lowest), spread(highest));
    Figure {
        name: "rewards".into(),
        title: "Rewards of a round's samples".into(),
        x: Axis::linear("epoch"),
        y: Axis::linear("reward"),
        series: vec![
            Series {
                label: "mean, from lowest to highest".into(),
                points: means(group, |record| mean(&record.rewards())),
                spread: low.iter().zip(&high).map(|(low, high)| [low[1], high[1]]).collect(),
                ..Series::default()
            },
            Series {
                label: "the sample that went on".into(),
                colour: 1,
                shape: Shape::Points,
                points: means(group, chosen),
                ..Series::default()
            },
            rate_marks(group),
        ],
        ..Figure::default()
    }
}

fn rewards_caption(group: &Group) -> String {
    let over = if group.runs.len() > 1 { ", each a mean over the runs' seeds" } else { "" };
    format!("The samples' rewards on held-out data, measured after each round{over}.")
}

/// One line for each group of a comparison.
pub fn rewards_of_all(comparison: &Comparison) -> Figure {
    if comparison.groups.len() < 2 {
        return Figure::default();
    }
    let line = |(colour, group): (usize, &Group)| Series {
        label: group.label.clone(),
        colour,
        shape: if colour < 7 { Shape::Line } else { Shape::Dashed },
        points: means(group, chosen),
        ..Series::default()
    };
    Figure {
        name: "rewards-by-group".into(),
        title: "Reward of the model that went on, by group".into(),
        x: Axis::linear("epoch"),
        y: Axis::linear("reward"),
        series: comparison.groups.iter().enumerate().map(line).collect(),
        ..Figure::default()
    }
}

/// The parts of theta with the number of their first component.
fn parts(group: &Group) -> Vec<(Part, usize)> {
    let mut from = 0;
    let with_start = |part: Part| {
        from += part.size;
        (part, from - part.size)
    };
    group.runs[0].config.space().groups().into_iter().map(with_start).collect()
}

/// Which components are searched.
fn searched(group: &Group) -> Vec<bool> {
    group.runs[0].checkpoint.policy.sigma.iter().map(|&sigma| sigma > 0.0).collect()
}

fn mu(group: &Group, part: &Part, from: usize) -> Figure {
    if !searched(group)[from..from + part.size].contains(&true) {
        return Figure::default();
    }
    let line = |i: usize| {
        let component = from + i;
        // before each epoch, and after the last one
        let at = |epoch: usize| -> Vec<f64> {
            group.runs.iter().filter_map(|run| Some(run.mu(epoch)?[component])).collect()
        };
        let found: Vec<(usize, Mean)> =
            (0..=group.epochs()).filter_map(|epoch| Some((epoch, Mean::of(&at(epoch))?))).collect();
        let error = |mean: &Mean| if mean.error.is_nan() { 0.0 } else { mean.error };
        let band = |(_, mean): &(usize, Mean)| [mean.mean - error(mean), mean.mean + error(mean)];
        Series {
            label: interval(part, i),
            colour: i,
            points: found.iter().map(|(epoch, mean)| [*epoch as f64, mean.mean]).collect(),
            spread: if with_bands(group, part) { found.iter().map(band).collect() } else { Vec::new() },
            ..Series::default()
        }
    };
    let mut series: Vec<Series> = (0..part.size).map(line).collect();
    series.push(rate_marks(group));
    Figure {
        name: format!("mu-{}", part.name.replace('_', "-")),
        title: format!("mu: {}", part_title(part.name)),
        x: Axis::linear("epoch"),
        y: Axis::linear(part_title(part.name)),
        ordered: true,
        series,
        ..Figure::default()
    }
}

fn with_bands(group: &Group, part: &Part) -> bool {
    group.runs.len() > 1 && part.size <= MOST_BANDS
}

fn mu_caption(group: &Group, part: &Part) -> String {
    let means = if group.runs.len() > 1 { ", mean over seeds" } else { "" };
    let band = if with_bands(group, part) { " with one standard error" } else { "" };
    format!(
        "The mean of the distribution of losses, by component (figure 3 of the paper){means}{band}. It begins at softmax unless \
         it was given."
    )
}

pub fn part_title(name: &str) -> &'static str {
    match name {
        "t_slope" => "slopes of t",
        "t_bias" => "biases of t",
        "tau_slope" => "slopes of tau",
        "tau_bias" => "biases of tau",
        "t_log_slope" => "log slopes of t",
        "t_offset" => "t(0), a margin if negative",
        "log_weight" => "log weights of examples",
        _ => "components",
    }
}

/// The interval that component i of a part is for.
fn interval(part: &Part, i: usize) -> String {
    let (variable, low) = if part.of_t() { ("c", -1.0) } else { ("p", 0.0) };
    let edge = |i: usize| low + (1.0 - low) * i as f64 / part.size as f64;
    match part.name {
        "t_offset" => "t(0)".into(),
        _ => format!("{variable} {:.2} to {:.2}", edge(i), edge(i + 1)),
    }
}

fn steps(group: &Group) -> Figure {
    let updated = |value: f64| if value > 0.0 { value } else { f64::NAN };
    let config = &group.runs[0].config;
    let searched = searched(group).iter().filter(|&&searched| searched).count();
    let line =
        |label: &str, colour, shape, points| Series { label: label.into(), colour, shape, points, ..Series::default() };
    let figure = |label: &str, series| Figure {
        name: "steps".into(),
        title: "Does the search learn or wander?".into(),
        x: Axis::linear("epoch"),
        y: Axis::linear(label),
        series,
        ..Figure::default()
    };
    let moved = means(group, |record| updated(record.delta_sigmas));
    if !moved.is_empty() {
        let chance = means(group, |record| updated(record.chance_sigmas));
        let series =
            vec![line("mu moved by", 0, Shape::Line, moved), line("by chance alone", 6, Shape::Dashed, chance)];
        return figure("length of a step (sigmas)", series);
    }
    // files of format 1.0
    let gradient = means(group, |record| updated(record.gradient_norm));
    let noise = (searched as f64 / config.search.samples as f64).sqrt() / config.search.sigma;
    let chance = gradient.iter().map(|&[epoch, _]| [epoch, noise]).collect();
    let series = vec![
        line("gradient of mu", 0, Shape::Line, gradient),
        line("pure noise: sqrt(P / B) / sigma", 6, Shape::Dashed, chance),
    ];
    figure("norm of the gradient", series)
}

/// Correlation of each searched component with the reward within rounds.
fn directions(group: &Group) -> Figure {
    let names = group.runs[0].config.space().names();
    let searched = searched(group);
    let rounds: Vec<(&[SampleRecord], Vec<f64>)> =
        group.runs.iter().flat_map(|run| &run.checkpoint.history).filter_map(round).collect();
    let count: usize = rounds.iter().map(|(samples, _)| samples.len() - 1).sum();
    let noise = NOISE / (count as f64).sqrt();
    let mut points = Series { label: "correlation with the reward".into(), shape: Shape::Points, ..Series::default() };
    let mut chance = Series { label: "chance".into(), colour: 6, shape: Shape::Points, ..Series::default() };
    let mut rows = Vec::new();
    for component in (0..names.len()).filter(|&component| searched[component]) {
        let (mut products, mut squares, mut rewards) = (0.0, 0.0, 0.0);
        for (samples, reward) in &rounds {
            let theta: Vec<f64> = samples.iter().map(|sample| sample.theta[component]).collect();
            let (theta, reward) = (centred(&theta), centred(reward));
            // each round counts by its samples, whatever the size of its rewards
            let scale = reward.iter().map(|value| value * value).sum::<f64>().sqrt() / (reward.len() as f64).sqrt();
            for (theta, reward) in theta.iter().zip(&reward) {
                let reward = if scale > 0.0 { reward / scale } else { 0.0 };
                products += theta * reward;
                squares += theta * theta;
                rewards += reward * reward;
            }
        }
        let correlation = products / (squares * rewards).sqrt();
        points.points.push([correlation, rows.len() as f64]);
        chance.points.push([f64::NAN, rows.len() as f64]);
        chance.spread.push([-noise, noise]);
        rows.push(names[component].replace('_', " "));
    }
    let series = if count > 0 { vec![chance, points] } else { Vec::new() };
    Figure {
        name: "directions".into(),
        title: "Which directions pay".into(),
        x: Axis::linear("correlation with the reward within a round"),
        rows,
        series,
        ..Figure::default()
    }
}

/// The samples of a round that taught something, if two or more have different rewards.
fn round(record: &EpochRecord) -> Option<(&[SampleRecord], Vec<f64>)> {
    let rewards: Vec<f64> = record.samples.iter().map(|sample| sample.reward).collect();
    let learned = record.delta_norm > 0.0 || record.best >= 0;
    let drawn = record.samples.windows(2).any(|pair| pair[0].theta != pair[1].theta);
    (learned && drawn && rewards.len() > 1 && rewards.iter().all(|reward| reward.is_finite()))
        .then_some((&record.samples[..], rewards))
}

fn centred(values: &[f64]) -> Vec<f64> {
    let mean = mean(values);
    values.iter().map(|value| value - mean).collect()
}

/// What the history says in words.
pub fn sentences(group: &Group) -> Vec<String> {
    let records = || group.runs.iter().flat_map(|run| &run.checkpoint.history);
    let mut found = Vec::new();
    let run = group.runs[0];
    let config = &run.config;
    found.push(format!(
        "B = {} samples in rounds of {} epoch(s), {} of {} epochs done{}, policy {}, {} numbers to learn; label noise {} %.",
        config.search.samples,
        config.search.round_epochs,
        run.checkpoint.epoch,
        config.train.epochs,
        if group.runs.len() > 1 { " (of the first run)" } else { "" },
        config.policy.name,
        if searched(group).contains(&true) { config.numbers_to_learn() } else { 0 },
        100.0 * config.data.label_noise
    ));
    if let Some(steps) = policy::steps(records()) {
        let Steps { count, sigmas, chance, beyond_chance } = steps;
        let verdict = steps.verdict();
        let meaning = match beyond_chance {
            None => "",
            Some(true) => ": the rewards told something",
            Some(false) => ": what the search wins, if anything, is selection's",
        };
        found.push(format!(
            "Steps of mu were {sigmas:.2} sigmas long (root mean square of {count}), and would have been {chance:.2} had the same \
             rewards been dealt out at random: {verdict}{meaning}."
        ));
    }
    let failed: usize = records().map(|record| record.failed() as usize).sum();
    let samples: usize = records().map(|record| record.samples.len()).sum();
    if failed > 0 {
        found.push(format!(
            "{failed} of {samples} samples' epochs failed: their loss, weights or reward were not finite."
        ));
    }
    found
}

/// Where the time of a run went, mean over the group's runs.
pub fn time(group: &Group) -> Vec<Row> {
    let runs = group.runs.len() as f64;
    let phases = seconds_by_phase(group.runs.iter().flat_map(|run| &run.checkpoint.history));
    let phases = phases.map(|(name, seconds)| (name, seconds / runs));
    let total: f64 = phases.iter().map(|(_, seconds)| seconds).sum();
    let row = |(head, seconds): (&str, f64)| Row {
        head: head.into(),
        cells: vec![format!("{seconds:.1}"), format!("{:.1}", 100.0 * seconds / total.max(f64::MIN_POSITIVE))],
    };
    phases.into_iter().chain([("all", total)]).map(row).collect()
}
