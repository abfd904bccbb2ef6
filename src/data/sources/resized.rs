//! Images of any size, brought to the one that is wanted: bilinear with antialiasing, as Pillow does it.

use std::sync::Arc;

use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer, SrcCropping};
use image::RgbImage;

use crate::data::jpeg::Region;
use crate::data::{Images, Packed, Rectangle};
use crate::error::Result;

/// Images stretched or squeezed to `size`, whatever their shape: torchvision's `Resize((height, width))`.
pub struct Resized {
    pub packed: Arc<Packed>,
    /// Height and width.
    pub size: (usize, usize),
}

impl Images for Resized {
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
        resize(&self.packed.image(index)?, self.size, pixels);
        Ok(())
    }
}

/// The image as RGB bytes [height, width, 3]: bilinear with antialiasing, as PIL does it.
pub fn resize(image: &RgbImage, size: (usize, usize), pixels: &mut [u8]) {
    let whole = Rectangle { top: 0, left: 0, height: image.height() as usize, width: image.width() as usize };
    resize_part(image, whole, size, pixels);
}

/// The same of a part, as if it had been cut out before.
pub fn resize_part(image: &RgbImage, part: Rectangle, (height, width): (usize, usize), pixels: &mut [u8]) {
    let source = ImageRef::new(image.width(), image.height(), image.as_raw(), PixelType::U8x3);
    let source = source.expect("as many bytes as pixels");
    let target = Image::from_slice_u8(width as u32, height as u32, pixels, PixelType::U8x3);
    resize_view(&source, part, &OPTIONS, &mut target.expect("as many bytes as pixels"));
}

/// The same of a part that was decoded at a reduced size.
pub fn resize_region(
    region: &Region,
    part: Rectangle,
    reduction: usize,
    (height, width): (usize, usize),
    pixels: &mut [u8],
) {
    let source = ImageRef::new(region.size.1 as u32, region.size.0 as u32, &region.pixels, PixelType::U8x4);
    let source = source.expect("as many bytes as pixels");
    // the pixels that the part touches, and where in them it lies
    let first = |start: usize| start / reduction;
    let touched = |start: usize, length: usize| (start + length).div_ceil(reduction) - first(start);
    let inside = |start: usize| (start % reduction) as f64 / reduction as f64;
    let reduced = |length: usize| length as f64 / reduction as f64;
    let covering = Rectangle {
        top: first(part.top) - region.from.0,
        left: first(part.left) - region.from.1,
        height: touched(part.top, part.height),
        width: touched(part.left, part.width),
    };
    let options =
        OPTIONS.use_alpha(false).crop(inside(part.left), inside(part.top), reduced(part.width), reduced(part.height));
    let mut target = Image::new(width as u32, height as u32, PixelType::U8x4);
    resize_view(&source, covering, &options, &mut target);
    let (resized, _) = target.buffer().as_chunks::<4>();
    for (pixel, &[red, green, blue, _]) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(resized) {
        *pixel = [red, green, blue];
    }
}

const OPTIONS: ResizeOptions = ResizeOptions {
    algorithm: ResizeAlg::Convolution(FilterType::Bilinear),
    cropping: SrcCropping::None,
    mul_div_alpha: true,
};

fn resize_view(source: &ImageRef, part: Rectangle, options: &ResizeOptions, target: &mut Image) {
    let [left, top, width, height] = [part.left, part.top, part.width, part.height].map(|side| side as u32);
    let part = CroppedImage::new(source, left, top, width, height).expect("a part of the image");
    Resizer::new().resize(&part, target, options).expect("both have the same kind of pixels");
}

/// The image with a shorter side of `side` pixels, the longer one rounded down as torchvision's `Resize(side)` does it;
/// `None`: it is not larger.
pub fn shorter_side(image: &RgbImage, side: u32) -> Option<RgbImage> {
    let (width, height) = image.dimensions();
    if width.min(height) <= side {
        return None;
    }
    let scaled = |long: u32, short: u32| (side as u64 * long as u64 / short as u64) as u32;
    let (to_width, to_height) =
        if width < height { (side, scaled(height, width)) } else { (scaled(width, height), side) };
    let mut resized = RgbImage::new(to_width, to_height);
    resize(image, (to_height as usize, to_width as usize), &mut resized);
    Some(resized)
}

