//! What a process does before its work and after it: as little as it can.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use support::{AMLFS, SMALL, until, wait};

/// What glibc's loader says of itself after the libraries are loaded, and after their destructors.
const LOADED: &str = "total startup time in dynamic loader";
const DESTRUCTED: &str = "final number of relocations";

#[test]
fn a_process_ends_without_libtorchs_destructors_whatever_it_was_asked() {
    for arguments in [&["--version"][..], &["--help"], &["train", "--no-such-option"], &["inspect", "/no/such/run"]] {
        let output = Command::new(AMLFS).args(arguments).env("LD_DEBUG", "statistics").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(LOADED), "{arguments:?}: {told}");
        assert!(!told.contains(DESTRUCTED), "{arguments:?}: {told}");
    }
}

#[test]
fn a_search_without_a_launcher_starts_no_daemon_and_loads_no_network() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("run");
    let mut command = Command::new(AMLFS);
    command.args(SMALL).args(["--epochs=200", &format!("--out={}", out.display())]);
    support::without_launcher(&mut command);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the search has begun", || out.join("config.toml").exists());
    let process = Path::new("/proc").join(child.id().to_string());
    let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap();
    let (children, libraries) = (read(&format!("task/{}/children", child.id())), read("maps"));
    std::fs::write(out.join("STOP"), "").unwrap();
    assert_eq!(wait(child).status.code(), Some(75));
    assert_eq!(children, "", "the numbers of its children");
    let networks: Vec<_> =
        libraries.lines().filter(|line| line.contains("libpsm2") || line.contains("libucp")).collect();
    assert!(networks.is_empty(), "{networks:?}");
}
