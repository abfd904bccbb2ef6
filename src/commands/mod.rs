//! One file per subcommand.

mod evaluate;
mod export;
mod fit_loss;
mod inspect;
mod learned;
mod predict;
mod prepare;
mod report;
mod search;
mod skipped;
mod table;

use std::time::Duration;

use crate::cli::{self, Command};
use crate::comm::{self, Comm};
use crate::error::{Error, Result};
use crate::{process, stop};

/// How long a rank that failed waits for the others to have failed too, before it ends them.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Search(_) | Command::Train(_) => stop::listen()?,
        _ => stop::release(),
    }
    match command {
        Command::Search(arguments) => search::search(&arguments),
        Command::Train(arguments) => search::train(&arguments),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Predict(arguments) => predict::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Table(arguments) => table::run(&arguments),
        Command::FitLoss(arguments) => fit_loss::run(&arguments),
        Command::Prepare(command) => prepare::run(&command),
        Command::Export(command) => export::run(&command),
        Command::Manual(arguments) => cli::write_manual(&arguments.directory),
    }
}

/// What is wrong with the options every rank finds before MPI_Init; rank 0 tells it.
fn only_rank_0_speaks(error: Error) -> Error {
    match error {
        Error::Config(_) if comm::launcher_rank() > 0 => error.told_elsewhere(),
        other => other,
    }
}

/// Runs `work` on every rank. A rank that fails alone ends the others, which would wait for it for ever.
fn on_all_ranks(work: impl FnOnce(&Comm) -> Result<()>) -> Result<()> {
    let comm = Comm::world()?;
    if comm.size() > 1 {
        process::log_environment();
    }
    match work(&comm) {
        Ok(()) => {
            comm.part();
            Ok(())
        }
        Err(error) => {
            // before the ranks part: when the first one has ended, its launcher ends those that still speak
            let code = process::report(&error);
            if !comm.part_within(PATIENCE) {
                comm::abort_all(code);
            }
            Err(error.told_elsewhere())
        }
    }
}
