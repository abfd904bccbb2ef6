//! Headline test: the same bits after kill -9 and resume; and stopping early on request.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use amlfs::checkpoint;
use support::kill::{assert_nothing_left, kill_and_resume};
use support::{AMLFS, SMALL, assert_code, assert_same, final_without_timings, finish, mpirun, text, wait};

/// An epoch takes a tenth of a second, and the STOP file is looked for once a second: epochs of a run to be stopped.
const LONG: usize = 60;

fn arguments(out: &Path, epochs: usize) -> Vec<String> {
    let own = [format!("--out={}", out.display()), "--resume".into(), format!("--epochs={epochs}")];
    SMALL
        .iter()
        .map(|argument| argument.to_string())
        .filter(|argument| !argument.starts_with("--epochs"))
        .chain(own)
        .collect()
}

fn run(ranks: usize, out: &Path, epochs: usize) -> Command {
    let arguments = arguments(out, epochs);
    mpirun(ranks, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn kill_9_of_a_random_rank_at_random_moments_and_resume_give_the_straight_runs_bits() {
    let settings: Vec<&str> = SMALL.iter().copied().filter(|argument| !argument.starts_with("--epochs")).collect();
    kill_and_resume(&[&settings[..], &["--epochs=6"]].concat(), 6, 10);
}

#[test]
fn signals_a_stop_file_and_the_time_budget_end_with_75_and_resume_to_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let straight = directory.path().join("straight");
    assert_code(&finish(&mut run(1, &straight, LONG)), 0);

    let stopped = directory.path().join("stopped");
    // USR1 to mpirun is forwarded to the ranks
    let child = run(2, &stopped, LONG).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&stopped, 1);
    // SAFETY: a signal to this test's own child
    unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
    let output = wait(child, Duration::from_secs(60));
    assert_code(&output, 75);
    assert!(text(&output).contains("is saved"), "{}", text(&output));
    assert_nothing_left(&stopped);

    let child = run(2, &stopped, LONG).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for_checkpoint(&stopped, 2);
    std::fs::write(stopped.join("STOP"), "").unwrap();
    assert_code(&wait(child, Duration::from_secs(60)), 75);
    assert!(!stopped.join("STOP").exists(), "a STOP file works once");

    let output = finish(run(2, &stopped, LONG).arg("--max-hours=1e-9"));
    assert_code(&output, 75);

    assert_code(&finish(&mut run(2, &stopped, LONG)), 0);
    assert_same(&final_without_timings(&straight), &final_without_timings(&stopped));
    let again = finish(&mut run(2, &stopped, LONG));
    assert_code(&again, 0);
    assert!(text(&again).contains("the run is complete"));
}

fn wait_for_checkpoint(out: &Path, epoch: usize) {
    let start = Instant::now();
    while checkpoint::newest(out).unwrap().is_none_or(|file| file < checkpoint::epoch_file(out, epoch)) {
        assert!(start.elapsed() < Duration::from_secs(60), "no checkpoint of epoch {epoch}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_run_may_be_resumed_with_another_number_of_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let (straight, moved) = (directory.path().join("straight"), directory.path().join("moved"));
    assert_code(&finish(&mut run(1, &straight, LONG)), 0);
    let child = run(4, &moved, LONG).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&moved, 2);
    // SAFETY: a signal to this test's own child
    unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
    wait(child, Duration::from_secs(60));
    assert!(!moved.join("final.h5").exists(), "the run was stopped");
    assert_code(&finish(&mut run(3, &moved, LONG)), 0);
    assert_same(&final_without_timings(&straight), &final_without_timings(&moved));
}

#[test]
fn evaluate_repeats_the_test_result_of_the_final_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    assert_code(&finish(&mut run(2, directory.path(), 6)), 0);
    let file = directory.path().join("final.h5");
    let expected = checkpoint::read(&file).unwrap().test;
    let output = finish(Command::new(AMLFS).args(["evaluate", "--json"]).arg(&file));
    assert_code(&output, 0);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (name, value) in expected {
        assert_eq!(found[&name].as_f64().unwrap(), value);
    }
    let output = finish(Command::new(AMLFS).args(["inspect", "--json"]).arg(&file));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["history"].as_array().unwrap().len(), 6);
}
