//! Random crop, mirror and erasing, on bytes (He et al. 2016, section 4.2: 4 pixels of padding, random crop, random
//! mirror; Szegedy et al. 2015: a part of random area and shape, as torchvision's RandomResizedCrop; Zhong et al. 2017:
//! random erasing).
//!
//! Of floats only + - * / and square roots, which are exactly rounded, and libm's logarithm and exponential, the same code
//! everywhere: the same pixels on every machine.

use rand::RngExt;

use crate::data::Images;
use crate::error::Result;
use crate::rng::{Purpose, Rng, rng};

/// A rectangle that is erased covers this share of the image ...
const ERASED_AREA: (f64, f64) = (0.02, 0.4);
/// ... and is this many times as high as wide.
const ERASED_ASPECT: (f64, f64) = (0.3, 1.0 / 0.3);
/// Rectangles that are tried until one fits into the image.
const ERASING_ATTEMPTS: usize = 100;
/// Parts that are tried until one fits into the image.
const ZOOM_ATTEMPTS: usize = 10;

/// What to draw from, and how far: the same numbers for every rank and thread.
#[derive(Clone, Copy, Debug)]
pub struct Augment {
    /// Black pixels on each side before the crop.
    pub padding: usize,
    /// In the place of padding and crop: a part of the image, resized.
    pub zoom: Option<Zoom>,
    /// Height and width of what comes out; without `zoom` at most the padded image's.
    pub crop: (usize, usize),
    pub mirror: bool,
    /// Probability that a rectangle is erased.
    pub erasing: f64,
    /// RGB of the erased rectangle.
    pub fill: [u8; 3],
    pub seed: u64,
    pub epoch: u64,
    /// Samples with the same stream see the same augmentation.
    pub stream: u64,
}

/// RandomResizedCrop: a part of the image whose area and shape are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Zoom {
    /// Least and largest share of the image's area.
    pub scale: [f64; 2],
    /// Least and largest width / height.
    pub ratio: [f64; 2],
}

impl Zoom {
    /// torchvision's `RandomResizedCrop.get_params`: area uniform, ratio log-uniform, ten attempts, then the largest centre
    /// part with an allowed ratio.
    fn part(&self, rng: &mut Rng, (height, width): (usize, usize)) -> Rectangle {
        let (area, [low, high]) = ((height * width) as f64, self.ratio.map(libm::log));
        for _ in 0..ZOOM_ATTEMPTS {
            let target = area * rng.random_range(self.scale[0]..=self.scale[1]);
            let ratio = libm::exp(rng.random_range(low..=high));
            let (wide, tall) = ((target * ratio).sqrt().round() as usize, (target / ratio).sqrt().round() as usize);
            if (1..=width).contains(&wide) && (1..=height).contains(&tall) {
                let (top, left) = (rng.random_range(0..=height - tall), rng.random_range(0..=width - wide));
                return Rectangle { top, left, height: tall, width: wide };
            }
        }
        let shape = width as f64 / height as f64;
        let (tall, wide) = if shape < self.ratio[0] {
            (((width as f64 / self.ratio[0]).round() as usize).clamp(1, height), width)
        } else if shape > self.ratio[1] {
            (height, ((height as f64 * self.ratio[1]).round() as usize).clamp(1, width))
        } else {
            (height, width)
        };
        Rectangle { top: (height - tall) / 2, left: (width - wide) / 2, height: tall, width: wide }
    }
}

/// What is drawn for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Draw {
    /// Row and column of the image, 0 or not, that come first in the crop.
    pub from: (i32, i32),
    pub mirror: bool,
    pub erased: Option<Rectangle>,
}

/// A part of a crop, in pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rectangle {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

impl Augment {
    /// For an image by its number, and how often the epoch has had it before.
    fn rng(&self, (image, turn): (usize, u32)) -> Rng {
        let counters = [self.epoch, self.stream, image as u64, turn.into()];
        // most images come once
        rng(self.seed, Purpose::Augment, if turn == 0 { &counters[..3] } else { &counters })
    }

    /// What an image of `size` (height, width) gets.
    pub fn draw(&self, image: (usize, u32), size: (usize, usize)) -> Draw {
        let mut rng = self.rng(image);
        let reach = self.padding as i32;
        let mut offset = |side: usize, crop: usize| rng.random_range(-reach..=reach + side as i32 - crop as i32);
        let from = (offset(size.0, self.crop.0), offset(size.1, self.crop.1));
        let mirror = self.mirror && rng.random();
        Draw { from, mirror, erased: self.erased(&mut rng) }
    }

