//! Algorithm 1 of AM-LFS. Knows of the task, the network and the disk only through `Task`, `Comm` and `Recorder`.

mod mine;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mine::{Mine, Start};

use crate::comm::Comm;
use crate::config::{self, DataOrder};
use crate::error::{Error, Result};
use crate::loss::Group;
use crate::policy::{self, Neighbours, Policy, Settings, Update};
use crate::state::{EpochRecord, PolicyState, SampleKey, SampleProgress, SampleRecord, Status};
use crate::task::Task;
use crate::train::Observer;

/// Where a run stands between rounds: what is saved and resumed.
#[derive(Clone)]
pub struct Progress {
    /// Epochs completed.
    pub epoch: usize,
    pub policy: PolicyState,
    /// One record per completed epoch; kept on rank 0, empty elsewhere.
    pub history: Vec<EpochRecord>,
    /// The best sample's state vector after the last round: shared with whoever saves it while the next round trains.
    pub state: Arc<Vec<f32>>,
}

/// What the search tells the outside world: rank 0 saves and reports, all ranks can be asked to stop.
pub trait Recorder {
    /// Before each round: which epochs come and how many training steps this rank will do in it.
    fn round(&mut self, epochs: std::ops::Range<usize>, steps: usize);

    fn observer(&mut self) -> &mut dyn Observer;

    /// What an earlier process of this run kept of a sample of the round: how far it was, and its state vector there.
    fn kept_sample(&mut self, key: &SampleKey) -> Option<(SampleProgress, Option<Vec<f32>>)>;

