//! A table as text, CSV, Markdown or LaTeX.

use super::paper::PaperTable;
use super::rows::Row;
use crate::cli::TableFormat;
use crate::error::{Error, Result};
use crate::runs::Mean;

const EXPLAINED: &str = "paper: AM-LFS (ICCV 2019). Ours: mean ± standard error over runs with other seeds.";
/// The paper's figure where it gives none, and ours where there is no run.
const NONE: &str = "-";

pub fn print(table: &PaperTable, rows: &[Row], format: TableFormat) -> Result<String> {
    let notes = Notes::of(rows);
    let title = format!("Table {}. {}", table.number, table.title);
    let (heads, cells) = (heads(table), cells(rows, &notes));
    Ok(match format {
        TableFormat::Text => {
            let widths: Vec<usize> = (0..heads.len())
                .map(|i| cells.iter().chain([&heads]).map(|row| row[i].chars().count()).max().unwrap_or(0))
                .collect();
            let line = |row: &Vec<String>| {
                let cells = row.iter().zip(&widths).enumerate();
                let text: String = cells
                    .map(|(i, (cell, &width))| {
                        let right = i >= table.keys.len() && i + 1 < heads.len();
                        if right { format!("{cell:>width$}  ") } else { format!("{cell:width$}  ") }
                    })
                    .collect();
                text.trim_end().to_owned()
            };
            let lines = [&heads].into_iter().chain(&cells).map(line);
            [vec![title, String::new()], lines.collect(), vec![String::new(), EXPLAINED.into()], notes.lines("", ": ")]
                .concat()
                .join("\n")
                + "\n"
        }
        TableFormat::Markdown => {
            let line = |row: &Vec<String>| format!("| {} |", row.join(" | "));
            let rule = format!("|{}", "---|".repeat(heads.len()));
            let lines = [line(&heads), rule].into_iter().chain(cells.iter().map(line)).collect();
            let notes: Vec<String> = notes.lines("", ": ").into_iter().map(|note| format!("* {note}")).collect();
            let title = vec![format!("**{title}**"), String::new()];
            [title, lines, vec![String::new(), EXPLAINED.into(), String::new()], notes].concat().join("\n") + "\n"
        }
        TableFormat::Latex => latex(table, &title, &heads, &cells, &notes),
        TableFormat::Csv => csv(table, rows).map_err(|why| Error::failed(format!("CSV: {why}")))?,
    })
}

/// Footnotes, a letter each.
struct Notes(Vec<String>);

impl Notes {
    fn of(rows: &[Row]) -> Notes {
        let mut all: Vec<String> = Vec::new();
        for note in rows.iter().flat_map(|row| &row.notes) {
            if !all.contains(note) {
                all.push(note.clone());
            }
        }
        Notes(all)
    }

    /// a ... z, then aa, ab ...
    fn letter(number: usize) -> String {
        let letter = char::from(b'a' + (number % 26) as u8);
        match number / 26 {
            0 => letter.to_string(),
            more => Notes::letter(more - 1) + &letter.to_string(),
        }
    }

    fn marks(&self, row: &Row) -> Vec<String> {
        let place = |note: &String| self.0.iter().position(|known| known == note).expect("every row's notes");
        let mut places: Vec<usize> = row.notes.iter().map(place).collect();
        places.sort_unstable();
        places.into_iter().map(Notes::letter).collect()
    }

    fn lines(&self, before: &str, after: &str) -> Vec<String> {
        self.0.iter().enumerate().map(|(i, note)| format!("{before}{}{after}{note}", Notes::letter(i))).collect()
    }
}

fn heads(table: &PaperTable) -> Vec<String> {
    let keys = table.keys.iter().map(|key| key.to_string());
    let metrics = table.metrics.iter().flat_map(|metric| [format!("{metric}: paper"), format!("{metric}: ours")]);
    keys.chain(metrics).chain(["runs".into(), "notes".into()]).collect()
}

fn cells(rows: &[Row], notes: &Notes) -> Vec<Vec<String>> {
    let cells = |row: &Row| -> Vec<String> {
        let pair = |(i, paper): (usize, &&str)| {
            let paper = if paper.is_empty() { NONE } else { paper };
            let ours = row.ours.get(i).copied().flatten();
            [paper.to_owned(), ours.map_or(NONE.to_owned(), shown)]
        };
        let runs = if row.runs == 0 { NONE.to_owned() } else { row.runs.to_string() };
        let figures = row.paper.iter().enumerate().flat_map(pair);
        row.keys.iter().cloned().chain(figures).chain([runs, notes.marks(row).join(" ")]).collect()
    };
    rows.iter().map(cells).collect()
}

fn shown(Mean { mean, error, .. }: Mean) -> String {
    if error.is_nan() { format!("{mean:.2}") } else { format!("{mean:.2} ± {error:.2}") }
}

fn latex(table: &PaperTable, title: &str, heads: &[String], cells: &[Vec<String>], notes: &Notes) -> String {
    let line = |row: &[String]| {
        let (marks, cells) = row.split_last().expect("the last one is the notes'");
        let cells = cells.iter().map(|cell| tex(cell)).collect::<Vec<_>>().join(" & ");
        let marks = if marks.is_empty() { String::new() } else { format!("$^{{{marks}}}$") };
        format!("{cells}{marks} \\\\")
    };
    let columns = "l".repeat(table.keys.len()) + &"r".repeat(heads.len() - table.keys.len() - 1);
    let mut lines = vec![
        "% needs \\usepackage{booktabs}".to_owned(),
        format!("\\begin{{tabular}}{{{columns}}}"),
        "\\toprule".into(),
    ];
    let heads = heads[..heads.len() - 1].iter().map(|head| tex(head)).collect::<Vec<_>>().join(" & ");
    lines.extend([format!("{heads} \\\\"), "\\midrule".into()]);
    lines.extend(cells.iter().map(|row| line(row)));
    lines.extend([
        "\\bottomrule".into(),
        "\\end{tabular}".into(),
        String::new(),
        tex(&format!("{title}. {EXPLAINED}")),
    ]);
    let notes: Vec<String> =
        notes.0.iter().enumerate().map(|(i, note)| format!("$^{{{}}}$ {}", Notes::letter(i), tex(note))).collect();
    lines.extend(notes.iter().map(|note| format!("\\\\ {note}")));
    lines.join("\n") + "\n"
}

