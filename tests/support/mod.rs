//! Runs the program as a user does, and compares what it leaves behind.
#![allow(dead_code)] // each test binary uses a part

pub mod kill;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use amlfs::checkpoint::{self, Checkpoint};
use amlfs::state::EpochRecord;

pub const AMLFS: &str = env!("CARGO_BIN_EXE_amlfs");

/// A search that takes seconds: 16 x 16 glyphs, ResNet-8, B = 4.
pub const SMALL: &[&str] = &[
    "--preset=demo",
    "--threads=1",
    "--samples=4",
    "--set=search.sigma=0.2",
    "--set=search.warmup_epochs=0",
    "--epochs=3",
    "--set=data.glyphs.image_size=16",
    "--set=data.glyphs.train_images=300",
    "--set=data.glyphs.test_images=100",
    "--set=train.batch_size=32",
];

/// `mpirun -n ranks amlfs arguments...`, not yet started.
pub fn mpirun(ranks: usize, arguments: &[&str]) -> Command {
    let mut command = mpirun_program(ranks, Path::new(AMLFS));
    command.args(arguments);
    command
}

/// `mpirun -n ranks program`, not yet started.
pub fn mpirun_program(ranks: usize, program: &Path) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string()]);
    // these are Open MPI's; other MPIs neither know nor need them
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1").env("OMPI_MCA_hwloc_base_binding_policy", "none");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    command.arg(program).stdin(Stdio::null());
    command
}

/// Runs to the end, at most five minutes.
pub fn finish(command: &mut Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    wait(child, Duration::from_secs(300))
}

/// Waits for the end of a process; panics, and kills it, if it takes longer.
pub fn wait(mut child: Child, limit: Duration) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("a child can be waited for").is_none() {
        if start.elapsed() > limit {
            let _ = child.kill();
            panic!("still running after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output can be read")
}

/// Says that a test could not be made here; straight to standard error, because cargo hides what passing tests print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

pub fn assert_code(output: &Output, code: i32) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
}

/// Standard output and error, for messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The final checkpoint without what may differ between equal runs: timings and the number of ranks.
pub fn final_without_timings(directory: &Path) -> Checkpoint {
    without_timings(checkpoint::read(&directory.join("final.h5")).expect("a final checkpoint"))
}

pub fn without_timings(mut found: Checkpoint) -> Checkpoint {
    found.info.ranks = 0;
    for record in &mut found.history {
        let EpochRecord { images_per_second, seconds, wait_seconds, exchange_seconds, checkpoint_seconds, .. } = record;
        for timing in [images_per_second, seconds, wait_seconds, exchange_seconds, checkpoint_seconds] {
            *timing = 0.0;
        }
        for sample in &mut record.samples {
            sample.train_seconds = 0.0;
            sample.validation_seconds = 0.0;
        }
    }
    found
}

/// Equal to the last bit, NaN included.
pub fn assert_same(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(format!("{:?}", a.history), format!("{:?}", b.history), "history");
    assert_eq!(a.policy, b.policy, "policy");
    assert_eq!(a.test, b.test, "test");
    assert_eq!(a.tensors.len(), b.tensors.len());
    for (a, b) in a.tensors.iter().zip(&b.tensors) {
        assert_eq!((&a.path, &a.shape), (&b.path, &b.shape));
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert!(bits(&a.values) == bits(&b.values), "{} differs", a.path);
    }
    assert_eq!(a.info, b.info);
}
