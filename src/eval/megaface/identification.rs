//! MegaFace: identification rate at rank N, CMC, and verification rate at a false-accept rate, against any number of
//! distractors. Definition: megaface_evaluator.py of JDAI-CV/FaceX-Zoo, which says that it equals the devkit's.
//!
//! The probes stay, the distractors stream by, and of the [distractors, probes] scores only what can still matter is
//! kept: the K largest of every probe and the largest of all. So the state is bounded, and parts of the distractors
//! can be scored anywhere and merged.
//!
//! On CPUs scores are computed fast and with a bound of their error, [PIECE, TILE] at a time, which fits a cache; then those that may
//! matter alone and exactly (`kernels/bounded_product.rs`). So the bits depend on neither threads nor ranks nor machine.

mod scoring;

use std::collections::HashMap;
use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::eval::kernels::bounded_product::{Extent, Fast, Prepared, Side, dot};
use crate::eval::kernels::inner_products::{check_matrix, to_vec};
use crate::eval::kernels::largest::Largest;
use crate::eval::pairs::verification::false_accepts;
use crate::tensor_memory::numbers;
use scoring::add_on_threads;

/// Distractors are dealt out in blocks of this many, block b to rank b % ranks: results are then equal to the bit
/// whatever the number of ranks.
pub const DISTRACTORS_PER_BLOCK: usize = 8192;
/// The number of ranks of the CMC that the MegaFace figures show.
pub const RANKS: usize = 1000;

/// Distractors and probes of one product. Their scores take half a MiB in bfloat16.
const PIECE: usize = 1024;
const TILE: usize = 256;

/// The state of MegaFace's protocol over the distractors seen so far.
pub struct Identification {
    tiles: Vec<Tile>,
    probes: Tensor,
    keep: usize,
    impostors: Largest,
    distractors: u64,
    threads: usize,
    fast: Fast,
}

/// Every ordered pair of one identity's images, (mate in the gallery, probe): the probe and the score, by probe.
pub struct Mates(Vec<(usize, f32)>);

impl Mates {
    /// See `Identification::cmc`; of what `Identification::identified` counts of all probes.
    pub fn cmc(&self, identified: &[u64]) -> Vec<f64> {
        let up_to = |sum: &mut u64, &count: &u64| {
            *sum += count;
            Some(*sum as f64 / self.0.len() as f64)
        };
        identified[..identified.len() - 1].iter().scan(0, up_to).collect()
    }
}

/// Up to `TILE` consecutive probes.
struct Tile {
    /// [probes, D]
    features: Tensor,
    /// The same, as they are multiplied fast, and how near that is.
    prepared: Prepared,
    extents: Vec<Extent>,
    best: Vec<Largest>,
    /// For each probe, the score that a distractor must exceed to change anything.
    thresholds: Vec<f32>,
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
        let fast = Fast::best(&probes);
        let tile = |features: Tensor| -> Result<Tile> {
            let (prepared, extents) = fast.prepare(&features, Side::Right)?;
            let count = extents.len();
            Ok(Tile {
                prepared,
                extents,
                features,
                best: vec![Largest::new(keep); count],
                thresholds: vec![f32::NEG_INFINITY; count],
            })
        };
        Ok(Identification {
            tiles: probes.split(TILE as i64, 0).into_iter().map(tile).collect::<Result<_>>()?,
            keep,
            impostors: Largest::new(impostors),
            distractors: 0,
            threads,
            fast,
            probes,
        })
    }

    /// Scores the distractors of `block` [n, D] f32, of the probes' device, in any number; see `DISTRACTORS_PER_BLOCK` and `add_to_all`.
    pub fn add(&mut self, block: &Tensor) -> Result<()> {
        let everyone = vec![true; block.size()[0] as usize];
        add_to_all(&mut [(self, everyone)], block)
    }

    /// The `keep` largest scores so far of each probe of the range, in no order, filled up with -inf: [probes, keep].
    pub fn top(&self, probes: Range<usize>) -> Vec<f32> {
        probes.flat_map(|probe| self.best(probe).unsorted()).collect()
    }

    /// How many of some probes have a score above this with a distractor.
    pub fn probes_above(&self, score: f32, probes: impl Fn(usize) -> bool) -> u64 {
        let above = |&probe: &usize| probes(probe) && self.best(probe).first() > score;
        (0..self.probes.size()[0] as usize).filter(above).count() as u64
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

    /// For each probe and then for all, how far down this part fills its share of the places that `parts` parts have together:
    /// [P + 1], -inf where it does not yet.
    pub fn levels(&mut self, parts: usize) -> Vec<f32> {
        let share = |largest: &mut Largest| largest.nth(largest.capacity().div_ceil(parts).max(1));
        let probes = self.tiles.iter_mut().flat_map(|tile| &mut tile.best);
        probes.chain([&mut self.impostors]).map(share).collect()
    }

    /// Takes over what `levels` returned, of all parts: [parts, P + 1]. They have filled all places with scores that are not below
    /// the least of their levels, so what is not above it is looked for no more.
    pub fn raise(&mut self, levels: &[f32]) {
        let count = self.probes.size()[0] as usize + 1;
        assert!(levels.len().is_multiple_of(count), "whole parts");
        let probes = self.tiles.iter_mut().flat_map(|tile| &mut tile.best);
        for (i, largest) in probes.chain([&mut self.impostors]).enumerate() {
            let of_parts = levels.iter().skip(i).step_by(count);
            largest.ignore_up_to(of_parts.copied().fold(f32::INFINITY, f32::min));
        }
    }

    /// labels [P] -> share of the mate pairs that are identified at rank 1.
    pub fn rank1(&self, labels: &[i64]) -> Result<f64> {
        Ok(self.cmc(&self.mates(labels)?)?[0])
    }

    /// [keep]: item N - 1 is the share of the mate pairs with fewer than N distractors of a larger score with the probe
    /// than the mate's. Ties count as success; the identity's other images are not in the gallery.
    pub fn cmc(&self, mates: &Mates) -> Result<Vec<f64>> {
        Ok(mates.cmc(&self.identified(mates, |_| true)?))
    }

    /// Of the mate pairs of some probes, how many have 0, 1, ... distractors of a larger score with the probe than the mate's,
    /// and last how many have `keep` or more: [keep + 1].
    pub fn identified(&self, mates: &Mates, probes: impl Fn(usize) -> bool) -> Result<Vec<u64>> {
        self.check_distractors()?;
        let mut identified = vec![0; self.keep + 1];
        for of_probe in mates.0.chunk_by(|a, b| a.0 == b.0).filter(|pairs| probes(pairs[0].0)) {
            let best = self.best(of_probe[0].0).sorted();
            for &(_, score) in of_probe {
                identified[best.partition_point(|&distractor| distractor > score)] += 1;
            }
        }
        Ok(identified)
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
        let mut images = HashMap::<i64, Vec<usize>>::new();
        labels.iter().enumerate().for_each(|(probe, &label)| images.entry(label).or_default().push(probe));
        let on_device = match self.probes.device() {
            Device::Cpu => None,
            _ => Some(to_vec(&self.probes.f_mm(&self.probes.tr())?)?),
        };
        let score = |a: usize, b: usize| match &on_device {
            None => dot(self.features(a), self.features(b)),
            Some(scores) => scores[a * labels.len() + b],
        };
        let mut mates = Vec::new();
        for (probe, label) in labels.iter().enumerate() {
            mates.extend(images[label].iter().filter(|&&mate| mate != probe).map(|&mate| (probe, score(mate, probe))));
        }
        if mates.is_empty() { Err(Error::failed("no identity has two probes")) } else { Ok(Mates(mates)) }
    }

    /// Of a probe on the CPU: [D].
    fn features(&self, probe: usize) -> &[f32] {
        let dimensions = self.probes.size()[1] as usize;
        &numbers(&self.probes)[probe * dimensions..][..dimensions]
    }

    fn best(&self, probe: usize) -> &Largest {
        &self.tiles[probe / TILE].best[probe % TILE]
    }
}

