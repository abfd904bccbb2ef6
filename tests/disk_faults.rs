//! Files that can't be written, or that change under the program: what it says, what is intact, and that it goes on.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use amlfs::checkpoint::{self, Checkpoint};
use support::kill::assert_nothing_left;
use support::{
    AMLFS, SMALL, amlfs, assert_code, assert_error, assert_same, errors, final_without_timings, finish, mpirun, path,
    saved_epochs, text, until, wait,
};

const EPOCHS: usize = 6;

/// Checkpoints of `SMALL` take 650 kB; the other files are small.
const TOO_SMALL: u64 = 300_000;

/// `SMALL` on one rank, without a launcher: the child is the program itself.
fn run(out: &Path, more: &[&str]) -> Command {
    let settings = SMALL.iter().copied().filter(|argument| !argument.starts_with("--epochs"));
    let mut command = Command::new(AMLFS);
    command.args(settings).args([&format!("--epochs={EPOCHS}"), "--set=run.max_failed_saves=100"]);
    command.args([&format!("--out={}", out.display()), "--resume"]).args(more).stdin(Stdio::null());
    command
}

/// What a run that was left alone gives.
fn undisturbed() -> &'static Checkpoint {
    static FINAL: LazyLock<Checkpoint> = LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        assert_code(&finish(&mut run(directory.path(), &[])), 0);
        final_without_timings(directory.path())
    });
    &FINAL
}

/// How large a file the process may write from now on, as a quota or `ulimit -f` says it; `None`: any.
fn limit_files(process: &Child, bytes: Option<u64>) {
    let limit = libc::rlimit { rlim_cur: bytes.unwrap_or(libc::RLIM_INFINITY), rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads `limit`; the process is this test's own child
    let failed = unsafe { libc::prlimit(process.id() as i32, libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) };
    assert_eq!(failed, 0, "{}", std::io::Error::last_os_error());
}

/// A run whose checkpoints can't be written any more since one of them was, and what it says meanwhile.
struct OnFullDisk {
    process: Child,
    directory: tempfile::TempDir,
}

impl OnFullDisk {
    fn new(more: &[&str]) -> OnFullDisk {
        let directory = tempfile::tempdir().unwrap();
        let said = File::create(directory.path().join("said")).unwrap();
        let out = directory.path().join("run");
        let process = run(&out, more).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let mut run = OnFullDisk { process, directory };
        run.until("an epoch is saved", |run| saved_epochs(&run.out()) > 0);
        limit_files(&run.process, Some(TOO_SMALL));
        run
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("said")).unwrap()
    }

    /// ... or the run has ended, which the test then finds to be wrong.
    fn until(&mut self, what: &str, happened: impl Fn(&OnFullDisk) -> bool) {
        until(what, || happened(self) || self.process.try_wait().unwrap().is_some());
    }

    fn until_a_save_fails(&mut self) {
        self.until("a save fails", |run| run.said().contains("training goes on"));
    }

    /// Waits for the end; returns the exit code and all that was said.
    fn end(mut self) -> (Option<i32>, String, tempfile::TempDir) {
        until("the run ends", || self.process.try_wait().unwrap().is_some());
        let said = self.said();
        (self.process.wait().unwrap().code(), said, self.directory)
    }
}

/// Ends the run in `out`, with room again, and compares it with one that was left alone.
fn assert_goes_on(out: &Path) {
    assert_code(&finish(&mut run(out, &[])), 0);
    assert_same(&final_without_timings(out), undisturbed());
}

#[test]
fn saves_that_fail_for_a_while_cost_a_warning_and_nothing_else() {
    let mut run = OnFullDisk::new(&[]);
    run.until_a_save_fails();
    limit_files(&run.process, None);
    let (code, said, directory) = run.end();
    assert_eq!(code, Some(0), "{said}");
    let warning = said.lines().find(|line| line.contains("training goes on")).unwrap();
    for what in ["run/epoch-000", "can't write the checkpoint: File too large", "everything up to epoch ", "is saved"] {
        assert!(warning.contains(what), "{warning}");
    }
    let out = directory.path().join("run");
    assert_same(&final_without_timings(&out), undisturbed());
    assert_eq!(fs::read_to_string(out.join("metrics.csv")).unwrap().lines().count(), 1 + EPOCHS);
    let names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.filter(|name| name.ends_with(".tmp")).count(), 0);
}

