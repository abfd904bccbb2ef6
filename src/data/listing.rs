//! What lies in a directory of images. Nothing but regular files is ever opened, so that a named pipe can't block.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use crate::error::{Error, Result};

pub const EXTENSIONS: [&str; 6] = ["jpg", "jpeg", "png", "pgm", "ppm", "pnm"];

/// Endings of images that are not read: files that have one are images that can't be decoded.
const UNREAD: [&str; 13] =
    ["bmp", "gif", "tif", "tiff", "webp", "jfif", "jpe", "jp2", "avif", "heic", "heif", "pbm", "tga"];

pub struct Listed {
    /// Below the root.
    pub path: PathBuf,
    /// 1 in the root itself.
    pub depth: usize,
    pub kind: Kind,
}

pub enum Kind {
    Directory,
    /// What has an image's extension; whoever reads it finds out whether it is one, or a dead link, or a pipe.
    Image,
    /// Why it is neither.
    Other(&'static str),
}

/// All down to `depth`, in the order of their names. Hidden files and Thumbs.db are passed over, symbolic links are
/// followed.
///
/// Errors: a directory that can't be listed.
pub fn list(root: &Path, depth: usize) -> impl Iterator<Item = Result<Listed>> {
    let walk = WalkDir::new(root).min_depth(1).max_depth(depth).follow_links(true).sort_by_file_name();
    let visible = |entry: &DirEntry| entry.depth() == 0 || !is_hidden(entry.file_name());
    walk.into_iter().filter_entry(visible).filter_map(move |entry| match entry {
        Ok(entry) => {
            let kind = match entry.file_type() {
                kind if kind.is_dir() => Kind::Directory,
                _ if is_image(entry.path()) => Kind::Image,
                kind if !kind.is_file() => Kind::Other("neither a file nor a directory"),
                _ => Kind::Other("not an image by its extension"),
            };
            Some(Ok(listed(root, entry.path(), entry.depth(), kind)))
        }
        Err(error) => broken_link(root, error),
    })
}

fn listed(root: &Path, path: &Path, depth: usize, kind: Kind) -> Listed {
    Listed { path: path.strip_prefix(root).unwrap_or(path).to_owned(), depth, kind }
}

/// One link that leads nowhere is one file that can't be used.
fn broken_link(root: &Path, error: walkdir::Error) -> Option<Result<Listed>> {
    let path = error.path().unwrap_or(root);
    if error.depth() > 0 && path.is_symlink() {
        let kind = match error.loop_ancestor() {
            Some(_) => Kind::Other("a link to a directory that it lies in"),
            None if is_image(path) => Kind::Image,
            None => Kind::Other("a dead link"),
        };
        let hidden = path.file_name().is_some_and(is_hidden);
        return (!hidden).then(|| Ok(listed(root, path, error.depth(), kind)));
    }
    let why = error.io_error().map_or_else(|| error.to_string(), |why| why.to_string());
    Some(Err(Error::file(path, format!("can't be listed: {why}"))))
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with('.') || name.eq_ignore_ascii_case("Thumbs.db")
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    let known = |known: &&str| extension.is_some_and(|extension| known.eq_ignore_ascii_case(extension));
    EXTENSIONS.iter().chain(&UNREAD).any(known)
}

/// The bytes of a listed file. Error, in words: not there, not a file, can't be read.
pub fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    look(path).and_then(|()| fs::read(path).map_err(|why| format!("can't be read: {why}")))
}

/// Whether something is a file, without reading it. Error, in words: not there, not a file.
pub fn look(path: &Path) -> std::result::Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err("a directory, not an image".into()),
        Ok(found) if !found.is_file() => Err("neither a file nor a directory".into()),
        found => found.map(|_| ()).map_err(|why| format!("can't be read: {why}")),
    }
}
