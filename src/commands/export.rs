//! Hands models and embeddings to other programs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use npyz::WriterBuilder;
use safetensors::tensor::{Dtype, TensorView};

use crate::atomic_file;
use crate::checkpoint;
use crate::cli::{ExportCommand, ExportEmbeddingsArguments, ExportWeightsArguments};
use crate::config::Source;
use crate::data::skipped::{NAMED, write_skipped};
use crate::data::{EmbeddingsWriter, Encoded, EncodedImages, ImageTree, Images};
use crate::embedding::{Embedder, StoredRun};
use crate::error::{Error, Result};
use crate::task;
use crate::terminal;

/// Images embedded at once.
const IMAGES_AT_ONCE: usize = 4096;

pub fn run(command: &ExportCommand) -> Result<()> {
    match command {
        ExportCommand::Embeddings(arguments) => embeddings(arguments),
        ExportCommand::Weights(arguments) => weights(arguments),
    }
}

fn embeddings(arguments: &ExportEmbeddingsArguments) -> Result<()> {
    let format = arguments.out.extension().and_then(|extension| extension.to_str());
    if !matches!(format, Some("h5" | "npy")) {
        return Err(Error::config(format!("--out {}: must end in .h5 or .npy", arguments.out.display())));
    }
    atomic_file::refuse_existing(&arguments.out)?;
    let tree = ImageTree::list(&arguments.images)?;
    let run = StoredRun::open(&arguments.model, |config| {
        config.data.path = arguments.data.clone().or(config.data.path.take());
        arguments.machine.adjust(&mut config.run);
    })?;
    if arguments.data.is_some() && !matches!(run.config.data.source, Source::Cifar { .. }) {
        return Err(Error::config("--data: only a network for CIFAR-10 needs its run's data; leave it out"));
    }
    let normalisation = task::normalisation(&run.config)?;
    let tree = checked(tree, arguments, run.config.run.loader_threads)?;
    let mut embedder = Embedder::new(run, normalisation)?;
    let (names, (labels, identities)) = (tree.names(), tree.identities());
    if let Some(name) = names.iter().find(|name| format == Some("npy") && name.contains(['\n', '\r'])) {
        let why =
            format!("the image {name:?} has a line break in its name, which FILE.names.txt can't hold; write .h5");
        return Err(Error::file(&arguments.out, why));
    }
    let images = tree.paths().into_iter().map(Encoded::File).collect();
    let images: Arc<dyn Images> = Arc::new(EncodedImages { images, size: embedder.size, fit: embedder.fit });

    let bar = terminal::bar(names.len() as u64, 0);
    bar.set_message("images");
    let mut blocks = (0..names.len()).step_by(IMAGES_AT_ONCE).map(|start| {
        let range = start..(start + IMAGES_AT_ONCE).min(names.len());
        bar.inc(range.len() as u64);
        embedder.embed(&images, range)
    });
    let source = arguments.images.display().to_string();
    if format == Some("h5") {
        let mut writer = EmbeddingsWriter::new(&arguments.out)?;
        blocks.try_for_each(|rows| writer.push(&rows?))?;
        writer.finish(&labels, &names, &identities, &source)?;
    } else {
        let rows = blocks.collect::<Result<Vec<_>>>()?;
        write_npy(&arguments.out, &tch::Tensor::cat(&rows, 0), &names)?;
    }
    bar.finish_and_clear();
    terminal::line(&format!("{}: {} images of {} identities", arguments.out.display(), names.len(), identities.len()));
    print_left_out(&tree, &arguments.out);
    Ok(())
}

/// The images that can be decoded; what is left out is listed beside --out. Error: more can't be than --max-skipped says.
fn checked(mut tree: ImageTree, arguments: &ExportEmbeddingsArguments, threads: usize) -> Result<ImageTree> {
    let bar = terminal::bar(tree.count() as u64, 0);
    bar.set_message("images looked at");
    tree.check(threads, &|| bar.inc(1));
    bar.finish_and_clear();
    let list = atomic_file::with_suffix(&arguments.out, ".skipped.csv");
    write_skipped(&list, &tree.left_out())?;
    let (bad, all) = (tree.undecodable(), tree.count() + tree.undecodable().len());
    if tree.count() > 0 && bad.len() as f64 <= arguments.max_skipped * all as f64 {
        return Ok(tree);
    }
    let named: String = bad.iter().take(NAMED).map(|(name, why)| format!("\n  {name}: {why}")).collect();
    let (images, allowed, list) = (arguments.images.display(), 100.0 * arguments.max_skipped, list.display());
    let advice = if tree.count() > 0 { "repair them, or allow more (--max-skipped)" } else { "none is left" };
    let bad = bad.len();
    let why = format!("{images}: {bad} of {all} images can't be decoded, more than the {allowed} % allowed:{named}");
    Err(Error::failed(format!("{why}\nAll are listed in {list}; {advice}")))
}

fn print_left_out(tree: &ImageTree, out: &Path) {
    let (bad, all) = (tree.undecodable().len(), tree.left_out().len());
    if all > 0 {
        let list = atomic_file::with_suffix(out, ".skipped.csv");
        let list = list.display();
        terminal::line(&format!("skipped: {all} files, {bad} of them images that can't be decoded; listed in {list}"));
    }
}

/// Names to `path`.names.txt, then rows [N, D] f32 to `path`: where that is, so are its names.
fn write_npy(path: &Path, rows: &tch::Tensor, names: &[String]) -> Result<()> {
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

/// Under their names in PyTorch, without `model/`. Normalisation and training settings go into the metadata.
fn weights(arguments: &ExportWeightsArguments) -> Result<()> {
    if arguments.out.extension().is_none_or(|extension| extension != "safetensors") {
        return Err(Error::config(format!("--out {}: must end in .safetensors", arguments.out.display())));
    }
    atomic_file::refuse_existing(&arguments.out)?;
    let checkpoint = checkpoint::read(&arguments.model)?;
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = checkpoint
        .tensors
        .into_iter()
        .filter_map(|tensor| {
            let name = tensor.path.strip_prefix("model/")?.to_owned();
            Some((name, tensor.shape, tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|why| Error::file(&arguments.model, why))?;
    let metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        ("amlfs_config".to_owned(), checkpoint.info.config),
        ("epoch".to_owned(), checkpoint.epoch.to_string()),
    ]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(|why| Error::file(&arguments.out, why))?;
    // not the library's own serialize_to_file: only their owner can read its files
    atomic_file::write_bytes(&arguments.out, &bytes)?;
    terminal::line(&format!("{}: {} tensors", arguments.out.display(), tensors.len()));
    Ok(())
}
