//! What runs contribute to a table: the row they belong to, their figures, and what differs from the recipe.

use std::fs;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::paper::{DUKE, MARKET, SEARCH, SOFTMAX};
use super::recipe::deviations;
use crate::checkpoint;
use crate::config::{DataKind, ModelName};
use crate::error::Error;
use crate::model;
use crate::runs::{Arm, Run};

/// Identities that Market-1501 and DukeMTMC-reID have to train on.
const OF_MARKET: usize = 751;
const OF_DUKE: usize = 702;
/// Images that CIFAR-10 has to train with and to give rewards.
const OF_CIFAR10: f64 = 50_000.0;
/// Distractors of table 3.
const MILLION: u64 = 1_000_000;

/// A run's part of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub keys: Vec<String>,
    /// Per cent; `None`: not measured.
    pub figures: Vec<Option<f64>>,
    /// What differs from the paper's recipe.
    pub notes: Vec<String>,
    pub seed: u64,
}

/// What the run contributes to a table. Error: why it has no place there.
pub fn entries(table: u8, run: &Run) -> Result<Vec<Entry>, String> {
    let wanted = match table {
        2 => DataKind::Cifar10,
        3 => DataKind::Faces,
        _ => DataKind::Reid,
    };
    if run.task() != wanted {
        let (wanted, found) = (format!("{wanted:?}").to_lowercase(), format!("{:?}", run.task()).to_lowercase());
        return Err(format!("a run on {found}; table {table} is of runs on {wanted}"));
    }
    if !run.is_finished() {
        let (done, all) = (run.checkpoint.epoch, run.config.train.epochs);
        return Err(format!("not finished: {done} of {all} epochs, and no figures of a test"));
    }
    match table {
        2 => cifar10(run),
        3 => faces(run),
        4 | 5 => people(run, table),
        6 => ablation(run, "search.samples", run.config.search.samples),
        _ => ablation(run, "search.intervals", run.config.search.intervals),
    }
}

fn entry(run: &Run, key_of_rows: &str, keys: &[&str], figures: Vec<Option<f64>>) -> Result<Entry, String> {
    let notes = deviations(run, key_of_rows).map_err(|why| why.to_string())?;
    let percent = |figure: Option<f64>| figure.map(|share| 100.0 * share);
    let keys = keys.iter().map(|key| key.to_string()).collect();
    Ok(Entry { keys, figures: figures.into_iter().map(percent).collect(), notes, seed: run.seed() })
}

/// Test figures of final.h5. Error: one that has to be there is not.
fn tested(run: &Run, metrics: &[&str]) -> Result<Vec<Option<f64>>, String> {
    let figures: Vec<Option<f64>> = metrics.iter().map(|metric| run.test(metric)).collect();
    match figures[0] {
        Some(_) => Ok(figures),
        None => Err(format!("final.h5 has no number as its test's {}", metrics[0])),
    }
}

fn cifar10(run: &Run) -> Result<Vec<Entry>, String> {
    const NOISE: &str = "data.label_noise";
    if run.config.model.name != ModelName::ResnetCifar {
        return Err("not a ResNet for CIFAR: table 2 is of ResNet-20".into());
    }
    let noise = format!("{} %", round(100.0 * run.config.data.label_noise));
    let method = match &run.arm {
        Arm::Loss(name) if name == "softmax" => SOFTMAX.to_owned(),
        Arm::Search(_) => SEARCH.to_owned(),
        arm => arm.label(run.config.search.samples),
    };
    let mut entry = entry(run, NOISE, &[&noise, &method], tested(run, &["top1_error"])?)?;
    entry.notes.extend(part_of_cifar10(run));
    Ok(vec![entry])
}

/// What a table of a subset must say.
fn part_of_cifar10(run: &Run) -> Option<String> {
    let all = (OF_CIFAR10 * (1.0 - run.config.typed().data.validation_fraction)).round();
    let found = run.checkpoint.history.last()?.images;
    if found.is_nan() {
        return Some("a file of a format before 1.2 doesn't say on how many images".into());
    }
    // a number of steps is among the settings that differ
    let other = run.config.train.epoch_iterations.is_none() && found != all;
    other.then(|| format!("{found} images to train with (CIFAR-10: {all})"))
}

fn round(percent: f64) -> f64 {
    (percent * 1e6).round() / 1e6
}

/// What `amlfs evaluate megaface --json` prints, as far as it is wanted.
#[derive(Deserialize)]
struct Megaface {
    results: Vec<MegafaceSet>,
}

#[derive(Deserialize)]
struct MegafaceSet {
    size: u64,
    raw: MegafaceRates,
}

#[derive(Deserialize)]
struct MegafaceRates {
    rank1: f64,
}

