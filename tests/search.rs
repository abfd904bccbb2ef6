//! Algorithm 1 with one rank, a task made of numbers and no files.

use std::collections::{HashMap, HashSet};

use amlfs::comm::Comm;
use amlfs::config::{Config, Layers};
use amlfs::error::{Error, Result};
use amlfs::loss::{Space, SpaceKind};
use amlfs::search::{self, Progress, Recorder};
use amlfs::state::{EpochRecord, SampleKey, SampleProgress, Status, TensorSpec, Tested, Within};
use amlfs::task::{Epoch, Task};
use amlfs::train::{Observer, Trained};

/// A model of two numbers: the sum of everything its thetas earned, and how many epochs it trained.
struct Earnings {
    state: [f32; 2],
    specs: Vec<TensorSpec>,
    /// The theta of the last epoch.
    theta: Vec<f64>,
    /// (epoch, first component of theta) of training runs that diverge.
    broken: fn(usize, &[f64]) -> bool,
    trained: Vec<(usize, u64)>,
    /// Training steps done.
    steps: usize,
    /// States taken over and given away.
    loads: usize,
    saves: usize,
}

/// Of an epoch.
const STEPS: u64 = 4;

fn target() -> Vec<f64> {
    vec![1.4, 0.3, 0.8, -0.3]
}

impl Earnings {
    fn new() -> Earnings {
        let specs = ["model/earned", "model/epochs"].into_iter().enumerate();
        let specs =
            specs.map(|(offset, path)| TensorSpec { path: path.into(), shape: vec![1], offset, channels_last: false });
        Earnings {
            state: [0.0; 2],
            specs: specs.collect(),
            theta: vec![],
            broken: |_, _| false,
            trained: vec![],
            steps: 0,
            loads: 0,
            saves: 0,
        }
    }
}

impl Task for Earnings {
    fn describe(&self) -> String {
        "no data".into()
    }

    fn train(&mut self, epoch: Epoch, observer: &mut dyn Observer) -> Result<Trained> {
        self.theta = epoch.theta.to_vec();
        let mut within = epoch.from;
        if within.steps == 0 {
            self.trained.push((epoch.epoch, epoch.stream));
        }
        let distance: f64 = epoch.theta.iter().zip(target()).map(|(x, target)| (x - target).powi(2)).sum();
        while within.steps < STEPS {
            self.state[0] -= (distance / STEPS as f64) as f32;
            self.state[1] += 1.0 / STEPS as f32;
            self.steps += 1;
            within = Within { steps: within.steps + 1, examples: within.examples + 1, loss: within.loss + distance };
            if !observer.step(1) {
                return Ok(Trained::Paused(within));
            }
        }
        let loss = within.loss / within.examples as f64;
        Ok(Trained::Epoch(if (self.broken)(epoch.epoch, epoch.theta) { f64::NAN } else { loss }))
    }
    fn examples(&self) -> usize {
        1
    }
    fn steps(&self) -> usize {
        STEPS as usize
    }
    fn reward(&mut self) -> Result<f64> {
        Ok(self.state[0] as f64)
    }
    fn test(&mut self) -> Result<Tested> {
        Ok(Tested::default())
    }
    fn specs(&self) -> &[TensorSpec] {
        &self.specs
    }
    fn save(&mut self, state: &mut [f32]) {
        self.saves += 1;
        state.copy_from_slice(&self.state);
    }
    fn load(&mut self, state: &[f32]) {
        self.loads += 1;
        self.state.copy_from_slice(state);
    }
    fn learning_rate(&self, _epoch: usize) -> f64 {
        0.1
    }
}

/// Keeps the last progress, and samples of the round after it; pauses after every `pause_every` steps, stops in the given
/// training step or before the given epoch.
#[derive(Default)]
struct Memory {
    saved: Option<Progress>,
    samples: HashMap<usize, Kept>,
    /// Whether finished samples are kept before a pause.
    eager: bool,
    steps: usize,
    pause_every: Option<usize>,
    interrupt_at_step: Option<usize>,
    stop_after_epoch: Option<usize>,
}

