//! What the search knows of a task. Classification, faces and re-ID are three implementations; a user's own task is another.

mod classification;
mod faces;
mod reid;
mod training;

use classification::{Classes, classification};
pub use classification::{normalisation, tested};
use faces::faces;
use reid::reid;

use tch::Device;

use crate::config::{Config, Source};
use crate::data::LabelChange;
use crate::error::{Error, Result};
use crate::loss::{Function, Pull};
use crate::state::{TensorSpec, Tested, Within};
use crate::train::{Observer, Trained};

/// The task of a configuration: opens the data and builds the network on `devices`. Errors: data that can't be used.
pub fn open(config: &Config, devices: &[Device]) -> Result<Box<dyn Task>> {
    Ok(Box::new(match &config.data.source {
        Source::Cifar { path, classes, size, validation_fraction } => {
            let classes = Classes::cifar(config, path, *classes, *size, *validation_fraction)?;
            classification(config, classes, devices)?
        }
        Source::Glyphs { settings, validation_fraction } => {
            classification(config, Classes::glyphs(config, settings, *validation_fraction), devices)?
        }
        Source::Images { path, settings, validation_fraction } => {
            let classes = Classes::images(path, settings, *validation_fraction, config.run.seed)?;
            classification(config, classes, devices)?
        }
        Source::Faces { path, settings } => faces(config, path, settings, devices)?,
        Source::Reid { path, settings } => reid(config, path, settings, devices)?,
    }))
}

/// One sample's epoch of training, for `Task::train`.
#[derive(Clone, Copy, Debug)]
pub struct Epoch<'a> {
    /// Epochs completed before this one.
    pub epoch: usize,
    /// The loss: theta_i [P], or empty where the configuration fixes the loss.
    pub theta: &'a [f64],
    /// Data order and augmentation: equal streams see equal batches.
    pub stream: u64,
    /// Where in the epoch to begin: the current model has come as far.
    pub from: Within,
}

pub trait Task {
    /// The data in a sentence.
    fn describe(&self) -> String;

    /// The training labels that label noise replaced.
    fn label_changes(&self) -> &[LabelChange] {
        &[]
    }

    /// Trains the current model to the end of the epoch, or until the observer wants a pause. The result must be the same
    /// with and without pauses, also if the state is saved, and loaded by another process, in between.
    fn train(&mut self, epoch: Epoch, observer: &mut dyn Observer) -> Result<Trained>;

    /// Training examples and steps of one epoch.
    fn examples(&self) -> usize;
    fn steps(&self) -> usize;

    /// The current model's reward on the validation split: higher is better; not finite if the model is broken.
    fn reward(&mut self) -> Result<f64>;

    /// The current model on the test set. Never a reward.
    fn test(&mut self) -> Result<Tested>;

    /// Names of the classes that the model tells apart, by label, where that is the task.
    fn classes(&self) -> &[String] {
        &[]
    }

    /// How losses, each with its theta, pull at the targets of about so many images of the classes that are trained on,
    /// by the current model: held-out ones where there are any.
    fn pull(&mut self, _images: usize, _losses: &[(Function, Vec<f64>)]) -> Result<Pull> {
        Err(Error::failed("this task has no targets"))
    }

    /// The tensors of the state vector: weights, buffers and optimiser state, one after the other.
    fn specs(&self) -> &[TensorSpec];

    /// Copies the state to or from a vector as long as `specs` span. What a task does next must depend on its state
    /// and its arguments alone: this is what makes results independent of the number of ranks. A state that was saved is not
    /// loaded again where the task still holds it.
    fn save(&mut self, state: &mut [f32]);
    fn load(&mut self, state: &[f32]);

    /// Learning rate of an epoch, for the record.
    fn learning_rate(&self, epoch: usize) -> f64;
}
