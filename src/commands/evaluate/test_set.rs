//! A run's own test, here and now: on its test set, or on another packed file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::atomic_file;
use crate::cli::EvaluateTestArguments;
use crate::config::{ClassImages as Settings, DataKind, Source};
use crate::data::{ClassImages, Dataset, Images, Subset};
use crate::embedding::{Embedder, StoredRun};
use crate::error::{Error, Result};
use crate::state::{Predictions, Tested};
use crate::task;

pub fn run(arguments: &EvaluateTestArguments) -> Result<()> {
    let file = arguments.file.as_deref().expect("required by the parser");
    let run = StoredRun::open(file, |typed| {
        typed.data.path = arguments.data.clone().or(typed.data.path.take());
        typed.data.faces.test = arguments.test.clone().or(typed.data.faces.test.take());
        arguments.machine.adjust(&mut typed.run);
    })?;
    let kind = run.kind();
    if let Some((option, why)) = ignored(kind, arguments.test.is_some(), arguments.data.is_some()) {
        return Err(Error::config(format!("{option}: {} is a run on {kind:?}, which {why}", file.display())));
    }
    let classes = run.classes.clone();
    let tested = match (&run.config.data.source, &arguments.test) {
        (Source::Images { settings, .. }, Some(test)) => on_other_images(settings.clone(), run, test)?,
        _ => {
            let mut task = task::open(&run.config, &run.devices)?;
            task.load(&run.state(task.specs())?);
            task.test()?
        }
    };
    if tested.metrics.is_empty() {
        return Err(Error::config("data.faces.test is not set: there is nothing to measure on; give --test FILE"));
    }
    if let Some(out) = &arguments.confusion {
        let Some(predictions) = &tested.predictions else {
            return Err(Error::config(format!(
                "--confusion: {} is a run on {kind:?}, or its network is broken",
                file.display()
            )));
        };
        write_confusion(out, predictions, &classes)?;
    }
    if arguments.json {
        let object: serde_json::Map<_, _> =
            tested.metrics.into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        for (name, value) in tested.metrics {
            println!("test {name:24} {value:.4}");
        }
    }
    Ok(())
}

/// The option of --test and --data that does nothing for a run on such data, and why.
fn ignored(kind: DataKind, test: bool, data: bool) -> Option<(&'static str, &'static str)> {
    match kind {
        DataKind::Faces => None,
        DataKind::Images if test && data => Some(("--data", "is measured on --test: leave one of them out")),
        DataKind::Images => None,
        _ if test => Some(("--test", "has its own test set; only runs on faces and on images take another file")),
        DataKind::Glyphs if data => Some(("--data", "makes its data itself")),
        _ => None,
    }
}

/// The test set of another packed file, or all of it, with the labels of the run's classes of the same names.
fn on_other_images(settings: Settings, run: StoredRun, test: &Path) -> Result<Tested> {
    let images = ClassImages::open(test, (settings.size, settings.size), settings.shorter_side)?;
    let (known, names) = (&run.classes, images.packed.identities().to_vec());
    let labels: HashMap<&str, u32> = (0..).zip(known).map(|(label, name)| (&name[..], label)).collect();
    let label_of = |name: &String| {
        labels.get(&name[..]).copied().ok_or_else(|| {
            let first: Vec<&str> = known.iter().take(5).map(|name| &name[..]).collect();
            let why = match known.is_empty() {
                true => "the run's checkpoint is of an earlier amlfs and names no classes; train again".into(),
                false => format!("its class {name:?} is none of the run's {} ({} ...)", known.len(), first.join(", ")),
            };
            Error::file(test, why)
        })
    };
    let labels = names.iter().map(label_of).collect::<Result<Vec<u32>>>()?;
    let indices = match images.of(Subset::Test) {
        none if none.is_empty() => (0..images.count() as u32).collect(),
        indices => indices,
    };
    let mut dataset = Dataset::part(Arc::new(images), indices);
    dataset.labels.iter_mut().for_each(|label| *label = labels[*label as usize]);
    let normalisation = task::normalisation(&run.config)?;
    task::tested(&Embedder::new(run, normalisation)?.logits(&Arc::new(dataset.clone()))?, &dataset)
}

fn write_confusion(out: &Path, predictions: &Predictions, classes: &[String]) -> Result<()> {
    let name = |label: i64| classes.get(label as usize).cloned().unwrap_or_else(|| label.to_string());
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = predictions.confusion().into_iter();
    let rows = rows.map(|((label, predicted), images)| [name(label), name(predicted), images.to_string()]);
    let head = ["label", "predicted", "images"].map(String::from);
    [head].into_iter().chain(rows).for_each(|row| writer.write_record(row).expect("in memory"));
    atomic_file::write_bytes(out, &writer.into_inner().expect("in memory"))
}
