//! MegaFace: identification rate at rank N, CMC, and verification rate at a false-accept rate, against any number of
//! distractors. Definition: megaface_evaluator.py of JDAI-CV/FaceX-Zoo, which says that it equals the devkit's.
//!
//! The probes stay, the distractors stream by, and of the [distractors, probes] scores only what can still matter is
//! kept: the K largest of every probe and the largest of all. So the state is bounded, and parts of the distractors
//! can be scored anywhere and merged.
//!
//! Scores are computed [PIECE, TILE] at a time, which fits a cache. Their shapes depend on neither threads nor ranks,
//! hence nor do the bits.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::eval::kernels::inner_products::{OneThread, check_matrix, has_one_dnn, product, to_vec};
use crate::eval::kernels::largest::Largest;
use crate::eval::pairs::verification::false_accepts;

/// Distractors are dealt out in blocks of this many, block b to rank b % ranks: results are then equal to the bit
/// whatever the number of ranks.
pub const DISTRACTORS_PER_BLOCK: usize = 8192;
/// The number of ranks of the CMC that the MegaFace figures show.
pub const RANKS: usize = 1000;

/// Distractors and probes of one product. Their scores take 1 MiB.
const PIECE: usize = 1024;
const TILE: usize = 256;
/// Scores that are compared with their thresholds at once.
const LANES: usize = 32;
/// Impostor scores that a thread collects before it takes the lock.
const COLLECTED: usize = 1024;

/// The state of MegaFace's protocol over the distractors seen so far.
pub struct Identification {
    tiles: Vec<Tile>,
    probes: Tensor,
    keep: usize,
    impostors: Largest,
    distractors: u64,
    threads: usize,
    one_dnn: bool,
}

/// Every ordered pair of one identity's images, (mate in the gallery, probe): the probe and the score, by probe.
pub struct Mates(Vec<(usize, f32)>);

/// Up to `TILE` consecutive probes.
struct Tile {
    /// [probes, D]
    features: Tensor,
    best: Vec<Largest>,
    /// For each probe, the score that a distractor must exceed to change anything.
    thresholds: Vec<f32>,
}

/// The largest impostor scores, as the threads share them.
struct Impostors<'a> {
    top: Mutex<&'a mut Largest>,
    /// The list's threshold as bits; may lag behind.
    threshold: AtomicU32,
}

/// The number of largest impostor scores that `Identification::verification` needs at this false-accept rate.
pub fn impostors_needed(far: f64, probes: usize, distractors: u64) -> usize {
    false_accepts(far, probes as u64 * distractors) as usize + 1
}

impl Identification {
    /// probes [P, D] f32, rows of norm 1, on the device that is to score. `keep`: the ranks of the CMC (`RANKS`, or 1
    /// for rank-1 alone); `impostors`: see `impostors_needed`, or 0 for no verification; `threads`: of the CPU.
    pub fn new(probes: &Tensor, keep: usize, impostors: usize, threads: usize) -> Result<Identification> {
        check_matrix(probes, "probes")?;
        if keep == 0 || threads == 0 || probes.size()[0] == 0 {
            return Err(Error::failed("identification needs a probe, a rank and a thread"));
        }
        for (row, sum) in to_vec(&probes.sum_dim_intlist(1, false, Kind::Float))?.into_iter().enumerate() {
            if !sum.is_finite() {
                return Err(Error::failed(format!("probe {row} has a feature that is not finite")));
            }
        }
        let probes = probes.detach().contiguous();
        let tile = |features: Tensor| {
            let count = features.size()[0] as usize;
            Tile { features, best: vec![Largest::new(keep); count], thresholds: vec![f32::NEG_INFINITY; count] }
        };
        Ok(Identification {
            tiles: probes.split(TILE as i64, 0).into_iter().map(tile).collect(),
            keep,
            impostors: Largest::new(impostors),
            distractors: 0,
            threads,
            one_dnn: has_one_dnn(&probes),
            probes,
        })
    }

    /// Scores the distractors of `block` [n, D] f32, of the probes' device, in any number; see `DISTRACTORS_PER_BLOCK`. Features that
    /// are not finite are an error, after which the state is of no use. While it runs, libtorch has one thread.
    pub fn add(&mut self, block: &Tensor) -> Result<()> {
        check_matrix(block, "distractors")?;
        if block.size()[1] != self.probes.size()[1] || block.device() != self.probes.device() {
            return Err(Error::failed(format!(
                "distractors of {} features on {:?}, but probes of {} on {:?}",
                block.size()[1],
                block.device(),
                self.probes.size()[1],
                self.probes.device()
            )));
        }
        let (first, count) = (self.distractors, block.size()[0]);
        if block.device() == Device::Cpu { self.add_on_threads(block) } else { self.add_on_device(block) }.map_err(
            |error| match error {
                Bad::Distractor(i) => Error::failed(format!(
                    "distractor {} (of those this process was given) has a feature that is not finite",
                    first + i as u64
                )),
                Bad::Torch(error) => error.into(),
            },
        )?;
        self.distractors += count as u64;
        Ok(())
    }

