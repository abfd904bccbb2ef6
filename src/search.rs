//! Algorithm 1 of AM-LFS. Knows of the task, the network and the disk only through `Task`, `Comm` and `Recorder`.

use std::time::Instant;

use crate::comm::Comm;
use crate::config::{self, DataOrder};
use crate::error::{Error, Result};
use crate::policy::{Policy, Update};
use crate::state::{EpochRecord, PolicyState, SampleRecord, Status};
use crate::task::{Epoch, Task};
use crate::train::Observer;

/// Where a run stands between rounds: what is saved and resumed.
pub struct Progress {
    /// Epochs completed.
    pub epoch: usize,
    pub policy: PolicyState,
    /// One record per completed epoch; kept on rank 0, empty elsewhere.
    pub history: Vec<EpochRecord>,
    /// The best sample's state vector after the last round.
    pub state: Vec<f32>,
}

/// What the search tells the outside world: rank 0 saves and reports, all ranks can be asked to stop.
pub trait Recorder {
    /// Before each round: which epochs come and how many training steps this rank will do in it.
    fn round(&mut self, epochs: std::ops::Range<usize>, steps: usize);

    fn observer(&mut self) -> &mut dyn Observer;

    /// Rank 0, after each round. Returns the seconds it took to save.
    fn save(&mut self, progress: &Progress) -> Result<f64>;

    /// Whether to stop before another round as long as the last one.
    fn should_stop(&mut self, last_round_seconds: f64) -> bool;
}

/// Runs from `progress` to the last epoch, or until stopped (`Error::Stopped`; everything is saved then).
/// `progress` must be the same on all ranks, its history on rank 0. Returns the final progress; the task holds the
/// final model. Errors: every sample of a round failed; the task's and the recorder's own.
pub fn run(
    config: &config::Config,
    comm: &Comm,
    task: &mut dyn Task,
    policy: &mut Policy,
    recorder: &mut dyn Recorder,
    mut progress: Progress,
) -> Result<Progress> {
    let config::Config { search, train, .. } = config;
    policy.set_state(progress.policy.clone());
    let mut checkpoint_seconds = 0.0;
    while progress.epoch < train.epochs {
        let started = Instant::now();
        let round = Round::next(search, train.epochs, progress.epoch);
        let thetas = round.thetas(policy);
        let mine: Vec<usize> = (comm.rank()..round.samples).step_by(comm.size()).collect();
        recorder.round(round.epochs.clone(), mine.len() * round.epochs.len() * task.steps());

        let mut candidate = vec![0.0; progress.state.len()];
        let mut outcomes = Vec::new();
        let mut best: Option<(usize, f64)> = None;
        for &sample in &mine {
            let stream = match search.data_order {
                DataOrder::Common => 0,
                DataOrder::Independent => sample as u64,
            };
            let outcome = round.train(task, &thetas[sample], stream, &progress.state, recorder.observer())?;
            let interrupted = outcome.interrupted;
            // ties: the lowest index, as over all ranks below
            if outcome.reward.is_finite() && best.is_none_or(|(_, reward)| outcome.reward > reward) {
                best = Some((sample, outcome.reward));
                task.save(&mut candidate);
            }
            outcomes.push(outcome);
            if interrupted {
                break;
            }
        }

        let waiting = Instant::now();
        comm.barrier();
        let wait_seconds = waiting.elapsed().as_secs_f64();
        let exchanging = Instant::now();
        let Some(outcomes) = round.gather(comm, &outcomes) else {
            return Err(Error::Stopped(format!(
                "stopped in epoch {}; everything up to epoch {} is saved",
                progress.epoch + 1,
                progress.epoch
            )));
        };
        let rewards: Vec<f64> = outcomes.iter().map(|outcome| outcome.reward).collect();
        let Some(best) = argmax(&rewards) else {
            return Err(Error::failed(format!(
                "in epoch {} every sample failed (its loss or reward was not finite); lower train.learning_rate or search.sigma",
                round.epochs.end
            )));
        };
        let mu = policy.state().mu.clone();
        let update = round.update(comm, policy, &thetas, &rewards);
        // the best sample's rank holds it as its candidate; all go on from it
        progress.state = candidate;
        comm.broadcast_f32(&mut progress.state, best % comm.size());

        progress.policy = policy.state().clone();
        if comm.is_root() {
            let timings = Timings {
                ranks: comm.size(),
                started,
                wait_seconds,
                exchange_seconds: exchanging.elapsed().as_secs_f64(),
                checkpoint_seconds,
            };
            progress.history.extend(round.records(
                search.samples,
                task,
                &mu,
                &thetas,
                &outcomes,
                best,
                &update,
                &timings,
            ));
        }
        progress.epoch = round.epochs.end;
        let saved = if comm.is_root() { recorder.save(&progress) } else { Ok(0.0) };
        checkpoint_seconds = comm.agree(saved)?;

        let stop = recorder.should_stop(started.elapsed().as_secs_f64()) && progress.epoch < train.epochs;
        if comm.all_max(stop as u64) == 1 {
            return Err(Error::Stopped(format!("stopped after epoch {}; everything is saved", progress.epoch)));
        }
    }
    task.load(&progress.state);
    Ok(progress)
}

