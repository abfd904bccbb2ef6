//! Rows of a table: the paper's, with ours in their places.

use super::figures::Entry;
use super::paper::{PaperRow, PaperTable};
use crate::runs::Mean;

/// A row with the paper's figures, ours, or both.
#[derive(Debug, PartialEq)]
pub struct Row {
    pub keys: Vec<String>,
    /// For each metric, as printed in the paper; "": not given.
    pub paper: Vec<&'static str>,
    /// For each metric, over runs; none: there is no run of this row.
    pub ours: Vec<Option<Mean>>,
    pub runs: usize,
    /// What differs from the paper's recipe.
    pub notes: Vec<String>,
}

/// Runs of the same row with the same notes are one mean; those with other notes have a row of their own below.
pub fn rows(table: &PaperTable, entries: &[Entry]) -> Vec<Row> {
    let of_paper = |PaperRow(keys, figures): &PaperRow| Row {
        keys: keys.iter().map(|key| key.to_string()).collect(),
        paper: figures.to_vec(),
        ours: Vec::new(),
        runs: 0,
        notes: Vec::new(),
    };
    let mut rows: Vec<Row> = table.rows.iter().map(of_paper).collect();
    for group in groups(entries) {
        let first = group[0];
        let last_with = |count: usize| rows.iter().rposition(|row| row.keys[..count] == first.keys[..count]);
        let mut ours = ours(&group, table.metrics.len());
        match last_with(first.keys.len()) {
            Some(place) if rows[place].runs == 0 => {
                ours.paper = std::mem::take(&mut rows[place].paper);
                rows[place] = ours;
            }
            // below those of the same row, or of the same first key
            place => {
                let place = place.or_else(|| last_with(1)).map_or(rows.len(), |place| place + 1);
                rows.insert(place, ours);
            }
        }
    }
    rows
}

fn groups(entries: &[Entry]) -> Vec<Vec<&Entry>> {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    for entry in entries {
        let same = |group: &&mut Vec<&Entry>| (&group[0].keys, &group[0].notes) == (&entry.keys, &entry.notes);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(entry),
            None => groups.push(vec![entry]),
        }
    }
    groups
}

fn ours(group: &[&Entry], metrics: usize) -> Row {
    let mean = |metric: usize| {
        let values: Vec<f64> = group.iter().filter_map(|entry| entry.figures[metric]).collect();
        Mean::of(&values)
    };
    Row {
        keys: group[0].keys.clone(),
        paper: vec![""; metrics],
        ours: (0..metrics).map(mean).collect(),
        runs: group.len(),
        notes: group[0].notes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::paper::TABLES;
    use super::*;

    fn entry(keys: &[&str], figure: f64, notes: &[&str], seed: u64) -> Entry {
        let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect();
        Entry { keys: words(keys), figures: vec![Some(figure)], notes: words(notes), seed }
    }

    #[test]
    fn ours_stand_in_the_papers_rows_and_others_below_the_same_first_key() {
        let entries = [
            entry(&["10 %", "AM-LFS"], 10.0, &["short"], 1),
            entry(&["10 %", "fixed policy"], 11.0, &["short"], 1),
            entry(&["10 %", "AM-LFS"], 9.0, &[], 1),
            entry(&["10 %", "AM-LFS"], 12.0, &["short"], 2),
            entry(&["40 %", "AM-LFS"], 20.0, &["short"], 1),
        ];
        let rows = rows(&TABLES[0], &entries);
        let shown: Vec<(String, &str, Vec<f64>, usize)> = rows
            .iter()
            .map(|row| {
                let ours = row.ours.iter().flatten().map(|mean| mean.mean).collect();
                (row.keys.join(" "), row.paper[0], ours, row.runs)
            })
            .collect();
        assert_eq!(
            shown[3..],
            [
                ("10 % softmax (CE)".into(), "12.05", vec![], 0),
                ("10 % AM-LFS".into(), "10.05", vec![11.0], 2),
                ("10 % AM-LFS".into(), "", vec![9.0], 1),
                ("10 % fixed policy".into(), "", vec![11.0], 1),
                ("20 % softmax (CE)".into(), "15.05", vec![], 0),
                ("20 % AM-LFS".into(), "12.73", vec![], 0),
                ("40 % AM-LFS".into(), "", vec![20.0], 1),
            ]
        );
        assert_eq!((rows[4].notes[0].as_str(), rows[4].ours[0].unwrap().error), ("short", 1.0));
    }
}
