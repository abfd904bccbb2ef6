//! y = max(0, BatchNorm(x) + shortcut) of a batch's statistics, and its gradient, on the CPU in f32: two passes over the numbers
//! each, where libtorch's separate operations take more. Both are as fast as the memory, so the gradient computes y anew where it can.
//!
//! Sums are made block by block and then in the blocks' order, without fused multiply-adds: the same bits on every machine and for
//! any number of threads.

use std::ops::Range;

use super::autograd::in_parallel;

/// Numbers that are computed side by side: of several rows, or of a part of one.
const LANES: usize = 64;
/// Numbers of a block: 64 KB.
const BLOCK: usize = 1 << 14;

/// x [rows, C], a row for each pixel.
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub channels: usize,
}

/// Whether there is code for so many channels: the lanes are whole rows, or a row is whole lanes.
pub fn has_lanes_for(channels: usize) -> bool {
    channels > 0 && (LANES.is_multiple_of(channels) || channels.is_multiple_of(LANES))
}

/// [C] each.
pub struct Channels<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f64,
}

/// Of a batch, [C] each; f64.
pub struct Statistics {
    pub mean: Vec<f64>,
    /// Of the batch itself: divided by the rows.
    pub variance: Vec<f64>,
}

/// What `backward` reads: the gradient of y [rows, C], and what `forward` read and found.
pub struct Backward<'a> {
    pub dy: &'a [f32],
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub statistics: &'a Statistics,
    pub eps: f64,
}

type Lanes = [f32; LANES];

/// A value for each lane: [C] repeated to at least the lanes.
struct Wide(Vec<f32>);

impl Wide {
    fn new(channels: &[f32]) -> Wide {
        Wide(channels.repeat(LANES.div_ceil(channels.len())))
    }

    /// From a lane's place among the numbers on.
    #[inline(always)]
    fn at(&self, place: usize) -> &Lanes {
        self.0[place..].first_chunk().expect("so many lanes")
    }
}

/// y = scale x + shift.
struct Affine {
    scale: Wide,
    shift: Wide,
}

impl Shape {
    fn numbers(self) -> usize {
        self.rows * self.channels
    }

    fn rows_of_a_block(self) -> usize {
        (BLOCK / self.channels).max(1)
    }

    fn blocks(self) -> usize {
        self.rows.div_ceil(self.rows_of_a_block())
    }

    /// The numbers of a block.
    fn block(self, block: usize) -> Range<usize> {
        let numbers = self.rows_of_a_block() * self.channels;
        block * numbers..((block + 1) * numbers).min(self.numbers())
    }
}

/// The numbers at `at`, 0 beyond the last one.
#[inline(always)]
fn load(from: &[f32], at: usize) -> Lanes {
    match from[at..].first_chunk::<LANES>() {
        Some(lanes) => *lanes,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..from.len() - at].copy_from_slice(&from[at..]);
            lanes
        }
    }
}

#[inline(always)]
fn store(lanes: &Lanes, to: &mut [f32], at: usize) {
    match to[at..].first_chunk_mut::<LANES>() {
        Some(whole) => *whole = *lanes,
        None => {
            let count = to.len() - at;
            to[at..].copy_from_slice(&lanes[..count]);
        }
    }
}

#[inline(always)]
fn lanes(f: impl Fn(usize) -> f32) -> Lanes {
    let mut lanes = [0.0; LANES];
    // a plain loop becomes vectors
    #[allow(clippy::needless_range_loop)]
    for i in 0..LANES {
        lanes[i] = f(i);
    }
    lanes
}

/// Compiles a function for the vectors that the processor has.
macro_rules! vectorised {
    ($(#[$about:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $body:block) => {
        $(#[$about])*
        fn $name($($argument: $kind),*) {
            #[inline(always)]
            fn plain($($argument: $kind),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f")]
                fn avx512($($argument: $kind),*) {
                    plain($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $kind),*) {
                    plain($($argument),*)
                }
                if std::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the processor has it
                    return unsafe { avx512($($argument),*) };
                }
                if std::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has it
                    return unsafe { avx2($($argument),*) };
                }
            }
            plain($($argument),*)
        }
    };
}

/// Calls `f` with the place of each group of lanes in a row and the places of its numbers in a block, and adds up the two
/// values per lane that it gives: into sums [2, C].
#[inline(always)]
fn sum(numbers: usize, channels: usize, sums: &mut [f32], mut f: impl FnMut(usize, usize) -> (Lanes, Lanes)) {
    let (first_sums, second_sums) = sums.split_at_mut(channels);
    for group in (0..channels).step_by(LANES) {
        let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
        for at in (group..numbers).step_by(channels.max(LANES)) {
            let (a, b) = f(group, at);
            first = lanes(|i| first[i] + a[i]);
            second = lanes(|i| second[i] + b[i]);
        }
        let of_group = channels.min(LANES);
        for lane in 0..LANES {
            first_sums[group + lane % of_group] += first[lane];
            second_sums[group + lane % of_group] += second[lane];
        }
    }
}

