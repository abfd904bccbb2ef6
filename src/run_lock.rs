//! One owner per run directory, and per file that takes long to make: a file that says who it is and that beats as long as it
//! lives. Works on file systems that nodes share (NFS, Lustre): it needs exclusive creation and renaming, no lock of the kernel's.
//!
//! Another process that finds the file looks whether its owner lives: on the same machine by its process number, else by
//! waiting for a beat. An owner that is gone is replaced. One that was replaced while it could not beat sees it at its next
//! beat, and must not write any more.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::error::{Error, Result};

pub const NAME: &str = ".owner";
const BEAT: Duration = Duration::from_secs(5);
/// Without a beat for so long, an owner on another machine is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// A taker looks again after so long, whether another has taken the directory at the same time.
const SETTLE: Duration = Duration::from_millis(500);
/// Bytes of the counter that the file begins with.
const COUNTER: usize = 20;

/// Who works in a directory.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
struct Owner {
    host: String,
    /// Of the machine's start and of the namespace of process numbers: equal only where process numbers say the same.
    machine: String,
    process: u32,
    /// When the process started, in the machine's ticks: numbers are used again.
    started: u64,
    /// When it asked for the directory, in nanoseconds of Unix time: no two ask at once.
    asked: u64,
    job: Option<String>,
}

/// Held as long as this process owns a directory or makes a file.
pub struct RunLock {
    /// What is owned.
    path: PathBuf,
    file: PathBuf,
    owner: Owner,
    lost: Arc<AtomicBool>,
    end: Option<Sender<()>>,
    beating: Option<JoinHandle<()>>,
}

impl RunLock {
    /// Takes `directory`, waiting up to half a minute for an owner of another machine to show that it lives. Errors: it
    /// does (names it); the file can't be written.
    pub fn take(directory: &Path) -> Result<RunLock> {
        RunLock::take_with(directory, directory.join(NAME), Owner::this(), PATIENCE)
    }

    /// Takes `out`, a file or a directory that is to be made, by `<out>.owner`. Waits and fails as `take` does.
    pub fn take_output(out: &Path) -> Result<RunLock> {
        RunLock::take_with(out, atomic_file::with_suffix(out, NAME), Owner::this(), PATIENCE)
    }

    fn take_with(path: &Path, file: PathBuf, owner: Owner, patience: Duration) -> Result<RunLock> {
        let failed = |why: std::io::Error| match why.kind() {
            // say what is wrong with what was asked for, not with what is beside it
            ErrorKind::NotFound => atomic_file::cannot_write(path, why),
            _ => atomic_file::cannot_write(&file, why),
        };
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&file) {
                Ok(handle) => {
                    // on a full disk; what stays would have the next one wait
                    fill(&handle, &owner).map_err(failed).inspect_err(|_| drop(fs::remove_file(&file)))?;
                    match is_of(&file, &owner)? {
                        true => return Ok(RunLock::beat(path, file, owner, handle)),
                        // whoever stands still before it has said who it is is replaced
                        false => continue,
                    }
                }
                Err(why) if why.kind() == ErrorKind::AlreadyExists => {}
                Err(why) => return Err(failed(why)),
            }
            let Some(text) = read(&file)? else { continue };
            let theirs = Owner::of(&text);
            match &theirs {
                Some(theirs) if lives(theirs, &owner, &file, &text, patience)? => {
                    let works = if path.is_dir() { "works in this directory" } else { "makes this" };
                    let advice = "wait until it ends, or name another --out";
                    return Err(Error::failed(format!("{}: {theirs} {works}; {advice}", path.display())));
                }
                // half a file is being written now, or will never be whole
                None if changes(&file, &text, patience / 6)? => continue,
                _ => {}
            }
            // of several that see this, the last one to rename has it; the others find that out
            let own = atomic_file::with_suffix(&file, &format!(".{}-{}", owner.process, owner.asked));
            let handle = File::create(&own).map_err(failed)?;
            fill(&handle, &owner).map_err(failed)?;
            if read(&file)?.is_some_and(|now| now != text) {
                let _ = fs::remove_file(&own);
                continue;
            }
            fs::rename(&own, &file).map_err(failed)?;
            std::thread::sleep(SETTLE);
            if is_of(&file, &owner)? {
                let gone = theirs.map_or("its last owner".to_owned(), |theirs| format!("its last owner, {theirs},"));
                log::info!("{}: {gone} is gone", path.display());
                return Ok(RunLock::beat(path, file, owner, handle));
            }
        }
    }

    fn beat(owned: &Path, file: PathBuf, owner: Owner, handle: File) -> RunLock {
        let (end, ended) = channel();
        let lost = Arc::new(AtomicBool::new(false));
        let (path, mine, lost_here) = (file.clone(), owner.clone(), lost.clone());
        let beating = std::thread::spawn(move || {
            let mut count = 0u64;
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                count += 1;
                // a full disk or a server that is away: the next beat may succeed
                let _ = handle.write_all_at(counter(count).as_bytes(), 0).and_then(|()| handle.sync_data());
                if is_of(&path, &mine).is_ok_and(|still_mine| !still_mine) {
                    lost_here.store(true, Ordering::SeqCst);
                    return;
                }
            }
        });
        RunLock { path: owned.to_owned(), file, owner, lost, end: Some(end), beating: Some(beating) }
    }

    /// Asked before anything is written. Error: another process has taken over.
    pub fn check(&self) -> Result<()> {
        if !self.lost.load(Ordering::SeqCst) {
            return Ok(());
        }
        let new = owner_of(&self.file).ok().flatten().map_or("another process".to_owned(), |owner| owner.to_string());
        Err(Error::failed(format!("{}: {new} has taken it over", self.path.display())))
    }
}

