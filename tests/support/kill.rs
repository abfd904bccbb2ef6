//! kill -9 of a random rank at random moments.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;

use amlfs::checkpoint;
use amlfs::rng::{Purpose, rng};

use super::{assert_code, assert_same, final_without_timings, finish, mpirun, wait};

/// Process ids of the program's ranks that work in `out`.
fn ranks_in(out: &Path) -> Vec<i32> {
    let out = format!("--out={}", out.display());
    let processes =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes
        .filter(|pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|&byte| byte == 0).collect();
            words[0].ends_with(b"amlfs") && words.contains(&out.as_bytes())
        })
        .collect()
}

pub fn assert_nothing_left(out: &Path) {
    let start = Instant::now();
    while !ranks_in(out).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "ranks are left hanging");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills searches of `epochs` epochs with these settings on 2 ranks, `kills` times in all, resumes them and compares
/// every one with a run that was left alone.
pub fn kill_and_resume(settings: &[&str], epochs: usize, kills: usize) {
    let run = |out: &Path| -> Command {
        let out = format!("--out={}", out.display());
        mpirun(2, &[settings, &[&out, "--resume"]].concat())
    };
    let directory = tempfile::tempdir().unwrap();
    let straight = directory.path().join("straight");
    let start = Instant::now();
    assert_code(&finish(&mut run(&straight)), 0);
    let duration = start.elapsed();
    let assert_resumed_equals = |killed: &Path| {
        assert_code(&finish(&mut run(killed)), 0);
        assert_same(&final_without_timings(&straight), &final_without_timings(killed));
    };

    let killed = directory.path().join("killed");
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    println!("seed {seed}");
    let mut rng = rng(seed, Purpose::Order, &[]);
    let mut done = 0;
    while done < kills {
        let child = run(&killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(duration.mul_f64(rng.random_range(0.02..0.5)));
        let ranks = ranks_in(&killed);
        if !ranks.is_empty() {
            let victim = ranks[rng.random_range(0..ranks.len())];
            // SAFETY: a signal to a process of this test's own
            unsafe { libc::kill(victim, libc::SIGKILL) };
            done += 1;
        }
        wait(child, Duration::from_secs(60));
        assert_nothing_left(&killed);
        // a run that has all its epochs is complete: compare it, and kill the rest in a new one
        let last = checkpoint::epoch_file(&killed, epochs);
        if checkpoint::newest(&killed).unwrap() == Some(last) && done < kills {
            assert_resumed_equals(&killed);
            std::fs::remove_dir_all(&killed).unwrap();
        }
    }
    assert_resumed_equals(&killed);
}
