//! Person re-identification: a packed benchmark (`amlfs prepare reid`). Reward: mAP of held-out training identities, each
//! camera's query against all their images, as Market-1501 defines it (docs/reid.md).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::training::{Goal, Supervised, Training};
use crate::comm::Comm;
use crate::config::{Config, Reid, Reward};
use crate::data::{
    Balanced, Dataset, HeldOutByCamera, Images, Misfit, Persons, Resized, add_label_noise, hold_out_by_camera, misfit,
};
use crate::error::Result;
use crate::eval::likelihood::calibrated_log_likelihood;
use crate::eval::retrieval::{self, Metric, retrieve};
use crate::eval::{normalise_rows, unit_rows};
use crate::model;
use crate::state::Tested;
use crate::train::{Normalisation, Trainer};

/// Opens the packed file, holds identities out and builds the network on `devices`. Errors: data that can't be used.
pub fn reid(config: &Config, path: &Path, settings: &Reid, devices: &[Device]) -> Result<Supervised> {
    let persons = Persons::open(path)?;
    check_size(&persons, settings, config.train.batch_size, path)?;
    let images: Arc<dyn Images> = Arc::new(Resized { packed: persons.packed.clone(), size: settings.size.into() });
    let (identities, per_identity) = (settings.validation_identities, settings.validation_images);
    let seed = config.run.seed;
    let HeldOutByCamera { mut training, classes, query, gallery } =
        hold_out_by_camera(&images, &persons.train, &persons.cameras, identities, per_identity, seed);
    let label_changes = add_label_noise(&mut training, classes, config.data.noise(), seed);

    let crop = settings.crop.into();
    let (model, layout) = model::build(&config.model, crop, classes);
    let trainer = Trainer::new(config, model.into(), &layout, Normalisation::IMAGENET, devices);
    let balanced = Balanced {
        identities: config.train.batch_size / settings.images_per_identity,
        images: settings.images_per_identity,
        reading: settings.epoch,
    };
    let place = |image: &u32| gallery.binary_search(image).expect("queries are in the gallery") as i64;
    let goal = Retrieve {
        classes,
        queries: query.iter().map(place).collect(),
        validation: Part::new(&images, &persons, gallery),
        query: Part::new(&images, &persons, persons.query.clone()),
        gallery: Part::new(&images, &persons, persons.gallery.clone()),
    };
    let training =
        Training::new(config, training, trainer, Normalisation::IMAGENET).cropped(crop).balanced(balanced)?;
    Ok(Supervised { training, label_changes, goal: Box::new(goal) })
}

/// Error: too few people to hold some out and to fill a batch with others.
fn check_size(persons: &Persons, settings: &Reid, batch_size: usize, path: &Path) -> Result<()> {
    let mut cameras = BTreeMap::<i64, BTreeSet<i64>>::new();
    for &index in &persons.train {
        let (id, camera) = (persons.ids[index as usize], persons.cameras[index as usize]);
        cameras.entry(id).or_default().insert(camera);
    }
    let seen_twice = cameras.values().filter(|cameras| cameras.len() > 1).count();
    let mut misfit = Misfit::default();
    misfit::people(cameras.len(), seen_twice, settings, batch_size, &mut misfit);
    misfit.into_result(path)
}

struct Retrieve {
    classes: usize,
    validation: Part,
    /// Which of the validation images are queries; all of them are the gallery.
    queries: Vec<i64>,
    query: Part,
    gallery: Part,
}

/// Images with what retrieval wants to know of them.
struct Part {
    images: Arc<Dataset>,
    ids: Vec<i64>,
    cameras: Vec<i64>,
}

impl Part {
    fn new(images: &Arc<dyn Images>, persons: &Persons, indices: Vec<u32>) -> Part {
        let of = |column: &[i64]| indices.iter().map(|&index| column[index as usize]).collect();
        let (ids, cameras) = (of(&persons.ids), of(&persons.cameras));
        Part { images: Arc::new(Dataset::part(images.clone(), indices)), ids, cameras }
    }

    fn with<'a>(&'a self, name: &'a str, features: &'a Tensor) -> retrieval::ImageFeatures<'a> {
        retrieval::ImageFeatures { name, features, ids: &self.ids, cameras: &self.cameras }
    }
}

impl Goal for Retrieve {
    fn describe(&self) -> String {
        format!(
            "{} identities; {} validation images with {} queries; {} test queries, {} gallery images",
            self.classes,
            self.validation.images.len(),
            self.queries.len(),
            self.query.images.len(),
            self.gallery.images.len()
        )
    }

    /// The trapezoid mAP, Market-1501's own, without mirror images; or how likely a query's neighbours are its mates.
    fn reward(&self, training: &mut Training) -> Result<f64> {
        // a network whose embeddings are zero or not finite has failed
        let Some(features) = unit_rows(&training.embed(&self.validation.images, false)?)? else {
            return Ok(f64::NAN);
        };
        let chosen = features.index_select(0, &Tensor::from_slice(&self.queries).to_device(features.device()));
        let of = |column: &[i64]| self.queries.iter().map(|&query| column[query as usize]).collect::<Vec<_>>();
        let (ids, cameras) = (of(&self.validation.ids), of(&self.validation.cameras));
        if training.config.search.reward() == Reward::Likelihood {
            return self.likelihood(&features, &chosen, &ids, &cameras);
        }
        let query =
            retrieval::ImageFeatures { name: "validation queries", features: &chosen, ids: &ids, cameras: &cameras };
        let (gallery, threads) = (self.validation.with("validation images", &features), training.config.run.threads);
        Ok(retrieve(&Comm::single(), &query, &gallery, Metric::Cosine, None, threads)?.map_trapezoid)
    }

    /// All queries against the whole gallery, with mirror images.
    fn test(&self, training: &mut Training) -> Result<Tested> {
        let query = normalise_rows(&training.embed(&self.query.images, true)?, 0)?;
        let gallery = normalise_rows(&training.embed(&self.gallery.images, true)?, 0)?;
        let (query, gallery) = (self.query.with("query", &query), self.gallery.with("gallery", &gallery));
        let found = retrieve(&Comm::single(), &query, &gallery, Metric::Cosine, None, training.config.run.threads)?;
        let rank = |rank: usize| found.cmc.get(rank - 1).map(|&rate| (format!("rank{rank}"), rate));
        let means = [("map", found.map), ("map_trapezoid", found.map_trapezoid), ("minp", found.minp)]
            .map(|(name, mean)| (name.to_owned(), mean));
        let metrics = [1, 5, 10].into_iter().filter_map(rank).chain(means).collect();
        Ok(Tested { metrics, predictions: None })
    }
}

impl Retrieve {
    /// How likely each image of a query's identity is preferred to all of others among the validation images; those of its own camera
    /// don't count. Features are unit rows: of the validation images, and of the queries with their ids and cameras.
    fn likelihood(&self, features: &Tensor, queries: &Tensor, ids: &[i64], cameras: &[i64]) -> Result<f64> {
        let same = |query: &[i64], gallery: &[i64]| {
            let numbers = |values: &[i64]| Tensor::from_slice(values).to_device(features.device());
            numbers(query).unsqueeze(1).eq_tensor(&numbers(gallery))
        };
        let (same_id, same_camera) = (same(ids, &self.validation.ids), same(cameras, &self.validation.cameras));
        let right = same_id.logical_and(&same_camera.logical_not());
        calibrated_log_likelihood(&queries.matmul(&features.tr()), &right, &same_id.logical_not(), None)
    }
}
