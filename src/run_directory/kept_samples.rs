//! What is kept of the samples of a round until its checkpoint is written: OUT/.samples/EPOCH/N.h5 of a round that began after
//! so many epochs, written by the rank that trains sample N and read by the one that goes on with it. The round that is
//! under way has a directory of its own, since the checkpoint of the one before may still be in the making.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, process};

use crate::checkpoint::{read_sample, write_sample};
use crate::error::{Error, Result};
use crate::state::{SampleKey, SampleProgress};

/// Finished samples are kept when this many times the time that keeping takes has passed: it costs 1 % at most.
const PAYS_AFTER: u32 = 100;
const NAME: &str = ".samples";
/// Default of run.save_minutes.
const MINUTES: f64 = 10.0;
/// Slurm's KillWait, what a job has by default from TERM to KILL.
pub const GRACE: Duration = Duration::from_secs(30);

pub struct KeptSamples {
    directory: PathBuf,
    /// How long within a sample until it is kept.
    every: Duration,
    /// When something was kept last, and how long the longest took.
    last: Instant,
    longest: Duration,
}

impl KeptSamples {
    pub fn new(run: &Path, minutes: Option<f64>) -> KeptSamples {
        let every = Duration::from_secs_f64(minutes.unwrap_or(MINUTES) * 60.0);
        KeptSamples { directory: run.join(NAME), every, last: Instant::now(), longest: Duration::ZERO }
    }

    /// Whether the sample in training is to be kept now.
    pub fn due(&self) -> bool {
        self.last.elapsed() >= self.every
    }

    /// Whether a sample that is finished is worth keeping now.
    pub fn pays(&self) -> bool {
        self.last.elapsed() >= self.longest * PAYS_AFTER
    }

    /// What there is of a sample; what can't be read is told, and trained again.
    pub fn read(&self, key: &SampleKey) -> Option<(SampleProgress, Option<Vec<f32>>)> {
        let file = self.file(key);
        if !file.exists() {
            return None;
        }
        match read_sample(&file) {
            Ok(found) if found.key == *key => {
                let SampleProgress { train_loss, within, finished, .. } = &found.progress;
                match finished {
                    true => log::info!("sample {} of this round is finished already", key.sample),
                    false => log::info!(
                        "sample {} goes on in epoch {} after step {}",
                        key.sample,
                        key.epochs.start + train_loss.len() + 1,
                        within.steps
                    ),
                }
                Some((found.progress, found.state))
            }
            Ok(_) => None, // of another round
            Err(why) => {
                log::warn!("{why}; the sample is trained again");
                None
            }
        }
    }

    /// Returns whether the sample is kept; why not is told.
    pub fn write(&mut self, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> bool {
        let start = Instant::now();
        let file = self.file(key);
        let round = file.parent().expect("a round's directory");
        let written = fs::create_dir_all(round)
            .map_err(|why| Error::file(round, format!("can't be made: {why}")))
            .and_then(|()| write_sample(&file, key, progress, state));
        self.last = Instant::now();
        let took = start.elapsed();
        log::debug!("{}: {} numbers in {:.3} s", file.display(), state.map_or(0, <[f32]>::len), took.as_secs_f64());
        if took > self.longest {
            if took > GRACE && self.longest <= GRACE {
                log::warn!("{}: keeping a sample took {}", file.display(), longer_than_grace(took));
            }
            self.longest = took;
        }
        written.map_err(|why| log::warn!("{why}; of sample {} nothing new is kept", key.sample)).is_ok()
    }

    fn file(&self, key: &SampleKey) -> PathBuf {
        self.directory.join(format!("{:04}/{}.h5", key.epochs.start, key.sample))
    }
}

/// Removes what a run kept of rounds that are saved: all up to `epoch`. What stays behind does no harm.
pub fn remove_saved(run: &Path, epoch: usize) {
    for round in fs::read_dir(run.join(NAME)).into_iter().flatten().flatten() {
        if round.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|start: usize| start < epoch) {
            let _ = fs::remove_dir_all(round.path());
        }
    }
}

