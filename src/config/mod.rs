//! What a run means: typed and checked once, before any work.
//!
//! `layers` merges presets, files and flags into one TOML table; the table becomes a `TypedConfig`; `check` knows the
//! range of every setting; a `Config` is what follows, and can't be half-set. Every error names the key, its value,
//! where it was set, and what is allowed.

mod check;
mod layers;
mod origin;
mod typed;

pub use check::MOST_LOADER_THREADS;
pub use layers::{Layers, SEARCHES};
pub use origin::{Change, Origin};
pub use typed::{
    ClassImages, Crop, DataKind, DataOrder, DeviceKind, Faces, Glyphs, Model, ModelName, NoiseKind, OptimizerName,
    Precision, Reid, ReidEpoch, ResidentData, Reward, RewardWeights, Run, Sampling, Search, Train, TypedConfig,
};

use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::loss::{FIXED_LOSSES, FixedLoss, Function, Head, HeadKind, Space, SpaceKind};
use crate::policy::{self, PolicyKind};
use check::Problem;

/// The loss that is searched, as `loss.name` says it.
const UNIFIED: &str = "unified";

#[derive(Clone, Debug)]
pub struct Config {
    pub data: Data,
    pub model: Model,
    pub loss: Loss,
    pub search: Search,
    /// What `search.policy` names.
    pub policy: &'static PolicyKind,
    pub train: Train,
    pub run: Run,
    /// With what was left out filled in: what config.toml and checkpoints keep.
    typed: TypedConfig,
}

#[derive(Clone, Debug)]
pub struct Data {
    pub source: Source,
    pub label_noise: f64,
    pub label_noise_kind: NoiseKind,
    pub imbalance: Option<f64>,
    pub sampling: Sampling,
    pub crop_padding: usize,
    pub mirror: bool,
    pub erasing: f64,
}

/// Where the images come from, with what only this kind of data has.
#[derive(Clone, Debug)]
pub enum Source {
    Cifar { path: PathBuf, classes: usize, size: Option<usize>, validation_fraction: f64 },
    Glyphs { settings: Glyphs, validation_fraction: f64 },
    Faces { path: PathBuf, settings: Faces },
    Reid { path: PathBuf, settings: Reid },
    Images { path: PathBuf, settings: ClassImages, validation_fraction: f64 },
}

#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub function: Function,
    pub head: Head,
    /// Epochs after which LDAM weighs classes (Cao et al. 2019, section 3.3).
    pub deferred_weights: Option<usize>,
    pub softmax_weight: f64,
    pub triplet_weight: f64,
    pub triplet_margin: f64,
}

impl TypedConfig {
    /// Fills in what depends on other keys, and checks everything.
    fn try_resolve(mut self) -> std::result::Result<Config, Problem> {
        let loss = resolve_loss(&mut self.loss, self.search.space().kind)?;
        let policy = check::one_of("search.policy", &self.search.policy, policy::POLICIES, |kind| kind.name)?;
        check::check(&self, policy)?;
        self.fill_in();
        Ok(Config {
            data: Data {
                source: self.source()?,
                label_noise: self.data.label_noise,
                label_noise_kind: self.data.label_noise_kind.unwrap_or_default(),
                imbalance: self.data.imbalance,
                sampling: self.data.sampling.unwrap_or_default(),
                crop_padding: self.data.crop_padding,
                mirror: self.data.mirror,
                erasing: self.data.erasing,
            },
            model: self.model.clone(),
            loss,
            search: self.search.clone(),
            policy,
            train: self.train.clone(),
            run: self.run.clone(),
            typed: self,
        })
    }

    /// What follows from other settings where it is left out.
    fn fill_in(&mut self) {
        let TypedConfig { data, search, train, .. } = self;
        data.images = data.images.take().filter(|_| data.kind == DataKind::Images);
        if train.average.is_some() {
            search.reward_weights.get_or_insert(RewardWeights::Average);
        }
        if search.late {
            let falls = train.milestones.first().copied().filter(|&epoch| epoch < train.epochs);
            search.warmup_epochs = falls.unwrap_or(train.epochs / 2);
        }
        if let Some(rounds) = search.rounds {
            search.round_epochs = train.epochs.saturating_sub(search.warmup_epochs).div_ceil(rounds).max(1);
        }
    }

    /// For a configuration that was resolved before and stored. Error: another version's, or damaged.
    pub fn resolve(self) -> Result<Config> {
        let failed = |(key, why)| Error::failed(format!("the stored configuration can't be used: {key}: {why}"));
        self.try_resolve().map_err(failed)
    }

