//! A part of an image source with its labels: training, validation or test.

use std::sync::Arc;

use super::Images;
use crate::error::Result;

#[derive(Clone)]
pub struct Dataset {
    pub images: Arc<dyn Images>,
    /// Numbers of this part's images in `images`.
    pub indices: Vec<u32>,
    /// One label per entry of `indices`; may differ from the source's (label noise).
    pub labels: Vec<u32>,
}

impl Dataset {
    /// Every image of the source.
    pub fn whole(images: Arc<dyn Images>) -> Dataset {
        let indices: Vec<u32> = (0..images.count() as u32).collect();
        Dataset::part(images, indices)
    }

    /// Some of the source's images, with its labels.
    pub fn part(images: Arc<dyn Images>, indices: Vec<u32>) -> Dataset {
        let labels = indices.iter().map(|&index| images.label(index as usize)).collect();
        Dataset { images, indices, labels }
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

impl Images for Dataset {
    fn count(&self) -> usize {
        self.len()
    }

    fn size(&self) -> (usize, usize) {
        self.images.size()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        self.images.read(self.indices[index] as usize, pixels)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Images without content: image i has the i-th label.
    pub struct Labels(pub Vec<u32>);

    impl Images for Labels {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn size(&self) -> (usize, usize) {
            (1, 1)
        }
        fn label(&self, index: usize) -> u32 {
            self.0[index]
        }
        fn read(&self, _: usize, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    /// Image i is filled with byte i and has label i % classes.
    pub struct Numbers {
        pub count: usize,
        pub classes: usize,
    }

    impl Images for Numbers {
        fn count(&self) -> usize {
            self.count
        }
        fn size(&self) -> (usize, usize) {
            (4, 4)
        }
        fn label(&self, index: usize) -> u32 {
            (index % self.classes) as u32
        }
        fn read(&self, index: usize, pixels: &mut [u8]) -> crate::error::Result<()> {
            pixels.fill(index as u8);
            Ok(())
        }
    }

    /// Images whose bytes all differ: of image i, byte j is i + 7 j.
    pub struct Numbered;

    impl Numbered {
        pub const SIZE: (usize, usize) = (6, 5);
    }

    impl Images for Numbered {
        fn count(&self) -> usize {
            100
        }
        fn size(&self) -> (usize, usize) {
            Numbered::SIZE
        }
        fn label(&self, _: usize) -> u32 {
            0
        }
        fn read(&self, index: usize, pixels: &mut [u8]) -> crate::error::Result<()> {
            pixels.iter_mut().enumerate().for_each(|(j, byte)| *byte = (index + 7 * j) as u8);
            Ok(())
        }
    }

    pub fn numbers(count: usize, classes: usize) -> Arc<dyn Images> {
        Arc::new(Numbers { count, classes })
    }
}
