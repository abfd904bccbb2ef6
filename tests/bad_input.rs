//! Each mistake gives one sentence that names it, the documented exit code, on all ranks, and loses nothing.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::{
    AMLFS, SMALL, assert_code, assert_error, assert_same, final_without_timings, finish, mpirun, mpirun_program, text,
};

fn search(ranks: usize, settings: &[&str]) -> Output {
    finish(&mut mpirun(ranks, &[SMALL, settings].concat()))
}

fn out(directory: &Path) -> String {
    format!("--out={}", directory.join("run").display())
}

#[test]
fn settings_that_can_not_be_end_with_78_on_two_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let out = out(directory.path());
    let toml = directory.path().join("bad.toml");
    std::fs::write(&toml, "[search]\nsimga = 0.2\n").unwrap();
    let config = format!("--config={}", toml.display());
    let cases: &[(&[&str], &str)] = &[
        (
            &["--preset=nonsense"],
            "--preset nonsense: there is no such preset; known: cifar10, cifar100, cifar10-lt, demo",
        ),
        (&["--set=search.sigma=-1"], "search.sigma = -1 (--set search.sigma=-1): must be above 0"),
        (&["--set=nonsense"], "expected KEY=VALUE"),
        (&["--set=train.nonsense=1"], "unknown field `nonsense`"),
        (&["--set=train.milestones=1.5"], "train.milestones = 1.5"),
        (&[&config], "search.simga"),
        (&["--config=/nowhere.toml"], "--config /nowhere.toml: can't be read"),
        (&["--samples=1", "--policy=reinforce"], "search.samples = 1: fewer than the 2 MPI ranks"),
        (&["--set=loss.name=softmax"], "amlfs train --loss NAME"),
        (&["--set=data.kind=cifar10"], "data.path"),
        (&["--data=somewhere"], "--data somewhere: data.kind = \"glyphs\" generates its images; leave it out"),
    ];
    for (settings, what) in cases {
        let output = search(2, &[*settings, &[&out]].concat());
        println!("{settings:?}");
        assert_error(&output, 78, what);
    }
    let named = text(&search(1, &[&config, &out]));
    assert!(named.contains(&toml.display().to_string()), "the file is named: {named}");
    assert!(!directory.path().join("run").exists(), "nothing was begun");
}

#[test]
fn cuda_where_there_is_none_ends_with_78() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = mpirun(2, &["--preset=demo", "--device=cuda", &out(directory.path())]);
    assert_error(&finish(command.env("CUDA_VISIBLE_DEVICES", "")), 78, "run.device = \"cuda\": ");
    assert!(!directory.path().join("run").exists(), "nothing was begun");
}

#[test]
fn a_job_that_was_given_gpus_does_not_train_on_cpus_unless_that_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let job = |name: &str, device: &[&str]| {
        let out = format!("--out={}", directory.path().join(name).display());
        let mut command = mpirun(2, &[&["--preset=demo", "--dry-run", &out[..]], device].concat());
        finish(command.env("CUDA_VISIBLE_DEVICES", "").env("SLURM_GPUS_ON_NODE", "2"))
    };
    assert_error(
        &job("auto", &[]),
        78,
        "Slurm has given this job GPUs (SLURM_GPUS_ON_NODE=2), and the program sees none",
    );
    assert_code(&job("cpu", &["--device=cpu"]), 0);
    let mut command = mpirun(2, &["--preset=demo", "--dry-run"]);
    assert_code(&finish(command.env("CUDA_VISIBLE_DEVICES", "").env("SLURM_GPUS_ON_NODE", "0")), 0);
}

#[test]
fn usage_errors_end_with_2() {
    assert_code(&search(2, &["--nonsense"]), 2);
    assert_code(&finish(Command::new(AMLFS).arg("--preset=demo")), 2);
    assert_code(&finish(Command::new(AMLFS).args(["train", "--loss=nonsense", "--out=x"])), 2);
}

#[test]
fn bad_cifar_files_end_with_1_and_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let settings = ["--set=data.kind=cifar10".into(), format!("--data={}", data.display()), out(directory.path())];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    assert_error(&search(2, &settings), 1, "data: no CIFAR-10 here; wanted is the directory of data_batch_1.bin");
    for i in 1..=5 {
        std::fs::write(data.join(format!("data_batch_{i}.bin")), vec![i; 3073 * 40]).unwrap();
    }
    std::fs::write(data.join("test_batch.bin"), vec![0; 3000]).unwrap();
    assert_error(
        &search(2, &settings),
        1,
        "test_batch.bin: 3000 bytes are no whole number of 3073-byte CIFAR-10 records",
    );
    std::fs::write(data.join("test_batch.bin"), vec![77; 3073]).unwrap();
    assert_error(&search(2, &settings), 1, "test_batch.bin: record 0 has label 77");
    assert!(!directory.path().join("run").exists(), "nothing was begun");
}