    fn erased(&self, rng: &mut Rng) -> Option<Rectangle> {
        if self.erasing > 0.0 && rng.random::<f64>() < self.erasing { self.rectangle(rng) } else { None }
    }

    /// An image of a source, augmented, in `out` [crop.0, crop.1, 3]; `plain` has room for one of its images.
    /// Error: a damaged image.
    pub fn read(&self, images: &dyn Images, image: (usize, u32), plain: &mut [u8], out: &mut [u8]) -> Result<()> {
        let Some(zoom) = &self.zoom else {
            if self.padding == 0 && self.crop == images.size() {
                images.read(image.0, out)?;
                let Draw { mirror, erased, .. } = self.draw(image, images.size());
                self.finish(mirror, erased, out);
                return Ok(());
            }
            images.read(image.0, plain)?;
            self.apply(image, images.size(), plain, out);
            return Ok(());
        };
        let mut rng = self.rng(image);
        images.read_part(image.0, self.crop, &mut |size| zoom.part(&mut rng, size), out)?;
        let mirror = self.mirror && rng.random();
        self.finish(mirror, self.erased(&mut rng), out);
        Ok(())
    }

    /// image [H, W, 3] -> a random crop of the padded image, perhaps mirrored, perhaps with a rectangle erased, in
    /// `out` [crop.0, crop.1, 3].
    fn apply(&self, image: (usize, u32), size: (usize, usize), pixels: &[u8], out: &mut [u8]) {
        let Draw { from, mirror, erased } = self.draw(image, size);
        crop(pixels, size, from, self.crop, out);
        self.finish(mirror, erased, out);
    }

    fn finish(&self, mirror: bool, erased: Option<Rectangle>, out: &mut [u8]) {
        let row_length = 3 * self.crop.1;
        if mirror {
            for row in out.chunks_exact_mut(row_length) {
                let (pixels, _) = row.as_chunks_mut::<3>();
                pixels.reverse();
            }
        }
        if let Some(Rectangle { top, left, height, width }) = erased {
            for row in out.chunks_exact_mut(row_length).skip(top).take(height) {
                let (pixels, _) = row[3 * left..3 * (left + width)].as_chunks_mut::<3>();
                pixels.fill(self.fill);
            }
        }
    }

    /// Zhong et al. 2017, algorithm 1: area and aspect ratio are uniform, what doesn't fit is drawn anew.
    fn rectangle(&self, rng: &mut Rng) -> Option<Rectangle> {
        let (height, width) = self.crop;
        for _ in 0..ERASING_ATTEMPTS {
            let area = (height * width) as f64 * rng.random_range(ERASED_AREA.0..ERASED_AREA.1);
            let aspect = rng.random_range(ERASED_ASPECT.0..ERASED_ASPECT.1);
            let rounded = |side: f64| (side + 0.5) as usize;
            let (tall, wide) = (rounded((area * aspect).sqrt()), rounded((area / aspect).sqrt()));
            if tall < height && wide < width {
                let (top, left) = (rng.random_range(0..=height - tall), rng.random_range(0..=width - wide));
                return Some(Rectangle { top, left, height: tall, width: wide });
            }
        }
        None
    }
}

