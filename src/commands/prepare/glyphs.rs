//! Glyphs as a directory of image files: an identity is a class.

use std::fs;

use crate::atomic_file;
use crate::cli::{PrepareGlyphsArguments, TreeLayout};
use crate::data::{FaceTree, MarketTree};
use crate::error::{Error, Result};
use crate::run_lock::RunLock;
use crate::terminal;

pub fn run(arguments: &PrepareGlyphsArguments) -> Result<()> {
    let PrepareGlyphsArguments { difficulty, seed, ref out, .. } = *arguments;
    let (identities, images) = (arguments.identities as usize, arguments.images as usize);
    if let Some(above) = out.parent() {
        fs::create_dir_all(above).map_err(|why| Error::file(above, format!("can't be created: {why}")))?;
    }
    let lock = RunLock::take_output(out)?;
    atomic_file::refuse_existing(out)?;
    // half a tree must not look like a whole one; what a killed call left is made anew
    let part = &atomic_file::with_suffix(out, ".part");
    if part.exists() {
        fs::remove_dir_all(part).map_err(|why| Error::file(part, format!("can't be removed: {why}")))?;
    }
    let bar = terminal::bar(identities as u64, 0);
    bar.set_message("identities");
    let progress = &mut |done| bar.set_position(done as u64);
    match arguments.layout {
        TreeLayout::Faces => {
            let size = arguments.size.unwrap_or((112, 96));
            FaceTree { identities, images, size, difficulty, seed }.write(part, progress)?
        }
        TreeLayout::Market => {
            let size = arguments.size.unwrap_or((128, 64));
            MarketTree { identities, images, size, difficulty, seed }.write(part, progress)?
        }
    }
    bar.finish_and_clear();
    lock.check()?;
    fs::rename(part, out).map_err(|why| Error::file(out, format!("can't be written: {why}")))
}