    /// Keeps a sample until the round has been saved; without `state` if another one will go on. Returns whether it could:
    /// nothing but the round depends on it.
    fn keep_sample(&mut self, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> bool;

    /// Whether keeping takes little time for what has been done since it was done last.
    fn keeping_pays(&self) -> bool;

    /// Rank 0, after each round: begins to save it, and waits for the save before it. That one may have failed: this one makes
    /// up for it. Returns the seconds that the run lost. Error: the run must not go on like this.
    fn save(&mut self, progress: &Progress) -> Result<f64>;

    /// Rank 0, before an early end: up to which epoch everything is saved, once no save is under way, and after another attempt
    /// if that is not all.
    fn saved(&mut self, progress: &Progress) -> usize;

    /// Whether to stop now.
    fn should_stop(&mut self) -> bool;
}

/// The policy of a configuration at its start: mu is softmax, unless it is given.
pub fn policy(config: &config::Config) -> Box<dyn Policy> {
    let config::Config { search, policy, run, .. } = config;
    let space = config.space();
    let tau_weights = config.typed().loss.tau_weights;
    let neighbours = |group: &Group| Neighbours { size: group.size, level: group.has_level(tau_weights) };
    let mu = search.mu.clone().unwrap_or_else(|| space.identity());
    let settings = Settings {
        samples: search.samples,
        learning_rate: search.learning_rate,
        betas: search.betas,
        seed: run.seed,
        groups: space.groups().iter().map(neighbours).collect(),
        smoothness: search.smoothness.unwrap_or(0.0),
        ceiling: space.ceiling(&mu),
    };
    if space.intervals == 0 {
        return policy.start(settings, Vec::new(), Vec::new());
    }
    policy.with_schedule(settings, mu, search.component_sigmas(), search.schedule.clone())
}

/// How many rounds teach the policy something.
pub fn searched_rounds(config: &config::Config) -> usize {
    let (mut epoch, mut rounds) = (0, 0);
    while epoch < config.train.epochs {
        let round = Round::next(config, epoch);
        rounds += usize::from(!round.warmup);
        epoch = round.epochs.end;
    }
    rounds
}

/// Of each epoch, how many samples the busiest rank trains in it.
pub fn work(config: &config::Config, ranks: usize) -> Vec<usize> {
    let mut work = Vec::new();
    while work.len() < config.train.epochs {
        let round = Round::next(config, work.len());
        work.extend(round.epochs.map(|_| round.samples.div_ceil(ranks)));
    }
    work
}

/// Runs from `progress` to the last epoch, or until stopped (`Error::Stopped`, which says what is saved).
/// `progress` must be the same on all ranks, its history on rank 0. Returns the final progress; the task holds the
/// final model. Errors: every sample of a round failed; the task's and the recorder's own.
pub fn run(
    config: &config::Config,
    comm: &Comm,
    task: &mut dyn Task,
    policy: &mut dyn Policy,
    recorder: &mut dyn Recorder,
    mut progress: Progress,
) -> Result<Progress> {
    let epochs = config.train.epochs;
    policy.set_state(progress.policy.clone());
    let mut checkpoint_seconds = 0.0;
    // whether the task holds `progress.state`; what was the state before it, once nobody needs it
    let (mut in_task, mut room) = (false, None);
    comm.round_took(longest_round(config, comm, &progress.history));
    while progress.epoch < epochs {
        let started = Instant::now();
        let round = Round::next(config, progress.epoch);
        let thetas = round.thetas(policy);
        let start = Start { state: &progress.state, in_task, room };
        let mine = round.train_mine(comm, task, &thetas, start, recorder)?;

        let waiting = Instant::now();
        comm.barrier();
        let wait_seconds = waiting.elapsed().as_secs_f64();
        let exchanging = Instant::now();
        let samples = match round.gather(comm, &mine) {
            Ok(samples) => samples,
            Err(Interrupted { kept }) => {
                return Err(stopped(&format!("in epoch {}", progress.epoch + 1), kept, comm, recorder, &progress));
            }
        };
        let best = round.best(&samples)?;
        let mu = policy.state().mu.clone();
        let learned = round.update(comm, policy, &thetas, &samples, config.run.seed);
        // the best sample's rank holds it as its candidate; all go on from it
        let (mut state, winner) = (mine.candidate, best % comm.size());
        comm.broadcast(&mut state, winner);
        in_task = mine.in_task && winner == comm.rank();
        let before = std::mem::replace(&mut progress.state, Arc::new(state));
        progress.policy = policy.state().clone();
        progress.epoch = round.epochs.end;
        if comm.is_root() {
            let timings = Timings {
                ranks: comm.size(),
                seconds: started.elapsed().as_secs_f64(),
                wait_seconds,
                exchange_seconds: exchanging.elapsed().as_secs_f64(),
                checkpoint_seconds,
            };
            progress.history.extend(round.records(task, &Exchange { mu, thetas, samples, best, learned, timings }));
        }

        let saved = if comm.is_root() { recorder.save(&progress) } else { Ok(0.0) };
        checkpoint_seconds = comm.agree(saved)?;
        room = Arc::into_inner(before);
        comm.round_took(started.elapsed());
        let stop = recorder.should_stop() && progress.epoch < epochs;
        if comm.all_max(stop as u64) == 1 {
            return Err(stopped(&format!("after epoch {}", progress.epoch), true, comm, recorder, &progress));
        }
    }
    if !in_task {
        task.load(&progress.state);
    }
    Ok(progress)
}

/// `when`: in or after which epoch; `kept`: all that was done after the last exchange is kept. Rank 0's text is true.
fn stopped(when: &str, kept: bool, comm: &Comm, recorder: &mut dyn Recorder, progress: &Progress) -> Error {
    let saved = if comm.is_root() { recorder.saved(progress) } else { 0 };
    comm.barrier(); // the others' patience with a rank 0 that still saves is short
    let saved = match kept && saved == progress.epoch {
        true => "everything is saved".into(),
        false => what_is_saved(saved, progress.epoch),
    };
    Error::Stopped(format!("stopped {when}; {saved}"))
}

/// Of `done` epochs the first `saved` ones are on disk.
pub fn what_is_saved(saved: usize, done: usize) -> String {
    match saved {
        0 if done == 0 => "nothing was done that could be saved".into(),
        0 => "nothing is saved".into(),
        saved if saved == done => format!("everything up to epoch {saved} is saved"),
        saved => format!("everything up to epoch {saved} is saved, what came after it is not"),
    }
}

/// Of those that rank 0 knows, before a resumed run.
fn longest_round(config: &config::Config, comm: &Comm, history: &[EpochRecord]) -> Duration {
    let epoch = history.iter().map(|record| record.seconds).fold(0.0, f64::max);
    let millis = comm.all_max((epoch * 1e3) as u64 * config.search.round_epochs as u64);
    Duration::from_millis(millis)
}

impl Progress {
    /// Rank 0's epoch, policy and state on all ranks; their vectors have equal lengths everywhere already.
    pub fn broadcast(&mut self, comm: &Comm) {
        let mut epoch = [self.epoch as f64];
        comm.broadcast(&mut epoch, 0);
        self.epoch = epoch[0] as usize;
        broadcast_policy(comm, &mut self.policy);
        let state: &mut Vec<f32> = Arc::make_mut(&mut self.state);
        comm.broadcast(state, 0);
    }
}

/// What changes in a policy's state from round to round.
fn broadcast_policy(comm: &Comm, policy: &mut PolicyState) {
    let PolicyState { mu, sigma, step, memory } = policy;
    let mut updates = vec![*step as f64];
    let memory = memory.iter_mut().map(|vector| &mut vector.values);
    for values in [&mut updates, mu, sigma].into_iter().chain(memory) {
        comm.broadcast(values, 0);
    }
    *step = updates[0] as u64;
}

/// Which epochs lead to an exchange and how many samples train in them.
struct Round {
    epochs: std::ops::Range<usize>,
    /// 1 while warming up: all samples would train with mu.
    samples: usize,
    /// B, that a record has room for.
    recorded: usize,
    warmup: bool,
    data_order: DataOrder,
}

/// How one sample's round ended.
#[derive(Clone, Debug)]
struct TrainedSample {
    /// Asked to stop; whether what its rank has done is kept.
    interrupted: Option<bool>,
    /// The best one of its rank, which has its state.
    candidate: bool,
    /// Not finite: failed.
    reward: f64,
    /// One per epoch of the round.
    train_loss: Vec<f64>,
    train_seconds: Vec<f64>,
    validation_seconds: f64,
}

/// A rank was asked to stop before the end of the round.
struct Interrupted {
    /// Whether all ranks could keep what they had done.
    kept: bool,
}

/// What rank 0 knows of a round when it is over.
struct Exchange {
    /// The mean that the thetas were drawn from.
    mu: Vec<f64>,
    thetas: Vec<Vec<f64>>,
    samples: Vec<TrainedSample>,
    best: usize,
    learned: Learned,
    timings: Timings,
}

/// What an update did, and how far that is in units of sigma.
struct Learned {
    update: Update,
    delta_sigmas: f64,
    chance_sigmas: f64,
}

struct Timings {
    ranks: usize,
    seconds: f64,
    wait_seconds: f64,
    exchange_seconds: f64,
    checkpoint_seconds: f64,
}

impl Round {
    /// The round after `epoch` completed epochs. It ends before its time with the warm-up and where the learning rate
    /// falls: what is learned at one rate need not hold at the next. A round of all epochs is whole.
    fn next(config: &config::Config, epoch: usize) -> Round {
        let config::Config { search, train, .. } = config;
        let warmup = epoch < search.warmup_epochs;
        let milestones = if search.round_epochs < train.epochs { &train.milestones[..] } else { &[] };
        let ends = [milestones, &[search.warmup_epochs, train.epochs]].concat();
        let limit = ends.into_iter().filter(|&end| end > epoch).min().expect("there is an epoch left");
        Round {
            epochs: epoch..(epoch + search.round_epochs).min(limit),
            samples: if warmup { 1 } else { search.samples },
            recorded: search.samples,
            warmup,
            data_order: search.data_order,
        }
    }

