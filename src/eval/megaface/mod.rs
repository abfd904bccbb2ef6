//! MegaFace's protocol over all ranks: distractors in blocks, dealt out to the ranks, scored as they come and forgotten.
//! Several distractor sets are measured in one pass, so every feature is made or read once.

pub mod devkit;
mod identification;

use std::ops::Range;

use tch::Tensor;

pub use identification::Identification;

use super::normalise_rows;
use crate::comm::Comm;
use crate::error::Result;
use identification::{DISTRACTORS_PER_BLOCK, Mates, RANKS, impostors_needed};

/// The false-accept rate of MegaFace's verification figures.
pub const FAR: f64 = 1e-6;
/// The cosine of two features of one image, and more.
const TWINS: f32 = 1.0 - 1e-6;
/// Probes whose lists of largest scores are exchanged at once: bounds the memory of many ranks.
const PROBES_PER_EXCHANGE: usize = 64;

/// Features [n, D] of a range of distractors.
pub struct Block {
    pub features: Tensor,
    /// Numbers of the rows that stand for broken images and don't count.
    pub broken: Vec<usize>,
}

/// The members among the rows of `block`, the distractors `range`; `None`: there are none.
fn members_of(members: &[bool], Block { features: block, broken }: &Block, range: &Range<usize>) -> Option<Tensor> {
    let chosen: Vec<i64> = (0..)
        .zip(&members[range.clone()])
        .filter(|&(i, &member)| member && (broken.is_empty() || !broken.contains(&(i as usize))))
        .map(|(i, _)| i)
        .collect();
    match chosen.len() {
        0 => None,
        count if count == range.len() => Some(block.shallow_clone()),
        _ => Some(block.index_select(0, &Tensor::from_slice(&chosen).to_device(block.device()))),
    }
}

/// One row of the results in the making.
pub struct Measurement {
    /// Which of the distractors count.
    members: Vec<bool>,
    identification: Identification,
}

pub struct Rates {
    /// Distractors that counted.
    pub distractors: usize,
    /// [K]: item N - 1 is the identification rate at rank N.
    pub cmc: Vec<f64>,
    /// Verification rate at `FAR`.
    pub verification: f64,
    /// Probes that some distractor has nearly the same feature as: the same image, or the network has collapsed.
    pub twins: usize,
}

impl Measurement {
    /// probes [P, D] f32, rows of norm 1; see `Identification`. `members`: which of the distractors count.
    pub fn new(probes: &Tensor, members: Vec<bool>, threads: usize) -> Result<Measurement> {
        let count = members.iter().filter(|&&member| member).count();
        let impostors = impostors_needed(FAR, probes.size()[0] as usize, count as u64);
        let identification = Identification::new(probes, RANKS.min(count.max(1)), impostors, threads)?;
        Ok(Measurement { members, identification })
    }

    /// Exchanges what the ranks have found; all call it.
    fn merge(&mut self, probes: usize, comm: &Comm) {
        if comm.size() == 1 {
            return;
        }
        for start in (0..probes).step_by(PROBES_PER_EXCHANGE) {
            let range = start..(start + PROBES_PER_EXCHANGE).min(probes);
            let parts = comm.all_gather(&self.identification.top(range.clone()));
            self.identification.merge_top(range, &parts);
        }
        let parts = comm.all_gather(&self.identification.impostors());
        let distractors = comm.all_gather(&[self.identification.distractors()]).iter().sum();
        self.identification.merge_impostors(&parts, distractors);
    }

    fn rates(&self, mates: &Mates) -> Result<Rates> {
        Ok(Rates {
            distractors: self.identification.distractors() as usize,
            cmc: self.identification.cmc(mates)?,
            verification: self.identification.verification(mates, FAR)?,
            twins: self.identification.probes_above(TWINS),
        })
    }
}

