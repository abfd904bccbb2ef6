//! The search, and `train`: the same with a fixed loss, or with what a search learned.

use std::path::Path;
use std::time::Duration;

use tch::Device;

use super::{learned, on_all_ranks, only_rank_0_speaks};
use crate::checkpoint::{Checkpoint, RunInfo, from_named};
use crate::cli::{RunArguments, TrainArguments};
use crate::comm::Comm;
use crate::config::{self, Config, Precision, Source};
use crate::device;
use crate::error::{Error, Result};
use crate::model;
use crate::policy::Policy;
use crate::pretrained;
use crate::run_directory::{self, Found, GRACE, RunDirectory, RunRecorder};
use crate::search::{self, Progress};
use crate::stop::Stop;
use crate::task::{self, Task};
use crate::terminal;

pub fn search(arguments: &RunArguments) -> Result<()> {
    run(arguments, || {
        let config = match &arguments.init_mu {
            Some(file) => learned::started_from(arguments, file)?,
            None => arguments.layers(None, None)?.resolve()?,
        };
        if config.space().intervals == 0 {
            let why = "loss.name: a search is over the unified loss; for a fixed one use amlfs train --loss NAME";
            return Err(Error::config(why));
        }
        Ok(config)
    })
}

pub fn train(arguments: &TrainArguments) -> Result<()> {
    run(&arguments.run, || match (&arguments.loss, &arguments.replay) {
        (_, Some(file)) => learned::replayed(&arguments.run, file, arguments.replay_as),
        (Some(loss), None) => {
            let config = arguments.run.layers(Some(loss), None)?.resolve()?;
            if config.space().intervals > 0 {
                let why = "--loss unified: this loss is searched, not trained with; leave 'train' out";
                return Err(Error::config(why));
            }
            Ok(config)
        }
        (None, None) => unreachable!("the parser wants one of them"),
    })
}

fn run(arguments: &RunArguments, config: impl FnOnce() -> Result<Config>) -> Result<()> {
    // What every rank can see by itself fails on all of them, before MPI; one says so.
    let decided = config().and_then(|config| {
        refuse_unused(arguments, &config)?;
        tch::set_num_threads(config.run.threads as i32);
        let devices = device::choose(&config.run)?;
        tch::Cuda::cudnn_set_benchmark(config.train.cudnn_benchmark.unwrap_or(true));
        Ok((config, devices))
    });
    let (config, devices) = decided.map_err(only_rank_0_speaks)?;
    on_all_ranks(|comm| with_ranks(arguments, &config, &devices, comm))
}

/// Error: an option that this task has no use for.
fn refuse_unused(arguments: &RunArguments, config: &Config) -> Result<()> {
    match &arguments.data {
        Some(path) if matches!(config.data.source, Source::Glyphs { .. }) => {
            let why = "data.kind = \"glyphs\" generates its images; leave it out, or choose a preset for your data";
            Err(Error::config(format!("--data {}: {why}", path.display())))
        }
        _ => Ok(()),
    }
}

fn with_ranks(arguments: &RunArguments, config: &Config, devices: &[Device], comm: &Comm) -> Result<()> {
    if let Some(out) = &arguments.out {
        let stall = config.run.stall_minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        comm.limit_waits(stall, Box::new(Stop::new(out, config.run.max_hours)));
    }
    check_size(config, comm)?;
    if comm.is_root() {
        warn_of_few_rounds(config);
        warn_of_bfloat16(config, devices);
    }
    device::check(devices, comm)?;
    // before anything is written, so that a wrong path leaves no run directory behind
    let mut task = open_task(arguments, config, devices, comm)?;
    if arguments.dry_run {
        let looked = if comm.is_root() { what_out_holds(arguments, config) } else { Ok(None) };
        let start = comm.agree(looked)?;
        let keeping = arguments.out.as_deref().map(|out| time_to_keep(out, &*task, comm)).transpose()?;
        if comm.is_root() {
            print_plan(config, comm, devices, &*task);
            keeping.iter().chain(&start).for_each(|line| println!("# {line}"));
        }
        return Ok(());
    }
    let mut directory = RunDirectory::new(arguments.out.as_deref().expect("required by the parser"));
    match find(&mut directory, config, arguments.resume, comm)? {
        Found::Finished => Ok(()),
        found => {
            comm.keep_notes(directory.path()); // now that this run owns it
            search_in(&directory, config, devices, &mut *task, found, comm)
        }
    }
}

/// For a plan: from where the run would start in --out. Errors: those of the run itself.
fn what_out_holds(arguments: &RunArguments, config: &Config) -> Result<Option<String>> {
    let Some(out) = &arguments.out else { return Ok(None) };
    let found = RunDirectory::new(out).look(config, arguments.resume)?;
    let start = match found {
        Found::Fresh => "starts anew".into(),
        Found::Unfinished(checkpoint) => format!("goes on after epoch {}", checkpoint.epoch),
        Found::Finished => "is complete: nothing would be done".into(),
    };
    Ok(Some(format!("the run in {} {start}", out.display())))
}