/// Who works in a run's directory, for people, and whether it shows signs of life; `None`: nobody. Only looks.
pub fn owner(directory: &Path) -> Option<(String, bool)> {
    let file = directory.join(NAME);
    let owner = owner_of(&file).ok()??;
    let beat = fs::metadata(&file).and_then(|about| about.modified()).ok()?;
    let lives = match owner.machine == Owner::this().machine {
        true => start_of(owner.process) == Some(owner.started),
        false => beat.elapsed().unwrap_or_default() < PATIENCE,
    };
    Some((owner.to_string(), lives))
}

impl Drop for RunLock {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(beating) = self.beating.take() {
            let _ = beating.join();
        }
        if is_of(&self.file, &self.owner).unwrap_or(false) {
            let _ = fs::remove_file(&self.file);
        }
    }
}

impl Owner {
    /// `None`: the text of no owner's file, or half of one.
    fn of(text: &str) -> Option<Owner> {
        serde_json::from_str(text.get(COUNTER..)?).ok()
    }

    fn this() -> Owner {
        let text = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let process = std::process::id();
        Owner {
            host: text("/proc/sys/kernel/hostname"),
            machine: format!("{} {}", text("/proc/sys/kernel/random/boot_id"), namespace.display()),
            process,
            started: start_of(process).unwrap_or(0),
            asked: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64),
            job: std::env::var("SLURM_JOB_ID").ok(),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "process {} on {}", self.process, self.host)?;
        self.job.as_ref().map_or(Ok(()), |job| write!(formatter, " (job {job})"))
    }
}

