//! The embedded data set "glyphs": drawn characters on cluttered backgrounds, generated on demand, nothing to download.
//! A class is a glyph, or a group of two or three if there are more classes than glyphs; everything else (colours,
//! background, pose, noise) is drawn per example and says nothing about the class.
//!
//! No sines or logarithms, only +, -, *, / and square roots: exactly rounded, hence the same bytes on every machine.

use crate::rng::{Purpose, Rng, rng};
use font8x8::{BASIC_FONTS, HIRAGANA_FONTS, UnicodeFonts};
use rand::{Rng as _, RngExt};

/// Glyphs that differ in at least 8 of their 8 x 8 cells, also if mirrored and (checked when they were chosen) for any
/// shift by up to 2 cells: crop and mirror augmentation keeps them apart. Their number is prime, see `Glyphs::step`.
const ALPHABET: &str = "ABCDEHJKMSTVWXYZ4679aghmrt&@#%*あいうえかきくせたなぬひふむゆら";
const LETTERS: usize = 47;

/// Cells per side of the largest mark with its empty border.
const SIDE: usize = 19;
/// Coarse cells per side of the background.
const TILES: usize = 4;
/// First counter of the random streams; never renumber.
const CLASSES: u64 = 0;
const EXAMPLES: u64 = 1;

/// A generated data set: what to draw.
pub struct Glyphs {
    seed: u64,
    classes: usize,
    size: usize,
    difficulty: f32,
    alphabet: [[u8; 8]; LETTERS],
    /// Glyphs per class.
    length: u32,
    /// Class -> (class * step + offset) mod LETTERS^length is a bijection: step is not a multiple of the prime LETTERS.
    step: u64,
    offset: u64,
}

impl Glyphs {
    /// classes 2..=100,000; size in pixels (square pictures), at least 16; difficulty from 0 (clean) to 1 (very hard).
    pub fn new(seed: u64, classes: usize, size: usize, difficulty: f64) -> Glyphs {
        assert!((2..=100_000).contains(&classes), "{classes} classes");
        assert!(size >= 16, "size {size}");
        assert!((0.0..=1.0).contains(&difficulty), "difficulty {difficulty}");
        let mut letters = ALPHABET.chars();
        let alphabet = [(); LETTERS].map(|()| {
            let letter = letters.next().expect("LETTERS letters");
            BASIC_FONTS.get(letter).or_else(|| HIRAGANA_FONTS.get(letter)).expect("a letter of the font")
        });
        let length = (1..=3).find(|&n| classes <= LETTERS.pow(n)).expect("LETTERS^3 is more than 100,000");
        let mut random = rng(seed, Purpose::Glyphs, &[CLASSES, length as u64]);
        // 46 bits: the modulo bias is irrelevant, and class * step + offset fits in 64
        let (step, offset) = (random.next_u64() >> 18, random.next_u64() >> 18);
        let step = if step.is_multiple_of(LETTERS as u64) { step + 1 } else { step };
        Glyphs { seed, classes, size, difficulty: difficulty as f32, alphabet, length, step, offset }
    }

    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Height and width in pixels.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Writes example `id` (below 2^46) of class `label`: pixels [size, size, 3] u8, RGB, row by row.
    pub fn draw(&self, label: usize, id: u64, pixels: &mut [u8]) {
        assert!(label < self.classes, "class {label} of {}", self.classes);
        assert_eq!(pixels.len(), self.size * self.size * 3, "bytes of a picture");
        let mut random = rng(self.seed, Purpose::Glyphs, &[EXAMPLES, label as u64, id]);
        let mark = self.mark(label);
        let style = Style::random(self.difficulty, &mut random);
        let pose = Pose::random(self.difficulty, self.size as f32, &mark, &mut random);
        self.paint(&mark, &pose, &style, &mut random, pixels);
    }

    /// The glyphs of a class, as positions in the alphabet; different for all classes of a data set.
    fn identity(&self, label: usize) -> impl Iterator<Item = usize> {
        let letters = LETTERS as u64;
        let code = (label as u64 * self.step + self.offset) % letters.pow(self.length);
        (0..self.length).map(move |i| (code / letters.pow(i) % letters) as usize)
    }

