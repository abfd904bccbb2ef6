//! What the TOML of a preset, a file or a checkpoint says: every key, as it is written. `Config` is what it means.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::loss::{Group, HeadKind, Space, SpaceKind, TauWeights, Transforms};

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct TypedConfig {
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
    /// Height and width in pixels; `None`: as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    pub validation_fraction: f64,
    pub label_noise: f64,
    /// `None`: symmetric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_noise_kind: Option<NoiseKind>,
    /// How many times as many images the first class keeps as the last; `None`: all are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imbalance: Option<f64>,
    /// `None`: shuffled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<Sampling>,
    pub crop_padding: usize,
    pub mirror: bool,
    pub erasing: f64,
    pub glyphs: Glyphs,
    pub faces: Faces,
    pub reid: Reid,
    /// Of `kind = "images"` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ClassImages>,
}

/// Which wrong label replaces a right one.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum NoiseKind {
    /// Any other, all equally likely.
    #[default]
    Symmetric,
    /// The next one: classes that are mistaken for each other.
    Pair,
}

/// How often the images of a class are trained on.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Sampling {
    /// As often as they are there.
    #[default]
    Shuffled,
    /// As often as those of any other class.
    Balanced,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    Cifar10,
    Cifar100,
    Glyphs,
    Faces,
    Reid,
    Images,
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
pub struct ClassImages {
    /// Height and width in pixels of what the network sees.
    pub size: usize,
    /// Of images that nothing is drawn for, before their centre is cut out.
    pub shorter_side: usize,
    pub crop: Crop,
    pub scale: [f64; 2],
    pub ratio: [f64; 2],
    /// Of the images to train on, where the data have no test set.
    pub test_fraction: f64,
}

/// What a training image is cut from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Crop {
    /// The image: a part of random area and shape, resized.
    Zoomed,
    /// The centre, with `data.crop_padding` around.
    Padded,
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
    Resnet,
    Sphereface,
    SphereReid,
    Sft,
    Mgn,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    pub name: String,
    /// `None`: the loss's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<HeadKind>,
    pub scale: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Epochs after which LDAM weighs classes; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deferred_weights: Option<usize>,
    pub w_max: f64,
    pub tau_weights: TauWeights,
    /// Of the searched loss: times log n, added to the logit of a class of n training examples; `None`: no such offsets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_adjustment: Option<f64>,
    pub softmax_weight: f64,
    pub triplet_weight: f64,
    pub triplet_margin: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Search {
    /// What `--search` named; `None`: nothing did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub policy: String,
    pub samples: usize,
    pub intervals: usize,
    /// `None`: lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceKind>,
    pub transforms: Transforms,
    pub sigma: f64,
    /// In intervals; `None`: components are drawn independently.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothness: Option<f64>,
    pub learning_rate: f64,
    pub betas: [f64; 2],
    pub warmup_epochs: usize,
    /// Whether `warmup_epochs` is the first milestone, or half of the epochs where there is none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    pub round_epochs: usize,
    /// `None`: `round_epochs` says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<usize>,
    /// `None`: the last weights, or the average if one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_weights: Option<RewardWeights>,
    /// `None`: the benchmark's metric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward: Option<Reward>,
    pub data_order: DataOrder,
    /// Where mu starts; `None`: at softmax.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mu: Option<Vec<f64>>,
    /// Thetas that are trained with, one for each round, for the policy `select`; the last one stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<Vec<f64>>,
    /// In the place of `sigma` for groups of the space, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sigmas: BTreeMap<String, f64>,
}

impl Search {
    pub fn space(&self) -> Space {
        Space { kind: self.space.unwrap_or_default(), intervals: self.intervals }
    }

    pub fn reward(&self) -> Reward {
        self.reward.unwrap_or_default()
    }

    /// The standard deviation of each component of theta: 0 where it is not searched.
    pub fn component_sigmas(&self) -> Vec<f64> {
        self.space().each(|group| self.group_sigma(group))
    }

    pub(super) fn numbers_to_learn(&self, tau_weights: TauWeights) -> usize {
        let groups = self.space().groups().into_iter().filter(|group| group.size > 0 && self.group_sigma(group) > 0.0);
        groups.map(|group| group.size - usize::from(!group.has_level(tau_weights))).sum()
    }

