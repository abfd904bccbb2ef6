//! Packs data sets into single files.

use std::io::Write;

use image::RgbImage;

use crate::cli::{PrepareCommand, PrepareFacesArguments, PrepareGlyphsArguments};
use crate::data::{Folder, Glyphs, PrepareOptions, Records, Source, decode, prepare};
use crate::error::{Error, Result};
use crate::terminal;

pub fn run(command: &PrepareCommand) -> Result<()> {
    match command {
        PrepareCommand::Faces(arguments) => faces(arguments),
        PrepareCommand::Glyphs(arguments) => glyphs(arguments),
    }
}

fn faces(arguments: &PrepareFacesArguments) -> Result<()> {
    let path = &arguments.source;
    let source: Box<dyn Source> = match path.join("train.rec").exists() {
        true => Box::new(Records::open(path)?),
        false => Box::new(Folder::open(path)?),
    };
    let mut options = PrepareOptions::new(arguments.size, arguments.store, path.display().to_string());
    for file in &arguments.exclude {
        let text = std::fs::read_to_string(file).map_err(|why| Error::file(file, format!("can't be read: {why}")))?;
        options.exclude.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    options.max_skipped = arguments.max_skipped;
    options.threads = arguments.threads.map_or(options.threads, Into::into);

    let bar = terminal::bar(source.count() as u64, 0);
    bar.set_message("images");
    let report = prepare(&*source, &options, &arguments.out, &mut |done, _| bar.set_position(done as u64))?;
    bar.finish_and_clear();
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
    if !report.skipped.is_empty() {
        terminal::line(&format!(
            "skipped: {} files, {} of them images that can't be decoded; listed in {}.skipped.csv",
            report.skipped.len(),
            report.undecodable,
            arguments.out.display()
        ));
    }
    if !report.empty.is_empty() {
        let few = report.empty.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        terminal::line(&format!("identities without a usable image: {} ({few} ...)", report.empty.len()));
    }
    Ok(())
}

/// DIR/0000000/000.jpg ...: an identity is a class of glyphs, centred in images that need not be square.
fn glyphs(arguments: &PrepareGlyphsArguments) -> Result<()> {
    let (height, width) = arguments.size;
    let side = height.max(width);
    let (top, left) = ((side - height) / 2, (side - width) / 2);
    let glyphs = Glyphs::new(arguments.seed, arguments.identities as usize, side, arguments.difficulty);
    if arguments.out.exists() {
        return Err(Error::file(&arguments.out, "exists already"));
    }
    let bar = terminal::bar(arguments.identities as u64, 0);
    bar.set_message("identities");
    let mut square = vec![0; 3 * side * side];
    for identity in 0..arguments.identities {
        let directory = arguments.out.join(format!("{identity:07}"));
        std::fs::create_dir_all(&directory).map_err(|why| Error::file(&directory, why))?;
        for number in 0..arguments.images {
            let id = identity as u64 * arguments.images as u64 + number as u64;
            glyphs.draw(identity as usize, id, &mut square);
            let rows = square.chunks_exact(3 * side).skip(top).take(height);
            let pixels = rows.flat_map(|row| &row[3 * left..3 * (left + width)]).copied().collect();
            let path = directory.join(format!("{number:03}.jpg"));
            let jpeg = decode::to_jpeg(
                &RgbImage::from_raw(width as u32, height as u32, pixels).expect("as many pixels as it has"),
            )
            .map_err(|why| Error::file(&path, why))?;
            std::fs::File::create(&path)
                .and_then(|mut file| file.write_all(&jpeg))
                .map_err(|why| Error::file(&path, why))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(())
}
