//! MegaFace: where probes and distractors come from, and how the figures are shown.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tch::Tensor;

use super::on_all_ranks;
use crate::cli::MegafaceArguments;
use crate::comm::Comm;
use crate::data::{Embeddings, Encoded, EncodedImages};
use crate::embedding::{Embedder, FeatureSource, StoredRun, read_shared};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::{self, Cmc, DistractorList, ProbeList};
use crate::eval::megaface::{FAR, Measurement, Rates, identify, refine_probes};
use crate::terminal;

/// Our name in the devkit's files.
const ALGORITHM: &str = "amlfs";

pub fn run(arguments: &MegafaceArguments) -> Result<()> {
    let model = arguments.model.as_deref();
    on_all_ranks(model, &arguments.machine, |comm, threads, run| measure(arguments, comm, threads, run))
}

/// The images of one side of the protocol: their names where they lie in a directory.
enum Items {
    Paths(Vec<String>),
    File(Embeddings),
}

impl Items {
    fn count(&self) -> usize {
        match self {
            Items::Paths(paths) => paths.len(),
            Items::File(embeddings) => embeddings.count(),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        match self {
            Items::Paths(paths) => Ok(paths.clone()),
            Items::File(embeddings) => embeddings.names(),
        }
    }
}

/// A distractor set of the results.
struct Set {
    size: usize,
    number: usize,
    /// Which of the distractors are in it.
    members: Vec<bool>,
}

fn measure(arguments: &MegafaceArguments, comm: &Comm, threads: usize, run: Option<StoredRun>) -> Result<()> {
    let prepared = comm.agree(prepare(arguments, run))?;
    let Prepared { mut embedder, probes, labels, distractors, sets } = prepared;
    if comm.is_root() {
        let identities = labels.iter().collect::<HashSet<_>>().len();
        log::info!(
            "{} probes of {identities} identities, {} distractors, {} rank(s), {threads} thread(s) each",
            probes.count(),
            distractors.count(),
            comm.size()
        );
    }

    // a million names are read only where they are wanted
    let noisy = comm.agree(noise(&arguments.facescrub_noises, &probes))?;
    let noise = comm.agree(noise(&arguments.megaface_noises, &distractors))?;
    let names = |items: &Items| if arguments.write_features.is_some() { items.names() } else { Ok(Vec::new()) };
    let (probe_names, distractor_names) = (comm.agree(names(&probes))?, comm.agree(names(&distractors))?);
    let written = |side: &str, names: &[String], first: usize, rows: &Tensor| match &arguments.write_features {
        Some(root) => write_features(&root.join(side), &names[first..], rows),
        None => Ok(()),
    };
    let mut source = source(arguments, &arguments.facescrub, probes, embedder.as_mut(), threads);
    let probe_features = read_shared(comm, source.count(), |range| {
        let rows = source.read(range.clone())?;
        written("facescrub", &probe_names, range.start, &rows)?;
        Ok(rows)
    })?;

    let group = |probes: &Tensor, members: &dyn Fn(&Set) -> Vec<bool>| {
        let measurements = sets.iter().map(|set| Measurement::new(probes, members(set), threads));
        comm.agree(measurements.collect::<Result<Vec<_>>>())
    };
    let mut measurements = vec![group(&probe_features, &|set| set.members.clone())?];
    if arguments.facescrub_noises.is_some() || arguments.megaface_noises.is_some() {
        let probes = comm.agree(refine_probes(&probe_features, &labels, &noisy))?;
        let clean = |set: &Set| set.members.iter().zip(&noise).map(|(&member, &noise)| member && !noise).collect();
        measurements.push(group(&probes, &clean)?);
    }
    let bar = terminal::bar(distractors.count() as u64, 0);
    bar.set_message("distractors");
    let mut source = self::source(arguments, &arguments.megaface, distractors, embedder.as_mut(), threads);
    let rates = identify(comm, &labels, &mut measurements, source.count(), |range| {
        let rows = source.read(range.clone())?;
        written("megaface", &distractor_names, range.start, &rows)?;
        bar.inc((range.len() * comm.size()) as u64);
        Ok(rows)
    })?;
    bar.finish_and_clear();
    if comm.is_root() {
        report(arguments, &sets, &rates[0], rates.get(1).map_or(&[], Vec::as_slice))?;
    }
    Ok(())
}

/// What can be known before anything is computed.
struct Prepared {
    embedder: Option<Embedder>,
    probes: Items,
    /// Equal for images of one identity.
    labels: Vec<i64>,
    distractors: Items,
    sets: Vec<Set>,
}

fn prepare(arguments: &MegafaceArguments, run: Option<StoredRun>) -> Result<Prepared> {
    let file = |path: &Path| path.extension().is_some_and(|extension| extension == "h5");
    let (probes, ids) = match (&arguments.facescrub_list, file(&arguments.facescrub)) {
        (Some(list), false) => {
            let list = ProbeList::read(list)?;
            (Items::Paths(list.paths), list.ids)
        }
        (None, true) => {
            let embeddings = Embeddings::open(&arguments.facescrub)?;
            let ids = embeddings.labels().iter().map(u32::to_string).collect();
            (Items::File(embeddings), ids)
        }
        _ => return Err(Error::config("--facescrub: a directory with --facescrub-list, or a .h5 file without")),
    };
    let (distractors, sets) = match (&arguments.megaface_list[..], file(&arguments.megaface)) {
        ([], true) => {
            let embeddings = Embeddings::open(&arguments.megaface)?;
            let sets = prefixes(embeddings.count(), 1);
            (Items::File(embeddings), sets)
        }
        ([list], false) => {
            let number = list_name(list).map_or(1, |(_, number)| number);
            let paths = DistractorList::read(list)?.paths;
            let sets = prefixes(paths.len(), number);
            (Items::Paths(paths), sets)
        }
        ([_, ..], false) => several_lists(&arguments.megaface_list)?,
        _ => return Err(Error::config("--megaface: a directory with --megaface-list, or a .h5 file without")),
    };
    let mut numbers = HashMap::new();
    let labels = ids
        .into_iter()
        .map(|id| {
            let next = numbers.len() as i64;
            *numbers.entry(id).or_insert(next)
        })
        .collect();
    let from_images = matches!((&probes, &distractors), (Items::Paths(_), _) | (_, Items::Paths(_)));
    if from_images && arguments.model.is_none() && arguments.features.is_none() {
        return Err(Error::config("directories need --model FILE to embed their images, or --features ALGO"));
    }
    let embedder = run.map(Embedder::faces).transpose()?;
    Ok(Prepared { embedder, probes, labels, distractors, sets })
}

fn list_name(list: &Path) -> Option<(usize, usize)> {
    devkit::size_and_set(list.file_name()?.to_str()?)
}

/// The first 10, 100, ... of `count`, and all of them.
fn prefixes(count: usize, number: usize) -> Vec<Set> {
    let powers = (1..).map(|power| 10usize.pow(power)).take_while(|&size| size < count);
    let set = |size: usize| Set { size, number, members: (0..count).map(|i| i < size).collect() };
    powers.chain([count]).map(set).collect()
}

/// The distractors of all lists, each once, the longest list's first.
fn several_lists(lists: &[PathBuf]) -> Result<(Items, Vec<Set>)> {
    let mut lists: Vec<(&PathBuf, Vec<String>)> =
        lists.iter().map(|list| Ok((list, DistractorList::read(list)?.paths))).collect::<Result<_>>()?;
    lists.sort_by_key(|(_, paths)| std::cmp::Reverse(paths.len()));
    let (mut all, mut numbers) = (Vec::new(), HashMap::new());
    for path in lists.iter().flat_map(|(_, paths)| paths) {
        numbers.entry(path.clone()).or_insert_with(|| {
            all.push(path.clone());
            all.len() - 1
        });
    }
    let sets = lists.iter().rev().map(|(list, paths)| {
        let mut members = vec![false; all.len()];
        paths.iter().for_each(|path| members[numbers[path]] = true);
        let number = list_name(list).map_or(1, |(_, number)| number);
        Set { size: paths.len(), number, members }
    });
    let sets = sets.collect();
    Ok((Items::Paths(all), sets))
}

fn source<'a>(
    arguments: &MegafaceArguments,
    root: &Path,
    items: Items,
    embedder: Option<&'a mut Embedder>,
    threads: usize,
) -> FeatureSource<'a> {
    match (items, &arguments.features, embedder) {
        (Items::File(embeddings), _, _) => FeatureSource::File(embeddings),
        (Items::Paths(paths), Some(algorithm), _) => {
            let path = |image: String| root.join(devkit::feature_file_name(&image, algorithm));
            FeatureSource::Devkit(paths.into_iter().map(path).collect(), threads)
        }
        (Items::Paths(paths), None, Some(embedder)) => {
            let images = paths.into_iter().map(|path| Encoded::File(root.join(path))).collect();
            let (size, fit) = (embedder.size, embedder.fit);
            FeatureSource::Images(embedder, Arc::new(EncodedImages { images, size, fit }))
        }
        (Items::Paths(_), None, None) => unreachable!("checked in prepare"),
    }
}

