//! A list of files with their classes: CSV, or TSV by its extension.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use csv::StringRecord;

use super::Found;
use crate::data::packed::Subset;
use crate::error::{Error, Result};

/// What columns may be called.
const PATH: [&str; 5] = ["path", "file", "filename", "filepath", "image"];
const LABEL: [&str; 4] = ["label", "class", "target", "category"];
const SPLIT: [&str; 3] = ["split", "subset", "set"];
/// What a split may be called.
const SPLITS: [(&str, Subset); 8] = [
    ("train", Subset::Train),
    ("training", Subset::Train),
    ("val", Subset::Validation),
    ("valid", Subset::Validation),
    ("validation", Subset::Validation),
    ("dev", Subset::Validation),
    ("test", Subset::Test),
    ("testing", Subset::Test),
];

/// Where in a row path, label and split are.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
}

/// Paths are below the list's directory. Without a header the columns are path, label and, if there is a third, split.
///
/// Errors, with the line: columns of other names, rows without a path or a label, unknown splits, a file named twice.
pub fn find(list: &Path) -> Result<Found> {
    let delimiter = match list.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tsv")) {
        true => b'\t',
        false => b',',
    };
    let text = std::fs::read(list).map_err(|why| Error::file(list, why))?;
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&text);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text);
    let (mut found, mut lines, mut columns) = (Found::default(), HashMap::new(), None);
    let mut length = 0;
    for row in reader.records() {
        let row = row.map_err(|why| Error::file(list, why))?;
        let line = row.position().map_or(0, |position| position.line());
        let wrong = |why: String| Error::file(list, format!("line {line}: {why}"));
        let columns = match &columns {
            Some(columns) => columns,
            None => {
                length = row.len();
                let (these, is_header) = Columns::of(&row, list).map_err(wrong)?;
                let these = columns.insert(these);
                if is_header {
                    continue;
                }
                these
            }
        };
        if row.len() != length {
            return Err(wrong(format!("{} columns instead of {length}", row.len())));
        }
        let (path, class) = (row[columns.path].trim(), row[columns.label].trim());
        if path.is_empty() || class.is_empty() {
            return Err(wrong(format!("no {}", if path.is_empty() { "path" } else { "label" })));
        }
        let split = |name: &str| {
            let known = SPLITS.iter().find(|(known, _)| name.trim().eq_ignore_ascii_case(known));
            known.map(|&(_, subset)| subset).ok_or_else(|| format!("the split {name:?}; there are train, val and test"))
        };
        let subset = columns.split.map_or(Ok(Subset::Train), |column| split(&row[column])).map_err(wrong)?;
        let path = PathBuf::from(path);
        if let Some(earlier) = lines.insert(path.clone(), line) {
            return Err(wrong(format!("{}, which line {earlier} names already", path.display())));
        }
        found.images.push((path, class.into(), subset));
    }
    match found.images.is_empty() {
        true => Err(Error::file(list, "no images; wanted are rows of path, label and, if there is one, split")),
        false => Ok(found),
    }
}

impl Columns {
    /// From the first row, and whether that is a header. Error: it is neither a header nor a row with a file that is there.
    fn of(first: &StringRecord, list: &Path) -> std::result::Result<(Columns, bool), String> {
        let named = |names: &[&str]| {
            first.iter().position(|column| names.iter().any(|name| column.trim().eq_ignore_ascii_case(name)))
        };
        if let (Some(path), Some(label)) = (named(&PATH), named(&LABEL)) {
            return Ok((Columns { path, label, split: named(&SPLIT) }, true));
        }
        let directory = list.parent().unwrap_or(Path::new(""));
        if first.len() >= 2 && directory.join(first[0].trim()).is_file() {
            return Ok((Columns { path: 0, label: 1, split: (first.len() > 2).then_some(2) }, false));
        }
        let columns = first.iter().collect::<Vec<_>>().join(", ");
        Err(format!("its columns are {columns}; wanted are path and label, and split if there is one"))
    }
}