/// One exchange: which epochs lead to it and how many samples train in them.
struct Round {
    epochs: std::ops::Range<usize>,
    /// 1 while warming up: all samples would train with mu.
    samples: usize,
    warmup: bool,
}

/// How one sample's round ended.
#[derive(Clone, Debug)]
struct TrainedSample {
    interrupted: bool,
    /// Not finite: failed.
    reward: f64,
    /// One per epoch of the round.
    train_loss: Vec<f64>,
    train_seconds: Vec<f64>,
    validation_seconds: f64,
}

struct Timings {
    ranks: usize,
    started: Instant,
    wait_seconds: f64,
    exchange_seconds: f64,
    checkpoint_seconds: f64,
}

impl Round {
    /// The round after `epoch` completed epochs. Warm-up epochs and searched epochs are in different rounds.
    fn next(search: &config::Search, epochs: usize, epoch: usize) -> Round {
        let warmup = epoch < search.warmup_epochs;
        let limit = if warmup { search.warmup_epochs.min(epochs) } else { epochs };
        let samples = if warmup { 1 } else { search.samples };
        Round { epochs: epoch..(epoch + search.round_epochs).min(limit), samples, warmup }
    }

    fn thetas(&self, policy: &Policy) -> Vec<Vec<f64>> {
        if self.warmup {
            return vec![policy.state().mu.clone()];
        }
        (0..self.samples).map(|sample| policy.theta(self.epochs.start, sample)).collect()
    }

    /// Trains one sample from `state` through the round and measures its reward.
    fn train(
        &self,
        task: &mut dyn Task,
        theta: &[f64],
        stream: u64,
        state: &[f32],
        observer: &mut dyn Observer,
    ) -> Result<TrainedSample> {
        task.load(state);
        let mut outcome = TrainedSample {
            interrupted: false,
            reward: f64::NAN,
            train_loss: Vec::new(),
            train_seconds: Vec::new(),
            validation_seconds: 0.0,
        };
        for epoch in self.epochs.clone() {
            let start = Instant::now();
            let Some(loss) = task.train(Epoch { epoch, theta, stream }, observer)? else {
                outcome.interrupted = true;
                break;
            };
            outcome.train_loss.push(loss);
            outcome.train_seconds.push(start.elapsed().as_secs_f64());
            if !loss.is_finite() {
                break;
            }
        }
        let complete = !outcome.interrupted && outcome.train_loss.iter().all(|loss| loss.is_finite());
        if complete {
            let start = Instant::now();
            outcome.reward = task.reward()?;
            outcome.validation_seconds = start.elapsed().as_secs_f64();
        }
        outcome.train_loss.resize(self.epochs.len(), f64::NAN);
        outcome.train_seconds.resize(self.epochs.len(), 0.0);
        Ok(outcome)
    }

    /// Every sample's outcome, in order, on every rank; `None` if a rank was interrupted.
    fn gather(&self, comm: &Comm, mine: &[TrainedSample]) -> Option<Vec<TrainedSample>> {
        let epochs = self.epochs.len();
        let width = 3 + 2 * epochs;
        let slots = self.samples.div_ceil(comm.size());
        let mut payload = vec![0.0; slots * width];
        for (slot, outcome) in payload.chunks_exact_mut(width).zip(mine) {
            slot[..3].copy_from_slice(&[outcome.interrupted as u8 as f64, outcome.reward, outcome.validation_seconds]);
            slot[3..3 + epochs].copy_from_slice(&outcome.train_loss);
            slot[3 + epochs..].copy_from_slice(&outcome.train_seconds);
        }
        let gathered = comm.all_gather(&payload);
        let outcomes: Vec<TrainedSample> = (0..self.samples)
            .map(|sample| {
                let slot = &gathered[(sample % comm.size() * slots + sample / comm.size()) * width..][..width];
                TrainedSample {
                    interrupted: slot[0] != 0.0,
                    reward: slot[1],
                    validation_seconds: slot[2],
                    train_loss: slot[3..3 + epochs].to_vec(),
                    train_seconds: slot[3 + epochs..].to_vec(),
                }
            })
            .collect();
        outcomes.iter().all(|outcome| !outcome.interrupted).then_some(outcomes)
    }