#[test]
fn a_run_directory_is_protected_and_damaged_checkpoints_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let out = out(directory.path());
    assert_code(&search(2, &[&out]), 0);
    let finished = final_without_timings(&run);

    assert_error(&search(2, &[&out]), 78, "the directory is not empty; continue its run with --resume");
    let other = search(2, &[&out, "--resume", "--set=search.sigma=0.7"]);
    assert_error(&other, 78, "search.sigma is 0.2 there and 0.7 here");
    assert_same(&finished, &final_without_timings(&run));

    // back to the state after epoch 2, then damage its checkpoint in several ways
    std::fs::remove_file(run.join("final.h5")).unwrap();
    std::fs::remove_file(run.join("epoch-0003.h5")).unwrap();
    let file = run.join("epoch-0002.h5");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for (bytes, what) in [
        (&whole[..whole.len() / 2], "truncated"),
        (&flipped[..], "damaged"),
        (&b"something else altogether"[..], "not an HDF5 file"),
        (&[][..], "epoch-0002.h5"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let output = search(2, &[&out, "--resume"]);
        assert_error(&output, 1, what);
        assert!(text(&output).contains("epoch-0002.h5"));
        assert_eq!(std::fs::read(&file).unwrap(), bytes, "it is left as it is");
        for command in ["inspect", "evaluate"] {
            assert_error(&finish(Command::new(AMLFS).arg(command).arg(&file)), 1, what);
        }
    }
    std::fs::write(&file, &whole).unwrap();
    assert_code(&search(2, &[&out, "--resume"]), 0);
    assert_same(&finished, &final_without_timings(&run));
}

#[test]
fn a_dry_run_says_what_the_run_would_go_on_with_and_meets_its_errors() {
    let directory = tempfile::tempdir().unwrap();
    let (run, out) = (directory.path().join("run"), out(directory.path()));
    let dry = |more: &[&str]| search(2, &[&[&out[..], "--dry-run"], more].concat());
    let says = |output: &Output, what: &str| {
        assert_code(output, 0);
        assert!(text(output).contains(what), "{}", text(output));
    };
    says(&dry(&[]), "run starts anew");
    says(&dry(&["--resume"]), "run starts anew");
    says(&dry(&[]), "# saving a stop took 0.");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    assert_error(&search(2, &["--out=/proc/run", "--dry-run"]), 1, "can't be written");

    assert_code(&search(2, &[&out]), 0);
    let before = std::fs::read(run.join("run.log")).unwrap();
    assert_error(&dry(&[]), 78, "the directory is not empty; continue its run with --resume");
    assert_error(&dry(&["--resume", "--set=search.sigma=0.7"]), 78, "search.sigma is 0.2 there and 0.7 here");
    says(&dry(&["--resume"]), "run is complete: nothing would be done");
    std::fs::remove_file(run.join("final.h5")).unwrap();
    says(&dry(&["--resume"]), "run goes on after epoch 3");
    assert_eq!(std::fs::read(run.join("run.log")).unwrap(), before);
}

#[test]
fn a_run_directory_that_can_not_be_written_ends_with_1() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("run"), "a file").unwrap();
    assert_error(&search(2, &[&out(directory.path())]), 1, "run: can't be created");
    assert_error(&search(2, &["--out=/proc/run"]), 1, "/proc/run: can't be created");
}

#[test]
fn tasks_that_are_alone_in_mpi_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    // what mpirun of another MPI leaves in the environment
    let mut command = Command::new(AMLFS);
    command.args(SMALL).arg(out(directory.path())).env("MV2_COMM_WORLD_SIZE", "2");
    assert_error(&finish(&mut command), 1, "the launcher started 2 tasks (MV2_COMM_WORLD_SIZE)");
}

#[test]
fn a_panic_on_one_rank_ends_all_with_101() {
    const PANIC: &str = "AMLFS_TEST_PANIC";
    if std::env::var_os(PANIC).is_some() {
        return panicking_rank();
    }
    // this test, started again under mpirun, is the program that panics
    let mut command = mpirun_program(2, &std::env::current_exe().unwrap());
    command.args(["--exact", "a_panic_on_one_rank_ends_all_with_101", "--nocapture"]).env(PANIC, "1");
    let output = finish(&mut command);
    assert_code(&output, 101);
    assert!(text(&output).contains("rank 1 panics on purpose"));
}

fn panicking_rank() {
    amlfs::process::end_all_ranks_on_panic();
    let comm = amlfs::comm::Comm::world().unwrap();
    assert!(comm.rank() != 1, "rank 1 panics on purpose");
    comm.barrier(); // for ever, were it not ended
}
