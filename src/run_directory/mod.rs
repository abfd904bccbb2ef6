//! A run's directory: config.toml, run.log, metrics.csv, label-noise.csv, tensorboard/, epoch-*.h5, final.h5. Rank 0 writes it; only what
//! is kept of a round's samples, and notes on what each rank does (`lookout`), are the ranks' own.

mod background;
mod kept_samples;
mod metrics;
mod saving;
mod tensorboard;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::ProgressBar;
use kept_samples::KeptSamples;
pub use kept_samples::{GRACE, longer_than_grace, time_to_keep};
pub use metrics::{Metrics, metrics_written, read_metrics};
use saving::Saver;

use crate::atomic_file;
use crate::checkpoint::{self, Checkpoint, RunInfo};
use crate::comm::Comm;
use crate::config::{Config, TypedConfig};
use crate::data::LabelChange;
use crate::error::{Error, Result};
use crate::lookout::{self, OwnNote};
use crate::pace::{Pace, hours_and_minutes};
use crate::run_lock::{self, RunLock};
use crate::search::{self, Progress, Recorder};
use crate::state::{EpochRecord, SampleKey, SampleProgress, TensorSpec, Tested};
use crate::stop::{self, Stop};
use crate::terminal::{self, epoch_header, epoch_row};
use crate::train::Observer;

pub struct RunDirectory {
    path: PathBuf,
    /// Rank 0's, from `open` on.
    lock: Option<RunLock>,
}

/// What a directory holds when a run starts in it.
pub enum Found {
    /// Nothing to continue.
    Fresh,
    /// The newest checkpoint.
    Unfinished(Box<Checkpoint>),
    /// final.h5 is there.
    Finished,
}

impl RunDirectory {
    pub fn new(path: &Path) -> RunDirectory {
        RunDirectory { path: path.into(), lock: None }
    }

    /// Takes the directory and finds what there is to continue. Errors: it can't be written; another process works in
    /// it; without `resume`, it is not empty; with `resume`, its configuration or its newest checkpoint does not fit.
    pub fn open(&mut self, config: &Config, resume: bool) -> Result<Found> {
        fs::create_dir_all(&self.path).map_err(|why| Error::file(&self.path, format!("can't be created: {why}")))?;
        self.lock = Some(RunLock::take(&self.path)?);
        let found = self.look(config, resume)?;
        // of an earlier stop, and of ranks that were killed
        let _ = fs::remove_file(self.path.join(stop::STOPPED));
        let _ = fs::remove_dir_all(self.path.join(lookout::NAME));
        atomic_file::write_bytes(&self.path.join("config.toml"), config.to_toml().as_bytes())?;
        terminal::log_to(&self.path.join("run.log"))?;
        Ok(found)
    }

    /// What there is to continue; writes nothing. Errors: those of `open`, but that it can't be written.
    pub fn look(&self, config: &Config, resume: bool) -> Result<Found> {
        let entries = match fs::read_dir(&self.path) {
            Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Found::Fresh),
            entries => entries.map_err(|why| Error::file(&self.path, why))?,
        };
        let of_ranks = |name: OsString| name == run_lock::NAME || name == lookout::NAME;
        if entries.flatten().any(|entry| !of_ranks(entry.file_name())) {
            if !resume {
                let path = self.path.display();
                return Err(Error::config(format!(
                    "--out {path}: the directory is not empty; continue its run with --resume, or name another"
                )));
            }
            self.check_config(config)?;
        }
        if self.final_file().exists() {
            return Ok(Found::Finished);
        }
        let Some(newest) = checkpoint::newest(&self.path)? else { return Ok(Found::Fresh) };
        let found = checkpoint::read(&newest)
            .map_err(|why| Error::failed(format!("{why}; remove it to continue from the checkpoint before it")))?;
        Ok(Found::Unfinished(Box::new(found)))
    }

    /// Asked before results are written. Error: another process works in the directory now.
    fn check_owner(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), RunLock::check)
    }

    /// Whether a run is there that has got anywhere.
    pub fn has_checkpoint(path: &Path) -> bool {
        checkpoint::newest(path).is_ok_and(|newest| newest.is_some()) || path.join(checkpoint::FINAL).exists()
    }

    /// The directory's own config.toml must be this run's.
    fn check_config(&self, config: &Config) -> Result<()> {
        let path = self.path.join("config.toml");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let theirs = TypedConfig::from_toml(&text).map_err(|why| Error::file(&path, why))?;
        let differences = config.typed().differences(&theirs);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!(
            "--resume: {} belongs to a run of another configuration: {}",
            path.display(),
            differences.join("; ")
        )))
    }

    pub fn final_file(&self) -> PathBuf {
        self.path.join(checkpoint::FINAL)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which training labels were replaced, if any.
    pub fn write_label_changes(&self, changes: &[LabelChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let path = self.path.join("label-noise.csv");
        let mut writer = csv::Writer::from_writer(Vec::new());
        let rows: csv::Result<()> = changes.iter().try_for_each(|change| writer.serialize(change));
        rows.map_err(|why| Error::file(&path, why))?;
        atomic_file::write_bytes(&path, &writer.into_inner().map_err(|why| Error::file(&path, why))?)
    }
}

/// Rank 0's recorder writes the run directory and the table; the other ranks' only listen for a stop.
pub struct RunRecorder<'a> {
    directory: &'a RunDirectory,
    watch: Watch,
    /// Rank 0's.
    saver: Option<Saver>,
    epochs: usize,
    pace: Pace,
    /// Epochs whose rows have been printed.
    printed: usize,
}