/// Scores `count` distractors against the probes of all `measurements`, which come in groups of the same probes, whose
/// labels [P] are equal for images of one identity. `read` gives the features of a range of distractors; a rank
/// reads only its own blocks. The results are on all ranks, equal for any number of them.
pub fn identify(
    comm: &Comm,
    labels: &[i64],
    measurements: &mut [Vec<Measurement>],
    count: usize,
    mut read: impl FnMut(Range<usize>) -> Result<Block>,
) -> Result<Vec<Vec<Rates>>> {
    let mut score = || -> Result<()> {
        for block in (comm.rank()..count.div_ceil(DISTRACTORS_PER_BLOCK)).step_by(comm.size()) {
            let range = block * DISTRACTORS_PER_BLOCK..((block + 1) * DISTRACTORS_PER_BLOCK).min(count);
            let block = read(range.clone())?;
            for measurement in measurements.iter_mut().flatten() {
                if let Some(members) = members_of(&measurement.members, &block, &range) {
                    measurement.identification.add(&members)?;
                }
            }
        }
        Ok(())
    };
    comm.agree(score())?;
    for measurement in measurements.iter_mut().flatten() {
        measurement.merge(labels.len(), comm);
    }
    let rates = |group: &Vec<Measurement>| {
        let mates = group[0].identification.mates(labels)?;
        group.iter().map(|measurement| measurement.rates(&mates)).collect()
    };
    measurements.iter().map(rates).collect()
}

/// The refined probes: a mislabelled image's features become its identity's centre, the unit sum of its other images'
/// (insightface: _evaluation_/megaface/remove_noises.py, without the noise of +-0.001 that it adds).
/// probes [P, D], labels [P], noisy [P] -> [P, D]. Error: an identity of mislabelled images alone.
pub fn refine_probes(probes: &Tensor, labels: &[i64], noisy: &[bool]) -> Result<Tensor> {
    let refined = probes.copy();
    for (i, _) in noisy.iter().enumerate().filter(|&(_, &noisy)| noisy) {
        let clean: Vec<i64> =
            (0..labels.len()).filter(|&j| labels[j] == labels[i] && !noisy[j]).map(|j| j as i64).collect();
        let rows = probes.index_select(0, &Tensor::from_slice(&clean).to_device(probes.device()));
        let centre = rows.sum_dim_intlist([0i64].as_slice(), true, tch::Kind::Float);
        let centre = normalise_rows(&centre, i)?;
        refined.narrow(0, i as i64, 1).copy_(&centre);
    }
    Ok(refined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn members_are_cut_out_of_blocks() {
        let features = Tensor::arange(4, (Kind::Float, Device::Cpu)).view([4, 1]);
        let mut block = Block { features, broken: Vec::new() };
        let rows_of = |block: &Block, members: &[bool], start: usize| {
            members_of(members, block, &(start..start + 4)).map(|rows| Vec::<f32>::try_from(rows.view(-1)).unwrap())
        };
        let rows = |members: &[bool], start| rows_of(&block, members, start);
        let first = |count: usize| (0..12).map(|i| i < count).collect::<Vec<bool>>();
        assert_eq!(rows(&first(10), 4), Some(vec![0.0, 1.0, 2.0, 3.0]));
        assert_eq!(rows(&first(6), 4), Some(vec![0.0, 1.0]));
        assert_eq!(rows(&first(4), 4), None);
        let marked = [true, false, true, false, true, true, true, true, false, false, false, false];
        assert_eq!(rows(&marked, 0), Some(vec![0.0, 2.0]));
        assert_eq!(rows(&marked, 4), Some(vec![0.0, 1.0, 2.0, 3.0]));
        assert_eq!(rows(&marked, 8), None);
        block.broken = vec![2, 0];
        assert_eq!(rows_of(&block, &marked, 4), Some(vec![1.0, 3.0]));
        assert_eq!(rows_of(&block, &marked, 0), None);
    }

    #[test]
    fn noisy_probes_become_the_centre_of_their_identitys_others() {
        let probes = Tensor::from_slice2(&[[1.0f32, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, -1.0]]);
        let refined = refine_probes(&probes, &[7, 7, 7, 8], &[false, false, true, false]).unwrap();
        let half = 0.5f32.sqrt();
        let expected = Tensor::from_slice2(&[[1.0f32, 0.0], [0.0, 1.0], [half, half], [0.0, -1.0]]);
        assert!(refined.allclose(&expected, 0.0, 1e-6, false));
        assert!(refine_probes(&probes, &[7, 7, 7, 8], &[false, false, false, true]).is_err());
    }
}
