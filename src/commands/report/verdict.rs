//! Which of the groups is better, and whether that is more than chance.

use serde::Serialize;

use crate::config::word;
use crate::figures::{Axis, Figure, Series, Shape};
use crate::runs::{Arm, Comparison, Group, Mean, Run};

pub const RESULTS: &str = "Each point is a run, the second colour the mean with one standard error to either side. Groups \
                           whose bars overlap have not been told apart.";

/// A difference counts from so many standard errors on.
const ENOUGH_ERRORS: f64 = 2.0;
/// Test metrics in the table.
const MOST_METRICS: usize = 5;

/// The table of results and what it says.
#[derive(Serialize)]
pub struct Verdict {
    sentences: Vec<String>,
    columns: Vec<String>,
    rows: Vec<Row>,
    notes: Vec<String>,
}

/// A row of a table.
#[derive(Serialize)]
pub struct Row {
    pub head: String,
    pub cells: Vec<String>,
}

/// What the page is about.
pub fn sentence(runs: &[Run], comparisons: &[Comparison]) -> String {
    let typed = runs[0].config.typed();
    let groups: usize = comparisons.iter().map(|comparison| comparison.groups.len()).sum();
    let unfinished = runs.iter().filter(|run| !run.is_finished()).count();
    let unfinished = if unfinished == 0 { String::new() } else { format!(", {unfinished} of them not finished") };
    let (task, network) = (word(&typed.data.kind), word(&typed.model.name));
    format!(
        "{} run(s) of the task {task} with the network {network}{unfinished}: {groups} group(s) of equal settings.",
        runs.len()
    )
}

pub fn verdict(comparison: &Comparison) -> Verdict {
    let groups = &comparison.groups;
    let metrics = metrics(groups);
    let baseline = baseline(groups);
    let mut columns = vec!["".to_owned(), "seeds".into()];
    columns.extend(metrics.iter().map(|metric| format!("{} (%)", title(metric))));
    if let Some(baseline) = baseline.filter(|_| groups.len() > 1) {
        columns.push(format!("difference from {}", baseline.label));
    }
    let row = |group: &Group| {
        let mut cells = vec![seeds(group)];
        cells.extend(metrics.iter().map(|metric| percent(group, metric)));
        if let Some(baseline) = baseline.filter(|_| groups.len() > 1) {
            let same = std::ptr::eq(baseline, group);
            let found =
                if same { None } else { metrics.first().and_then(|metric| difference(group, baseline, metric)) };
            cells.push(found.map_or(String::new(), |found| signed(&found.mean)));
        }
        Row { head: group.label.clone(), cells }
    };
    let meanings = groups.iter().map(|group| format!("{}: {}.", group.label, group.runs[0].arm.meaning()));
    Verdict {
        sentences: sentences(comparison),
        columns,
        rows: groups.iter().map(row).collect(),
        notes: meanings.collect(),
    }
}

/// softmax, or the first fixed loss.
fn baseline<'a>(groups: &'a [Group<'a>]) -> Option<&'a Group<'a>> {
    let is_loss = |group: &&Group| matches!(group.runs[0].arm, Arm::Loss(_));
    let softmax = groups.iter().find(|group| group.runs[0].arm == Arm::Loss("softmax".into()));
    softmax.or_else(|| groups.iter().find(is_loss))
}

/// The main metric, then what else the runs have measured.
fn metrics(groups: &[Group]) -> Vec<String> {
    let mut found = Vec::new();
    let runs = || groups.iter().flat_map(|group| &group.runs);
    let measured = runs().flat_map(|run| run.checkpoint.test.iter().map(|(name, _)| name.as_str()));
    for name in runs().take(1).map(|run| run.main_metric()).chain(measured) {
        if !found.iter().any(|known| known == name) && !name.ends_with("_error") {
            found.push(name.to_owned());
        }
    }
    found.truncate(MOST_METRICS);
    found
}

/// As the field writes it.
pub fn title(metric: &str) -> String {
    match metric {
        "top1" => "accuracy".into(),
        "map" => "mAP".into(),
        "map_trapezoid" => "mAP (trapezoid)".into(),
        "minp" => "mINP".into(),
        _ => metric.replacen("rank", "rank-", 1).replace('_', " "),
    }
}

/// `31 to 35, 41, 43`
fn seeds(group: &Group) -> String {
    let mut seeds: Vec<u64> = group.runs.iter().map(|run| run.seed()).collect();
    seeds.sort();
    let stretches = seeds.chunk_by(|a, b| a + 1 == *b).flat_map(|stretch| match stretch {
        [first, .., last] if stretch.len() > 2 => vec![format!("{first} to {last}")],
        few => few.iter().map(u64::to_string).collect(),
    });
    stretches.collect::<Vec<_>>().join(", ")
}

fn values(group: &Group, metric: &str) -> Vec<f64> {
    group.tests(metric).into_iter().map(|(_, value)| 100.0 * value).collect()
}

