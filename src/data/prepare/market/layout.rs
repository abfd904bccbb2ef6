//! Where a benchmark's images are: in a directory for each split, or in lists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::data::Split;
use crate::error::{Error, Result};

/// How a benchmark's tree is made. Its parts are for training images, queries, gallery.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Layout {
    /// Directories of images whose names say person and camera: Market-1501, DukeMTMC-reID, CUHK03-NP; VeRi-776.
    Directories([&'static str; 3]),
    /// Lists of images in directories of people: MSMT17.
    Lists([&'static str; 3]),
}

pub const MARKET: Layout = Layout::Directories(["bounding_box_train", "query", "bounding_box_test"]);
pub const VERI: Layout = Layout::Directories(["image_train", "image_query", "image_test"]);
pub const MSMT17: Layout = Layout::Lists(["list_train.txt", "list_query.txt", "list_gallery.txt"]);
const LAYOUTS: [Layout; 3] = [MARKET, VERI, MSMT17];

pub const SPLITS: [Split; 3] = [Split::Train, Split::Query, Split::Gallery];

impl Layout {
    fn parts(&self) -> [&'static str; 3] {
        let (Layout::Directories(parts) | Layout::Lists(parts)) = *self;
        parts
    }

    fn has(&self, root: &Path, part: &str) -> bool {
        let path = root.join(part);
        if matches!(self, Layout::Lists(_)) { path.is_file() } else { path.is_dir() }
    }

    /// The first part that is not there.
    fn missing(&self, root: &Path) -> Option<&'static str> {
        self.parts().into_iter().find(|part| !self.has(root, part))
    }

    fn begun(&self, root: &Path) -> bool {
        self.parts().iter().any(|part| self.has(root, part))
    }
}

/// The data set in `source` or in the one directory of it that has one.
pub fn find(source: &Path) -> Result<(PathBuf, Layout)> {
    // any tree may have a directory called query: the layout of which there is most
    let layout = |root: &Path| {
        let begun = LAYOUTS.into_iter().filter(|layout| layout.begun(root));
        begun.max_by_key(|layout| layout.parts().iter().filter(|part| layout.has(root, part)).count())
    };
    let mut roots = vec![source.to_owned()];
    if layout(source).is_none() {
        let listed = fs::read_dir(source)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>());
        roots = listed.map_err(|why| Error::file(source, format!("can't be listed: {why}")))?;
        roots.retain(|root| layout(root).is_some());
        roots.sort();
    }
    let one_of = "wanted are bounding_box_train, query and bounding_box_test";
    match &roots[..] {
        [root] => {
            let layout = layout(root).unwrap_or(MARKET);
            let [train, query, gallery] = layout.parts();
            match layout.missing(root) {
                None => Ok((root.clone(), layout)),
                Some(name) => {
                    let kind = if matches!(layout, Layout::Lists(_)) { "list" } else { "directory" };
                    Err(Error::file(root, format!("no {kind} {name}; wanted are {train}, {query} and {gallery}")))
                }
            }
        }
        [] => {
            let others = "or VeRi-776's image_train, image_query and image_test, or MSMT17's list_train.txt and so on";
            Err(Error::file(source, format!("no data set here or one directory below; {one_of}, {others}")))
        }
        [first, second, ..] => {
            let why = format!("several data sets: {}, {} ...; choose one", first.display(), second.display());
            Err(Error::file(source, why))
        }
    }
}
