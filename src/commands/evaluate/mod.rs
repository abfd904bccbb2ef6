//! Measures a checkpoint's model: on its run's test set here, by a benchmark's protocol in the other files.

mod lfw;
mod megaface;
mod megaface_inputs;
mod reid;

use std::path::Path;

use crate::cli::{EvaluateArguments, EvaluateCommand, EvaluateTestArguments, MachineArguments};
use crate::comm::Comm;
use crate::commands::only_rank_0_speaks;
use crate::config::{DataKind, DeviceKind};
use crate::device;
use crate::embedding::StoredRun;
use crate::error::{Error, Result};
use crate::task;

pub fn run(arguments: &EvaluateArguments) -> Result<()> {
    match &arguments.protocol {
        None => test_set(&arguments.test_set),
        Some(EvaluateCommand::Megaface(arguments)) => megaface::run(arguments),
        Some(EvaluateCommand::Lfw(arguments)) => lfw::run(arguments),
        Some(EvaluateCommand::Reid(arguments)) => reid::run(arguments),
    }
}

/// CPU threads of this rank, which libtorch gets, too: as wanted, or this rank's share of the node's cores.
fn threads(machine: &MachineArguments, comm: &Comm) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = machine.threads.map_or((cores / comm.local().1).max(1), usize::from);
    tch::set_num_threads(threads as i32);
    threads
}

/// Runs `work` on every rank, with so many threads, and with the checkpoint that is the model's if there is one.
fn on_all_ranks(
    model: Option<&Path>,
    machine: &MachineArguments,
    work: impl FnOnce(&Comm, usize, Option<StoredRun>) -> Result<()>,
) -> Result<()> {
    if model.is_none() && (machine.device == Some(DeviceKind::Cuda) || machine.devices_per_rank.is_some()) {
        let why = "only a checkpoint's network (--model) computes there; features from files are compared on the CPU";
        return Err(only_rank_0_speaks(Error::config(format!("--device cuda and --devices-per-rank: {why}"))));
    }
    // before MPI_Init because of the devices; what is wrong with it the ranks tell each other after
    let run = model.map(|path| StoredRun::open(path, |config| machine.adjust(&mut config.run))).transpose();
    super::on_all_ranks(|comm| {
        let mut run = comm.agree(run)?;
        let threads = threads(machine, comm);
        if let Some(StoredRun { config, devices, .. }) = &mut run {
            config.run.threads = threads;
            config.run.loader_threads = threads;
            device::check(devices, comm)?;
        }
        work(comm, threads, run)
    })
}

/// The option of --test and --data that does nothing for a run on such data, and why.
fn ignored(kind: DataKind, test: bool, data: bool) -> Option<(&'static str, &'static str)> {
    match kind {
        DataKind::Faces => None,
        _ if test => Some(("--test", "has its own test set; only runs on faces take another file")),
        DataKind::Glyphs if data => Some(("--data", "makes its data itself")),
        _ => None,
    }
}

fn test_set(arguments: &EvaluateTestArguments) -> Result<()> {
    let file = arguments.file.as_deref().expect("required by the parser");
    let run = StoredRun::open(file, |typed| {
        typed.data.path = arguments.data.clone().or(typed.data.path.take());
        typed.data.faces.test = arguments.test.clone().or(typed.data.faces.test.take());
        arguments.machine.adjust(&mut typed.run);
    })?;
    if let Some((option, why)) = ignored(run.kind(), arguments.test.is_some(), arguments.data.is_some()) {
        return Err(Error::config(format!("{option}: {} is a run on {:?}, which {why}", file.display(), run.kind())));
    }
    let mut task = task::open(&run.config, &run.devices)?;
    task.load(&run.state(task.specs())?);
    let metrics = task.test()?;
    if metrics.is_empty() {
        return Err(Error::config("data.faces.test is not set: there is nothing to measure on; give --test FILE"));
    }
    if arguments.json {
        let object: serde_json::Map<_, _> = metrics.into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        for (name, value) in metrics {
            println!("test {name:24} {value:.4}");
        }
    }
    Ok(())
}
