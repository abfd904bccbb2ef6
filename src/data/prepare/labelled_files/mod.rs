//! Image files of classes, to be packed for classification: a directory per class (`tree`), or a list of files (`list`).

mod found;
mod list;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::source::{ImageRead, Source, absolute, file_stamp, read_file};
use crate::data::listing;
use crate::data::packed::Subset;
use crate::error::{Error, Result};
use found::Found;

/// What subsets are called, in directories and lists.
const SUBSETS: [(&str, Subset); 8] = [
    ("train", Subset::Train),
    ("training", Subset::Train),
    ("val", Subset::Validation),
    ("valid", Subset::Validation),
    ("validation", Subset::Validation),
    ("dev", Subset::Validation),
    ("test", Subset::Test),
    ("testing", Subset::Test),
];

/// Image files below `root`, each of a class and a subset. Takes a path's bytes and 13 more for each.
pub struct LabelledFiles {
    root: PathBuf,
    /// The directory or list that named them.
    origin: PathBuf,
    found: Found,
}

fn subset_named(name: &str) -> Option<Subset> {
    SUBSETS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|&(_, subset)| subset)
}

impl LabelledFiles {
    /// A directory: of a directory per class, or of `train`, `test` and `val` (also `valid`, `validation`) with these. A
    /// file: a list, CSV or TSV. Reads no image.
    ///
    /// Errors: what can't be listed; no images; one class; classes that are tested and not trained on; in a list, rows
    /// without a path or a label, unknown subsets, a file named twice.
    pub fn open(source: &Path) -> Result<LabelledFiles> {
        let (root, found) = match source.is_dir() {
            true => (source, tree::find(source)?),
            false => (source.parent().unwrap_or(Path::new("")), list::find(source)?),
        };
        check_classes(&found, source)?;
        Ok(LabelledFiles { root: root.to_owned(), origin: source.to_owned(), found })
    }

    fn is_list(&self) -> bool {
        self.root != self.origin
    }
}

/// Warns of classes whose names differ by case alone. Errors: fewer than two to train on; others that are tested.
fn check_classes(found: &Found, origin: &Path) -> Result<()> {
    let counts = found.counts();
    for (subset, word) in [(Subset::Validation, "validation"), (Subset::Test, "test")] {
        let untrained = |counts: &[usize; 3]| counts[Subset::Train as usize] == 0 && counts[subset as usize] > 0;
        if let Some(first) = counts.iter().position(untrained) {
            let (count, name) = (counts.iter().filter(|counts| untrained(counts)).count(), &found.names[first]);
            let what = if count == 1 { "class has" } else { "classes have" };
            let why = format!(
                "{count} {word} {what} no image to train on, such as {name:?}; add some, or leave the {word} images of such \
                 classes out"
            );
            return Err(Error::file(origin, why));
        }
    }
    if found.names.len() < 2 {
        let names = found.names.join(", ");
        let why = format!("one class of images to train on ({names}): classification wants two or more");
        return Err(Error::file(origin, why));
    }
    let mut spelled: HashMap<String, &String> = HashMap::new();
    for name in &found.names {
        if let Some(other) = spelled.insert(name.to_lowercase(), name) {
            log::warn!("the classes {other:?} and {name:?} differ by case alone; they stay two");
        }
    }
    Ok(())
}

impl Source for LabelledFiles {
    fn count(&self) -> usize {
        self.found.count()
    }

    fn name(&self, index: usize) -> String {
        self.found.path(index).to_string_lossy().into_owned()
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        read_file(&self.root, self.found.path(index), self.found.class(index))
    }

    /// What a list names has not been looked at yet.
    fn look(&self, index: usize) -> (Option<u32>, Option<String>) {
        let why = self.is_list().then(|| listing::look(&self.root.join(self.found.path(index))).err()).flatten();
        (Some(self.found.class(index)), why)
    }

    fn origin(&self) -> String {
        absolute(&self.origin)
    }

    fn stamp(&self, index: usize) -> String {
        let (class, subset) = (self.found.class(index), self.found.subset(index));
        format!("{} {class} {}", file_stamp(&self.root.join(self.found.path(index))), subset as u8)
    }

    fn identity(&self, number: u32) -> String {
        self.found.names[number as usize].clone()
    }

    fn identities(&self) -> &'static str {
        "classes"
    }

    fn has_identity(&self, name: &str) -> bool {
        self.found.names.iter().any(|known| known == name)
    }

    fn subset(&self, index: usize) -> Option<Subset> {
        Some(self.found.subset(index))
    }

    fn ignored(&self) -> &[(String, String)] {
        &self.found.ignored
    }

    fn empty_identities(&self) -> &[String] {
        &self.found.empty
    }
}