    /// Two glyphs stand one below the other, a third to their right and twice as tall: unlike a row of glyphs, no
    /// such group is the mirror image of another, so that augmentation may mirror.
    fn mark(&self, label: usize) -> Mark {
        let (width, height) = [(8, 8), (8, 17), (17, 17)][self.length as usize - 1];
        let mut mark = Mark { ink: [[0.0; SIDE]; SIDE], width, height };
        for (i, letter) in self.identity(label).enumerate() {
            let (left, top, tall) = [(0, 0, 1), (0, 9, 1), (9, 0, 2)][i];
            for (y, row) in self.alphabet[letter].iter().flat_map(|row| std::iter::repeat_n(row, tall)).enumerate() {
                for x in 0..8 {
                    // one empty cell all around; the font's lowest bit is the leftmost cell
                    mark.ink[1 + top + y][1 + left + x] = (row >> x & 1) as f32;
                }
            }
        }
        mark
    }

    /// Background, strokes behind, mark, strokes in front, noise.
    fn paint(&self, mark: &Mark, pose: &Pose, style: &Style, random: &mut Rng, pixels: &mut [u8]) {
        let mut canvas = Canvas { size: self.size, rgb: vec![0.0; pixels.len()] };
        canvas.background(&style.tiles);
        let strokes: Vec<Stroke> =
            (0..style.strokes).map(|_| Stroke::random(style, self.size as f32, random)).collect();
        let (front, behind) = strokes.split_at(strokes.len() / 3);
        behind.iter().for_each(|stroke| canvas.stroke(stroke));
        canvas.mark(mark, pose, style.ink);
        front.iter().for_each(|stroke| canvas.stroke(stroke));
        canvas.finish(style.noise, random, pixels);
    }
}

/// What identifies a class: coverage 0 or 1 of width x height cells.
struct Mark {
    ink: [[f32; SIDE]; SIDE],
    width: usize,
    height: usize,
}

impl Mark {
    /// Bilinear coverage at (x, y) in cells from the centre of the mark.
    fn coverage(&self, x: f32, y: f32) -> f32 {
        let (x, y) = (x + 0.5 * (self.width + 1) as f32, y + 0.5 * (self.height + 1) as f32);
        if x < 0.0 || y < 0.0 || x >= (self.width + 1) as f32 || y >= (self.height + 1) as f32 {
            return 0.0;
        }
        let ((column, right), (row, below)) = (split(x), split(y));
        let [upper, lower] = [row, row + 1].map(|y| mix(self.ink[y][column], self.ink[y][column + 1], right));
        mix(upper, lower, below)
    }
}

/// Where the mark is: pixel p shows the mark at inverse (p - centre).
struct Pose {
    centre: [f32; 2],
    /// Cells per pixel, row-major 2 x 2.
    inverse: [f32; 4],
    /// Pixels per cell.
    scale: f32,
}

impl Pose {
    fn random(difficulty: f32, size: f32, mark: &Mark, random: &mut Rng) -> Pose {
        let side = size * between(0.72 - 0.43 * difficulty, 0.80 + 0.15 * difficulty, random);
        let scale = side / mark.width.max(mark.height) as f32;
        // t = tan(angle / 2): up to 2 degrees if clean, 29 in the middle, 52 at most
        let t = symmetric(0.018 + 0.47 * difficulty, random);
        let (cos, sin) = ((1.0 - t * t) / (1.0 + t * t), 2.0 * t / (1.0 + t * t));
        let shear = symmetric(0.4 * difficulty, random);
        let aspect = 1.0 + symmetric(0.3 * difficulty, random);
        // the mark may leave the picture by a few pixels
        let room = (1.6 * difficulty).min(1.0) * (size - side) / 2.0 + 0.06 * difficulty * size;
        let centre = [(); 2].map(|()| size / 2.0 + symmetric(room, random));
        let inverse = [cos - shear * sin, sin + shear * cos, -sin * aspect, cos * aspect].map(|v| v / scale);
        Pose { centre, inverse, scale }
    }
}

type Rgb = [f32; 3];

