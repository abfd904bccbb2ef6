//! A block of distractors against all probes on CPU threads: scores as they are computed, and what is kept of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tch::Tensor;

use super::{Bad, Identification, PIECE, Tile};
use crate::eval::kernels::bounded_product::{Approximate, Brain, Extent, Fast, Prepared, Products, Side, dot};
use crate::eval::kernels::inner_products::OneThread;
use crate::eval::kernels::largest::Largest;
use crate::tensor_memory::numbers;

/// Scores that are compared with their thresholds at once.
const LANES: usize = 8;
/// Impostor scores that a thread collects before it takes the lock.
const COLLECTED: usize = 1024;

/// The largest impostor scores, as the threads share them.
struct Impostors<'a> {
    top: Mutex<&'a mut Largest>,
    /// The list's threshold as bits; may lag behind.
    threshold: AtomicU32,
}

/// A block of distractors that is being scored.
struct Scored {
    /// [n, D]
    features: Tensor,
    /// The same, as they are multiplied fast.
    prepared: Prepared,
    dimensions: usize,
    /// The largest.
    extent: Extent,
}

impl Scored {
    fn share(&self) -> Scored {
        Scored { features: self.features.shallow_clone(), prepared: self.prepared.share(), ..*self }
    }
}

/// One tile of each identification that has members in the block.
struct TileOfAll<'a> {
    takers: Vec<Taker<'a>>,
}

struct Taker<'a> {
    tile: &'a mut Tile,
    members: &'a [bool],
    /// The identification's number.
    number: usize,
    /// The impostors' threshold, as far as this thread knows.
    of_all: f32,
    /// How far each probe's fast scores with the block may be off, and what they must exceed.
    errors: Vec<f32>,
    fast_thresholds: Vec<f32>,
}

/// Scores the CPU block for all of them; see `add_to_all`.
pub fn add_on_threads(
    identifications: &mut [(&mut Identification, Vec<bool>)],
    block: &Tensor,
) -> std::result::Result<(), Bad> {
    let block = block.detach().contiguous();
    let (threads, fast) = (identifications[0].0.threads, identifications[0].0.fast);
    let (prepared, extents) = fast.prepare(&block, Side::Left)?;
    if let Some(bad) = extents.iter().position(|extent| !extent.norm.is_finite()) {
        return Err(Bad::Distractor(bad));
    }
    let block = Scored {
        prepared,
        dimensions: block.size()[1] as usize,
        extent: extents.into_iter().fold(Extent::default(), Extent::or),
        features: block,
    };
    let count = identifications[0].0.tiles.len();
    let mut impostors = Vec::new();
    let mut tiles: Vec<TileOfAll> = (0..count).map(|_| TileOfAll { takers: Vec::new() }).collect();
    for (number, (identification, members)) in identifications.iter_mut().enumerate() {
        let Identification { tiles: own, impostors: top, .. } = &mut **identification;
        impostors.push(Impostors { threshold: AtomicU32::new(top.threshold().to_bits()), top: Mutex::new(top) });
        if members.contains(&true) {
            for (all, tile) in tiles.iter_mut().zip(own) {
                all.takers.push(Taker {
                    tile,
                    members: &members[..],
                    number,
                    of_all: f32::NEG_INFINITY,
                    errors: Vec::new(),
                    fast_thresholds: Vec::new(),
                });
            }
        }
    }
    let (threads, next) = (threads.min(count), Mutex::new(tiles.into_iter()));
    let work = |block: Scored| -> std::result::Result<(), Bad> {
        tch::set_num_threads(1); // OpenMP counts per thread; these threads are the parallelism
        let mut collected: Vec<Vec<f32>> = impostors.iter().map(|_| Vec::with_capacity(COLLECTED)).collect();
        loop {
            let tile = next.lock().expect("no thread panics").next();
            let Some(tile) = tile else { break };
            tile.add(&block, fast, &impostors, &mut collected)?;
        }
        for (impostors, collected) in impostors.iter().zip(&mut collected) {
            impostors.take(collected);
        }
        Ok(())
    };
    let _one = OneThread::new();
    if threads == 1 {
        return work(block);
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                let (work, block) = (&work, block.share());
                scope.spawn(move || work(block))
            })
            .collect();
        let results: Vec<_> = running.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        results.into_iter().collect()
    })
}

