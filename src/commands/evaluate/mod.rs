//! Measures a checkpoint's model: on its run's test set here, by a benchmark's protocol in the other files.

mod lfw;
mod megaface;
mod reid;

use std::path::Path;

use crate::checkpoint;
use crate::cli::{EvaluateArguments, EvaluateCommand, EvaluateTestArguments, MachineArguments};
use crate::comm::Comm;
use crate::config::{DataKind, TypedConfig};
use crate::device;
use crate::embedding::Embedder;
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

/// A checkpoint's network, computing with so many threads.
fn embedder(path: &Path, kind: DataKind, machine: &MachineArguments, threads: usize) -> Result<Embedder> {
    Embedder::open(path, kind, |run| {
        machine.adjust(run);
        run.threads = threads;
        run.loader_threads = threads;
    })
}

fn test_set(arguments: &EvaluateTestArguments) -> Result<()> {
    let file = arguments.file.as_deref().expect("required by the parser");
    let checkpoint = checkpoint::read(file)?;
    let mut typed = TypedConfig::from_toml(&checkpoint.info.config).map_err(|why| Error::file(file, why))?;
    typed.data.path = arguments.data.clone().or(typed.data.path);
    typed.data.faces.test = arguments.test.clone().or(typed.data.faces.test);
    arguments.machine.adjust(&mut typed.run);
    let config = typed.resolve().map_err(|why| Error::file(file, why))?;
    tch::set_num_threads(config.run.threads as i32);
    let devices = device::choose(&config.run)?;
    let mut task = task::open(&config, &devices)?;
    let state = checkpoint::from_named(&checkpoint.tensors, task.specs()).map_err(|why| Error::file(file, why))?;
    task.load(&state);
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
