//! What a person sees: log lines, the table of epochs, and a progress bar where there is a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{LazyLock, Mutex, OnceLock};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::LevelFilter;

use crate::comm;
use crate::error::{Error, Result};
use crate::state::{EpochRecord, SampleRecord, Status};

/// run.log, once there is a run directory.
static LOG_FILE: Mutex<Option<File>> = Mutex::new(None);
static BAR: OnceLock<ProgressBar> = OnceLock::new();
/// Where a person watches, if someone does.
static TERMINAL: LazyLock<Option<Term>> = LazyLock::new(find_terminal);

/// Rank 0 logs from `info` on, the others warnings; RUST_LOG overrides.
pub fn start_log() {
    // now: MPI_Init of a single process sets variables like a launcher's
    LazyLock::force(&TERMINAL);
    let rank = comm::launcher_rank();
    let level = if rank == 0 { LevelFilter::Info } else { LevelFilter::Warn };
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .target(env_logger::Target::Pipe(Box::new(Tee)))
        .format(move |out, record| {
            let origin = if rank == 0 { String::new() } else { format!("rank {rank}: ") };
            let level = match record.level() {
                log::Level::Info => String::new(),
                level => format!("{}: ", level.as_str().to_lowercase()),
            };
            writeln!(out, "amlfs: {origin}{level}{}", record.args())
        })
        .init();
}

/// From now on the log goes to `path` too.
pub fn log_to(path: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(path).map_err(|why| Error::file(path, why))?;
    *LOG_FILE.lock().expect("no panic while logging") = Some(file);
    Ok(())
}

/// The terminal that both standard output and error go to. mpirun hands its ranks pipes, so for rank 0 the parent's
/// streams count too; what is written there must not take the detour through mpirun, or the bar is torn.
fn find_terminal() -> Option<Term> {
    if comm::launcher_rank() > 0 {
        return None;
    }
    let open = |process: &str, stream: u32| {
        let file = File::options().read(true).write(true).open(format!("/proc/{process}/fd/{stream}")).ok();
        file.filter(File::is_terminal)
    };
    // only a launcher's: a shell's streams are not where the user sent ours
    let parent = comm::launcher_says_rank().map(|_| std::os::unix::process::parent_id().to_string());
    ["self"]
        .into_iter()
        .chain(parent.as_deref())
        .find_map(|process| Some(Term::read_write_pair(open(process, 1)?, open(process, 2)?)))
}

/// Standard error and run.log.
struct Tee;

impl Write for Tee {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        show(bytes, &mut io::stderr());
        write_to_file(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// A log that can't be written must not end a run.
fn write_to_file(bytes: &[u8]) {
    if let Some(file) = LOG_FILE.lock().expect("no panic while logging").as_mut() {
        let _ = file.write_all(bytes);
    }
}

/// Prints a line of the run's table, above the progress bar, and keeps it in run.log.
pub fn line(text: &str) {
    let line = format!("{text}\n");
    show(line.as_bytes(), &mut io::stdout());
    write_to_file(line.as_bytes());
}

/// To the terminal, above the bar, or else to `stream`. A closed pipe (amlfs | head) is no reason to stop training.
fn show(bytes: &[u8], stream: &mut dyn Write) {
    let _ = match (&*TERMINAL, BAR.get()) {
        (Some(terminal), Some(bar)) => bar.suspend(|| (&mut &*terminal).write_all(bytes)),
        (Some(terminal), None) => (&mut &*terminal).write_all(bytes),
        (None, _) => stream.write_all(bytes),
    };
}

/// The progress bar over all training steps that this rank has to do; invisible without a terminal.
pub fn bar(steps: u64, done: u64) -> ProgressBar {
    let bar = BAR.get_or_init(|| {
        let target = match &*TERMINAL {
            Some(terminal) => ProgressDrawTarget::term(terminal.clone(), 10),
            None => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent}%  {elapsed} gone, {eta} to go")
            .expect("a valid template");
        ProgressBar::with_draw_target(None, target).with_style(style)
    });
    bar.set_length(steps);
    bar.set_position(done);
    bar.reset_eta();
    bar.clone()
}

pub const EPOCH_HEADER: &str = " epoch      lr  reward min    mean     max  best   |grad|  |dmu|  train loss  images/s   train s  valid s   wait s  exch s  save s";

/// One epoch as a row below `EPOCH_HEADER`.
pub fn epoch_row(epoch: usize, record: &EpochRecord) -> String {
    let summary = Summary::of(record);
    let best = if record.best < 0 { "-".into() } else { record.best.to_string() };
    format!(
        "{epoch:6} {:7.1e}  {:10.4} {:7.4} {:7.4} {best:>5} {:8.3} {:6.3} {:11.4} {:9.0} {:9.2} {:8.2} {:8.2} {:7.3} {:7.3}{}",
        record.learning_rate,
        summary.reward_min,
        summary.reward_mean,
        summary.reward_max,
        record.gradient_norm,
        record.delta_norm,
        summary.train_loss,
        record.images_per_second,
        summary.train_seconds,
        summary.validation_seconds,
        record.wait_seconds,
        record.exchange_seconds,
        record.checkpoint_seconds,
        if summary.failed > 0 { format!("  {} failed", summary.failed) } else { String::new() },
    )
}

/// An epoch's samples in a few numbers. Means over the samples that have a value; NaN if none has.
pub struct Summary {
    pub reward_min: f64,
    pub reward_mean: f64,
    pub reward_max: f64,
    pub train_loss: f64,
    pub failed: usize,
    /// Wall-clock seconds of training and validation on rank 0.
    pub train_seconds: f64,
    pub validation_seconds: f64,
}

impl Summary {
    pub fn of(record: &EpochRecord) -> Summary {
        let finite = |value: fn(&SampleRecord) -> f64| {
            record.samples.iter().map(value).filter(|value| value.is_finite()).collect::<Vec<f64>>()
        };
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let rewards = finite(|sample| sample.reward);
        let sum = |value: fn(&SampleRecord) -> f64| record.samples.iter().map(value).sum::<f64>();
        let (trained, validated) = (sum(|sample| sample.train_seconds), sum(|sample| sample.validation_seconds));
        // all samples' seconds are known, not which rank they belong to; ranks share them evenly
        let busy = record.seconds - record.wait_seconds - record.exchange_seconds;
        let share = busy / (trained + validated).max(f64::MIN_POSITIVE);
        Summary {
            reward_min: rewards.iter().copied().reduce(f64::min).unwrap_or(f64::NAN),
            reward_mean: mean(&rewards),
            reward_max: rewards.iter().copied().reduce(f64::max).unwrap_or(f64::NAN),
            train_loss: mean(&finite(|sample| sample.train_loss)),
            failed: record.samples.iter().filter(|sample| sample.status == Status::Failed).count(),
            train_seconds: trained * share,
            validation_seconds: validated * share,
        }
    }
}
