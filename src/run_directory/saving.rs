//! What rank 0 writes after a round and at the end: the checkpoint, and what follows from it. A round's is written on a thread
//! of its own while the next round trains, one at a time (`background.rs`).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use super::background::Background;
use super::kept_samples;
use super::metrics::write_metrics;
use super::tensorboard::TensorBoard;
use crate::checkpoint::{self, Checkpoint, RunInfo};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::search::{Progress, what_is_saved};
use crate::state::{EpochRecord, TensorSpec, Tested};

/// `run.max_failed_saves` where it is not set.
const MAX_FAILED_SAVES: usize = 3;

/// A run's progress as its file will have it; its tensors are those of the state vector, which is shared with the search.
pub struct Save {
    checkpoint: Checkpoint,
    state: Arc<Vec<f32>>,
}

pub struct Saver {
    files: Arc<Mutex<Files>>,
    /// Of rounds.
    saves: Background<Save>,
    info: RunInfo,
}

/// The files, and how saving them went so far.
struct Files {
    run: PathBuf,
    keep: usize,
    specs: Vec<TensorSpec>,
    /// Names of theta's components.
    components: Vec<String>,
    tensorboard: Option<TensorBoard>,
    epochs: usize,
    /// Up to which epoch everything is on disk, and how many saves have failed since.
    saved: usize,
    failed_saves: usize,
    max_failed_saves: usize,
}

impl Saver {
    /// Of a run in the directory `run` of which `done` epochs are saved. Error: no thread can be had.
    pub fn new(run: PathBuf, info: RunInfo, specs: Vec<TensorSpec>, config: &Config, done: usize) -> Result<Saver> {
        let files = Arc::new(Mutex::new(Files {
            tensorboard: TensorBoard::new(&run, config),
            run,
            keep: config.run.keep,
            specs,
            components: config.space().names(),
            epochs: config.train.epochs,
            saved: done,
            failed_saves: 0,
            max_failed_saves: config.run.max_failed_saves.unwrap_or(MAX_FAILED_SAVES),
        }));
        let theirs = files.clone();
        let saves = Background::new("checkpoints", move |save| lock(&theirs).save_round(&save))?;
        Ok(Saver { files, saves, info })
    }

    /// Begins to save a round. Waits for the save before it. Error: that was the last failure that the run bears.
    pub fn begin(&mut self, progress: &Progress) -> Result<()> {
        self.saves.begin(self.save_of(progress, Tested::default()))
    }

    /// Waits for the save that is under way. Error: as `begin`.
    pub fn wait(&mut self) -> Result<()> {
        self.saves.wait()
    }

    /// Up to which epoch everything is saved, so far as is known.
    pub fn saved(&self) -> usize {
        lock(&self.files).saved
    }

    /// Saves a round, now. Error: it can't be written.
    pub fn save(&mut self, progress: &Progress) -> Result<()> {
        lock(&self.files).write(&self.save_of(progress, Tested::default()))
    }

    /// Writes the run's last file. Error: it can't be written.
    pub fn finish(&mut self, progress: &Progress, tested: Tested) -> Result<()> {
        lock(&self.files).finish(&self.save_of(progress, tested))
    }

    fn save_of(&self, progress: &Progress, tested: Tested) -> Save {
        let checkpoint = Checkpoint {
            info: self.info.clone(),
            epoch: progress.epoch,
            policy: progress.policy.clone(),
            history: progress.history.clone(),
            tensors: Vec::new(),
            test: tested.metrics,
            predictions: tested.predictions,
        };
        Save { checkpoint, state: progress.state.clone() }
    }
}

fn lock(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock().expect("no panic while saving")
}

impl Files {
    /// Error: it can't be written, once too often.
    fn save_round(&mut self, save: &Save) -> Result<()> {
        let (start, epoch) = (Instant::now(), save.checkpoint.epoch);
        self.write(save).or_else(|why| self.bear_failed_save(why, epoch))?;
        log::debug!("saving epoch {epoch} took {:.3} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Writes the checkpoint, and what follows from it.
    fn write(&mut self, save: &Save) -> Result<()> {
        let epoch = save.checkpoint.epoch;
        checkpoint::write_state(&checkpoint::epoch_file(&self.run, epoch), &save.checkpoint, &self.specs, &save.state)?;
        (self.saved, self.failed_saves) = (epoch, 0);
        kept_samples::remove_saved(&self.run, epoch);
        self.prune(&save.checkpoint.history).unwrap_or_else(made_again_later);
        self.write_metrics(save);
        self.write_events(save);
        Ok(())
    }

    fn prune(&self, history: &[EpochRecord]) -> Result<()> {
        checkpoint::prune(&self.run, &kept(history, &checkpoint::epochs(&self.run)?, self.keep))
    }

    fn write_events(&mut self, save: &Save) {
        if let Some(tensorboard) = &mut self.tensorboard {
            tensorboard.write(&save.checkpoint.history, &save.checkpoint.test).unwrap_or_else(made_again_later);
        }
    }

    fn write_metrics(&self, save: &Save) {
        write_metrics(&self.run, &save.checkpoint.history, &self.components).unwrap_or_else(made_again_later);
    }

    /// Training goes on without this epoch's checkpoint. Error: that was once too often. The last epoch's is no matter: all
    /// of it is to be in final.h5.
    fn bear_failed_save(&mut self, why: Error, epoch: usize) -> Result<()> {
        self.failed_saves += 1;
        let (failed, most) = (self.failed_saves, self.max_failed_saves);
        let saved = what_is_saved(self.saved, epoch);
        if failed >= most && epoch < self.epochs {
            return Err(Error::failed(format!(
                "{why}; {failed} saves in a row have failed (run.max_failed_saves = {most}), and the run ends: {saved}; {}",
                self.how_to_go_on()
            )));
        }
        let count = format!("{failed} of at most {most} failures in a row, run.max_failed_saves");
        log::warn!("{why}; training goes on, and the next save is another attempt ({count}): {saved}");
        Ok(())
    }

    fn how_to_go_on(&self) -> String {
        format!("make room in {} (df, quota), then run again with --resume", self.run.display())
    }

    fn finish(&mut self, save: &Save) -> Result<()> {
        // before final.h5: a run that has that is not touched again
        self.write_events(save);
        let file = self.run.join(checkpoint::FINAL);
        checkpoint::write_state(&file, &save.checkpoint, &self.specs, &save.state).map_err(|why| {
            let saved = what_is_saved(self.saved, save.checkpoint.epoch);
            Error::failed(format!("{why}; all epochs are trained: {saved}; {}", self.how_to_go_on()))
        })?;
        // a save before it may have failed
        kept_samples::remove_all(&self.run);
        self.write_metrics(save);
        Ok(())
    }
}

/// metrics.csv, events, and which checkpoints are there: no reason to end a run whose checkpoint is safe.
fn made_again_later(why: Error) {
    log::warn!("{why}; the checkpoint is written, and this is tried again with the next one");
}

/// Of the epochs with checkpoints, those that stay: the last `keep` exchanges and the one with the best reward.
fn kept(history: &[EpochRecord], written: &[usize], keep: usize) -> Vec<usize> {
    let rewarded = history.iter().enumerate().filter(|(i, record)| record.best >= 0 && written.contains(&(i + 1)));
    let exchanges: Vec<(usize, f64)> =
        rewarded.map(|(i, record)| (i + 1, record.samples[record.best as usize].reward)).collect();
    let best = exchanges.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best });
    let last = exchanges.iter().rev().take(keep).copied();
    last.chain(best).map(|(epoch, _)| epoch).collect()
}
