//! What a rank notes of itself in a file of its own, and what others read there.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The notes' directory.
pub const NAME: &str = ".ranks";

/// What of this process' work is no training step: batches that were evaluated.
static EVALUATED: AtomicU64 = AtomicU64::new(0);

/// A sign of life beside training steps.
pub fn evaluated_batch() {
    EVALUATED.fetch_add(1, Ordering::Relaxed);
}

/// What a rank does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) host: String,
    pub(super) process: u32,
    /// Of the round; `None`: it has not trained yet.
    pub(super) sample: Option<usize>,
    /// That it has finished of the sample.
    pub(super) step: u64,
    /// For the others.
    pub(super) waits: bool,
    /// Grows while it waits or evaluates.
    pub(super) beat: u64,
}

/// This rank's own note; clones are the same note.
#[derive(Clone, Default)]
pub struct OwnNote(Arc<Mutex<Note>>);

impl OwnNote {
    /// Another sample's training begins, after so many steps that an earlier process did.
    pub fn sample(&self, sample: usize, step: u64) {
        self.edit(|note| (note.sample, note.step) = (Some(sample), step));
    }

    /// A step is done.
    pub fn step(&self) {
        self.edit(|note| note.step += 1);
    }

    pub(super) fn edit(&self, edit: impl FnOnce(&mut Note)) {
        edit(&mut self.0.lock().expect("no panic while it is edited"));
    }

    pub(super) fn get(&self) -> Note {
        self.0.lock().expect("no panic while it is edited").clone()
    }
}

/// What each rank of a run noted last, in their order, for people; none where only one rank runs.
pub fn what_ranks_do(run_directory: &Path) -> Vec<String> {
    let files = fs::read_dir(run_directory.join(NAME)).into_iter().flatten().flatten();
    let note = |entry: fs::DirEntry| {
        let rank: usize = entry.file_name().to_str()?.parse().ok()?;
        let note: Note = serde_json::from_str(&fs::read_to_string(entry.path()).ok()?).ok()?;
        Some((rank, note))
    };
    let mut notes: Vec<(usize, Note)> = files.filter_map(note).collect();
    notes.sort_by_key(|(rank, _)| *rank);
    let text = |(rank, note): (usize, Note)| {
        let does = match (note.waits, note.sample) {
            (true, _) => "waits for the others".into(),
            (false, None) => "has not trained yet".into(),
            (false, Some(sample)) => format!("trains sample {sample}, step {}", note.step),
        };
        format!("rank {rank} on {} {does}", note.host)
    };
    notes.into_iter().map(text).collect()
}

/// The file of this rank's note, written by a thread of its own: a slow file system must not hold up the training.
pub(super) struct KeptNote {
    pub(super) directory: PathBuf,
    file: PathBuf,
    end: Option<Sender<()>>,
    writing: Option<JoinHandle<()>>,
}

impl KeptNote {
    pub(super) fn new(directory: &Path, rank: usize, note: OwnNote, period: Duration) -> KeptNote {
        let file = directory.join(rank.to_string());
        let (end, ended) = channel();
        let path = file.clone();
        let writing = std::thread::spawn(move || {
            let mut written = None;
            loop {
                let mut now = note.get();
                now.beat += EVALUATED.load(Ordering::Relaxed);
                if written.as_ref() != Some(&now) && write(&path, &now).is_ok() {
                    written = Some(now);
                }
                if ended.recv_timeout(period) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        KeptNote { directory: directory.into(), file, end: Some(end), writing: Some(writing) }
    }
}

/// Errors are none of the run's: then the others know nothing of this rank.
fn write(file: &Path, note: &Note) -> std::io::Result<()> {
    let text = serde_json::to_string(note)?;
    match fs::write(file, &text) {
        Err(why) if why.kind() == ErrorKind::NotFound => {
            let _ = fs::create_dir(file.parent().expect("it has a directory")); // perhaps another rank was faster
            fs::write(file, &text)
        }
        done => done,
    }
}

impl Drop for KeptNote {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(writing) = self.writing.take() {
            let _ = writing.join();
        }
        let _ = fs::remove_file(&self.file);
        // by the last rank to leave; the others' attempts fail
        let _ = fs::remove_dir(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_do_is_seen_from_outside() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(what_ranks_do(directory.path()), [""; 0]);
        let note = |sample, waits| Note { host: "n1".into(), sample, step: 7, waits, ..Note::default() };
        for (rank, note) in [(10, note(Some(3), false)), (2, note(Some(1), true)), (0, note(None, false))] {
            write(&directory.path().join(NAME).join(rank.to_string()), &note).unwrap();
        }
        fs::write(directory.path().join(NAME).join("3"), "{\"half").unwrap();
        let seen = [
            "rank 0 on n1 has not trained yet",
            "rank 2 on n1 waits for the others",
            "rank 10 on n1 trains sample 3, step 7",
        ];
        assert_eq!(what_ranks_do(directory.path()), seen);
    }
}
