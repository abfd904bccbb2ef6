//! Image classification: CIFAR-10 and glyphs. Reward: top-1 accuracy on the validation split.

use std::sync::Arc;

use tch::Device;

use super::{Epoch, Observer, Task};
use crate::config::{self, Config, DataKind};
use crate::data::{
    Augment, Cifar10, Dataset, GlyphImages, Images, LabelChange, add_label_noise, batches, shuffled, stratified_split,
};
use crate::error::{Error, Result};
use crate::model;
use crate::state::TensorSpec;
use crate::train::{EpochPlan, Normalisation, Trainer, learning_rate};

pub struct Classification {
    config: Config,
    training: Arc<Dataset>,
    validation: Arc<Dataset>,
    test: Arc<Dataset>,
    label_changes: Vec<LabelChange>,
    trainer: Trainer,
}

impl Classification {
    /// Opens the data, splits them and builds the network on `devices`. Errors: data that can't be used.
    pub fn new(config: &Config, devices: &[Device]) -> Result<Classification> {
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
        let (model, layout) = model::build(&config.model, classes);
        let trainer = Trainer::new(config, model.into(), &layout, normalisation(&training), devices);
        Ok(Classification {
            config: config.clone(),
            training: Arc::new(training),
            validation: Arc::new(validation),
            test: Arc::new(Dataset::whole(test)),
            label_changes,
            trainer,
        })
    }

    /// The data in a sentence.
    pub fn describe(&self) -> String {
        format!(
            "{} training images ({} with a replaced label), {} validation, {} test",
            self.training.len(),
            self.label_changes.len(),
            self.validation.len(),
            self.test.len()
        )
    }

    /// The training labels that label noise replaced.
    pub fn label_changes(&self) -> &[LabelChange] {
        &self.label_changes
    }

    fn accuracy(&mut self, dataset: &Arc<Dataset>) -> f64 {
        let order = (0..dataset.len() as u32).collect();
        self.trainer.top1(batches(dataset, order, self.config.train.batch_size, None, self.config.run.loader_threads))
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
        DataKind::Glyphs => {
            let (training, test) = GlyphImages::open(&config.glyphs, seed);
            Ok((Arc::new(training), Arc::new(test), config.glyphs.classes))
        }
    }
}

/// Channel means and deviations over the training images (at most the first 50,000 of them).
fn normalisation(training: &Dataset) -> Normalisation {
    let (height, width) = training.images.size();
    let mut pixels = vec![0; 3 * height * width];
    let (mut sum, mut squares, mut count) = ([0u64; 3], [0u64; 3], 0);
    for &index in training.indices.iter().take(50_000) {
        training.images.read(index as usize, &mut pixels);
        for pixel in pixels.chunks_exact(3) {
            for channel in 0..3 {
                let value = pixel[channel] as u64;
                sum[channel] += value;
                squares[channel] += value * value;
            }
        }
        count += height * width;
    }
    let mean = sum.map(|sum| sum as f64 / count as f64);
    let deviation = |channel: usize| (squares[channel] as f64 / count as f64 - mean[channel].powi(2)).max(1.0).sqrt();
    Normalisation { mean: mean.map(|mean| mean as f32), deviation: [0, 1, 2].map(|channel| deviation(channel) as f32) }
}

impl Task for Classification {
    fn train(&mut self, epoch: Epoch, observer: &mut dyn Observer) -> Result<Option<f64>> {
        let Config { data, train, run, .. } = &self.config;
        let number = epoch.epoch as u64;
        let order = shuffled(self.training.len(), run.seed, number, epoch.stream);
        let augment = (data.crop_padding > 0 || data.mirror).then_some(Augment {
            padding: data.crop_padding,
            mirror: data.mirror,
            seed: run.seed,
            epoch: number,
            stream: epoch.stream,
        });
        let batches = batches(&self.training, order, train.batch_size, augment, run.loader_threads);
        let plan = EpochPlan { epoch: epoch.epoch, steps: self.steps() as u64 };
        Ok(self.trainer.epoch(epoch.theta, batches, plan, observer))
    }

    fn examples(&self) -> usize {
        self.training.len()
    }

    fn steps(&self) -> usize {
        self.training.len().div_ceil(self.config.train.batch_size)
    }

    fn reward(&mut self) -> Result<f64> {
        let validation = self.validation.clone();
        Ok(self.accuracy(&validation))
    }

    fn test(&mut self) -> Result<Vec<(String, f64)>> {
        let test = self.test.clone();
        let accuracy = self.accuracy(&test);
        Ok(vec![("top1".into(), accuracy), ("top1_error".into(), 1.0 - accuracy)])
    }

    fn specs(&self) -> &[TensorSpec] {
        self.trainer.specs()
    }

    fn save(&mut self, state: &mut [f32]) {
        self.trainer.save(state);
    }

    fn load(&mut self, state: &[f32]) {
        self.trainer.load(state);
    }

    fn learning_rate(&self, epoch: usize) -> f64 {
        learning_rate(&self.config.train, epoch)
    }
}