    fn source(&self) -> std::result::Result<Source, Problem> {
        let data = &self.data;
        let path = |allowed: &str| {
            let unset = || ("data.path", format!("must be set for {allowed}"));
            data.path.clone().ok_or_else(unset)
        };
        let validation_fraction = data.validation_fraction;
        Ok(match data.kind {
            DataKind::Cifar10 | DataKind::Cifar100 => {
                let path = path(
                    "CIFAR, which is meant where no --preset or data.kind says otherwise: --data DIR (of its batches, in \
                     either version) or --data FILE (its .tar.gz)",
                )?;
                let classes = if data.kind == DataKind::Cifar10 { 10 } else { 100 };
                Source::Cifar { path, classes, size: data.size, validation_fraction }
            }
            DataKind::Glyphs => Source::Glyphs { settings: data.glyphs.clone(), validation_fraction },
            DataKind::Faces => {
                let path = path("faces: --data FILE (written by amlfs prepare faces)")?;
                Source::Faces { path, settings: data.faces.clone() }
            }
            DataKind::Reid => {
                let path = path("re-ID: --data FILE (written by amlfs prepare reid)")?;
                Source::Reid { path, settings: data.reid.clone() }
            }
            DataKind::Images => {
                let path = path("images: --data FILE (written by amlfs prepare images)")?;
                let settings = data.images.clone();
                let settings = settings.ok_or_else(|| ("data.images", "must be a table for images".to_owned()))?;
                Source::Images { path, settings, validation_fraction }
            }
        })
    }
}

/// The loss with its margin and its head, which are filled in where they were left out.
fn resolve_loss(typed: &mut typed::Loss, space: SpaceKind) -> std::result::Result<Loss, Problem> {
    let (function, head) = if typed.name == UNIFIED {
        check::ensure(typed.margin.is_none(), "loss.margin", check::NO_MARGIN)?;
        let typed::Loss { w_max, tau_weights, logit_adjustment, .. } = *typed;
        let logit_adjustment = logit_adjustment.unwrap_or_default();
        (Function::Unified { space, w_max, tau_weights, logit_adjustment }, HeadKind::Plain)
    } else {
        let names = || [UNIFIED].into_iter().chain(FIXED_LOSSES.iter().map(|kind| kind.name));
        let kind = FIXED_LOSSES.iter().find(|kind| kind.name == typed.name);
        let kind = kind.ok_or_else(|| ("loss.name", check::unknown(names())))?;
        typed.margin = typed.margin.or(kind.margin.as_ref().map(|margin| margin.default));
        check::check_margin(kind, typed.margin)?;
        (Function::Fixed((kind.new)(typed.margin.unwrap_or_default())), kind.head)
    };
    let kind = *typed.head.get_or_insert(head);
    let deferred_weights = typed.deferred_weights;
    let deferring = matches!(function, Function::Fixed(FixedLoss::Ldam { .. }));
    check::ensure(deferred_weights.is_none() || deferring, "loss.deferred_weights", "left out: only ldam has them")?;
    let typed::Loss { scale, softmax_weight, triplet_weight, triplet_margin, .. } = *typed;
    Ok(Loss { function, head: Head { kind, scale }, deferred_weights, softmax_weight, triplet_weight, triplet_margin })
}

impl Data {
    /// How many labels are replaced, and by which.
    pub fn noise(&self) -> (f64, NoiseKind) {
        (self.label_noise, self.label_noise_kind)
    }
}

impl Loss {
    /// In an epoch, counted from 0.
    pub fn function_in(&self, epoch: usize) -> Function {
        match (self.function, self.deferred_weights) {
            (Function::Fixed(FixedLoss::Ldam { m, .. }), Some(first)) if epoch >= first => {
                Function::Fixed(FixedLoss::Ldam { m, weighted: true })
            }
            (function, _) => function,
        }
    }
}

/// A name as the configuration writes it.
pub fn word(value: &impl Serialize) -> String {
    let value = toml::Value::try_from(value).expect("a name");
    value.as_str().unwrap_or_default().to_owned()
}

impl Config {
    /// As TOML: config.toml and the checkpoints' `config`.
    pub fn to_toml(&self) -> String {
        self.typed.to_toml()
    }

    /// What theta is. With a fixed loss there is nothing to search.
    pub fn space(&self) -> Space {
        let searched = matches!(self.loss.function, Function::Unified { .. });
        Space { intervals: if searched { self.search.intervals } else { 0 }, ..self.search.space() }
    }

    /// How many numbers a search has to learn: of theta's searched groups, all that change the loss.
    pub fn numbers_to_learn(&self) -> usize {
        self.search.numbers_to_learn(self.typed.loss.tau_weights)
    }

    pub fn typed(&self) -> &TypedConfig {
        &self.typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `amlfs train --preset demo --loss arcface` wrote it before there was a `TypedConfig`.
    const STORED: &str = include_str!("stored.toml");

    #[test]
    fn a_stored_configuration_is_read_and_written_byte_for_byte() {
        assert_eq!(TypedConfig::from_toml(STORED).unwrap().resolve().unwrap().to_toml(), STORED);
    }

    #[test]
    fn what_a_loss_leaves_out_is_filled_in() {
        let mut typed = TypedConfig::from_toml(STORED).unwrap();
        (typed.loss.margin, typed.loss.head) = (None, None);
        assert_eq!(typed.resolve().unwrap().to_toml(), STORED);
    }

    #[test]
    fn a_stored_configuration_that_cannot_be_used_says_why() {
        let error = |text: String| TypedConfig::from_toml(&text).unwrap().resolve().unwrap_err().to_string();
        assert_eq!(
            error(STORED.replace("margin = 0.5", "margin = 1.6")),
            "the stored configuration can't be used: loss.margin: must be at least 0 and below pi/2 (radians)"
        );
        let unknown = error(STORED.replace("\"arcface\"", "\"arcfaec\""));
        assert!(unknown.contains("loss.name: unknown name, expected one of `unified`, `softmax`, "), "{unknown}");
    }
}
