//! Stopping early without losing anything: signals, a time budget and a STOP file all raise one flag. Nothing is saved
//! in a signal handler; the search looks at the flag between steps.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGTERM, SIGUSR1, SIGUSR2};

use crate::error::{Error, Result};

/// How often the file system is asked for the STOP file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub struct Stop {
    raised: Arc<AtomicBool>,
    file: PathBuf,
    looked: Instant,
    started: Instant,
    budget: Option<Duration>,
}

impl Stop {
    /// Listens for USR1, USR2 and TERM, `directory`/STOP, and the end of `max_hours` from now.
    pub fn new(directory: &Path, max_hours: Option<f64>) -> Result<Stop> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGUSR1, SIGUSR2, SIGTERM] {
            signal_hook::flag::register(signal, raised.clone())
                .map_err(|why| Error::failed(format!("signal {signal} can't be handled: {why}")))?;
        }
        let now = Instant::now();
        Ok(Stop {
            raised,
            file: directory.join("STOP"),
            looked: now,
            started: now,
            budget: max_hours.map(|hours| Duration::from_secs_f64(hours * 3600.0)),
        })
    }

    /// Whether to stop now.
    pub fn requested(&mut self) -> bool {
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            if self.file.exists() {
                self.raised.store(true, Ordering::SeqCst);
            }
        }
        self.raised.load(Ordering::SeqCst) || self.would_exceed(Duration::ZERO)
    }

    /// Whether work of this length would end after the time budget.
    pub fn would_exceed(&self, work: Duration) -> bool {
        self.budget.is_some_and(|budget| self.started.elapsed() + work > budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_file_a_signal_or_the_budget_raise_the_flag() {
        let directory = tempfile::tempdir().unwrap();
        let mut stop = Stop::new(directory.path(), Some(1.0)).unwrap();
        assert!(!stop.requested() && stop.would_exceed(Duration::from_secs(3601)));
        stop.looked -= LOOK_EVERY * 2;
        std::fs::write(directory.path().join("STOP"), "").unwrap();
        assert!(stop.requested());

        let elsewhere = tempfile::tempdir().unwrap();
        let mut late = Stop::new(elsewhere.path(), Some(1.0)).unwrap();
        late.started -= Duration::from_secs(3601);
        assert!(late.requested());
        let mut signalled = Stop::new(elsewhere.path(), None).unwrap();
        assert!(!signalled.requested());
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert!(signalled.requested());
    }
}
