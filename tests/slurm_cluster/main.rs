//! slurm/*.slurm on a Slurm of two nodes (`cluster.sh`), which takes root and Debian's packages. Where there is none, all
//! tests are ignored, and say why.

mod cluster;
#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cluster::{Job, Slurm, Without};
use libtest_mimic::{Arguments, Completion, Trial};
use support::faces::{SMALL_FACES, packed};
use support::kill::ranks_in;
use support::{saved_epochs, until};

const MEGAFACE: &str = "amlfs_megaface.slurm";

/// A longer search on images of `SMALL_FACES`, seconds without Slurm.
fn face_search() -> Vec<&'static str> {
    let longer = ["--samples=2", "--policy=mirrored", "--epochs=10", "--set=train.milestones=[8]"];
    [SMALL_FACES, &longer].concat()
}

const CIFAR: &[&str] = &[
    "--device=cpu",
    "--threads=1",
    "--samples=2",
    "--policy=mirrored",
    "--epochs=8",
    "--set=model.depth=8",
    "--set=data.size=16",
    "--set=train.batch_size=20",
    "--set=train.milestones=[6]",
];

fn faces(directory: &Path) -> PathBuf {
    packed(directory, "faces", 24, 1).into()
}

/// Stripes that depend on the label, in CIFAR-10's binary version: five batches of 40 images and one for the test.
fn cifar(directory: &Path) -> PathBuf {
    let data = directory.join("cifar-10-batches-bin");
    std::fs::create_dir(&data).unwrap();
    let names = (1..=5).map(|i| format!("data_batch_{i}.bin")).chain(["test_batch.bin".to_owned()]);
    for (batch, name) in names.enumerate() {
        let image = |number: usize| {
            let label = number % 10;
            let pixels = (0..3 * 32 * 32).map(move |i| ((i * (label + 1) + 7 * number + 3 * batch) % 251) as u8);
            std::iter::once(label as u8).chain(pixels)
        };
        std::fs::write(data.join(name), (0..40).flat_map(image).collect::<Vec<u8>>()).unwrap();
    }
    data
}

/// A job of the MegaFace script with the small search, on these nodes.
fn job<'a>(slurm: &'a Slurm, options: &[&str], settings: &[&str]) -> Job<'a> {
    let data = slurm.data("faces", faces);
    slurm.submit(
        MEGAFACE,
        &[("PRESET", "faces-small"), ("DATA", data)],
        options,
        &[&face_search()[..], settings].concat(),
    )
}

/// The bits of the same search without Slurm.
fn assert_same_as_without_slurm(job: &Job) {
    let data = job.slurm.data("faces", faces);
    let settings = [&face_search()[..], &["--data", data]].concat();
    job.slurm.assert_same_as_without(&job.out, &settings);
}

/// Waits until some epochs are saved, and stops the ranks where they are.
fn freeze_after_a_checkpoint(job: &Job) -> Frozen {
    until("an epoch is saved", || saved_epochs(&job.out) > 0);
    Frozen::new(ranks_in(&job.out))
}

/// Processes that stand still.
struct Frozen(Vec<i32>);

impl Frozen {
    fn new(processes: Vec<i32>) -> Frozen {
        processes.iter().for_each(|&process| send(process, libc::SIGSTOP));
        Frozen(processes)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|&process| send(process, libc::SIGCONT));
    }
}

fn send(process: i32, signal: i32) {
    // SAFETY: a signal to a process of this test's own
    unsafe { libc::kill(process, signal) };
}

fn two_nodes_give_the_bits_of_a_run_without_slurm(slurm: &Slurm) {
    let job = job(slurm, &["--nodes=2"], &[]);
    job.ends("COMPLETED", 0);
    assert_same_as_without_slurm(&job);
    let log = job.log();
    assert!(log.contains("2 tasks on n[1-2]") && log.contains("every node has a copy of the data"), "{log}");
    for node in ["n1", "n2"] {
        let copy = slurm.on_node(node).join("tmp").join(format!("amlfs-{}", job.id));
        assert!(!copy.exists(), "{} is removed at the end", copy.display());
    }
}

fn mpirun_over_two_nodes_gives_these_bits_too(slurm: &Slurm) {
    // Open MPI takes the machine's only network for none
    let network = ["OMPI_MCA_oob_tcp_if_include", "OMPI_MCA_btl_tcp_if_include"].map(|name| (name, "lo"));
    let variables =
        [("PRESET", "faces-small"), ("DATA", slurm.data("faces", faces)), ("LAUNCHER", "mpirun --bind-to none")];
    let options = ["--nodes=2", "--ntasks-per-node=1"];
    let job = slurm.submit(MEGAFACE, &[&variables[..], &network].concat(), &options, &face_search());
    job.ends("COMPLETED", 0);
    assert_same_as_without_slurm(&job);
}

fn after_the_warning_before_the_time_limit_the_job_is_queued_again_and_goes_on(slurm: &Slurm) {
    // Slurm warns half a minute early, or less
    let job = job(slurm, &["--nodes=2", "--time=2", "--signal=B:USR1@60"], &[]);
    let frozen = freeze_after_a_checkpoint(&job);
    until("Slurm warns", || job.log().contains("USR1: asking the ranks to save and stop"));
    drop(frozen);
    job.starts_again(1);
    job.has_time();
    job.ends("COMPLETED", 1);
    let log = job.log();
    assert!(log.contains("stopped early: queued again"), "{log}");
    assert_same_as_without_slurm(&job);
}

