//! A checkpoint is written while the next round trains: what that round does meanwhile, what a kill loses then, and who waits.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use amlfs::checkpoint::{self, Checkpoint};
use support::{
    AMLFS, SMALL, assert_code, assert_same, cpu_seconds, final_without_timings, finish, saved_epochs, text, until, wait,
};

/// The state within a sample's training is kept as often as can be: files show that a round trains.
const KEEP_EVERY_STEP: &str = "--set=run.save_minutes=1e-9";

/// `SMALL` on one rank, without a launcher: the child is the program itself.
fn run(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(AMLFS);
    command.args(SMALL).args([KEEP_EVERY_STEP, "--resume", &format!("--out={}", out.display())]).args(more);
    command.stdin(Stdio::null());
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

fn signal(process: &Child, signal: i32) {
    // SAFETY: a signal to this test's own child
    unsafe { libc::kill(process.id() as i32, signal) };
}

/// A run whose first save has written its checkpoint and stands still then, at metrics.csv, until it is let go: the file in
/// its way is a pipe that nobody reads.
struct Held {
    process: Child,
    directory: tempfile::TempDir,
}

impl Held {
    fn new(more: &[&str]) -> Held {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("run");
        fs::create_dir(&out).unwrap();
        let pipe = std::ffi::CString::new(out.join("metrics.csv.tmp").to_str().unwrap()).unwrap();
        // SAFETY: reads a string that ends with a null
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let process = run(&out, more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut held = Held { process, directory };
        held.until("an epoch is saved", |held| saved_epochs(&held.out()) > 0);
        held
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Fails if the run has ended.
    fn until(&mut self, what: &str, happened: impl Fn(&Held) -> bool) {
        until(what, || {
            assert!(self.process.try_wait().unwrap().is_none(), "the run has ended, without: {what}");
            happened(self)
        });
    }

    /// Until it has done what it can.
    fn until_it_waits(&mut self) {
        self.until("it waits", |held| {
            let taken = || cpu_seconds(held.process.id() as i32);
            let before = taken();
            std::thread::sleep(Duration::from_secs(1));
            taken() - before < 0.05
        });
    }

    /// Lets the save go on; all that was said until the end.
    fn let_go(self) -> (std::process::Output, tempfile::TempDir) {
        // not only for reading: the program reads it, too, and goes on when it finds that it is no file
        let pipe = File::options().read(true).write(true).open(self.out().join("metrics.csv.tmp")).unwrap();
        let output = wait(self.process);
        drop(pipe);
        assert!(text(&output).contains("metrics.csv: can't be written"), "it stood there: {}", text(&output));
        (output, self.directory)
    }
}

/// Whether a sample of the round after `epoch` epochs has been in training.
fn trains(out: &Path, epoch: usize, sample: usize) -> bool {
    out.join(format!(".samples/{epoch:04}/{sample}.h5")).exists()
}

#[test]
fn the_next_round_trains_while_a_save_is_under_way_and_is_saved_after_it() {
    let mut run = Held::new(&[]);
    run.until("the last sample of the next round trains", |run| trains(&run.out(), 1, 3));
    run.until_it_waits();
    std::thread::sleep(Duration::from_secs(1));
    let names = fs::read_dir(run.out()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let saved: Vec<String> = names.filter(|name| name.starts_with("epoch-")).collect();
    assert_eq!(saved, ["epoch-0001.h5"], "one save at a time");
    assert!(!trains(&run.out(), 2, 0), "and one round ahead");
    let (output, directory) = run.let_go();
    assert_code(&output, 0);
    let out = directory.path().join("run");
    assert_same(&final_without_timings(&out), undisturbed());
    let waited = checkpoint::read(&out.join("final.h5")).unwrap().history[2].checkpoint_seconds;
    assert!(waited > 0.5, "the second round waited {waited} s to be saved");
    assert_eq!(fs::read_to_string(out.join("metrics.csv")).unwrap().lines().count(), 1 + 3);
}

#[test]
fn a_stop_waits_for_the_save_that_is_under_way() {
    let mut run = Held::new(&["--epochs=100000"]);
    run.until("the next round trains", |run| trains(&run.out(), 1, 0));
    signal(&run.process, libc::SIGUSR1);
    run.until_it_waits();
    let (output, _directory) = run.let_go();
    assert_code(&output, 75);
    assert!(text(&output).contains("stopped in epoch 2; everything is saved"), "{}", text(&output));
}

#[test]
fn the_last_file_waits_for_the_save_that_is_under_way() {
    let mut run = Held::new(&["--epochs=1", "--set=train.milestones=[]"]);
    let tested = |run: &Held| fs::read_to_string(run.out().join("run.log")).unwrap().contains("test top1");
    run.until("the model is tested meanwhile", tested);
    run.until_it_waits();
    assert!(!run.out().join("final.h5").exists());
    let (output, directory) = run.let_go();
    assert_code(&output, 0);
    assert_eq!(checkpoint::read(&directory.path().join("run/final.h5")).unwrap().epoch, 1);
}

#[test]
fn kill_9_while_a_checkpoint_is_written_loses_that_one_alone_and_resume_gives_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let mut caught = 0;
    for attempt in 0.. {
        assert!(attempt < 50, "no kill has met a save");
        let out = directory.path().join(attempt.to_string());
        let mut process = run(&out, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let (epoch, half) = (attempt % 2 + 1, out.join(format!("epoch-{:04}.h5.tmp", attempt % 2 + 1)));
        while !half.exists() && process.try_wait().unwrap().is_none() {
            std::thread::yield_now(); // the file is there for milliseconds
        }
        signal(&process, libc::SIGKILL);
        wait(process);
        if !half.exists() || saved_epochs(&out) != epoch - 1 {
            continue; // a moment too late
        }
        assert!(trains(&out, epoch - 1, 0), "what is kept of the round is there until its checkpoint is");
        let output = finish(&mut run(&out, &[]));
        assert_code(&output, 0);
        let said = text(&output);
        assert!(epoch == 1 || said.contains(&format!("continuing after epoch {}", epoch - 1)), "{said}");
        assert!(said.contains("sample 0 of this round is finished already"), "{said}");
        assert_same(&final_without_timings(&out), undisturbed());
        caught |= epoch;
        if caught == 3 {
            return;
        }
    }
}
