//! A part of an image source with its labels: training, validation or test.

use std::sync::Arc;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::Images;
use crate::error::Result;
use crate::rng::{Purpose, rng};

#[derive(Clone)]
pub struct Dataset {
    pub images: Arc<dyn Images>,
    /// Numbers of this part's images in `images`.
    pub indices: Vec<u32>,
    /// One label per entry of `indices`; may differ from the source's (label noise).
    pub labels: Vec<u32>,
}

impl Dataset {
    /// Every image of the source.
    pub fn whole(images: Arc<dyn Images>) -> Dataset {
        let indices: Vec<u32> = (0..images.count() as u32).collect();
        Dataset::part(images, indices)
    }

    /// Some of the source's images, with its labels.
    pub fn part(images: Arc<dyn Images>, indices: Vec<u32>) -> Dataset {
        let labels = indices.iter().map(|&index| images.label(index as usize)).collect();
        Dataset { images, indices, labels }
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

impl Images for Dataset {
    fn count(&self) -> usize {
        self.len()
    }

    fn size(&self) -> (usize, usize) {
        self.images.size()
    }

    fn label(&self, index: usize) -> u32 {
        self.labels[index]
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        self.images.read(self.indices[index] as usize, pixels)
    }
}

/// (training, validation): `fraction` of each class, rounded, goes to validation; a class with at least two images
/// has at least one on each side.
pub fn stratified_split(images: &Arc<dyn Images>, classes: usize, fraction: f64, seed: u64) -> (Dataset, Dataset) {
    let mut by_class = vec![Vec::new(); classes];
    for index in 0..images.count() as u32 {
        by_class[images.label(index as usize) as usize].push(index);
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
    (Dataset::part(images.clone(), training), Dataset::part(images.clone(), validation))
}

/// One replaced label, as it is written to the run directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LabelChange {
    pub image: u32,
    pub label: u32,
    pub noisy_label: u32,
}

/// Symmetric label noise: each label is replaced with probability `noise` by one of the other classes, all equally
/// likely (P_ii = 1 - n, P_ij = n / (C - 1); Co-teaching's definition). Decided for each image by itself.
pub fn add_label_noise(training: &mut Dataset, classes: usize, noise: f64, seed: u64) -> Vec<LabelChange> {
    let mut changes = Vec::new();
    for (&image, label) in training.indices.iter().zip(&mut training.labels) {
        let mut rng = rng(seed, Purpose::LabelNoise, &[image as u64]);
        if rng.random::<f64>() < noise {
            let other = rng.random_range(0..classes as u32 - 1);
            let noisy_label = if other < *label { other } else { other + 1 };
            changes.push(LabelChange { image, label: *label, noisy_label });
            *label = noisy_label;
        }
    }
    changes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Images without content: image i has the i-th label.
    pub struct Labels(pub Vec<u32>);

    impl Images for Labels {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn size(&self) -> (usize, usize) {
            (1, 1)
        }
        fn label(&self, index: usize) -> u32 {
            self.0[index]
        }
        fn read(&self, _: usize, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
    }

    /// Image i is filled with byte i and has label i % classes.
    pub struct Numbers {
        pub count: usize,
        pub classes: usize,
    }

    impl Images for Numbers {
        fn count(&self) -> usize {
            self.count
        }
        fn size(&self) -> (usize, usize) {
            (4, 4)
        }
        fn label(&self, index: usize) -> u32 {
            (index % self.classes) as u32
        }
        fn read(&self, index: usize, pixels: &mut [u8]) -> crate::error::Result<()> {
            pixels.fill(index as u8);
            Ok(())
        }
    }

    fn numbers(count: usize, classes: usize) -> Arc<dyn Images> {
        Arc::new(Numbers { count, classes })
    }

    #[test]
    fn the_split_is_stratified_disjoint_complete_and_seeded() {
        let images = numbers(1000, 10);
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
        let (training, validation) = stratified_split(&numbers(6, 3), 3, 0.01, 1);
        assert_eq!((training.len(), validation.len()), (3, 3));
        let (training, validation) = stratified_split(&numbers(3, 3), 3, 0.5, 1);
        assert_eq!((training.len(), validation.len()), (3, 0));
    }

    #[test]
    fn label_noise_has_its_rate_and_never_keeps_the_label() {
        let mut training = Dataset::whole(numbers(20_000, 10));
        let clean = training.labels.clone();
        let changes = add_label_noise(&mut training, 10, 0.2, 3);
        let rate = changes.len() as f64 / 20_000.0;
        assert!((rate - 0.2).abs() < 0.01, "{rate}"); // 3.5 standard deviations
        assert!(changes.iter().all(|change| change.label != change.noisy_label && change.noisy_label < 10));
        assert_eq!(changes.len(), clean.iter().zip(&training.labels).filter(|(a, b)| a != b).count());
        // every other class is about equally likely
        for class in 0..10 {
            let count = changes.iter().filter(|change| change.noisy_label == class).count() as f64;
            assert!((count / changes.len() as f64 - 0.1).abs() < 0.02);
        }
        assert!(add_label_noise(&mut Dataset::whole(numbers(100, 10)), 10, 0.0, 3).is_empty());
    }
}
