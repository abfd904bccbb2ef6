//! A run while it goes on, seen from outside: reads what the run has finished writing, and writes nothing.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use console::{Term, truncate_str};

use super::view;
use crate::checkpoint;
use crate::config::{Config, TypedConfig};
use crate::error::{Error, Result};
use crate::lookout;
use crate::run_directory::{Metrics, metrics_written, read_metrics};
use crate::run_lock;
use crate::terminal::{epoch_header, row_of};

/// How often it is looked for something new; notes of ranks are ten seconds old at most.
const PERIOD: Duration = Duration::from_secs(2);

/// How often something is read that can't be, until that is an error.
const ATTEMPTS: usize = 3;

/// What there is to see of a run.
pub struct Seen {
    pub config: Config,
    pub epochs: Vec<Metrics>,
    /// When the last epoch was saved.
    pub saved: Option<SystemTime>,
    /// Of its test set, when it is complete.
    pub test: Option<Vec<(String, f64)>>,
    /// Its process, and whether that shows signs of life.
    pub owner: Option<(String, bool)>,
    /// What each rank does, where there are several.
    pub ranks: Vec<String>,
}

/// Shows the run in `directory` until it is complete: a view that is drawn again when something changes, or, without a
/// terminal, a line for each epoch. Errors: no run's directory; what is there can't be read.
pub fn run(directory: &Path) -> Result<()> {
    let terminal = Term::stdout();
    let mut shown = Shown { lines: Vec::new(), size: terminal.size(), rows: 0 };
    let mut seen = begin(directory)?;
    loop {
        match terminal.is_term() {
            true => shown.draw(&terminal, &seen),
            // a closed pipe ends it as it ends other programs
            false if shown.print(&terminal, &seen).is_err() => return Ok(()),
            false => {}
        }
        if seen.test.is_some() {
            return Ok(());
        }
        std::thread::sleep(PERIOD);
        // a file that a server has just replaced can't be read for a moment
        let looked = (1..ATTEMPTS).find_map(|_| seen.look(directory).map_err(|_| std::thread::sleep(PERIOD)).ok());
        looked.map_or_else(|| seen.look(directory), Ok)?;
    }
}

/// Waits for the run's configuration, while its owner is starting. Errors: see `run`.
fn begin(directory: &Path) -> Result<Seen> {
    if !directory.is_dir() {
        let what = if directory.exists() { "a file" } else { "not there (yet)" };
        return Err(Error::file(directory, format!("{what}; --follow wants the directory of a run, its --out")));
    }
    let file = directory.join("config.toml");
    let start = Instant::now();
    while !file.exists() {
        if start.elapsed() > PERIOD && run_lock::owner(directory).is_none() {
            return Err(Error::file(directory, "not the directory of a run: it has no config.toml"));
        }
        std::thread::sleep(PERIOD / 10);
    }
    let text = std::fs::read_to_string(&file).map_err(|why| Error::file(&file, why))?;
    let config = TypedConfig::from_toml(&text).and_then(TypedConfig::resolve);
    let config = config.map_err(|why| Error::file(&file, why))?;
    let mut seen = Seen { config, epochs: Vec::new(), saved: None, test: None, owner: None, ranks: Vec::new() };
    seen.look(directory)?;
    Ok(seen)
}

impl Seen {
    fn look(&mut self, directory: &Path) -> Result<()> {
        // before the rest: a run that ends in this moment has everything in it
        if directory.join(checkpoint::FINAL).exists() {
            let found = checkpoint::read_history(directory)?;
            self.epochs = found.history.iter().map(Metrics::of).collect();
            self.test = Some(found.test);
            self.ranks.clear();
            return Ok(());
        }
        let saved = metrics_written(directory);
        if saved != self.saved {
            (self.epochs, self.saved) = (read_metrics(directory)?, saved);
        }
        self.owner = run_lock::owner(directory);
        self.ranks = lookout::what_ranks_do(directory);
        Ok(())
    }
}

/// What has been shown so far.
struct Shown {
    lines: Vec<String>,
    /// Height and width of the terminal.
    size: (u16, u16),
    /// Epochs that have been printed.
    rows: usize,
}

impl Shown {
    /// A terminal that is gone ends the process by its signal.
    fn draw(&mut self, terminal: &Term, seen: &Seen) {
        let size @ (height, width) = terminal.size();
        let short = |line: String| truncate_str(&line, usize::from(width).saturating_sub(1), "...").into_owned();
        let mut lines: Vec<String> = view::of(seen, usize::from(width)).into_iter().map(short).collect();
        lines.truncate(usize::from(height).saturating_sub(1));
        if lines == self.lines && size == self.size {
            return;
        }
        // lines that were as long as a wider terminal lie on two lines now
        let cleared = match size == self.size {
            true => terminal.clear_last_lines(self.lines.len()),
            false => terminal.clear_screen(),
        };
        let _ = cleared.and_then(|()| terminal.write_str(&(lines.join("\n") + "\n")));
        (self.lines, self.size) = (lines, size);
    }

    fn print(&mut self, terminal: &Term, seen: &Seen) -> std::io::Result<()> {
        if self.rows == 0 && !seen.epochs.is_empty() {
            terminal.write_line(&epoch_header())?;
        }
        for (i, epoch) in seen.epochs.iter().enumerate().skip(self.rows) {
            terminal.write_line(&row_of(i + 1, |column| epoch.figure(column.name)))?;
        }
        self.rows = self.rows.max(seen.epochs.len());
        seen.test.iter().flatten().try_for_each(|(name, value)| terminal.write_line(&view::test(name, *value)))
    }
}
