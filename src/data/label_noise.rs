//! Labels replaced on purpose, to see how losses cope with wrong ones.

use rand::RngExt;

use super::Dataset;
use crate::config::NoiseKind;
use crate::rng::{Purpose, rng};

/// One replaced label, as it is written to the run directory.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LabelChange {
    pub image: u32,
    pub label: u32,
    pub noisy_label: u32,
}

/// Label noise as Co-teaching (Han et al. 2018, section 4) defines it: each label is replaced with this probability, by one of
/// the other classes, all equally likely (symmetric), or by the next class, the first one after the last (pair). Decided for
/// each image by itself.
pub fn add_label_noise(
    training: &mut Dataset,
    classes: usize,
    (noise, kind): (f64, NoiseKind),
    seed: u64,
) -> Vec<LabelChange> {
    let mut changes = Vec::new();
    for (&image, label) in training.indices.iter().zip(&mut training.labels) {
        let mut rng = rng(seed, Purpose::LabelNoise, &[image as u64]);
        if rng.random::<f64>() < noise {
            let noisy_label = match kind {
                NoiseKind::Pair => (*label + 1) % classes as u32,
                NoiseKind::Symmetric => {
                    let other = rng.random_range(0..classes as u32 - 1);
                    if other < *label { other } else { other + 1 }
                }
            };
            changes.push(LabelChange { image, label: *label, noisy_label });
            *label = noisy_label;
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::tests::numbers;

    #[test]
    fn label_noise_has_its_rate_and_never_keeps_the_label() {
        let mut training = Dataset::whole(numbers(20_000, 10));
        let clean = training.labels.clone();
        let changes = add_label_noise(&mut training, 10, (0.2, NoiseKind::Symmetric), 3);
        let rate = changes.len() as f64 / 20_000.0;
        assert!((rate - 0.2).abs() < 0.01, "{rate}"); // 3.5 standard deviations
        assert!(changes.iter().all(|change| change.label != change.noisy_label && change.noisy_label < 10));
        assert_eq!(changes.len(), clean.iter().zip(&training.labels).filter(|(a, b)| a != b).count());
        // every other class is about equally likely
        for class in 0..10 {
            let count = changes.iter().filter(|change| change.noisy_label == class).count() as f64;
            assert!((count / changes.len() as f64 - 0.1).abs() < 0.02);
        }
        assert!(add_label_noise(&mut Dataset::whole(numbers(100, 10)), 10, (0.0, NoiseKind::Pair), 3).is_empty());
    }

    #[test]
    fn pair_noise_gives_the_next_class_to_the_same_images_as_symmetric_noise_a_wrong_one() {
        let noisy = |kind| add_label_noise(&mut Dataset::whole(numbers(20_000, 10)), 10, (0.45, kind), 3);
        let (pairs, symmetric) = (noisy(NoiseKind::Pair), noisy(NoiseKind::Symmetric));
        assert!((pairs.len() as f64 / 20_000.0 - 0.45).abs() < 0.01);
        assert!(pairs.iter().all(|change| change.noisy_label == (change.label + 1) % 10));
        assert!(pairs.iter().map(|change| change.image).eq(symmetric.iter().map(|change| change.image)));
    }
}