struct Watch {
    bar: ProgressBar,
    note: OwnNote,
    stop: Stop,
    samples: KeptSamples,
}

impl Observer for Watch {
    fn step(&mut self, _examples: usize) -> bool {
        self.bar.inc(1);
        self.note.step();
        !self.stop.requested() && !self.samples.due()
    }
}

impl<'a> RunRecorder<'a> {
    /// Error: rank 0 gets no thread to save on.
    pub fn new(
        directory: &'a RunDirectory,
        info: RunInfo,
        specs: Vec<TensorSpec>,
        config: &Config,
        stop: Stop,
        comm: &Comm,
        done: usize,
    ) -> Result<Self> {
        let pace = Pace::new(search::work(config, info.ranks), done);
        let samples = KeptSamples::new(&directory.path, config.run.save_minutes);
        let saver = comm.is_root().then(|| Saver::new(directory.path.clone(), info, specs, config, done));
        Ok(RunRecorder {
            directory,
            watch: Watch { bar: ProgressBar::hidden(), note: comm.note(), stop, samples },
            saver: saver.transpose()?,
            epochs: config.train.epochs,
            pace,
            printed: 0,
        })
    }

    /// Prints the table's head and the epochs that a resumed run has done already.
    pub fn start(&mut self, history: &[EpochRecord]) {
        if self.saver.is_some() {
            terminal::line(&format!("{}{:>14}", epoch_header(), "to go"));
            self.print_rows(history);
        }
    }

    fn print_rows(&mut self, history: &[EpochRecord]) {
        for (i, record) in history.iter().enumerate().skip(self.printed) {
            let left = self.pace.left(history).filter(|_| i + 1 == history.len());
            let left = left.map_or(String::new(), |left| format!("{:>14}", hours_and_minutes(left)));
            terminal::line(&format!("{}{left}", epoch_row(i + 1, record)));
        }
        self.printed = history.len();
    }

    fn saver(&mut self) -> &mut Saver {
        self.saver.as_mut().expect("rank 0 saves")
    }

    /// Writes final.h5, once no checkpoint is in the making, and takes the progress bar away.
    pub fn finish(&mut self, progress: &Progress, tested: Tested) -> Result<()> {
        self.watch.bar.finish_and_clear();
        self.saver().wait()?;
        self.directory.check_owner()?;
        self.saver().finish(progress, tested)
    }

    /// All ranks have stopped.
    pub fn stopped(&self) {
        self.watch.bar.finish_and_clear();
        if self.saver.is_some() {
            self.watch.stop.rename_file();
        }
    }
}

impl Recorder for RunRecorder<'_> {
    fn round(&mut self, epochs: std::ops::Range<usize>, steps: usize) {
        // what is left, at this round's steps per epoch
        let per_epoch = (steps / epochs.len().max(1)) as u64;
        self.watch.bar = terminal::bar(per_epoch * self.epochs as u64, per_epoch * epochs.start as u64);
        self.watch.bar.set_message(format!("epoch {} of {}", epochs.start + 1, self.epochs));
    }

    fn observer(&mut self) -> &mut dyn Observer {
        &mut self.watch
    }

    fn kept_sample(&mut self, key: &SampleKey) -> Option<(SampleProgress, Option<Vec<f32>>)> {
        self.watch.samples.read(key)
    }

    fn keep_sample(&mut self, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> bool {
        self.watch.samples.write(key, progress, state)
    }

    fn keeping_pays(&self) -> bool {
        self.watch.samples.pays()
    }

    fn save(&mut self, progress: &Progress) -> Result<f64> {
        let start = Instant::now();
        self.saver().wait()?;
        self.directory.check_owner()?;
        self.saver().begin(progress)?;
        self.print_rows(&progress.history);
        Ok(start.elapsed().as_secs_f64())
    }

    fn saved(&mut self, progress: &Progress) -> usize {
        let told = |why: Error| log::warn!("{why}");
        self.saver().wait().unwrap_or_else(told);
        if self.saver().saved() < progress.epoch {
            self.directory.check_owner().and_then(|()| self.saver().save(progress)).unwrap_or_else(told);
        }
        self.saver().saved()
    }

    fn should_stop(&mut self) -> bool {
        self.watch.stop.requested()
    }
}
