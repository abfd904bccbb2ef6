//! A list of files with their classes, in columns that commas, semicolons or tabs divide.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use csv::{Reader, ReaderBuilder, StringRecord};

use super::{Found, subset_named};
use crate::error::{Error, Result};

/// What columns may be called.
const PATH: [&str; 6] = ["path", "file", "filename", "filepath", "file_name", "image"];
const LABEL: [&str; 4] = ["label", "class", "target", "category"];
const SPLIT: [&str; 3] = ["split", "subset", "set"];

/// Characters of a bad row that an error shows.
const SHOWN: usize = 80;

/// Where in a row path, label and split are.
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
    /// How many a row has.
    count: usize,
    /// The first row is not one of them.
    header: bool,
}

/// Paths are below the list's directory. Without a header the columns are path, label and, if there is a third, split. Labels that
/// are all whole numbers are in the order of these.
///
/// Errors, with the line: not UTF-8, columns of other names, rows without a path or a label, unknown splits, a file named twice.
pub fn find(list: &Path) -> Result<Found> {
    let (delimiter, columns) = columns(list)?;
    let mut reader = reader(list, delimiter)?;
    let mut row = StringRecord::new();
    let mut found = Found::default();
    // of each image
    let mut lines: Vec<u32> = Vec::new();
    let mut line = 0;
    while next(&mut reader, &mut row, line, list)? {
        line = row.position().map_or(0, |position| position.line());
        if columns.header && reader.position().record() == 1 {
            continue;
        }
        let wrong = |why: String| Error::file(list, format!("line {line}: {why}"));
        if row.len() != columns.count {
            let text = row.iter().collect::<Vec<_>>().join(", ");
            let quote = if text.contains('\n') { "; is a quotation mark missing?" } else { "" };
            let start: String = text.lines().next().unwrap_or_default().chars().take(SHOWN).collect();
            return Err(wrong(format!("{} columns instead of {}: {start}{quote}", row.len(), columns.count)));
        }
        let (path, class) = (row[columns.path].trim(), row[columns.label].trim());
        if path.is_empty() || class.is_empty() {
            return Err(wrong(format!("no {}", if path.is_empty() { "path" } else { "label" })));
        }
        let split = columns.split.map_or("train", |column| row[column].trim());
        let subset = subset_named(split).ok_or_else(|| {
            wrong(format!("the split {split:?}; there are train, val (valid, validation, dev) and test"))
        })?;
        // ./a.jpg and a.jpg are one file
        let path: PathBuf = Path::new(path).components().filter(|part| *part != Component::CurDir).collect();
        found.add(&path, class, subset);
        lines.push(line as u32);
    }
    if found.count() == 0 {
        return Err(Error::file(list, "no images; wanted are rows of path, label and, if there is one, split"));
    }
    if let Some((first, second)) = found.named_twice() {
        let (path, line) = (found.path(second).display(), lines[second]);
        let why = format!("line {line}: {path}, which line {} names already; leave one of them out", lines[first]);
        return Err(Error::file(list, why));
    }
    match found.names.iter().all(|name| name.parse::<i64>().is_ok()) {
        true => found.sort_classes(|name| (name.parse::<i64>().unwrap_or_default(), name.to_owned())),
        false => found.sort_classes(str::to_owned),
    }
    Ok(found)
}

/// Tried on the first row: what divides it, and what its columns are. Error: none makes a list of it.
fn columns(list: &Path) -> Result<(u8, Columns)> {
    let mut first = Err("no images; wanted are rows of path, label and, if there is one, split".to_owned());
    for delimiter in *b",;\t" {
        let mut row = StringRecord::new();
        if next(&mut reader(list, delimiter)?, &mut row, 0, list)? {
            match Columns::of(&row, list) {
                Ok(columns) => return Ok((delimiter, columns)),
                // the one that divides most is the likeliest
                Err((count, why)) if first.as_ref().is_err_and(|_: &String| count > 1) || delimiter == b',' => {
                    first = Err(why)
                }
                Err(_) => {}
            }
        }
    }
    first.map_err(|why| Error::file(list, why))
}

/// Error: what the list can't be read for.
fn reader(list: &Path, delimiter: u8) -> Result<Reader<Box<dyn Read>>> {
    let file = File::open(list).map_err(|why| Error::file(list, why))?;
    if !file.metadata().is_ok_and(|file| file.is_file()) {
        return Err(Error::file(list, "neither a directory of images nor a list of them"));
    }
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut start = Vec::new();
    file.by_ref().take(3).read_to_end(&mut start).map_err(|why| Error::file(list, why))?;
    if start.starts_with(b"\xff\xfe") || start.starts_with(b"\xfe\xff") {
        return Err(Error::file(list, "UTF-16; save it as UTF-8"));
    }
    if start == "\u{feff}".as_bytes() {
        start.clear();
    }
    let text: Box<dyn Read> = Box::new(io::Cursor::new(start).chain(file));
    Ok(ReaderBuilder::new().delimiter(delimiter).has_headers(false).flexible(true).from_reader(text))
}

/// The next row, which comes after `line`; false: there is none. Error: it is no text.
fn next(reader: &mut Reader<Box<dyn Read>>, row: &mut StringRecord, line: u64, list: &Path) -> Result<bool> {
    reader.read_record(row).map_err(|why| match why.kind() {
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.as_ref().map_or(line + 1, |pos| pos.line());
            let what = if line == 1 { "a list of path, label and, if there is one, split" } else { "the list" };
            Error::file(list, format!("line {line}: not UTF-8; wanted is {what}, saved as UTF-8"))
        }
        _ => Error::file(list, why),
    })
}

impl Columns {
    /// From the first row. Error: how many columns it has and why it is neither a header nor a row with a file that is there.
    fn of(first: &StringRecord, list: &Path) -> std::result::Result<Columns, (usize, String)> {
        let named = |names: &[&str]| {
            first.iter().position(|column| names.iter().any(|name| column.trim().eq_ignore_ascii_case(name)))
        };
        let count = first.len();
        if let (Some(path), Some(label)) = (named(&PATH), named(&LABEL)) {
            return Ok(Columns { path, label, split: named(&SPLIT), count, header: true });
        }
        let directory = list.parent().unwrap_or(Path::new(""));
        if count >= 2 && directory.join(first[0].trim()).is_file() {
            return Ok(Columns { path: 0, label: 1, split: (count > 2).then_some(2), count, header: false });
        }
        let columns = first.iter().collect::<Vec<_>>().join(", ");
        let why = format!(
            "line 1: neither a header nor a file that is there: {columns}; name the columns path ({}), label ({}) and, if there \
             is one, split ({})",
            PATH[1..].join(", "),
            LABEL[1..].join(", "),
            SPLIT[1..].join(", ")
        );
        Err((count, why))
    }
}
