//! Images that are read when they are wanted: files of any size, or encoded images in memory.

use std::path::PathBuf;

use super::class_images::centre;
use super::resize;
use crate::data::{Images, decode};
use crate::error::{Error, Result};

/// JPEG, PNG and PNM images, brought to one size.
pub struct EncodedImages {
    pub images: Vec<Encoded>,
    /// Height and width.
    pub size: (usize, usize),
    pub fit: Fit,
}

/// How an image of another shape gets the wanted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Cut around the centre, as `prepare faces` does it.
    Cropped,
    /// Stretched or squeezed, as `Resized` and `Scaled` do it.
    Stretched,
    /// Turned upright, the shorter side brought to this length and the centre cut out, as `ClassImages` does it.
    Centred(usize),
}

pub enum Encoded {
    File(PathBuf),
    /// A name for messages, and the bytes.
    Bytes(String, Vec<u8>),
}

impl Images for EncodedImages {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn label(&self, _: usize) -> u32 {
        0 // nobody asks: these are embedded, not trained on
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        let decoded = |bytes: &[u8]| match self.fit {
            Fit::Centred(_) => decode::upright(bytes),
            Fit::Cropped | Fit::Stretched => decode::any(bytes),
        };
        let image = match &self.images[index] {
            Encoded::Bytes(name, bytes) => decoded(bytes).map_err(|why| Error::failed(format!("{name}: {why}"))),
            Encoded::File(path) => {
                let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
                decoded(&bytes).map_err(|why| Error::file(path, why))
            }
        }?;
        match self.fit {
            Fit::Cropped => pixels.copy_from_slice(super::fit(image, self.size).as_raw()),
            Fit::Stretched => resize(&image, self.size, pixels),
            Fit::Centred(shorter_side) => centre(image, self.size, shorter_side, pixels),
        }
        Ok(())
    }
}