/// When the whole run is saved.
pub fn remove_all(run: &Path) {
    let _ = fs::remove_dir_all(run.join(NAME));
}

/// What to do about it, if saving takes more than `GRACE`.
pub fn longer_than_grace(took: Duration) -> String {
    format!(
        "{:.0} s, longer than the {} s that Slurm leaves by default between TERM and KILL: have the job warned earlier (sbatch \
         --signal, docs/clusters.md)",
        took.as_secs_f64(),
        GRACE.as_secs()
    )
}

/// For a plan: how long a rank takes to keep a state of `numbers` numbers in a run directory at `run`, which need not be
/// there; the file is removed again. Errors: nothing can be written there.
pub fn time_to_keep(run: &Path, rank: usize, numbers: usize) -> Result<Duration> {
    let place = run.ancestors().find(|place| place.is_dir()).unwrap_or(Path::new("."));
    let file = place.join(format!(".amlfs-plan-{}-{rank}.h5", process::id()));
    let key = SampleKey { sample: rank, epochs: 0..0, stream: 0, theta: Vec::new(), start_crc32: 0 };
    let start = Instant::now();
    let written = write_sample(&file, &key, &SampleProgress::default(), Some(&vec![0.0; numbers]));
    let took = start.elapsed();
    let _ = fs::remove_file(&file); // not there if it could not be written
    written.map(|()| took)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(sample: usize) -> SampleKey {
        SampleKey { sample, epochs: 2..3, stream: 0, theta: vec![1.0], start_crc32: 7 }
    }

    #[test]
    fn a_sample_is_found_by_its_own_round_alone_and_not_after_the_round() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = KeptSamples::new(directory.path(), None);
        let progress = SampleProgress { finished: true, reward: 0.5, ..SampleProgress::default() };
        assert!(kept.pays() && !kept.due());
        assert!(kept.write(&key(0), &progress, Some(&[1.0, 2.0])) && kept.write(&key(1), &progress, None));
        assert!(!kept.pays(), "nothing has been done since");
        assert_eq!(kept.read(&key(0)), Some((progress.clone(), Some(vec![1.0, 2.0]))));
        assert_eq!(kept.read(&key(1)), Some((progress.clone(), None)));
        for other in [
            SampleKey { epochs: 3..4, ..key(0) },
            SampleKey { stream: 1, ..key(0) },
            SampleKey { theta: vec![1.5], ..key(0) },
            SampleKey { start_crc32: 8, ..key(0) },
            key(2),
        ] {
            assert_eq!(kept.read(&other), None);
        }
        remove_saved(directory.path(), 2);
        assert!(kept.read(&key(0)).is_some(), "the checkpoint after two epochs has nothing of the third");
        remove_saved(directory.path(), 3);
        assert_eq!(kept.read(&key(0)), None);

        // a damaged file, and a directory that can't be made
        assert!(kept.write(&key(0), &progress, None));
        fs::write(directory.path().join(".samples/0002/0.h5"), "half").unwrap();
        assert_eq!(kept.read(&key(0)), None);
        remove_all(directory.path());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        remove_saved(directory.path(), 3);
        fs::write(directory.path().join(".samples"), "").unwrap();
        assert!(!kept.write(&key(0), &progress, None));
    }

    #[test]
    fn what_the_next_round_keeps_neither_replaces_nor_goes_with_what_is_kept_of_the_round_that_is_being_saved() {
        let directory = tempfile::tempdir().unwrap();
        let mut kept = KeptSamples::new(directory.path(), None);
        let progress = SampleProgress { finished: true, reward: 0.5, ..SampleProgress::default() };
        let (saved, next) = (key(0), SampleKey { epochs: 3..4, ..key(0) });
        assert!(kept.write(&saved, &progress, Some(&[1.0])) && kept.write(&next, &progress, Some(&[2.0])));
        assert_eq!(kept.read(&saved), Some((progress.clone(), Some(vec![1.0]))), "needed if the checkpoint is lost");
        remove_saved(directory.path(), 3);
        assert_eq!(kept.read(&saved), None);
        assert_eq!(kept.read(&next), Some((progress, Some(vec![2.0]))));
    }
}
