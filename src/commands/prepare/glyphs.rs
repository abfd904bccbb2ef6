//! Glyphs as a directory of image files: an identity is a class.

use crate::cli::{PrepareGlyphsArguments, TreeLayout};
use crate::data::{FaceTree, MarketTree};
use crate::error::{Error, Result};
use crate::terminal;

pub fn run(arguments: &PrepareGlyphsArguments) -> Result<()> {
    let PrepareGlyphsArguments { difficulty, seed, ref out, .. } = *arguments;
    let (identities, images) = (arguments.identities as usize, arguments.images as usize);
    if out.exists() {
        return Err(Error::file(out, "exists already"));
    }
    let bar = terminal::bar(identities as u64, 0);
    bar.set_message("identities");
    let progress = &mut |done| bar.set_position(done as u64);
    match arguments.layout {
        TreeLayout::Faces => {
            let size = arguments.size.unwrap_or((112, 96));
            FaceTree { identities, images, size, difficulty, seed }.write(out, progress)?
        }
        TreeLayout::Market => {
            let size = arguments.size.unwrap_or((128, 64));
            MarketTree { identities, images, size, difficulty, seed }.write(out, progress)?
        }
    }
    bar.finish_and_clear();
    Ok(())
}