    fn group_sigma(&self, group: &Group) -> f64 {
        let searched = match self.transforms {
            Transforms::Both => true,
            Transforms::T => group.of_t(),
            Transforms::Tau => !group.of_t(),
        };
        if searched { self.sigmas.get(group.name).copied().unwrap_or(self.sigma) } else { 0.0 }
    }
}

/// Which weights a reward measures.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum RewardWeights {
    Last,
    Average,
}

/// What is measured on the validation split.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reward {
    /// The benchmark's: accuracy, rank-1, mAP.
    #[default]
    Metric,
    /// The logarithm of the probability of right answers (`eval::likelihood`).
    Likelihood,
    /// The mean over classes of the same.
    BalancedLikelihood,
    /// The mean over classes of the share of their images that are recognised.
    Recall,
    /// The share of images whose class is among the five most probable ones.
    Top5,
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
    /// Time constant of the average of the weights, in epochs; `None`: none is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
    /// Whether cuDNN tries its kernels and keeps the fastest; `None`: yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cudnn_benchmark: Option<bool>,
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
    /// What `--preset` named; `None`: nothing did, or an older version ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    pub seed: u64,
    pub threads: usize,
    pub loader_threads: usize,
    pub device: DeviceKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices_per_rank: Option<usize>,
    /// `None`: auto.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident: Option<ResidentData>,
    pub keep: usize,
    /// In a row; `None`: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_failed_saves: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_hours: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save_minutes: Option<f64>,
    /// `None`: by the longest round (`lookout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_minutes: Option<f64>,
    /// `None`: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorboard: Option<bool>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    Auto,
    Cpu,
    Cuda,
}

/// Whether the training images are kept on the devices.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum ResidentData {
    /// On GPUs that have room.
    Auto,
    On,
    Off,
}

impl TypedConfig {
    /// Reads what `to_toml` wrote (a run's config.toml, a checkpoint's attribute).
    pub fn from_toml(text: &str) -> Result<TypedConfig> {
        serde_path_to_error::deserialize(toml::Deserializer::parse(text).map_err(|why| Error::failed(why.to_string()))?)
            .map_err(|why| Error::failed(format!("the stored configuration can't be used: {}", why.to_string().trim())))
    }

    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is TOML")
    }

    /// The keys whose values differ such that a run can't be continued, as `key: theirs, ours`. Where the data lie,
    /// on what it is computed and how much is kept may change between jobs.
    pub fn differences(&self, other: &TypedConfig) -> Vec<String> {
        let told = |(key, ours, theirs)| format!("{key} is {theirs} there and {ours} here");
        self.different_settings(other).into_iter().map(told).collect()
    }

    /// The same as (key, ours, theirs), the values as TOML or `nothing`.
    pub fn different_settings(&self, other: &TypedConfig) -> Vec<(String, String, String)> {
        let comparable = |config: &TypedConfig| {
            let mut config = config.clone();
            config.data.path = None;
            config.data.faces.test = None;
            config.model.init = None;
            config.train.cudnn_benchmark = None;
            let Run { seed, threads, .. } = config.run;
            config.run = Run {
                preset: None,
                seed,
                threads,
                loader_threads: 1,
                device: DeviceKind::Auto,
                devices_per_rank: None,
                resident: None,
                keep: 1,
                max_failed_saves: None,
                max_hours: None,
                save_minutes: None,
                stall_minutes: None,
                tensorboard: None,
            };
            Table::try_from(config).expect("a configuration is a table")
        };
        let mut found = Vec::new();
        compare("", &comparable(self), &comparable(other), &mut found);
        found
    }
}

fn compare(prefix: &str, ours: &Table, theirs: &Table, found: &mut Vec<(String, String, String)>) {
    let keys: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    for key in keys {
        match (ours.get(key), theirs.get(key)) {
            (Some(Value::Table(ours)), Some(Value::Table(theirs))) => {
                compare(&format!("{prefix}{key}."), ours, theirs, found)
            }
            (ours, theirs) if ours != theirs => {
                let show = |value: Option<&Value>| value.map_or("nothing".into(), Value::to_string);
                found.push((format!("{prefix}{key}"), show(ours), show(theirs)));
            }
            _ => {}
        }
    }
}
