//! What a run means: typed and checked once, before any work.
//!
//! `layers` merges presets, files and flags into one TOML table; the table becomes a `Config`. Every error names the key,
//! its value, where it was set, and what is allowed.

mod layers;

pub use layers::Layers;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data: Data,
    pub model: Model,
    pub loss: Loss,
    pub search: Search,
    pub train: Train,
    pub run: Run,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Data {
    pub kind: DataKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    pub validation_fraction: f64,
    pub label_noise: f64,
    pub crop_padding: usize,
    pub mirror: bool,
    pub erasing: f64,
    pub glyphs: Glyphs,
    pub faces: Faces,
    pub reid: Reid,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    Cifar10,
    Glyphs,
    Faces,
    Reid,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Glyphs {
    pub classes: usize,
    pub train_images: usize,
    pub test_images: usize,
    pub image_size: usize,
    pub difficulty: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Faces {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// Height and width in pixels.
    pub size: [usize; 2],
    pub probe_identities: usize,
    pub distractor_identities: usize,
    pub images_per_identity: usize,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Reid {
    /// Height and width in pixels, as `crop`.
    pub size: [usize; 2],
    pub crop: [usize; 2],
    pub images_per_identity: usize,
    pub epoch: ReidEpoch,
    pub validation_identities: usize,
    pub validation_images: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ReidEpoch {
    /// Every identity once, with K of its images (SphereReID, MGN and SFT).
    Identities,
    /// Identities until their images are used up (torchreid's RandomIdentitySampler).
    Images,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: ModelName,
    pub depth: usize,
    pub width: f64,
    pub last_stride: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ModelName {
    ResnetCifar,
    Sphereface,
    SphereReid,
    Sft,
    Mgn,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    pub name: LossName,
    /// `None` only until resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadKind>,
    pub scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    pub w_max: f64,
    pub tau_weights: TauWeights,
    pub softmax_weight: f64,
    pub triplet_weight: f64,
    pub triplet_margin: f64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LossName {
    Unified,
    Softmax,
    LSoftmax,
    ASoftmax,
    AmSoftmax,
    Cosface,
    Arcface,
    Focal,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum HeadKind {
    Plain,
    Weights,
    Normalised,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum TauWeights {
    Raw,
    Normalised,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Search {
    pub policy: PolicyName,
    pub samples: usize,
    pub intervals: usize,
    pub transforms: Transforms,
    pub sigma: f64,
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub warmup_epochs: usize,
    pub round_epochs: usize,
    pub data_order: DataOrder,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    Reinforce,
    Fixed,
    Mirrored,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Transforms {
    Both,
    T,
    Tau,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DataOrder {
    Common,
    Independent,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Train {
    pub epochs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_iterations: Option<usize>,
    pub batch_size: usize,
    pub optimizer: OptimizerName,
    pub learning_rate: f64,
    pub warmup_epochs: usize,
    pub warmup_learning_rate: f64,
    pub milestones: Vec<usize>,
    pub gamma: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub decay_norm_and_bias: bool,
    pub precision: Precision,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerName {
    Sgd,
    Adam,
    Amsgrad,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    F32,
    Bf16,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Run {
    pub seed: u64,
    pub threads: usize,
    pub loader_threads: usize,
    pub device: DeviceKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_per_rank: Option<usize>,
    pub keep: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hours: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    Auto,
    Cpu,
    Cuda,
}

type Check = std::result::Result<(), (&'static str, String)>;

fn ensure(ok: bool, key: &'static str, allowed: &str) -> Check {
    if ok { Ok(()) } else { Err((key, format!("must be {allowed}"))) }
}

impl Config {
    fn check(&self) -> Check {
        let Config { data, model, loss, search, train, run } = self;
        let fraction = |x: f64| x > 0.0 && x < 1.0;
        ensure(fraction(data.validation_fraction), "data.validation_fraction", "between 0 and 1, both excluded")?;
        ensure((0.0..1.0).contains(&data.label_noise), "data.label_noise", "at least 0 and below 1")?;
        ensure(data.crop_padding <= 64, "data.crop_padding", "at most 64")?;
        if data.kind == DataKind::Cifar10 {
            ensure(
                data.path.is_some(),
                "data.path",
                "set for CIFAR-10: --data DIR (the directory of data_batch_1.bin)",
            )?;
        }
        if data.kind == DataKind::Faces {
            ensure(data.path.is_some(), "data.path", "set for faces: --data FILE (written by amlfs prepare faces)")?;
        }
        ensure((0.0..=1.0).contains(&data.erasing), "data.erasing", "0 to 1")?;
        self.check_reid()?;
        let faces = &data.faces;
        ensure(faces.size.iter().all(|side| (16..=1024).contains(side)), "data.faces.size", "two numbers, 16 to 1024")?;
        ensure((1..=1 << 20).contains(&faces.probe_identities), "data.faces.probe_identities", "1 to 1048576")?;
        ensure(
            (1..=1 << 20).contains(&faces.distractor_identities),
            "data.faces.distractor_identities",
            "1 to 1048576",
        )?;
        ensure((2..=1 << 20).contains(&faces.images_per_identity), "data.faces.images_per_identity", "2 to 1048576")?;
        ensure(model.width > 0.0 && model.width <= 4.0, "model.width", "above 0 and at most 4")?;
        ensure([1, 2].contains(&model.last_stride), "model.last_stride", "1 or 2")?;
        let glyphs = &data.glyphs;
        ensure((2..=100_000).contains(&glyphs.classes), "data.glyphs.classes", "2 to 100000")?;
        ensure(glyphs.train_images >= 2 * glyphs.classes, "data.glyphs.train_images", "at least two for each class")?;
        ensure(glyphs.train_images <= 1 << 31, "data.glyphs.train_images", "at most 2^31")?;
        ensure((1..=1 << 31).contains(&glyphs.test_images), "data.glyphs.test_images", "1 to 2^31")?;
        ensure((16..=512).contains(&glyphs.image_size), "data.glyphs.image_size", "16 to 512")?;
        ensure((0.0..=1.0).contains(&glyphs.difficulty), "data.glyphs.difficulty", "0 to 1")?;
        ensure(
            model.depth >= 8 && model.depth % 6 == 2 && model.depth <= 1202,
            "model.depth",
            "6n + 2: 8, 14, 20, 32, 56 ...",
        )?;
        ensure(loss.scale.is_finite() && loss.scale > 0.0, "loss.scale", "above 0")?;
        ensure(loss.w_max.is_finite() && loss.w_max >= 1.0, "loss.w_max", "at least 1")?;
        let weight = |weight: f64| weight.is_finite() && weight >= 0.0;
        ensure(loss.softmax_weight.is_finite() && loss.softmax_weight > 0.0, "loss.softmax_weight", "above 0")?;
        ensure(weight(loss.triplet_weight), "loss.triplet_weight", "at least 0")?;
        ensure(
            loss.triplet_weight == 0.0 || model.name == ModelName::Mgn,
            "loss.triplet_weight",
            "0: of the models only mgn has a triplet loss",
        )?;
        ensure(weight(loss.triplet_margin), "loss.triplet_margin", "at least 0")?;
        self.check_margin()?;
        ensure((1..=65536).contains(&search.samples), "search.samples", "1 to 65536")?;
        ensure((1..=1000).contains(&search.intervals), "search.intervals", "1 to 1000")?;
        ensure(search.sigma.is_finite() && search.sigma > 0.0, "search.sigma", "above 0")?;
        ensure(search.learning_rate.is_finite() && search.learning_rate >= 0.0, "search.learning_rate", "at least 0")?;
        ensure(
            search.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "search.betas",
            "two numbers at least 0 and below 1",
        )?;
        ensure(search.round_epochs >= 1, "search.round_epochs", "at least 1")?;
        let pairs = search.policy != PolicyName::Mirrored || search.samples % 2 == 0;
        ensure(pairs, "search.samples", "even for the policy 'mirrored', which draws pairs")?;
        ensure((1..=100_000).contains(&train.epochs), "train.epochs", "1 to 100000")?;
        ensure(
            train.epoch_iterations.is_none_or(|n| (1..=1 << 30).contains(&n)),
            "train.epoch_iterations",
            "1 to 2^30",
        )?;
        ensure((1..=1 << 20).contains(&train.batch_size), "train.batch_size", "1 to 1048576")?;
        ensure(train.learning_rate.is_finite() && train.learning_rate > 0.0, "train.learning_rate", "above 0")?;
        ensure(
            train.warmup_learning_rate.is_finite() && train.warmup_learning_rate >= 0.0,
            "train.warmup_learning_rate",
            "at least 0",
        )?;
        ensure(train.milestones.is_sorted(), "train.milestones", "in ascending order")?;
        ensure(train.gamma > 0.0 && train.gamma <= 1.0, "train.gamma", "above 0 and at most 1")?;
        ensure((0.0..1.0).contains(&train.momentum), "train.momentum", "at least 0 and below 1")?;
        ensure(train.weight_decay.is_finite() && train.weight_decay >= 0.0, "train.weight_decay", "at least 0")?;
        ensure((1..=1024).contains(&run.threads), "run.threads", "1 to 1024")?;
        ensure((1..=256).contains(&run.loader_threads), "run.loader_threads", "1 to 256")?;
        ensure(run.devices_per_rank.is_none_or(|n| (1..=2).contains(&n)), "run.devices_per_rank", "1 or 2")?;
        ensure(run.keep >= 1, "run.keep", "at least 1")?;
        ensure(run.max_hours.is_none_or(|hours| hours.is_finite() && hours > 0.0), "run.max_hours", "above 0")
    }

    fn check_reid(&self) -> Check {
        let Config { data, model, train, .. } = self;
        let networks = [ModelName::SphereReid, ModelName::Sft, ModelName::Mgn];
        if data.kind != DataKind::Reid {
            return ensure(
                !networks.contains(&model.name),
                "model.name",
                "resnet-cifar or sphereface: the others are for data.kind = \"reid\"",
            );
        }
        ensure(networks.contains(&model.name), "model.name", "sphere-reid, sft or mgn for data.kind = \"reid\"")?;
        ensure(data.path.is_some(), "data.path", "set for re-ID: --data FILE (written by amlfs prepare reid)")?;
        let reid = &data.reid;
        ensure(reid.size.iter().all(|side| (16..=1024).contains(side)), "data.reid.size", "two numbers, 16 to 1024")?;
        let fits = |i: usize| (16..=reid.size[i] + 2 * data.crop_padding).contains(&reid.crop[i]);
        ensure(
            fits(0) && fits(1),
            "data.reid.crop",
            "two numbers, 16 to data.reid.size with data.crop_padding around",
        )?;
        ensure((2..=1024).contains(&reid.images_per_identity), "data.reid.images_per_identity", "2 to 1024")?;
        ensure(
            train.batch_size.is_multiple_of(reid.images_per_identity) && train.batch_size > reid.images_per_identity,
            "train.batch_size",
            "P identities times data.reid.images_per_identity, P at least 2",
        )?;
        let identities = reid.validation_identities;
        ensure((2..=1 << 20).contains(&identities), "data.reid.validation_identities", "2 to 1048576")?;
        ensure((2..=1 << 20).contains(&reid.validation_images), "data.reid.validation_images", "2 to 1048576")
    }

    fn check_margin(&self) -> Check {
        let Some(margin) = self.loss.margin else { return Ok(()) };
        let (ok, allowed) = match self.loss.name {
            LossName::Unified | LossName::Softmax => (false, "left out: this loss has no margin"),
            LossName::LSoftmax | LossName::ASoftmax => {
                ((1..=8).any(|m| margin == m as f64), "a whole number from 1 to 8")
            }
            LossName::AmSoftmax | LossName::Cosface => ((0.0..2.0).contains(&margin), "at least 0 and below 2"),
            LossName::Arcface => {
                ((0.0..std::f64::consts::FRAC_PI_2).contains(&margin), "at least 0 and below pi/2 (radians)")
            }
            LossName::Focal => ((0.0..=10.0).contains(&margin), "0 to 10 (gamma)"),
        };
        ensure(ok, "loss.margin", allowed)
    }

    /// The resolved configuration as TOML: `config.toml` and the checkpoints' `config`.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is TOML")
    }

    /// Reads what `to_toml` wrote (from a checkpoint).
    pub fn from_toml(text: &str) -> Result<Config> {
        serde_path_to_error::deserialize(toml::Deserializer::parse(text).map_err(|why| Error::failed(why.to_string()))?)
            .map_err(|why| Error::failed(format!("the stored configuration can't be used: {}", why.to_string().trim())))
    }

    /// The keys whose values differ such that a run can't be continued, as `key: theirs, ours`. Where the data lie,
    /// on what it is computed and how much is kept may change between jobs.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        let comparable = |config: &Config| {
            let mut config = config.clone();
            config.data.path = None;
            config.data.faces.test = None;
            config.model.init = None;
            let Run { seed, threads, .. } = config.run;
            config.run = Run {
                seed,
                threads,
                loader_threads: 1,
                device: DeviceKind::Auto,
                devices_per_rank: None,
                keep: 1,
                max_hours: None,
            };
            Table::try_from(config).expect("a configuration is a table")
        };
        let mut found = Vec::new();
        compare("", &comparable(self), &comparable(other), &mut found);
        found
    }
}

fn compare(prefix: &str, ours: &Table, theirs: &Table, found: &mut Vec<String>) {
    let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        match (ours.get(key), theirs.get(key)) {
            (Some(Value::Table(ours)), Some(Value::Table(theirs))) => {
                compare(&format!("{prefix}{key}."), ours, theirs, found)
            }
            (ours, theirs) if ours != theirs => {
                let show = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
                found.push(format!("{prefix}{key} is {} there and {} here", show(theirs), show(ours)));
            }
            _ => {}
        }
    }
}

impl LossName {
    /// The head that the loss was published with.
    fn default_head(self) -> HeadKind {
        match self {
            LossName::Unified | LossName::Softmax | LossName::LSoftmax | LossName::Focal => HeadKind::Plain,
            LossName::ASoftmax => HeadKind::Weights,
            LossName::AmSoftmax | LossName::Cosface | LossName::Arcface => HeadKind::Normalised,
        }
    }

    fn default_margin(self) -> Option<f64> {
        match self {
            LossName::Unified | LossName::Softmax => None,
            LossName::LSoftmax | LossName::ASoftmax => Some(4.0),
            LossName::AmSoftmax | LossName::Cosface => Some(0.35),
            LossName::Arcface => Some(0.5),
            LossName::Focal => Some(2.0),
        }
    }
}
