//! Image classification: CIFAR, glyphs and one's own images. Reward: top-1 accuracy on the validation split, or another
//! measure of it (`search.reward`).

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::training::{Goal, Supervised, Training};
use crate::config::{self, Config, Crop, Reward, Sampling, Source};
use crate::data::{
    Cifar, ClassImages, Dataset, GlyphImages, Images, Scaled, Subset, Zoom, add_label_noise, long_tailed,
    stratified_split,
};
use crate::error::{Error, Result};
use crate::eval::classification::{ranks, recall, top};
use crate::eval::likelihood::calibrated_log_likelihood;
use crate::model;
use crate::state::{Predictions, Tested};
use crate::train::{Normalisation, Trainer};

/// The seed of a test set that is split off: the same for all runs, so that their figures can be compared.
const TEST_SEED: u64 = 0;

/// Images of `count` classes.
pub struct Classes {
    training: Dataset,
    validation: Dataset,
    test: Dataset,
    /// By label.
    names: Vec<String>,
    /// `None`: that of the images to train on.
    normalisation: Option<Normalisation>,
    zoom: Option<Zoom>,
}

impl Classes {
    /// Holds `fraction` of the images of each class out for the reward, of those that a long tail leaves if one is wanted.
    fn split(
        config: &Config,
        training: Arc<dyn Images>,
        test: Arc<dyn Images>,
        names: Vec<String>,
        fraction: f64,
    ) -> Classes {
        let (all, count) = (Dataset::whole(training), names.len());
        let kept = config.data.imbalance.map_or(all.clone(), |imbalance| long_tailed(&all, count, imbalance));
        let (training, validation) = stratified_split(&kept, count, fraction, config.run.seed);
        Classes { training, validation, test: Dataset::whole(test), names, normalisation: None, zoom: None }
    }

    /// CIFAR-10 or CIFAR-100, scaled to `size` x `size` pixels if there is one. Errors: files that can't be used.
    pub fn cifar(config: &Config, path: &Path, classes: usize, size: Option<usize>, fraction: f64) -> Result<Classes> {
        let (training, test) = Cifar::open(path, classes)?;
        let sized = |images: Cifar| -> Result<Arc<dyn Images>> {
            Ok(match size {
                Some(size) => Arc::new(Scaled::new(&images, (size, size))?),
                None => Arc::new(images),
            })
        };
        Ok(Classes::split(config, sized(training)?, sized(test)?, Cifar::names(classes), fraction))
    }

    pub fn glyphs(config: &Config, settings: &config::Glyphs, fraction: f64) -> Classes {
        let (training, test) = GlyphImages::open(settings, config.run.seed);
        let names = (0..settings.classes).map(|class| class.to_string()).collect();
        Classes::split(config, Arc::new(training), Arc::new(test), names, fraction)
    }

    /// A packed file's images: its own validation and test sets, or parts of the images to train on. Errors: the file's.
    pub fn images(path: &Path, settings: &config::ClassImages, fraction: f64, seed: u64) -> Result<Classes> {
        let images = ClassImages::open(path, (settings.size, settings.size), settings.shorter_side)?;
        let names = images.packed.identities().to_vec();
        let count = names.len();
        let of = |subset| images.of(subset);
        let subsets = [of(Subset::Train), of(Subset::Validation), of(Subset::Test)];
        let images: Arc<dyn Images> = Arc::new(images);
        let [training, validation, test] = subsets.map(|indices| Dataset::part(images.clone(), indices));
        let or_split = |part: Dataset, training, fraction, seed| match part.is_empty() {
            true => stratified_split(&training, count, fraction, seed),
            false => (training, part),
        };
        let (training, test) = or_split(test, training, settings.test_fraction, TEST_SEED);
        let (training, validation) = or_split(validation, training, fraction, seed);
        let zoom = match settings.crop {
            Crop::Zoomed => Some(Zoom { scale: settings.scale, ratio: settings.ratio }),
            Crop::Padded => None,
        };
        Ok(Classes { training, validation, test, names, normalisation: Some(Normalisation::IMAGENET), zoom })
    }
}

/// How a run's network wants its images. That of CIFAR and glyphs depends on the images that were trained on: they are opened.
pub fn normalisation(config: &Config) -> Result<Normalisation> {
    let classes = match &config.data.source {
        Source::Cifar { path, classes, size, validation_fraction } => {
            Classes::cifar(config, path, *classes, *size, *validation_fraction)?
        }
        Source::Glyphs { settings, validation_fraction } => Classes::glyphs(config, settings, *validation_fraction),
        Source::Images { .. } | Source::Reid { .. } => return Ok(Normalisation::IMAGENET),
        Source::Faces { .. } => return Ok(Normalisation::FACES),
    };
    Normalisation::of(&classes.training)
}