    /// Rank 0 updates the policy; all ranks take it over.
    fn update(&self, comm: &Comm, policy: &mut Policy, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        if self.warmup {
            return Update { advantages: vec![f64::NAN; thetas.len()], gradient_norm: 0.0, delta_norm: 0.0 };
        }
        let mut update = Update { advantages: Vec::new(), gradient_norm: 0.0, delta_norm: 0.0 };
        if comm.is_root() {
            update = policy.update(thetas, rewards);
        }
        let mut state = policy.state().clone();
        comm.broadcast_f64(&mut state.mu, 0);
        comm.broadcast_f64(&mut state.adam_m, 0);
        comm.broadcast_f64(&mut state.adam_v, 0);
        let mut step = [state.step as f64];
        comm.broadcast_f64(&mut step, 0);
        policy.set_state(PolicyState { step: step[0] as u64, ..state });
        update
    }

    /// The round's epochs for the history: rewards and the update belong to its last epoch.
    #[allow(clippy::too_many_arguments)]
    fn records(
        &self,
        samples: usize,
        task: &dyn Task,
        mu: &[f64],
        thetas: &[Vec<f64>],
        outcomes: &[TrainedSample],
        best: usize,
        update: &Update,
        timings: &Timings,
    ) -> Vec<EpochRecord> {
        let count = self.epochs.len();
        let total = timings.started.elapsed().as_secs_f64();
        // ranks train side by side: the slowest one's training time is everyone's
        let training_seconds = (0..timings.ranks)
            .map(|rank| outcomes.iter().skip(rank).step_by(timings.ranks).flat_map(|o| &o.train_seconds).sum())
            .fold(f64::MIN_POSITIVE, f64::max);
        let images = (task.examples() * count * outcomes.len()) as f64;
        (0..count)
            .map(|i| {
                let last = i + 1 == count;
                let samples = (0..samples).map(|sample| match outcomes.get(sample) {
                    None => SampleRecord {
                        theta: mu.to_vec(),
                        status: Status::NotMeasured,
                        reward: f64::NAN,
                        advantage: f64::NAN,
                        train_loss: f64::NAN,
                        train_seconds: 0.0,
                        validation_seconds: 0.0,
                    },
                    Some(outcome) => SampleRecord {
                        theta: thetas[sample].clone(),
                        status: match (last, outcome.reward.is_finite()) {
                            (false, _) => Status::NotMeasured,
                            (true, true) => Status::Ok,
                            (true, false) => Status::Failed,
                        },
                        reward: if last && outcome.reward.is_finite() { outcome.reward } else { f64::NAN },
                        advantage: if last { update.advantages[sample] } else { f64::NAN },
                        train_loss: outcome.train_loss[i],
                        train_seconds: outcome.train_seconds[i],
                        validation_seconds: if last { outcome.validation_seconds } else { 0.0 },
                    },
                });
                let share = |value: f64| if last { value } else { 0.0 };
                EpochRecord {
                    mu: mu.to_vec(),
                    samples: samples.collect(),
                    best: if last { best as i64 } else { -1 },
                    learning_rate: task.learning_rate(self.epochs.start + i),
                    gradient_norm: share(update.gradient_norm),
                    delta_norm: share(update.delta_norm),
                    images_per_second: images / training_seconds,
                    seconds: total / count as f64,
                    wait_seconds: share(timings.wait_seconds),
                    exchange_seconds: share(timings.exchange_seconds),
                    checkpoint_seconds: share(timings.checkpoint_seconds),
                }
            })
            .collect()
    }
}

/// Index of the largest finite value, the lowest one of equals.
fn argmax(values: &[f64]) -> Option<usize> {
    let finite = values.iter().enumerate().filter(|(_, value)| value.is_finite());
    finite.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(index, _)| index)
}