/// Scores the distractors of `block` [n, D] f32 once, for all of `identifications`, which have the same probes; each takes those that
/// are its members [n]. Features that are not finite are an error, after which the states are of no use. While it runs, libtorch has
/// one thread.
pub fn add_to_all(identifications: &mut [(&mut Identification, Vec<bool>)], block: &Tensor) -> Result<()> {
    check_matrix(block, "distractors")?;
    let Some((first, _)) = identifications.first() else { return Ok(()) };
    let (dimensions, device) = (first.probes.size()[1], first.probes.device());
    let before = identifications.iter().map(|(identification, _)| identification.distractors).max().unwrap_or(0);
    if block.size()[1] != dimensions || block.device() != device {
        return Err(Error::failed(format!(
            "distractors of {} features on {:?}, but probes of {dimensions} on {device:?}",
            block.size()[1],
            block.device(),
        )));
    }
    let added = match device {
        Device::Cpu => add_on_threads(identifications, block),
        _ => add_on_device(identifications, block),
    };
    added.map_err(|error| match error {
        Bad::Distractor(i) => Error::failed(format!(
            "distractor {} (of those this process was given) has a feature that is not finite",
            before + i as u64
        )),
        Bad::Torch(error) => error.into(),
    })?;
    for (identification, members) in identifications {
        identification.distractors += members.iter().filter(|&&member| member).count() as u64;
    }
    Ok(())
}

/// Does what `add_on_threads` does, with the device's own top-k operation.
fn add_on_device(
    identifications: &mut [(&mut Identification, Vec<bool>)],
    block: &Tensor,
) -> std::result::Result<(), Bad> {
    for index in 0..identifications[0].0.tiles.len() {
        let scores = block.f_mm(&identifications[0].0.tiles[index].features.tr())?; // [n, probes]
        if index == 0
            && let Some(bad) = to_vec(&scores.select(1, 0))?.iter().position(|score| !score.is_finite())
        {
            return Err(Bad::Distractor(bad));
        }
        for (identification, members) in identifications.iter_mut() {
            let rows: Vec<i64> = (0..).zip(members.iter()).filter(|(_, member)| **member).map(|(row, _)| row).collect();
            let scores = match rows.len() {
                0 => continue,
                all if all == members.len() => scores.shallow_clone(),
                _ => scores.f_index_select(0, &Tensor::from_slice(&rows).to_device(scores.device()))?,
            };
            let count = identification.keep.min(rows.len());
            let best = to_vec(&scores.f_topk(count as i64, 0, true, true)?.0.tr())?;
            for (top, best) in identification.tiles[index].best.iter_mut().zip(best.chunks_exact(count)) {
                best.iter().for_each(|&score| top.push(score));
            }
            let count = identification.impostors.capacity().min(scores.numel());
            let best = to_vec(&scores.reshape(-1).f_topk(count as i64, 0, true, true)?.0)?;
            best.into_iter().for_each(|score| identification.impostors.push(score));
        }
    }
    Ok(())
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