    fn add_on_threads(&mut self, block: &Tensor) -> std::result::Result<(), Bad> {
        let block = block.detach().contiguous();
        let impostors = Impostors {
            threshold: AtomicU32::new(self.impostors.threshold().to_bits()),
            top: Mutex::new(&mut self.impostors),
        };
        let one_dnn = self.one_dnn;
        let threads = self.threads.min(self.tiles.len());
        let tiles = Mutex::new(self.tiles.iter_mut().enumerate());
        let work = |block: Tensor| -> std::result::Result<(), Bad> {
            tch::set_num_threads(1); // OpenMP counts per thread; these threads are the parallelism
            let mut collected = Vec::with_capacity(COLLECTED);
            loop {
                let next = tiles.lock().expect("no thread panics").next();
                let Some((index, tile)) = next else { break };
                tile.add(&block, index == 0, one_dnn, &impostors, &mut collected)?;
            }
            impostors.take(&mut collected);
            Ok(())
        };
        let _one = OneThread::new();
        if threads == 1 {
            work(block)
        } else {
            std::thread::scope(|scope| {
                let running: Vec<_> = (0..threads)
                    .map(|_| {
                        let (work, block) = (&work, block.shallow_clone());
                        scope.spawn(move || work(block))
                    })
                    .collect();
                let results: Vec<_> = running.into_iter().map(|thread| thread.join().expect("no panic")).collect();
                results.into_iter().collect()
            })
        }
    }

    /// Does what `add_on_threads` does, with the device's own top-k operation.
    fn add_on_device(&mut self, block: &Tensor) -> std::result::Result<(), Bad> {
        for (index, tile) in self.tiles.iter_mut().enumerate() {
            let scores = block.f_mm(&tile.features.tr())?; // [n, probes]
            if index == 0
                && let Some(bad) = to_vec(&scores.select(1, 0))?.iter().position(|score| !score.is_finite())
            {
                return Err(Bad::Distractor(bad));
            }
            let count = self.keep.min(scores.size()[0] as usize);
            let best = to_vec(&scores.f_topk(count as i64, 0, true, true)?.0.tr())?;
            for (top, best) in tile.best.iter_mut().zip(best.chunks_exact(count.max(1))) {
                best.iter().for_each(|&score| top.push(score));
            }
            let count = self.impostors.capacity().min(scores.numel());
            let best = to_vec(&scores.reshape(-1).f_topk(count as i64, 0, true, true)?.0)?;
            best.into_iter().for_each(|score| self.impostors.push(score));
        }
        Ok(())
    }

    /// The `keep` largest scores so far of each probe of the range, descending, filled up with -inf: [probes, keep].
    pub fn top(&self, probes: Range<usize>) -> Vec<f32> {
        probes.flat_map(|probe| self.best(probe).sorted()).collect()
    }

    /// How many probes have a score above this with a distractor.
    pub fn probes_above(&self, score: f32) -> usize {
        self.tiles.iter().flat_map(|tile| &tile.best).filter(|best| best.first() > score).count()
    }

    /// The largest scores so far of all probes, descending, then -inf: [impostors].
    pub fn impostors(&self) -> Vec<f32> {
        self.impostors.sorted()
    }

    /// Distractors scored so far.
    pub fn distractors(&self) -> u64 {
        self.distractors
    }

    /// Takes over what `top` returned for this range of probes, of all parts, this one's own among them:
    /// [parts, probes, keep]. A range at a time keeps memory bounded.
    pub fn merge_top(&mut self, probes: Range<usize>, parts: &[f32]) {
        assert!(parts.len().is_multiple_of((probes.len() * self.keep).max(1)), "whole parts");
        for (i, probe) in probes.clone().enumerate() {
            let mut top = Largest::new(self.keep);
            for part in parts.chunks_exact(probes.len() * self.keep) {
                part[i * self.keep..][..self.keep].iter().for_each(|&score| top.push(score));
            }
            self.tiles[probe / TILE].best[probe % TILE] = top;
        }
    }

    /// Takes over what `impostors` and `distractors` returned, of all parts, this one's own among them:
    /// [parts, impostors] and the sum.
    pub fn merge_impostors(&mut self, parts: &[f32], distractors: u64) {
        self.impostors = Largest::new(self.impostors.capacity());
        parts.iter().for_each(|&score| self.impostors.push(score));
        self.distractors = distractors;
    }

    /// labels [P] -> share of the mate pairs that are identified at rank 1.
    pub fn rank1(&self, labels: &[i64]) -> Result<f64> {
        Ok(self.cmc(&self.mates(labels)?)?[0])
    }

    /// [keep]: item N - 1 is the share of the mate pairs with fewer than N distractors of a larger score with the probe
    /// than the mate's. Ties count as success; the identity's other images are not in the gallery.
    pub fn cmc(&self, mates: &Mates) -> Result<Vec<f64>> {
        self.check_distractors()?;
        let mut identified = vec![0u64; self.keep + 1]; // by rank from 0; the last: not within `keep`
        for of_probe in mates.0.chunk_by(|a, b| a.0 == b.0) {
            let best = self.best(of_probe[0].0).sorted();
            for &(_, score) in of_probe {
                identified[best.partition_point(|&distractor| distractor > score)] += 1;
            }
        }
        let mut sum = 0;
        let up_to = |&count: &u64| {
            sum += count;
            sum as f64 / mates.0.len() as f64
        };
        Ok(identified[..self.keep].iter().map(up_to).collect())
    }

