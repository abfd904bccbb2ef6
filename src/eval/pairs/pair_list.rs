//! Lists of pairs of faces over a directory of images: LFW's `pairs.txt`, and lists of paths with a 1 or a 0.

use std::collections::HashMap;
use std::path::Path;

use crate::data::NameList;
use crate::error::{Error, Result};

type Parsed<T> = std::result::Result<T, String>;

/// The pairs of a list over a directory of images.
#[derive(Debug, PartialEq)]
pub struct PairList {
    /// Each image's name once, in the order of first use.
    pub images: Vec<String>,
    /// Numbers of the two images.
    pub pairs: Vec<(usize, usize)>,
    pub same: Vec<bool>,
    /// 10 in the LFW's pairs.txt, whose pairs come fold by fold; 0 if the list has none.
    pub folds: usize,
}

/// A pair of a list: two images below the directory.
#[derive(Debug, PartialEq)]
pub struct PairEntry {
    /// Of the first image's line, from 1.
    pub line: usize,
    pub images: [String; 2],
    pub same: bool,
}

/// `list` as `parse_pairs` reads it. Errors: those of `parse_pairs`, with the file's name.
pub fn read_pairs(list: &Path) -> Result<PairList> {
    let bytes = std::fs::read(list).map_err(|why| Error::file(list, format!("can't be read: {why}")))?;
    let (folds, entries) = parse_pairs(&bytes).map_err(|why| Error::file(list, why))?;
    let mut found = PairList { images: Vec::new(), pairs: Vec::new(), same: Vec::new(), folds };
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    for entry in &entries {
        let [first, second] = entry.images.each_ref().map(|name| {
            *numbers.entry(name).or_insert_with(|| {
                found.images.push(name.clone());
                found.images.len() - 1
            })
        });
        found.pairs.push((first, second));
        found.same.push(entry.same);
    }
    Ok(found)
}

/// (folds, pairs) of a list's text:
///
/// * LFW's pairs.txt: a first line of folds and n (or of n alone: no folds), then n + n lines per fold, `name i j` for two
///   images of one person and `name1 i name2 j` for two persons; without the first line there are no folds. Image i of a
///   person is name/name_%04d.jpg.
/// * `path path 1` for one person and `path path 0` (or -1) for two, between blanks, TABs or commas.
/// * CPLFW's and CALFW's `path 1` in two consecutive lines [FaceX-Zoo test_protocol/lfw/pairs_parser.py]; 0 is for two persons.
///
/// Blank lines, comments (#) and a line of titles are left out. Errors name the line: malformed, another number of pairs than
/// stated.
pub fn parse_pairs(bytes: &[u8]) -> Parsed<(usize, Vec<PairEntry>)> {
    let lines = NameList::parse(bytes)?;
    let lines: Vec<(usize, &str)> = lines.iter().map(|line| (line.number, &line.text[..])).collect();
    let Some(&(_, first)) = lines.first() else { return Err("a list without a pair".into()) };
    let head: Option<Vec<usize>> = first.split_whitespace().map(|number| number.parse().ok()).collect();
    match head.as_deref() {
        Some(&[half]) => of_lfw(&lines[1..], 0, Some(half)),
        Some(&[folds, half]) if folds > 0 => of_lfw(&lines[1..], folds, Some(half)),
        _ if lines.iter().any(|(_, line)| names_two_persons(line)) => of_lfw(&lines, 0, None),
        _ => of_paths(&lines),
    }
}

/// `half`: pairs of each kind in each fold.
fn of_lfw(lines: &[(usize, &str)], folds: usize, half: Option<usize>) -> Parsed<(usize, Vec<PairEntry>)> {
    let entry = |&(number, line): &(usize, &str)| entry(number, line).map_err(|why| format!("line {number}: {why}"));
    let entries = lines.iter().map(entry).collect::<Parsed<Vec<PairEntry>>>()?;
    let Some(half) = half else { return Ok((0, entries)) };
    let each = folds.max(1);
    let stated = each.checked_mul(half).and_then(|half| half.checked_mul(2));
    let same = entries.iter().filter(|entry| entry.same).count();
    if entries.is_empty() || stated != Some(entries.len()) || same != entries.len() / 2 {
        let different = entries.len() - same;
        return Err(format!(
            "{same} pairs of one person and {different} of two; line 1 states {each} x {half} of each"
        ));
    }
    Ok((folds, entries))
}

