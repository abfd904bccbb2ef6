//! Image files below a directory, at any depth: what is embedded for other programs. Training data have a stricter form
//! (`prepare`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::decode;
use super::listing::{self, EXTENSIONS, Kind, Listed, list};
use crate::error::{Error, Result};

/// The images below a directory, in the order of their paths. An image's identity is the directory that holds it. Hidden
/// files and Thumbs.db are passed over; links are followed.
pub struct ImageTree {
    root: PathBuf,
    /// Below the root.
    images: Vec<PathBuf>,
    /// What is no image by its extension.
    others: Vec<(String, String)>,
}

impl ImageTree {
    /// Lists `root`; reads no image. What is no regular file, such as a named pipe, is never opened.
    ///
    /// Errors: not a directory, or one that can't be listed; no image at all.
    pub fn list(root: &Path) -> Result<ImageTree> {
        if fs::metadata(root).is_ok_and(|found| !found.is_dir()) {
            return Err(Error::file(root, "not a directory; give the directory that the image files are below"));
        }
        let (mut images, mut others) = (Vec::new(), Vec::new());
        for entry in list(root, usize::MAX) {
            let Listed { path, kind, .. } = entry?;
            match kind {
                Kind::Directory => {}
                Kind::Image => images.push(path),
                Kind::Other(why) => others.push((path.to_string_lossy().into_owned(), why.to_owned())),
            }
        }
        if images.is_empty() {
            return Err(Error::file(root, format!("no images; wanted are files *.{}", EXTENSIONS.join(", *."))));
        }
        Ok(ImageTree { root: root.to_owned(), images, others })
    }

    /// The images of several places, in their order: those below each directory, and files themselves, whatever their extension.
    /// Names are paths as they were given.
    ///
    /// Errors: those of `list`.
    pub fn of(places: &[PathBuf]) -> Result<ImageTree> {
        let mut all = ImageTree { root: PathBuf::new(), images: Vec::new(), others: Vec::new() };
        for place in places {
            match fs::metadata(place).is_ok_and(|found| found.is_dir()) {
                false => all.images.push(place.clone()),
                true => {
                    let ImageTree { root, images, others } = ImageTree::list(place)?;
                    all.images.extend(images.iter().map(|path| root.join(path)));
                    let below = |name: &str| root.join(name).to_string_lossy().into_owned();
                    all.others.extend(others.into_iter().map(|(name, why)| (below(&name), why)));
                }
            }
        }
        Ok(all)
    }

    /// Looks at every image with so many threads, without decoding it: the numbers of those that can't be used, and why.
    /// `done` hears of each.
    pub fn look(&self, threads: usize, done: &(dyn Fn() + Sync)) -> BTreeMap<usize, String> {
        let (next, paths) = (AtomicUsize::new(0), self.paths());
        let work = || {
            let mut bad = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(path) = paths.get(index) else { return bad };
                if let Err(why) = listing::read(path).and_then(|bytes| decode::looks_whole(&bytes)) {
                    bad.push((index, why));
                }
                done();
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no panic in a reader")).collect()
        })
    }

    /// Without the images of these numbers.
    pub fn leave_out(&mut self, bad: impl Fn(usize) -> bool) {
        let mut numbers = 0..;
        self.images.retain(|_| !numbers.next().is_some_and(&bad));
    }

    pub fn count(&self) -> usize {
        self.images.len()
    }

    /// Where the images are.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.images.iter().map(|path| self.root.join(path)).collect()
    }

    /// Paths of the images below the root.
    pub fn names(&self) -> Vec<String> {
        self.images.iter().map(|path| path.to_string_lossy().into_owned()).collect()
    }

    /// The number of each image's identity, and the identities' names: the directory below the root, `.` for the root.
    pub fn identities(&self) -> (Vec<u32>, Vec<String>) {
        let (mut numbers, mut names) = (BTreeMap::new(), Vec::new());
        let number = |path: &PathBuf| {
            let name = path.parent().map(|parent| parent.to_string_lossy().into_owned()).unwrap_or_default();
            let name = if name.is_empty() { ".".into() } else { name };
            *numbers.entry(name.clone()).or_insert_with(|| {
                names.push(name);
                names.len() as u32 - 1
            })
        };
        let labels = self.images.iter().map(number).collect();
        (labels, names)
    }

    /// (name, why) of what is no image.
    pub fn others(&self) -> &[(String, String)] {
        &self.others
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A PNM of one pixel.
    const IMAGE: &[u8] = b"P5 1 1 255\n7";

    fn tree_of(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, IMAGE).unwrap();
        }
        root
    }

    #[test]
    fn images_at_any_depth_are_found_and_their_directory_is_their_identity() {
        let root =
            tree_of(&["b/2.png", "b/10.JPG", "a/deep/x.Pgm", "a/y.jpeg", "top.ppm", "a/deep/z.pgm", "a/.h/1.pgm"]);
        let tree = ImageTree::list(root.path()).unwrap();
        assert_eq!(tree.names(), ["a/deep/x.Pgm", "a/deep/z.pgm", "a/y.jpeg", "b/10.JPG", "b/2.png", "top.ppm"]);
        let (labels, identities) = tree.identities();
        assert_eq!(
            (labels, identities),
            (vec![0, 0, 1, 2, 2, 3], ["a/deep", "a", "b", "."].map(String::from).to_vec())
        );
        assert!(tree.others().is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_listed_and_images_among_it_are_counted() {
        let root = tree_of(&["a/1.pgm", "a/2.gif", "a/notes.txt", "a/Thumbs.db", "a/3.pgm", "a/4.pgm"]);
        let below = |name: &str| root.path().join(name);
        fs::write(below("a/3.pgm"), "P5 9 9 255\n").unwrap();
        fs::write(below("a/2.gif"), "GIF89a").unwrap();
        symlink("nowhere", below("a/dead.jpg")).unwrap();
        symlink("nowhere", below("a/dead")).unwrap();
        symlink("4.pgm", below("a/link.pgm")).unwrap();
        symlink("..", below("a/loop")).unwrap();
        make_pipe(&below("a/pipe.jpg"));
        let mut tree = ImageTree::list(root.path()).unwrap();
        let (names, bad) = (tree.names(), tree.look(3, &|| ()));
        tree.leave_out(|number| bad.contains_key(&number));
        assert_eq!(tree.names(), ["a/1.pgm", "a/4.pgm", "a/link.pgm"]);
        let bad: Vec<(&str, &str)> = bad.iter().map(|(&number, why)| (&names[number][..], &why[..])).collect();
        let expected = [
            ("a/2.gif", "neither JPEG nor PNG nor PNM"),
            ("a/3.pgm", "truncated: 11 bytes for 81 of pixels"),
            ("a/dead.jpg", "can't be read: No such file or directory (os error 2)"),
            ("a/pipe.jpg", "neither a file nor a directory"),
        ];
        assert_eq!(bad, expected);
        let others: Vec<_> = tree.others().iter().map(|(name, _)| name).collect();
        assert_eq!(others, ["a/dead", "a/loop", "a/notes.txt"]);
    }

    fn make_pipe(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }

    #[test]
    fn no_directory_and_no_images_are_errors_that_say_what_is_wanted() {
        let root = tree_of(&["a/1.txt"]);
        let error = |path: &Path| ImageTree::list(path).err().unwrap().to_string();
        assert!(error(root.path()).contains("no images; wanted are files *.jpg, "));
        assert!(error(&root.path().join("a/1.txt")).ends_with("give the directory that the image files are below"));
        assert!(error(&root.path().join("b")).ends_with("b: can't be listed: No such file or directory (os error 2)"));
    }
}