/// How a picture looks apart from its mark: colours in 0..1, noise as its standard deviation.
struct Style {
    tiles: [[Rgb; TILES + 1]; TILES + 1],
    ink: Rgb,
    /// Mean of the background.
    paper: Rgb,
    strokes: usize,
    noise: f32,
}

impl Style {
    fn random(difficulty: f32, random: &mut Rng) -> Style {
        // Ink and paper differ in brightness, in either direction; their hues are unrelated.
        let contrast = between(0.45 - 0.36 * difficulty, 0.70 - 0.32 * difficulty, random);
        let darker = between(0.05, 0.95 - contrast, random);
        let (dark, bright) = (tinted(darker, random), tinted(darker + contrast, random));
        let (ink, paper) = if random.random() { (dark, bright) } else { (bright, dark) };
        // A gradient of brightness and hue across the picture, and a coarse texture; weaker than the contrast.
        let slope = [(); 2].map(|()| [(); 3].map(|()| symmetric(contrast * (0.1 + 0.4 * difficulty), random)));
        let tiles = std::array::from_fn(|y| {
            std::array::from_fn(|x| {
                let [x, y] = [x, y].map(|i| 2.0 * i as f32 / TILES as f32 - 1.0);
                let grain = symmetric(0.9 * contrast * difficulty, random);
                std::array::from_fn(|c| paper[c] + slope[0][c] * x + slope[1][c] * y + grain)
            })
        });
        let strokes = (between(0.0, 1.0, random) * (1.0 + 11.0 * difficulty)) as usize;
        Style { tiles, ink, paper, strokes, noise: 0.16 * difficulty * between(0.5, 1.0, random) }
    }
}

/// A distractor: a straight line with round ends; pixels.
struct Stroke {
    start: [f32; 2],
    span: [f32; 2],
    radius: f32,
    colour: Rgb,
}

impl Stroke {
    fn random(style: &Style, size: f32, random: &mut Rng) -> Stroke {
        let start = [(); 2].map(|()| between(0.0, size, random));
        let span = [(); 2].map(|()| symmetric(0.5 * size, random));
        let radius = size * between(0.015, 0.04, random);
        // between paper and ink in brightness, so that colour alone does not tell strokes from the mark
        let (mixed, hue) = (blend(style.paper, style.ink, between(0.3, 1.0, random)), tinted(0.0, random));
        Stroke { start, span, radius, colour: std::array::from_fn(|c| mixed[c] + 0.5 * hue[c]) }
    }
}

/// A picture in the making: rgb [size, size, 3] f32, 0..1 (may overshoot until finished).
struct Canvas {
    size: usize,
    rgb: Vec<f32>,
}

