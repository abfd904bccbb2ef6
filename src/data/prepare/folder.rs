//! A directory with a directory of image files per identity.

use std::path::{Path, PathBuf};

use super::source::{ImageRead, Source, absolute, file_stamp, read_file};
use crate::data::listing::{EXTENSIONS, Kind, list};
use crate::error::{Error, Result};

/// A directory of identity directories with image files, in the order of their names. Hidden files and Thumbs.db are
/// passed over; symbolic links are followed.
pub struct Folder {
    root: PathBuf,
    /// Only those with images; numbered in the order of their names.
    identities: Vec<String>,
    /// Path below the root and identity number.
    images: Vec<(PathBuf, u32)>,
    ignored: Vec<(String, String)>,
    empty: Vec<String>,
}

impl Folder {
    /// Lists `root`; reads no image.
    ///
    /// Errors: a directory that can't be listed, no image at all.
    pub fn open(root: &Path) -> Result<Folder> {
        let mut folder = Folder {
            root: root.to_owned(),
            identities: Vec::new(),
            images: Vec::new(),
            ignored: Vec::new(),
            empty: Vec::new(),
        };
        // the directory that the walk is in, until it has an image
        let mut pending = None;
        for listed in list(root, 2) {
            let listed = listed?;
            let path = &listed.path;
            match (listed.depth, listed.kind) {
                (1, Kind::Directory) => {
                    folder.empty.extend(pending.replace(path.to_string_lossy().into_owned()));
                }
                (1, _) => folder.ignore(path, "not in an identity's directory"),
                (_, Kind::Directory) => folder.ignore(path, "a directory within an identity's"),
                (_, Kind::Other(why)) => folder.ignore(path, why),
                (_, Kind::Image) => {
                    folder.identities.extend(pending.take());
                    folder.images.push((path.to_owned(), folder.identities.len() as u32 - 1));
                }
            }
        }
        folder.empty.extend(pending);
        if folder.images.is_empty() {
            let why = format!("no images; wanted are files *.{} in a directory per identity", EXTENSIONS.join(", *."));
            return Err(Error::file(root, why));
        }
        Ok(folder)
    }

    fn ignore(&mut self, path: &Path, why: &str) {
        self.ignored.push((path.to_string_lossy().into_owned(), why.to_owned()));
    }
}

impl Source for Folder {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> String {
        self.images[index].0.to_string_lossy().into_owned()
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        let (path, identity) = &self.images[index];
        read_file(&self.root, path, *identity)
    }

    fn origin(&self) -> String {
        absolute(&self.root)
    }

    fn stamp(&self, index: usize) -> String {
        let (path, identity) = &self.images[index];
        format!("{} {identity}", file_stamp(&self.root.join(path)))
    }

    fn identity(&self, number: u32) -> String {
        self.identities[number as usize].clone()
    }

    fn has_identity(&self, name: &str) -> bool {
        // both in the order of their names
        let named = |names: &[String]| names.binary_search_by(|known| known.as_str().cmp(name)).is_ok();
        named(&self.identities) || named(&self.empty)
    }

    fn ignored(&self) -> &[(String, String)] {
        &self.ignored
    }

    fn empty_identities(&self) -> &[String] {
        &self.empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prepare::tests::tree_of;

    fn folder_of(files: &[&str]) -> (tempfile::TempDir, Result<Folder>) {
        let root = tree_of(files);
        let folder = Folder::open(root.path());
        (root, folder)
    }

    #[test]
    fn images_are_sorted_by_identity_and_name() {
        let (_root, folder) = folder_of(&["b/2.png", "b/10.JPG", "a/x.Pgm", "c/y.jpeg", "c/a b,c.ppm"]);
        let folder = folder.unwrap();
        let names: Vec<_> = (0..folder.count()).map(|index| folder.name(index)).collect();
        assert_eq!(names, ["a/x.Pgm", "b/10.JPG", "b/2.png", "c/a b,c.ppm", "c/y.jpeg"]);
        let numbers: Vec<_> = (0..5).map(|index| folder.read(index).unwrap().identity.unwrap()).collect();
        assert_eq!(numbers, [0, 1, 1, 2, 2]);
        assert_eq!((0..3).map(|number| folder.identity(number)).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(folder.read(3).unwrap().bytes.unwrap(), &b"c/a b,c.ppm"[..]);
    }

    #[test]
    fn what_is_no_image_is_listed_or_passed_over() {
        let (_root, folder) = folder_of(&[
            "a/1.jpg",
            "a/Thumbs.db",
            "a/.hidden.jpg",
            ".git/1.jpg",
            "a/notes.txt",
            "a/deep/1.jpg",
            "list.csv",
            "b/",
            "c/x.gif",
            "d/1.png",
            "e/",
        ]);
        let folder = folder.unwrap();
        // an image of a kind that is not read counts as one that can't be
        assert_eq!(folder.count(), 3);
        assert_eq!(folder.empty_identities(), ["b", "e"]);
        let ignored: Vec<_> = folder.ignored().iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(
            ignored,
            [
                ("a/deep", "a directory within an identity's"),
                ("a/notes.txt", "not an image by its extension"),
                ("list.csv", "not in an identity's directory"),
            ]
        );
        assert_eq!((folder.identity(0), folder.identity(2)), ("a".into(), "d".into()));
    }

    #[test]
    fn a_folder_without_images_is_an_error() {
        let (root, folder) = folder_of(&["a/1.txt", "2.jpg"]);
        assert!(folder.err().unwrap().to_string().contains("no images; wanted are files *.jpg, *.jpeg"));
        let missing = Folder::open(&root.path().join("missing")).err().unwrap().to_string();
        assert!(missing.ends_with("missing: can't be listed: No such file or directory (os error 2)"), "{missing}");
    }
}
