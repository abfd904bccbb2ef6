//! Face recognition: identities from a packed file. Reward: rank-1 of held-out identities among held-out distractors, as
//! MegaFace defines it (docs/megaface.md), or how likely a probe's neighbours are its mates.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::training::{Goal, Supervised, Training};
use crate::comm;
use crate::config::{Config, Faces, Reward};
use crate::data::{Dataset, HeldOut, Images, Misfit, Packed, add_label_noise, hold_out_identities, misfit};
use crate::error::{Error, Result};
use crate::eval::likelihood::calibrated_log_likelihood;
use crate::eval::megaface::Identification;
use crate::eval::pairs::ClosedSet;
use crate::eval::{normalise_rows, unit_rows};
use crate::model;
use crate::state::Tested;
use crate::train::{Normalisation, Trainer};

/// Opens the packed files, holds identities out and builds the network on `devices`. Errors: data that can't be used.
pub fn faces(config: &Config, path: &Path, settings: &Faces, devices: &[Device]) -> Result<Supervised> {
    let mut misfit = Misfit::default();
    let packed = open(path, settings, &mut misfit)?;
    let mut counts = vec![0; packed.identities().len()];
    (0..packed.count()).for_each(|index| counts[packed.label(index) as usize] += 1);
    let with_two = counts.iter().filter(|&&count| count > 1).count();
    misfit::faces(counts.len(), with_two, settings, &mut misfit);
    misfit.into_result(path)?;
    let test = settings.test.as_ref().map(|path| open_test(path, settings, &packed)).transpose()?;
    let images: Arc<dyn Images> = Arc::new(packed);
    let HeldOut { mut training, classes, probes, distractors } =
        hold_out_identities(&images, counts.len(), settings, config.run.seed);
    let label_changes = add_label_noise(&mut training, classes, config.data.noise(), config.run.seed);
    let test = test.map(|test| Arc::new(Dataset::whole(Arc::new(test))));
    let (model, layout) = model::build(&config.model, images.size(), classes);
    let trainer = Trainer::new(config, model.into(), &layout, Normalisation::FACES, devices);
    Ok(Supervised {
        training: Training::new(config, training, trainer, Normalisation::FACES),
        label_changes,
        goal: Box::new(Identify { classes, probes: Arc::new(probes), distractors: Arc::new(distractors), test }),
    })
}

struct Identify {
    classes: usize,
    probes: Arc<Dataset>,
    distractors: Arc<Dataset>,
    test: Option<Arc<Dataset>>,
}

/// The test file; warns if it holds what is trained on.
fn open_test(path: &Path, settings: &Faces, training: &Packed) -> Result<Packed> {
    let mut misfit = Misfit::default();
    let test = open(path, settings, &mut misfit)?;
    misfit.into_result(path)?;
    if comm::launcher_rank() == 0
        && let Some(warning) = seen_in_training(training, &test)
    {
        log::warn!("{}: {warning}", path.display());
    }
    Ok(test)
}

/// What of a test file is in the training file, too, if anything is.
fn seen_in_training(training: &Packed, test: &Packed) -> Option<String> {
    let known: HashSet<(u32, u64)> = training.fingerprints().collect();
    let images = test.fingerprints().filter(|image| known.contains(image)).count();
    let known: HashSet<&String> = training.identities().iter().collect();
    let mut identities = test.identities().iter().filter(|&identity| known.contains(identity)).peekable();
    let first = identities.peek().map_or(String::new(), |first| format!(" ({first:?}, ...)"));
    let identities = identities.count();
    if images == 0 && identities == 0 {
        return None;
    }
    Some(format!(
        "{images} of its {} images are images of the run's data, and {identities} of its {} identities have the name of one \
         there{first}: figures of what was trained on are too good",
        test.count(),
        test.identities().len()
    ))
}

/// Packed faces. Error: packed persons.
fn open(path: &Path, settings: &Faces, misfit: &mut Misfit) -> Result<Packed> {
    let packed = Packed::open(path)?;
    if packed.subsets().is_some() {
        let why = "written by amlfs prepare images; for these take the preset images or images-small";
        return Err(Error::file(path, why));
    }
    if packed.cameras_and_splits().is_some() {
        let why = "written by amlfs prepare reid; for these take a preset for persons, such as market1501-spherereid";
        return Err(Error::file(path, why));
    }
    let (height, width) = packed.size();
    let [wanted_height, wanted_width] = settings.size;
    if (height, width) != (wanted_height, wanted_width) {
        misfit.add(
            format!("images of {height} x {width}, but data.faces.size is {wanted_height} x {wanted_width}"),
            [format!("--set 'data.faces.size=[{height},{width}]'")],
        );
    }
    Ok(packed)
}

impl Goal for Identify {
    fn describe(&self) -> String {
        format!(
            "{} identities; {} probes, {} distractors, {} test images",
            self.classes,
            self.probes.len(),
            self.distractors.len(),
            self.test.as_ref().map_or(0, |test| test.len())
        )
    }

    fn reward(&self, training: &mut Training) -> Result<f64> {
        let (probes, distractors) = (training.embed(&self.probes, false)?, training.embed(&self.distractors, false)?);
        // a network whose embeddings are zero or not finite has failed
        let (Some(probes), Some(distractors)) = (unit_rows(&probes)?, unit_rows(&distractors)?) else {
            return Ok(f64::NAN);
        };
        let labels: Vec<i64> = self.probes.labels.iter().map(|&label| label.into()).collect();
        if training.config.search.reward() == Reward::Likelihood {
            return likelihood(&probes, &distractors, &labels);
        }
        let mut identification = Identification::new(&probes, 1, 0, training.config.run.threads)?;
        identification.add(&distractors)?;
        identification.rank1(&labels)
    }

    /// Every pair of images of the test file, with mirror images.
    fn test(&self, training: &mut Training) -> Result<Tested> {
        let Some(test) = &self.test else { return Ok(Tested::default()) };
        let embeddings = normalise_rows(&training.embed(test, true)?, 0)?;
        let metrics = ClosedSet::new(&embeddings, &test.labels)?.metrics()?;
        Ok(Tested { metrics, predictions: None })
    }
}

/// How likely each mate of a probe is preferred to all other people among the probes and the distractors (unit rows).
fn likelihood(probes: &Tensor, distractors: &Tensor, labels: &[i64]) -> Result<f64> {
    let labels = Tensor::from_slice(labels).to_device(probes.device());
    let same = labels.unsqueeze(1).eq_tensor(&labels);
    let itself = Tensor::eye(probes.size()[0], (Kind::Bool, probes.device()));
    let strangers = Tensor::ones([probes.size()[0], distractors.size()[0]], (Kind::Bool, probes.device()));
    let right = Tensor::cat(&[same.logical_and(&itself.logical_not()), strangers.logical_not()], 1);
    let wrong = Tensor::cat(&[same.logical_not(), strangers], 1);
    let scores = probes.matmul(&Tensor::cat(&[probes, distractors], 0).tr());
    calibrated_log_likelihood(&scores, &right, &wrong, None)
}
