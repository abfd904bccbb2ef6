//! Holding whole identities out of training: the reward's probes and distractors (docs/megaface.md).

use std::sync::Arc;

use rand::seq::SliceRandom;

use crate::config;
use crate::data::{Dataset, Images};
use crate::rng::{Purpose, rng};

pub struct HeldOut {
    /// Labels renumbered 0..`classes`, in the order of the source's labels.
    pub training: Dataset,
    pub classes: usize,
    /// At least two images of each probe identity, with the source's labels.
    pub probes: Dataset,
    pub distractors: Dataset,
}

/// Draws probe identities among those with at least two images, then distractor identities among the others, and takes
/// at most `images_per_identity` images of each; all others are trained on. Needs what `misfit::faces` checks.
pub fn hold_out_identities(images: &Arc<dyn Images>, identities: usize, config: &config::Faces, seed: u64) -> HeldOut {
    let mut by_identity = vec![Vec::new(); identities];
    for index in 0..images.count() as u32 {
        by_identity[images.label(index as usize) as usize].push(index);
    }
    let mut order: Vec<usize> = (0..identities).collect();
    order.shuffle(&mut rng(seed, Purpose::HeldOut, &[0]));
    let (eligible, single): (Vec<usize>, Vec<usize>) =
        order.into_iter().partition(|&identity| by_identity[identity].len() > 1);
    let config::Faces { probe_identities, distractor_identities, images_per_identity, .. } = *config;
    let (probes, rest) = eligible.split_at(probe_identities);
    let rest: Vec<usize> = rest.iter().chain(&single).copied().collect();
    let (distractors, rest) = rest.split_at(distractor_identities);

    let held_out = |chosen: &[usize]| {
        let mut chosen = chosen.to_vec();
        chosen.sort_unstable();
        let take = |&identity: &usize| {
            let mut indices = by_identity[identity].clone();
            indices.shuffle(&mut rng(seed, Purpose::HeldOut, &[identity as u64 + 1]));
            indices.truncate(images_per_identity);
            indices.sort_unstable();
            indices
        };
        Dataset::part(images.clone(), chosen.iter().flat_map(take).collect())
    };
    let mut trained = rest.to_vec();
    trained.sort_unstable();
    let training = renumbered(images, trained.iter().map(|&identity| &by_identity[identity]));
    HeldOut { training, classes: trained.len(), probes: held_out(probes), distractors: held_out(distractors) }
}

/// Each identity's images, the identities numbered 0, 1, ... in their order.
pub(super) fn renumbered<'a>(images: &Arc<dyn Images>, identities: impl Iterator<Item = &'a Vec<u32>>) -> Dataset {
    let mut part = Dataset::part(images.clone(), Vec::new());
    for (label, indices) in identities.enumerate() {
        part.indices.extend(indices);
        part.labels.resize(part.indices.len(), label as u32);
    }
    part
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::data::dataset::tests::Labels;

    /// Identity i has 1 + i % 4 images.
    fn identities() -> Arc<dyn Images> {
        Arc::new(Labels((0..40).flat_map(|identity| vec![identity; 1 + identity as usize % 4]).collect()))
    }

    fn config(probe_identities: usize, distractor_identities: usize) -> config::Faces {
        config::Faces { test: None, size: [1, 1], probe_identities, distractor_identities, images_per_identity: 3 }
    }

    #[test]
    fn parts_share_no_identity_and_probes_have_mates() {
        let images = identities();
        let HeldOut { training, classes, probes, distractors } = hold_out_identities(&images, 40, &config(10, 12), 1);
        let names = |part: &Dataset| part.indices.iter().map(|&i| images.label(i as usize)).collect::<HashSet<_>>();
        let (a, b, c) = (names(&training), names(&probes), names(&distractors));
        assert_eq!((a.len(), b.len(), c.len(), classes), (18, 10, 12, 18));
        assert_eq!(a.union(&b).chain(&c).collect::<HashSet<_>>().len(), 40);
        for identity in b {
            let count = probes.labels.iter().filter(|&&label| label == identity).count();
            assert!(count == 2 || count == 3, "{count}");
        }
        let labels: Vec<u32> = (0..18).collect();
        let mut found = training.labels.clone();
        found.dedup();
        assert_eq!(found, labels);
        let all = training.len();
        assert_eq!(all, (0..images.count()).filter(|&i| a.contains(&images.label(i))).count(), "no image is lost");
    }

    #[test]
    fn the_choice_is_seeded() {
        let images = identities();
        let probes = |seed| hold_out_identities(&images, 40, &config(5, 5), seed).probes.indices;
        assert_eq!(probes(1), probes(1));
        assert_ne!(probes(1), probes(2));
    }
}