fn tex(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '±' => "$\\pm$".to_owned(),
            '%' | '&' | '_' | '#' | '$' | '{' | '}' => format!("\\{c}"),
            other => other.to_string(),
        })
        .collect::<String>()
        // two of them would be a dash
        .replace("--", "-{}-")
}

/// For programs: numbers alone, empty where there is none, and the notes in full.
fn csv(table: &PaperTable, rows: &[Row]) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let keys = table.keys.iter().map(|key| key.to_string());
    let metrics = table
        .metrics
        .iter()
        .flat_map(|metric| ["paper", "mean", "standard_error"].map(|what| format!("{metric}_{what}")));
    writer.write_record(keys.chain(metrics).chain(["runs".into(), "notes".into()]))?;
    for row in rows {
        let number = |value: f64| if value.is_nan() { String::new() } else { value.to_string() };
        let figures = row.paper.iter().enumerate().flat_map(|(i, paper)| {
            let ours = row.ours.get(i).copied().flatten();
            let [mean, error] = ours.map_or([f64::NAN; 2], |Mean { mean, error, .. }| [mean, error]).map(number);
            [paper.to_string(), mean, error]
        });
        writer.write_record(
            row.keys.iter().cloned().chain(figures).chain([row.runs.to_string(), row.notes.join("; ")]),
        )?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

#[cfg(test)]
mod tests {
    use super::super::paper::TABLES;
    use super::*;

    fn table() -> Vec<Row> {
        let keys = |keys: [&str; 2]| keys.map(String::from).to_vec();
        let mean = |mean, error, count| vec![Some(Mean { count, mean, error })];
        let (epochs, depth) = ("train.epochs = 2 (recipe: 200)".to_owned(), "model.depth = 8 (recipe: 20)".to_owned());
        vec![
            Row { keys: keys(["0 %", "L2T-DLF"]), paper: vec!["7.63"], ours: vec![], runs: 0, notes: vec![] },
            Row {
                keys: keys(["0 %", "AM-LFS"]),
                paper: vec!["6.92"],
                ours: mean(8.125, 0.25, 2),
                runs: 2,
                notes: vec![epochs.clone(), depth],
            },
            Row {
                keys: keys(["0 %", "x_1"]),
                paper: vec![""],
                ours: mean(9.0, f64::NAN, 1),
                runs: 1,
                notes: vec![epochs],
            },
        ]
    }

    fn printed(format: TableFormat) -> String {
        print(&TABLES[0], &table(), format).unwrap()
    }

    #[test]
    fn text_is_aligned_and_ends_with_its_footnotes() {
        let expected = "\
Table 2. Top-1 test error (%) on CIFAR-10 with ResNet-20, by label noise

noise  method   error: paper  error: ours  runs  notes
0 %    L2T-DLF          7.63            -     -
0 %    AM-LFS           6.92  8.12 ± 0.25     2  a b
0 %    x_1                 -         9.00     1  a

paper: AM-LFS (ICCV 2019). Ours: mean ± standard error over runs with other seeds.
a: train.epochs = 2 (recipe: 200)
b: model.depth = 8 (recipe: 20)
";
        assert_eq!(printed(TableFormat::Text), expected);
    }

    #[test]
    fn markdown_and_latex_hold_the_same_cells() {
        let markdown = printed(TableFormat::Markdown);
        assert!(markdown.contains("| 0 % | AM-LFS | 6.92 | 8.12 ± 0.25 | 2 | a b |"), "{markdown}");
        assert!(markdown.contains("\n|---|---|---|---|---|---|\n"), "{markdown}");
        let latex = printed(TableFormat::Latex);
        assert!(latex.contains("\\begin{tabular}{llrrr}"), "{latex}");
        assert!(latex.contains("0 \\% & AM-LFS & 6.92 & 8.12 $\\pm$ 0.25 & 2$^{a b}$ \\\\\n"), "{latex}");
        assert!(latex.contains("0 \\% & x\\_1 & - & 9.00 & 1$^{a}$ \\\\\n"), "{latex}");
        assert!(latex.contains("$^{b}$ model.depth = 8 (recipe: 20)"), "{latex}");
    }

    #[test]
    fn csv_has_numbers_alone_and_notes_in_full() {
        let expected = "\
noise,method,error_paper,error_mean,error_standard_error,runs,notes
0 %,L2T-DLF,7.63,,,0,
0 %,AM-LFS,6.92,8.125,0.25,2,train.epochs = 2 (recipe: 200); model.depth = 8 (recipe: 20)
0 %,x_1,,9,,1,train.epochs = 2 (recipe: 200)
";
        assert_eq!(printed(TableFormat::Csv), expected);
    }

    #[test]
    fn there_are_enough_letters() {
        assert_eq!([0, 25, 26, 27, 52].map(Notes::letter), ["a", "z", "aa", "ab", "ba"]);
    }
}
