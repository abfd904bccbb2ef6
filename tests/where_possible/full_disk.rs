//! A disk that becomes full: a small tmpfs, which takes the right to mount one.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use amlfs::checkpoint;
use tempfile::TempDir;

use crate::Possible;
use crate::support::{
    SMALL, assert_code, assert_error, assert_same, errors, final_without_timings, finish, mpirun, saved_epochs, text,
    until, wait,
};

struct Disk(TempDir);

impl Disk {
    fn of(kilobytes: usize) -> Possible<Disk> {
        let directory = tempfile::tempdir().unwrap();
        let size = format!("size={kilobytes}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Disk(directory)),
            Ok(output) => Err(format!("can't mount a tmpfs: {}", text(&output).lines().next().unwrap_or_default())),
            Err(why) => Err(format!("can't start mount: {why}")),
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

fn files(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.collect()
}

fn search(out: &Path, more: &[&str]) -> Command {
    let out = format!("--out={}", out.display());
    mpirun(2, &[SMALL, &["--epochs=6", "--set=run.keep=2", &out], more].concat())
}

pub fn a_disk_that_stays_full_ends_a_search_and_keeps_the_last_checkpoint() -> Possible {
    // a checkpoint of ResNet-8 takes 0.65 MB, and so does what each of two ranks may keep of its best sample, twice while it
    // is written anew: the first checkpoint fits, the sixth does not
    let disk = Disk::of(3400)?;
    let run = disk.path().join("run");
    let output = finish(&mut search(&run, &["--epochs=12", "--set=run.keep=12"]));
    assert_error(&output, 1, "No space left on device; 3 saves in a row have failed (run.max_failed_saves = 3)");
    let newest = checkpoint::newest(&run).unwrap().expect("a checkpoint");
    checkpoint::read(&newest).expect("the checkpoint before is whole");
    let saved = format!("everything up to epoch {} is saved", saved_epochs(&run));
    assert!(errors(&output)[0].contains(&saved), "{}", text(&output));
    assert!(files(&run).iter().all(|name| !name.ends_with(".tmp")), "no temporary file is left: {:?}", files(&run));
    Ok(())
}

pub fn a_disk_that_is_full_for_a_while_changes_no_bit_of_a_search() -> Possible {
    let disk = Disk::of(8000)?;
    let (run, filler) = (disk.path().join("run"), disk.path().join("filler"));
    let said = tempfile::NamedTempFile::new().unwrap();
    let settings = ["--set=run.max_failed_saves=100"];
    let mut command = search(&run, &settings);
    let mut process = command.stdout(Stdio::null()).stderr(said.reopen().unwrap()).spawn().unwrap();
    let until = |what: &str, process: &mut Child, happened: &dyn Fn() -> bool| {
        until(what, || happened() || process.try_wait().unwrap().is_some());
    };
    until("an epoch is saved", &mut process, &|| saved_epochs(&run) > 0);
    std::io::copy(&mut std::io::repeat(0), &mut File::create(&filler).unwrap()).expect_err("the disk is full");
    let said = || std::fs::read_to_string(said.path()).unwrap();
    until("a save fails", &mut process, &|| said().contains("training goes on"));
    std::fs::remove_file(&filler).unwrap();
    let output = wait(process);
    assert!(output.status.success() && said().contains("No space left on device; training goes on"), "{}", said());

    let left_alone = tempfile::tempdir().unwrap();
    assert_code(&finish(&mut search(&left_alone.path().join("run"), &settings)), 0);
    let undisturbed = final_without_timings(&left_alone.path().join("run"));
    assert_same(&final_without_timings(&run), &undisturbed);
    Ok(())
}

pub fn a_checkpoint_that_does_not_fit_leaves_nothing() -> Possible {
    let directory = tempfile::tempdir().unwrap();
    let out = format!("--out={}", directory.path().display());
    assert_code(&finish(&mut mpirun(1, &[SMALL, &["--epochs=1", &out]].concat())), 0);
    let written = checkpoint::read(&checkpoint::epoch_file(directory.path(), 1)).unwrap();
    let mut fitted = 0;
    for kilobytes in (12..1200).step_by(72) {
        let disk = Disk::of(kilobytes)?;
        let (earlier, path) = (checkpoint::epoch_file(disk.path(), 1), checkpoint::epoch_file(disk.path(), 2));
        std::fs::write(&earlier, "x").unwrap();
        // the second attempt finds less space if the first left a file open
        for _ in 0..2 {
            match checkpoint::write(&path, &written) {
                Ok(()) => {
                    std::fs::remove_file(&path).unwrap();
                    fitted += 1;
                }
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("No space left on device") && !error.contains('\n'), "{error}");
                    assert!(error.starts_with(path.to_str().unwrap()), "{error}");
                }
            }
            assert_eq!(files(disk.path()), ["epoch-0001.h5"]);
        }
        assert_eq!(std::fs::read(&earlier).unwrap(), b"x");
    }
    assert!((2..30).contains(&fitted), "{fitted} of 34 fitted");
    Ok(())
}
