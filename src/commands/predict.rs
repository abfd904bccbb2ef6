//! What a classifier says of images.

use std::fs::File;
use std::io::{self, BufRead, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::atomic_file;
use crate::cli::PredictArguments;
use crate::comm::Comm;
use crate::commands::skipped::{Skipped, print_skipped};
use crate::config::DataKind;
use crate::data::skipped::write_skipped;
use crate::data::{Dataset, Encoded, EncodedImages, ImageTree, Images};
use crate::embedding::{Embedder, StoredRun, Tolerant};
use crate::error::{Error, Result};
use crate::run_lock::RunLock;
use crate::task;
use crate::terminal;

/// Images that are classified, and whose rows are written, at once.
const IMAGES_AT_ONCE: usize = 1024;
/// Says that the list of the images is on standard input.
const STANDARD_INPUT: &str = "-";

pub fn run(arguments: &PredictArguments) -> Result<()> {
    let lock = RunLock::take_output(&arguments.out)?;
    atomic_file::refuse_existing(&arguments.out)?;
    let tree = ImageTree::of(&places(&arguments.images)?)?;
    let (names, count) = (tree.names(), tree.count());
    if count == 0 {
        return Err(Error::config("no image to classify: standard input names none"));
    }
    let run = StoredRun::open(&arguments.model, |config| {
        config.data.path = arguments.data.clone().or(config.data.path.take());
        arguments.machine.adjust(&mut config.run);
    })?;
    if matches!(run.kind(), DataKind::Faces | DataKind::Reid) {
        let kind = run.kind();
        return Err(
            run.unfit(format!("a network for {kind:?}: it has no classes to predict; see amlfs export embeddings"))
        );
    }
    let mut classes = run.classes.clone();
    let normalisation = task::normalisation(&run.config)?;
    let mut network = Embedder::new(run, normalisation)?;
    let images = tree.paths().into_iter().map(Encoded::File).collect();
    let images = Arc::new(Tolerant::new(EncodedImages { images, size: network.size, fit: network.fit }));

    let list = atomic_file::with_suffix(&arguments.out, ".skipped.csv");
    // an earlier call's
    write_skipped(&list, &[])?;
    let mut skipped = Skipped::new(list, count, arguments.max_skipped).listing(tree.others().to_vec());
    let bar = terminal::bar(count as u64, 0);
    bar.set_message("images");
    let mut predict = |file: &Path| -> Result<()> {
        let failed = |why: &dyn std::fmt::Display| Error::file(&arguments.out, format!("can't be written: {why}"));
        let mut writer = csv::Writer::from_writer(BufWriter::new(File::create(file).map_err(|why| failed(&why))?));
        for start in (0..count).step_by(IMAGES_AT_ONCE) {
            let range = start..(start + IMAGES_AT_ONCE).min(count);
            let as_images: Arc<dyn Images> = images.clone();
            let part = range.clone().map(|index| index as u32).collect();
            let likely =
                Likely::new(&network.logits(&Arc::new(Dataset::part(as_images, part)))?, arguments.top.into())?;
            if start == 0 {
                // files of before 1.3 have no names
                classes.extend((classes.len()..likely.classes).map(|class| class.to_string()));
                writer.write_record(header(likely.top)).map_err(|why| failed(&why))?;
            }
            let broken = images.broken();
            for (&number, why) in &broken {
                let name = &names[number];
                skipped.push(name, why.strip_prefix(&format!("{name}: ")).unwrap_or(why));
            }
            skipped.stop_early(&Default::default())?;
            for (row, number) in range.clone().enumerate().filter(|(_, number)| !broken.contains_key(number)) {
                let fields = [names[number].clone()].into_iter().chain(likely.fields(row, &classes));
                writer.write_record(fields).map_err(|why| failed(&why))?;
            }
            bar.inc(range.len() as u64);
        }
        skipped.check(&Comm::single())?;
        writer.flush().map_err(|why| failed(&why))?;
        lock.check()
    };
    let mut outcome = Ok(());
    let written = atomic_file::write(&arguments.out, |temporary| {
        outcome = predict(temporary);
        outcome.as_ref().map_err(|why| io::Error::other(why.to_string())).copied()
    });
    bar.finish_and_clear();
    outcome?;
    written.map_err(|why| Error::file(&arguments.out, format!("can't be written: {why}")))?;
    terminal::line(&format!("{}: {} images", arguments.out.display(), count - skipped.count()));
    print_skipped(skipped.count() + tree.others().len(), skipped.count(), skipped.list());
    Ok(())
}

/// What was named, and for `-` the lines of standard input.
fn places(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for place in named {
        if place.as_os_str() != STANDARD_INPUT {
            if !place.exists() {
                return Err(Error::file(
                    place,
                    "not there; give directories, image files, or - to read their names from \
                     standard input",
                ));
            }
            places.push(place.clone());
            continue;
        }
        for line in io::stdin().lock().lines() {
            let line = line.map_err(|why| Error::failed(format!("standard input can't be read: {why}")))?;
            if !line.is_empty() {
                places.push(line.into());
            }
        }
    }
    Ok(places)
}

fn header(top: usize) -> Vec<String> {
    let pair = |rank: usize| [format!("class_{rank}"), format!("probability_{rank}")];
    ["image".to_owned()].into_iter().chain((1..=top).flat_map(pair)).collect()
}

/// The most likely classes of some images, the likeliest first.
struct Likely {
    /// How many of each image's; all where there are fewer than wanted.
    top: usize,
    classes: usize,
    /// [N * top] each.
    numbers: Vec<i64>,
    probabilities: Vec<f64>,
}

impl Likely {
    /// Of logits [N, C]. Error: they are not finite.
    fn new(logits: &Tensor, top: usize) -> Result<Likely> {
        if i64::try_from(logits.isfinite().all())? == 0 {
            return Err(Error::failed("the network is broken: its logits are not finite"));
        }
        let classes = logits.size()[1] as usize;
        let top = top.min(classes);
        let (probabilities, numbers) =
            logits.to_device(Device::Cpu).softmax(1, Kind::Double).topk(top as i64, 1, true, true);
        let numbers = Vec::try_from(numbers.reshape(-1))?;
        Ok(Likely { top, classes, numbers, probabilities: Vec::try_from(probabilities.reshape(-1))? })
    }

    fn fields<'a>(&'a self, row: usize, classes: &'a [String]) -> impl Iterator<Item = String> + 'a {
        (row * self.top..(row + 1) * self.top)
            .flat_map(|i| [classes[self.numbers[i] as usize].clone(), format!("{:.6}", self.probabilities[i])])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_classes_come_first_with_their_probabilities() {
        let logits = Tensor::from_slice(&[0.0f32, 2.0, 1.0, 3.0, -1.0, -1.0]).view([2, 3]);
        let likely = Likely::new(&logits, 2).unwrap();
        let classes = ["a", "b", "c"].map(String::from);
        let sum = 1.0 + 1f64.exp() + 2f64.exp();
        let expected = ["b".into(), format!("{:.6}", 2f64.exp() / sum), "c".into(), format!("{:.6}", 1f64.exp() / sum)];
        assert_eq!(likely.fields(0, &classes).collect::<Vec<_>>(), expected);
        assert_eq!(likely.fields(1, &classes).next().unwrap(), "a");
        assert_eq!(Likely::new(&logits, 9).unwrap().top, 3);
        assert!(Likely::new(&(&logits / 0.0), 2).is_err());
        assert_eq!(header(2), ["image", "class_1", "probability_1", "class_2", "probability_2"]);
    }
}
