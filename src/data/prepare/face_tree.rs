//! Glyphs in the form of a face data set: DIR/0000000/000.jpg ...: an identity is a class of glyphs.

use std::fs;
use std::path::Path;

use image::RgbImage;

use crate::data::Glyphs;
use crate::data::jpeg_encoder::to_jpeg;
use crate::error::{Error, Result};

pub struct FaceTree {
    pub identities: usize,
    /// Images of each identity.
    pub images: usize,
    /// Height and width; glyphs are centred in images that need not be square.
    pub size: (usize, usize),
    /// 0 (clean) to 1 (hardly readable).
    pub difficulty: f64,
    pub seed: u64,
}

impl FaceTree {
    /// Writes the tree below `out`; `progress` hears how many identities are done. Errors: a file that can't be written.
    pub fn write(&self, out: &Path, progress: &mut dyn FnMut(usize)) -> Result<()> {
        let (height, width) = self.size;
        let side = height.max(width);
        let (top, left) = ((side - height) / 2, (side - width) / 2);
        let glyphs = Glyphs::new(self.seed, self.identities, side, self.difficulty);
        let mut square = vec![0; 3 * side * side];
        for identity in 0..self.identities {
            let directory = out.join(format!("{identity:07}"));
            fs::create_dir_all(&directory).map_err(|why| Error::file(&directory, why))?;
            for number in 0..self.images {
                glyphs.draw(identity, (identity * self.images + number) as u64, &mut square);
                let rows = square.chunks_exact(3 * side).skip(top).take(height);
                let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
                let path = directory.join(format!("{number:03}.jpg"));
                let image = RgbImage::from_raw(width as u32, height as u32, pixels);
                write_jpeg(&path, &image.expect("as many pixels as it has"))?;
            }
            progress(identity + 1);
        }
        Ok(())
    }
}

/// An image of a generated tree.
pub(super) fn write_jpeg(path: &Path, image: &RgbImage) -> Result<()> {
    let jpeg = to_jpeg(image).map_err(|why| Error::file(path, why))?;
    fs::write(path, jpeg).map_err(|why| Error::file(path, why))
}
