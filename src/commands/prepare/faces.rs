//! A directory of identities, or an insightface folder, as a packed file.

use super::{packed, print_skipped};
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
    options.max_skipped = arguments.max_skipped;
    options.threads = arguments.threads.map_or(options.threads, Into::into);

    let Some(report) = packed(&*source, &options, &arguments.out)? else { return Ok(()) };
    terminal::line(&format!(
        "{}: {} images of {} identities, {} x {}",
        arguments.out.display(),
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
    print_skipped(&report, &arguments.out);
    if !report.empty.is_empty() {
        let few = report.empty.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        terminal::line(&format!("identities without a usable image: {} ({few} ...)", report.empty.len()));
    }
    Ok(())
}
