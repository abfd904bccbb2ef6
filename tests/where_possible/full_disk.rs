//! A disk that becomes full: a small tmpfs, which takes the right to mount one.

use std::path::Path;
use std::process::Command;

use amlfs::checkpoint;
use tempfile::TempDir;

use crate::Possible;
use crate::support::{SMALL, assert_code, assert_error, finish, mpirun, text};

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

pub fn a_search_ends_with_1_and_keeps_the_last_checkpoint() -> Possible {
    // a checkpoint of ResNet-8 takes 0.65 MB: the second or third does not fit
    let disk = Disk::of(1300)?;
    let run = disk.path().join("run");
    let out = format!("--out={}", run.display());
    let output = finish(&mut mpirun(2, &[SMALL, &["--set=run.keep=3", &out]].concat()));
    assert_error(&output, 1, "No space left on device");
    let newest = checkpoint::newest(&run).unwrap().expect("a checkpoint");
    checkpoint::read(&newest).expect("the checkpoint before is whole");
    assert!(files(&run).iter().all(|name| !name.ends_with(".tmp")), "no temporary file is left: {:?}", files(&run));
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
