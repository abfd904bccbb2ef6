//! Packed images of classes, of any size and shape.

use std::path::Path;
use std::sync::Arc;

use image::DynamicImage;
use image::RgbImage;
use image::imageops::crop_imm;
use image::metadata::Orientation;

use super::{resize, resize_part, resize_region, shorter_side};
use crate::data::jpeg::{Jpeg, is_jpeg};
use crate::data::{Images, Packed, Rectangle, Store, Subset, decode};
use crate::error::{Error, Result};

/// A reduced image is at least so many times as large as what it is resized to.
const SPARE: usize = 2;

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
        if self.packed.store() == Store::Files {
            let stored = self.packed.stored(index)?;
            if is_jpeg(stored) {
                return part_of_jpeg(stored, size, choose, pixels).map_err(|why| self.packed.image_error(index, &why));
            }
        }
        let image = self.image(index)?;
        let part = choose((image.height() as usize, image.width() as usize));
        resize_part(&image, part, size, pixels);
        Ok(())
    }
}

/// `read_part` of a JPEG: no more of it is decoded than the part takes, and that at a reduced size where it is shrunk
/// by more than that.
fn part_of_jpeg(
    bytes: &[u8],
    size: (usize, usize),
    choose: &mut dyn FnMut((usize, usize)) -> Rectangle,
    pixels: &mut [u8],
) -> std::result::Result<(), String> {
    let jpeg = Jpeg::open(bytes)?;
    let (stored, orientation) = (jpeg.size, jpeg.orientation());
    let swapped = |(height, width)| if is_transposed(orientation) { (width, height) } else { (height, width) };
    let part = before(orientation, choose(swapped(stored)), stored);
    let size = swapped(size);
    let reduction = reduction(part, size);
    let region = jpeg.read_region(part, reduction)?;
    if orientation == Orientation::NoTransforms {
        resize_region(&region, part, reduction, size, pixels);
        return Ok(());
    }
    let mut image = RgbImage::new(size.1 as u32, size.0 as u32);
    resize_region(&region, part, reduction, size, &mut image);
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    pixels.copy_from_slice(image.as_bytes());
    Ok(())
}

/// The largest of libjpeg's by which the part may be reduced before it is resized to `size`.
fn reduction(part: Rectangle, size: (usize, usize)) -> usize {
    let leaves =
        |reduction: &usize| part.height >= SPARE * reduction * size.0 && part.width >= SPARE * reduction * size.1;
    [8, 4, 2].into_iter().find(leaves).unwrap_or(1)
}

fn is_transposed(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH)
}

/// Where a part of the upright image lies in the stored one of height and width.
fn before(orientation: Orientation, part: Rectangle, (height, width): (usize, usize)) -> Rectangle {
    use Orientation::{FlipHorizontal, FlipVertical, Rotate90, Rotate180, Rotate270, Rotate270FlipH};
    let part = match is_transposed(orientation) {
        true => Rectangle { top: part.left, left: part.top, height: part.width, width: part.height },
        false => part,
    };
    let from_below = matches!(orientation, FlipVertical | Rotate90 | Rotate180 | Rotate270FlipH);
    let from_right = matches!(orientation, FlipHorizontal | Rotate180 | Rotate270 | Rotate270FlipH);
    Rectangle {
        top: if from_below { height - part.top - part.height } else { part.top },
        left: if from_right { width - part.left - part.width } else { part.left },
        ..part
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
    use crate::data::decode::tests::with_orientation;
    use crate::data::jpeg::tests::SAMPLES;

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

    fn part_of(bytes: &[u8], part: Rectangle, size: (usize, usize)) -> (Vec<u8>, (usize, usize)) {
        let (mut pixels, mut seen) = (vec![0; 3 * size.0 * size.1], (0, 0));
        let mut choose = |size| {
            seen = size;
            part
        };
        part_of_jpeg(bytes, size, &mut choose, &mut pixels).unwrap();
        (pixels, seen)
    }

    /// As it would be without a short way: all of it decoded, turned, cut, resized.
    fn the_long_way(bytes: &[u8], part: Rectangle, size: (usize, usize)) -> (Vec<u8>, (usize, usize)) {
        let (image, mut pixels) = (decode::upright(bytes).unwrap(), vec![0; 3 * size.0 * size.1]);
        resize_part(&image, part, size, &mut pixels);
        (pixels, (image.height() as usize, image.width() as usize))
    }

    #[test]
    fn a_part_has_the_pixels_that_decoding_the_whole_image_gives() {
        for (name, bytes, _) in SAMPLES {
            for (top, left, height, width) in [(0, 0, 93, 131), (17, 30, 41, 61), (92, 130, 1, 1), (50, 3, 43, 90)] {
                let part = Rectangle { top, left, height, width };
                for size in [(32, 32), (height, width), (100, 20)] {
                    let found = part_of(bytes, part, size);
                    assert!(found == the_long_way(bytes, part, size), "{name} {part:?} at {size:?}");
                }
            }
        }
    }

    #[test]
    fn parts_that_are_shrunk_much_are_decoded_at_a_reduced_size_with_almost_the_same_pixels() {
        // mean difference of the channels, of 255: of photographs it is 0.4 at half size; these have hard, coloured edges
        for (part, size, expected, limit) in [
            (Rectangle { top: 0, left: 0, height: 93, width: 131 }, (20, 30), 2, 1.0),
            (Rectangle { top: 11, left: 13, height: 81, width: 107 }, (20, 23), 2, 1.0),
            (Rectangle { top: 0, left: 0, height: 93, width: 131 }, (11, 16), 4, 3.0),
            (Rectangle { top: 5, left: 3, height: 88, width: 127 }, (5, 7), 8, 5.0),
        ] {
            assert_eq!(reduction(part, size), expected);
            for (name, bytes, _) in SAMPLES {
                let ((found, _), (exact, _)) = (part_of(bytes, part, size), the_long_way(bytes, part, size));
                let differences: Vec<u8> = found.iter().zip(&exact).map(|(a, b)| a.abs_diff(*b)).collect();
                let mean = differences.iter().map(|&d| f64::from(d)).sum::<f64>() / differences.len() as f64;
                let worst = differences.iter().max().unwrap();
                assert!(mean < limit && *worst < 20, "{name} {part:?} at {size:?}: {mean}, at most {worst}");
            }
        }
        // 500 x 375 at 224 is too small for it
        assert_eq!(reduction(Rectangle { top: 0, left: 0, height: 375, width: 500 }, (224, 224)), 1);
    }

    #[test]
    fn parts_of_turned_photographs_are_those_of_the_upright_ones() {
        let (_, bytes, _) = SAMPLES[2];
        for orientation in 1..=8 {
            let bytes = with_orientation(bytes, orientation);
            for (top, left, height, width) in [(3, 5, 70, 80), (20, 0, 60, 40)] {
                let part = Rectangle { top, left, height, width };
                // pixels as they are: not rounded twice
                let exact = (height, width);
                assert!(part_of(&bytes, part, exact) == the_long_way(&bytes, part, exact), "{orientation} {part:?}");
                let smaller = (40, 30);
                let ((found, seen), (expected, size)) =
                    (part_of(&bytes, part, smaller), the_long_way(&bytes, part, smaller));
                let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
                assert!(seen == size && worst <= 1, "{orientation} {part:?}: {worst}");
            }
        }
    }
}
