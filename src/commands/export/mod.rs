//! Hands losses, models and embeddings to other programs.

mod embeddings;
mod loss;
mod pth;
mod weights;

use std::path::Path;

use clap::ValueEnum;

use crate::cli::ExportCommand;
use crate::error::{Error, Result};

pub fn run(command: &ExportCommand) -> Result<()> {
    match command {
        ExportCommand::Embeddings(arguments) => embeddings::export(arguments),
        ExportCommand::Loss(arguments) => loss::export(arguments),
        ExportCommand::Weights(arguments) => weights::export(arguments),
    }
}

/// The format that --format names, or else the ending of --out. Errors: neither does; they are at odds.
fn format_of<F: ValueEnum + PartialEq>(asked: Option<F>, out: &Path, endings: [(&str, F); 2]) -> Result<F> {
    let ending = out.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let of_ending = endings.iter().find(|(known, _)| *known == ending).map(|(_, format)| format.clone());
    let out = out.display();
    match (asked, of_ending) {
        (Some(asked), Some(other)) if asked != other => {
            let name = asked.to_possible_value().expect("no format is hidden").get_name().to_owned();
            Err(Error::config(format!("--format {name}: --out {out} ends in .{ending}; leave one of them out")))
        }
        (Some(format), _) | (None, Some(format)) => Ok(format),
        (None, None) => {
            let [(one, _), (other, _)] = endings;
            Err(Error::config(format!("--out {out}: must end in .{one} or .{other}, or have a --format")))
        }
    }
}
