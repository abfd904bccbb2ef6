//! Files that are whole under their names, or not there: every result is written as `<name>.tmp` and renamed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Has `fill` make a temporary file beside `path`; when it has succeeded, the file is on disk and gets its name. On any
/// error the temporary file is removed, and `path` is what it was before.
pub fn write<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    write_unsynced::<E>(path, |temporary| {
        fill(temporary)?;
        Ok(File::open(temporary)?.sync_all()?)
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(File::open(directory)?.sync_all()?)
}

/// The same for a file of these bytes.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, |temporary| fs::write(temporary, bytes)).map_err(|why| cannot_write(path, why))
}

/// For files that come by the million: syncing each takes five times as long as all the rest (2.2 ms instead of 0.4 on a
/// local disk). Whole after a kill or on a full disk, but not after a power failure.
pub fn write_bytes_unsynced(path: &Path, bytes: &[u8]) -> Result<()> {
    write_unsynced(path, |temporary| fs::write(temporary, bytes)).map_err(|why| cannot_write(path, why))
}

/// As `write`, but not synced: whole after a kill or on a full disk, not after a power failure.
pub fn write_unsynced<E: From<io::Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let temporary = with_suffix(path, ".tmp");
    fill(&temporary).and_then(|()| Ok(fs::rename(&temporary, path)?)).inspect_err(|_| {
        // it may not exist, and the first error is the one to report
        let _ = fs::remove_file(&temporary);
    })
}

/// What to say of a file that can't be written.
pub fn cannot_write(path: &Path, why: io::Error) -> Error {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        Some(parent) if why.kind() == io::ErrorKind::NotFound => {
            Error::file(path, format!("there is no directory {}; make it first", parent.display()))
        }
        _ => Error::file(path, format!("can't be written: {why}")),
    }
}

/// For results that are never replaced; asked before the work that makes them.
pub fn refuse_existing(path: &Path) -> Result<()> {
    match path.exists() {
        true => Err(Error::file(path, "exists already; remove it or choose another name")),
        false => Ok(()),
    }
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(directory).unwrap().map(name).collect()
    }

    #[test]
    fn a_writer_that_fails_leaves_neither_its_file_nor_a_changed_target() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.csv");
        let fail = |temporary: &Path| {
            assert_eq!(temporary, directory.path().join("a.csv.tmp"));
            fs::write(temporary, "half")?;
            Err(io::Error::other("no more"))
        };
        assert_eq!(write(&path, fail).unwrap_err().to_string(), "no more");
        assert!(names(directory.path()).is_empty());

        write_bytes(&path, b"old").unwrap();
        assert!(write(&path, fail).is_err());
        assert!(write(&path, |_| Ok::<(), io::Error>(())).is_err(), "no file was made");
        assert_eq!(names(directory.path()), ["a.csv"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");

        write_bytes(&path, b"new").unwrap();
        write_bytes_unsynced(&directory.path().join("b"), b"").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(directory.path()).len(), 2, "no temporary file is left");
    }

    #[test]
    fn what_can_not_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no/such/a.csv");
        let parent = path.parent().unwrap().display();
        let expected = format!("{}: there is no directory {parent}; make it first", path.display());
        for write in [write_bytes, write_bytes_unsynced] {
            assert_eq!(write(&path, b"").unwrap_err().to_string(), expected);
        }
        // a target that a file can't replace
        let path = directory.path().join("taken");
        fs::create_dir(&path).unwrap();
        let error = write_bytes(&path, b"").unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: can't be written: ", path.display())), "{error}");
        assert_eq!(names(directory.path()), ["taken"]);
    }

    #[test]
    fn what_is_there_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.h5");
        refuse_existing(&path).unwrap();
        write_bytes(&path, b"").unwrap();
        let error = refuse_existing(&path).unwrap_err().to_string();
        assert!(error.ends_with("a.h5: exists already; remove it or choose another name"), "{error}");
    }
}
