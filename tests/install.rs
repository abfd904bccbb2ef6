//! scripts/install.sh, and what it leaves behind.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use support::{AMLFS, SMALL, assert_code, finish, path, text};
use tempfile::TempDir;

fn install(prefix: &str, more: &[(&str, &str)]) -> Output {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh")).arg(prefix);
    command.env("AMLFS", AMLFS).envs(more.iter().copied());
    finish(&mut command)
}

/// A command with nothing in its environment but where the system's programs are.
fn clean(program: &str, arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    // Open MPI refuses root unless told twice
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command
}

fn stdout(command: &mut Command) -> String {
    let output = finish(command);
    assert_code(&output, 0);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the installed script from an empty directory, as Slurm does with its copy of it.
fn assert_slurm_script_needs_no_repository(prefix: &str) {
    let job = tempfile::tempdir().unwrap();
    let script = job.path().join("slurm_script");
    fs::copy(path(Path::new(prefix), "share/amlfs/slurm/amlfs_megaface.slurm"), &script).unwrap();
    fs::write(job.path().join("faces.h5"), "no faces").unwrap();
    let srun = job.path().join("srun");
    fs::write(&srun, "#!/bin/sh\nwhile [ \"${1#-}\" != \"$1\" ]; do shift; done\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&srun, Permissions::from_mode(0o755)).unwrap();
    let mut command = clean("bash", &[script.to_str().unwrap(), "--device=cpu"], job.path());
    for (name, value) in [("SLURM_JOB_ID", "7"), ("SLURM_NTASKS", "1"), ("STAGE", "0"), ("DATA", "faces.h5")] {
        command.env(name, value);
    }
    command.env("SLURM_SUBMIT_DIR", job.path()).env("LAUNCHER", srun).env("OUT", job.path().join("run"));
    let output = finish(&mut command);
    assert_code(&output, 1);
    assert!(text(&output).contains("amlfs: error: faces.h5: not an HDF5 file"), "{}", text(&output));
}

fn assert_completion(prefix: &str, directory: &Path) {
    let ask = "source \"$0\"; COMP_WORDS=(amlfs tra); COMP_CWORD=1; _amlfs amlfs tra amlfs; echo \"${COMPREPLY[@]}\"";
    let file = path(Path::new(prefix), "share/bash-completion/completions/amlfs");
    assert_eq!(stdout(&mut clean("bash", &["-c", ask, &file], directory)), "train\n");
}

#[test]
fn an_installation_starts_from_a_clean_shell_and_its_slurm_scripts_need_no_repository() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let prefix = path(here, "opt/amlfs-0.1.0");
    for _ in 0..2 {
        assert_code(&install(&prefix, &[]), 0); // it may be repeated
    }
    let program = path(Path::new(&prefix), "bin/amlfs");
    for help in [&["--help"][..], &["train", "--help"], &["--version"]] {
        let direct = stdout(clean(AMLFS, help, here).env("TERM", "dumb"));
        assert_eq!(stdout(clean(&program, help, here).env("TERM", "dumb")), direct);
        assert!(!direct.contains("manual"), "it is for this script: {direct}");
    }
    let settings = SMALL.iter().copied().filter(|argument| !argument.starts_with("--epochs"));
    let settings: Vec<&str> = settings.chain(["--epochs=1", "--out=run"]).collect();
    assert!(stdout(&mut clean(&program, &settings, here)).contains("run/final.h5"));

    let pages: Vec<_> = fs::read_dir(path(Path::new(&prefix), "share/man/man1")).unwrap().collect();
    assert!(pages.len() > 10, "a page per command: {pages:?}");
    assert_completion(&prefix, here);
    assert_slurm_script_needs_no_repository(&prefix);
}

/// A copy of the system's HDF5 in a directory of its own, as a cluster's module has it.
fn module(directory: &TempDir) -> String {
    let ldd = stdout(Command::new("ldd").arg(AMLFS));
    let line = ldd.lines().find(|line| line.trim_start().starts_with("libhdf5")).expect("HDF5 is linked");
    let (name, rest) = line.trim().split_once(" => ").unwrap();
    let library = rest.split(' ').next().unwrap();
    fs::create_dir(directory.path().join("hdf5")).unwrap();
    fs::copy(library, directory.path().join("hdf5").join(name)).unwrap();
    path(directory.path(), "hdf5")
}

#[test]
fn libraries_of_modules_are_found_without_the_modules() {
    let directory = tempfile::tempdir().unwrap();
    let (prefix, hdf5) = (path(directory.path(), "amlfs"), module(&directory));
    assert_code(&install(&prefix, &[("LD_LIBRARY_PATH", &hdf5), ("AMLFS_CACHE", "/nowhere")]), 0);
    let mut command = clean(&path(Path::new(&prefix), "bin/amlfs"), &["--version"], directory.path());
    let log = path(directory.path(), "libraries");
    assert_code(&finish(command.env("LD_DEBUG", "libs").env("LD_DEBUG_OUTPUT", &log)), 0);
    // sh, amlfs and amlfs started anew are one process, whose number the file's name ends with
    let mut files = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
    let loaded = fs::read_to_string(files.find(|file| file.to_str().unwrap().starts_with(&log)).unwrap()).unwrap();
    assert!(loaded.contains(&format!("calling init: {hdf5}/libhdf5")), "{loaded}");
    assert!(!Path::new(&prefix).join("lib").exists(), "a libtorch of the user's own is not copied");
}

#[test]
fn what_can_not_be_installed_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let output = install(&path(directory.path(), "a b"), &[]);
    assert_code(&output, 2);
    assert!(text(&output).contains("/a b: choose a directory of plain letters"), "{}", text(&output));
    let output = install(&path(directory.path(), "c"), &[("AMLFS", "/nowhere/amlfs")]);
    assert_code(&output, 2);
    assert!(text(&output).contains("AMLFS=/nowhere/amlfs is not a program"), "{}", text(&output));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
