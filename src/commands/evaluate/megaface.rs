//! MegaFace: the measurement, and how its figures are shown.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::json;
use tch::Tensor;

use super::megaface_inputs::{Inputs, Items, Set, check_options};
use super::on_all_ranks;
use crate::cli::MegafaceArguments;
use crate::comm::Comm;
use crate::commands::only_rank_0_speaks;
use crate::data::NameList;
use crate::embedding::{Embedder, StoredRun, read_shared};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::{self, Cmc};
use crate::eval::megaface::{Block, FAR, Measurement, Rates, identify, refine_probes};
use crate::terminal;

/// Our name in the devkit's files.
const ALGORITHM: &str = "amlfs";

pub fn run(arguments: &MegafaceArguments) -> Result<()> {
    check_options(arguments).map_err(only_rank_0_speaks)?;
    let model = arguments.model.as_deref();
    on_all_ranks(model, &arguments.machine, |comm, threads, run| measure(arguments, comm, threads, run))
}

fn measure(arguments: &MegafaceArguments, comm: &Comm, threads: usize, run: Option<StoredRun>) -> Result<()> {
    let Inputs { probes, labels, distractors, sets, mut skipped } = Inputs::open(arguments, comm, threads)?;
    let mut embedder = comm.agree(run.map(Embedder::faces).transpose())?;
    if comm.is_root() {
        let identities = labels.iter().collect::<HashSet<_>>().len();
        log::info!(
            "{} probes of {identities} identities, {} distractors, {} rank(s), {threads} thread(s) each",
            probes.count(),
            distractors.count(),
            comm.size()
        );
    }
    let algorithm = algorithm(arguments, &distractors);

    // a million names are read only where they are wanted
    let noisy = comm.agree(noise(&arguments.facescrub_noises, &probes, "probes", comm))?;
    let noise = comm.agree(noise(&arguments.megaface_noises, &distractors, "distractors", comm))?;
    let wanted = |items: &Items| arguments.write_features.is_some() || matches!(items, Items::Files(..));
    let names = |items: &Items| if wanted(items) { items.names() } else { Ok(Vec::new()) };
    let (probe_names, distractor_names) = (comm.agree(names(&probes))?, comm.agree(names(&distractors))?);
    let written = |side: &str, names: &[String], first: usize, rows: &Tensor| match &arguments.write_features {
        Some(root) => write_features(&root.join(side), &names[first..], rows),
        None => Ok(()),
    };
    let mut source = probes.source(&arguments.features, embedder.as_mut(), threads, None);
    let probe_features = read_shared(comm, source.count(), |range| {
        let rows = source.read(range.clone())?;
        if let Some(why) = source.broken().values().next() {
            return Err(Error::failed(why));
        }
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
    let dimensions = probe_features.size()[1];
    let mut source = distractors.source(&arguments.features, embedder.as_mut(), threads, Some(dimensions as usize));
    let rates = identify(comm, &labels, &mut measurements, source.count(), |range| {
        let rows = source.read(range.clone())?;
        skipped.stop_early(source.broken())?;
        if rows.size()[1] != dimensions {
            let (probes, distractors) = (arguments.facescrub.display(), arguments.megaface.display());
            return Err(Error::failed(format!(
                "{probes} has {dimensions} features for each image, {distractors} has {}: they are not of one network",
                rows.size()[1]
            )));
        }
        let broken: Vec<usize> =
            source.broken().range(range.clone()).map(|(&number, _)| number - range.start).collect();
        if broken.is_empty() {
            written("megaface", &distractor_names, range.start, &rows)?;
        } else {
            for row in (0..range.len()).filter(|row| !broken.contains(row)) {
                written("megaface", &distractor_names, range.start + row, &rows.narrow(0, row as i64, 1))?;
            }
        }
        bar.inc((range.len() * comm.size()) as u64);
        Ok(Block { features: rows.to_device(probe_features.device()), broken })
    })?;
    bar.finish_and_clear();
    skipped.add(comm, &distractor_names, &mut source)?;
    if comm.is_root() {
        let twins = rates[0].iter().map(|rates| rates.twins).max().unwrap_or(0);
        if twins > 0 {
            log::warn!(
                "{twins} of {} probes have a distractor with the same feature: are they distractors as well, or has the network \
                 collapsed, so that all images have nearly one embedding?",
                labels.len()
            );
        }
        report(arguments, &algorithm, &sets, &rates[0], rates.get(1).map_or(&[], Vec::as_slice))?;
    }
    Ok(())
}

/// Who made the features, for the devkit's files: the devkit's ALGO, or the name of another program's file.
fn algorithm(arguments: &MegafaceArguments, distractors: &Items) -> String {
    match (&arguments.features, distractors) {
        (Some(algorithm), _) => algorithm.clone(),
        (None, Items::Plain(features)) => {
            features.path().file_stem().map_or(ALGORITHM.into(), |stem| stem.to_string_lossy().into_owned())
        }
        _ => ALGORITHM.to_owned(),
    }
}

fn write_features(root: &Path, names: &[String], rows: &Tensor) -> Result<()> {
    for (name, row) in names.iter().zip(Vec::<Vec<f32>>::try_from(rows.to_device(tch::Device::Cpu))?) {
        devkit::write_feature(&root.join(devkit::feature_file_name(name, ALGORITHM)), &row)?;
    }
    Ok(())
}

/// Whether each image is in the noise list; none is where there is no list. Error: the list names none.
fn noise(list: &Option<PathBuf>, items: &Items, what: &str, comm: &Comm) -> Result<Vec<bool>> {
    let Some(list) = list else { return Ok(vec![false; items.count()]) };
    let list = NameList::read(list)?;
    let members = list.members(&items.names()?, what)?;
    if comm.is_root() {
        list.report(&members);
    }
    Ok(members.are)
}

fn report(
    arguments: &MegafaceArguments,
    algorithm: &str,
    sets: &[Set],
    raw: &[Rates],
    refined: &[Rates],
) -> Result<()> {
    if let Some(directory) = &arguments.out {
        for (rates, algorithm) in [(raw, algorithm.to_owned()), (refined, format!("{algorithm}_refined"))] {
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
