//! What the tasks have in common: a network trained on labelled images. They differ in the `Goal`.

use std::sync::Arc;

use tch::Tensor;

use super::{Epoch, Task};
use crate::config::{Config, ResidentData, RewardWeights};
use crate::data::{
    Augment, Balanced, Batch, Dataset, LabelChange, Resident, Zoom, batches, evened_out, picked_batches, shuffled,
};
use crate::device;
use crate::error::Result;
use crate::loss::{Function, Pull};
use crate::state::{TensorSpec, Tested};
use crate::train::{
    EVALUATION_BATCH, EpochPlan, Normalisation, Observer, Trained, Trainer, evaluation_batches, learning_rate,
};

/// What a network is trained for: its reward and its test. The data of both are never trained on.
pub trait Goal {
    /// The data in a phrase.
    fn describe(&self) -> String;

    fn reward(&self, training: &mut Training) -> Result<f64>;

    fn test(&self, training: &mut Training) -> Result<Tested>;

    /// Names of the classes, by label, where the goal is to tell them apart.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// Held-out images of the classes that are trained on; `None` where other classes are held out.
    fn held_out(&self) -> Option<&Arc<Dataset>> {
        None
    }
}

/// A task: training for a goal.
pub struct Supervised {
    pub training: Training,
    pub label_changes: Vec<LabelChange>,
    pub goal: Box<dyn Goal>,
}

impl Task for Supervised {
    fn describe(&self) -> String {
        format!(
            "{} training images ({} with a replaced label), {}",
            self.training.dataset.len(),
            self.label_changes.len(),
            self.goal.describe()
        )
    }

    fn label_changes(&self) -> &[LabelChange] {
        &self.label_changes
    }

    fn train(&mut self, epoch: Epoch, observer: &mut dyn Observer) -> Result<Trained> {
        self.training.epoch(epoch, observer)
    }

    fn examples(&self) -> usize {
        self.training.examples()
    }

    fn steps(&self) -> usize {
        self.training.steps()
    }

    fn reward(&mut self) -> Result<f64> {
        let averaged = self.training.config.search.reward_weights == Some(RewardWeights::Average);
        self.measure(averaged, |goal, training| goal.reward(training))
    }

    fn test(&mut self) -> Result<Tested> {
        self.measure(true, |goal, training| goal.test(training))
    }

    fn classes(&self) -> &[String] {
        self.goal.classes()
    }

    fn pull(&mut self, images: usize, losses: &[(Function, Vec<f64>)]) -> Result<Pull> {
        self.measure(true, |goal, training| {
            let dataset = goal.held_out().unwrap_or(&training.dataset).clone();
            let threads = training.config.run.loader_threads;
            training.trainer.pull(evaluation_batches(&dataset, threads).take(images.div_ceil(EVALUATION_BATCH)), losses)
        })
    }

    fn specs(&self) -> &[TensorSpec] {
        self.training.trainer.specs()
    }

    fn save(&mut self, state: &mut [f32]) {
        self.training.trainer.save(state);
    }

    fn load(&mut self, state: &[f32]) {
        self.training.trainer.load(state);
    }

    fn learning_rate(&self, epoch: usize) -> f64 {
        learning_rate(&self.training.config.train, epoch)
    }
}

impl Supervised {
    /// Measures the average of the weights, where one is kept and wanted, or the weights themselves.
    fn measure<T>(&mut self, averaged: bool, of: impl FnOnce(&dyn Goal, &mut Training) -> Result<T>) -> Result<T> {
        if !averaged {
            return of(&*self.goal, &mut self.training);
        }
        self.training.trainer.swap_average();
        let found = of(&*self.goal, &mut self.training);
        self.training.trainer.swap_average();
        found
    }
}

/// A network in training, its training set and the trainer that goes through it.
pub struct Training {
    pub config: Config,
    dataset: Arc<Dataset>,
    trainer: Trainer,
    /// Height and width of training images.
    crop: (usize, usize),
    zoom: Option<Zoom>,
    /// Examples of each class, up to the last that has any.
    counts: Vec<u64>,
    /// What random erasing leaves: the mean colour.
    fill: [u8; 3],
    /// Batches of P identities, and how many an epoch has; `None`: shuffled examples.
    balanced: Option<(Balanced, usize)>,
    /// Whether classes come equally often, however many images they have.
    evened_out: bool,
    /// Whether the images are kept on the devices; `None`: not decided before the first epoch.
    resident: Option<bool>,
}

impl Training {
    /// Trains on all images of `dataset` in random order, at their own size; `cropped` and `balanced` change that.
    pub fn new(config: &Config, dataset: Dataset, trainer: Trainer, normalisation: Normalisation) -> Training {
        Training {
            config: config.clone(),
            crop: dataset.images.size(),
            zoom: None,
            counts: counts(&dataset.labels),
            dataset: Arc::new(dataset),
            trainer,
            fill: normalisation.mean.map(|mean| mean.round() as u8),
            balanced: None,
            evened_out: false,
            resident: None,
        }
    }

