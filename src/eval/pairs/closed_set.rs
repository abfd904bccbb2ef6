//! A small set of faces measured on itself: every image against every other one.

use tch::{Kind, Tensor};

use super::verification::tar_at_far;
use crate::error::{Error, Result};

/// More images make too many pairs to hold; they are for `evaluate megaface`.
const MOST_IMAGES: usize = 20_000;

pub struct ClosedSet {
    /// [N, N], cosines.
    scores: Tensor,
    labels: Vec<u32>,
}

impl ClosedSet {
    /// embeddings [N, D] of norm 1, labels [N]. Errors: more than 20,000 images; no two of one identity, or all of one.
    pub fn new(embeddings: &Tensor, labels: &[u32]) -> Result<ClosedSet> {
        let count = labels.len();
        if count > MOST_IMAGES {
            return Err(Error::failed(format!(
                "{count} test images: more than {MOST_IMAGES}, the most that are compared with each other"
            )));
        }
        let mates = (0..count).any(|i| (0..i).any(|j| labels[i] == labels[j]));
        if !mates || labels.iter().all(|&label| label == labels[0]) {
            return Err(Error::failed("test images: two of one identity and one of another are the least"));
        }
        Ok(ClosedSet { scores: embeddings.mm(&embeddings.tr()).to_device(tch::Device::Cpu), labels: labels.to_vec() })
    }

    /// `rank1`: share of the ordered pairs (mate i, probe j) of one identity whose score is not below j's best score with
    /// any other identity's image: MegaFace's rank-1 with the other identities as distractors. `tar_at_far_...`: share
    /// of the pairs of one identity that are accepted where that share of the other pairs is.
    pub fn metrics(&self) -> Result<Vec<(String, f64)>> {
        let (mut successes, mut pairs) = (0, 0);
        let (mut genuine, mut impostor) = (Vec::new(), Vec::new());
        for (j, &label) in self.labels.iter().enumerate() {
            let row = Vec::<f32>::try_from(self.scores.get(j as i64).to_kind(Kind::Float))?;
            let others = || row.iter().zip(&self.labels);
            let best = others().filter(|&(_, &other)| other != label).map(|(&score, _)| score).fold(f32::MIN, f32::max);
            for (i, (&score, &other)) in others().enumerate() {
                if other == label && i != j {
                    pairs += 1;
                    successes += (score >= best) as usize;
                }
                if i < j {
                    if other == label { genuine.push(score) } else { impostor.push(score) }
                }
            }
        }
        let mut metrics = vec![("rank1".to_owned(), successes as f64 / pairs as f64)];
        for (name, far) in [("tar_at_far_1e-2", 1e-2), ("tar_at_far_1e-3", 1e-3)] {
            metrics.push((name.into(), tar_at_far(&genuine, &impostor, far)?));
        }
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank1_counts_ordered_pairs_against_other_identities_alone() {
        // on a circle: two identities of three images; one of the second lies among the first
        let angles = [0.0f64, 0.1, 0.2, 1.0, 1.1, 0.15];
        let rows: Vec<Vec<f64>> = angles.iter().map(|a| vec![a.cos(), a.sin()]).collect();
        let set = ClosedSet::new(&Tensor::from_slice2(&rows).to_kind(Kind::Float), &[0, 0, 0, 1, 1, 1]).unwrap();
        // 0: mates at 0.1 and 0.2, best other at 0.15; 1: 0.1 and 0.1 against 0.05; 2: 0.1 and 0.2 against 0.05;
        // 3: mate at 0.1 before 0.8; 4: mate at 0.1 before 0.9; 5: mates at 0.85 and 0.95 behind 0.05
        let metrics = set.metrics().unwrap();
        let right = 1.0 + 0.0 + 0.0 + 1.0 + 1.0;
        let far_mates = 0.0; // 3-5 at 0.85 and 4-5 at 0.95, behind 0.8 and 0.9
        assert!((metrics[0].1 - (right + far_mates) / 12.0).abs() < 1e-12, "{metrics:?}");
    }

    #[test]
    fn sets_without_pairs_are_errors() {
        let rows = Tensor::eye(3, (Kind::Float, tch::Device::Cpu));
        for labels in [[0, 1, 2], [0, 0, 0]] {
            assert!(ClosedSet::new(&rows, &labels).is_err());
        }
    }
}