fn without_a_warning_a_run_ends_before_its_job_would(slurm: &Slurm) {
    let job = job(slurm, &["--nodes=2", "--time=2", "--signal=B:CONT@1"], &[]);
    let frozen = freeze_after_a_checkpoint(&job);
    // Slurm looks at time limits every half a minute; the run has 12 seconds before that
    let end = job.end() - Duration::from_secs(12);
    until("the job's time is up", || SystemTime::now() >= end);
    drop(frozen);
    job.starts_again(1);
    job.has_time();
    job.ends("COMPLETED", 1);
    let log = job.log();
    assert!(log.contains("stopped early: queued again") && !log.contains("USR1"), "{log}");
    assert_same_as_without_slurm(&job);
}

fn a_stop_file_ends_the_job_for_good(slurm: &Slurm) {
    let job = job(slurm, &["--nodes=2"], &["--set=train.epoch_iterations=1000000"]);
    until("the ranks run", || ranks_in(&job.out).len() == 2 && job.out.join("config.toml").exists());
    File::create(job.out.join("STOP")).unwrap();
    job.ends("FAILED", 0);
    assert_eq!(job.field("ExitCode"), "75:0");
    assert!(job.log().contains("STOP stopped the run: not queued again"), "{}", job.log());
}

fn a_job_that_lost_a_rank_after_a_checkpoint_is_queued_again_and_goes_on(slurm: &Slurm) {
    let job = job(slurm, &["--nodes=2"], &[]);
    let frozen = freeze_after_a_checkpoint(&job);
    let saved = saved_epochs(&job.out);
    send(frozen.0[1], libc::SIGKILL);
    drop(frozen);
    job.ends("COMPLETED", 1);
    // a save that was under way comes to its end
    let queued = |epoch: usize| job.log().contains(&format!("epoch-{epoch:04}.h5 is saved: queued again"));
    assert!(queued(saved) || queued(saved + 1), "{saved}: {}", job.log());
    assert_same_as_without_slurm(&job);
}

fn three_restarts_without_progress_end_with_advice(slurm: &Slurm) {
    let job = job(slurm, &["--nodes=1"], &["--set=train.epoch_iterations=1000000"]);
    for restart in 1..=3 {
        until("the ranks run", || job.out.join("config.toml").exists() && ranks_in(&job.out).len() == 2 && job.runs());
        // asked to end, they would save what they have done of the round, which is progress: with a file in its place, they
        // can't
        File::create(job.out.join(".samples")).unwrap();
        job.requeue(); // as Slurm itself does where another job goes first
        job.starts_again(restart);
    }
    job.ends("FAILED", 3);
    assert_eq!(job.field("ExitCode"), "78:0");
    assert!(job.log().contains("restarted 3 times without progress"), "{}", job.log());
}

fn of_two_jobs_with_one_directory_the_second_is_refused(slurm: &Slurm) {
    let first = job(slurm, &["--nodelist=n1"], &[]);
    until("an epoch is saved", || saved_epochs(&first.out) > 0);
    // the others wait for this rank, and the owner beats
    let is_last = |process: &i32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == b"SLURM_PROCID=1")
    };
    let frozen = Frozen::new(ranks_in(&first.out).into_iter().filter(is_last).collect());
    let second = first.another(&["--nodelist=n2"]);
    second.ends("FAILED", 0);
    assert_eq!(second.field("ExitCode"), "1:0");
    let log = second.log();
    assert!(log.contains("works in this directory") && log.contains(&format!("job {}", first.id)), "{log}");
    drop(frozen);
    first.ends("COMPLETED", 0);
    assert_same_as_without_slurm(&first);
}

fn tasks_of_an_array_have_their_seeds_and_directories_and_are_queued_again_alone(slurm: &Slurm) {
    let data = slurm.data("cifar", cifar);
    let array = slurm.submit("amlfs_cifar10.slurm", &[("DATA", data)], &["--nodes=1", "--array=1-2"], CIFAR);
    let [first, last] = [1, 2].map(|task| array.task(task));
    // the last task has the number of the whole array
    assert_eq!(last.field("JobId"), array.id);
    let frozen = freeze_after_a_checkpoint(&last);
    send(frozen.0[0], libc::SIGKILL);
    drop(frozen);
    first.ends("COMPLETED", 0);
    last.ends("COMPLETED", 1);
    for (seed, task) in [("1", &first), ("2", &last)] {
        let settings = [&["--preset=cifar10", "--data", data, "--seed", seed], CIFAR].concat();
        slurm.assert_same_as_without(&task.out, &settings);
    }
}

macro_rules! trials {
    ($($test:ident),* $(,)?) => {
        vec![$(trial(stringify!($test), $test)),*]
    };
}

fn trial(name: &str, test: fn(&Slurm)) -> Trial {
    Trial::ignorable_test(name, move || match cluster::slurm() {
        Ok(slurm) => {
            test(slurm);
            Ok(Completion::Completed)
        }
        Err(Without::Impossible(why)) => Ok(Completion::ignored_with(why)),
        Err(Without::Failed(why)) => Err(why.into()),
    })
}

fn main() {
    let trials = trials![
        without_a_warning_a_run_ends_before_its_job_would,
        after_the_warning_before_the_time_limit_the_job_is_queued_again_and_goes_on,
        three_restarts_without_progress_end_with_advice,
        a_job_that_lost_a_rank_after_a_checkpoint_is_queued_again_and_goes_on,
        tasks_of_an_array_have_their_seeds_and_directories_and_are_queued_again_alone,
        of_two_jobs_with_one_directory_the_second_is_refused,
        two_nodes_give_the_bits_of_a_run_without_slurm,
        mpirun_over_two_nodes_gives_these_bits_too,
        a_stop_file_ends_the_job_for_good,
    ];
    let mut arguments = Arguments::from_args();
    // they wait more than they compute
    arguments.test_threads = arguments.test_threads.or(Some(trials.len()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    cluster::end();
    conclusion.exit()
}
