//! Glyphs as a directory of image files: an identity is a class.

use image::RgbImage;

use super::market_tree::MarketTree;
use crate::cli::{PrepareGlyphsArguments, TreeLayout};
use crate::data::{Glyphs, decode};
use crate::error::{Error, Result};
use crate::terminal;

pub fn run(arguments: &PrepareGlyphsArguments) -> Result<()> {
    if arguments.out.exists() {
        return Err(Error::file(&arguments.out, "exists already"));
    }
    match arguments.layout {
        TreeLayout::Faces => face_tree(arguments),
        TreeLayout::Market => MarketTree {
            identities: arguments.identities as usize,
            images: arguments.images as usize,
            size: arguments.size.unwrap_or((128, 64)),
            difficulty: arguments.difficulty,
            seed: arguments.seed,
        }
        .write(&arguments.out),
    }
}

/// Faces: DIR/0000000/000.jpg ...: an identity is a class of glyphs, centred in images that need not be square.
fn face_tree(arguments: &PrepareGlyphsArguments) -> Result<()> {
    let (height, width) = arguments.size.unwrap_or((112, 96));
    let side = height.max(width);
    let (top, left) = ((side - height) / 2, (side - width) / 2);
    let glyphs = Glyphs::new(arguments.seed, arguments.identities as usize, side, arguments.difficulty);
    let bar = terminal::bar(arguments.identities as u64, 0);
    bar.set_message("identities");
    let mut square = vec![0; 3 * side * side];
    for identity in 0..arguments.identities {
        let directory = arguments.out.join(format!("{identity:07}"));
        std::fs::create_dir_all(&directory).map_err(|why| Error::file(&directory, why))?;
        for number in 0..arguments.images {
            let id = identity as u64 * arguments.images as u64 + number as u64;
            glyphs.draw(identity as usize, id, &mut square);
            let rows = square.chunks_exact(3 * side).skip(top).take(height);
            let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
            let path = directory.join(format!("{number:03}.jpg"));
            let jpeg = decode::to_jpeg(
                &RgbImage::from_raw(width as u32, height as u32, pixels).expect("as many pixels as it has"),
            )
            .map_err(|why| Error::file(&path, why))?;
            std::fs::write(&path, jpeg).map_err(|why| Error::file(&path, why))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}
