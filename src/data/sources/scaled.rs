//! Images brought to one smaller or larger size once, and kept in memory.

use image::RgbImage;

use super::resized::resize;
use crate::data::Images;
use crate::error::Result;

pub struct Scaled {
    size: (usize, usize),
    labels: Vec<u32>,
    /// [N, H, W, 3]
    pixels: Vec<u8>,
}

impl Scaled {
    /// All of `images` at `size`, height and width: bilinear with antialiasing. Error: a damaged image.
    pub fn new(images: &dyn Images, size: (usize, usize)) -> Result<Scaled> {
        let ((height, width), count) = (images.size(), images.count());
        let mut source = RgbImage::new(width as u32, height as u32);
        let mut pixels = vec![0; count * 3 * size.0 * size.1];
        for (index, target) in pixels.chunks_exact_mut(3 * size.0 * size.1).enumerate() {
            images.read(index, &mut source)?;
            resize(&source, size, target);
        }
        Ok(Scaled { size, labels: (0..count).map(|index| images.label(index)).collect(), pixels })
    }
}

impl Images for Scaled {
    fn count(&self) -> usize {
        self.labels.len()
    }

    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        pixels.copy_from_slice(&self.pixels[index * pixels.len()..][..pixels.len()]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image i has i in its upper half and i + 100 in its lower.
    struct Halves;

    impl Images for Halves {
        fn count(&self) -> usize {
            3
        }
        fn size(&self) -> (usize, usize) {
            (8, 4)
        }
        fn label(&self, index: usize) -> u32 {
            index as u32 + 7
        }
        fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
            let (upper, lower) = pixels.split_at_mut(3 * 4 * 4);
            upper.fill(index as u8);
            lower.fill(index as u8 + 100);
            Ok(())
        }
    }

    #[test]
    fn every_image_is_scaled_and_keeps_its_number_and_label() {
        let scaled = Scaled::new(&Halves, (2, 3)).unwrap();
        assert_eq!((scaled.count(), scaled.size()), (3, (2, 3)));
        assert_eq!([0, 1, 2].map(|index| scaled.label(index)), [7, 8, 9]);
        let mut pixels = [0; 18];
        scaled.read(2, &mut pixels).unwrap();
        // the antialiasing filter reaches two rows across the border: an eighth of the other half
        let (upper, lower) = pixels.split_at(9);
        assert!(upper.iter().all(|&pixel| pixel == upper[0] && (2..=20).contains(&pixel)), "{upper:?}");
        assert!(lower.iter().all(|&pixel| pixel == lower[0] && (84..=102).contains(&pixel)), "{lower:?}");
    }
}