fn write_features(root: &Path, names: &[String], rows: &Tensor) -> Result<()> {
    for (name, row) in names.iter().zip(Vec::<Vec<f32>>::try_from(rows.to_device(tch::Device::Cpu))?) {
        devkit::write_feature(&root.join(devkit::feature_file_name(name, ALGORITHM)), &row)?;
    }
    Ok(())
}

/// Whether each image is in the noise list; none is where there is no list.
fn noise(list: &Option<PathBuf>, items: &Items) -> Result<Vec<bool>> {
    let Some(list) = list else { return Ok(vec![false; items.count()]) };
    let noises = devkit::read_noise_list(list)?;
    Ok(items.names()?.iter().map(|name| devkit::is_noise(&noises, name)).collect())
}

fn report(arguments: &MegafaceArguments, sets: &[Set], raw: &[Rates], refined: &[Rates]) -> Result<()> {
    if let Some(directory) = &arguments.out {
        for (rates, algorithm) in [(raw, ALGORITHM.to_owned()), (refined, format!("{ALGORITHM}_refined"))] {
            for (set, rates) in sets.iter().zip(rates) {
                let name = devkit::cmc_file_name("facescrub", "megaface", &algorithm, set.size, set.number);
                let roc = Some((vec![FAR], vec![rates.verification]));
                Cmc::new(rates.cmc.clone(), roc).write(directory, &name)?;
            }
        }
    }
    let figures = |rates: &Rates| {
        let rank = |n: usize| rates.cmc.get(n - 1).copied();
        json!({
            "distractors": rates.distractors,
            "rank1": rates.cmc[0],
            "rank10": rank(10),
            "rank100": rank(100),
            "verification_rate": rates.verification,
            "far": FAR,
        })
    };
    if arguments.json {
        let rows: Vec<_> = sets
            .iter()
            .enumerate()
            .map(|(i, set)| {
                json!({
                    "size": set.size, "set": set.number, "raw": figures(&raw[i]), "refined": refined.get(i).map(figures),
                })
            })
            .collect();
        println!("{}", json!({ "results": rows }));
        return Ok(());
    }
    println!(
        "{:>12} {:>4} {:>9} {:>9} {:>9} {:>12}",
        "distractors", "set", "rank-1", "rank-10", "rank-100", "VR@FAR 1e-6"
    );
    for (rates, which) in [(raw, ""), (refined, "  refined")] {
        for (set, rates) in sets.iter().zip(rates) {
            let percent = |rate: Option<&f64>| rate.map_or("-".into(), |rate| format!("{:.3}", 100.0 * rate));
            let [first, tenth, hundredth] = [1, 10, 100].map(|rank| percent(rates.cmc.get(rank - 1)));
            let verification = percent(Some(&rates.verification));
            println!(
                "{:>12} {:>4} {first:>9} {tenth:>9} {hundredth:>9} {verification:>12}{which}",
                rates.distractors, set.number
            );
        }
    }
    Ok(())
}