/// For a plan: how long a stop takes to be saved, by the slowest of the ranks, all at once. Errors: --out can't be written.
fn time_to_keep(out: &Path, task: &dyn Task, comm: &Comm) -> Result<String> {
    let numbers = task.specs().iter().map(|spec| spec.len()).sum();
    comm.barrier();
    let took = comm.agree(run_directory::time_to_keep(out, comm.rank(), numbers))?;
    let slowest = Duration::from_millis(comm.all_max(took.as_millis() as u64));
    if comm.is_root() && slowest > GRACE {
        log::warn!("saving a stop takes {}", run_directory::longer_than_grace(slowest));
    }
    Ok(format!("saving a stop took {:.2} s, all ranks at once", slowest.as_secs_f64()))
}

fn check_size(config: &Config, comm: &Comm) -> Result<()> {
    let (samples, ranks) = (config.search.samples, comm.size());
    if ranks <= samples {
        return Ok(());
    }
    let text =
        format!("search.samples = {samples}: fewer than the {ranks} MPI ranks; a rank without a sample has no work");
    comm.agree(Err(Error::config(text)))
}

fn warn_of_bfloat16(config: &Config, devices: &[Device]) {
    if config.train.precision == Precision::Bf16 && devices.contains(&Device::Cpu) {
        log::warn!(
            "train.precision = bf16 is for GPUs: on some CPUs libtorch computes convolutions of tiny images wrongly in it \
             (docs/clusters.md)"
        );
    }
}

fn warn_of_few_rounds(config: &Config) {
    let (rounds, policy) = (search::searched_rounds(config), config.policy);
    if config.space().intervals > 0 && rounds < policy.least_rounds {
        log::warn!(
            "search.round_epochs = {}: the policy '{}' has {rounds} rounds to learn in, and wants {} to move the mean by \
             a few sigmas (docs/search.md)",
            config.search.round_epochs,
            policy.name,
            policy.least_rounds
        );
    }
}

/// The task, with the weights to start from unless there is a checkpoint to continue.
fn open_task(arguments: &RunArguments, config: &Config, devices: &[Device], comm: &Comm) -> Result<Box<dyn Task>> {
    let mut task = comm.agree(task::open(config, devices))?;
    let continued = comm.is_root() && arguments.out.as_deref().is_some_and(RunDirectory::has_checkpoint);
    if comm.all_max(continued as u64) == 0 {
        comm.agree(initialise(config, comm, &mut *task))?;
    }
    Ok(task)
}

/// What the run directory holds; only rank 0 looks, and only it has the checkpoint.
fn find(directory: &mut RunDirectory, config: &Config, resume: bool, comm: &Comm) -> Result<Found> {
    let found = if comm.is_root() { directory.open(config, resume) } else { Ok(Found::Fresh) };
    let found = comm.agree(found)?;
    if comm.all_max(matches!(found, Found::Finished) as u64) == 0 {
        return Ok(found);
    }
    if comm.is_root() {
        log::info!("{} is there: the run is complete", directory.final_file().display());
    }
    Ok(Found::Finished)
}

/// Searches to the end, or until it is stopped, and leaves the files of a run.
fn search_in(
    directory: &RunDirectory,
    config: &Config,
    devices: &[Device],
    task: &mut dyn Task,
    found: Found,
    comm: &Comm,
) -> Result<()> {
    let stop = Stop::new(directory.path(), config.run.max_hours);
    let (mut policy, progress) = start(config, comm, task, found)?;
    let info = run_info(config, comm, devices, task);
    if comm.is_root() {
        directory.write_label_changes(task.label_changes())?;
        log::info!("{}", task.describe());
        log::info!(
            "{} rank(s), {} sample(s), device {}, {} thread(s) per rank, libtorch {}",
            info.ranks,
            config.search.samples,
            info.device,
            info.threads,
            info.libtorch
        );
    }
    let specs = task.specs().to_vec();
    let mut recorder = RunRecorder::new(directory, info, specs, config, stop, comm, progress.epoch)?;
    recorder.start(&progress.history);
    match search::run(config, comm, task, &mut *policy, &mut recorder, progress) {
        Ok(progress) if comm.is_root() => finish(directory, task, &mut recorder, &progress),
        Ok(_) => Ok(()),
        Err(stopped @ Error::Stopped(_)) => {
            recorder.stopped();
            Err(if comm.is_root() { stopped } else { stopped.told_elsewhere() })
        }
        Err(error) => Err(error),
    }
}

fn run_info(config: &Config, comm: &Comm, devices: &[Device], task: &dyn Task) -> RunInfo {
    RunInfo {
        config: config.to_toml(),
        seed: config.run.seed,
        ranks: comm.size(),
        threads: config.run.threads,
        libtorch: libtorch_version().into(),
        device: device::describe(devices),
        classes: task.classes().to_vec(),
    }
}

