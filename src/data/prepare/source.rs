//! What `prepare` packs: encoded images with identities.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::data::listing;
use crate::data::packed::{Split, Subset};
use crate::error::{Error, Result};

/// Encoded images with identities, addressed by number. Shared by the worker threads.
pub trait Source: Sync {
    fn count(&self) -> usize;

    /// For messages and the column `name`: path below the root or record key.
    fn name(&self, index: usize) -> String;

    /// Errors: end the whole work, to be continued; an image that is at fault itself is an [`ImageRead`] without bytes.
    fn read(&self, index: usize) -> Result<ImageRead<'_>>;

    /// What can be said of image `index` before the long work, without decoding it: its identity number if that is known, and
    /// why the image can't be used if it can't.
    fn look(&self, _index: usize) -> (Option<u32>, Option<String>) {
        (None, None)
    }

    /// Where the images are, for the comparison with an earlier call: one line.
    fn origin(&self) -> String;

    /// What an image is known by again, beside its name, without reading it: its file's size and time, and its identity
    /// number. Empty where `origin` says enough.
    fn stamp(&self, _index: usize) -> String {
        String::new()
    }

    /// The identity's name: what `Options::exclude` lists and the column `identity` says.
    fn identity(&self, number: u32) -> String;

    /// What messages call the identities.
    fn identities(&self) -> &'static str {
        "identities"
    }

    /// Whether an identity may have this name; the images may still not have it.
    fn has_identity(&self, name: &str) -> bool;

    /// Camera and split of image `index`; of people only, then of every image.
    fn camera_and_split(&self, _index: usize) -> Option<(u32, Split)> {
        None
    }

    /// Subset of image `index`; of classification data only, then of every image.
    fn subset(&self, _index: usize) -> Option<Subset> {
        None
    }

    /// What lies in the source but is no image of an identity: (name, why).
    fn ignored(&self) -> &[(String, String)] {
        &[]
    }

    /// Names of identities that have no images at all.
    fn empty_identities(&self) -> &[String] {
        &[]
    }
}

/// What was found where an image should be.
pub struct ImageRead<'a> {
    /// Identity number; `None`: a bad record does not tell.
    pub identity: Option<u32>,
    /// JPEG, PNG or PNM, damaged or not; or why there is none.
    pub bytes: std::result::Result<Cow<'a, [u8]>, String>,
}

/// An image file below `root`.
///
/// Errors: `root` is not there any more, so that no other file can be read either.
pub fn read_file(root: &Path, path: &Path, identity: u32) -> Result<ImageRead<'static>> {
    let bytes = listing::read(&root.join(path));
    if let Err(why) = &bytes
        && !root.is_dir()
    {
        return Err(Error::file(&root.join(path), why));
    }
    Ok(ImageRead { identity: Some(identity), bytes: bytes.map(Cow::Owned) })
}

/// A file's size in bytes and when it was last changed, in ns since 1970: the time (ctime) that no program can set back,
/// as archives and copies do with the other one. Links are followed.
pub fn file_stamp(path: &Path) -> String {
    match fs::metadata(path) {
        Ok(file) => format!("{} {}.{:09}", file.len(), file.ctime(), file.ctime_nsec()),
        Err(_) => "missing".into(),
    }
}

/// A path as an absolute one, quoted: a line whatever it is.
pub fn absolute(path: &Path) -> String {
    format!("{:?}", fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
}
