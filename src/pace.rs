//! How long a run still takes, by the pace of its last epochs.

use std::time::Duration;

use crate::state::EpochRecord;

/// The pace is that of so many epochs.
const RECENT: usize = 5;

pub struct Pace {
    work: Vec<usize>,
    first: usize,
}

impl Pace {
    /// `work`: of each epoch of the run, how many samples the busiest rank trains in it. The first epochs, of earlier jobs,
    /// do not count: they may have had other machines.
    pub fn new(work: Vec<usize>, first: usize) -> Pace {
        Pace { work, first }
    }

    /// What is left after the epochs of `history`; `None`: none of them tells the pace.
    pub fn left(&self, history: &[EpochRecord]) -> Option<Duration> {
        let recent = self.first.max(history.len().saturating_sub(RECENT))..history.len();
        let done: usize = self.work[recent.clone()].iter().sum();
        let seconds: f64 = history[recent].iter().map(|record| record.seconds + record.checkpoint_seconds).sum();
        let left: usize = self.work[history.len()..].iter().sum();
        (done > 0).then(|| Duration::from_secs_f64(seconds / done as f64 * left as f64))
    }
}

/// `3 h 05 min`; a minute that has begun counts.
pub fn hours_and_minutes(time: Duration) -> String {
    let minutes = time.as_secs_f64().div_euclid(60.0) as u64 + u64::from(time.as_secs_f64().rem_euclid(60.0) > 0.0);
    format!("{} h {:02} min", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(seconds: &[f64]) -> Vec<EpochRecord> {
        seconds.iter().map(|&seconds| EpochRecord { seconds, ..EpochRecord::default() }).collect()
    }

    #[test]
    fn what_is_left_follows_from_the_samples_of_the_busiest_rank() {
        // one warm-up epoch with one sample, then four per rank
        let pace = Pace::new(vec![1, 4, 4, 4], 0);
        assert_eq!(pace.left(&[]), None);
        assert_eq!(pace.left(&epochs(&[10.0])), Some(Duration::from_secs(120)));
        let mut done = epochs(&[10.0, 44.0]);
        done[1].checkpoint_seconds = 6.0;
        assert_eq!(pace.left(&done), Some(Duration::from_secs(96)));
        assert_eq!(pace.left(&epochs(&[1.0; 4])), Some(Duration::ZERO));
    }

    #[test]
    fn only_recent_epochs_of_this_job_tell_the_pace() {
        let resumed = Pace::new(vec![1; 10], 2);
        assert_eq!(resumed.left(&epochs(&[900.0, 900.0])), None);
        assert_eq!(resumed.left(&epochs(&[900.0, 900.0, 3.0])), Some(Duration::from_secs(21)));
        let seconds = [900.0, 900.0, 900.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(resumed.left(&epochs(&seconds)), Some(Duration::from_secs(2)));
    }

    #[test]
    fn times_are_hours_and_minutes() {
        for (seconds, text) in
            [(0.0, "0 h 00 min"), (1.0, "0 h 01 min"), (3600.0, "1 h 00 min"), (360_061.0, "100 h 02 min")]
        {
            assert_eq!(hours_and_minutes(Duration::from_secs_f64(seconds)), text);
        }
    }
}
