//! Holding a share of every class out of training: classification's validation split.

use rand::seq::SliceRandom;

use crate::data::Dataset;
use crate::rng::{Purpose, rng};

/// (training, validation): `fraction` of each class, rounded, goes to validation; a class with at least two images
/// has at least one on each side.
pub fn stratified_split(dataset: &Dataset, classes: usize, fraction: f64, seed: u64) -> (Dataset, Dataset) {
    let mut by_class = vec![Vec::new(); classes];
    for (&index, &label) in dataset.indices.iter().zip(&dataset.labels) {
        by_class[label as usize].push(index);
    }
    let (mut training, mut validation) = (Vec::new(), Vec::new());
    for (class, mut indices) in by_class.into_iter().enumerate() {
        indices.shuffle(&mut rng(seed, Purpose::Split, &[class as u64]));
        let most = indices.len().saturating_sub(1);
        let count = ((indices.len() as f64 * fraction).round() as usize).clamp(most.min(1), most);
        training.extend_from_slice(&indices[count..]);
        validation.extend_from_slice(&indices[..count]);
    }
    training.sort_unstable();
    validation.sort_unstable();
    let part = |indices| Dataset::part(dataset.images.clone(), indices);
    (part(training), part(validation))
}

/// A long-tailed part of a data set (Cao et al. 2019, section 4): of n images of the largest class, class c of C keeps
/// n imbalance^(-c / (C - 1)), rounded, at least one. The same images for every run, since the key has no seed.
pub fn long_tailed(dataset: &Dataset, classes: usize, imbalance: f64) -> Dataset {
    let mut by_class = vec![Vec::new(); classes];
    for (&index, &label) in dataset.indices.iter().zip(&dataset.labels) {
        by_class[label as usize].push(index);
    }
    let most = by_class.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let mut kept = Vec::new();
    for (class, mut indices) in by_class.into_iter().enumerate() {
        let share = libm::pow(imbalance, -(class as f64) / (classes as f64 - 1.0));
        indices.shuffle(&mut rng(0, Purpose::LongTail, &[class as u64]));
        kept.extend(indices.into_iter().take(((most * share).round() as usize).max(1)));
    }
    kept.sort_unstable();
    Dataset::part(dataset.images.clone(), kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::numbers;

    #[test]
    fn a_long_tail_falls_exponentially_and_is_the_same_for_all() {
        let images = Dataset::whole(numbers(1000, 5));
        let tail = long_tailed(&images, 5, 16.0);
        let count = |class: u32| tail.labels.iter().filter(|&&label| label == class).count();
        assert_eq!((0..5).map(count).collect::<Vec<_>>(), [200, 100, 50, 25, 13]);
        assert_eq!(tail.indices, long_tailed(&images, 5, 16.0).indices);
        assert_eq!(long_tailed(&images, 5, 1.0).indices, images.indices);
    }

    #[test]
    fn the_split_is_stratified_disjoint_complete_and_seeded() {
        let images = Dataset::whole(numbers(1000, 10));
        let (training, validation) = stratified_split(&images, 10, 0.1, 7);
        for class in 0..10 {
            assert_eq!(validation.labels.iter().filter(|&&label| label == class).count(), 10);
        }
        let mut all = [training.indices.clone(), validation.indices.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<u32>>());
        assert_eq!(stratified_split(&images, 10, 0.1, 7).1.indices, validation.indices);
        assert_ne!(stratified_split(&images, 10, 0.1, 8).1.indices, validation.indices);
    }

    #[test]
    fn small_classes_are_on_both_sides_of_the_split() {
        let (training, validation) = stratified_split(&Dataset::whole(numbers(6, 3)), 3, 0.01, 1);
        assert_eq!((training.len(), validation.len()), (3, 3));
        let (training, validation) = stratified_split(&Dataset::whole(numbers(3, 3)), 3, 0.5, 1);
        assert_eq!((training.len(), validation.len()), (3, 0));
    }
}
