//! Images that can't be used: how they are listed in a file and named in an error.

use std::fs;
use std::path::Path;

use crate::atomic_file;
use crate::error::{Error, Result};

/// Bad images that an error message names.
const NAMED: usize = 10;

/// The first of them with why, a line each, and how many more there are; `list` is a file with all.
pub fn named(skipped: &[(String, String)], list: Option<&Path>) -> String {
    let named: String = skipped.iter().take(NAMED).map(|(name, why)| format!("\n  {name}: {why}")).collect();
    let see = list.map_or(String::new(), |list| format!(", see {}", list.display()));
    match skipped.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named}\n  and {more} more{see}"),
    }
}

/// Writes what was left out, and why. No file if nothing was.
pub fn write_skipped(path: &Path, skipped: &[(String, String)]) -> Result<()> {
    if skipped.is_empty() {
        // an earlier call may have left one
        return if path.exists() { fs::remove_file(path).map_err(|why| Error::file(path, why)) } else { Ok(()) };
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = [["name", "why"]].into_iter().chain(skipped.iter().map(|(name, why)| [name.as_str(), why]));
    rows.into_iter().try_for_each(|row| writer.write_record(row)).map_err(|why| Error::file(path, why))?;
    atomic_file::write_bytes(path, &writer.into_inner().map_err(|why| Error::file(path, why))?)
}