/// Whether it is LFW's `name1 i name2 j`.
fn names_two_persons(line: &str) -> bool {
    let columns: Vec<&str> = line.split_whitespace().collect();
    matches!(columns[..], [_, i, _, j] if i.parse::<u32>().is_ok() && j.parse::<u32>().is_ok())
}

fn entry(line: usize, text: &str) -> Parsed<PairEntry> {
    let columns: Vec<&str> = text.split_whitespace().collect();
    let (names, numbers) = match columns[..] {
        [name, i, j] => ([name, name], [i, j]),
        [first, i, second, j] => ([first, second], [i, j]),
        _ => return Err("neither 'name i j' nor 'name1 i name2 j'".to_owned()),
    };
    let image = |k: usize| match numbers[k].parse::<u32>() {
        _ if names[k].contains(['/', '\\', '\0']) || names[k].starts_with('.') => {
            Err(format!("{:?} is no person's name", names[k]))
        }
        Ok(number) if number > 0 => Ok(format!("{0}/{0}_{number:04}.jpg", names[k])),
        _ => Err(format!("{:?} is no image number", numbers[k])),
    };
    let images = [image(0)?, image(1)?];
    match (columns.len(), names[0] == names[1]) {
        (4, true) => Err(format!("{:?} twice where two persons are due", names[0])),
        _ if images[0] == images[1] => Err("an image and itself".to_owned()),
        (_, same) => Ok(PairEntry { line, images, same }),
    }
}

fn of_paths(lines: &[(usize, &str)]) -> Parsed<(usize, Vec<PairEntry>)> {
    let mut entries = Vec::new();
    // the first of two lines
    let mut before: Option<(usize, String, bool)> = None;
    for (k, &(number, line)) in lines.iter().enumerate() {
        let columns = columns(line);
        let Some((label, paths)) = columns.split_last() else {
            return Err(format!("line {number}: nothing between its separators"));
        };
        let same = match label.parse::<i64>() {
            Ok(label) => label > 0,
            Err(_) if label.eq_ignore_ascii_case("true") => true,
            Err(_) if label.eq_ignore_ascii_case("false") => false,
            Err(_) if k == 0 && lines.len() > 1 => continue, // titles
            Err(_) => return Err(format!("line {number}: {label:?} is neither 1 (one person) nor 0 (two)")),
        };
        let path = |path: &str| path.replace('\\', "/");
        match (paths, before.take()) {
            ([first, second], None) => {
                entries.push(PairEntry { line: number, images: [path(first), path(second)], same });
            }
            ([first], None) => before = Some((number, path(first), same)),
            ([second], Some((line, first, of_first))) if same == of_first => {
                entries.push(PairEntry { line, images: [first, path(second)], same });
            }
            ([_], Some((line, ..))) => {
                return Err(format!("lines {line} and {number} are a pair, but one says 1 and one 0"));
            }
            _ => {
                let why = "neither 'path path 1' nor, in two lines each, 'path 1', nor a line of LFW's pairs.txt";
                return Err(format!("line {number}: {why}"));
            }
        }
    }
    if let Some((line, ..)) = before {
        return Err(format!("line {line}: the second image of its pair is missing"));
    }
    match entries.iter().find(|entry| entry.images[0] == entry.images[1]) {
        Some(entry) => Err(format!("line {}: an image and itself", entry.line)),
        None if entries.is_empty() => Err("a list without a pair".into()),
        None => Ok((0, entries)),
    }
}

/// Between TABs or commas, where there are any: then names may have blanks.
fn columns(line: &str) -> Vec<&str> {
    let clean = |column: &&str| !column.is_empty();
    let separator = [',', '\t', ';'].into_iter().find(|&separator| line.contains(separator));
    match separator {
        Some(separator) => line.split(separator).map(|column| column.trim().trim_matches('"')).filter(clean).collect(),
        None => line.split_whitespace().map(|column| column.trim_matches('"')).filter(clean).collect(),
    }
}

#[cfg(test)]
mod tests;
