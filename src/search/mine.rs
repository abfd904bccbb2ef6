//! A rank's samples of a round, one after the other. What is done is kept between samples, and within one when the
//! recorder wants it, so that the next process of the run goes on from there, with any number of ranks: each sample has a
//! file of its own.

use std::time::Instant;

use super::{Recorder, Round};
use crate::comm::Comm;
use crate::config::DataOrder;
use crate::error::Result;
use crate::state::{SampleKey, SampleProgress};
use crate::task::{Epoch, Task};
use crate::train::Trained;

/// What a round starts from.
pub(super) struct Start<'a> {
    pub state: &'a [f32],
    /// Whether the task holds it.
    pub in_task: bool,
    /// A vector of that length, of any content.
    pub room: Option<Vec<f32>>,
}

/// What a rank has of a round.
pub(super) struct Mine {
    /// In order; when the rank was asked to stop, the last one is not finished, and those after it are not here.
    pub samples: Vec<Sample>,
    /// The one with the highest reward, the lowest of equals, of those whose state is known. `None`: all failed.
    pub best: Option<usize>,
    /// Its state.
    pub candidate: Vec<f32>,
    /// Whether the task holds it, too.
    pub in_task: bool,
    pub interrupted: bool,
    /// Whether all of it is kept, if interrupted.
    pub kept: bool,
}

pub(super) struct Sample {
    key: SampleKey,
    pub progress: SampleProgress,
    kept: Kept,
}

/// What the recorder keeps of a finished sample.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    Nothing,
    Outcome,
    OutcomeAndState,
}

impl Round {
    /// Trains this rank's samples, or goes on where an earlier process was with them.
    pub(super) fn train_mine(
        &self,
        comm: &Comm,
        task: &mut dyn Task,
        thetas: &[Vec<f64>],
        start: Start,
        recorder: &mut dyn Recorder,
    ) -> Result<Mine> {
        let samples: Vec<usize> = (comm.rank()..self.samples).step_by(comm.size()).collect();
        recorder.round(self.epochs.clone(), samples.len() * self.epochs.len() * task.steps());
        let Start { state, mut in_task, room } = start;
        let start_crc32 = crc32fast::hash(bytemuck::cast_slice(state));
        let candidate = room.unwrap_or_else(|| vec![0.0; state.len()]);
        let mut mine =
            Mine { samples: Vec::new(), best: None, candidate, in_task: false, interrupted: false, kept: true };
        for sample in samples {
            let stream = match self.data_order {
                DataOrder::Common => 0,
                DataOrder::Independent => sample as u64,
            };
            let theta = thetas[sample].clone();
            let key = SampleKey { sample, epochs: self.epochs.clone(), stream, theta, start_crc32 };
            let (progress, reached) = recorder.kept_sample(&key).unwrap_or_default();
            if progress.finished {
                mine.add_kept(key, progress, reached);
                continue;
            }
            let progress = if reached.is_some() { progress } else { SampleProgress::default() };
            let epochs = progress.train_loss.len() as u64;
            comm.note().sample(sample, epochs * task.steps() as u64 + progress.within.steps);
            match &reached {
                Some(reached) => task.load(reached),
                None if in_task => {}
                None => task.load(state),
            }
            drop(reached);
            (in_task, mine.in_task) = (false, false);
            self.train(task, key, progress, &mut mine, recorder)?;
            if mine.interrupted {
                break;
            }
        }
        Ok(mine)
    }

    /// Trains one sample from where it is through the round and measures its reward, unless the rank is asked to stop.
    fn train(
        &self,
        task: &mut dyn Task,
        key: SampleKey,
        mut progress: SampleProgress,
        mine: &mut Mine,
        recorder: &mut dyn Recorder,
    ) -> Result<()> {
        while progress.train_loss.len() < self.epochs.len() {
            let epoch = self.epochs.start + progress.train_loss.len();
            let epoch = Epoch { epoch, theta: &key.theta, stream: key.stream, from: progress.within };
            let start = Instant::now();
            let trained = task.train(epoch, recorder.observer())?;
            progress.within_seconds += start.elapsed().as_secs_f64();
            match trained {
                Trained::Paused(within) => {
                    progress.within = within;
                    let mut state = vec![0.0; mine.candidate.len()];
                    task.save(&mut state);
                    let kept = recorder.keep_sample(&key, &progress, Some(&state)) & mine.keep(recorder);
                    if recorder.should_stop() {
                        (mine.interrupted, mine.kept) = (true, kept);
                        mine.samples.push(Sample { key, progress, kept: Kept::Nothing });
                        return Ok(());
                    }
                }
                Trained::Epoch(loss) => {
                    progress.train_loss.push(loss);
                    progress.train_seconds.push(progress.within_seconds);
                    (progress.within, progress.within_seconds) = Default::default();
                    if !loss.is_finite() {
                        break;
                    }
                }
            }
        }
        if progress.train_loss.iter().all(|loss| loss.is_finite()) {
            let start = Instant::now();
            progress.reward = task.reward()?;
            progress.validation_seconds = start.elapsed().as_secs_f64();
        }
        progress.finished = true;
        if mine.is_best(&progress) {
            task.save(&mut mine.candidate);
            (mine.best, mine.in_task) = (Some(mine.samples.len()), true);
        }
        mine.samples.push(Sample { key, progress, kept: Kept::Nothing });
        if recorder.keeping_pays() {
            mine.keep(recorder);
        }
        Ok(())
    }
}

impl Mine {
    /// Ties: the lowest index, as over all ranks in `Round::best`.
    fn is_best(&self, progress: &SampleProgress) -> bool {
        let best = self.best.map_or(f64::NEG_INFINITY, |best| self.samples[best].progress.reward);
        progress.reward.is_finite() && progress.reward > best
    }

    /// Adds a sample that an earlier process finished. Without its state it is not the best one: another was better.
    fn add_kept(&mut self, key: SampleKey, progress: SampleProgress, state: Option<Vec<f32>>) {
        let kept = if state.is_some() { Kept::OutcomeAndState } else { Kept::Outcome };
        if let Some(state) = state.filter(|_| self.is_best(&progress)) {
            self.candidate = state;
            (self.best, self.in_task) = (Some(self.samples.len()), false);
        }
        self.samples.push(Sample { key, progress, kept });
    }

    /// Gives the recorder what it does not keep yet of the samples, all finished, and takes back the states of those that
    /// are the best no longer. Returns whether it keeps all.
    fn keep(&mut self, recorder: &mut dyn Recorder) -> bool {
        // the best one first: until its state is kept, the former's is needed
        let others = (0..self.samples.len()).filter(|&i| Some(i) != self.best);
        for i in self.best.into_iter().chain(others) {
            let wanted = if Some(i) == self.best { Kept::OutcomeAndState } else { Kept::Outcome };
            let sample = &mut self.samples[i];
            if sample.kept != wanted {
                let state = (wanted == Kept::OutcomeAndState).then_some(&self.candidate[..]);
                if !recorder.keep_sample(&sample.key, &sample.progress, state) {
                    return false;
                }
                sample.kept = wanted;
            }
        }
        true
    }
}
