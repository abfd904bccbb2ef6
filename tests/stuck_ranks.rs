//! A rank that is stuck: the others wait without burning their cores, name it, and end together if it stays so.

mod support;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use support::kill::{assert_nothing_left, ranks_in};
use support::{
    SMALL, assert_code, assert_same, cpu_seconds, final_without_timings, finish, mpirun, saved_epochs, text, until,
    wait,
};

const RANKS: usize = 3;

fn run(out: &Path, more: &[&str]) -> Command {
    let resume: &[&str] = if saved_epochs(out) > 0 { &["--resume"] } else { &[] };
    let out = format!("--out={}", out.display());
    mpirun(RANKS, &[SMALL, &["--epochs=8", &out], resume, more].concat())
}

fn straight(out: &Path, more: &[&str]) {
    // what ranks that were killed before anything was saved leave behind: the directory is as good as new
    std::fs::create_dir_all(out.join(".ranks")).unwrap();
    std::fs::write(out.join(".ranks/7"), "{}").unwrap();
    assert_code(&finish(&mut run(out, more)), 0);
    assert!(!out.join(".ranks").exists(), "the notes go with the run");
}

fn signal(process: i32, signal: i32) {
    // SAFETY: a signal to a process of this test's own
    unsafe { libc::kill(process, signal) };
}

/// Starts a run and stops one of its ranks after an epoch. The run's child, its log, and the ranks' process numbers.
fn with_stopped_rank(out: &Path, rank: usize, more: &[&str]) -> (Child, Vec<i32>) {
    let log = std::fs::File::create(out.with_extension("log")).unwrap();
    let before = saved_epochs(out);
    let mut child = run(out, more).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    until("an epoch is saved, or an error", || saved_epochs(out) > before || child.try_wait().unwrap().is_some());
    let ranks = ranks_in(out);
    assert_eq!(ranks.len(), RANKS, "{}", log_of(out));
    signal(ranks[rank], libc::SIGSTOP);
    (child, ranks)
}

fn log_of(out: &Path) -> String {
    std::fs::read_to_string(out.with_extension("log")).unwrap()
}

#[test]
fn a_rank_that_was_stopped_is_named_costs_no_cpu_and_goes_on_to_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let (out, undisturbed) = (directory.path().join("run"), directory.path().join("straight"));
    straight(&undisturbed, &["--stall-minutes=3"]); // a part of the configuration that is kept
    // named after half a minute
    let (child, ranks) = with_stopped_rank(&out, 1, &["--stall-minutes=3"]);
    until("the rank is named", || log_of(&out).contains("warn: waiting for rank 1 on node "));
    let waiting = || cpu_seconds(ranks[0]) + cpu_seconds(ranks[2]);
    let before = waiting();
    std::thread::sleep(Duration::from_secs(2));
    let share = (waiting() - before) / 2.0;
    println!("two ranks that wait take {share} cores");
    assert!(share < 0.2, "two ranks that wait take {share} cores");
    signal(ranks[1], libc::SIGCONT);
    assert_code(&wait(child), 0);
    assert!(log_of(&out).contains("all ranks have come after "), "{}", log_of(&out));
    assert!(!out.join(".ranks").exists(), "the notes go with the run");
    assert_same(&final_without_timings(&undisturbed), &final_without_timings(&out));
}

#[test]
fn a_rank_that_stays_stuck_ends_all_with_75_and_resume_completes_with_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let (out, undisturbed) = (directory.path().join("run"), directory.path().join("straight"));
    straight(&undisturbed, &[]);
    for (rank, speaker) in [(1, ""), (0, "rank 1: ")] {
        let (child, _) = with_stopped_rank(&out, rank, &["--stall-minutes=0.4"]);
        let output = wait(child);
        assert_eq!(output.status.code(), Some(75), "{}", log_of(&out));
        assert_nothing_left(&out);
        let named = format!("amlfs: {speaker}warn: rank {rank} on node ");
        let log = log_of(&out);
        assert!(log.lines().any(|line| line.starts_with(&named) && line.contains("no sign of life for")), "{log}");
    }
    let output = finish(&mut run(&out, &[]));
    assert_code(&output, 0);
    assert!(text(&output).contains("continuing after epoch"), "{}", text(&output));
    assert_same(&final_without_timings(&undisturbed), &final_without_timings(&out));
}

#[test]
fn a_request_to_stop_is_answered_although_a_rank_is_stuck() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    // without the request they would wait for a minute; with it, for half of one
    let (child, _) = with_stopped_rank(&out, 2, &["--stall-minutes=1"]);
    std::fs::write(out.join("STOP"), "").unwrap();
    assert_eq!(wait(child).status.code(), Some(75), "{}", log_of(&out));
    assert_nothing_left(&out);
    assert!(log_of(&out).contains("asked to stop, but rank 2 on node "), "{}", log_of(&out));
    assert!(out.join("STOPPED").exists() && !out.join("STOP").exists(), "the batch script is told whose wish it was");
}
