//! Files that may turn out to be broken while a network looks at them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::data::{EncodedImages, Images};
use crate::error::Result;

/// Images of which those that can't be read are black, and noted.
pub struct Tolerant {
    images: EncodedImages,
    broken: Mutex<BTreeMap<usize, String>>,
}

impl Tolerant {
    pub fn new(images: EncodedImages) -> Tolerant {
        Tolerant { images, broken: Mutex::default() }
    }

    /// Numbers of those found broken since the last call, and why.
    pub fn broken(&self) -> BTreeMap<usize, String> {
        std::mem::take(&mut self.broken.lock().expect("no reader panics"))
    }
}

impl Images for Tolerant {
    fn count(&self) -> usize {
        self.images.count()
    }

    fn size(&self) -> (usize, usize) {
        self.images.size()
    }

    fn label(&self, index: usize) -> u32 {
        self.images.label(index)
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        if let Err(why) = self.images.read(index, pixels) {
            pixels.fill(0);
            self.broken.lock().expect("no reader panics").insert(index, why.to_string());
        }
        Ok(())
    }
}
