//! A checkpoint's network, ready to embed images.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Tensor};

use crate::checkpoint;
use crate::config::{DataKind, Run, Source, TypedConfig};
use crate::data::{Dataset, Images};
use crate::device;
use crate::error::{Error, Result};
use crate::eval::normalise_rows;
use crate::model;
use crate::train::{Normalisation, Trainer, evaluation_batches};

pub struct Embedder {
    trainer: Trainer,
    /// Height and width of its images.
    pub size: (usize, usize),
    /// The run's data.path.
    pub data: PathBuf,
    loader_threads: usize,
}

impl Embedder {
    /// Of a run on data of this kind; `adjust` changes what concerns this machine (device, threads). Errors: not the
    /// checkpoint of such a run; the device is not there.
    pub fn open(path: &Path, kind: DataKind, adjust: impl FnOnce(&mut Run)) -> Result<Embedder> {
        let checkpoint = checkpoint::read(path)?;
        let stored = TypedConfig::from_toml(&checkpoint.info.config);
        let mut typed = stored.map_err(|why| Error::file(path, why))?;
        if typed.data.kind != kind {
            let why = format!("the checkpoint of a network for {:?}, not for {kind:?}", typed.data.kind);
            return Err(Error::file(path, why));
        }
        adjust(&mut typed.run);
        let config = typed.resolve().map_err(|why| Error::file(path, why))?;
        tch::set_num_threads(config.run.threads as i32);
        let ([height, width], normalisation, data) = match config.data.source.clone() {
            Source::Faces { path, settings } => (settings.size, Normalisation::FACES, path),
            Source::Reid { path, settings } => (settings.size, Normalisation::REID, path),
            _ => return Err(Error::file(path, "the checkpoint of a network that embeds neither faces nor persons")),
        };
        let devices: Vec<Device> = device::choose(&config.run)?;
        // the classifier's rows are the only thing that the configuration does not tell
        let classifier = format!("model/{}", model::classifier_name(&config.model));
        let classes = checkpoint.tensors.iter().find(|tensor| tensor.path == classifier).map(|tensor| tensor.shape[0]);
        let classes = classes.ok_or_else(|| Error::file(path, format!("it has no tensor {classifier}")))?;
        let (model, layout) = model::build(&config.model, (height, width), classes);
        let mut trainer = Trainer::new(&config, model.into(), &layout, normalisation, &devices);
        let state = checkpoint::from_named(&checkpoint.tensors, trainer.specs());
        trainer.load(&state.map_err(|why| Error::file(path, why))?);
        Ok(Embedder { trainer, size: (height, width), data, loader_threads: config.run.loader_threads })
    }

    /// Unit embeddings of some of the images: [n, D] f32 on the first device. Each is of the image's embedding plus its
    /// mirror image's. Errors: a damaged image, an embedding that is not finite.
    pub fn embed(&mut self, images: &Arc<dyn Images>, range: Range<usize>) -> Result<Tensor> {
        let first = range.start;
        let dataset = Arc::new(Dataset::part(images.clone(), range.map(|index| index as u32).collect()));
        let batches = evaluation_batches(&dataset, self.loader_threads);
        normalise_rows(&self.trainer.embed(batches, true)?, first)
    }
}
