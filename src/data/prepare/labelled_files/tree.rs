//! A directory per class, as torchvision's ImageFolder has it, in one tree or in one for each subset.

use std::fs;
use std::path::Path;

use super::Found;
use crate::data::listing::{EXTENSIONS, Kind, list};
use crate::data::packed::Subset;
use crate::error::{Error, Result};

/// Names of the subsets' directories.
const SUBSETS: [(&str, Subset); 5] = [
    ("train", Subset::Train),
    ("val", Subset::Validation),
    ("valid", Subset::Validation),
    ("validation", Subset::Validation),
    ("test", Subset::Test),
];
/// Of Tiny-ImageNet, in `val`: image, class, box.
const ANNOTATIONS: &str = "val_annotations.txt";

/// Errors: what can't be listed; no image at all.
pub fn find(root: &Path) -> Result<Found> {
    let there: Vec<_> = SUBSETS.iter().filter(|(name, _)| root.join(name).is_dir()).collect();
    let mut found = Found::default();
    match there[..] {
        [("train", _), _, ..] => {
            for &&(name, subset) in &there {
                add(root, name, subset, &mut found)?;
            }
            for listed in list(root, 1) {
                let path = listed?.path;
                if there.iter().all(|(name, _)| path != Path::new(name)) {
                    found.ignored.push((path.to_string_lossy().into(), "neither train nor val nor test".into()));
                }
            }
        }
        _ => add(root, "", Subset::Train, &mut found)?,
    }
    if found.images.is_empty() {
        let why = format!("no images; wanted are files *.{} in a directory per class", EXTENSIONS.join(", *."));
        return Err(Error::file(root, why));
    }
    Ok(found)
}

/// What lies in `directory` below the root.
fn add(root: &Path, directory: &str, subset: Subset, found: &mut Found) -> Result<()> {
    let top = root.join(directory);
    if top.join(ANNOTATIONS).is_file() {
        return add_annotated(root, directory, subset, found);
    }
    // the class that the walk is in, until it has an image
    let mut pending = None;
    for listed in list(&top, usize::MAX) {
        let listed = listed?;
        let path = Path::new(directory).join(&listed.path);
        let name = path.to_string_lossy().into_owned();
        let class = listed.path.iter().next().map(|first| first.to_string_lossy().into_owned()).unwrap_or_default();
        match (listed.depth, listed.kind) {
            (1, Kind::Directory) => found.empty.extend(pending.replace(name)),
            (1, _) => found.ignored.push((name, "not in the directory of a class".into())),
            (_, Kind::Directory) => {}
            (_, Kind::Other(why)) => found.ignored.push((name, why.into())),
            (_, Kind::Image) => {
                pending = None;
                found.images.push((path, class, subset));
            }
        }
    }
    found.empty.extend(pending);
    Ok(())
}

fn add_annotated(root: &Path, directory: &str, subset: Subset, found: &mut Found) -> Result<()> {
    let file = root.join(directory).join(ANNOTATIONS);
    let text = fs::read_to_string(&file).map_err(|why| Error::file(&file, why))?;
    for (number, line) in text.lines().enumerate() {
        let mut columns = line.split('\t');
        let (Some(image), Some(class)) = (columns.next(), columns.next()) else {
            let why = format!("line {}: a file and its class, with a tab between", number + 1);
            return Err(Error::file(&file, why));
        };
        found.images.push((Path::new(directory).join("images").join(image), class.into(), subset));
    }
    Ok(())
}
