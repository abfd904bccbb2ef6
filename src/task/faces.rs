//! Face recognition: identities from a packed file. Reward: rank-1 of held-out identities among held-out distractors, as
//! MegaFace defines it (docs/megaface.md).

use std::path::Path;
use std::sync::Arc;

use tch::Device;

use super::training::{Goal, Supervised, Training};
use crate::config::{Config, Faces};
use crate::data::{Dataset, HeldOut, Images, Misfit, Packed, add_label_noise, hold_out_identities, misfit};
use crate::error::{Error, Result};
use crate::eval::megaface::Identification;
use crate::eval::pairs::ClosedSet;
use crate::eval::{normalise_rows, unit_rows};
use crate::model;
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
    let images: Arc<dyn Images> = Arc::new(packed);
    let HeldOut { mut training, classes, probes, distractors } =
        hold_out_identities(&images, counts.len(), settings, config.run.seed);
    let label_changes = add_label_noise(&mut training, classes, config.data.label_noise, config.run.seed);
    let test = match &settings.test {
        Some(path) => {
            let mut misfit = Misfit::default();
            let packed = open(path, settings, &mut misfit)?;
            misfit.into_result(path)?;
            Some(Arc::new(Dataset::whole(Arc::new(packed))))
        }
        None => None,
    };
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

/// Packed faces. Error: packed persons.
fn open(path: &Path, settings: &Faces, misfit: &mut Misfit) -> Result<Packed> {
    let packed = Packed::open(path)?;
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
        let mut identification = Identification::new(&probes, 1, 0, training.config.run.threads)?;
        identification.add(&distractors)?;
        identification.rank1(&labels)
    }

    /// Every pair of images of the test file, with mirror images.
    fn test(&self, training: &mut Training) -> Result<Vec<(String, f64)>> {
        let Some(test) = &self.test else { return Ok(Vec::new()) };
        let embeddings = normalise_rows(&training.embed(test, true)?, 0)?;
        ClosedSet::new(&embeddings, &test.labels)?.metrics()
    }
}