impl Canvas {
    fn background(&mut self, tiles: &[[Rgb; TILES + 1]; TILES + 1]) {
        let step = TILES as f32 / self.size as f32;
        for (y, line) in self.rgb.chunks_exact_mut(3 * self.size).enumerate() {
            let (row, below) = split((y as f32 + 0.5) * step);
            let knots: [Rgb; TILES + 1] = std::array::from_fn(|x| blend(tiles[row][x], tiles[row + 1][x], below));
            for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
                let (column, right) = split((x as f32 + 0.5) * step);
                pixel.copy_from_slice(&blend(knots[column], knots[column + 1], right));
            }
        }
    }

    fn mark(&mut self, mark: &Mark, pose: &Pose, ink: Rgb) {
        // Enlarged bilinear cells have soft edges: a steeper ramp makes them one pixel wide at any scale.
        // The outline is at 0.4: cells that touch at a corner (0.5 between them) stay connected.
        let slope = pose.scale.max(1.0);
        let outside = (0.5 - 0.4 * slope).min(0.0);
        // half a diagonal, and as much again for shear and aspect
        let reach = pose.scale * ((mark.width * mark.width + mark.height * mark.height) as f32).sqrt();
        let [a, b, c, d] = pose.inverse;
        self.cover(pose.centre.map(|p| p - reach), pose.centre.map(|p| p + reach), ink, |x, y| {
            let (x, y) = (x - pose.centre[0], y - pose.centre[1]);
            outside + slope * mark.coverage(a * x + b * y, c * x + d * y)
        });
    }

    fn stroke(&mut self, stroke: &Stroke) {
        let Stroke { start, span, radius, colour } = stroke;
        let length2 = span[0] * span[0] + span[1] * span[1] + 1e-6;
        let low = [0, 1].map(|i| start[i] + span[i].min(0.0) - radius - 1.0);
        let high = [0, 1].map(|i| start[i] + span[i].max(0.0) + radius + 1.0);
        self.cover(low, high, *colour, |x, y| {
            let (x, y) = (x - start[0], y - start[1]);
            let along = ((x * span[0] + y * span[1]) / length2).clamp(0.0, 1.0);
            let (x, y) = (x - along * span[0], y - along * span[1]);
            radius + 0.5 - (x * x + y * y).sqrt()
        });
    }

    /// Mixes `colour` into the pixels with centres between the corners `low` and `high` (x, y), by opacity(x, y).
    fn cover(&mut self, low: [f32; 2], high: [f32; 2], colour: Rgb, opacity: impl Fn(f32, f32) -> f32) {
        let [x0, y0] = low.map(|p| (p.max(0.0) as usize).min(self.size));
        let [x1, y1] = high.map(|p| (p.max(0.0) as usize + 1).min(self.size));
        for (x, y) in (y0..y1).flat_map(|y| (x0..x1).map(move |x| (x, y))) {
            let opacity = opacity(x as f32 + 0.5, y as f32 + 0.5).clamp(0.0, 1.0);
            for (below, ink) in self.rgb[3 * (self.size * y + x)..][..3].iter_mut().zip(colour) {
                *below = mix(*below, ink, opacity);
            }
        }
    }

    /// Adds noise of this standard deviation and rounds to bytes.
    fn finish(&self, noise: f32, random: &mut Rng, pixels: &mut [u8]) {
        // The sum of two uniform bytes is bell-shaped enough and takes no logarithms; its variance is (256^2 - 1) / 6.
        let scale = noise * 255.0 / 104.51;
        let line = 3 * self.size;
        let mut bytes = vec![0; 2 * line];
        for (rgb, pixels) in self.rgb.chunks_exact(line).zip(pixels.chunks_exact_mut(line)) {
            random.fill_bytes(&mut bytes);
            let (first, second) = bytes.split_at(line);
            for i in 0..line {
                let bell = (first[i] as i32 + second[i] as i32 - 255) as f32;
                pixels[i] = (rgb[i] * 255.0 + bell * scale + 0.5) as u8; // clamps
            }
        }
    }
}

/// Integer part and fraction of a number that is not negative; `fract` is slow without SSE 4.1.
fn split(x: f32) -> (usize, f32) {
    (x as usize, x - (x as usize) as f32)
}

fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

fn blend(a: Rgb, b: Rgb, share: f32) -> Rgb {
    std::array::from_fn(|c| mix(a[c], b[c], share))
}

fn between(low: f32, high: f32, random: &mut Rng) -> f32 {
    mix(low, high, random.random())
}

fn symmetric(limit: f32, random: &mut Rng) -> f32 {
    between(-limit, limit, random)
}