/// The image at `size` (height, width).
///
/// An image of that size stays as it is. Of 112 x 112 faces, 112 x 96 takes columns 8 to 103: insightface's template
/// is the narrower one shifted by 8 pixels. All others are cropped in the centre to the shape of `size`, then resized.
pub fn fit(image: RgbImage, size: (usize, usize)) -> RgbImage {
    let (height, width) = size;
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    if (from_height, from_width) == size {
        return image;
    }
    let mut fitted = RgbImage::new(width as u32, height as u32);
    if (from_height, from_width, height, width) == (112, 112, 112, 96) {
        resize_part(&image, Rectangle { top: 0, left: 8, height, width }, size, &mut fitted);
        return fitted;
    }
    // the widest and the highest that have the right shape; the other one is the image's own
    let crop = |along: usize, across: usize, to_along: usize, to_across: usize| {
        let rounded = (across * to_along + to_across / 2) / to_across;
        rounded.clamp(1, along)
    };
    let crop_width = crop(from_width, from_height, width, height);
    let crop_height = crop(from_height, from_width, height, width);
    let (top, left) = ((from_height - crop_height) / 2, (from_width - crop_width) / 2);
    let part = Rectangle { top, left, height: crop_height, width: crop_width };
    resize_part(&image, part, size, &mut fitted);
    fitted
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn pattern(height: u32, width: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let blue = (x / 3 + y / 2) % 2 * 255;
            Rgb([x * 7 + y * 3, x * x + y * 5, blue].map(|value| value as u8))
        })
    }

    fn resized(image: &RgbImage, size: (usize, usize)) -> Vec<u8> {
        let mut pixels = vec![0; 3 * size.0 * size.1];
        resize(image, size, &mut pixels);
        pixels
    }

    // Pillow 13.0.0:
    // image = Image.new("RGB", (9, 13))
    // image.putdata([((x*7 + y*3) % 256, (x*x + y*5) % 256, 255*((x//3 + y//2) % 2)) for y in range(13) for x in range(9)])
    // list(image.resize((4, 6), Image.BILINEAR).tobytes()); (4, 5) to (6, 8) likewise
    #[rustfmt::skip]
    const SMALLER: [u8; 72] = [
        8, 5, 47, 22, 13, 153, 38, 31, 153, 52, 56, 47, 14, 15, 182, 28, 23, 110, 44, 41, 110, 58, 66, 182, 21, 25,
        76, 35, 33, 144, 51, 51, 144, 65, 76, 76, 27, 37, 170, 41, 45, 114, 57, 63, 114, 71, 88, 170, 34, 47, 100, 48,
        55, 136, 64, 73, 136, 78, 98, 100, 40, 57, 156, 54, 65, 118, 70, 83, 118, 84, 108, 156,
    ];
    #[rustfmt::skip]
    const LARGER: [u8; 144] = [
        0, 0, 0, 4, 1, 0, 8, 2, 0, 13, 3, 0, 18, 7, 128, 21, 9, 255, 1, 2, 0, 5, 3, 0, 9, 4, 0, 14, 5, 0, 19, 9, 128,
        22, 11, 255, 3, 5, 16, 7, 6, 16, 11, 7, 16, 16, 8, 16, 21, 12, 128, 24, 14, 239, 5, 8, 175, 9, 9, 175, 13, 10,
        175, 18, 11, 175, 23, 15, 128, 26, 17, 80, 7, 12, 255, 11, 13, 255, 15, 14, 255, 20, 15, 255, 25, 19, 128, 28,
        21, 0, 9, 15, 255, 13, 16, 255, 17, 17, 255, 22, 18, 255, 27, 22, 128, 30, 24, 0, 11, 18, 112, 15, 19, 112,
        19, 20, 112, 24, 21, 112, 29, 25, 128, 32, 27, 143, 12, 20, 0, 16, 21, 0, 20, 22, 0, 25, 23, 0, 30, 27, 128,
        33, 29, 255,
    ];

    #[test]
    fn images_are_resized_as_pillow_does_it() {
        for (pixels, pillow) in
            [(resized(&pattern(13, 9), (6, 4)), &SMALLER[..]), (resized(&pattern(5, 4), (8, 6)), &LARGER[..])]
        {
            let worst = pixels.iter().zip(pillow).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(pixels.len() == pillow.len() && worst <= 1, "{worst}: {pixels:?}");
        }
    }

    #[test]
    fn a_part_is_resized_as_if_it_had_been_cut_out() {
        let image = pattern(31, 17);
        let cut = image::imageops::crop_imm(&image, 3, 5, 11, 13).to_image();
        let mut pixels = vec![0; 3 * 7 * 9];
        resize_part(&image, Rectangle { top: 5, left: 3, height: 13, width: 11 }, (7, 9), &mut pixels);
        assert_eq!(pixels, resized(&cut, (7, 9)));
    }

    #[test]
    fn the_shorter_side_is_as_torchvisions() {
        // torchvision.transforms.Resize(8): 31 x 17 becomes int(8 * 31 / 17) = 14 x 8
        assert_eq!(shorter_side(&pattern(31, 17), 8).unwrap().dimensions(), (8, 14));
        assert_eq!(shorter_side(&pattern(17, 31), 8).unwrap().dimensions(), (14, 8));
        assert!(shorter_side(&pattern(31, 17), 17).is_none());
    }

    #[test]
    fn images_of_the_wanted_size_stay_as_they_are() {
        let image = pattern(31, 17);
        assert_eq!(resized(&image, (31, 17)), image.into_raw());
    }

    #[test]
    fn square_faces_lose_eight_columns_on_each_side() {
        let image = pattern(112, 112);
        let fitted = fit(image.clone(), (112, 96));
        assert_eq!(fitted.dimensions(), (96, 112));
        assert!((0..112).all(|y| (0..96).all(|x| fitted.get_pixel(x, y) == image.get_pixel(x + 8, y))));
        assert_eq!(fit(image.clone(), (112, 112)), image);
    }

    #[test]
    fn other_images_are_cropped_in_the_centre_and_resized() {
        // only the middle 40 of 100 columns are white
        let image = RgbImage::from_fn(100, 40, |x, _| Rgb([if (30..70).contains(&x) { 255 } else { 0 }; 3]));
        let fitted = fit(image, (20, 20));
        assert_eq!(fitted.dimensions(), (20, 20));
        assert!(fitted.iter().all(|&value| value == 255));
        for (height, width) in [(1, 1), (1, 300), (300, 1), (250, 250), (57, 113)] {
            assert_eq!(fit(pattern(height, width), (112, 96)).dimensions(), (96, 112));
        }
    }

    #[test]
    fn downsizing_averages() {
        let stripes = RgbImage::from_fn(80, 80, |x, _| Rgb([if x % 2 == 0 { 0 } else { 200 }; 3]));
        let fitted = fit(stripes, (20, 20));
        assert!(fitted.iter().all(|&value| value.abs_diff(100) < 10));
    }
}
