//! Image classification: CIFAR-10 and glyphs. Reward: top-1 accuracy on the validation split.

use std::sync::Arc;

use tch::Device;

use super::training::{Goal, Supervised, Training};
use crate::config::{self, Config, DataKind};
use crate::data::{Cifar10, Dataset, GlyphImages, Images, add_label_noise, stratified_split};
use crate::error::{Error, Result};
use crate::model;
use crate::train::{Normalisation, Trainer};

/// Opens the data, splits them and builds the network on `devices`. Errors: data that can't be used.
pub fn classification(config: &Config, devices: &[Device]) -> Result<Supervised> {
    let (images, test, classes) = sources(&config.data, config.run.seed)?;
    let seed = config.run.seed;
    let (mut training, validation) = stratified_split(&images, classes, config.data.validation_fraction, seed);
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
        training.top1(&self.validation)
    }

    fn test(&self, training: &mut Training) -> Result<Vec<(String, f64)>> {
        let accuracy = training.top1(&self.test)?;
        Ok(vec![("top1".into(), accuracy), ("top1_error".into(), 1.0 - accuracy)])
    }
}

type Sources = (Arc<dyn Images>, Arc<dyn Images>, usize);

/// (training images, test images, number of classes).
fn sources(config: &config::Data, seed: u64) -> Result<Sources> {
    match config.kind {
        DataKind::Cifar10 => {
            let path = config.path.as_deref().expect("checked with the configuration");
            let (training, test) = Cifar10::open(path)?;
            Ok((Arc::new(training), Arc::new(test), Cifar10::CLASSES))
        }
        DataKind::Faces | DataKind::Reid => unreachable!("faces and persons are tasks of their own"),
        DataKind::Glyphs => {
            let (training, test) = GlyphImages::open(&config.glyphs, seed);
            Ok((Arc::new(training), Arc::new(test), config.glyphs.classes))
        }
    }
}
