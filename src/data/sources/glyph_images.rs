//! Glyphs as a source of images: drawn each time they are read, so any number of them takes no memory.

use super::Glyphs;
use crate::config;
use crate::data::Images;
use crate::error::Result;

/// Test images are numbered from here on, far from the training images.
const FIRST_TEST_IMAGE: u64 = 1 << 40;

pub struct GlyphImages {
    glyphs: Glyphs,
    first: u64,
    count: usize,
}

impl GlyphImages {
    /// (training, test).
    pub fn open(config: &config::Glyphs, seed: u64) -> (GlyphImages, GlyphImages) {
        let part = |first, count| {
            let glyphs = Glyphs::new(seed, config.classes, config.image_size, config.difficulty);
            GlyphImages { glyphs, first, count }
        };
        (part(0, config.train_images), part(FIRST_TEST_IMAGE, config.test_images))
    }
}

impl Images for GlyphImages {
    fn count(&self) -> usize {
        self.count
    }

    fn size(&self) -> (usize, usize) {
        (self.glyphs.size(), self.glyphs.size())
    }

    /// Classes in turn.
    fn label(&self, index: usize) -> u32 {
        (index % self.glyphs.classes()) as u32
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        self.glyphs.draw(self.label(index) as usize, self.first + index as u64, pixels);
        Ok(())
    }
}
