//! The one training loop: an epoch of one sample model, and the state that it carries from epoch to epoch.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::config;
use crate::data::{Batch, Dataset, batches};
use crate::error::Result;
use crate::lookout;
use crate::loss::{Function, Loss, Pull};
use crate::model::{Model, TensorLayout};
use crate::state::{TensorSpec, Within};

use super::{Average, Normalisation, Optimizer, Replicas, Step};

pub struct Trainer {
    config: config::Config,
    replicas: Replicas,
    /// One for each replica.
    optimizers: Vec<Optimizer>,
    average: Option<Average>,
    specs: Vec<TensorSpec>,
}

/// Watches training steps: draws progress and says when to pause.
pub trait Observer {
    /// After each training step over `examples` examples; false: pause now, to save the state or to stop.
    fn step(&mut self, examples: usize) -> bool;
}

/// How a call of `Trainer::epoch` ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trained {
    /// With the epoch: its mean training loss, not finite if training diverged.
    Epoch(f64),
    /// The observer wanted a pause; another call goes on from there.
    Paused(Within),
}

/// Which epoch it is, and how long an epoch is.
#[derive(Clone, Copy, Debug)]
pub struct EpochPlan<'a> {
    /// Epochs completed before this one.
    pub epoch: usize,
    pub steps: u64,
    /// Training examples of each class, of the last ones maybe none.
    pub counts: &'a [u64],
    /// Selects the random numbers of dropout: equal streams see equal ones.
    pub stream: u64,
}

/// Images per forward pass where nothing is trained. The same everywhere: a run's test and `evaluate` have equal bits.
pub const EVALUATION_BATCH: usize = 256;

/// All images of a data set, in order and as they are.
pub fn evaluation_batches(
    dataset: &Arc<Dataset>,
    loader_threads: usize,
) -> impl Iterator<Item = Result<Batch>> + use<> {
    batches(dataset, (0..dataset.len() as u32).collect(), 0, EVALUATION_BATCH, None, loader_threads)
}

/// The same batches; each is a sign of life for the other ranks.
fn signalled(batches: impl Iterator<Item = Result<Batch>>) -> impl Iterator<Item = Result<Batch>> {
    batches.inspect(|_| lookout::evaluated_batch())
}

/// Linear warm-up, then a multi-step schedule: the rate of epoch `epoch`, counted from 0.
pub fn learning_rate(config: &config::Train, epoch: usize) -> f64 {
    if epoch < config.warmup_epochs {
        let first = config.warmup_learning_rate;
        return first + (config.learning_rate - first) * epoch as f64 / config.warmup_epochs as f64;
    }
    let passed = config.milestones.iter().filter(|&&milestone| milestone <= epoch).count();
    config.learning_rate * config.gamma.powi(passed as i32)
}

impl Trainer {
    pub fn new(
        config: &config::Config,
        model: Arc<dyn Model>,
        layout: &TensorLayout,
        normalisation: Normalisation,
        devices: &[Device],
    ) -> Trainer {
        let mut replicas = Replicas::new(config, model, layout, normalisation, devices);
        let optimizers = replicas.gradients().map(|(weights, _)| Optimizer::new(&config.train, layout, &weights.flat));
        let optimizers = optimizers.collect();
        let average = config.train.average.map(|epochs| Average::new(epochs, replicas.first()));
        let specs = specs(layout, config.train.optimizer, average.is_some());
        Trainer { config: config.clone(), replicas, optimizers, average, specs }
    }

    /// Keeps the training images on every device, so that `picked_batches` of them can be trained on. Erased rectangles get
    /// the colour `fill`. Errors: damaged images; no memory.
    pub fn keep(&mut self, dataset: &Arc<Dataset>, fill: [u8; 3]) -> Result<()> {
        self.replicas.keep(dataset, fill, self.config.run.loader_threads)
    }

    pub fn devices(&self) -> Vec<Device> {
        self.replicas.devices()
    }

