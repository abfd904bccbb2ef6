//! Image classification: CIFAR and glyphs. Reward: top-1 accuracy on the validation split, or the likelihood of its labels.

use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::training::{Goal, Supervised, Training};
use crate::config::{self, Config, Reward, Source};
use crate::data::{Cifar, Dataset, GlyphImages, Images, Scaled, add_label_noise, stratified_split};
use crate::error::{Error, Result};
use crate::eval::classification::top1;
use crate::eval::likelihood::calibrated_log_likelihood;
use crate::model;
use crate::train::{Normalisation, Trainer};

/// Images of `count` classes.
pub struct Classes {
    pub training: Arc<dyn Images>,
    pub test: Arc<dyn Images>,
    pub count: usize,
}

impl Classes {
    /// CIFAR-10 or CIFAR-100, scaled to `size` x `size` pixels if there is one. Errors: files that can't be used.
    pub fn cifar(path: &Path, classes: usize, size: Option<usize>) -> Result<Classes> {
        let (training, test) = Cifar::open(path, classes)?;
        let sized = |images: Cifar| -> Result<Arc<dyn Images>> {
            Ok(match size {
                Some(size) => Arc::new(Scaled::new(&images, (size, size))?),
                None => Arc::new(images),
            })
        };
        Ok(Classes { training: sized(training)?, test: sized(test)?, count: classes })
    }

    pub fn glyphs(settings: &config::Glyphs, seed: u64) -> Classes {
        let (training, test) = GlyphImages::open(settings, seed);
        Classes { training: Arc::new(training), test: Arc::new(test), count: settings.classes }
    }
}

/// How a run's network wants its images. Classification's depends on the images that were trained on: they are opened.
pub fn normalisation(config: &Config) -> Result<Normalisation> {
    let (images, fraction) = match &config.data.source {
        Source::Cifar { path, classes, size, validation_fraction } => {
            (Classes::cifar(path, *classes, *size)?, *validation_fraction)
        }
        Source::Glyphs { settings, validation_fraction } => {
            (Classes::glyphs(settings, config.run.seed), *validation_fraction)
        }
        Source::Faces { .. } => return Ok(Normalisation::FACES),
        Source::Reid { .. } => return Ok(Normalisation::REID),
    };
    Normalisation::of(&stratified_split(&images.training, images.count, fraction, config.run.seed).0)
}

/// Holds `validation_fraction` of the training images out and builds the network on `devices`. Errors: data that can't
/// be used.
pub fn classification(
    config: &Config,
    Classes { training: images, test, count: classes }: Classes,
    validation_fraction: f64,
    devices: &[Device],
) -> Result<Supervised> {
    let seed = config.run.seed;
    let (mut training, validation) = stratified_split(&images, classes, validation_fraction, seed);
    if training.is_empty() || validation.is_empty() || test.count() == 0 {
        return Err(Error::failed(format!(
            "{} training, {} validation and {} test images: none may be 0",
            training.len(),
            validation.len(),
            test.count()
        )));
    }
    let label_changes = add_label_noise(&mut training, classes, config.data.label_noise, seed);
    let (model, layout) = model::build(&config.model, training.images.size(), classes);
    let normalisation = Normalisation::of(&training)?;
    let trainer = Trainer::new(config, model.into(), &layout, normalisation, devices);
    Ok(Supervised {
        training: Training::new(config, training, trainer, normalisation),
        label_changes,
        goal: Box::new(Accuracy { validation: Arc::new(validation), test: Arc::new(Dataset::whole(test)) }),
    })
}

struct Accuracy {
    validation: Arc<Dataset>,
    test: Arc<Dataset>,
}

impl Goal for Accuracy {
    fn describe(&self) -> String {
        format!("{} validation, {} test", self.validation.len(), self.test.len())
    }

    fn reward(&self, training: &mut Training) -> Result<f64> {
        let logits = training.logits(&self.validation)?;
        let labels = labels(&self.validation, &logits);
        match training.config.search.reward() {
            Reward::Metric => top1(&logits, &labels),
            Reward::Likelihood => {
                let right =
                    labels.unsqueeze(1).eq_tensor(&Tensor::arange(logits.size()[1], (Kind::Int64, labels.device())));
                calibrated_log_likelihood(&logits, &right, &right.ones_like())
            }
        }
    }

    fn held_out(&self) -> Option<&Arc<Dataset>> {
        Some(&self.validation)
    }

    fn test(&self, training: &mut Training) -> Result<Vec<(String, f64)>> {
        let logits = training.logits(&self.test)?;
        let accuracy = top1(&logits, &labels(&self.test, &logits))?;
        Ok(vec![("top1".into(), accuracy), ("top1_error".into(), 1.0 - accuracy)])
    }
}

/// [N] i64 where `logits` are.
fn labels(dataset: &Dataset, logits: &Tensor) -> Tensor {
    let labels: Vec<i64> = dataset.labels.iter().map(|&label| label.into()).collect();
    Tensor::from_slice(&labels).to_device(logits.device())
}
