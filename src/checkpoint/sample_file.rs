//! What is kept of a sample while its round lasts: the file of one sample, for the next process of the same run.

use std::path::Path;

use super::read::check_bytes;
use super::write::seal;
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, column, write_column};
use crate::state::{SampleKey, SampleProgress, Within};

const FILETYPE: &str = "amlfs sample";
const VERSION: [i32; 2] = [1, 0];

/// What `write_sample` wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedSample {
    pub key: SampleKey,
    pub progress: SampleProgress,
    /// The state vector; `None` for a finished sample that is not its rank's best.
    pub state: Option<Vec<f32>>,
}

/// Writes a sample's file, not synced to the disk: after a power failure its checksum tells, and the sample is trained
/// again. Errors: I/O (names the file); then the file is what it was before.
pub fn write_sample(path: &Path, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> Result<()> {
    atomic_file::write_unsynced(path, |temporary| {
        write_hdf5(temporary, key, progress, state)?;
        seal(temporary)
    })
    .map_err(|Cause(text)| Error::file(path, format!("can't be written: {text}")))
}

fn write_hdf5(path: &Path, key: &SampleKey, progress: &SampleProgress, state: Option<&[f32]>) -> Outcome<()> {
    let file = hdf5_file::create(path)?;
    hdf5_file::write_kind(&file, FILETYPE, VERSION)?;
    let SampleProgress { train_loss, train_seconds, within, within_seconds, finished, reward, validation_seconds } =
        progress;
    let counts = [
        key.sample as u64,
        key.epochs.start as u64,
        key.epochs.end as u64,
        key.stream,
        key.start_crc32.into(),
        within.steps,
        within.examples,
        (*finished).into(),
    ];
    let figures = [within.loss, *within_seconds, *reward, *validation_seconds];
    write_column(
        &file,
        "counts",
        &counts,
        "1",
        "sample, epochs, stream, CRC-32 of the start, steps, examples, finished",
    )?;
    write_column(&file, "figures", &figures, "1", "sum of the loss, seconds, reward, seconds of its measurement")?;
    write_column(&file, "theta", &key.theta, "1", "the sample's loss")?;
    write_column(&file, "train_loss", train_loss, "1", "mean training loss of the round's epochs")?;
    write_column(&file, "train_seconds", train_seconds, "s", "what they took")?;
    if let Some(state) = state {
        write_column(&file, "state", state, "1", "state vector")?;
    }
    file.flush()?;
    file.close()?;
    Ok(())
}

/// Errors: not there, damaged, of another kind (names the file).
pub fn read_sample(path: &Path) -> Result<SavedSample> {
    read_file(path).map_err(|Cause(text)| Error::file(path, text))
}

fn read_file(path: &Path) -> Outcome<SavedSample> {
    check_bytes(path)?;
    let file = hdf5_file::open(path)?;
    hdf5_file::check_kind(&file, FILETYPE, VERSION, "a sample of a round")?;
    let counts = column::<u64>(&file, "counts")?;
    let figures = column::<f64>(&file, "figures")?;
    let ([sample, first, end, stream, start, steps, examples, finished], [loss, within_seconds, reward, validation]) =
        (&counts[..], &figures[..])
    else {
        return Err("damaged: it has other figures than a sample".into());
    };
    Ok(SavedSample {
        key: SampleKey {
            sample: *sample as usize,
            epochs: *first as usize..*end as usize,
            stream: *stream,
            theta: column(&file, "theta")?,
            start_crc32: *start as u32,
        },
        progress: SampleProgress {
            train_loss: column(&file, "train_loss")?,
            train_seconds: column(&file, "train_seconds")?,
            within: Within { steps: *steps, examples: *examples, loss: *loss },
            within_seconds: *within_seconds,
            finished: *finished == 1,
            reward: *reward,
            validation_seconds: *validation,
        },
        state: match file.link_exists("state") {
            true => Some(column(&file, "state")?),
            false => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SampleKey {
        SampleKey { sample: 3, epochs: 4..6, stream: 1 << 40, theta: vec![0.1, -2.0], start_crc32: u32::MAX }
    }

    #[test]
    fn a_sample_comes_back_bit_for_bit_and_a_damaged_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("3.h5");
        let progress = SampleProgress {
            train_loss: vec![0.1 + 0.2],
            train_seconds: vec![1.5],
            within: Within { steps: 7, examples: 7 * 64, loss: 1e-300 },
            within_seconds: 0.25,
            ..SampleProgress::default()
        };
        let state: Vec<f32> = (0..1000).map(|i| (i as f32).sin()).chain([-0.0, f32::MIN_POSITIVE / 2.0]).collect();
        write_sample(&path, &key(), &progress, Some(&state)).unwrap();
        let found = read_sample(&path).unwrap();
        assert!(found.progress.reward.is_nan());
        let (a, b) = (found.state.as_ref().unwrap(), &state);
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
        let same = |mut progress: SampleProgress| {
            progress.reward = 0.0; // NaN is not equal to itself
            progress
        };
        assert_eq!((found.key, same(found.progress)), (key(), same(progress)));

        // one of a fixed loss, finished, without its state
        let finished = SampleProgress { finished: true, reward: 0.5, ..SampleProgress::default() };
        let fixed = SampleKey { theta: Vec::new(), ..key() };
        write_sample(&path, &fixed, &finished, None).unwrap();
        assert_eq!(read_sample(&path).unwrap(), SavedSample { key: fixed, progress: finished, state: None });

        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let why = read_sample(&path).unwrap_err().to_string();
        assert!(why.starts_with(&path.display().to_string()) && why.contains("does not match its checksum"), "{why}");
    }
}
