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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::numbers;

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