#[test]
fn too_many_failed_saves_end_the_run_which_goes_on_from_what_is_saved() {
    let run = OnFullDisk::new(&["--set=run.max_failed_saves=2"]);
    let (code, said, directory) = run.end();
    assert_eq!(code, Some(1), "{said}");
    let out = directory.path().join("run");
    let saved = saved_epochs(&out);
    let error = said.lines().find(|line| line.contains("error: ")).unwrap();
    let end = format!(
        "2 saves in a row have failed (run.max_failed_saves = 2), and the run ends: everything up to epoch {saved} is \
         saved, what came after it is not; make room in {} (df, quota), then run again with --resume",
        out.display()
    );
    assert!(error.ends_with(&end), "{error}");
    checkpoint::read(&checkpoint::newest(&out).unwrap().unwrap()).unwrap();
    assert_goes_on(&out);
}

#[test]
fn a_stop_says_truthfully_what_is_saved_and_saves_what_it_can() {
    for room_again in [false, true] {
        let mut run = OnFullDisk::new(&["--epochs=100000"]);
        run.until_a_save_fails();
        if room_again {
            limit_files(&run.process, None);
        }
        // SAFETY: a signal to this test's own child
        unsafe { libc::kill(run.process.id() as i32, libc::SIGUSR1) };
        let (code, said, directory) = run.end();
        assert_eq!(code, Some(75), "{said}");
        let saved = saved_epochs(&directory.path().join("run"));
        let stopped = said.lines().find(|line| line.contains("stopped ")).unwrap();
        let expected = match room_again {
            true => "; everything is saved".to_owned(),
            false => format!("; everything up to epoch {saved} is saved, what came after it is not"),
        };
        assert!(stopped.ends_with(&expected), "{stopped}");
    }
}

#[test]
fn a_final_file_that_can_not_be_written_loses_no_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let (out, blocked) = (directory.path().join("run"), directory.path().join("run/final.h5.tmp"));
    fs::create_dir_all(&blocked).unwrap();
    let output = finish(&mut run(&out, &[]));
    let all = format!("all epochs are trained: everything up to epoch {EPOCHS} is saved; make room in ");
    assert_error(&output, 1, &all);
    assert!(errors(&output)[0].contains("run/final.h5: can't write the checkpoint: "), "{}", text(&output));
    assert!(text(&output).contains("test top1"), "what was measured is told: {}", text(&output));
    fs::remove_dir(&blocked).unwrap();
    assert_goes_on(&out);
}

#[test]
fn metrics_that_can_not_be_written_do_not_end_a_run() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("run/metrics.csv.tmp")).unwrap();
    let output = finish(&mut run(&directory.path().join("run"), &[]));
    assert_code(&output, 0);
    assert!(text(&output).contains("run/metrics.csv: can't be written: Is a directory"), "{}", text(&output));
    assert_same(&final_without_timings(&directory.path().join("run")), undisturbed());
}

#[test]
fn a_data_file_that_gets_shorter_under_a_run_is_named_and_what_is_saved_stays() {
    let directory = tempfile::tempdir().unwrap();
    let here = |name: &str| path(directory.path(), name);
    let (tree, packed, out) = (here("faces"), here("faces.h5"), here("run"));
    assert_code(&amlfs(&["prepare", "glyphs", &tree, "--identities=24", "--images=8"]), 0);
    assert_code(&amlfs(&["prepare", "faces", &tree, "--out", &packed]), 0);
    let settings =
        ["--preset=faces-small", "--device=cpu", "--threads=1", "--samples=2", "--set=search.round_epochs=1"];
    let mut command = mpirun(2, &[&settings[..], &["--data", &packed, "--out", &out, "--epochs=100000"]].concat());
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let run = Path::new(&out);
    until("an epoch is saved", || saved_epochs(run) > 0 || process.try_wait().unwrap().is_some());
    File::options().write(true).open(&packed).unwrap().set_len(4096).unwrap();
    let output = wait(process);
    assert_code(&output, 1);
    let what = format!("error: {packed}: can't be read any more: it was made shorter while the program used it");
    assert!(errors(&output).iter().any(|line| line.contains(&what)), "{}", text(&output));
    checkpoint::read(&checkpoint::newest(run).unwrap().unwrap()).expect("what is saved is whole");
    assert_nothing_left(run);
}

#[test]
fn events_that_cannot_be_written_cost_a_warning_and_the_run_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("tensorboard"), "in the way").unwrap();
    let output = finish(&mut run(&out, &["--tensorboard"]));
    assert_code(&output, 0);
    assert!(text(&output).contains("tensorboard: can't be made anew: "), "{}", text(&output));
    let mut found = final_without_timings(&out);
    found.info.config = found.info.config.replace("tensorboard = true\n", "");
    assert_same(&found, undisturbed());
}
