//! Runs the program as a user does, and compares what it leaves behind.
#![allow(dead_code)] // each test binary uses a part

pub mod faces;
pub mod kill;
pub mod page;
pub mod persons;

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use amlfs::checkpoint::{self, Checkpoint};
use amlfs::state::{Column, EPOCH_COLUMNS, SAMPLE_COLUMNS, Value};

pub const AMLFS: &str = env!("CARGO_BIN_EXE_amlfs");

thread_local! {
    /// Where a test's mpirun keeps its session. All of a user's have one directory otherwise, which the last one removes: two that
    /// begin at once can find it missing and then there (Open MPI 4.1: "mkdir was unable to create the desired directory").
    static SESSIONS: tempfile::TempDir = tempfile::tempdir().expect("a temporary directory");
}

/// Only what hangs takes so long, on any machine.
const HANGS: Duration = Duration::from_secs(300);

/// A search that takes seconds: 16 x 16 glyphs, ResNet-8, B = 4. On CPU, where the bits are promised.
pub const SMALL: &[&str] = &[
    "--preset=demo",
    "--search=paper",
    "--policy=mirrored",
    "--device=cpu",
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

/// More of `SMALL`: every option of a search beyond the paper's.
pub const NATURAL: &[&str] = &[
    "--policy=natural",
    "--set=search.space=derivatives",
    "--set=search.smoothness=1.5",
    "--set=search.learning_rate=1.0",
    "--set=search.betas=[0.5, 0.0]",
    "--set=search.round_epochs=2",
    "--set=train.milestones=[1]",
    "--set=train.average=0.3",
];

/// Settings of a search for `train`, which has one sample and no policy.
pub fn for_training<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let of_a_search = |flag: &str| ["--samples=", "--policy="].iter().any(|name| flag.starts_with(name));
    settings.iter().copied().filter(|flag| !of_a_search(flag)).collect()
}

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
    SESSIONS.with(|sessions| command.env("OMPI_MCA_orte_tmpdir_base", sessions.path()));
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    command.arg(program).stdin(Stdio::null());
    command
}

/// Takes the variables away by which a launcher, or a Slurm job around the tests, is known.
pub fn without_launcher(command: &mut Command) {
    for name in amlfs::comm::RANKS {
        command.env_remove(name);
    }
}

/// Runs the program to its end, without a launcher.
pub fn amlfs(arguments: &[&str]) -> Output {
    finish(Command::new(AMLFS).args(arguments))
}

/// Runs to the end.
pub fn finish(command: &mut Command) -> Output {
    wait(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts"))
}

/// Starts the same command twice, the second time while the first, which makes `out`, stands still: what became of both.
pub fn two_at_once(arguments: &[&str], out: &str) -> [Output; 2] {
    let (first, owner) = (started(arguments), format!("{out}.owner"));
    until("the first has said who it is", || std::fs::metadata(&owner).is_ok_and(|file| file.len() > 0));
    let signal = |signal| assert_eq!(unsafe { libc::kill(first.id() as i32, signal) }, 0, "it has not ended");
    signal(libc::SIGSTOP);
    let second = amlfs(arguments);
    signal(libc::SIGCONT);
    [wait(first), second]
}

/// A process of the program.
pub fn started(arguments: &[&str]) -> Child {
    let mut command = Command::new(AMLFS);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for the end of a process, which prints less than a pipe holds; panics, and kills it, if it hangs.
pub fn wait(mut child: Child) -> Output {
    let start = Instant::now();
    while child.try_wait().expect("a child can be waited for").is_none() {
        if start.elapsed() > HANGS {
            let _ = child.kill();
            panic!("still running after {HANGS:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output can be read")
}

/// Waits for something to happen; panics if it never does.
pub fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < HANGS, "{HANGS:?}, and still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Seconds of CPU time that a process has taken.
pub fn cpu_seconds(process: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    // SAFETY: asks for a constant
    ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64
}

/// This process' peak resident memory since `reset_peak`, and memory now, in bytes.
pub fn resident() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
    };
    (field("VmHWM:"), field("VmRSS:"))
}

pub fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// A path as an argument.
pub fn path(directory: &Path, name: &str) -> String {
    directory.join(name).to_str().unwrap().to_owned()
}

/// An image as a PNG that begins and ends well, and can't be decoded.
pub fn damaged_png(image: &[u8]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = amlfs::data::decode::any(image).expect("a whole image");
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("it can be encoded");
    let mut bytes = bytes.into_inner();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    assert!(amlfs::data::decode::looks_whole(&bytes).is_ok() && amlfs::data::decode::any(&bytes).is_err());
    bytes
}

/// What a command that succeeded printed.
pub fn json(output: &Output) -> serde_json::Value {
    assert_code(output, 0);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|why| panic!("{why}: {}", text(output)))
}

pub fn assert_code(output: &Output, code: i32) {
    let text = text(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
}

/// The error lines of the program itself; mpirun adds its own.
pub fn errors(output: &Output) -> Vec<String> {
    let text = text(output);
    text.lines().filter(|line| line.starts_with("amlfs:") && line.contains("error: ")).map(String::from).collect()
}

pub fn assert_error(output: &Output, code: i32, what: &str) {
    assert_code(output, code);
    let errors = errors(output);
    assert_eq!(errors.len(), 1, "one sentence: {}", text(output));
    assert!(errors[0].contains(what), "'{}' lacks '{what}'", errors[0]);
}

/// Standard output and error, for messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Epochs that the newest checkpoint holds.
pub fn saved_epochs(run: &Path) -> usize {
    let newest = checkpoint::newest(run).unwrap();
    newest.map_or(0, |file| file.file_stem().unwrap().to_str().unwrap()["epoch-".len()..].parse().unwrap())
}

/// The final checkpoint without what may differ between equal runs: timings and the number of ranks.
pub fn final_without_timings(directory: &Path) -> Checkpoint {
    without_timings(checkpoint::read(&directory.join("final.h5")).expect("a final checkpoint"))
}

pub fn without_timings(mut found: Checkpoint) -> Checkpoint {
    found.info.ranks = 0;
    for record in &mut found.history {
        clear_timings(EPOCH_COLUMNS, record);
        record.samples.iter_mut().for_each(|sample| clear_timings(SAMPLE_COLUMNS, sample));
    }
    found
}

fn clear_timings<R>(columns: &[Column<R>], record: &mut R) {
    for column in columns.iter().filter(|column| ["s", "1/s"].contains(&column.units)) {
        if let Value::Number { set: Some(set), .. } = column.value {
            set(record, 0.0);
        }
    }
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
