//! A rank's memory, as the kernel counts it. Alone in its file: a child's peak begins with its parent's.

mod support;

use std::process::Command;

use support::{AMLFS, SMALL};

/// Peak resident memory of one rank, in bytes.
#[allow(clippy::zombie_processes)] // wait4 waits for it
fn peak_of(settings: &[&str]) -> f64 {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(AMLFS);
    command.args(SMALL).args(settings).arg(format!("--out={}", directory.path().join("run").display()));
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: waits for this test's own child, with room for both results
    unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    assert_eq!(status, 0, "the run succeeds");
    usage.ru_maxrss as f64 * 1024.0
}

#[test]
fn a_ranks_memory_grows_neither_with_samples_nor_with_epochs() {
    let small = peak_of(&["--samples=2", "--epochs=2"]);
    let large = peak_of(&["--samples=12", "--epochs=8"]);
    println!("2 samples, 2 epochs: {:.1} MB; 12 samples, 8 epochs: {:.1} MB", small / 1e6, large / 1e6);
    assert!(large < small + 12e6, "{small} -> {large} bytes");
}
