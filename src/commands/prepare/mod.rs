//! Packs data sets into single files.

mod faces;
mod glyphs;
mod images;
mod reid;

use std::path::Path;

use super::skipped;
use crate::atomic_file::with_suffix;
use crate::cli::PrepareCommand;
use crate::data::{PackingReport, PrepareOptions, Source, prepare};
use crate::error::Result;
use crate::terminal;

pub fn run(command: &PrepareCommand) -> Result<()> {
    match command {
        PrepareCommand::Faces(arguments) => faces::run(arguments),
        PrepareCommand::Images(arguments) => images::run(arguments),
        PrepareCommand::Reid(arguments) => reid::run(arguments),
        PrepareCommand::Glyphs(arguments) => glyphs::run(arguments),
    }
}

/// `prepare` with a progress bar. `None`: it has been done before, which it says.
fn packed(source: &dyn Source, options: &PrepareOptions, out: &Path) -> Result<Option<PackingReport>> {
    let bar = terminal::bar(source.count() as u64, 0);
    bar.set_message("images");
    let report = prepare(source, options, out, &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if report.finished_before {
        let PackingReport { images, identities, .. } = report;
        terminal::line(&format!("{}: done before: {images} images of {identities} identities", out.display()));
        return Ok(None);
    }
    Ok(Some(report))
}

fn print_skipped(report: &PackingReport, out: &Path) {
    skipped::print_skipped(report.skipped.len(), report.unusable, &with_suffix(out, ".skipped.csv"));
}
