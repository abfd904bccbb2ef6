//! Person re-identification: where features come from, and how the figures are shown.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::on_all_ranks;
use crate::cli::ReidArguments;
use crate::comm::Comm;
use crate::data::{Dataset, Images, LabelledFeatures, Persons, Resized};
use crate::embedding::{Embedder, StoredRun, read_shared};
use crate::error::{Error, Result};
use crate::eval::retrieval::{self, Figures, Reranking, retrieve};

pub fn run(arguments: &ReidArguments) -> Result<()> {
    let model = arguments.model.as_deref();
    on_all_ranks(model, &arguments.machine, |comm, threads, run| measure(arguments, comm, threads, run))
}

fn measure(arguments: &ReidArguments, comm: &Comm, threads: usize, run: Option<StoredRun>) -> Result<()> {
    let (query, gallery) = match (&arguments.query, &arguments.gallery) {
        (Some(query), Some(gallery)) => {
            comm.agree(LabelledFeatures::read(query).and_then(|query| Ok((query, LabelledFeatures::read(gallery)?))))?
        }
        _ => embedded(arguments, comm, run.expect("required by the parser"))?,
    };
    if comm.is_root() {
        let (queries, gallery) = (query.ids.len(), gallery.ids.len());
        log::info!("{queries} queries, {gallery} gallery images, {} rank(s), {threads} thread(s) each", comm.size());
    }
    let name =
        |file: &Option<PathBuf>, of_data: &str| file.as_ref().map_or(of_data.into(), |file| file.display().to_string());
    let names = [name(&arguments.query, "query"), name(&arguments.gallery, "gallery")];
    let figures = |reranking| {
        let (query, gallery) = (images(&names[0], &query), images(&names[1], &gallery));
        retrieve(comm, &query, &gallery, arguments.metric, reranking, threads)
    };
    let ReidArguments { k1, k2, lambda, .. } = *arguments;
    let reranking = Reranking { k1: k1.into(), k2: k2.into(), lambda };
    let plain = figures(None)?;
    let reranked = arguments.rerank.then(|| figures(Some(reranking))).transpose()?;
    if comm.is_root() {
        report(arguments, &plain, reranked.as_ref());
    }
    Ok(())
}

fn images<'a>(name: &'a str, features: &'a LabelledFeatures) -> retrieval::ImageFeatures<'a> {
    retrieval::ImageFeatures { name, features: &features.features, ids: &features.ids, cameras: &features.cameras }
}

/// Query and gallery of a packed file, embedded by a checkpoint's network with their mirror images, each rank a share.
fn embedded(arguments: &ReidArguments, comm: &Comm, run: StoredRun) -> Result<(LabelledFeatures, LabelledFeatures)> {
    let open = || -> Result<_> {
        let embedder = Embedder::persons(run)?;
        let persons = Persons::open(arguments.data.as_deref().unwrap_or(&embedder.data))?;
        Ok((embedder, persons))
    };
    let (mut embedder, persons) = comm.agree(open())?;
    let source: Arc<dyn Images> = Arc::new(Resized { packed: persons.packed.clone(), size: embedder.size });
    let mut part = |indices: &[u32], name: &str| -> Result<LabelledFeatures> {
        let images: Arc<dyn Images> = Arc::new(Dataset::part(source.clone(), indices.to_vec()));
        let features = read_shared(comm, indices.len(), |range| embedder.embed(&images, range))?;
        let of = |column: &[i64]| indices.iter().map(|&index| column[index as usize]).collect();
        let part = LabelledFeatures { features, ids: of(&persons.ids), cameras: of(&persons.cameras) };
        let written = match &arguments.write_features {
            Some(directory) if comm.is_root() => std::fs::create_dir_all(directory)
                .map_err(|why| Error::file(directory, why))
                .and_then(|()| part.write(&directory.join(name))),
            _ => Ok(()),
        };
        comm.agree(written)?;
        Ok(part)
    };
    Ok((part(&persons.query, "query.h5")?, part(&persons.gallery, "gallery.h5")?))
}

const SHOWN: [usize; 3] = [1, 5, 10];

fn report(arguments: &ReidArguments, plain: &Figures, reranked: Option<&Figures>) {
    if arguments.json {
        let figures = |of: &Figures| {
            json!({
                "map": of.map, "map_trapezoid": of.map_trapezoid, "minp": of.minp, "cmc": of.cmc,
            })
        };
        let mut all: Map<String, Value> = Map::new();
        all.insert("queries".into(), plain.queries.into());
        all.insert("without_match".into(), plain.without_match.into());
        all.insert("plain".into(), figures(plain));
        if let Some(reranked) = reranked {
            all.insert("reranked".into(), figures(reranked));
        }
        println!("{}", Value::Object(all));
        return;
    }
    println!(
        "{:>10} {:>8} {:>8} {:>8} {:>8} {:>16} {:>8}",
        "", "rank-1", "rank-5", "rank-10", "mAP", "mAP (trapezoid)", "mINP"
    );
    for (name, of) in [("", Some(plain)), ("re-ranked", reranked)] {
        let Some(of) = of else { continue };
        let percent = |share: f64| format!("{:.2}", 100.0 * share);
        let [first, fifth, tenth] = SHOWN.map(|rank| of.cmc.get(rank - 1).map_or("-".into(), |&rate| percent(rate)));
        let [map, trapezoid, minp] = [of.map, of.map_trapezoid, of.minp].map(percent);
        println!("{name:>10} {first:>8} {fifth:>8} {tenth:>8} {map:>8} {trapezoid:>16} {minp:>8}");
    }
    if plain.without_match > 0 {
        println!("{} of {} queries have no match and are left out", plain.without_match, plain.queries);
    }
}