/// Measures the final model on the test set and writes final.h5.
fn finish(
    directory: &RunDirectory,
    task: &mut dyn Task,
    recorder: &mut RunRecorder,
    progress: &Progress,
) -> Result<()> {
    let tested = task.test()?;
    for (name, value) in &tested.metrics {
        terminal::line(&format!("test {name:12} {value:.4}"));
    }
    recorder.finish(progress, tested)?;
    terminal::line(&directory.final_file().display().to_string());
    Ok(())
}

/// The policy and the progress to start from, the same on all ranks: a checkpoint's, which rank 0 has, or the
/// initial ones, which every rank makes itself.
fn start(config: &Config, comm: &Comm, task: &mut dyn Task, found: Found) -> Result<(Box<dyn Policy>, Progress)> {
    let policy = search::policy(config);
    let state = state_of(task);
    let mut progress = Progress { epoch: 0, policy: policy.state().clone(), history: Vec::new(), state: state.into() };
    let resumed = match found {
        Found::Unfinished(checkpoint) => resume(&mut progress, *checkpoint, task).map(|()| true),
        _ => Ok(false),
    };
    let resumed = comm.agree(resumed)?;
    if comm.all_max(resumed as u64) == 0 {
        return Ok((policy, progress));
    }
    progress.broadcast(comm);
    Ok((policy, progress))
}

/// Takes over the weights that the configuration names.
fn initialise(config: &Config, comm: &Comm, task: &mut dyn Task) -> Result<()> {
    let Some(path) = &config.model.init else {
        if matches!(config.data.source, Source::Reid { .. }) && comm.is_root() {
            log::warn!(
                "model.init is not set: ResNet-50 starts from random weights, the published results from ImageNet's \
                 (docs/reid.md)"
            );
        }
        return Ok(());
    };
    let mut state = state_of(task);
    let classifiers = model::classifier_names(&config.model);
    let report = pretrained::load(path, task.specs(), classifiers, &mut state)?;
    task.load(&state);
    if comm.is_root() {
        let (found, file) = (report.found, path.display());
        let list = |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
        log::info!("{found} tensors start from {file}; random: {}", list(&report.missing));
        log::info!("tensors of {file} that have no place: {}", list(&report.unused));
    }
    Ok(())
}

fn state_of(task: &mut dyn Task) -> Vec<f32> {
    let length = task.specs().iter().map(|spec| spec.offset + spec.len()).max().unwrap_or(0);
    let mut state = vec![0.0; length];
    task.save(&mut state);
    state
}

fn resume(progress: &mut Progress, checkpoint: Checkpoint, task: &dyn Task) -> Result<()> {
    if checkpoint.policy.mu.len() != progress.policy.mu.len() || checkpoint.history.len() != checkpoint.epoch {
        return Err(Error::failed("the checkpoint does not fit its own configuration"));
    }
    log::info!("continuing after epoch {}", checkpoint.epoch);
    progress.state = from_named(&checkpoint.tensors, task.specs())?.into();
    progress.epoch = checkpoint.epoch;
    progress.policy = checkpoint.policy;
    progress.history = checkpoint.history;
    Ok(())
}

fn print_plan(config: &Config, comm: &Comm, devices: &[Device], task: &dyn Task) {
    print!("{}", config.to_toml());
    let numbers = task.specs().iter().map(|spec| spec.len()).sum::<usize>();
    let model: usize = task.specs().iter().filter(|spec| spec.path.starts_with("model/")).map(|spec| spec.len()).sum();
    let megabytes = |numbers: usize| numbers as f64 * 4.0 / 1e6;
    let config::Search { samples, round_epochs, .. } = config.search;
    println!("\n# plan");
    let search = config.search.name.as_deref().unwrap_or("as set");
    let (rounds, policy) = (search::searched_rounds(config), config.policy.name);
    if config.space().intervals > 0 {
        let numbers = config.numbers_to_learn();
        println!("# search: {search}; policy {policy}, {numbers} numbers to learn in {rounds} rounds");
    }
    println!("# {} rank(s), {} sample(s): {} per rank at most", comm.size(), samples, samples.div_ceil(comm.size()));
    println!("# rank 0 computes on {}, with {} thread(s)", device::describe(devices), config.run.threads);
    println!("# {}", task.describe());
    println!(
        "# {} steps an epoch, {} epochs, an exchange every {round_epochs}: {} steps per rank",
        task.steps(),
        config.train.epochs,
        task.steps() * config.train.epochs * samples.div_ceil(comm.size())
    );
    println!("# {model} numbers in the model; with the optimiser's state {:.1} MB", megabytes(numbers));
    println!(
        "# memory per rank beside activations: {:.1} MB on each device, {:.1} MB on the host",
        megabytes(numbers + model),
        megabytes(3 * numbers)
    );
    println!(
        "# a stop, and run.save_minutes, save {:.1} MB per rank; a rank has two of these files of a round at most, until that is \
         saved",
        megabytes(numbers)
    );
    println!("# files: the last {} checkpoints and the best, {:.1} MB each", config.run.keep, megabytes(numbers));
}

/// What tch 0.26 binds.
fn libtorch_version() -> &'static str {
    env!("AMLFS_LIBTORCH")
}
