//! Stopping early without losing anything: signals, a time budget, the end of a Slurm job and a STOP file all raise one
//! flag. Nothing is saved in a signal handler; the search looks at the flag between steps.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGTERM, SIGUSR1, SIGUSR2};

use crate::error::{Error, Result};

const SIGNALS: [i32; 3] = [SIGUSR1, SIGUSR2, SIGTERM];
/// How often the file system is asked for the STOP file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long before its job's end a run stops: enough to finish a step, meet the other ranks and save. A tenth of the time
/// that is left at the start, if that is shorter.
const BEFORE_JOB_END: Duration = Duration::from_secs(120);

/// Raised by a signal.
static SIGNALLED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Holds the signals that ask for a stop back, also while the program starts itself anew, until `listen` takes them as
/// such or `release` lets them end the program.
pub fn hold() {
    mask(libc::SIG_BLOCK);
}

/// From here on the signals ask for a stop; one that was held back does so now.
pub fn listen() -> Result<()> {
    for signal in SIGNALS {
        signal_hook::flag::register(signal, SIGNALLED.clone())
            .map_err(|why| Error::failed(format!("signal {signal} can't be handled: {why}")))?;
    }
    release();
    Ok(())
}

pub fn release() {
    mask(libc::SIG_UNBLOCK);
}

fn mask(how: libc::c_int) {
    // SAFETY: sigemptyset makes the set that the other calls read; they fail only for what is no signal and no action
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(how, &set, std::ptr::null_mut());
    }
}

/// When to stop so that this Slurm job (`SLURM_JOB_END_TIME`, in seconds of Unix time) does not reach its time limit.
/// `None`: no job, no limit, or the variable is a past job's.
pub fn before_job_end() -> Option<Instant> {
    let end: u64 = std::env::var("SLURM_JOB_END_TIME").ok()?.trim().parse().ok()?;
    let left = UNIX_EPOCH.checked_add(Duration::from_secs(end))?.duration_since(SystemTime::now()).ok()?;
    Instant::now().checked_add(usable(left))
}

/// The part of a job's time in which to work.
fn usable(left: Duration) -> Duration {
    left - BEFORE_JOB_END.min(left / 10)
}

pub struct Stop {
    found_file: bool,
    file: PathBuf,
    looked: Instant,
    started: Instant,
    budget: Option<Duration>,
    deadline: Option<Instant>,
}

impl Stop {
    /// Asks after signals that came since `listen`, `directory`/STOP, the end of `max_hours` from now, and `deadline`.
    pub fn new(directory: &Path, max_hours: Option<f64>, deadline: Option<Instant>) -> Stop {
        let now = Instant::now();
        Stop {
            found_file: false,
            file: directory.join("STOP"),
            looked: now,
            started: now,
            budget: max_hours.map(|hours| Duration::from_secs_f64(hours * 3600.0)),
            deadline,
        }
    }

    /// Whether to stop now.
    pub fn requested(&mut self) -> bool {
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            self.found_file |= self.file.exists();
        }
        let too_late = self.would_exceed(Duration::ZERO) || self.deadline.is_some_and(|end| Instant::now() >= end);
        self.found_file || SIGNALLED.load(Ordering::SeqCst) || too_late
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
    fn a_stop_file_the_budget_the_deadline_or_a_signal_that_was_held_back_ask_for_a_stop() {
        let directory = tempfile::tempdir().unwrap();
        let mut stop = Stop::new(directory.path(), Some(1.0), None);
        assert!(!stop.requested() && stop.would_exceed(Duration::from_secs(3601)));
        stop.looked -= LOOK_EVERY * 2;
        std::fs::write(directory.path().join("STOP"), "").unwrap();
        assert!(stop.requested());

        let elsewhere = tempfile::tempdir().unwrap();
        let mut late = Stop::new(elsewhere.path(), Some(1.0), None);
        late.started -= Duration::from_secs(3601);
        assert!(late.requested());

        let in_an_hour = Instant::now().checked_add(Duration::from_secs(3600));
        let mut ending = Stop::new(elsewhere.path(), None, in_an_hour);
        assert!(!ending.requested());
        ending.deadline = Some(Instant::now());
        assert!(ending.requested());

        let mut signalled = Stop::new(elsewhere.path(), None, in_an_hour);
        hold();
        signal_hook::low_level::raise(SIGUSR1).unwrap();
        assert!(!signalled.requested());
        listen().unwrap();
        assert!(signalled.requested());
    }

    #[test]
    fn two_minutes_or_a_tenth_of_the_jobs_time_are_kept_for_saving() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(usable(minutes(60)), minutes(58));
        assert_eq!(usable(minutes(10)), minutes(9));
        assert_eq!(usable(Duration::ZERO), Duration::ZERO);
    }
}
