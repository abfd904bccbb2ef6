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
use crate::data::{EmbeddingsWriter, Encoded, EncodedImages, Folder, Images, Source};
use crate::embedding::{Embedder, StoredRun};
use crate::error::{Error, Result};
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
    let run = StoredRun::open(&arguments.model, |config| arguments.machine.adjust(&mut config.run))?;
    let mut embedder = Embedder::faces(run)?;
    let folder = Folder::open(&arguments.images)?;
    let names: Vec<String> = (0..folder.count()).map(|index| folder.name(index)).collect();
    let labels: Vec<u32> = (0..folder.count()).map(|index| folder.label(index)).collect();
    let identities: Vec<String> =
        (0..labels.last().map_or(0, |&last| last + 1)).map(|number| folder.identity(number)).collect();
    let images = names.iter().map(|name| Encoded::File(arguments.images.join(name))).collect();
    let images: Arc<dyn Images> = Arc::new(EncodedImages { images, size: embedder.size });

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
    Ok(())
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