type Kept = (SampleKey, SampleProgress, Option<Vec<f32>>);

impl Observer for Memory {
    fn step(&mut self, _examples: usize) -> bool {
        self.steps += 1;
        let pause = self.pause_every.is_some_and(|every| self.steps.is_multiple_of(every));
        !pause && self.interrupt_at_step != Some(self.steps)
    }
}

impl Recorder for Memory {
    fn round(&mut self, _epochs: std::ops::Range<usize>, _steps: usize) {}
    fn observer(&mut self) -> &mut dyn Observer {
        self
    }
    fn kept_sample(&mut self, key: &SampleKey) -> Option<(SampleProgress, Option<Vec<f32>>)> {
        let (found, progress, state) = self.samples.get(&key.sample)?.clone();
        (found == *key).then_some((progress, state))
    }
    fn keep_sample(&mut self, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> bool {
        self.samples.insert(key.sample, (key.clone(), progress.clone(), state.map(<[f32]>::to_vec)));
        true
    }
    fn keeping_pays(&self) -> bool {
        self.eager
    }
    fn save(&mut self, progress: &Progress) -> Result<f64> {
        self.saved = Some(progress.clone());
        self.samples.clear();
        Ok(0.0)
    }
    fn saved(&mut self, progress: &Progress) -> usize {
        progress.epoch
    }
    fn should_stop(&mut self) -> bool {
        self.interrupt_at_step == Some(self.steps)
            || self.stop_after_epoch.zip(self.saved.as_ref()).is_some_and(|(epoch, saved)| saved.epoch >= epoch)
    }
}

fn config(settings: &[&str]) -> Config {
    let mut layers = Layers::new(Some("demo"), None, Some("paper")).unwrap();
    let common = [
        "search.intervals=1",
        "search.policy=reinforce",
        "search.sigma=0.2",
        "search.learning_rate=0.05",
        "search.warmup_epochs=0",
        "train.epochs=6",
    ];
    for setting in common.iter().chain(settings) {
        layers.set_text(setting).unwrap();
    }
    layers.resolve().unwrap()
}

fn run(config: &Config, task: &mut Earnings, recorder: &mut Memory, from: Option<Progress>) -> Result<Progress> {
    let mut policy = search::policy(config);
    let fresh = Progress { epoch: 0, policy: policy.state().clone(), history: vec![], state: vec![0.0; 2].into() };
    search::run(config, &Comm::single(), task, &mut *policy, recorder, from.unwrap_or(fresh))
}

#[test]
fn the_best_samples_model_goes_on_and_mu_moves_towards_the_reward() {
    let config = config(&["train.epochs=200", "search.samples=16"]);
    let mut task = Earnings::new();
    let progress = run(&config, &mut task, &mut Memory::default(), None).unwrap();
    assert_eq!(progress.history.len(), 200);
    assert_eq!(task.state[..], progress.state[..], "the task holds the final model");
    assert_eq!(progress.state[1], 200.0, "every epoch went on from one model");
    let earned: f64 = progress.history.iter().map(|record| -record.samples[record.best as usize].train_loss).sum();
    assert!((progress.state[0] as f64 - earned).abs() < 1e-3, "it is the best samples' chain");
    for record in &progress.history {
        let best = record.samples[record.best as usize].reward;
        assert!(record.samples.iter().all(|sample| sample.reward <= best && sample.status == Status::Ok));
        assert!(record.delta_norm > 0.0 && record.gradient_norm > 0.0);
    }
    let distance = |mu: &[f64]| mu.iter().zip(target()).map(|(x, target)| (x - target).powi(2)).sum::<f64>();
    let (start, end) = (distance(&progress.history[0].mu), distance(&progress.policy.mu));
    assert!(end < 0.1 * start, "squared distance of mu to the target: {start} -> {end}");
}

#[test]
fn a_state_that_the_task_holds_is_not_loaded_again() {
    let config = config(&["search.samples=3", "train.epochs=20"]);
    let mut task = Earnings::new();
    let history = run(&config, &mut task, &mut Memory::default(), None).unwrap().history;
    let last_won = |record: &EpochRecord| record.best == 2;
    let spared = history.iter().filter(|record| last_won(record)).count();
    assert!(spared > 0 && spared < 20, "the seed gives both kinds");
    // each sample's start, and the final model
    assert_eq!(task.loads, 20 * 3 + 1 - spared);
    // each sample that is the best so far
    let best_so_far = |record: &EpochRecord| -> usize {
        let rewards: Vec<f64> = record.samples.iter().map(|sample| sample.reward).collect();
        (0..3).filter(|&i| rewards[..i].iter().all(|&before| rewards[i] > before)).count()
    };
    assert_eq!(task.saves, history.iter().map(best_so_far).sum::<usize>());

    // one sample a rank: the winner's state never leaves it, but to be given to the others
    let mut task = Earnings::new();
    run(&self::config(&["search.samples=1", "search.policy=fixed"]), &mut task, &mut Memory::default(), None).unwrap();
    assert_eq!((task.loads, task.saves), (1, 6));
}

#[test]
fn a_failed_sample_is_left_out_and_never_best_and_the_run_goes_on() {
    let config = config(&["search.samples=4"]);
    let mut task = Earnings::new();
    task.broken = |epoch, theta| epoch == 2 && theta[0] > 1.14;
    let progress = run(&config, &mut task, &mut Memory::default(), None).unwrap();
    let record = &progress.history[2];
    let failed: Vec<_> = record.samples.iter().filter(|sample| sample.status == Status::Failed).collect();
    assert!(!failed.is_empty() && failed.len() < 4, "the seed gives both kinds");
    let lowest = record.samples.iter().map(|sample| sample.advantage).fold(f64::INFINITY, f64::min);
    assert!(failed.iter().all(|sample| sample.reward.is_nan() && sample.advantage == lowest));
    assert_eq!(record.samples[record.best as usize].status, Status::Ok);
    assert_eq!(progress.history.len(), 6);
}

#[test]
fn if_every_sample_fails_the_run_ends_with_an_error_and_the_last_progress_stands() {
    let config = config(&[]);
    let mut task = Earnings::new();
    task.broken = |epoch, _| epoch == 3;
    let mut recorder = Memory::default();
    let error = run(&config, &mut task, &mut recorder, None).err().unwrap();
    assert!(matches!(&error, Error::Failed(text) if text.contains("epoch 4 every sample failed")), "{error}");
    assert_eq!(recorder.saved.unwrap().epoch, 3);
}

#[test]
fn warm_up_trains_one_sample_with_mu_and_does_not_update() {
    let config = config(&["search.warmup_epochs=2"]);
    let mut task = Earnings::new();
    let progress = run(&config, &mut task, &mut Memory::default(), None).unwrap();
    let identity = Space { kind: SpaceKind::Lines, intervals: 1 }.identity();
    for record in &progress.history[..2] {
        assert_eq!((record.best, record.delta_norm), (0, 0.0));
        assert_eq!(record.samples[0].theta, identity);
        assert!(record.samples[1..].iter().all(|sample| sample.status == Status::NotMeasured));
    }
    assert_eq!(progress.history[2].mu, identity);
    assert_ne!(progress.history[3].mu, identity);
    assert_eq!(task.trained.len(), 2 + 4 * 4);
}

#[test]
fn a_round_of_several_epochs_has_one_exchange_and_history_counts_epochs() {
    let config = config(&["search.round_epochs=4", "search.samples=2"]);
    let mut task = Earnings::new();
    let progress = run(&config, &mut task, &mut Memory::default(), None).unwrap();
    let best: Vec<bool> = progress.history.iter().map(|record| record.best >= 0).collect();
    assert_eq!(best, [false, false, false, true, false, true], "4 epochs, then the 2 that are left");
    assert!(
        progress.history[0].samples.iter().all(|sample| sample.status == Status::NotMeasured && sample.reward.is_nan())
    );
    assert_eq!(progress.history[0].samples[1].theta, progress.history[3].samples[1].theta);
    assert_ne!(progress.history[3].samples[1].theta, progress.history[4].samples[1].theta);
    assert_eq!(progress.state[1], 6.0);
}

#[test]
fn a_round_ends_with_a_milestone_and_with_the_warm_up() {
    let trained =
        |settings: &[&str]| run(&config(settings), &mut Earnings::new(), &mut Memory::default(), None).unwrap().history;
    let history =
        trained(&["search.round_epochs=4", "search.warmup_epochs=1", "train.milestones=[3, 9]", "train.epochs=8"]);
    let ends: Vec<usize> = (1..=8).filter(|&epoch| history[epoch - 1].best >= 0).collect();
    assert_eq!(ends, [1, 3, 7, 8]);
    let whole = trained(&["search.round_epochs=6", "train.milestones=[3]"]);
    assert!(whole[..5].iter().all(|record| record.best < 0), "a run of one round");
}

#[test]
fn rounds_are_of_equal_length_and_the_configuration_says_how_long() {
    let config = config(&["search.rounds=3", "search.warmup_epochs=2", "train.epochs=11"]);
    assert_eq!(config.search.round_epochs, 3);
    let progress = run(&config, &mut Earnings::new(), &mut Memory::default(), None).unwrap();
    assert_eq!(progress.history.iter().filter(|record| record.best >= 0).count(), 1 + 3);
}

#[test]
fn selection_alone_trains_every_sample_with_the_mean_in_its_own_order() {
    let start = [1.1, 0.1, 0.9, -0.1];
    let settings = ["search.policy=select", "search.data_order=independent", "search.mu=[1.1, 0.1, 0.9, -0.1]"];
    let mut task = Earnings::new();
    let progress = run(&config(&settings), &mut task, &mut Memory::default(), None).unwrap();
    assert_eq!(progress.policy.mu, start);
    assert!(
        progress.history.iter().all(|record| record.mu == start && record.samples.iter().all(|s| s.theta == start))
    );
    let distinct: HashSet<u64> = task.trained.iter().map(|&(_, stream)| stream).collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn an_update_is_recorded_in_sigmas_beside_what_chance_would_give() {
    let config =
        config(&["search.policy=natural", "search.learning_rate=1", "search.betas=[0, 0]", "search.samples=64"]);
    let progress = run(&config, &mut Earnings::new(), &mut Memory::default(), None).unwrap();
    let record = &progress.history[0];
    let step: f64 = record.mu.iter().zip(&progress.history[1].mu).map(|(a, b)| ((b - a) / 0.2).powi(2)).sum();
    assert!((record.delta_sigmas - step.sqrt()).abs() < 1e-12);
    // theta explains this reward: the step is far longer than the sqrt(4 / 64) that chance gives
    assert!((0.15..0.4).contains(&record.chance_sigmas), "{}", record.chance_sigmas);
    assert!(record.delta_sigmas > 2.0 * record.chance_sigmas, "{}", record.delta_sigmas);
}

/// Whether two runs took the same way.
fn same(a: &Progress, b: &Progress) -> bool {
    a.state == b.state
        && a.policy == b.policy
        && a.history.len() == b.history.len()
        && a.history.iter().zip(&b.history).all(|(a, b)| {
            let figures = |record: &EpochRecord| -> Vec<(u64, u64)> {
                record.samples.iter().map(|s| (s.reward.to_bits(), s.train_loss.to_bits())).collect()
            };
            a.mu == b.mu && a.best == b.best && figures(a) == figures(b)
        })
}

#[test]
fn stopping_anywhere_and_going_on_gives_the_same_bits_and_no_step_is_done_twice() {
    let config = config(&["search.round_epochs=2"]);
    let straight = run(&config, &mut Earnings::new(), &mut Memory::default(), None).unwrap();
    let all = 6 * 4 * STEPS as usize;
    for step in 1..=all {
        let mut recorder = Memory { interrupt_at_step: Some(step), ..Memory::default() };
        let mut task = Earnings::new();
        let error = run(&config, &mut task, &mut recorder, None).err().unwrap();
        assert!(matches!(&error, Error::Stopped(text) if text.ends_with("everything is saved")), "{error}");
        let Memory { saved, samples, .. } = recorder;
        let mut rest = Earnings::new();
        let resumed = run(&config, &mut rest, &mut Memory { samples, ..Memory::default() }, saved).unwrap();
        assert!(same(&resumed, &straight), "interrupted in step {step}");
        assert_eq!(task.steps + rest.steps, all, "interrupted in step {step}");
    }
    let mut recorder = Memory { stop_after_epoch: Some(2), ..Memory::default() };
    assert!(matches!(run(&config, &mut Earnings::new(), &mut recorder, None), Err(Error::Stopped(_))));
    assert!(same(&run(&config, &mut Earnings::new(), &mut Memory::default(), recorder.saved).unwrap(), &straight));
}

#[test]
fn pauses_change_nothing() {
    let straight = run(&config(&[]), &mut Earnings::new(), &mut Memory::default(), None).unwrap();
    for every in 1..=5 {
        let mut recorder = Memory { pause_every: Some(every), ..Memory::default() };
        assert!(same(&run(&config(&[]), &mut Earnings::new(), &mut recorder, None).unwrap(), &straight));
    }
}

#[test]
fn after_a_kill_finished_samples_are_not_trained_again_and_one_state_is_kept() {
    let config = config(&["search.samples=8"]);
    let straight = run(&config, &mut Earnings::new(), &mut Memory::default(), None).unwrap();
    // in the last step of the second epoch's last sample
    let step = 2 * 8 * STEPS as usize;
    let mut recorder = Memory { eager: true, interrupt_at_step: Some(step), ..Memory::default() };
    run(&config, &mut Earnings::new(), &mut recorder, None).err().unwrap();
    let Memory { saved, mut samples, .. } = recorder;
    samples.remove(&7); // a kill leaves nothing of it
    assert_eq!(samples.len(), 7);
    let best = samples.values().max_by(|a, b| a.1.reward.total_cmp(&b.1.reward)).unwrap().0.sample;
    let held: Vec<usize> = samples.values().filter(|kept| kept.2.is_some()).map(|kept| kept.0.sample).collect();
    assert_eq!(held, [best]);

    let go_on = |samples: &HashMap<usize, Kept>| {
        let mut task = Earnings::new();
        let mut recorder = Memory { samples: samples.clone(), ..Memory::default() };
        let progress = run(&config, &mut task, &mut recorder, saved.clone()).unwrap();
        assert!(same(&progress, &straight));
        task.steps / STEPS as usize
    };
    assert_eq!(go_on(&samples), 1 + 4 * 8);
    // without the best one's file, the others are still used
    samples.remove(&best);
    assert_eq!(go_on(&samples), 2 + 4 * 8);
    // what belongs to another round is not used
    samples.values_mut().for_each(|kept| kept.0.start_crc32 ^= 1);
    assert_eq!(go_on(&samples), 8 + 4 * 8);
}

#[test]
fn data_order_is_common_by_default_and_independent_on_request() {
    for (order, streams) in [("common", 1), ("independent", 4)] {
        let mut task = Earnings::new();
        run(&config(&[&format!("search.data_order={order}")]), &mut task, &mut Memory::default(), None).unwrap();
        let distinct: HashSet<u64> = task.trained.iter().map(|&(_, stream)| stream).collect();
        assert_eq!(distinct.len(), streams);
    }
}
