//! Market-1501, DukeMTMC-reID, MSMT17 and their like as a packed file.

use std::collections::HashSet;

use super::{packed, print_left_out};
use crate::cli::PrepareReidArguments;
use crate::data::{Market, Persons, PrepareOptions, Store};
use crate::error::Result;
use crate::terminal;

pub fn run(arguments: &PrepareReidArguments) -> Result<()> {
    let market = Market::open(&arguments.source, arguments.own_tree)?;
    for difference in market.differences() {
        log::warn!("{difference}");
    }
    // each image keeps its size
    let options = PrepareOptions::new((0, 0), Store::Files, arguments.source.display().to_string());
    let Some(report) = packed(&market, options, &arguments.packing)? else { return Ok(()) };

    let Persons { train, query, gallery, ids, .. } = Persons::open(&arguments.packing.out)?;
    // (images, people) without distractors
    let people = |part: &[u32]| {
        let is_person = |id: &i64| *id != 0 || arguments.own_tree;
        let known: Vec<i64> = part.iter().map(|&index| ids[index as usize]).filter(is_person).collect();
        (known.len(), known.iter().collect::<HashSet<_>>().len())
    };
    terminal::line(&format!("{}: {} images", arguments.packing.out.display(), report.images));
    for (name, part) in [("to train on", &train), ("queries", &query), ("gallery", &gallery)] {
        let (images, people) = people(part);
        let distractors = part.len() - images;
        let distractors = if distractors > 0 { format!(", and {distractors} distractors") } else { String::new() };
        terminal::line(&format!("{name}: {images} images of {people} people{distractors}"));
    }
    if market.junk() > 0 {
        terminal::line(&format!("left out: {} images of nobody (-1)", market.junk()));
    }
    print_left_out(&report, &market, &arguments.packing);
    Ok(())
}