vectorised! {
    /// Sums of x - pivot and of its squares over a block: [2, C].
    fn sum_forward(x: &[f32], pivot: &Wide, channels: usize, sums: &mut [f32]) {
        sum(x.len(), channels, sums, |group, at| {
            let (x, pivot, count) = (load(x, at), pivot.at(group), x.len() - at);
            let from = lanes(|i| if i < count { x[i] - pivot[i] } else { 0.0 });
            (from, lanes(|i| from[i] * from[i]))
        });
    }
}

vectorised! {
    /// max(0, scale x + shift + shortcut) of a block.
    fn apply_forward(x: &[f32], shortcut: Option<&[f32]>, affine: &Affine, y: &mut [f32]) {
        for at in (0..x.len()).step_by(LANES) {
            let place = at % affine.scale.0.len();
            let (scale, shift, x) = (affine.scale.at(place), affine.shift.at(place), load(x, at));
            let mut sum = lanes(|i| x[i] * scale[i] + shift[i]);
            if let Some(shortcut) = shortcut {
                let shortcut = load(shortcut, at);
                sum = lanes(|i| sum[i] + shortcut[i]);
            }
            // NaN stays NaN
            store(&lanes(|i| if sum[i] < 0.0 { 0.0 } else { sum[i] }), y, at);
        }
    }
}

vectorised! {
    /// Sums of g = dy where y > 0 (or NaN) and of g (x - mean) over a block: [2, C]. y follows from x.
    fn sum_backward(dy: &[f32], x: &[f32], y: &Affine, mean: &Wide, channels: usize, sums: &mut [f32]) {
        sum(x.len(), channels, sums, |group, at| {
            let (scale, shift, mean) = (y.scale.at(group), y.shift.at(group), mean.at(group));
            let (dy, x) = (load(dy, at), load(x, at));
            let g = lanes(|i| if x[i] * scale[i] + shift[i] <= 0.0 { 0.0 } else { dy[i] });
            (g, lanes(|i| g[i] * (x[i] - mean[i])))
        });
    }
}

vectorised! {
    /// The same where y is not x's alone. g is kept: it is the shortcut's gradient.
    fn sum_backward_with_shortcut(of: [&[f32]; 3], mean: &Wide, channels: usize, sums: &mut [f32], g: &mut [f32]) {
        let [dy, x, y] = of;
        sum(x.len(), channels, sums, |group, at| {
            let (dy, x, y, mean) = (load(dy, at), load(x, at), load(y, at), mean.at(group));
            let g_here = lanes(|i| if y[i] <= 0.0 { 0.0 } else { dy[i] });
            store(&g_here, g, at);
            (g_here, lanes(|i| g_here[i] * (x[i] - mean[i])))
        });
    }
}

vectorised! {
    /// dx = scale g - shift - slope (x - mean) of a block, where g is dy where y > 0; y: `None`, dy is g.
    fn apply_backward(dy: &[f32], x: &[f32], y: Option<&Affine>, mean: &Wide, factors: [&Wide; 3], dx: &mut [f32]) {
        for at in (0..x.len()).step_by(LANES) {
            let place = at % mean.0.len();
            let [scale, shift, slope] = factors.map(|factor| factor.at(place));
            let (mut g, x, mean) = (load(dy, at), load(x, at), mean.at(place));
            if let Some(y) = y {
                let (y_scale, y_shift) = (y.scale.at(place), y.shift.at(place));
                g = lanes(|i| if x[i] * y_scale[i] + y_shift[i] <= 0.0 { 0.0 } else { g[i] });
            }
            store(&lanes(|i| scale[i] * g[i] - shift[i] - slope[i] * (x[i] - mean[i])), dx, at);
        }
    }
}

/// Adds up the sums [2, C] of all blocks in f64, in order.
fn total(shape: Shape, of_block: impl Fn(usize, &mut [f32]) + Sync) -> (Vec<f64>, Vec<f64>) {
    let length = 2 * shape.channels;
    let mut partial = vec![0f32; shape.blocks() * length];
    let partials = Parts::new(&mut partial);
    // SAFETY: each block has sums of its own
    in_parallel(shape.blocks(), |block| {
        of_block(block, unsafe { partials.part(block * length..(block + 1) * length) })
    });
    let mut sums = vec![0f64; length];
    for partial in partial.chunks_exact(length) {
        sums.iter_mut().zip(partial).for_each(|(sum, &partial)| *sum += f64::from(partial));
    }
    let second = sums.split_off(shape.channels);
    (sums, second)
}

/// Has `of_block` write each block of [rows, C] numbers.
fn write_blocks(shape: Shape, numbers: &mut [f32], of_block: impl Fn(Range<usize>, &mut [f32]) + Sync) {
    let parts = Parts::new(numbers);
    in_parallel(shape.blocks(), |block| {
        let range = shape.block(block);
        // SAFETY: blocks do not overlap
        of_block(range.clone(), unsafe { parts.part(range) });
    });
}

