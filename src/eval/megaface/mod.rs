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
use identification::{DISTRACTORS_PER_BLOCK, Mates, RANKS, add_to_all, impostors_needed};

/// The false-accept rate of MegaFace's verification figures.
pub const FAR: f64 = 1e-6;
/// The cosine of two features of one image, and more.
const TWINS: f32 = 1.0 - 1e-6;
/// Probes whose lists of largest scores are exchanged at once, which bounds the memory of many ranks, and merged by one of them.
const PROBES_PER_EXCHANGE: usize = 64;

/// When a rank has scored so many times the blocks that it had the last time, the ranks tell each other what they look for.
const SHARED_AGAIN: usize = 4;

/// Features [n, D] of a range of distractors.
pub struct Block {
    pub features: Tensor,
    /// Numbers of the rows that stand for broken images and don't count.
    pub broken: Vec<usize>,
}

impl Block {
    /// Which rows are members: of those that are marked, the whole ones.
    fn members(&self, marked: &[bool]) -> Vec<bool> {
        let mut members = marked.to_vec();
        self.broken.iter().for_each(|&row| members[row] = false);
        members
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

    /// A rank alone would look for as many scores as all of them together; all call it.
    fn share_levels(&mut self, comm: &Comm) {
        if comm.size() > 1 {
            let levels = comm.all_gather(&self.identification.levels(comm.size()));
            self.identification.raise(&levels);
        }
    }

    /// Exchanges what the ranks have found; all call it. Each then has the largest scores of its own probes.
    fn merge(&mut self, probes: usize, comm: &Comm) {
        if comm.size() == 1 {
            return;
        }
        for start in (0..probes).step_by(PROBES_PER_EXCHANGE) {
            let range = start..(start + PROBES_PER_EXCHANGE).min(probes);
            let parts = comm.all_gather(&self.identification.top(range.clone()));
            if is_own(start, comm) {
                self.identification.merge_top(range, &parts);
            }
        }
        let parts = comm.all_gather(&self.identification.impostors());
        let distractors = comm.all_gather(&[self.identification.distractors()]).iter().sum();
        self.identification.merge_impostors(&parts, distractors);
    }

    /// After `merge`; all call it.
    fn rates(&self, mates: &Mates, comm: &Comm) -> Result<Rates> {
        let own = |probe| is_own(probe, comm);
        let mut counts = self.identification.identified(mates, own)?;
        counts.push(self.identification.probes_above(TWINS, own));
        let of_ranks = comm.all_gather(&counts);
        let mut sums = vec![0; counts.len()];
        for counts in of_ranks.chunks_exact(sums.len()) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let twins = sums.pop().expect("pushed above");
        Ok(Rates {
            distractors: self.identification.distractors() as usize,
            cmc: mates.cmc(&sums),
            verification: self.identification.verification(mates, FAR)?,
            twins: twins as usize,
        })
    }
}

/// Whether this rank merges the scores of a probe.
fn is_own(probe: usize, comm: &Comm) -> bool {
    probe / PROBES_PER_EXCHANGE % comm.size() == comm.rank()
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
    let blocks = count.div_ceil(DISTRACTORS_PER_BLOCK);
    let mut score = |measurements: &mut [Vec<Measurement>], rounds: Range<usize>| -> Result<()> {
        for block in rounds.map(|round| round * comm.size() + comm.rank()).filter(|&block| block < blocks) {
            let range = block * DISTRACTORS_PER_BLOCK..((block + 1) * DISTRACTORS_PER_BLOCK).min(count);
            let block = read(range.clone())?;
            for group in measurements.iter_mut() {
                let of = |measurement: &'_ Measurement| block.members(&measurement.members[range.clone()]);
                let members: Vec<Vec<bool>> = group.iter().map(of).collect();
                let identifications = group.iter_mut().map(|measurement| &mut measurement.identification);
                add_to_all(&mut identifications.zip(members).collect::<Vec<_>>(), &block.features)?;
            }
        }
        Ok(())
    };
    let (rounds, mut done) = (blocks.div_ceil(comm.size()), 0);
    while done < rounds {
        if done > 0 {
            measurements.iter_mut().flatten().for_each(|measurement| measurement.share_levels(comm));
        }
        let next = (SHARED_AGAIN * done).clamp(1, rounds);
        comm.agree(score(measurements, done..next))?;
        done = next;
    }
    for measurement in measurements.iter_mut().flatten() {
        measurement.merge(labels.len(), comm);
    }
    let rates = |group: &Vec<Measurement>| {
        let mates = group[0].identification.mates(labels)?;
        group.iter().map(|measurement| measurement.rates(&mates, comm)).collect()
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
    fn broken_rows_are_no_members() {
        let block = Block { features: Tensor::zeros([4, 1], (Kind::Float, Device::Cpu)), broken: vec![2, 0] };
        assert_eq!(block.members(&[true, true, true, false]), [false, true, false, false]);
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
