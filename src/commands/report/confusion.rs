//! Which classes a classifier takes for which, on the test set.

use crate::figures::{Axis, Figure, Series, Shape};
use crate::runs::Group;

/// Of more classes the pairs that are confused most are shown instead of all.
const MOST_CLASSES: usize = 30;
const PAIRS: usize = 20;
/// Characters of a class's name that are shown.
const LONGEST_NAME: usize = 20;

pub const CAPTION: &str = "Of the test images of a class (row), the share in % that the final model takes for each class (column); over all seeds.";
pub const PAIRS_CAPTION: &str = "Of the test images of a class, the share that the final model takes for another: the largest shares, over all seeds.";

/// The figure and its caption; `None` where no run of the group has predictions.
pub fn figure(group: &Group) -> Option<(Figure, &'static str)> {
    let predictions: Vec<_> = group.runs.iter().filter_map(|run| run.checkpoint.predictions.as_ref()).collect();
    let names = &group.runs[0].checkpoint.info.classes;
    if predictions.is_empty() || names.is_empty() {
        return None;
    }
    let mut counts = std::collections::BTreeMap::<(i64, i64), u64>::new();
    let mut totals = vec![0u64; names.len()];
    for ((label, predicted), images) in predictions.iter().flat_map(|predictions| predictions.confusion()) {
        *counts.entry((label, predicted)).or_default() += images;
        *totals.get_mut(label as usize)? += images;
    }
    let share = |&((label, predicted), images): &((i64, i64), u64)| {
        ((label as usize, predicted as usize), images as f64 / totals[label as usize] as f64)
    };
    let cells: Vec<_> = counts.into_iter().collect();
    let shares = cells.iter().map(share);
    let figure = Figure { name: "confusion".into(), ..Figure::default() };
    if names.len() <= MOST_CLASSES {
        let row = |(label, name): (usize, &String)| match name.parse() == Ok(label) {
            true => name.clone(),
            false => format!("{}  {label}", shortened(name)),
        };
        let (points, spread) =
            shares.map(|((row, column), share)| ([column as f64, row as f64], [share, share])).unzip();
        let series = Series { shape: Shape::Cells, points, spread, ..Series::default() };
        let figure = Figure {
            title: format!("Taken for which class: {}", group.label),
            x: Axis::linear("most likely class"),
            rows: names.iter().enumerate().map(row).collect(),
            columns: (0..names.len()).map(|label| label.to_string()).collect(),
            series: vec![series],
            ..figure
        };
        return Some((figure, CAPTION));
    }
    let mut pairs: Vec<_> = shares.filter(|((label, predicted), _)| label != predicted).collect();
    pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
    pairs.truncate(PAIRS);
    let name = |class: usize| names.get(class).map_or("?".into(), |name| shortened(name));
    let figure = Figure {
        title: format!("Confused most often: {}", group.label),
        x: Axis::linear("share of the class's images"),
        rows: pairs.iter().map(|((label, predicted), _)| format!("{} as {}", name(*label), name(*predicted))).collect(),
        series: vec![Series {
            shape: Shape::Points,
            points: pairs.iter().enumerate().map(|(row, (_, share))| [*share, row as f64]).collect(),
            ..Series::default()
        }],
        ..figure
    };
    Some((figure, PAIRS_CAPTION))
}

fn shortened(name: &str) -> String {
    match name.chars().count() > LONGEST_NAME {
        true => name.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