    /// Trains on `batches`, those of the epoch's `plan.steps` that come after `from`, with the loss theta [P] (or the
    /// configured fixed loss). The mean loss over the epoch's examples is not finite if it or the weights have become so.
    /// Errors: the batches'.
    pub fn epoch(
        &mut self,
        theta: &[f64],
        batches: impl Iterator<Item = Result<Batch>>,
        plan: EpochPlan<'_>,
        from: Within,
        observer: &mut dyn Observer,
    ) -> Result<Trained> {
        let function = self.config.loss.function_in(plan.epoch);
        let mut counts = plan.counts.to_vec();
        counts.resize(self.replicas.classes(), 0);
        self.replicas.set_loss(|device| function.build(theta, &counts, device, Kind::Float));
        let rate = learning_rate(&self.config.train, plan.epoch);
        let mut within = from;
        let mut total = Tensor::from(from.loss).to_device(self.replicas.devices()[0]);
        for batch in batches {
            // nothing in a step waits for a GPU, which may be busy with the step before
            let batch = batch?;
            let step = plan.epoch as u64 * plan.steps + within.steps;
            let size = batch.labels.size()[0];
            let found = self.replicas.gradient(&batch, Step { number: step, stream: plan.stream });
            total += found.to_kind(Kind::Double) * size;
            // the same update of the same weights on every device
            for ((weights, gradient), optimizer) in self.replicas.gradients().zip(&mut self.optimizers) {
                optimizer.step(&mut weights.flat, gradient, rate, step);
            }
            if let Some(average) = &mut self.average {
                average.follow(self.replicas.first(), plan.steps);
            }
            within.steps += 1;
            within.examples += size as u64;
            if !observer.step(size as usize) {
                within.loss = f64::try_from(total).expect("a scalar");
                return Ok(Trained::Paused(within));
            }
        }
        self.replicas.synchronise();
        // the last step's update may have broken weights without a loss that shows it
        let finite = self.replicas.first().flat.isfinite().all();
        let finite = i64::try_from(finite).expect("a boolean") == 1;
        let mean = f64::try_from(total).expect("a scalar") / within.examples as f64;
        Ok(Trained::Epoch(if finite { mean } else { f64::NAN }))
    }

    /// Test-time logits of all `batches`, one after the other: [N, C] f32 on replica 0's device.
    pub fn logits(&mut self, batches: impl Iterator<Item = Result<Batch>>) -> Result<Tensor> {
        let parts = signalled(batches).map(|batch| Ok(self.replicas.logits(&batch?)));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0))
    }

    /// How the losses, each with its theta, pull at the targets of all `batches`.
    pub fn pull(
        &mut self,
        batches: impl Iterator<Item = Result<Batch>>,
        losses: &[(Function, Vec<f64>)],
    ) -> Result<Pull> {
        let losses: Vec<_> =
            losses.iter().map(|(function, theta)| function.build(theta, &[], Device::Cpu, Kind::Double)).collect();
        let losses: Vec<&dyn Loss> = losses.iter().map(|loss| &**loss as &dyn Loss).collect();
        let parts = batches.map(|batch| Ok(self.replicas.pull(&batch?, &losses))).collect::<Result<Vec<Pull>>>()?;
        let joined = |of: &dyn Fn(&Pull) -> Tensor| Tensor::cat(&parts.iter().map(of).collect::<Vec<_>>(), 0);
        let strength = (0..losses.len()).map(|loss| joined(&|part| part.strength[loss].shallow_clone())).collect();
        Ok(Pull { cosine: joined(&|part| part.cosine.shallow_clone()), strength })
    }

    /// Embeddings of all `batches`, one after the other: [N, D] f32 on replica 0's device, not normalised. With
    /// `mirrored`, those of the images and of their mirror images are added.
    pub fn embed(&mut self, batches: impl Iterator<Item = Result<Batch>>, mirrored: bool) -> Result<Tensor> {
        let parts = signalled(batches).map(|batch| Ok(self.replicas.embed(&batch?, mirrored)));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0))
    }

    /// Puts the average in the place of the weights, to be measured; a second call undoes it. Without an average this
    /// does nothing.
    pub fn swap_average(&mut self) {
        if let Some(average) = &mut self.average {
            average.swap(self.replicas.first());
            self.replicas.synchronise();
        }
    }

    /// Where each named tensor lies in the state vector: parameters, buffers, their average, optimiser state. The model
    /// is the average where one is kept.
    pub fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }

    /// Copies the state into `state`, of the length that `specs` span.
    pub fn save(&mut self, state: &mut [f32]) {
        let mut rest = state;
        tch::no_grad(|| {
            for tensor in self.state_tensors() {
                let part = rest.split_off_mut(..tensor.numel()).expect("the state vector is as long as its specs");
                on_host(part.as_mut_ptr(), tensor).copy_(tensor);
            }
        });
    }

    /// Takes over a state that `save` wrote.
    pub fn load(&mut self, state: &[f32]) {
        let mut rest = state;
        tch::no_grad(|| {
            for tensor in self.state_tensors() {
                let part = rest.split_off(..tensor.numel()).expect("the state vector is as long as its specs");
                tensor.copy_(&on_host(part.as_ptr(), tensor));
            }
        });
        self.replicas.synchronise();
        let (first, others) = self.optimizers.split_first_mut().expect("a rank has a device");
        others.iter_mut().for_each(|other| other.copy_from(first));
    }

    fn state_tensors(&mut self) -> Vec<&mut Tensor> {
        let weights = self.replicas.first();
        let average = self.average.as_mut().into_iter().flat_map(Average::state);
        [&mut weights.flat, &mut weights.flat_buffers]
            .into_iter()
            .chain(average)
            .chain(self.optimizers[0].state())
            .collect()
    }
}