/// Field 22 of /proc/PID/stat; `None`: there is no such process, or only its parent has not heard yet that it ended.
fn start_of(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the name in field 2 may hold blanks and brackets
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

fn fill(mut handle: &File, owner: &Owner) -> std::io::Result<()> {
    // in one piece: a process that is killed here must not leave half of it
    handle.write_all(format!("{}\n{}\n", counter(0), serde_json::to_string(owner)?).as_bytes())?;
    handle.sync_all()
}

fn counter(count: u64) -> String {
    format!("{count:COUNTER$}")
}

/// `None`: there is no such file (any more).
fn read(file: &Path) -> Result<Option<String>> {
    match fs::read_to_string(file) {
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(|why| Error::file(file, why)),
    }
}

/// `None`: there is no such file, or half of one.
fn owner_of(file: &Path) -> Result<Option<Owner>> {
    Ok(read(file)?.and_then(|text| Owner::of(&text)))
}

fn is_of(file: &Path, owner: &Owner) -> Result<bool> {
    Ok(owner_of(file)?.as_ref() == Some(owner))
}

/// Whether the owner of `file` lives; `text`: what the file was when it was read.
fn lives(theirs: &Owner, ours: &Owner, file: &Path, text: &str, patience: Duration) -> Result<bool> {
    if theirs.machine != ours.machine {
        log::info!("{}: {theirs} was the last owner; waiting for a sign of life", file.display());
        return Ok(changes(file, text, patience)? && file.exists());
    }
    let begin = Instant::now();
    // the launcher may be about to end it
    while start_of(theirs.process) == Some(theirs.started) {
        if begin.elapsed() > patience / 6 {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Waits until `file` is not `text` any more, or not there; `false`: it still is, after so long.
fn changes(file: &Path, text: &str, patience: Duration) -> Result<bool> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        std::thread::sleep(patience / 100);
        if read(file)?.as_deref() != Some(text) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere(process: u32) -> Owner {
        Owner { host: "n2".into(), machine: "another".into(), process, started: 7, asked: 0, job: Some("41".into()) }
    }

    fn left(directory: &Path, owner: &Owner) -> File {
        let handle = File::create(directory.join(NAME)).unwrap();
        fill(&handle, owner).unwrap();
        handle
    }

    fn taken(directory: &Path, owner: Owner) -> Result<RunLock> {
        RunLock::take_with(directory, directory.join(NAME), owner, Duration::from_millis(300))
    }

    #[test]
    fn a_living_owner_is_named_and_one_that_ended_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let first = RunLock::take(directory.path()).unwrap();
        let error = RunLock::take(directory.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
        first.check().unwrap();
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_making_has_one_owner() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("nowhere/faces.h5");
        let error = RunLock::take_output(&missing).err().unwrap().to_string();
        let expected = format!(
            "{}: there is no directory {}/nowhere; make it first",
            missing.display(),
            directory.path().display()
        );
        assert_eq!(error, expected);
        let out = directory.path().join("faces.h5");
        let first = RunLock::take_output(&out).unwrap();
        assert!(directory.path().join("faces.h5.owner").exists());
        let error = RunLock::take_output(&out).err().unwrap().to_string();
        let process = std::process::id();
        assert!(error.starts_with(&format!("{}: process {process} on ", out.display())), "{error}");
        assert!(error.ends_with(" makes this; wait until it ends, or name another --out"), "{error}");
        drop(RunLock::take_output(&directory.path().join("others.h5")).unwrap());
        drop(first);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_owner_that_died_here_is_replaced_at_once_and_one_elsewhere_after_a_wait() {
        let directory = tempfile::tempdir().unwrap();
        // a process number that was used again
        let dead = Owner { started: 0, ..Owner::this() };
        left(directory.path(), &dead);
        drop(RunLock::take(directory.path()).unwrap());

        left(directory.path(), &elsewhere(1));
        let begin = Instant::now();
        let lock = taken(directory.path(), Owner::this()).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(300));
        drop(lock);
    }

    #[test]
    fn an_owner_elsewhere_that_beats_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let handle = left(directory.path(), &elsewhere(1));
        let beating = std::thread::spawn(move || {
            for count in 1..=4 {
                std::thread::sleep(Duration::from_millis(50));
                handle.write_all_at(counter(count).as_bytes(), 0).unwrap();
            }
        });
        let error = taken(directory.path(), Owner::this()).err().unwrap().to_string();
        assert!(error.contains("process 1 on n2 (job 41) works in this directory"), "{error}");
        beating.join().unwrap();
    }

    #[test]
    fn of_several_that_find_a_dead_owner_one_gets_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..4 {
            left(directory.path(), &Owner { started: 0, ..Owner::this() });
            let take = || taken(directory.path(), Owner::this()).ok();
            let locks: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(locks.len(), 1, "round {round}");
        }
    }

    #[test]
    fn half_a_file_is_nobodys_and_who_was_replaced_is_told() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NAME), "     ").unwrap();
        let begin = Instant::now();
        let lock = RunLock::take(directory.path()).unwrap();
        assert!(begin.elapsed() < PATIENCE, "as long as for an owner elsewhere");
        left(directory.path(), &elsewhere(3));
        std::thread::sleep(BEAT + Duration::from_secs(1));
        let error = lock.check().unwrap_err().to_string();
        assert!(error.ends_with("process 3 on n2 (job 41) has taken it over"), "{error}");
    }

    #[test]
    fn who_finds_half_a_file_waits_for_the_rest_and_says_whose_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let handle = File::create(directory.path().join(NAME)).unwrap();
        let writing = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            fill(&handle, &Owner::this()).unwrap();
        });
        let error = RunLock::take(directory.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("process {} on ", std::process::id())), "{error}");
        writing.join().unwrap();
    }

    #[test]
    fn an_owner_is_seen_from_outside_with_whether_it_lives() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(super::owner(directory.path()), None);
        let lock = RunLock::take(directory.path()).unwrap();
        assert_eq!(super::owner(directory.path()), Some((Owner::this().to_string(), true)));
        drop(lock);
        assert_eq!(super::owner(directory.path()), None);
        let write = |owner: &Owner| fill(&File::create(directory.path().join(NAME)).unwrap(), owner).unwrap();
        // a process number that is used again, and another machine that has just beaten
        let gone = Owner { started: 1, ..Owner::this() };
        write(&gone);
        assert_eq!(super::owner(directory.path()), Some((gone.to_string(), false)));
        let elsewhere = Owner { machine: "another".into(), ..gone };
        write(&elsewhere);
        assert_eq!(super::owner(directory.path()), Some((elsewhere.to_string(), true)));
        let long_ago = SystemTime::now() - PATIENCE * 2;
        File::options().write(true).open(directory.path().join(NAME)).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(super::owner(directory.path()), Some((elsewhere.to_string(), false)));
    }
}
