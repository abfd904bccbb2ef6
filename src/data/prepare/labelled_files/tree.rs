//! A directory per class, as torchvision's ImageFolder has it, in one tree or in one for each subset.

use std::fs;
use std::path::Path;

use super::{Found, subset_named};
use crate::data::listing::{EXTENSIONS, Kind, list};
use crate::data::packed::Subset;
use crate::error::{Error, Result};

/// Of Tiny-ImageNet, in `val`: image, class, box.
const ANNOTATIONS: &str = "val_annotations.txt";

/// Errors: what can't be listed; no image at all; a class whose name is no text; subsets without one to train on.
pub fn find(root: &Path) -> Result<Found> {
    let (mut subsets, mut others, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for listed in list(root, 1) {
        let listed = listed?;
        let subset = listed.path.to_str().and_then(subset_named);
        match (subset, listed.kind) {
            (Some(subset), Kind::Directory) => subsets.push((listed.path, subset)),
            (None, Kind::Directory) => others.push(listed.path),
            _ => files.push(listed.path),
        }
    }
    let mut found = Found::default();
    let is_trained = subsets.iter().any(|(_, subset)| *subset == Subset::Train);
    let kinds = [Subset::Train, Subset::Validation, Subset::Test];
    let several = kinds.iter().filter(|kind| subsets.iter().any(|(_, subset)| subset == *kind)).count() > 1;
    // a class may be called train or test, if others stand beside it and there is nothing to test
    if is_trained && several || !subsets.is_empty() && others.is_empty() {
        if !is_trained {
            let names = subsets.iter().map(|(path, _)| path.to_string_lossy()).collect::<Vec<_>>().join(", ");
            let why = format!("{names}, but no train; wanted is a directory train with the images to train on");
            return Err(Error::file(root, why));
        }
        subsets.sort_by_key(|(_, subset)| *subset as u8);
        for (directory, subset) in &subsets {
            add(root, directory, *subset, &mut found)?;
        }
        others.iter().chain(&files).for_each(|path| found.ignore(path, "neither train nor val nor test"));
        found.ignored.sort();
    } else {
        add(root, Path::new(""), Subset::Train, &mut found)?;
    }
    if found.count() == 0 {
        let why = format!("no images; wanted are files *.{} in a directory per class", EXTENSIONS.join(", *."));
        return Err(Error::file(root, why));
    }
    // as ImageFolder does
    found.sort_classes(str::to_owned);
    Ok(found)
}

/// What lies in `directory` below the root.
fn add(root: &Path, directory: &Path, subset: Subset, found: &mut Found) -> Result<()> {
    let top = root.join(directory);
    if top.join(ANNOTATIONS).is_file() {
        return add_annotated(root, directory, subset, found);
    }
    // the class that the walk is in, until it has an image
    let mut pending = None;
    for listed in list(&top, usize::MAX) {
        let listed = listed?;
        let path = directory.join(&listed.path);
        match (listed.depth, listed.kind) {
            (1, Kind::Directory) => found.empty.extend(pending.replace(path.to_string_lossy().into_owned())),
            (1, _) => found.ignore(&path, "not in the directory of a class"),
            (_, Kind::Directory) => {}
            (_, Kind::Other(why)) => found.ignore(&path, why),
            (_, Kind::Image) => {
                pending = None;
                let class = listed.path.iter().next().unwrap_or_default();
                // replaced characters could make two classes one
                let class = class.to_str().ok_or_else(|| {
                    Error::file(&top.join(class), "the name of this class is not UTF-8; rename its directory")
                })?;
                found.add(&path, class, subset);
            }
        }
    }
    found.empty.extend(pending);
    Ok(())
}

fn add_annotated(root: &Path, directory: &Path, subset: Subset, found: &mut Found) -> Result<()> {
    let file = root.join(directory).join(ANNOTATIONS);
    let text = fs::read_to_string(&file).map_err(|why| Error::file(&file, why))?;
    for (number, line) in text.lines().enumerate() {
        let mut columns = line.split('\t');
        let (Some(image), Some(class)) = (columns.next(), columns.next()) else {
            let why = format!("line {}: a file and its class, with a tab between", number + 1);
            return Err(Error::file(&file, why));
        };
        found.add(&directory.join("images").join(image), class, subset);
    }
    Ok(())
}
