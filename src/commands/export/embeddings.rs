//! Embeddings of the images below a directory, by any run's network.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use npyz::WriterBuilder;
use tch::Tensor;

use crate::atomic_file;
use crate::cli::ExportEmbeddingsArguments;
use crate::comm::Comm;
use crate::commands::skipped::{Skipped, print_skipped};
use crate::config::Source;
use crate::data::skipped::write_skipped;
use crate::data::{EmbeddingsWriter, Encoded, EncodedImages, ImageTree};
use crate::embedding::{Embedder, FeatureSource, StoredRun};
use crate::error::{Error, Result};
use crate::run_lock::RunLock;
use crate::task;
use crate::terminal;

/// Images embedded at once.
const IMAGES_AT_ONCE: usize = 4096;

pub fn export(arguments: &ExportEmbeddingsArguments) -> Result<()> {
    let format = arguments.out.extension().and_then(|extension| extension.to_str());
    if !matches!(format, Some("h5" | "npy")) {
        return Err(Error::config(format!("--out {}: must end in .h5 or .npy", arguments.out.display())));
    }
    let lock = RunLock::take_output(&arguments.out)?;
    atomic_file::refuse_existing(&arguments.out)?;
    let tree = ImageTree::list(&arguments.images)?;
    let run = StoredRun::open(&arguments.model, |config| {
        config.data.path = arguments.data.clone().or(config.data.path.take());
        arguments.machine.adjust(&mut config.run);
    })?;
    if arguments.data.is_some() && !matches!(run.config.data.source, Source::Cifar { .. }) {
        return Err(Error::config(
            "--data: only a network for CIFAR-10 or CIFAR-100 needs its run's data; leave it out",
        ));
    }
    let normalisation = task::normalisation(&run.config)?;
    let (mut tree, mut skipped) = looked_at(tree, arguments, run.config.run.loader_threads)?;
    let mut embedder = Embedder::new(run, normalisation)?;
    let names = tree.names();
    if let Some(name) = names.iter().find(|name| format == Some("npy") && name.contains(['\n', '\r'])) {
        let why =
            format!("the image {name:?} has a line break in its name, which FILE.names.txt can't hold; write .h5");
        return Err(Error::file(&arguments.out, why));
    }
    let (size, fit) = (embedder.size, embedder.fit);
    let images = tree.paths().into_iter().map(Encoded::File).collect();
    let mut source = FeatureSource::images(&mut embedder, EncodedImages { images, size, fit });

    let bar = terminal::bar(names.len() as u64, 0);
    bar.set_message("images");
    let mut blocks = (0..names.len()).step_by(IMAGES_AT_ONCE).map(|start| {
        let range = start..(start + IMAGES_AT_ONCE).min(names.len());
        bar.inc(range.len() as u64);
        let rows = source.read(range.clone())?;
        skipped.stop_early(source.broken())?;
        Ok(without(rows, range, source.broken()))
    });
    let mut writer = if format == Some("h5") { Some(EmbeddingsWriter::new(&arguments.out)?) } else { None };
    let mut kept = Vec::new();
    blocks.try_for_each(|rows| match &mut writer {
        Some(writer) => writer.push(&rows?),
        None => rows.map(|rows| kept.push(rows)),
    })?;
    let broken = skipped.add(&Comm::single(), &names, &mut source)?;
    tree.leave_out(|number| broken.binary_search(&number).is_ok());
    let (names, (labels, identities)) = (tree.names(), tree.identities());
    lock.check()?;
    match writer {
        Some(writer) => writer.finish(&labels, &names, &identities, &arguments.images.display().to_string())?,
        None => write_npy(&arguments.out, &Tensor::cat(&kept, 0), &names)?,
    }
    bar.finish_and_clear();
    terminal::line(&format!("{}: {} images of {} identities", arguments.out.display(), names.len(), identities.len()));
    print_skipped(skipped.count() + tree.others().len(), skipped.count(), skipped.list());
    Ok(())
}

/// The images that seem to be whole; what is left out is listed beside --out. Error: more than --max-skipped says.
fn looked_at(
    mut tree: ImageTree,
    arguments: &ExportEmbeddingsArguments,
    threads: usize,
) -> Result<(ImageTree, Skipped)> {
    let list = atomic_file::with_suffix(&arguments.out, ".skipped.csv");
    // an earlier call's
    write_skipped(&list, &[])?;
    let bar = terminal::bar(tree.count() as u64, 0);
    bar.set_message("images looked at");
    let bad = tree.look(threads, &|| bar.inc(1));
    bar.finish_and_clear();
    let mut skipped = Skipped::new(list, tree.count(), arguments.max_skipped).listing(tree.others().to_vec());
    let names = tree.names();
    bad.iter().for_each(|(&number, why)| skipped.push(&names[number], why));
    skipped.check(&Comm::single())?;
    tree.leave_out(|number| bad.contains_key(&number));
    Ok((tree, skipped))
}

/// The rows of a range of images without those of the broken ones.
fn without(rows: Tensor, range: Range<usize>, broken: &BTreeMap<usize, String>) -> Tensor {
    if broken.range(range.clone()).next().is_none() {
        return rows;
    }
    let good = range.clone().filter(|number| !broken.contains_key(number));
    let good: Vec<i64> = good.map(|number| (number - range.start) as i64).collect();
    rows.index_select(0, &Tensor::from_slice(&good).to_device(rows.device()))
}

/// Names to `path`.names.txt, then rows [N, D] f32 to `path`: where that is, so are its names.
fn write_npy(path: &Path, rows: &Tensor, names: &[String]) -> Result<()> {
    let list: String = names.iter().flat_map(|name| [name, "\n"]).collect();
    atomic_file::write_bytes(&atomic_file::with_suffix(path, ".names.txt"), list.as_bytes())?;
    let shape: Vec<u64> = rows.size().iter().map(|&side| side as u64).collect();
    let values = Vec::<f32>::try_from(rows.to_device(tch::Device::Cpu).reshape(-1))?;
    let written = atomic_file::write(path, |temporary| -> io::Result<()> {
        let mut file = BufWriter::new(File::create(temporary)?);
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(&shape).writer(&mut file).begin_nd()?;
        writer.extend(values)?;
        writer.finish()?;
        file.flush()
    });
    written.map_err(|why| Error::file(path, format!("can't be written: {why}")))
}
