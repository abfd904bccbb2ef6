//! Measures a checkpoint's model, on its run's test set or by a benchmark's protocol.

mod lfw;
mod megaface;
mod megaface_inputs;
mod reid;
mod test_set;

use std::path::Path;

use crate::cli::{EvaluateArguments, EvaluateCommand, MachineArguments};
use crate::comm::Comm;
use crate::commands::only_rank_0_speaks;
use crate::config::DeviceKind;
use crate::device;
use crate::embedding::StoredRun;
use crate::error::{Error, Result};

pub fn run(arguments: &EvaluateArguments) -> Result<()> {
    match &arguments.protocol {
        None => test_set::run(&arguments.test_set),
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
