//! A directory of identities, or an insightface folder, as a packed file.

use super::{packed, print_left_out};
use crate::cli::PrepareFacesArguments;
use crate::data::prepare::exclude;
use crate::data::{Folder, PrepareOptions, Records, Source};
use crate::error::Result;
use crate::terminal;

pub fn run(arguments: &PrepareFacesArguments) -> Result<()> {
    let path = &arguments.source;
    let source: Box<dyn Source> = match path.join("train.rec").exists() {
        true => Box::new(Records::open(path)?),
        false => Box::new(Folder::open(path)?),
    };
    let mut options = PrepareOptions::new(arguments.size, arguments.store, path.display().to_string());
    for file in &arguments.exclude {
        let found = exclude::read(file, &*source)?;
        let all = found.matched + found.unmatched.len();
        let others = match &found.unmatched[..] {
            [] => String::new(),
            others => format!("; not {}", exclude::examples(others)),
        };
        terminal::line(&format!("{}: {} of {all} names matched{others}", file.display(), found.matched));
        options.exclude.extend(found.identities);
    }
    let Some(report) = packed(&*source, options, &arguments.packing)? else { return Ok(()) };
    terminal::line(&format!(
        "{}: {} images of {} identities, {} x {}",
        arguments.packing.out.display(),
        report.images,
        report.identities,
        arguments.size.0,
        arguments.size.1
    ));
    if report.excluded_images > 0 {
        terminal::line(&format!(
            "excluded: {} images of {} identities",
            report.excluded_images, report.excluded_identities
        ));
    }
    print_left_out(&report, &*source, &arguments.packing);
    Ok(())
}
