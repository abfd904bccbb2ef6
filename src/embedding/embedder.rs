//! A checkpoint's network, ready to embed or to classify images.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use tch::Tensor;

use super::StoredRun;
use crate::config::Source;
use crate::data::{Dataset, Fit, Images};
use crate::error::Result;
use crate::eval::normalise_rows;
use crate::model;
use crate::train::{Normalisation, Trainer, evaluation_batches};

/// Height and width of CIFAR-10's images.
const CIFAR_SIDE: usize = 32;

pub struct Embedder {
    trainer: Trainer,
    /// Height and width of its images.
    pub size: (usize, usize),
    /// How its images get this size.
    pub fit: Fit,
    /// The run's data.path.
    pub data: PathBuf,
    loader_threads: usize,
}

impl Embedder {
    /// The network of a run on faces. Errors: the run is on something else, or its checkpoint of another network.
    pub fn faces(run: StoredRun) -> Result<Embedder> {
        match run.config.data.source {
            Source::Faces { .. } => Embedder::new(run, Normalisation::FACES),
            _ => Err(run.unfit(format!("the checkpoint of a network for {:?}, not for Faces", run.kind()))),
        }
    }

    /// The network of a run on persons. Errors: those of `faces`.
    pub fn persons(run: StoredRun) -> Result<Embedder> {
        match run.config.data.source {
            Source::Reid { .. } => Embedder::new(run, Normalisation::IMAGENET),
            _ => Err(run.unfit(format!("the checkpoint of a network for {:?}, not for Reid", run.kind()))),
        }
    }

    /// The network of any run, whose images are normalised in this way. Error: the checkpoint is of another network.
    pub fn new(run: StoredRun, normalisation: Normalisation) -> Result<Embedder> {
        let ([height, width], fit) = match &run.config.data.source {
            Source::Faces { settings, .. } => (settings.size, Fit::Cropped),
            Source::Reid { settings, .. } => (settings.size, Fit::Stretched),
            Source::Cifar { size, .. } => ([size.unwrap_or(CIFAR_SIDE); 2], Fit::Stretched),
            Source::Images { settings, .. } => ([settings.size; 2], Fit::Centred(settings.shorter_side)),
            Source::Glyphs { settings, .. } => ([settings.image_size; 2], Fit::Stretched),
        };
        let data = run.config.typed().data.path.clone().unwrap_or_default();
        // the model alone: the average, where one was kept
        let mut config = run.config.clone();
        config.train.average = None;
        let config = &config;
        // the classifier's rows are the only thing that the configuration does not tell
        let classes = run.shape(&format!("model/{}", model::classifier_names(&config.model)[0]))?[0];
        let (model, layout) = model::build(&config.model, (height, width), classes);
        let mut trainer = Trainer::new(config, model.into(), &layout, normalisation, &run.devices);
        trainer.load(&run.state(trainer.specs())?);
        Ok(Embedder { trainer, size: (height, width), fit, loader_threads: config.run.loader_threads, data })
    }

    /// Unit embeddings of some of the images: [n, D] f32 on the first device. Each is of the image's embedding plus its
    /// mirror image's. Errors: a damaged image, an embedding that is not finite.
    pub fn embed(&mut self, images: &Arc<dyn Images>, range: Range<usize>) -> Result<Tensor> {
        let first = range.start;
        let dataset = Arc::new(Dataset::part(images.clone(), range.map(|index| index as u32).collect()));
        let batches = evaluation_batches(&dataset, self.loader_threads);
        normalise_rows(&self.trainer.embed(batches, true)?, first)
    }

    /// Logits of all images of a data set, in the order of the labels that the network was trained with: [N, C] f32 on the first
    /// device. Error: a damaged image.
    pub fn logits(&mut self, dataset: &Arc<Dataset>) -> Result<Tensor> {
        self.trainer.logits(evaluation_batches(dataset, self.loader_threads))
    }
}
