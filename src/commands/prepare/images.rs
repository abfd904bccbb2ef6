//! One's own images of classes as a packed file.

use super::{packed, print_left_out};
use crate::cli::PrepareImagesArguments;
use crate::data::{CifarFiles, Images, LabelledFiles, Packed, PrepareOptions, Source, Store, Subset};
use crate::error::{Error, Result};
use crate::terminal;

/// Classes that are named with their numbers of images, at each end.
const NAMED: usize = 3;

pub fn run(arguments: &PrepareImagesArguments) -> Result<()> {
    let PrepareImagesArguments { source: path, resize, raw, packing } = arguments;
    let (source, raw): (Box<dyn Source>, _) = match CifarFiles::open(path)? {
        Some(_) if resize.is_some() => {
            return Err(Error::file(path, "CIFAR's images are stored raw; leave --resize out, or take --raw HxW"));
        }
        Some(cifar) => (Box::new(cifar), Some(raw.unwrap_or(CifarFiles::SIZE))),
        None => (Box::new(LabelledFiles::open(path)?), *raw),
    };
    let (size, store) = raw.map_or(((0, 0), Store::Files), |size| (size, Store::Raw));
    let mut options = PrepareOptions::new(size, store, path.display().to_string());
    options.photographs = true;
    options.shorter_side = *resize;
    let Some(report) = packed(&*source, options, packing)? else { return Ok(()) };

    let packed = Packed::open(&packing.out)?;
    let (out, classes) = (packing.out.display(), packed.identities().len());
    terminal::line(&format!("{out}: {} images of {classes} classes", report.images));
    let subsets = packed.subsets().expect("images of classes have subsets");
    for (subset, word) in [(Subset::Train, "to train on"), (Subset::Validation, "validation"), (Subset::Test, "test")] {
        print_classes(&packed, subsets, subset, word);
    }
    warn_of_single_images(&packed, subsets);
    print_duplicates(&packed, subsets)?;
    print_left_out(&report, &*source, packing);
    Ok(())
}

/// How many images the smallest and the largest classes of a subset have, and how often the largest is the smallest.
fn print_classes(packed: &Packed, subsets: &[Subset], wanted: Subset, word: &str) {
    let counts = counts(packed, subsets, wanted);
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

/// Of a class with one image, nothing can be held out.
fn warn_of_single_images(packed: &Packed, subsets: &[Subset]) {
    let counts = counts(packed, subsets, Subset::Train);
    let single: Vec<&String> =
        counts.iter().zip(packed.identities()).filter(|(count, _)| **count == 1).map(|(_, name)| name).collect();
    if let [first, ..] = single[..] {
        let count = single.len();
        log::warn!(
            "{count} class(es) with one image to train on, such as {first:?}: none of it can be held out for the reward or a test"
        );
    }
}

/// [classes]: images of a subset.
fn counts(packed: &Packed, subsets: &[Subset], wanted: Subset) -> Vec<u64> {
    let mut counts = vec![0; packed.identities().len()];
    for index in (0..packed.count()).filter(|&index| subsets[index] == wanted) {
        counts[packed.label(index) as usize] += 1;
    }
    counts
}

/// Images that are in two subsets, which would make a reward or a test too good. Error: a damaged image.
fn print_duplicates(packed: &Packed, subsets: &[Subset]) -> Result<()> {
    let mut prints: Vec<((u32, u64), u32)> = packed.fingerprints().zip(0..).collect();
    prints.sort_unstable();
    let (mut pairs, mut example) = (0, None);
    for alike in prints.chunk_by(|a, b| a.0 == b.0).filter(|alike| alike.len() > 1) {
        // the first of each subset stands for the others
        let mut first = [None; 3];
        for index in alike.iter().map(|&(_, index)| index as usize) {
            let own = subsets[index] as usize;
            for earlier in (0..3).filter(|&subset| subset != own).filter_map(|subset| first[subset]) {
                // of raw images of one length, some have one checksum by chance
                if packed.stored(earlier)? == packed.stored(index)? {
                    pairs += 1;
                    example.get_or_insert((earlier, index));
                    break;
                }
            }
            first[own].get_or_insert(index);
        }
    }
    if let Some((a, b)) = example {
        log::warn!(
            "{pairs} image(s) are in two of training, validation and test set, byte for byte, such as {} and {}: figures of \
             what was trained on are too good",
            packed.name(a)?,
            packed.name(b)?
        );
    }
    Ok(())
}
