//! In which order examples are trained on: shuffled, or in batches of P identities with K images each.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::SliceRandom;

use crate::config::ReidEpoch;
use crate::error::{Error, Result};
use crate::rng::{Purpose, Rng, rng};

/// `count` examples of a data set of `len` in random order for one epoch: shuffled passes, one after the other, the
/// last one cut. Samples with the same stream see the same order.
pub fn shuffled(len: usize, count: usize, seed: u64, epoch: u64, stream: u64) -> Vec<u32> {
    let mut order = Vec::with_capacity(count.next_multiple_of(len));
    for pass in 0..count.div_ceil(len) as u64 {
        let start = order.len();
        order.extend(0..len as u32);
        order[start..].shuffle(&mut rng(seed, Purpose::Order, &[epoch, stream, pass]));
    }
    order.truncate(count);
    order
}

/// `count` examples for one epoch: passes in which every class comes once in random order, with an image that no other pass took
/// since all of the class were taken. So every class is trained on as often (to within one) as any other, and its images are.
/// Samples with the same stream see the same order.
pub fn evened_out(labels: &[u32], count: usize, seed: u64, epoch: u64, stream: u64) -> Vec<u32> {
    let mut rng = rng(seed, Purpose::Order, &[epoch, stream]);
    let mut classes: Vec<(Vec<u32>, usize)> = positions(labels).into_values().map(|images| (images, 0)).collect();
    let mut order = Vec::with_capacity(count + classes.len());
    while order.len() < count {
        classes.shuffle(&mut rng);
        for (images, taken) in &mut classes {
            if *taken % images.len() == 0 {
                images.shuffle(&mut rng);
            }
            order.push(images[*taken % images.len()]);
            *taken += 1;
        }
    }
    order.truncate(count);
    order
}

/// Batches of `identities` (P) with `images` (K) each, those of an identity next to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balanced {
    /// P.
    pub identities: usize,
    /// K.
    pub images: usize,
    pub reading: ReidEpoch,
}

impl Balanced {
    /// Batches of about one pass: floor(identities / P), or floor(images / (P K)), at least 1.
    ///
    /// Errors: fewer than P identities.
    pub fn batches_per_epoch(&self, labels: &[u32]) -> Result<usize> {
        let found = positions(labels).len();
        if found < self.identities {
            return Err(Error::failed(format!(
                "{found} identities to train on are too few for batches of {} identities with {} images",
                self.identities, self.images
            )));
        }
        Ok(match self.reading {
            ReidEpoch::Identities => found / self.identities,
            ReidEpoch::Images => (labels.len() / (self.identities * self.images)).max(1),
        })
    }

    /// Positions in `labels`, `batches` times P K of them: pass after pass, the last one cut. Samples with the same
    /// stream see the same order. Needs P identities (`batches_per_epoch` checks it).
    pub fn order(&self, labels: &[u32], batches: usize, seed: u64, epoch: u64, stream: u64) -> Vec<u32> {
        let positions: Vec<Vec<u32>> = positions(labels).into_values().collect();
        assert!(positions.len() >= self.identities, "at least P identities");
        let wanted = batches * self.identities * self.images;
        let mut order = Vec::with_capacity(wanted);
        for pass in 0.. {
            if order.len() >= wanted {
                break;
            }
            let mut rng = rng(seed, Purpose::Order, &[epoch, stream, pass]);
            match self.reading {
                ReidEpoch::Identities => self.pass_over_identities(&positions, &mut rng, &mut order),
                ReidEpoch::Images => self.pass_over_images(&positions, &mut rng, &mut order),
            }
        }
        order.truncate(wanted);
        order
    }

    fn pass_over_identities(&self, positions: &[Vec<u32>], rng: &mut Rng, order: &mut Vec<u32>) {
        let mut identities: Vec<&Vec<u32>> = positions.iter().collect();
        identities.shuffle(rng);
        // the last, incomplete batch is dropped
        identities.truncate(identities.len() / self.identities * self.identities);
        for images in identities {
            let mut images = images.clone();
            images.shuffle(rng);
            order.extend(self.filled(&images, rng));
        }
    }

