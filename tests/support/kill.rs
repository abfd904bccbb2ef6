//! kill -9 of a random rank at random moments.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use rand::{RngExt, SeedableRng};

use amlfs::checkpoint;
use amlfs::rng::Rng;

use super::{assert_code, assert_same, final_without_timings, finish, mpirun, saved_epochs, until, wait};

const RANKS: usize = 2;

/// Process ids of the program's ranks that work in `out`, in the order in which they were started.
pub fn ranks_in(out: &Path) -> Vec<i32> {
    let (out, flag) = (out.display().to_string(), format!("--out={}", out.display()));
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ranks = processes.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|&byte| byte == 0).collect();
        words[0].ends_with(b"amlfs") && words.iter().any(|word| [flag.as_bytes(), out.as_bytes()].contains(word))
    });
    let mut ranks: Vec<i32> = ranks.collect();
    ranks.sort_unstable();
    ranks
}

pub fn assert_nothing_left(out: &Path) {
    until("all ranks have ended", || ranks_in(out).is_empty());
}

/// AMLFS_TEST_SEED, or the clock's. A test that fails prints it: with it, the same kills are drawn again.
fn seed() -> u64 {
    let seed = match std::env::var("AMLFS_TEST_SEED") {
        Ok(seed) => seed.parse().expect("AMLFS_TEST_SEED is a number"),
        Err(_) => UNIX_EPOCH.elapsed().unwrap().as_secs(),
    };
    println!("AMLFS_TEST_SEED={seed}");
    seed
}

/// A moment in a run's progress, and who is killed then.
#[derive(Debug)]
struct Kill {
    /// Epochs to be saved first, since the start.
    epochs: usize,
    /// How long to wait then, as a share of the time that one epoch takes, or, before the first is saved, of the start and
    /// one epoch.
    share: f64,
    rank: usize,
}

impl Kill {
    fn random(rng: &mut Rng) -> Kill {
        Kill { epochs: rng.random_range(0..3), share: rng.random(), rank: rng.random_range(0..RANKS) }
    }
}

/// Kills searches of `epochs` epochs with these settings on 2 ranks, `kills` times in all, resumes them and compares
/// every one with a run that was left alone.
pub fn kill_and_resume(settings: &[&str], epochs: usize, kills: usize) {
    let run = |out: &Path| -> Command {
        let out = format!("--out={}", out.display());
        mpirun(RANKS, &[settings, &[&out, "--resume"]].concat())
    };
    let directory = tempfile::tempdir().unwrap();
    let straight = directory.path().join("straight");
    let start = Instant::now();
    assert_code(&finish(&mut run(&straight)), 0);
    let whole = start.elapsed().as_secs_f64();
    let history = checkpoint::read(&straight.join("final.h5")).unwrap().history;
    let training: f64 = history.iter().map(|record| record.seconds).sum();
    let epoch = training / epochs as f64;
    let assert_resumed_equals = |killed: &Path| {
        assert_code(&finish(&mut run(killed)), 0);
        assert_same(&final_without_timings(&straight), &final_without_timings(killed));
    };

    let killed = directory.path().join("killed");
    let mut rng = Rng::seed_from_u64(seed());
    let mut done = 0;
    while done < kills {
        let kill = Kill::random(&mut rng);
        let before = saved_epochs(&killed);
        let after = (before + kill.epochs).min(epochs - 1);
        let mut child = run(&killed).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until("the moment of a kill, or the end", || {
            child.try_wait().unwrap().is_some() || ranks_in(&killed).len() == RANKS && saved_epochs(&killed) >= after
        });
        let (reached, span) = (Instant::now(), if after > before { epoch } else { whole - training + epoch });
        until("the share of an epoch, or its end", || {
            reached.elapsed() >= Duration::from_secs_f64(kill.share * span) || saved_epochs(&killed) > after
        });
        let victim = ranks_in(&killed).get(kill.rank).copied();
        if let Some(victim) = victim {
            // SAFETY: a signal to a process of this test's own
            unsafe { libc::kill(victim, libc::SIGKILL) };
            done += 1;
        }
        let output = wait(child);
        if victim.is_none() {
            assert_code(&output, 0); // it was complete before
        }
        assert_nothing_left(&killed);
        println!("{kill:?}: from epoch {before} to {}, {done} of {kills} killed", saved_epochs(&killed));
        // a run that has all its epochs is complete: compare it, and kill the rest in a new one
        if saved_epochs(&killed) == epochs && done < kills {
            assert_resumed_equals(&killed);
            std::fs::remove_dir_all(&killed).unwrap();
        }
    }
    assert_resumed_equals(&killed);
}
