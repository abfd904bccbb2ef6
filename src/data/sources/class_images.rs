//! Packed images of classes, of any size and shape.

use std::path::Path;
use std::sync::Arc;

use image::RgbImage;
use image::imageops::crop_imm;

use super::{resize, resize_part, shorter_side};
use crate::data::{Images, Packed, Rectangle, Subset, decode};
use crate::error::{Error, Result};

/// Images as a network sees them when nothing is drawn: the shorter side is brought to `shorter_side`, then the centre is
/// cut out (torchvision's Resize and CenterCrop). `read_part` sees the whole image.
#[derive(Clone)]
pub struct ClassImages {
    pub packed: Arc<Packed>,
    /// Height and width that come out.
    size: (usize, usize),
    shorter_side: usize,
}

impl ClassImages {
    /// Opens what `amlfs prepare images` has written. `shorter_side` is at least the sides of `size`.
    ///
    /// Errors (with the path): `Packed::open`'s; no classification data.
    pub fn open(path: &Path, size: (usize, usize), shorter_side: usize) -> Result<ClassImages> {
        Packed::refuse_directory(path, "images")?;
        let packed = Packed::open(path)?;
        if packed.subsets().is_none() {
            return Err(Error::file(path, "not written by amlfs prepare images: its images have no subsets"));
        }
        Ok(ClassImages { packed: Arc::new(packed), size, shorter_side })
    }

    /// Numbers of the images of a subset.
    pub fn of(&self, wanted: Subset) -> Vec<u32> {
        let subsets = self.packed.subsets().expect("checked when it was opened");
        (0..).zip(subsets).filter(|&(_, subset)| *subset == wanted).map(|(index, _)| index).collect()
    }

    fn image(&self, index: usize) -> Result<RgbImage> {
        let stored = self.packed.stored(index)?;
        match self.packed.size() {
            (0, 0) => decode::upright(stored).map_err(|why| self.packed.image_error(index, &why)),
            _ => self.packed.image(index),
        }
    }
}

impl Images for ClassImages {
    fn count(&self) -> usize {
        self.packed.count()
    }

    fn size(&self) -> (usize, usize) {
        self.size
    }

    fn label(&self, index: usize) -> u32 {
        self.packed.label(index)
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        centre(self.image(index)?, self.size, self.shorter_side, pixels);
        Ok(())
    }

    fn read_part(
        &self,
        index: usize,
        size: (usize, usize),
        choose: &mut dyn FnMut((usize, usize)) -> Rectangle,
        pixels: &mut [u8],
    ) -> Result<()> {
        let image = self.image(index)?;
        let part = choose((image.height() as usize, image.width() as usize));
        resize_part(&image, part, size, pixels);
        Ok(())
    }
}

/// Resize(side) and CenterCrop(size) of torchvision; smaller images are enlarged.
pub fn centre(image: RgbImage, (height, width): (usize, usize), side: usize, pixels: &mut [u8]) {
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let shorter = from_width.min(from_height);
    let image = if shorter < side {
        let to = |length: usize| side * length / shorter;
        let mut larger = RgbImage::new(to(from_width) as u32, to(from_height) as u32);
        resize(&image, (to(from_height), to(from_width)), &mut larger);
        larger
    } else {
        shorter_side(&image, side as u32).unwrap_or(image)
    };
    // half up, where Python's round takes the even one
    let margin = |all: u32, part: usize| {
        let rest = all as usize - part;
        (rest / 2 + usize::from(rest % 2 == 1 && rest / 2 % 2 == 1)) as u32
    };
    let (x, y) = (margin(image.width(), width), margin(image.height(), height));
    let cut = crop_imm(&image, x, y, width as u32, height as u32).to_image();
    pixels.copy_from_slice(cut.as_raw());
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// Red tells the column, green the row.
    fn image(height: u32, width: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 0]))
    }

    fn corner(image: RgbImage, size: (usize, usize), side: usize) -> [u8; 2] {
        let mut pixels = vec![0; 3 * size.0 * size.1];
        centre(image, size, side, &mut pixels);
        [pixels[0], pixels[1]]
    }

    #[test]
    fn the_centre_is_cut_out_where_torchvision_cuts_it() {
        // torchvision.transforms.CenterCrop: int(round((h - size) / 2)); Python rounds halves to even numbers
        for (side, expected) in [(10, 0), (11, 0), (12, 1), (13, 2), (14, 2), (15, 2), (17, 4)] {
            assert_eq!(corner(image(side, 10), (10, 10), 10), [0, expected], "{side}");
        }
        assert_eq!(corner(image(20, 40), (20, 10), 20), [15, 0]);
    }
}