/// A tensor of `like`'s size over f32 that lie at `values`, so that a copy from or to any device goes there without another on
/// the host. It must be gone before they are, and is written to only where they may be.
fn on_host(values: *const f32, like: &Tensor) -> Tensor {
    let (size, strides) = (like.size(), like.stride());
    // SAFETY: the callers' slices are as long as `like` is, which has its elements side by side, and outlive this tensor
    unsafe { Tensor::from_blob(values.cast(), &size, &strides, Kind::Float, Device::Cpu) }
}

fn specs(layout: &TensorLayout, optimizer: config::OptimizerName, averaged: bool) -> Vec<TensorSpec> {
    let (parameters, buffers) = layout.entries();
    let mut specs = Vec::new();
    let mut start = 0;
    let mut add = |entries: &[crate::model::Entry], path: &dyn Fn(&str) -> String| {
        for entry in entries {
            specs.push(TensorSpec {
                path: path(&entry.name),
                shape: entry.shape.iter().map(|&n| n as usize).collect(),
                offset: start + entry.offset,
                channels_last: entry.channels_last(),
            });
        }
        start += entries.iter().map(|entry| entry.count()).sum::<usize>();
    };
    for group in if averaged { &["last", "model"][..] } else { &["model"] } {
        add(&parameters, &|name| format!("{group}/{name}"));
        add(&buffers, &|name| format!("{group}/{name}"));
    }
    for slot in Optimizer::slots(optimizer) {
        add(&parameters, &|name| format!("optimizer/{name}/{slot}"));
    }
    specs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_while_it_warms_up() {
        let mut config = config::Layers::new(Some("demo"), None, None).unwrap().resolve().unwrap().train;
        (config.warmup_epochs, config.warmup_learning_rate, config.milestones) = (4, 0.02, vec![5]);
        let rates: Vec<f64> = (0..6).map(|epoch| learning_rate(&config, epoch)).collect();
        for (rate, expected) in rates.iter().zip([0.02, 0.04, 0.06, 0.08, 0.1, 0.01]) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn the_learning_rate_falls_after_each_milestone() {
        let mut config = config::Layers::new(Some("demo"), None, None).unwrap().resolve().unwrap().train;
        config.milestones = vec![2, 4];
        let rates: Vec<f64> = (0..6).map(|epoch| learning_rate(&config, epoch)).collect();
        for (rate, expected) in rates.iter().zip([0.1, 0.1, 0.01, 0.01, 0.001, 0.001]) {
            assert!((rate - expected).abs() < 1e-12);
        }
    }
}
