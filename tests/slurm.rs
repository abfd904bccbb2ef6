//! slurm/*.slurm without a Slurm: srun, mpirun, scontrol, squeue, df and amlfs are stand-ins. tests/slurm_cluster has a
//! real one.

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use support::until;
use tempfile::TempDir;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");
const DATA: &str = "all the faces";

/// Runs what follows its options, once.
const SRUN: &str = r#"echo "srun $*" >>"$LOG/calls"
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@""#;
const MPIRUN: &str = r#"echo "mpirun $*" >>"$LOG/calls"
shift 2
exec "$@""#;
const SCONTROL: &str = r#"echo "$*" >>"$LOG/scontrol""#;
const SQUEUE: &str = r#"[ "$SLURM_TIME_FORMAT" = %s ] && echo "$END""#;
const DF: &str = r#"echo Avail; echo "$FREE""#;
/// Keeps what it got, replaces the checkpoint by the one it shall leave, if any, and ends with the code it shall, at
/// once or after USR1.
const AMLFS: &str = r#"printf '%s\n' "$@" >"$LOG/arguments"
echo "$SLURM_JOB_END_TIME" >"$LOG/end"
while [ $# -gt 0 ]; do
    case "$1" in --data) cp -p "$2" "$LOG/data" ;; --out) out=$2 ;; esac
    shift
done
trap 'touch "$LOG/signalled"' USR1
touch "$LOG/started"
while [ -n "$UNTIL_USR1" ] && ! [ -e "$LOG/signalled" ]; do sleep 0.05; done
[ ! -e "$out/STOP" ] || mv "$out/STOP" "$out/STOPPED"
rm -f "$out"/epoch-*
[ -z "$CHECKPOINT" ] || { mkdir -p "$(dirname "$out/$CHECKPOINT")" && touch "$out/$CHECKPOINT"; }
exit "$CODE""#;

struct Job {
    directory: TempDir,
    command: Command,
}

struct Ended {
    code: Option<i32>,
    log: String,
}

impl Job {
    /// A job of the MegaFace script.
    fn new(arguments: &[&str]) -> Job {
        Job::of("amlfs_megaface.slurm", arguments)
    }