/// A random hue of the given brightness (the mean of the channels).
fn tinted(brightness: f32, random: &mut Rng) -> Rgb {
    let hue = [(); 3].map(|()| symmetric(0.3, random));
    let mean = (hue[0] + hue[1] + hue[2]) / 3.0;
    hue.map(|h| brightness + h - mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(glyphs: &Glyphs, label: usize, id: u64) -> Vec<u8> {
        let mut pixels = vec![0; glyphs.size * glyphs.size * 3];
        glyphs.draw(label, id, &mut pixels);
        pixels
    }

    #[test]
    fn a_picture_depends_on_seed_label_and_id_alone() {
        let glyphs = Glyphs::new(1, 10, 32, 0.5);
        let first = picture(&glyphs, 3, 7);
        assert_ne!(first, picture(&glyphs, 3, 8));
        assert_ne!(first, picture(&Glyphs::new(2, 10, 32, 0.5), 3, 7));
        assert_eq!(first, picture(&Glyphs::new(1, 10, 32, 0.5), 3, 7));
    }

    #[test]
    fn every_class_has_its_own_glyphs() {
        for (seed, classes) in [(0, 47), (1, 48), (2, 47 * 47), (3, 47 * 47 + 1), (u64::MAX, 100_000)] {
            let glyphs = Glyphs::new(seed, classes, 32, 0.5);
            let identities: std::collections::HashSet<Vec<usize>> =
                (0..classes).map(|label| glyphs.identity(label).collect()).collect();
            assert_eq!(identities.len(), classes);
        }
    }

    #[test]
    fn no_glyph_resembles_another_one_or_its_mirror_image() {
        assert_eq!(ALPHABET.chars().count(), LETTERS);
        let alphabet = Glyphs::new(0, 2, 32, 0.0).alphabet;
        for (i, &glyph) in alphabet.iter().enumerate() {
            for image in alphabet[..i].iter().flat_map(|&other| [other, other.map(u8::reverse_bits)]) {
                let different = u64::from_le_bytes(glyph) ^ u64::from_le_bytes(image);
                assert!(different.count_ones() >= 8, "{glyph:?} and {image:?}");
            }
        }
    }

    #[test]
    fn all_sizes_and_difficulties_show_something() {
        for (classes, size) in [2, 100, 100_000].into_iter().flat_map(|n| [16, 17, 32, 112].map(|size| (n, size))) {
            for difficulty in [0.0, 0.2, 0.5, 0.8, 1.0] {
                let pixels = picture(&Glyphs::new(5, classes, size, difficulty), classes - 1, (1 << 46) - 1);
                assert!(pixels.iter().max().unwrap() - pixels.iter().min().unwrap() > 20);
            }
        }
    }

    /// Share of 100 clean examples of 10 classes whose nearest other example, by L1, has the same class.
    fn nearest_neighbour_accuracy(features: impl Fn(&[u8]) -> Vec<i32>) -> f64 {
        let glyphs = Glyphs::new(1, 10, 32, 0.0);
        let all: Vec<Vec<i32>> = (0..100).map(|id| features(&picture(&glyphs, id % 10, id as u64))).collect();
        let distance = |i: usize, j: usize| all[i].iter().zip(&all[j]).map(|(a, b)| (a - b).abs()).sum::<i32>();
        let nearest = |i| (0..100).filter(|&j| j != i).min_by_key(|&j| distance(i, j)).unwrap();
        (0..100).filter(|&i| nearest(i) % 10 == i % 10).count() as f64 / 100.0
    }

    #[test]
    fn the_shape_tells_the_class_and_the_colours_do_not() {
        let green = |pixels: &[u8]| pixels.iter().skip(1).step_by(3).map(|&v| v as i32).collect::<Vec<_>>();
        let outline = |pixels: &[u8]| green(pixels).windows(2).map(|w| ((w[1] - w[0]).abs() > 30) as i32).collect();
        assert!(nearest_neighbour_accuracy(outline) > 0.9);
        let sums =
            |pixels: &[u8]| pixels.chunks(3).fold(vec![0; 3], |s, p| (0..3).map(|c| s[c] + p[c] as i32).collect());
        assert!(nearest_neighbour_accuracy(sums) < 0.25, "chance is 0.1");
    }

    #[test]
    fn the_pictures_never_change() {
        let mut hash = 0xcbf2_9ce4_8422_2325u64; // FNV-1a
        for (classes, size, difficulty) in [(10, 32, 0.5), (1000, 16, 0.0), (100_000, 112, 1.0)] {
            let glyphs = Glyphs::new(42, classes, size, difficulty);
            for (label, id) in [(0, 0), (classes - 1, 1), (classes / 2, 1 << 40)] {
                hash = picture(&glyphs, label, id)
                    .iter()
                    .fold(hash, |hash, &v| (hash ^ v as u64).wrapping_mul(0x0100_0000_01b3));
            }
        }
        assert_eq!(hash, 0xd8cb_7da4_8958_b85c, "new runs can't be compared with earlier ones: {hash:#x}");
    }
}
