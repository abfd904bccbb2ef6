//! The Slurm of `cluster.sh`, and jobs on it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use amlfs::checkpoint::Checkpoint;
use tempfile::TempDir;

use crate::support::{AMLFS, assert_code, assert_same, final_without_timings, finish, mpirun, text, until};

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A Slurm that runs as long as this program, started by the first test that needs it.
pub struct Slurm {
    /// `cluster.sh`; ends when its standard input does.
    cluster: Mutex<Child>,
    configuration: PathBuf,
    directory: TempDir,
    data: Mutex<HashMap<&'static str, String>>,
    /// Final checkpoints of runs without Slurm, by their settings.
    without: Mutex<HashMap<String, Checkpoint>>,
}

/// Why there is no Slurm.
pub enum Without {
    /// There can be none on this machine.
    Impossible(String),
    Failed(String),
}

static SLURM: OnceLock<Result<Slurm, Without>> = OnceLock::new();

pub fn slurm() -> Result<&'static Slurm, &'static Without> {
    SLURM.get_or_init(Slurm::start).as_ref()
}

/// Ends the Slurm, if one was started, and all that runs on it.
pub fn end() {
    if let Some(Ok(slurm)) = SLURM.get() {
        let mut cluster = slurm.cluster.lock().unwrap();
        drop(cluster.stdin.take());
        let _ = cluster.wait();
        let _ = std::fs::remove_dir_all(slurm.directory.path()); // statics are not dropped
    }
}

impl Slurm {
    fn start() -> Result<Slurm, Without> {
        let mut command = Command::new(format!("{REPOSITORY}/tests/slurm_cluster/cluster.sh"));
        command.args(["exec", "sh", "-c", "echo $SLURM_CONF; exec cat"]);
        let mut cluster =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash");
        let mut line = String::new();
        BufReader::new(cluster.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let mut why = String::new();
            cluster.stderr.take().unwrap().read_to_string(&mut why).unwrap();
            return Err(match cluster.wait().unwrap().code() {
                Some(77) => Without::Impossible(why.lines().last().unwrap_or_default().to_owned()),
                _ => Without::Failed(why),
            });
        }
        Ok(Slurm {
            cluster: Mutex::new(cluster),
            configuration: line.trim().into(),
            directory: tempfile::tempdir().unwrap(),
            data: Mutex::default(),
            without: Mutex::default(),
        })
    }

    /// What a node sees as `node` beside the configuration: files of its own.
    pub fn on_node(&self, node: &str) -> PathBuf {
        self.configuration.with_file_name(node)
    }

    /// A data set that `make` makes in a directory, once.
    pub fn data(&self, name: &'static str, make: fn(&Path) -> PathBuf) -> &str {
        let mut data = self.data.lock().unwrap();
        let made = data.entry(name).or_insert_with(|| make(self.directory.path()).to_str().unwrap().to_owned());
        // as long as the program
        Box::leak(made.clone().into_boxed_str())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("SLURM_CONF", &self.configuration).current_dir(REPOSITORY);
        command
    }

    fn ask(&self, program: &str, arguments: &[&str]) -> String {
        let output = finish(self.command(program).args(arguments));
        assert_code(&output, 0);
        text(&output).trim().to_owned()
    }

    /// A job of this script with two ranks and a run directory of its own.
    pub fn submit(&self, script: &str, variables: &[(&str, &str)], options: &[&str], settings: &[&str]) -> Job<'_> {
        let out = TempDir::new_in(&self.directory).unwrap().keep();
        let call = Call {
            script: format!("slurm/{script}"),
            variables: variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        };
        Job::submit(self, call, out.join("run"), options)
    }

    /// The final checkpoint in `out` must be that of the program without Slurm with these settings.
    pub fn assert_same_as_without(&self, out: &Path, settings: &[&str]) {
        let mut without = self.without.lock().unwrap();
        let expected = without.entry(settings.join(" ")).or_insert_with(|| {
            let directory = TempDir::new_in(&self.directory).unwrap();
            let out_flag = format!("--out={}", directory.path().join("run").display());
            assert_code(&finish(&mut mpirun(2, &[settings, &[&out_flag]].concat())), 0);
            final_without_place(&directory.path().join("run"))
        });
        assert_same(expected, &final_without_place(out));
    }
}

/// Without timings, and without the configuration, which names the copy of the data on the nodes' disks.
fn final_without_place(out: &Path) -> Checkpoint {
    let mut found = final_without_timings(out);
    found.info.config.clear();
    found
}

