//! One's own images of classes as a packed file.

use std::collections::HashMap;

use super::{packed, print_skipped};
use crate::cli::PrepareImagesArguments;
use crate::data::{Images, LabelledFiles, Packed, PrepareOptions, Store, Subset};
use crate::error::Result;
use crate::terminal;

/// Classes that are named with their numbers of images, at each end.
const NAMED: usize = 3;

pub fn run(arguments: &PrepareImagesArguments) -> Result<()> {
    let source = LabelledFiles::open(&arguments.source)?;
    let (size, store) = arguments.raw.map_or(((0, 0), Store::Files), |size| (size, Store::Raw));
    let mut options = PrepareOptions::new(size, store, arguments.source.display().to_string());
    options.upright = true;
    options.shorter_side = arguments.resize;
    options.max_skipped = arguments.max_skipped;
    options.threads = arguments.threads.map_or(options.threads, Into::into);
    let Some(report) = packed(&source, &options, &arguments.out)? else { return Ok(()) };

    let packed = Packed::open(&arguments.out)?;
    terminal::line(&format!(
        "{}: {} images of {} classes",
        arguments.out.display(),
        report.images,
        packed.identities().len()
    ));
    let subsets = packed.subsets().expect("images of classes have subsets");
    for (subset, word) in [(Subset::Train, "to train on"), (Subset::Validation, "validation"), (Subset::Test, "test")] {
        print_classes(&packed, subsets, subset, word);
    }
    print_duplicates(&packed, subsets);
    print_skipped(&report, &arguments.out);
    if !report.empty.is_empty() {
        let few = report.empty.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        terminal::line(&format!("classes without a usable image: {} ({few} ...)", report.empty.len()));
    }
    Ok(())
}

/// How many images the smallest and the largest classes of a subset have, and how often the largest is the smallest.
fn print_classes(packed: &Packed, subsets: &[Subset], wanted: Subset, word: &str) {
    let mut counts = vec![0u64; packed.identities().len()];
    for index in (0..packed.count()).filter(|&index| subsets[index] == wanted) {
        counts[packed.label(index) as usize] += 1;
    }
    let mut found: Vec<(u64, &String)> =
        counts.into_iter().zip(packed.identities()).filter(|(count, _)| *count > 0).collect();
    found.sort_by_key(|&(count, _)| std::cmp::Reverse(count));
    let (Some(first), Some(last)) = (found.first(), found.last()) else {
        terminal::line(&format!("{word}: none; a part of the images to train on will be used"));
        return;
    };
    let all: u64 = found.iter().map(|(count, _)| count).sum();
    let list = |part: &[(u64, &String)]| {
        part.iter().map(|(count, name)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let named = match found.len() <= 2 * NAMED {
        true => list(&found),
        false => format!("{} ... {}", list(&found[..NAMED]), list(&found[found.len() - NAMED..])),
    };
    terminal::line(&format!(
        "{word}: {all} images of {} classes, imbalance {:.1} ({named})",
        found.len(),
        first.0 as f64 / last.0 as f64
    ));
}

/// Images that are in two subsets, which would make a reward or a test too good.
fn print_duplicates(packed: &Packed, subsets: &[Subset]) {
    let mut first = HashMap::new();
    let (mut pairs, mut example) = (0, None);
    for (index, print) in packed.fingerprints().enumerate() {
        let earlier = *first.entry(print).or_insert(index);
        if subsets[earlier] != subsets[index] {
            pairs += 1;
            example.get_or_insert((earlier, index));
        }
    }
    if let Some((a, b)) = example {
        let name = |index| packed.name(index).unwrap_or_default();
        log::warn!(
            "{pairs} image(s) are in two of training, validation and test set, byte for byte, such as {} and {}: figures of \
             what was trained on are too good",
            name(a),
            name(b)
        );
    }
}