/// x and shortcut [rows, C] -> y [rows, C].
pub fn forward(shape: Shape, x: &[f32], shortcut: Option<&[f32]>, of: &Channels, y: &mut [f32]) -> Statistics {
    let Shape { rows, channels } = shape;
    // values near the mean keep the squares small
    let pivot: Vec<f32> = x[..channels].to_vec();
    let wide_pivot = Wide::new(&pivot);
    let (sums, squares) = total(shape, |block, sums| sum_forward(&x[shape.block(block)], &wide_pivot, channels, sums));
    let rows = rows as f64;
    let mean = pivot.iter().zip(&sums).map(|(&pivot, sum)| f64::from(pivot) + sum / rows).collect();
    let variance = |(sum, square): (&f64, &f64)| {
        let variance = square / rows - (sum / rows).powi(2);
        // NaN stays NaN
        if variance < 0.0 { 0.0 } else { variance }
    };
    let statistics = Statistics { mean, variance: sums.iter().zip(&squares).map(variance).collect() };

    let affine = Affine::new(&statistics, of);
    write_blocks(shape, y, |range, y| {
        let shortcut = shortcut.map(|shortcut| &shortcut[range.clone()]);
        apply_forward(&x[range], shortcut, &affine, y);
    });
    statistics
}

impl Statistics {
    /// 1 / the standard deviation of a channel.
    fn inverse(&self, channel: usize, eps: f64) -> f64 {
        1.0 / (self.variance[channel] + eps).sqrt()
    }
}

impl Affine {
    /// weight (x - mean) / deviation + bias
    fn new(statistics: &Statistics, of: &Channels) -> Affine {
        let channels = 0..of.weight.len();
        let scale: Vec<f64> =
            channels.clone().map(|c| f64::from(of.weight[c]) * statistics.inverse(c, of.eps)).collect();
        let shift: Vec<f64> = channels.map(|c| f64::from(of.bias[c]) - statistics.mean[c] * scale[c]).collect();
        Affine { scale: Wide::new(&narrow(&scale)), shift: Wide::new(&narrow(&shift)) }
    }
}

/// What `backward` writes: the gradients of x [rows, C], and of weight and bias [C].
pub struct Gradients<'a> {
    /// `None`: nobody asks for it.
    pub dx: Option<&'a mut [f32]>,
    pub dweight: &'a mut [f32],
    pub dbias: &'a mut [f32],
}

/// With a shortcut: y [rows, C], and where the shortcut's gradient [rows, C] is written.
pub type WithShortcut<'a> = Option<(&'a [f32], &'a mut [f32])>;

pub fn backward(shape: Shape, of: &Backward, shortcut: WithShortcut, gradients: Gradients) {
    let Shape { rows, channels } = shape;
    let Backward { dy, x, weight, bias, statistics, eps } = *of;
    let mean = Wide::new(&narrow(&statistics.mean));
    let y = Affine::new(statistics, &Channels { weight, bias, eps });
    let (dbias, products, g) = match shortcut {
        None => {
            let (dbias, products) = total(shape, |block, sums| {
                let range = shape.block(block);
                sum_backward(&dy[range.clone()], &x[range], &y, &mean, channels, sums);
            });
            (dbias, products, None)
        }
        Some((y, g)) => {
            let parts = Parts::new(g);
            let (dbias, products) = total(shape, |block, sums| {
                let range = shape.block(block);
                // SAFETY: blocks do not overlap
                let g = unsafe { parts.part(range.clone()) };
                let of = [dy, x, y].map(|numbers| &numbers[range.clone()]);
                sum_backward_with_shortcut(of, &mean, channels, sums, g);
            });
            (dbias, products, Some(&*g))
        }
    };
    let inverse = |c: usize| statistics.inverse(c, eps);
    let dweight: Vec<f64> = (0..channels).map(|c| products[c] * inverse(c)).collect();
    gradients.dweight.copy_from_slice(&narrow(&dweight));
    gradients.dbias.copy_from_slice(&narrow(&dbias));
    let Some(dx) = gradients.dx else { return };
    let scale = |c: usize| f64::from(weight[c]) * inverse(c);
    let rows = rows as f64;
    let wide = |f: &dyn Fn(usize) -> f64| Wide::new(&(0..channels).map(|c| f(c) as f32).collect::<Vec<_>>());
    let (shift, slope) = (wide(&|c| scale(c) * dbias[c] / rows), wide(&|c| scale(c) * dweight[c] * inverse(c) / rows));
    let (dy, gate) = g.map_or((dy, Some(&y)), |g| (g, None));
    write_blocks(shape, dx, |range, dx| {
        apply_backward(&dy[range.clone()], &x[range], gate, &mean, [&y.scale, &shift, &slope], dx);
    });
}

fn narrow(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().map(|&number| number as f32).collect()
}

/// Numbers of which threads write different parts.
struct Parts<'a> {
    start: *mut f32,
    length: usize,
    numbers: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: see `part`
unsafe impl Sync for Parts<'_> {}

impl<'a> Parts<'a> {
    fn new(numbers: &'a mut [f32]) -> Parts<'a> {
        Parts { start: numbers.as_mut_ptr(), length: numbers.len(), numbers: std::marker::PhantomData }
    }

    /// SAFETY: no two parts that are alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.length);
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