fn faces(run: &Run) -> Result<Vec<Entry>, String> {
    let Megaface { results } = measured(run, "megaface")?.ok_or(
        "its directory has no megaface.json: amlfs evaluate megaface --model RUN ... --json > RUN/megaface.json",
    )?;
    let size = results.iter().map(|set| set.size).max().ok_or("megaface.json has no results")?;
    let rates: Vec<f64> = results.iter().filter(|set| set.size == size).map(|set| set.raw.rank1).collect();
    let rank1 = rates.iter().sum::<f64>() / rates.len() as f64;
    let method = match &run.arm {
        Arm::Search(_) => SEARCH.to_owned(),
        Arm::Loss(name) => match &name[..] {
            "a-softmax" => "SphereFace".to_owned(),
            "cosface" => "CosineFace".to_owned(),
            "arcface" => "ArcFace".to_owned(),
            other => other.to_owned(),
        },
        arm => arm.label(run.config.search.samples),
    };
    let mut entry = entry(run, "", &[&method], vec![Some(rank1)])?;
    if size != MILLION {
        entry.notes.push(format!("among {size} distractors (the paper's: {MILLION})"));
    }
    Ok(vec![entry])
}

/// What `amlfs evaluate reid --rerank --json` prints, as far as it is wanted.
#[derive(Deserialize)]
struct Reid {
    reranked: Option<Reranked>,
}

#[derive(Deserialize)]
struct Reranked {
    map: f64,
    cmc: Vec<f64>,
}

fn people(run: &Run, table: u8) -> Result<Vec<Entry>, String> {
    let (ours, name, other) = if table == 4 { (OF_MARKET, MARKET, OF_DUKE) } else { (OF_DUKE, DUKE, OF_MARKET) };
    let identities = identities(run)?;
    if identities == other {
        return Err(format!("{identities} identities to train on, those of {}'s table", data_set(identities)));
    }
    let (model, own_loss) = match run.config.model.name {
        ModelName::Sft => ("SFT", "am-softmax"),
        ModelName::Mgn => ("MGN", "softmax"),
        _ => ("SphereReID", "softmax"),
    };
    let method = |reranked: &str| match &run.arm {
        Arm::Search(_) => format!("{model}{reranked} + {SEARCH}"),
        Arm::Loss(name) if name == own_loss => format!("{model}{reranked}"),
        arm => format!("{model}{reranked}, {}", arm.label(run.config.search.samples)),
    };
    let mut found = vec![entry(run, "", &[&method("")], tested(run, &["map", "rank1", "rank5"])?)?];
    if let Some(Reid { reranked: Some(Reranked { map, cmc }) }) = measured(run, "reid")? {
        let figures = vec![Some(map), cmc.first().copied(), cmc.get(4).copied()];
        found.push(entry(run, "", &[&method("(RK)")], figures)?);
    }
    for entry in &mut found {
        entry.notes.extend(start(run));
        if identities != ours {
            entry.notes.push(format!("{identities} identities to train on ({name}: {ours})"));
        }
    }
    Ok(found)
}

/// A row of tables 6 and 7.
fn ablation(run: &Run, key: &str, value: usize) -> Result<Vec<Entry>, String> {
    if run.config.model.name != ModelName::SphereReid {
        return Err("tables 6 and 7 are of SphereReID".into());
    }
    if !matches!(run.arm, Arm::Search(_)) {
        let arm = run.arm.label(run.config.search.samples);
        return Err(format!("no search ({arm}); tables 6 and 7 are of searches"));
    }
    let keys = [data_set(identities(run)?), value.to_string()];
    let mut entry = entry(run, key, &[&keys[0], &keys[1]], tested(run, &["map"])?)?;
    entry.notes.extend(start(run));
    Ok(vec![entry])
}

fn start(run: &Run) -> Option<String> {
    run.config.model.init.is_none().then(|| "random weights to start from (recipe: ImageNet's)".to_owned())
}

/// Identities of the training set: the classes, and those held out for the reward.
fn identities(run: &Run) -> Result<usize, String> {
    let classifiers = model::classifier_names(&run.config.model);
    let name = classifiers.first().ok_or("a network without classes")?;
    let shape = checkpoint::shape(&run.path, &format!("model/{name}")).map_err(|why| why.to_string())?;
    Ok(shape.first().copied().unwrap_or(0) + run.config.typed().data.reid.validation_identities)
}

fn data_set(identities: usize) -> String {
    match identities {
        OF_MARKET => MARKET.into(),
        OF_DUKE => DUKE.into(),
        other => format!("{other} identities"),
    }
}

/// `PROTOCOL.json` in the run's directory; `None`: it is not there. Error: it is not what `evaluate --json` prints.
fn measured<T: DeserializeOwned>(run: &Run, protocol: &str) -> Result<Option<T>, String> {
    let directory = if run.path.is_dir() { Some(&*run.path) } else { run.path.parent() };
    let path = directory.unwrap_or(&run.path).join(format!("{protocol}.json"));
    let bytes = match fs::read(&path) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|why| Error::file(&path, format!("can't be read: {why}")).to_string())?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|why| {
        let printed = format!("not what 'amlfs evaluate {protocol} --json' prints: {why}");
        let why = if why.is_eof() { "truncated, or still being written".to_owned() } else { printed };
        Error::file(&path, why).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_sets_are_known_by_their_identities() {
        assert_eq!([751, 702, 12].map(data_set), ["Market-1501", "DukeMTMC-reID", "12 identities"]);
    }
}