/// Builds the network on `devices`. Errors: data that can't be used.
pub fn classification(config: &Config, classes: Classes, devices: &[Device]) -> Result<Supervised> {
    let Classes { mut training, validation, test, names, normalisation, zoom } = classes;
    let count = names.len();
    if training.is_empty() || validation.is_empty() || test.is_empty() {
        return Err(Error::failed(format!(
            "{} training, {} validation and {} test images: none may be 0",
            training.len(),
            validation.len(),
            test.len()
        )));
    }
    let label_changes = add_label_noise(&mut training, count, config.data.noise(), config.run.seed);
    let (model, layout) = model::build(&config.model, training.images.size(), count);
    let normalisation = normalisation.map_or_else(|| Normalisation::of(&training), Ok)?;
    let trainer = Trainer::new(config, model.into(), &layout, normalisation, devices);
    Ok(Supervised {
        training: Training::new(config, training, trainer, normalisation)
            .zoomed(zoom)
            .evened_out(config.data.sampling == Sampling::Balanced),
        label_changes,
        goal: Box::new(Recognise { validation: Arc::new(validation), test: Arc::new(test), names }),
    })
}

struct Recognise {
    validation: Arc<Dataset>,
    test: Arc<Dataset>,
    /// Of the classes, by label.
    names: Vec<String>,
}

impl Goal for Recognise {
    fn describe(&self) -> String {
        format!("{} classes; {} validation, {} test", self.names.len(), self.validation.len(), self.test.len())
    }

    fn reward(&self, training: &mut Training) -> Result<f64> {
        let logits = training.logits(&self.validation)?;
        let labels = labels(&self.validation, &logits);
        let reward = training.config.search.reward();
        if matches!(reward, Reward::Likelihood | Reward::BalancedLikelihood) {
            let right =
                labels.unsqueeze(1).eq_tensor(&Tensor::arange(logits.size()[1], (Kind::Int64, labels.device())));
            let balanced = (reward == Reward::BalancedLikelihood).then(|| shares(&self.validation.labels));
            let weights = balanced.map(|shares| Tensor::from_slice(&shares).to_device(logits.device()));
            return calibrated_log_likelihood(&logits, &right, &right.logical_not(), weights.as_ref());
        }
        let Some(ranks) = ranks(&logits, &labels)? else { return Ok(f64::NAN) };
        Ok(match reward {
            Reward::Recall => recall(&ranks, &self.validation.labels),
            Reward::Top5 => top(5, &ranks),
            Reward::Metric | Reward::Likelihood | Reward::BalancedLikelihood => top(1, &ranks),
        })
    }

    fn held_out(&self) -> Option<&Arc<Dataset>> {
        Some(&self.validation)
    }

    fn classes(&self) -> &[String] {
        &self.names
    }

    fn test(&self, training: &mut Training) -> Result<Tested> {
        tested(&training.logits(&self.test)?, &self.test)
    }
}

/// What logits [N, C] of a data set's images say.
pub fn tested(logits: &Tensor, dataset: &Dataset) -> Result<Tested> {
    let ranks = ranks(logits, &labels(dataset, logits))?;
    let of = |measure: &dyn Fn(&[i64]) -> f64| ranks.as_deref().map_or(f64::NAN, measure);
    let accuracy = of(&|ranks| top(1, ranks));
    let mut found = vec![("top1", accuracy), ("top1_error", 1.0 - accuracy)];
    if logits.size()[1] > 5 {
        found.push(("top5", of(&|ranks| top(5, ranks))));
    }
    found.push(("recall", of(&|ranks| recall(ranks, &dataset.labels))));
    let predictions = match ranks {
        None => None,
        Some(_) => Some(Predictions {
            image: dataset.indices.iter().map(|&index| index.into()).collect(),
            label: dataset.labels.iter().map(|&label| label.into()).collect(),
            predicted: Vec::try_from(logits.argmax(1, false).to_device(Device::Cpu))?,
        }),
    };
    Ok(Tested { metrics: found.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(), predictions })
}

/// Of each image one over the number of images of its class: classes then weigh the same.
fn shares(labels: &[u32]) -> Vec<f64> {
    let mut counts = HashMap::<u32, f64>::new();
    labels.iter().for_each(|&label| *counts.entry(label).or_default() += 1.0);
    labels.iter().map(|label| 1.0 / counts[label]).collect()
}

/// [N] i64 where `logits` are.
fn labels(dataset: &Dataset, logits: &Tensor) -> Tensor {
    let labels: Vec<i64> = dataset.labels.iter().map(|&label| label.into()).collect();
    Tensor::from_slice(&labels).to_device(logits.device())
}
