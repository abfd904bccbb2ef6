//! What a person sees: log lines, the table of epochs, and a progress bar where there is a terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{LazyLock, Mutex, OnceLock};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use log::LevelFilter;

use crate::comm;
use crate::error::{Error, Result};
use crate::mapped_file;
use crate::state::{Column, EPOCH_COLUMNS, EpochRecord, Shown, Value};

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
    mapped_file::tell_also(file.as_raw_fd());
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

/// The head of the table of epochs.
pub fn epoch_header() -> String {
    let heads = EPOCH_COLUMNS.iter().filter_map(|column| column.shown.as_ref());
    let heads: String = heads.map(|shown| format!("{:>1$}", shown.head, shown.width)).collect();
    format!("{:>6}{heads}", "epoch")
}

/// One epoch as a row below `epoch_header`.
pub fn epoch_row(epoch: usize, record: &EpochRecord) -> String {
    row_of(epoch, |column| column.number(record))
}

/// The same, of figures that are at hand without a record.
pub fn row_of(epoch: usize, figure: impl Fn(&Column<EpochRecord>) -> f64) -> String {
    let cell = |column: &Column<EpochRecord>| {
        let &Shown { width, digits, scientific, .. } = column.shown.as_ref()?;
        // the space stays where a number is wider than its column
        let width = width - 1;
        let number = figure(column);
        Some(match column.value {
            Value::Number { .. } if scientific => format!(" {number:width$.digits$e}"),
            Value::Number { .. } => format!(" {number:width$.digits$}"),
            // an index that is not there
            Value::Count { .. } if number < 0.0 => format!(" {:>width$}", "-"),
            Value::Count { .. } => format!(" {number:width$}"),
        })
    };
    let cells: String = EPOCH_COLUMNS.iter().filter_map(cell).collect();
    let failed = EPOCH_COLUMNS.iter().find(|column| column.name == "failed").map_or(0.0, figure);
    let failed = if failed > 0.0 { format!("  {failed} failed") } else { String::new() };
    format!("{epoch:6}{cells}{failed}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{SampleRecord, Status};

    #[test]
    fn rows_stand_below_the_header() {
        let sample = SampleRecord { reward: 0.25, train_loss: 2.5, train_seconds: 4.0, ..SampleRecord::default() };
        let record = EpochRecord {
            samples: vec![SampleRecord { status: Status::Failed, ..sample }],
            best: -1,
            learning_rate: 0.1,
            images_per_second: 1234.4,
            seconds: 5.5,
            wait_seconds: 1.5,
            ..EpochRecord::default()
        };
        let expected = " epoch      lr  reward min    mean     max  best   |grad|  |dmu|  train loss  images/s   train s  valid s   wait s  exch s  save s";
        assert_eq!(epoch_header(), expected);
        assert_eq!(
            epoch_row(12, &record),
            "    12  1.0e-1      0.2500  0.2500  0.2500     -    0.000  0.000      2.5000      1234      4.00     0.00     1.50   0.000   0.000  1 failed"
        );
        let diverged = EpochRecord { delta_norm: 123456789.0, ..record };
        assert!(epoch_row(1, &diverged).contains(" 0.000 123456789.000 "), "{}", epoch_row(1, &diverged));
    }
}