    pub fn cropped(self, crop: (usize, usize)) -> Training {
        Training { crop, ..self }
    }

    /// Trains on parts of the images of random area and shape instead of crops; `None` changes nothing.
    pub fn zoomed(self, zoom: Option<Zoom>) -> Training {
        Training { zoom, ..self }
    }

    pub fn evened_out(self, evened_out: bool) -> Training {
        Training { evened_out, ..self }
    }

    /// Errors: too few identities.
    pub fn balanced(self, balanced: Balanced) -> Result<Training> {
        let batches = balanced.batches_per_epoch(&self.dataset.labels)?;
        Ok(Training { balanced: Some((balanced, batches)), ..self })
    }

    /// Keeps the images on the devices, if that is wanted and they fit there. Returns whether they are.
    fn keep_on_devices(&mut self) -> Result<bool> {
        if let Some(resident) = self.resident {
            return Ok(resident);
        }
        let bytes = Resident::bytes(&self.dataset);
        // a quarter, for the network and what a step needs want the rest
        let fits = |device| device::free_memory(device).is_some_and(|free| bytes <= free / 4);
        let resident = match self.config.run.resident.unwrap_or(ResidentData::Auto) {
            // a part is cut from the image in its own size
            _ if self.zoom.is_some() => false,
            ResidentData::Off => false,
            ResidentData::On => true,
            ResidentData::Auto => self.trainer.devices().into_iter().all(fits),
        };
        if resident {
            self.trainer.keep(&self.dataset, self.fill)?;
            log::info!("the training images are kept on each device: {:.0} MB", bytes as f64 / 1e6);
        }
        self.resident = Some(resident);
        Ok(resident)
    }

    /// One epoch over randomly ordered, augmented images, or the rest of one.
    fn epoch(&mut self, epoch: Epoch, observer: &mut dyn Observer) -> Result<Trained> {
        let resident = self.keep_on_devices()?;
        let Config { data, train, run, .. } = &self.config;
        let number = epoch.epoch as u64;
        let order = match &self.balanced {
            None if self.evened_out => {
                evened_out(&self.dataset.labels, self.examples(), run.seed, number, epoch.stream)
            }
            None => shuffled(self.dataset.len(), self.examples(), run.seed, number, epoch.stream),
            Some((balanced, _)) => balanced.order(&self.dataset.labels, self.steps(), run.seed, number, epoch.stream),
        };
        let size = self.dataset.images.size();
        let cropped = self.zoom.is_some() || data.crop_padding > 0 || self.crop != size;
        let augment = (cropped || data.mirror || data.erasing > 0.0).then_some(Augment {
            padding: data.crop_padding,
            zoom: self.zoom,
            crop: self.crop,
            mirror: data.mirror,
            erasing: data.erasing,
            fill: self.fill,
            seed: run.seed,
            epoch: number,
            stream: epoch.stream,
        });
        let done = (epoch.from.steps as usize * train.batch_size).min(order.len());
        let batches: Box<dyn Iterator<Item = Result<Batch>>> = match resident {
            true => Box::new(picked_batches(&self.dataset, order, done, train.batch_size, augment)),
            false => Box::new(batches(&self.dataset, order, done, train.batch_size, augment, run.loader_threads)),
        };
        let plan =
            EpochPlan { epoch: epoch.epoch, steps: self.steps() as u64, counts: &self.counts, stream: epoch.stream };
        self.trainer.epoch(epoch.theta, batches, plan, epoch.from, observer)
    }

    /// Examples of one epoch: one pass, unless the configuration sets the number of steps.
    fn examples(&self) -> usize {
        let train = &self.config.train;
        let steps = train.epoch_iterations.or(self.balanced.as_ref().map(|&(_, batches)| batches));
        steps.map_or(self.dataset.len(), |steps| steps * train.batch_size)
    }

    fn steps(&self) -> usize {
        self.examples().div_ceil(self.config.train.batch_size)
    }

    /// Logits of all images of a data set: [N, C] f32.
    pub fn logits(&mut self, dataset: &Arc<Dataset>) -> Result<Tensor> {
        self.trainer.logits(evaluation_batches(dataset, self.config.run.loader_threads))
    }

    /// Embeddings of all images of a data set: [N, D] f32, not normalised (`Trainer::embed`).
    pub fn embed(&mut self, dataset: &Arc<Dataset>, mirrored: bool) -> Result<Tensor> {
        self.trainer.embed(evaluation_batches(dataset, self.config.run.loader_threads), mirrored)
    }
}

/// How often each label occurs, up to the largest that does.
fn counts(labels: &[u32]) -> Vec<u64> {
    let mut counts = vec![0; labels.iter().max().map_or(0, |&most| most as usize + 1)];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts
}