    fn thetas(&self, policy: &dyn Policy) -> Vec<Vec<f64>> {
        if self.warmup { vec![policy.state().mu.clone()] } else { policy.ask(self.epochs.start) }
    }

    /// Every sample, in order, on every rank, unless one was interrupted.
    fn gather(&self, comm: &Comm, mine: &Mine) -> std::result::Result<Vec<TrainedSample>, Interrupted> {
        const FLAGS: usize = 5;
        let epochs = self.epochs.len();
        let width = FLAGS + 2 * epochs;
        let slots = self.samples.div_ceil(comm.size());
        let mut payload = vec![f64::NAN; slots * width];
        for (slot, payload) in payload.chunks_exact_mut(width).enumerate() {
            let flags = [mine.interrupted, mine.kept, mine.best == Some(slot)].map(|flag| flag as u8 as f64);
            payload[..3].copy_from_slice(&flags);
            if let Some(sample) = mine.samples.get(slot) {
                let SampleProgress { train_loss, train_seconds, reward, validation_seconds, .. } = &sample.progress;
                payload[3..FLAGS].copy_from_slice(&[*reward, *validation_seconds]);
                payload[FLAGS..][..train_loss.len()].copy_from_slice(train_loss);
                payload[FLAGS + epochs..].fill(0.0);
                payload[FLAGS + epochs..][..train_seconds.len()].copy_from_slice(train_seconds);
            }
        }
        let gathered = comm.all_gather(&payload);
        let samples = (0..self.samples).map(|sample| {
            let slot = &gathered[(sample % comm.size() * slots + sample / comm.size()) * width..][..width];
            TrainedSample {
                interrupted: (slot[0] != 0.0).then_some(slot[1] != 0.0),
                candidate: slot[2] != 0.0,
                reward: slot[3],
                validation_seconds: slot[4],
                train_loss: slot[FLAGS..FLAGS + epochs].to_vec(),
                train_seconds: slot[FLAGS + epochs..].to_vec(),
            }
        });
        let samples: Vec<_> = samples.collect();
        match samples.iter().any(|sample| sample.interrupted.is_some()) {
            true => Err(Interrupted { kept: samples.iter().all(|sample| sample.interrupted != Some(false)) }),
            false => Ok(samples),
        }
    }