    /// Share of the mate pairs whose score is larger than the (k + 1)-th largest of all probes with all distractors,
    /// k = floor(far x their number): no more impostors are accepted than `far` allows.
    pub fn verification(&self, mates: &Mates, far: f64) -> Result<f64> {
        self.check_distractors()?;
        if !(0.0..1.0).contains(&far) {
            return Err(Error::failed(format!("false-accept rate {far} is not in [0, 1)")));
        }
        let needed = impostors_needed(far, self.probes.size()[0] as usize, self.distractors);
        if needed > self.impostors.capacity() {
            let kept = self.impostors.capacity();
            return Err(Error::failed(format!(
                "false-accept rate {far} needs the {needed} largest scores, but {kept} were kept"
            )));
        }
        let threshold = self.impostors.sorted()[needed - 1];
        let accepted = mates.0.iter().filter(|&&(_, score)| score > threshold).count();
        Ok(accepted as f64 / mates.0.len() as f64)
    }

    fn check_distractors(&self) -> Result<()> {
        if self.distractors == 0 { Err(Error::failed("identification needs distractors")) } else { Ok(()) }
    }

    /// labels [P] -> all mate pairs. Scores come from the same kernel as the distractors', so that equal features tie.
    /// Error: no two images of one identity.
    pub fn mates(&self, labels: &[i64]) -> Result<Mates> {
        if labels.len() != self.probes.size()[0] as usize {
            return Err(Error::failed(format!("{} labels for {} probes", labels.len(), self.probes.size()[0])));
        }
        let _one = OneThread::new(); // a few products; libtorch's threads gain little and wait for each other
        let mut mates = Vec::new();
        for (t, tile) in self.tiles.iter().enumerate() {
            for (p, piece) in self.probes.split(PIECE as i64, 0).iter().enumerate() {
                let scores = to_vec(&product(piece, &tile.features, self.one_dnn)?)?;
                for (i, scores) in scores.chunks_exact(tile.best.len()).enumerate() {
                    let mate = p * PIECE + i;
                    for (probe, &score) in (t * TILE..).zip(scores) {
                        if probe != mate && labels[probe] == labels[mate] {
                            mates.push((probe, score));
                        }
                    }
                }
            }
        }
        mates.sort_by_key(|&(probe, _)| probe);
        if mates.is_empty() { Err(Error::failed("no identity has two probes")) } else { Ok(Mates(mates)) }
    }

    fn best(&self, probe: usize) -> &Largest {
        &self.tiles[probe / TILE].best[probe % TILE]
    }
}

impl Tile {
    fn add(
        &mut self,
        block: &Tensor,
        first: bool,
        one_dnn: bool,
        impostors: &Impostors,
        collected: &mut Vec<f32>,
    ) -> std::result::Result<(), Bad> {
        let count = self.best.len();
        for (p, piece) in block.f_split(PIECE as i64, 0)?.iter().enumerate() {
            let scores = product(piece, &self.features, one_dnn)?;
            // SAFETY: a contiguous CPU tensor of f32 that outlives the slice and that nothing else refers to
            let scores = unsafe { std::slice::from_raw_parts(scores.data_ptr() as *const f32, scores.numel()) };
            let mut of_all = impostors.threshold();
            for (threshold, top) in self.thresholds.iter_mut().zip(&self.best) {
                *threshold = top.threshold().min(of_all);
            }
            for (i, scores) in scores.chunks_exact(count).enumerate() {
                // a feature that is not finite makes every score of its distractor so
                if first && !scores[0].is_finite() {
                    return Err(Bad::Distractor(p * PIECE + i));
                }
                for start in (0..count).step_by(LANES) {
                    let lanes = start..(start + LANES).min(count);
                    if !any_above(&scores[lanes.clone()], &self.thresholds[lanes.clone()]) {
                        continue;
                    }
                    for probe in lanes {
                        let score = scores[probe];
                        if score > self.thresholds[probe] {
                            self.best[probe].push(score);
                            self.thresholds[probe] = self.best[probe].threshold().min(of_all);
                            if score > of_all {
                                collected.push(score);
                                if collected.len() == COLLECTED {
                                    of_all = impostors.take(collected);
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(())
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

/// Whether any score is larger than its threshold; without branches, so that the compiler can vectorise it.
fn any_above(scores: &[f32], thresholds: &[f32]) -> bool {
    scores.iter().zip(thresholds).fold(false, |any, (score, threshold)| any | (score > threshold))
}

/// Why a block could not be added.
enum Bad {
    Distractor(usize),
    Torch(tch::TchError),
}

impl From<tch::TchError> for Bad {
    fn from(error: tch::TchError) -> Bad {
        Bad::Torch(error)
    }
}

#[cfg(test)]
mod tests;
