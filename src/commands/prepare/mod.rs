//! Packs data sets into single files.

mod faces;
mod glyphs;
mod images;
mod reid;

use super::skipped;
use crate::atomic_file::with_suffix;
use crate::cli::{PackingArguments, PrepareCommand};
use crate::data::{PackingReport, PrepareOptions, Source, prepare};
use crate::error::Result;
use crate::terminal;

/// Identities or classes without an image that are named.
const NAMED: usize = 5;

pub fn run(command: &PrepareCommand) -> Result<()> {
    match command {
        PrepareCommand::Faces(arguments) => faces::run(arguments),
        PrepareCommand::Images(arguments) => images::run(arguments),
        PrepareCommand::Reid(arguments) => reid::run(arguments),
        PrepareCommand::Glyphs(arguments) => glyphs::run(arguments),
    }
}

/// `prepare` with a progress bar. `None`: it has been done before, which it says.
fn packed(
    source: &dyn Source,
    mut options: PrepareOptions,
    arguments: &PackingArguments,
) -> Result<Option<PackingReport>> {
    options.max_skipped = arguments.max_skipped;
    options.threads = arguments.threads.map_or(options.threads, Into::into);
    let out = &arguments.out;
    let bar = terminal::bar(source.count() as u64, 0);
    bar.set_message("images");
    let report = prepare(source, &options, out, &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if report.finished_before {
        let (PackingReport { images, identities, .. }, what) = (&report, source.identities());
        terminal::line(&format!("{}: done before: {images} images of {identities} {what}", out.display()));
        return Ok(None);
    }
    Ok(Some(report))
}

/// What was left out, and which identities or classes have nothing left.
fn print_left_out(report: &PackingReport, source: &dyn Source, arguments: &PackingArguments) {
    let list = with_suffix(&arguments.out, ".skipped.csv");
    skipped::print_skipped(report.skipped.len(), report.unusable, &list);
    if !report.empty.is_empty() {
        let few = report.empty.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        let more = if report.empty.len() > NAMED { ", ..." } else { "" };
        let (what, count) = (source.identities(), report.empty.len());
        terminal::line(&format!("{what} without a usable image: {count} ({few}{more})"));
    }
}