    /// Index of the sample with the highest reward, the lowest one of equals. Error: all failed.
    fn best(&self, samples: &[TrainedSample]) -> Result<usize> {
        let finite = samples.iter().enumerate().filter(|(_, sample)| sample.candidate);
        let best = finite.reduce(|best, next| if next.1.reward > best.1.reward { next } else { best });
        best.map(|(index, _)| index).ok_or_else(|| {
            Error::failed(format!(
                "in epoch {} every sample failed (its loss or reward was not finite); lower train.learning_rate or search.sigma",
                self.epochs.end
            ))
        })
    }

    /// Rank 0 updates the policy; all ranks take it over.
    fn update(
        &self,
        comm: &Comm,
        policy: &mut dyn Policy,
        thetas: &[Vec<f64>],
        samples: &[TrainedSample],
        seed: u64,
    ) -> Learned {
        let nothing = Update::none(vec![f64::NAN; thetas.len()]);
        let mut learned = Learned { update: nothing, delta_sigmas: 0.0, chance_sigmas: 0.0 };
        if self.warmup {
            return learned;
        }
        if comm.is_root() {
            let rewards: Vec<f64> = samples.iter().map(|sample| sample.reward).collect();
            let before = policy.state().clone();
            learned.chance_sigmas = policy::length_by_chance(policy, thetas, &rewards, seed, self.epochs.start);
            learned.update = policy.tell(thetas, &rewards);
            learned.delta_sigmas = policy::length_in_sigmas(&before, policy.state());
        }
        let mut state = policy.state().clone();
        broadcast_policy(comm, &mut state);
        policy.set_state(state);
        learned
    }

    /// The round's epochs for the history: rewards and the update belong to its last epoch.
    fn records(&self, task: &dyn Task, exchange: &Exchange) -> Vec<EpochRecord> {
        let Exchange { mu, learned: Learned { update, delta_sigmas, chance_sigmas }, timings, .. } = exchange;
        let count = self.epochs.len();
        let images = task.examples() as f64;
        let images_per_second = images * (count * exchange.samples.len()) as f64 / exchange.training_seconds();
        let record = |i: usize| {
            let last = i + 1 == count;
            let in_last = |value: f64| if last { value } else { 0.0 };
            EpochRecord {
                mu: mu.clone(),
                samples: (0..self.recorded).map(|sample| exchange.sample_record(sample, i, last)).collect(),
                best: if last { exchange.best as i64 } else { -1 },
                learning_rate: task.learning_rate(self.epochs.start + i),
                gradient_norm: in_last(update.gradient_norm),
                delta_norm: in_last(update.delta_norm),
                delta_sigmas: in_last(*delta_sigmas),
                chance_sigmas: in_last(*chance_sigmas),
                images,
                images_per_second,
                seconds: timings.seconds / count as f64,
                wait_seconds: in_last(timings.wait_seconds),
                exchange_seconds: in_last(timings.exchange_seconds),
                checkpoint_seconds: in_last(timings.checkpoint_seconds),
            }
        };
        (0..count).map(record).collect()
    }
}

impl Exchange {
    /// Ranks train side by side: the slowest one's training time is everyone's.
    fn training_seconds(&self) -> f64 {
        let ranks = self.timings.ranks;
        (0..ranks)
            .map(|rank| self.samples.iter().skip(rank).step_by(ranks).flat_map(|sample| &sample.train_seconds).sum())
            .fold(f64::MIN_POSITIVE, f64::max)
    }

    /// What is recorded of a sample in the round's epoch `i`. A sample that did not train is recorded with mu.
    fn sample_record(&self, sample: usize, i: usize, last: bool) -> SampleRecord {
        let Some(trained) = self.samples.get(sample) else {
            return SampleRecord {
                theta: self.mu.clone(),
                status: Status::NotMeasured,
                reward: f64::NAN,
                advantage: f64::NAN,
                train_loss: f64::NAN,
                train_seconds: 0.0,
                validation_seconds: 0.0,
            };
        };
        let finite = trained.reward.is_finite();
        SampleRecord {
            theta: self.thetas[sample].clone(),
            status: match (last, finite) {
                (false, _) => Status::NotMeasured,
                (true, true) => Status::Ok,
                (true, false) => Status::Failed,
            },
            reward: if last && finite { trained.reward } else { f64::NAN },
            advantage: if last { self.learned.update.advantages[sample] } else { f64::NAN },
            train_loss: trained.train_loss[i],
            train_seconds: trained.train_seconds[i],
            validation_seconds: if last { trained.validation_seconds } else { 0.0 },
        }
    }
}
