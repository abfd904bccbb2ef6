//! Headline test: the same bits after kill -9 and resume; and stopping early on request.

mod support;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use amlfs::checkpoint::{self, Checkpoint};
use support::kill::{assert_nothing_left, kill_and_resume};
use support::{
    NATURAL, SMALL, amlfs, assert_code, assert_error, assert_same, final_without_timings, finish, json, mpirun, path,
    saved_epochs, text, until, wait, without_timings,
};

/// A run that no machine completes before it is told to stop, and that keeps its checkpoints.
const ENDLESS: &[&str] = &["--epochs=100000", "--set=run.keep=1000"];

/// `SMALL` with other epochs.
fn settings<'a>(epochs: &[&'a str]) -> Vec<&'a str> {
    let others = SMALL.iter().copied().filter(|argument| !argument.starts_with("--epochs"));
    others.chain(epochs.iter().copied()).collect()
}

fn run(ranks: usize, out: &Path, epochs: &[&str]) -> Command {
    let out = format!("--out={}", out.display());
    mpirun(ranks, &[&settings(epochs)[..], &[&out, "--resume"]].concat())
}

#[test]
fn kill_9_of_a_random_rank_at_random_moments_and_resume_give_the_straight_runs_bits() {
    kill_and_resume(&settings(&["--epochs=6"]), 6, 10);
}

#[test]
fn kill_9_and_resume_give_the_same_bits_with_natural_steps_and_averaged_weights() {
    kill_and_resume(&[&settings(&["--epochs=5"]), NATURAL].concat(), 5, 4);
}

/// Goes on with the endless run, ends it by `stop` once `epoch` is saved, and tells how many epochs are then.
fn stopped(ranks: usize, out: &Path, epoch: usize, stop: impl Fn(&Child)) -> usize {
    let mut child = run(ranks, out, ENDLESS).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until(&format!("epoch {epoch} is saved"), || {
        saved_epochs(out) >= epoch || child.try_wait().unwrap().is_some() // with an error
    });
    stop(&child);
    let output = wait(child);
    assert_code(&output, 75);
    assert!(text(&output).contains("is saved"), "{}", text(&output));
    assert_nothing_left(out);
    saved_epochs(out)
}

/// To mpirun, which forwards it to the ranks.
fn user_signal(child: &Child) {
    // SAFETY: a signal to this test's own child
    unsafe { libc::kill(child.id() as i32, libc::SIGUSR1) };
}

#[test]
fn signals_a_stop_file_and_the_time_budget_end_with_75_and_any_number_of_ranks_resumes_to_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("stopped");
    let signalled = stopped(2, &out, 1, user_signal);
    let by_file = stopped(4, &out, signalled + 1, |_| std::fs::write(out.join("STOP"), "").unwrap());
    assert!(!out.join("STOP").exists() && out.join("STOPPED").exists(), "a STOP file works once");
    assert_code(&finish(run(1, &out, ENDLESS).arg("--max-hours=1e-9")), 75);
    let last = stopped(3, &out, by_file + 1, user_signal);

    let straight = directory.path().join("straight");
    stopped(1, &straight, last, user_signal);
    let saved = |run: &Path| -> Checkpoint {
        without_timings(checkpoint::read(&checkpoint::epoch_file(run, last)).expect("every epoch is kept"))
    };
    assert_same(&saved(&straight), &saved(&out));
}

#[test]
fn a_second_run_in_the_same_directory_is_refused_and_the_first_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    let second = std::cell::OnceCell::new();
    let saved = stopped(2, &out, 1, |child| {
        second.set(finish(&mut run(1, &out, ENDLESS))).unwrap();
        let now = saved_epochs(&out);
        until("the first goes on", || saved_epochs(&out) > now);
        user_signal(child);
    });
    assert_error(second.get().unwrap(), 1, "works in this directory; wait until it ends, or name another --out");
    assert!(saved > 1 && !out.join(".owner").exists());
}

#[test]
fn a_signal_before_the_first_step_ends_with_75() {
    let directory = tempfile::tempdir().unwrap();
    for (i, delay) in [50, 150, 300, 600, 1000].into_iter().enumerate() {
        let out = directory.path().join(i.to_string());
        let mut command = Command::new(support::AMLFS);
        command.args(SMALL).args(ENDLESS).args([format!("--out={}", out.display())]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        until("amlfs has begun", || holds_signals(&child));
        std::thread::sleep(Duration::from_millis(delay));
        user_signal(&child);
        assert_code(&wait(child), 75);
    }
}

#[test]
fn a_signal_while_libtorch_starts_ends_with_75_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(support::AMLFS);
    command.args(SMALL).args([format!("--out={}", directory.path().join("run").display())]);
    // the loader says what it starts
    command.env("LD_DEBUG", "libs").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("calling init") && line.contains("libtorch_cpu")));
    user_signal(&child);
    let said: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(75), "{}", said.last().unwrap());
}

/// Whether the process holds signals back or handles them: before, libraries are loaded.
fn holds_signals(child: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    (mask("SigBlk:") | mask("SigCgt:")) & (1 << (libc::SIGUSR1 - 1)) != 0
}

#[test]
fn a_complete_run_is_left_alone_and_evaluate_repeats_its_test_result() {
    let directory = tempfile::tempdir().unwrap();
    assert_code(&finish(&mut run(2, directory.path(), &["--epochs=6"])), 0);
    let finished = final_without_timings(directory.path());
    let again = finish(&mut run(2, directory.path(), &["--epochs=6"]));
    assert_code(&again, 0);
    assert!(text(&again).contains("the run is complete"), "{}", text(&again));
    assert_same(&finished, &final_without_timings(directory.path()));

    let file = path(directory.path(), "final.h5");
    let found = json(&amlfs(&["evaluate", "--json", "--device=cpu", &file]));
    for (name, value) in finished.test {
        assert_eq!(found[&name].as_f64().unwrap(), value);
    }
    let found = json(&amlfs(&["inspect", "--json", &file]));
    assert_eq!(found["history"].as_array().unwrap().len(), 6);
}