/// out[y, x] = image[y + dy, x + dx], black outside.
fn crop(image: &[u8], size: (usize, usize), (dy, dx): (i32, i32), crop: (usize, usize), out: &mut [u8]) {
    let (height, width) = size;
    // columns of `out` that lie in the image
    let from = (-dx).clamp(0, crop.1 as i32) as usize;
    let to = (width as i32 - dx).clamp(from as i32, crop.1 as i32) as usize;
    out.fill(0);
    for (y, row) in out.chunks_exact_mut(3 * crop.1).enumerate() {
        let source = y as i32 + dy;
        if (0..height as i32).contains(&source) && from < to {
            let start = 3 * (source as usize * width + (from as i32 + dx) as usize);
            row[3 * from..3 * to].copy_from_slice(&image[start..start + 3 * (to - from)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const SIZE: (usize, usize) = (3, 4);

    fn image() -> Vec<u8> {
        (1..=36).collect()
    }

    fn augmented(augment: Augment, example: usize) -> Vec<u8> {
        let mut out = vec![99; 3 * augment.crop.0 * augment.crop.1];
        augment.apply((example, 0), SIZE, &image(), &mut out);
        out
    }

    const SHIFT: Augment = Augment {
        padding: 1,
        zoom: None,
        crop: SIZE,
        mirror: true,
        erasing: 0.0,
        fill: [0; 3],
        seed: 1,
        epoch: 0,
        stream: 0,
    };

    #[test]
    fn crops_move_pixels_and_leave_black() {
        let image = image();
        let at = |pixels: &[u8], (height, width): (i32, i32), y: i32, x: i32| {
            let inside = (0..height).contains(&y) && (0..width).contains(&x);
            if inside { pixels[(3 * (y * width + x)) as usize..][..3].to_vec() } else { vec![0; 3] }
        };
        for (height, width) in [(3, 4), (2, 3), (1, 1), (3, 2), (5, 6)] {
            for (dy, dx) in [(0, 0), (1, 0), (-2, 3), (2, -1), (0, 4), (5, -7), (-9, 1)] {
                let mut out = vec![99; 3 * height * width];
                crop(&image, SIZE, (dy, dx), (height, width), &mut out);
                let size = (height as i32, width as i32);
                for (y, x) in (0..size.0).flat_map(|y| (0..size.1).map(move |x| (y, x))) {
                    let expected = at(&image, (3, 4), y + dy, x + dx);
                    assert_eq!(at(&out, size, y, x), expected, "{size:?} at {dy} {dx}: {y} {x}");
                }
            }
        }
    }

    #[test]
    fn crops_and_mirrors_depend_on_epoch_stream_and_example_alone() {
        assert_eq!(augmented(SHIFT, 5), augmented(SHIFT, 5));
        let distinct = |augment: Augment| (0..300).map(|example| augmented(augment, example)).collect::<HashSet<_>>();
        assert_eq!(distinct(SHIFT).len(), 18, "3 x 3 crops, mirrored or not");
        let differ = |other: Augment| (0..20).any(|example| augmented(other, example) != augmented(SHIFT, example));
        assert!(differ(Augment { epoch: 1, ..SHIFT }) && differ(Augment { stream: 1, ..SHIFT }));
        let none = Augment { padding: 0, mirror: false, ..SHIFT };
        assert_eq!(augmented(none, 3), image());
        assert_eq!(distinct(Augment { crop: (2, 2), ..none }).len(), 6, "2 x 3 places");
        assert_eq!(distinct(Augment { crop: (2, 2), ..SHIFT }).len(), 40, "4 x 5 places, mirrored or not");
    }

    /// Rectangle of `fill` in a picture without any: (top, left, height, width).
    fn erased(augment: Augment, example: usize) -> Option<(usize, usize, usize, usize)> {
        let (height, width) = augment.crop;
        let mut out = vec![0; 3 * height * width];
        augment.apply((example, 0), augment.crop, &vec![1; 3 * height * width], &mut out);
        let filled = |&i: &usize| out[3 * i..][..3] == augment.fill;
        let places: Vec<usize> = (0..height * width).filter(filled).collect();
        let (top, bottom) = (places.first()? / width, places.last()? / width);
        let left = places.iter().map(|i| i % width).min()?;
        let right = places.iter().map(|i| i % width).max()?;
        let (tall, wide) = (bottom + 1 - top, right + 1 - left);
        assert_eq!(tall * wide, places.len(), "a rectangle");
        assert_eq!(out.iter().filter(|&&byte| byte == 1).count(), 3 * (height * width - places.len()));
        Some((top, left, tall, wide))
    }

    #[test]
    fn rectangles_of_the_right_area_shape_and_colour_are_erased_as_often_as_wanted() {
        let (height, width) = (64, 32);
        let augment =
            Augment { padding: 0, crop: (height, width), mirror: true, erasing: 0.5, fill: [10, 20, 30], ..SHIFT };
        let rectangles: Vec<_> = (0..2000).filter_map(|example| erased(augment, example)).collect();
        assert!((900..1100).contains(&rectangles.len()), "{}: 4.5 standard deviations", rectangles.len());
        let all = (height * width) as f64;
        for &(_, _, tall, wide) in &rectangles {
            // sides are rounded by up to half a pixel
            let (tall, wide) = (tall as f64, wide as f64);
            assert!((tall + 0.5) * (wide + 0.5) >= 0.02 * all && (tall - 0.5) * (wide - 0.5) <= 0.4 * all);
            assert!((tall + 0.5) / (wide - 0.5) >= 0.3 && (tall - 0.5) / (wide + 0.5) <= 1.0 / 0.3);
        }
        assert!(rectangles.iter().any(|r| r.0 == 0) && rectangles.iter().any(|r| r.0 + r.2 == height), "top, bottom");
        assert!(rectangles.iter().any(|r| r.1 == 0) && rectangles.iter().any(|r| r.1 + r.3 == width), "left, right");
        let areas = || rectangles.iter().map(|r| (r.2 * r.3) as f64 / all);
        assert!(areas().any(|area| area > 0.35) && areas().any(|area| area < 0.04), "small and large");
        assert_eq!(rectangles[..10], (0..2000).filter_map(|i| erased(augment, i)).take(10).collect::<Vec<_>>()[..]);

        let never = Augment { erasing: 0.0, ..augment };
        assert!((0..200).all(|example| erased(never, example).is_none()));
        let always = Augment { erasing: 1.0, ..augment };
        assert!((0..200).all(|example| erased(always, example).is_some()));
    }

    #[test]
    fn erasing_leaves_crop_and_mirror_as_they_were() {
        let erasing = Augment { erasing: 1.0, fill: [255; 3], ..SHIFT };
        for example in 0..100 {
            let (without, with) = (augmented(SHIFT, example), augmented(erasing, example));
            assert!(without.iter().zip(&with).all(|(a, b)| a == b || *b == 255));
        }
    }

    #[test]
    fn parts_of_images_are_drawn_as_torchvision_draws_them() {
        let zoom = Zoom { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
        const DRAWS: u64 = 50_000;
        let part = |number| zoom.part(&mut rng(1, Purpose::Augment, &[number]), (60, 100));
        let draws: Vec<Rectangle> = (0..DRAWS).map(part).collect();
        // (limit, share of draws up to it): tests/reference/resized_crop.py. Four deviations are 0.01
        type Shares<'a> = (&'a str, fn(&Rectangle) -> usize, &'a [(usize, f64)]);
        let torchvision: [Shares; 4] = [
            ("top", |part| part.top, &[(0, 0.1393), (5, 0.5069), (10, 0.7059), (20, 0.909)]),
            ("left", |part| part.left, &[(0, 0.0192), (10, 0.2141), (20, 0.4116), (40, 0.7639)]),
            ("height", |part| part.height, &[(20, 0.0032), (30, 0.1419), (40, 0.3646), (50, 0.6506), (59, 0.9624)]),
            ("width", |part| part.width, &[(25, 0.0549), (35, 0.2461), (45, 0.5), (60, 0.836), (79, 0.9994)]),
        ];
        for (name, side, shares) in torchvision {
            for &(limit, expected) in shares {
                let found = draws.iter().filter(|part| side(part) <= limit).count() as f64 / DRAWS as f64;
                assert!((found - expected).abs() < 0.01, "{name} up to {limit}: {found}, torchvision {expected}");
            }
        }
        // where no part of this area fits
        let half = Zoom { scale: [0.5, 1.0], ..zoom };
        let centre = half.part(&mut rng(1, Purpose::Augment, &[]), (10, 100));
        assert_eq!(centre, Rectangle { top: 0, left: 43, height: 10, width: 13 });
    }

    #[test]
    fn the_draws_never_change() {
        let image: Vec<u8> = (0..20 * 12 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let mut hash = 0xcbf2_9ce4_8422_2325u64; // FNV-1a
        for (padding, mirror) in [(0, false), (0, true), (4, false), (4, true), (13, true)] {
            for (epoch, stream, example) in [(0, 0, 0), (1, 2, 3), (7, 0, 1usize << 40)] {
                let mut out = vec![0; image.len()];
                let augment = Augment { padding, crop: (20, 12), mirror, seed: 42, epoch, stream, ..SHIFT };
                augment.apply((example, 0), (20, 12), &image, &mut out);
                hash = out.iter().fold(hash, |hash, &v| (hash ^ v as u64).wrapping_mul(0x0100_0000_01b3));
            }
        }
        assert_eq!(hash, 0xc81f_d93c_f36c_ab45, "new runs can't be compared with earlier ones: {hash:#x}");
    }
}