    fn pass_over_images(&self, positions: &[Vec<u32>], rng: &mut Rng, order: &mut Vec<u32>) {
        // each identity's groups of K
        let mut groups: Vec<Vec<Vec<u32>>> = positions
            .iter()
            .map(|images| {
                let mut images = images.clone();
                images.shuffle(rng);
                match images.len() < self.images {
                    true => vec![self.filled(&images, rng)],
                    false => images.chunks_exact(self.images).map(<[u32]>::to_vec).collect(),
                }
            })
            .collect();
        while groups.len() >= self.identities {
            let (chosen, _) = groups.partial_shuffle(rng, self.identities);
            order.extend(chosen.iter_mut().flat_map(|groups| groups.pop().expect("identities have groups left")));
            groups.retain(|groups| !groups.is_empty());
        }
    }

    /// K of the shuffled images; if there are fewer, all of them and the rest drawn with replacement.
    fn filled(&self, images: &[u32], rng: &mut Rng) -> Vec<u32> {
        let mut filled = images[..images.len().min(self.images)].to_vec();
        filled.resize_with(self.images, || images[rng.random_range(0..images.len())]);
        filled
    }
}

/// Positions of each label, in the order of the labels.
fn positions(labels: &[u32]) -> BTreeMap<u32, Vec<u32>> {
    let mut positions = BTreeMap::<u32, Vec<u32>>::new();
    for (position, &label) in labels.iter().enumerate() {
        positions.entry(label).or_default().push(position as u32);
    }
    positions
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const READINGS: [ReidEpoch; 2] = [ReidEpoch::Identities, ReidEpoch::Images];

    /// Identity 3 i has 1 + i images, in turn as long as they last.
    fn labels(identities: u32) -> Vec<u32> {
        (0..identities).flat_map(|turn| (turn..identities).map(|identity| 3 * identity)).collect()
    }

    /// Batches of the order, as (label, positions) of each identity.
    fn batches(balanced: Balanced, labels: &[u32], order: &[u32]) -> Vec<Vec<(u32, Vec<u32>)>> {
        let group = |positions: &[u32]| {
            let label = labels[positions[0] as usize];
            assert!(positions.iter().all(|&position| labels[position as usize] == label), "one identity");
            (label, positions.to_vec())
        };
        let batch = |batch: &[u32]| batch.chunks_exact(balanced.images).map(group).collect();
        order.chunks_exact(balanced.identities * balanced.images).map(batch).collect()
    }

    #[test]
    fn batches_have_p_identities_with_k_images_repeated_only_if_there_are_fewer() {
        let labels = labels(13);
        for reading in READINGS {
            for (identities, images) in [(1, 1), (4, 4), (5, 3), (13, 2), (2, 20)] {
                let balanced = Balanced { identities, images, reading };
                let order = balanced.order(&labels, 17, 1, 2, 0);
                assert_eq!(order.len(), 17 * identities * images);
                for batch in batches(balanced, &labels, &order) {
                    assert_eq!(batch.iter().map(|(label, _)| label).collect::<HashSet<_>>().len(), identities);
                    for (label, positions) in batch {
                        let owned = labels.iter().filter(|&&other| other == label).count();
                        let distinct = positions.iter().collect::<HashSet<_>>().len();
                        assert_eq!(distinct, images.min(owned), "{reading:?} {identities} x {images}: {label}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_pass_over_identities_takes_each_of_them_once() {
        let (labels, balanced) = (labels(14), Balanced { identities: 4, images: 3, reading: ReidEpoch::Identities });
        assert_eq!(balanced.batches_per_epoch(&labels).unwrap(), 3);
        let order = balanced.order(&labels, 9, 5, 0, 1);
        let passes: Vec<Vec<u32>> = batches(balanced, &labels, &order)
            .chunks(3)
            .map(|pass| pass.iter().flatten().map(|(label, _)| *label).collect())
            .collect();
        assert_eq!(passes.len(), 3);
        for pass in &passes {
            assert_eq!(pass.iter().collect::<HashSet<_>>().len(), 12, "12 of 14 identities");
        }
        assert_ne!(passes[0], passes[1]);
        let seen: HashSet<u32> = passes.concat().into_iter().collect();
        assert!(seen.len() > 12, "not always the same ones are dropped");
    }

    #[test]
    fn a_pass_over_images_takes_almost_all_of_them_once() {
        // 100 identities with 8 to 27 images
        let labels: Vec<u32> = (0..100).flat_map(|identity| vec![identity; 8 + identity as usize % 20]).collect();
        let balanced = Balanced { identities: 8, images: 4, reading: ReidEpoch::Images };
        let most = balanced.batches_per_epoch(&labels).unwrap();
        assert_eq!(most, labels.len() / 32);
        let mut one = Vec::new();
        let positions: Vec<_> = positions(&labels).into_values().collect();
        balanced.pass_over_images(&positions, &mut rng(1, Purpose::Order, &[0, 0, 0]), &mut one);
        assert_eq!(one.iter().collect::<HashSet<_>>().len(), one.len(), "no image twice");
        // up to 3 of each identity don't fill a group, and the last identities' groups don't fill a batch
        assert!(one.len() > labels.len() * 8 / 10 && one.len() / 32 <= most, "{} of {}", one.len(), labels.len());
        let order = balanced.order(&labels, most, 1, 0, 0);
        assert_eq!(order[..one.len()], one);
    }

    #[test]
    fn too_few_identities_are_an_error() {
        for reading in READINGS {
            let balanced = Balanced { identities: 5, images: 2, reading };
            let error = balanced.batches_per_epoch(&labels(4)).unwrap_err().to_string();
            let expected = "4 identities to train on are too few for batches of 5 identities with 2 images";
            assert_eq!(error, expected);
            assert_eq!(balanced.batches_per_epoch(&labels(5)).unwrap(), 1);
        }
    }

    #[test]
    fn balanced_orders_depend_on_seed_epoch_and_stream_alone() {
        let labels = labels(20);
        for reading in READINGS {
            let order = |seed, epoch, stream| {
                Balanced { identities: 4, images: 4, reading }.order(&labels, 8, seed, epoch, stream)
            };
            let first = order(1, 2, 0);
            assert_eq!(first, order(1, 2, 0));
            assert!([order(2, 2, 0), order(1, 3, 0), order(1, 2, 1)].iter().all(|other| *other != first));
            let more = Balanced { identities: 4, images: 4, reading }.order(&labels, 20, 1, 2, 0);
            assert_eq!(more[..first.len()], first, "a longer epoch begins like a shorter one");
        }
    }

    #[test]
    fn evened_out_classes_come_equally_often_and_each_ones_images_too() {
        let labels = labels(13); // class 3 i has 1 + i images
        let order = evened_out(&labels, 13 * 20 + 5, 1, 2, 3);
        let mut taken = BTreeMap::<u32, BTreeMap<u32, usize>>::new();
        for &position in &order {
            *taken.entry(labels[position as usize]).or_default().entry(position).or_default() += 1;
        }
        for (label, images) in &taken {
            let times: usize = images.values().sum();
            assert!((20..=21).contains(&times), "{label}: {times}");
            assert_eq!(images.len(), 1 + *label as usize / 3, "all of its images");
            assert!(images.values().max().unwrap() - images.values().min().unwrap() <= 1, "{images:?}");
        }
        assert_eq!(order, evened_out(&labels, order.len(), 1, 2, 3));
        for other in [[2, 2, 3], [1, 3, 3], [1, 2, 4]] {
            assert_ne!(order, evened_out(&labels, order.len(), other[0], other[1], other[2]));
        }
    }

    #[test]
    fn orders_differ_between_epochs_streams_and_seeds() {
        let order = shuffled(100, 100, 1, 2, 0);
        assert_ne!(order, shuffled(100, 100, 1, 3, 0));
        assert_ne!(order, shuffled(100, 100, 1, 2, 1));
        assert_ne!(order, shuffled(100, 100, 2, 2, 0));
    }

    #[test]
    fn a_long_epoch_is_several_passes_and_a_short_one_a_part_of_one() {
        let long = shuffled(10, 25, 1, 2, 0);
        let (first, second) = (&long[..10], &long[10..20]);
        assert_eq!((first, long.len()), (&shuffled(10, 10, 1, 2, 0)[..], 25));
        assert_ne!(first, second);
        let mut sorted = second.to_vec();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..10).collect::<Vec<u32>>());
        assert_eq!(shuffled(10, 4, 1, 2, 0), first[..4]);
    }
}