/// What a job was submitted with.
#[derive(Clone)]
struct Call {
    script: String,
    variables: Vec<(String, String)>,
    settings: Vec<String>,
}

/// A job; cancelled at the end of its test.
pub struct Job<'a> {
    pub slurm: &'a Slurm,
    /// Slurm's name of it: NUMBER or, of a task of an array, NUMBER_TASK.
    pub id: String,
    pub out: PathBuf,
    call: Call,
}

impl<'a> Job<'a> {
    fn submit(slurm: &'a Slurm, call: Call, out: PathBuf, options: &[&str]) -> Job<'a> {
        let mut sbatch = slurm.command("sbatch");
        sbatch.args(["--parsable", "--ntasks=2", "--cpus-per-task=1"]);
        let array = options.iter().any(|option| option.starts_with("--array"));
        let pattern = if array { "%A_%a" } else { "%j" };
        sbatch.arg(format!("--output={}/job-{pattern}.log", out.parent().unwrap().display()));
        sbatch.args(options).arg(&call.script).args(&call.settings);
        sbatch.envs(call.variables.clone()).env("OUT", &out).env("AMLFS", AMLFS);
        sbatch.env("TMPDIR", slurm.configuration.with_file_name("node/tmp"));
        let output = finish(&mut sbatch);
        assert_code(&output, 0);
        Job { slurm, id: String::from_utf8(output.stdout).unwrap().trim().to_owned(), out, call }
    }

    /// The same job once more.
    pub fn another(&self, options: &[&str]) -> Job<'a> {
        Job::submit(self.slurm, self.call.clone(), self.out.clone(), options)
    }

    /// A task of this array.
    pub fn task(&self, task: usize) -> Job<'a> {
        let (id, out) = (format!("{}_{task}", self.id), self.out.join(format!("seed-{task}")));
        let task = Job { slurm: self.slurm, id, out, call: self.call.clone() };
        until("Slurm makes the task", || !task.log().is_empty());
        task
    }

    /// What the script and the program have said.
    pub fn log(&self) -> String {
        let directory = self.out.ancestors().find(|directory| directory.parent() == Some(self.slurm.directory.path()));
        let file = directory.unwrap().join(format!("job-{}.log", self.id));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// What `scontrol show job` says.
    pub fn field(&self, name: &str) -> String {
        let shown = self.slurm.ask("scontrol", &["show", "job", "--oneliner", &self.id]);
        let start = format!("{name}=");
        let field = shown.split_whitespace().find_map(|field| field.strip_prefix(&start));
        field.unwrap_or_else(|| panic!("no {name} in {shown}")).to_owned()
    }

    /// When Slurm would end it.
    pub fn end(&self) -> SystemTime {
        let mut squeue = self.slurm.command("squeue");
        squeue.env("SLURM_TIME_FORMAT", "%s").args(["--noheader", "--format=%e", "--jobs", &self.id]);
        let seconds = text(&finish(&mut squeue));
        UNIX_EPOCH + Duration::from_secs(seconds.trim().parse().expect("seconds"))
    }

    pub fn runs(&self) -> bool {
        self.field("JobState") == "RUNNING"
    }

    pub fn requeue(&self) {
        self.slurm.ask("scontrol", &["requeue", &self.id]);
    }

    /// From now on its time limit is far away.
    pub fn has_time(&self) {
        self.slurm.ask("scontrol", &["update", &format!("JobId={}", self.id), "TimeLimit=60"]);
    }

    /// Waits until Slurm has queued it again so many times.
    pub fn starts_again(&self, restarts: usize) {
        self.until("queued again", || self.field("Restarts") == restarts.to_string() || self.has_ended());
        assert!(!self.has_ended(), "{}", self.field("JobState"));
    }

    /// Waits for its end, after so many restarts.
    pub fn ends(&self, state: &str, restarts: usize) {
        self.until("the job ends", || self.has_ended());
        let found = (self.field("JobState"), self.field("Restarts"));
        assert_eq!(found, (state.to_owned(), restarts.to_string()), "{}", self.log());
    }

    fn has_ended(&self) -> bool {
        !["PENDING", "CONFIGURING", "RUNNING", "COMPLETING"].contains(&self.field("JobState").as_str())
    }

    fn until(&self, what: &str, mut happened: impl FnMut() -> bool) {
        until(what, || {
            std::thread::sleep(Duration::from_millis(300)); // Slurm is asked
            happened()
        });
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("job {}:\n{}", self.id, self.log());
        }
        let _ = finish(self.slurm.command("scancel").arg(&self.id));
    }
}