    /// A job of this script that has data, room for a copy, and a run with one checkpoint.
    fn of(name: &str, arguments: &[&str]) -> Job {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["bin", "log", "node", "run"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        let programs = [
            ("srun", SRUN),
            ("mpirun", MPIRUN),
            ("scontrol", SCONTROL),
            ("squeue", SQUEUE),
            ("df", DF),
            ("amlfs", AMLFS),
        ];
        for (name, body) in programs {
            let file = path.join("bin").join(name);
            fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(path.join("faces.h5"), DATA).unwrap();
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        File::options().write(true).open(path.join("faces.h5")).unwrap().set_modified(hour_ago).unwrap();
        File::create(path.join("run/epoch-0001.h5")).unwrap();
        // Slurm runs a copy from its spool directory
        let script = path.join("slurm_script");
        fs::copy(format!("{REPOSITORY}/slurm/{name}"), &script).unwrap();

        let mut command = Command::new("bash");
        command.arg(script).args(arguments).current_dir(path).stdin(Stdio::null()).env_clear();
        command.env("PATH", format!("{}/bin:{}", path.display(), std::env::var("PATH").unwrap()));
        let slurm = [("JOB_ID", "7"), ("NTASKS", "32"), ("JOB_NUM_NODES", "1"), ("CPUS_PER_TASK", "4")];
        command.envs(slurm.map(|(name, value)| (format!("SLURM_{name}"), value)));
        command.env("SLURM_SUBMIT_DIR", REPOSITORY).env("TMPDIR", path.join("node")).env("LOG", path.join("log"));
        command.env("AMLFS", path.join("bin/amlfs")).env("DATA", path.join("faces.h5")).env("OUT", path.join("run"));
        command.env("FREE", "1000000").env("CODE", "0").env("CHECKPOINT", "").env("UNTIL_USR1", "").env("END", "NONE");
        Job { directory, command }
    }

    fn with(mut self, name: &str, value: &str) -> Job {
        self.command.env(name, value);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What a stand-in wrote down, if it ran.
    fn noted(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path("log").join(name)).ok()
    }

    fn start(&mut self) -> Child {
        let log = File::create(self.path("job.log")).unwrap();
        self.command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn wait(&self, mut child: Child) -> Ended {
        let mut code = None;
        until("the job ends", || {
            let status = child.try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        Ended { code, log: fs::read_to_string(self.path("job.log")).unwrap() }
    }

    fn run(&mut self) -> Ended {
        let child = self.start();
        self.wait(child)
    }

    /// The value of an argument that amlfs got.
    fn argument(&self, name: &str) -> PathBuf {
        let arguments = self.noted("arguments").expect("amlfs ran");
        let value = arguments.lines().skip_while(|line| *line != name).nth(1);
        value.unwrap_or_else(|| panic!("no {name} in {arguments}")).into()
    }
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_run_that_stopped_early_or_lost_its_ranks_after_a_checkpoint_is_queued_again() {
    for (code, checkpoint, again) in [
        ("75", "epoch-0002.h5", true),
        ("75", "epoch-0001.h5", true),
        ("75", "", true),
        ("0", "epoch-0002.h5", false),
        ("1", "epoch-0002.h5", false),
        ("78", "epoch-0002.h5", false),
        ("101", "epoch-0002.h5", false),
        ("137", "", false),
        ("137", ".samples/0.h5", true),
        ("137", "epoch-0001.h5", true),
        ("137", "epoch-0002.h5", true),
        ("205", "epoch-0002.h5", true),
    ] {
        let mut job = Job::new(&[]).with("CODE", code).with("CHECKPOINT", checkpoint);
        let ended = job.run();
        assert_eq!(ended.code, code.parse().ok(), "{}", ended.log);
        let requeued = again.then(|| "requeue 7\n".to_string());
        assert_eq!(job.noted("scontrol"), requeued, "code {code}, checkpoint {checkpoint:?}: {}", ended.log);
    }
}

#[test]
fn three_restarts_without_progress_are_enough() {
    let mut job = Job::new(&[]).with("CODE", "75").with("CHECKPOINT", "epoch-0001.h5");
    let restart = |job: &mut Job, count: usize| {
        job.command.env("SLURM_RESTART_COUNT", count.to_string());
        job.run()
    };
    for count in 0..3 {
        assert_eq!(restart(&mut job, count).code, Some(75));
    }
    let ended = restart(&mut job, 3);
    assert_eq!(ended.code, Some(78), "{}", ended.log);
    assert!(ended.log.contains("restarted 3 times without progress"), "{}", ended.log);
    // a job that was submitted anew, and one that got on in between
    assert_eq!(restart(&mut job, 0).code, Some(75));
    assert_eq!(restart(&mut job, 1).code, Some(75));
    let mut job = job.with("CHECKPOINT", "epoch-0002.h5");
    for count in 2..5 {
        assert_eq!(restart(&mut job, count).code, Some(75));
    }
    // within a round
    let mut job = Job::new(&[]).with("CODE", "75").with("CHECKPOINT", ".samples/3.h5");
    for count in 0..5 {
        assert_eq!(restart(&mut job, count).code, Some(75));
    }
}

#[test]
fn after_a_restart_the_ranks_step_has_another_number() {
    let mut job = Job::new(&[]).with("SLURM_RESTART_COUNT", "2");
    assert_eq!(job.run().code, Some(0));
    let calls = job.noted("calls").unwrap();
    let steps: Vec<_> = calls.lines().take_while(|line| !line.contains("--mpi=pmix")).collect();
    let empty = steps.iter().filter(|line| line.ends_with(" true")).count();
    assert_eq!(empty, 2, "{calls}");
}

#[test]
fn a_run_that_its_user_stopped_is_not_queued_again() {
    let mut job = Job::new(&[]).with("CODE", "75").with("CHECKPOINT", "epoch-0002.h5");
    File::create(job.path("run/STOP")).unwrap();
    let ended = job.run();
    assert_eq!((ended.code, job.noted("scontrol")), (Some(75), None));
    assert!(ended.log.contains("run/STOP"), "{}", ended.log);
}

#[test]
fn the_ranks_get_a_local_copy_of_the_data_and_the_users_arguments() {
    let mut job = Job::new(&["--set", "run.seed=2 3"]);
    let ended = job.run();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let copy = job.path("node/amlfs-7/faces.h5");
    let copy = copy.to_str().unwrap();
    assert_eq!(job.noted("data").as_deref(), Some(DATA));
    assert_eq!(modified(&job.path("log/data")), modified(&job.path("faces.h5")));
    assert!(!job.path("node/amlfs-7").exists(), "the copy is removed at the end");
    let run = job.path("run");
    let (run, cuda, readers) = (run.to_str().unwrap(), "run.device=cuda", "run.loader_threads=2");
    let expected = [
        ["--preset", "megaface", "--data", copy, "--out", run].as_slice(),
        &["--set", cuda, "--set", readers, "--resume", "--set", "run.seed=2 3"],
    ]
    .concat();
    assert_eq!(job.noted("arguments").unwrap().lines().collect::<Vec<_>>(), expected);
    let calls = job.noted("calls").unwrap();
    assert!(calls.contains("--mpi=pmix") && calls.contains("--cpus-per-task=4"), "{calls}");
}

#[test]
fn re_identification_starts_from_weights_and_takes_the_users_preset() {
    for name in ["market1501", "dukemtmc"] {
        let script = format!("amlfs_{name}.slurm");
        let mut job = Job::of(&script, &["--seed", "2"]);
        assert_eq!(job.run().code, Some(0));
        let arguments = |job: &Job| job.noted("arguments").unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        let found = arguments(&job);
        assert_eq!(found[..2], ["--preset".to_owned(), format!("{name}-spherereid")]);
        assert_eq!(found[10..], ["--resume", "--init", "data/resnet50.safetensors", "--seed", "2"]);

        let preset = format!("{name}-mgn");
        let mut job = Job::of(&script, &[]).with("PRESET", &preset).with("INIT", "/scratch/imagenet.safetensors");
        assert_eq!(job.run().code, Some(0));
        let found = arguments(&job);
        assert_eq!(found[1], preset);
        assert_eq!(found[10..], ["--resume", "--init", "/scratch/imagenet.safetensors"]);
    }
}

#[test]
fn own_images_start_from_weights_if_there_are_any() {
    let after_resume = |init: &str| {
        let mut job = Job::of("amlfs_images.slurm", &["--seed", "2"]).with("INIT", init);
        assert_eq!(job.run().code, Some(0));
        let arguments = job.noted("arguments").unwrap();
        assert!(arguments.starts_with("--preset\nimages\n"), "{arguments}");
        arguments.split_once("--resume\n").unwrap().1.to_owned()
    };
    assert_eq!(after_resume("resnet50.safetensors"), "--init\nresnet50.safetensors\n--seed\n2\n");
    assert_eq!(after_resume(""), "--seed\n2\n");
}

#[test]
fn a_job_may_train_on_cpus_if_that_is_said() {
    let mut job = Job::new(&[]).with("DEVICE", "cpu").with("SLURM_CPUS_PER_TASK", "1");
    assert_eq!(job.run().code, Some(0));
    let arguments = job.noted("arguments").unwrap();
    assert!(arguments.ends_with("--set\nrun.device=cpu\n--set\nrun.loader_threads=1\n--resume\n"), "{arguments}");
}

#[test]
fn cifar10_reads_a_directory_where_it_is() {
    let mut job = Job::of("amlfs_cifar10.slurm", &["--label-noise", "0.2"]);
    assert_eq!(job.run().code, Some(0));
    assert_eq!(job.argument("--preset"), Path::new("cifar10"));
    assert_eq!(job.argument("--data"), job.path("node/amlfs-7/faces.h5"));
    let arguments = job.noted("arguments").unwrap();
    assert!(arguments.ends_with("--resume\n--label-noise\n0.2\n"), "{arguments}");

    let job = Job::of("amlfs_cifar10.slurm", &[]);
    let directory = job.path("log");
    let mut job = job.with("DATA", directory.to_str().unwrap());
    assert_eq!(job.run().code, Some(0));
    assert_eq!(job.argument("--data"), directory);
}

#[test]
fn a_task_of_an_array_has_a_seed_a_directory_and_a_name_of_its_own() {
    let mut job = Job::new(&["--epochs", "3"]).with("CODE", "75");
    job.command.env("SLURM_ARRAY_JOB_ID", "5").env("SLURM_ARRAY_TASK_ID", "2");
    let ended = job.run();
    assert_eq!(ended.code, Some(75), "{}", ended.log);
    assert_eq!(job.argument("--out"), job.path("run/seed-2"));
    assert!(job.noted("arguments").unwrap().ends_with("--resume\n--seed\n2\n--epochs\n3\n"));
    assert_eq!(job.noted("scontrol").as_deref(), Some("requeue 5_2\n"));

    let mut job = Job::new(&["--seed=7"]);
    let ended = job.command.env("SLURM_ARRAY_JOB_ID", "5").env("SLURM_ARRAY_TASK_ID", "2").status().unwrap();
    assert_eq!((ended.code(), job.noted("arguments")), (Some(78), None));
}

/// What the task of a grid's array trains: its run directory and the arguments after --resume, and before --preset.
fn of_a_grid(script: &str, task: &str, variables: &[(&str, &str)]) -> (PathBuf, Vec<String>, Vec<String>) {
    let mut job = Job::of(script, &["--epochs", "3"]);
    job.command.envs(variables.iter().copied()).env("SLURM_ARRAY_JOB_ID", "5").env("SLURM_ARRAY_TASK_ID", task);
    let ended = job.run();
    assert_eq!(ended.code, Some(0), "{}", ended.log);
    let arguments: Vec<String> = job.noted("arguments").unwrap().lines().map(str::to_owned).collect();
    let place = |name: &str| arguments.iter().position(|argument| argument == name).unwrap();
    let out = job.argument("--out").strip_prefix(job.path("run")).unwrap().to_owned();
    let (first, last) = (place("--preset"), place("--resume"));
    (out, arguments[last + 1..].to_vec(), arguments[..first].to_vec())
}

#[test]
fn the_arrays_of_tables_2_6_and_7_have_a_task_for_each_cell_and_seed() {
    let grid = |script: &str, task: &str, variables: &[(&str, &str)], out: &str, options: &[&str], command: &[&str]| {
        let (found, after, before) = of_a_grid(script, task, variables);
        assert_eq!(found, Path::new(out), "{script}, task {task}");
        assert_eq!(after, [options, &["--epochs", "3"]].concat(), "{script}, task {task}");
        assert_eq!(before, command, "{script}, task {task}");
    };
    let cifar = "amlfs_cifar10.slurm";
    let search = [("METHOD", "search")];
    grid(cifar, "1", &search, "search/noise-0/seed-1", &["--seed", "1", "--label-noise", "0"], &[]);
    grid(cifar, "9", &search, "search/noise-20/seed-3", &["--seed", "3", "--label-noise", "0.2"], &[]);
    let fixed = ["--seed", "2", "--label-noise", "0.1", "--policy", "fixed"];
    grid(cifar, "5", &[("METHOD", "fixed")], "fixed/noise-10/seed-2", &fixed, &[]);
    let softmax = ["--seed", "1", "--label-noise", "0.1"];
    let two_seeds = [("METHOD", "softmax"), ("SEEDS", "2")];
    grid(cifar, "3", &two_seeds, "softmax/noise-10/seed-1", &softmax, &["train", "--loss", "softmax"]);

    let init = ["--init", "data/resnet50.safetensors"];
    let samples = [&["--seed", "1", "--samples", "32"], &init[..]].concat();
    grid("ablation_samples.slurm", "10", &[], "samples-32/seed-1", &samples, &[]);
    let intervals = [&["--seed", "3", "--set", "search.intervals=3"], &init[..]].concat();
    grid("ablation_intervals.slurm", "3", &[], "intervals-3/seed-3", &intervals, &[]);
}

#[test]
fn a_task_outside_of_its_grid_is_refused() {
    for (script, task, variable, why) in [
        ("ablation_samples.slurm", Some("13"), ("SEEDS", "3"), "task 13: 4 x 3 seeds are --array=1-12"),
        ("ablation_samples.slurm", Some("0"), ("SEEDS", "2"), "task 0: 4 x 2 seeds are --array=1-8"),
        ("ablation_intervals.slurm", None, ("SEEDS", "3"), "submit this with --array=1-9: 3 x 3 seeds (SEEDS)"),
        ("ablation_intervals.slurm", Some("1"), ("SEEDS", "few"), "SEEDS=few: must be a number, 1 or more"),
        ("amlfs_cifar10.slurm", None, ("METHOD", "search"), "submit this with --array=1-9"),
        ("amlfs_cifar10.slurm", Some("1"), ("METHOD", "sofmax"), "METHOD=sofmax: must be search, fixed or softmax"),
    ] {
        let mut job = Job::of(script, &[]).with(variable.0, variable.1);
        if let Some(task) = task {
            job.command.env("SLURM_ARRAY_JOB_ID", "5").env("SLURM_ARRAY_TASK_ID", task);
        }
        let ended = job.run();
        assert_eq!((ended.code, job.noted("arguments")), (Some(78), None), "{}", ended.log);
        assert!(ended.log.contains(why), "{}", ended.log);
    }
}

#[test]
fn the_ranks_are_told_when_the_job_ends() {
    for (given, squeue, told) in
        [("", "1795718916", "1795718916\n"), ("1700000000", "0", "1700000000\n"), ("", "NONE", "\n")]
    {
        let mut job = Job::new(&[]).with("SLURM_JOB_END_TIME", given).with("END", squeue);
        let ended = job.run();
        assert_eq!((ended.code, job.noted("end").as_deref()), (Some(0), Some(told)), "{}", ended.log);
    }
}

#[test]
fn without_room_or_unwanted_or_without_success_the_data_are_read_where_they_are() {
    for (name, value, says) in
        [("FREE", "5", "5 bytes free"), ("STAGE", "0", ""), ("TMPDIR", "/proc/none", "not every node")]
    {
        let mut job = Job::new(&[]).with(name, value);
        let ended = job.run();
        assert_eq!(ended.code, Some(0), "{}", ended.log);
        assert_eq!(job.argument("--data"), job.path("faces.h5"));
        assert!(ended.log.contains(says), "{}", ended.log);
    }
}

#[test]
fn a_complete_copy_is_used_and_any_other_is_replaced() {
    for (same_time, seen) in [(true, "ALL THE FACES"), (false, DATA)] {
        let mut job = Job::new(&[]);
        fs::create_dir(job.path("node/amlfs-7")).unwrap();
        let copy = job.path("node/amlfs-7/faces.h5");
        fs::write(&copy, "ALL THE FACES").unwrap();
        if same_time {
            let time = modified(&job.path("faces.h5"));
            File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
        }
        let ended = job.run();
        assert_eq!((ended.code, job.noted("data").as_deref()), (Some(0), Some(seen)), "{}", ended.log);
    }
}

#[test]
fn the_warning_before_the_time_limit_reaches_the_ranks() {
    // 138: it came before the ranks could take it
    for (launcher, code, checkpoint) in
        [("mpirun", 75, "epoch-0002.h5"), ("srun", 75, "epoch-0002.h5"), ("srun", 138, "")]
    {
        let mut job = Job::new(&[]).with("LAUNCHER", launcher).with("UNTIL_USR1", "1");
        job = job.with("CODE", &code.to_string()).with("CHECKPOINT", checkpoint);
        let child = job.start();
        until("amlfs runs", || job.noted("started").is_some());
        let sent = Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let ended = job.wait(child);
        assert_eq!(ended.code, Some(code), "{launcher}: {}", ended.log);
        assert_eq!(job.noted("scontrol").as_deref(), Some("requeue 7\n"), "{launcher}: {}", ended.log);
        assert!(job.noted("calls").unwrap().contains(&format!("{launcher} -")), "{launcher}");
    }
}

#[test]
fn a_warning_while_the_data_are_copied_is_not_lost() {
    let mut job = Job::new(&[]);
    let slow = "while ! [ -e \"$LOG/go\" ]; do touch \"$LOG/copying\"; sleep 0.05; done";
    fs::write(job.path("bin/df"), format!("#!/bin/sh\n{slow}\n{DF}\n")).unwrap();
    let child = job.start();
    until("the data are copied", || job.noted("copying").is_some());
    assert!(Command::new("kill").args(["-USR1", &child.id().to_string()]).status().unwrap().success());
    File::create(job.path("log/go")).unwrap();
    let ended = job.wait(child);
    assert_eq!((ended.code, job.noted("arguments")), (Some(75), None), "{}", ended.log);
    assert_eq!(job.noted("scontrol").as_deref(), Some("requeue 7\n"), "{}", ended.log);
}

#[test]
fn what_is_missing_is_named() {
    for (name, value) in [("DATA", "/nowhere/faces.h5"), ("AMLFS", "/nowhere/amlfs"), ("AMLFS_ENV", "/nowhere/env.sh")]
    {
        let mut job = Job::new(&[]).with(name, value);
        let ended = job.run();
        assert_eq!(ended.code, Some(78), "{}", ended.log);
        assert!(ended.log.contains(&format!("{name}={value}")), "{}", ended.log);
        assert_eq!(job.noted("arguments"), None);
    }
    let ended = Job::new(&[]).with("SLURM_SUBMIT_DIR", "/nowhere").run();
    assert!(ended.code == Some(78) && ended.log.contains("AMLFS_ROOT"), "{}", ended.log);
}
