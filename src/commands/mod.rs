//! One file per subcommand.

mod evaluate;
mod inspect;
mod search;

use crate::cli::Command;
use crate::error::Result;

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Search(arguments) => search::run(&arguments, None),
        Command::Train(arguments) => search::run(&arguments.run, Some(arguments.loss)),
        Command::Evaluate(arguments) => evaluate::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
    }
}
