//! Headline test: the same bits after kill -9 and resume; and stopping early on request.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use amlfs::checkpoint::{self, Checkpoint, SavedSample};
use amlfs::state::SampleProgress;
use support::kill::{assert_nothing_left, kill_and_resume};
use support::{
    NATURAL, SMALL, amlfs, assert_code, assert_error, assert_same, final_without_timings, finish, json, mpirun, path,
    saved_epochs, text, until, wait, without_timings,
};

/// A run that no machine completes before it is told to stop, and that keeps its checkpoints.
const ENDLESS: &[&str] = &["--epochs=100000", "--set=run.keep=1000"];

/// The state within a sample's training is kept as often as can be.
const KEEP_EVERY_STEP: &str = "--set=run.save_minutes=1e-9";

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
fn kill_9_and_resume_give_the_same_bits_with_natural_steps_averaged_weights_and_all_steps_kept() {
    kill_and_resume(&[&settings(&["--epochs=5", KEEP_EVERY_STEP]), NATURAL].concat(), 5, 4);
}

/// Goes on with the endless run, ends it by `stop` once `more` epochs are saved, and tells how many are saved then.
fn stopped(ranks: usize, out: &Path, more: usize, stop: impl Fn(&Child)) -> usize {
    // not before the run's first: mpirun itself ends by a signal that it is not yet ready to forward
    let epoch = saved_epochs(out) + more;
    let mut child = run(ranks, out, ENDLESS).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until(&format!("epoch {epoch} is saved"), || {
        saved_epochs(out) >= epoch || child.try_wait().unwrap().is_some() // with an error
    });
    stop(&child);
    let output = wait(child);
    assert_code(&output, 75);
    assert!(text(&output).contains("everything is saved"), "{}", text(&output));
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
    stopped(2, &out, 1, user_signal);
    stopped(4, &out, 1, |_| std::fs::write(out.join("STOP"), "").unwrap());
    assert!(!out.join("STOP").exists() && out.join("STOPPED").exists(), "a STOP file works once");
    assert_code(&finish(run(1, &out, ENDLESS).arg("--max-hours=1e-9")), 75);
    let last = stopped(3, &out, 1, user_signal);

    let straight = directory.path().join("straight");
    stopped(1, &straight, last, user_signal);
    let saved = |run: &Path| -> Checkpoint {
        without_timings(checkpoint::read(&checkpoint::epoch_file(run, last)).expect("every epoch is kept"))
    };
    assert_same(&saved(&straight), &saved(&out));
}

#[test]
fn a_stop_within_an_epoch_loses_no_step_whatever_number_of_ranks_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (straight, out) = (directory.path().join("straight"), directory.path().join("stopped"));
    // a round of two epochs of 100 steps for each of four samples
    let round = &["--epochs=2", "--set=search.round_epochs=2", "--set=train.epoch_iterations=100"];
    assert_code(&finish(&mut run(1, &straight, round)), 0);
    let kept = |out: &Path| -> Vec<SavedSample> {
        let files = std::fs::read_dir(out.join(".samples/0000")).unwrap();
        files.map(|file| checkpoint::read_sample(&file.unwrap().path()).unwrap()).collect()
    };
    let steps = |samples: &[SavedSample]| -> u64 {
        let of = |progress: &SampleProgress| 100 * progress.train_loss.len() as u64 + progress.within.steps;
        samples.iter().map(|sample| of(&sample.progress)).sum()
    };
    let mut done = 0;
    for ranks in [2, 1, 4, 3] {
        let mut child = run(ranks, &out, round).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // where they go on is told once they do
        let mut told = String::new();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        while done > 0 && !told.contains("goes on in epoch") && errors.read_line(&mut told).unwrap() > 0 {}
        until("the ranks train", || out.join("run.log").exists() || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(300));
        user_signal(&child);
        errors.read_to_string(&mut told).unwrap();
        let code = wait(child).status.code();
        assert!(code == Some(75) && told.contains("stopped in epoch 1; everything is saved"), "{code:?}: {told}");
        let samples = kept(&out);
        assert!(steps(&samples) > done, "{ranks} ranks did not go on from {done} steps: {told}");
        done = steps(&samples);
    }
    assert!(done < 4 * 200, "the round was not stopped in time");
    assert_code(&finish(&mut run(2, &out, round)), 0);
    assert_same(&final_without_timings(&straight), &final_without_timings(&out));
    assert!(!out.join(".samples").exists());
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

/// Rows of the table of epochs.
fn rows(said: &str) -> Vec<&str> {
    said.lines().filter(|line| line.starts_with("     ") && !line.contains("epoch")).collect()
}

#[test]
fn where_no_terminal_is_a_row_per_epoch_says_the_time_to_go_also_after_a_resume() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path();
    let saved = stopped(1, out, 2, user_signal);
    let epochs = format!("--epochs={}", saved + 2);
    // the run is another one with other epochs, but for its checkpoints
    std::fs::remove_file(out.join("config.toml")).unwrap();
    let log = || std::fs::read_to_string(out.join("run.log")).unwrap();
    let first = log();
    assert!(first.contains(" to go\n"), "{first}");
    assert!(rows(&first).len() == saved && rows(&first).iter().all(|row| row.ends_with(" min")), "{first}");

    let output = finish(&mut run(1, out, &[&epochs, "--set=run.keep=1000"]));
    assert_code(&output, 0);
    let (old, new) = (rows(&first).len(), log()[first.len()..].to_owned());
    for said in [String::from_utf8(output.stdout).unwrap(), new] {
        let timed: Vec<bool> = rows(&said).iter().map(|row| row.ends_with(" min")).collect();
        assert_eq!(timed, [vec![false; old], vec![true; 2]].concat(), "{said}");
        assert!(rows(&said).last().unwrap().ends_with(" 0 h 00 min"), "{said}");
    }
}
