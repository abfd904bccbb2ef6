//! Stopping early without losing anything: signals, a time budget, the end of a Slurm job and a STOP file all raise one
//! flag. Nothing is saved in a signal handler; the search looks at the flag between steps.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use signal_hook::consts::{SIGTERM, SIGUSR1, SIGUSR2};

use crate::error::{Error, Result};
use crate::lookout::Asker;

/// What a STOP file is called when it has done its work.
pub const STOPPED: &str = "STOPPED";

const SIGNALS: [i32; 3] = [SIGUSR1, SIGUSR2, SIGTERM];
/// How often the file system is asked for the STOP file.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long before its time is over a run stops: enough to finish a step, meet the other ranks and save. A tenth of the
/// time that there is at the start, if that is shorter.
const BEFORE_THE_END: Duration = Duration::from_secs(120);

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

/// How long until this Slurm job (`end`: `SLURM_JOB_END_TIME`, in seconds of Unix time) reaches its time limit. `None`: no
/// number, or the variable is a past job's.
fn left_of_job(end: &str) -> Option<Duration> {
    let end = UNIX_EPOCH.checked_add(Duration::from_secs(end.trim().parse().ok()?))?;
    end.duration_since(SystemTime::now()).ok()
}

/// The part of the time that is left in which to work.
fn usable(left: Duration) -> Duration {
    left - BEFORE_THE_END.min(left / 10)
}

pub struct Stop {
    found_file: bool,
    file: PathBuf,
    looked: Instant,
    deadline: Option<Instant>,
}

impl Stop {
    /// Asks after signals that came since `listen`, `directory`/STOP, and the time shortly before `max_hours` from now or
    /// the Slurm job's end.
    pub fn new(directory: &Path, max_hours: Option<f64>) -> Stop {
        let now = Instant::now();
        let budget = max_hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
        let job = std::env::var("SLURM_JOB_END_TIME").ok().and_then(|end| left_of_job(&end));
        let left = [budget, job].into_iter().flatten().min();
        Stop {
            found_file: false,
            file: directory.join("STOP"),
            looked: now,
            deadline: left.and_then(|left| now.checked_add(usable(left))),
        }
    }

    /// Whether to stop now.
    pub fn requested(&mut self) -> bool {
        if self.looked.elapsed() > LOOK_EVERY {
            self.looked = Instant::now();
            self.found_file |= self.file.exists();
        }
        let too_late = self.deadline.is_some_and(|end| Instant::now() >= end);
        self.found_file || SIGNALLED.load(Ordering::SeqCst) || too_late
    }

    /// A STOP file has done its work when all ranks have stopped. It stays under another name, so that a batch script
    /// knows that its user stopped the run.
    pub fn rename_file(&self) {
        let _ = std::fs::rename(&self.file, self.file.with_file_name(STOPPED));
    }
}

impl Asker for Stop {
    fn asks_to_stop(&mut self) -> bool {
        self.requested()
    }

    fn answered(&mut self) {
        self.rename_file();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_file_the_end_of_the_time_or_a_signal_that_was_held_back_ask_for_a_stop() {
        let directory = tempfile::tempdir().unwrap();
        let mut stop = Stop::new(directory.path(), Some(1.0));
        assert!(!stop.requested());
        stop.looked -= LOOK_EVERY * 2;
        std::fs::write(directory.path().join("STOP"), "").unwrap();
        assert!(stop.requested());

        let elsewhere = tempfile::tempdir().unwrap();
        let mut ending = Stop::new(elsewhere.path(), Some(1.0));
        assert!(!ending.requested());
        ending.deadline = Some(Instant::now());
        assert!(ending.requested());

        let mut signalled = Stop::new(elsewhere.path(), None);
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

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let left = left_of_job(&format!("{}\n", now + 600)).unwrap();
        assert!(left <= minutes(10) && left > minutes(9), "{left:?}");
        for none in ["", "NONE", &(now - 1).to_string(), &u64::MAX.to_string()] {
            assert_eq!(left_of_job(none), None, "{none}");
        }
    }
}
