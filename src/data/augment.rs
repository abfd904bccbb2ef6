//! Random crop and mirror, on bytes (He et al. 2016, section 4.2: 4 pixels of padding, random crop, random mirror).

use rand::RngExt;

use crate::rng::{Purpose, rng};

/// What to draw from, and how far: the same numbers for every rank and thread.
#[derive(Clone, Copy, Debug)]
pub struct Augment {
    pub padding: usize,
    pub mirror: bool,
    pub seed: u64,
    pub epoch: u64,
    /// Samples with the same stream see the same augmentation.
    pub stream: u64,
}

impl Augment {
    /// image [H, W, 3] -> a random crop of the image padded with black, perhaps mirrored, in `out` [H, W, 3].
    pub fn apply(&self, example: u64, (height, width): (usize, usize), image: &[u8], out: &mut [u8]) {
        let mut rng = rng(self.seed, Purpose::Augment, &[self.epoch, self.stream, example]);
        let reach = self.padding as i32;
        let (dy, dx) = (rng.random_range(-reach..=reach), rng.random_range(-reach..=reach));
        let mirror = self.mirror && rng.random();
        shift(image, (height, width), (dy, dx), out);
        if mirror {
            for row in out.chunks_exact_mut(3 * width) {
                let (pixels, _) = row.as_chunks_mut::<3>();
                pixels.reverse();
            }
        }
    }
}

/// out[y, x] = image[y + dy, x + dx], black outside.
fn shift(image: &[u8], (height, width): (usize, usize), (dy, dx): (i32, i32), out: &mut [u8]) {
    let row = 3 * width;
    let from = dx.max(0) as usize;
    let to = -dx.min(0) as usize;
    let count = width.saturating_sub(dx.unsigned_abs() as usize);
    out.fill(0);
    for y in 0..height {
        let source = y as i32 + dy;
        if (0..height as i32).contains(&source) && count > 0 {
            let source = source as usize * row + 3 * from;
            let target = y * row + 3 * to;
            out[target..target + 3 * count].copy_from_slice(&image[source..source + 3 * count]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: (usize, usize) = (3, 4);

    fn image() -> Vec<u8> {
        (1..=36).collect()
    }

    fn augmented(augment: Augment, example: u64) -> Vec<u8> {
        let mut out = vec![99; 36];
        augment.apply(example, SIZE, &image(), &mut out);
        out
    }

    #[test]
    fn shifts_move_pixels_and_leave_black() {
        let image = image();
        let at = |pixels: &[u8], y: i32, x: i32| {
            let inside = (0..3).contains(&y) && (0..4).contains(&x);
            if inside { pixels[(y * 12 + x * 3) as usize..][..3].to_vec() } else { vec![0; 3] }
        };
        for (dy, dx) in [(0, 0), (1, 0), (-2, 3), (2, -1), (0, 4), (5, -7)] {
            let mut out = vec![99; 36];
            shift(&image, SIZE, (dy, dx), &mut out);
            for y in 0..3 {
                for x in 0..4 {
                    assert_eq!(at(&out, y, x), at(&image, y + dy, x + dx), "shift {dy} {dx} at {y} {x}");
                }
            }
        }
    }

    #[test]
    fn crops_and_mirrors_depend_on_epoch_stream_and_example_alone() {
        let augment = Augment { padding: 1, mirror: true, seed: 1, epoch: 0, stream: 0 };
        assert_eq!(augmented(augment, 5), augmented(augment, 5));
        let distinct: std::collections::HashSet<_> = (0..200).map(|example| augmented(augment, example)).collect();
        assert_eq!(distinct.len(), 18, "3 x 3 crops, mirrored or not");
        let differ = |other: Augment| (0..20).any(|example| augmented(other, example) != augmented(augment, example));
        assert!(differ(Augment { epoch: 1, ..augment }) && differ(Augment { stream: 1, ..augment }));
        let none = Augment { padding: 0, mirror: false, ..augment };
        assert_eq!(augmented(none, 3), image());
    }
}