fn percent(group: &Group, metric: &str) -> String {
    match Mean::of(&values(group, metric)) {
        None => "not measured".into(),
        Some(Mean { count: 1, mean, .. }) => format!("{mean:.2}"),
        Some(Mean { mean, error, .. }) => format!("{mean:.2} ± {error:.2}"),
    }
}

fn signed(mean: &Mean) -> String {
    match mean.error.is_nan() {
        true => format!("{:+.2}", mean.mean),
        false => format!("{:+.2} ± {:.2}", mean.mean, mean.error),
    }
}

struct Difference {
    /// In percentage points.
    mean: Mean,
    /// Of equal seeds.
    paired: bool,
}

/// How much better `group` is; paired if two seeds at least are in both. `None`: one has no figures.
fn difference(group: &Group, other: &Group, metric: &str) -> Option<Difference> {
    let pairs: Vec<f64> = group.paired(other, metric).iter().map(|value| 100.0 * value).collect();
    if pairs.len() > 1 {
        return Some(Difference { mean: Mean::of(&pairs)?, paired: true });
    }
    let (a, b) = (Mean::of(&values(group, metric))?, Mean::of(&values(other, metric))?);
    let mean = Mean { count: a.count.min(b.count), mean: a.mean - b.mean, error: a.error.hypot(b.error) };
    Some(Difference { mean, paired: false })
}

/// Of every search and every replay, what it gains over losses and controls.
fn sentences(comparison: &Comparison) -> Vec<String> {
    let groups = &comparison.groups;
    let learned = |group: &&Group| matches!(group.runs[0].arm, Arm::Search(_) | Arm::Replay);
    let Some(metric) = metrics(groups).into_iter().next() else { return Vec::new() };
    let mut found = Vec::new();
    for group in groups.iter().filter(learned) {
        for other in groups.iter().filter(|other| !learned(other)) {
            found.extend(difference(group, other, &metric).map(|found| told(group, other, &metric, &found)));
        }
    }
    let has = |wanted: fn(&Arm) -> bool| groups.iter().any(|group| wanted(&group.runs[0].arm));
    let controlled = has(|arm| matches!(arm, Arm::Select | Arm::BestOf | Arm::Fixed | Arm::Replay));
    if has(|arm| matches!(arm, Arm::Search(_))) && has(|arm| matches!(arm, Arm::Loss(_))) && !controlled {
        found.push(
            "There is no control of a search's cost among these runs (select, best of B, fixed policy) and no replay: whether \
             the loss or the selection of models made a difference is open."
                .into(),
        );
    }
    if found.is_empty() {
        found.push(match &comparison.conditions[..] {
            [] => "There is nothing to compare with: name runs of other losses, or of other seeds, too.".into(),
            conditions => {
                let conditions = conditions.join(", ");
                format!("Nothing to compare with was trained alike: the other runs differ in more than the loss ({conditions} here).")
            }
        });
    }
    found
}

fn told(group: &Group, other: &Group, metric: &str, difference: &Difference) -> String {
    let (ours, theirs, metric) = (&group.label, &other.label, title(metric));
    let Mean { count, mean, error } = difference.mean;
    if error.is_nan() {
        return format!(
            "{ours} differs from {theirs} by {mean:+.2} points of {metric}, by a single run of one of them: that says nothing of \
             chance; run more seeds."
        );
    }
    let seeds = if difference.paired { format!("{count} pairs of equal seeds") } else { "seeds not paired".into() };
    let errors = mean.abs() / error;
    let (size, word) = (mean.abs(), if mean > 0.0 { "better" } else { "worse" });
    match errors >= ENOUGH_ERRORS {
        true => format!(
            "{ours} is {word} than {theirs} by {size:.2} ± {error:.2} points of {metric}, {errors:.1} standard errors ({seeds})."
        ),
        false => format!(
            "{ours} and {theirs} can't be told apart: {mean:+.2} ± {error:.2} points of {metric}, {errors:.1} standard errors ({seeds})."
        ),
    }
}

/// A row for each group: its runs, and their mean.
pub fn results_figure(comparison: &Comparison) -> Figure {
    let groups = &comparison.groups;
    let Some(metric) = metrics(groups).into_iter().next() else { return Figure::default() };
    let mut runs = Series { label: "runs".into(), colour: 5, shape: Shape::Points, ..Series::default() };
    let mut means =
        Series { label: "mean, standard error".into(), colour: 1, shape: Shape::Points, ..Series::default() };
    for (row, group) in groups.iter().enumerate() {
        let values = values(group, &metric);
        runs.points.extend(values.iter().map(|&value| [value, row as f64]));
        if let Some(Mean { count: 2.., mean, error }) = Mean::of(&values) {
            means.points.push([mean, row as f64]);
            means.spread.push([mean - error, mean + error]);
        }
    }
    Figure {
        name: format!("test-{metric}"),
        title: format!("Test {} by group", title(&metric)),
        x: Axis::linear(format!("{} (%)", title(&metric))),
        rows: groups.iter().map(|group| group.label.clone()).collect(),
        series: vec![runs, means],
        ..Figure::default()
    }
}