impl TileOfAll<'_> {
    fn add(
        mut self,
        block: &Scored,
        fast: Fast,
        impostors: &[Impostors],
        collected: &mut [Vec<f32>],
    ) -> std::result::Result<(), Bad> {
        let Some(Taker { tile, .. }) = self.takers.first() else { return Ok(()) };
        let (prepared, probes) = (tile.prepared.share(), tile.features.shallow_clone());
        let extent = tile.extents.iter().copied().fold(Extent::default(), Extent::or);
        for (p, features) in block.features.f_split(PIECE as i64, 0)?.into_iter().enumerate() {
            let piece = block.prepared.narrow(p * PIECE, features.size()[0] as usize)?;
            let (mut fast, mut products) = (fast, fast.products(&piece, &prepared)?);
            let (of_block, of_probes) = ((numbers(&features), block.extent), (numbers(&probes), extent));
            if !fast.holds(&products, of_block, of_probes, block.dimensions) {
                fast = Fast::Single { one_dnn: false };
                let (left, right) = (fast.prepare(&features, Side::Left)?, fast.prepare(&probes, Side::Right)?);
                products = fast.products(&left.0, &right.0)?;
            }
            match &products {
                Products::Brain(of) => self.take(numbers::<Brain>(of), p * PIECE, block, fast, impostors, collected),
                Products::Single(of) => self.take(numbers::<f32>(of), p * PIECE, block, fast, impostors, collected),
            }
        }
        Ok(())
    }

    /// Takes what matters to anyone of the fast scores [rows, probes] of the block's rows from the `first` on.
    fn take<T: Approximate>(
        &mut self,
        scores: &[T],
        first: usize,
        block: &Scored,
        fast: Fast,
        impostors: &[Impostors],
        collected: &mut [Vec<f32>],
    ) {
        let dimensions = block.dimensions;
        let row = |row: usize| row * dimensions..(row + 1) * dimensions;
        let features = self.takers[0].tile.features.shallow_clone();
        let (distractors, probes) = (numbers::<f32>(&block.features), numbers::<f32>(&features));
        for taker in &mut self.takers {
            taker.look_at(block, fast, &impostors[taker.number]);
        }
        for (i, scores) in scores.chunks_exact(features.size()[0] as usize).enumerate() {
            let concerned = |taker: &&mut Taker| taker.members[first + i];
            let groups = |taker: &mut Taker| groups_above(scores, &taker.fast_thresholds);
            let mut groups = self.takers.iter_mut().filter(concerned).map(groups).fold(0, |all, groups| all | groups);
            while groups != 0 {
                let start = groups.trailing_zeros() as usize * LANES;
                groups &= groups - 1;
                for probe in start..(start + LANES).min(scores.len()) {
                    let fast_score = scores[probe].value();
                    let may_matter = |taker: &mut Taker| fast_score > taker.fast_thresholds[probe];
                    if !self.takers.iter_mut().filter(concerned).any(may_matter) {
                        continue;
                    }
                    let score = dot(&distractors[row(first + i)], &probes[row(probe)]);
                    for taker in self.takers.iter_mut().filter(concerned) {
                        if score > taker.tile.thresholds[probe] {
                            taker.push(probe, score, &impostors[taker.number], &mut collected[taker.number]);
                            taker.fast_thresholds[probe] =
                                fast.below(taker.tile.thresholds[probe], taker.errors[probe]);
                        }
                    }
                }
            }
        }
    }
}

impl Taker<'_> {
    /// Takes the impostors' threshold over, as far as it has got.
    fn look_at(&mut self, block: &Scored, fast: Fast, impostors: &Impostors) {
        self.of_all = impostors.threshold();
        let Tile { best, thresholds, extents, .. } = &mut *self.tile;
        for (threshold, best) in thresholds.iter_mut().zip(best) {
            *threshold = best.threshold().min(self.of_all);
        }
        self.errors = extents.iter().map(|extent| extent.error_with(block.extent, block.dimensions)).collect();
        let pairs = thresholds.iter().zip(&self.errors);
        self.fast_thresholds = pairs.map(|(threshold, error)| fast.below(*threshold, *error)).collect();
    }

    fn push(&mut self, probe: usize, score: f32, impostors: &Impostors, collected: &mut Vec<f32>) {
        let best = &mut self.tile.best[probe];
        best.push(score);
        if score > self.of_all {
            collected.push(score);
            if collected.len() == COLLECTED {
                self.of_all = impostors.take(collected);
            }
        }
        self.tile.thresholds[probe] = best.threshold().min(self.of_all);
    }
}

impl Impostors<'_> {
    fn threshold(&self) -> f32 {
        f32::from_bits(self.threshold.load(Ordering::Relaxed))
    }

    /// Empties `collected` into the list; returns its threshold.
    fn take(&self, collected: &mut Vec<f32>) -> f32 {
        let mut top = self.top.lock().expect("no thread panics");
        collected.drain(..).for_each(|score| top.push(score));
        self.threshold.store(top.threshold().to_bits(), Ordering::Relaxed);
        top.threshold()
    }
}

/// Of each `LANES` scores whether one is larger than its threshold, a bit each: of at most `TILE` scores. With wider vectors than
/// the program itself may take for granted.
fn groups_above<T: Approximate>(scores: &[T], thresholds: &[f32]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn wide<T: Approximate>(scores: &[T], thresholds: &[f32]) -> u32 {
            any_above(scores, thresholds)
        }
        // SAFETY: the processor has it
        return unsafe { wide(scores, thresholds) };
    }
    any_above(scores, thresholds)
}

/// Without branches, so that the compiler can vectorise it.
#[inline(always)]
fn any_above<T: Approximate>(scores: &[T], thresholds: &[f32]) -> u32 {
    let groups = scores.chunks(LANES).zip(thresholds.chunks(LANES)).enumerate();
    groups.fold(0, |groups, (group, (scores, thresholds))| {
        let above = |(score, threshold): (&T, &f32)| score.value() > *threshold;
        let any = scores.iter().zip(thresholds).fold(false, |any, pair| any | above(pair));
        groups | u32::from(any) << group
    })
}
