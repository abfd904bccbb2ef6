//! The paper's tables with our runs in them.

mod figures;
mod paper;
mod print;
mod recipe;
mod rows;

use std::io::Write;

use crate::cli::TableArguments;
use crate::error::{Error, Result};
use crate::runs::Run;
use figures::{Entry, entries};
use paper::TABLES;

/// So many runs that have no place are told, if none has one.
const TOLD: usize = 3;

pub fn run(arguments: &TableArguments) -> Result<()> {
    let table = TABLES.iter().find(|table| table.number == arguments.number).expect("the parser knows them");
    let (runs, mut left_out) = Run::open_all(&arguments.runs)?;
    let mut all: Vec<Entry> = Vec::new();
    for run in &runs {
        let path = run.path.display();
        match entries(table.number, run) {
            // it would count twice
            Ok(found) if found.iter().any(|entry| all.contains(entry)) => {
                left_out.push(format!("{path}: named twice, or a copy: the same settings, seed and figures are there"));
            }
            Ok(found) => all.extend(found),
            // of a file beside the run it names that file
            Err(why) if why.contains(&path.to_string()) => left_out.push(why),
            Err(why) => left_out.push(format!("{path}: {why}")),
        }
    }
    if all.is_empty() {
        let more = left_out.len().saturating_sub(TOLD);
        left_out.truncate(TOLD);
        left_out.extend((more > 0).then(|| format!("{more} more")));
        return Err(Error::failed(format!("no run has a place in table {}: {}", table.number, left_out.join("; "))));
    }
    left_out.iter().for_each(|why| log::warn!("left out: {why}"));
    let text = print::print(table, &rows::rows(table, &all), arguments.format)?;
    // a closed pipe is not an error
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}
