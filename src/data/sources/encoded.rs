//! Images that are read when they are wanted: files of any size, or encoded images in memory.

use std::path::PathBuf;

use crate::data::{Images, decode};
use crate::error::{Error, Result};

/// JPEG, PNG and PNM images, brought to one size as `prepare` does it.
pub struct EncodedImages {
    pub images: Vec<Encoded>,
    /// Height and width.
    pub size: (usize, usize),
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
        let decode = |bytes: &[u8]| decode::any(bytes).map(|image| decode::fit(image, self.size));
        let image = match &self.images[index] {
            Encoded::Bytes(name, bytes) => decode(bytes).map_err(|why| Error::failed(format!("{name}: {why}"))),
            Encoded::File(path) => {
                let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
                decode(&bytes).map_err(|why| Error::file(path, why))
            }
        }?;
        pixels.copy_from_slice(image.as_raw());
        Ok(())
    }
}
