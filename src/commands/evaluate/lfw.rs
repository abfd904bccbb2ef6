//! 10-fold verification on sets of pairs.

use std::ops::Range;
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};

use super::on_all_ranks;
use crate::cli::LfwArguments;
use crate::comm::Comm;
use crate::commands::skipped::{Skipped, located};
use crate::data::{Encoded, EncodedImages, decode};
use crate::embedding::{Embedder, FeatureSource, StoredRun, look_at_image, read_shared};
use crate::error::{Error, Result};
use crate::eval::pairs::verification::{self, Accuracy, ValidationRate};
use crate::eval::pairs::{lfw, pair_list};

/// Pairs of a fold where the file does not say it.
const FOLDS: usize = 10;
/// insightface's.
const FAR: f64 = 1e-3;
/// What is left out, in the directory where the program was started.
const SKIPPED: &str = "skipped.csv";

pub fn run(arguments: &LfwArguments) -> Result<()> {
    on_all_ranks(Some(&arguments.model), &arguments.machine, |comm, threads, run| {
        let run = run.expect("--model is required");
        measure(arguments, comm, threads, run)
    })
}

fn measure(arguments: &LfwArguments, comm: &Comm, threads: usize, run: StoredRun) -> Result<()> {
    let mut embedder = comm.agree(Embedder::faces(run))?;
    let Pairs { names, images, pairs, same, folds } = comm.agree(Pairs::read(arguments))?;
    let mut skipped = Skipped::new(PathBuf::from(SKIPPED), names.len(), arguments.max_skipped);
    let found = images.look(comm, threads, &names)?;
    let mut row = 0..;
    let rows: Vec<Option<usize>> = found.iter().map(|found| found.as_ref().ok().and_then(|_| row.next())).collect();
    let (kept, images) = skipped.leave_out(names, found);
    skipped.check(comm)?;

    let (size, fit) = (embedder.size, embedder.fit);
    let mut source = FeatureSource::images(&mut embedder, EncodedImages { images, size, fit });
    let embeddings = read_shared(comm, source.count(), |range| {
        let rows = source.read(range)?;
        skipped.stop_early(source.broken())?;
        Ok(rows)
    })?;
    let broken = skipped.add(comm, &kept, &mut source)?;
    let usable = |image: usize| rows[image].filter(|row| broken.binary_search(row).is_err());
    if comm.is_root() {
        let rows: Vec<Option<(usize, usize)>> =
            pairs.iter().map(|&(first, second)| usable(first).zip(usable(second))).collect();
        let kept: Vec<bool> = rows.iter().map(Option::is_some).collect();
        let same: Vec<bool> = same.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(same, _)| same).collect();
        let figures = Figures::of(&embeddings, rows, same, &folds, &kept)?;
        figures.print(arguments.json, skipped.count());
    }
    Ok(())
}

/// What is to be compared.
struct Pairs {
    /// Of each image, for people.
    names: Vec<String>,
    images: PairImages,
    /// Numbers of the two images.
    pairs: Vec<(usize, usize)>,
    same: Vec<bool>,
    folds: Vec<Range<usize>>,
}

enum PairImages {
    /// Files below this directory, by their names.
    Below(PathBuf),
    Encoded(Vec<Encoded>),
}

impl Pairs {
    fn read(arguments: &LfwArguments) -> Result<Pairs> {
        match (&arguments.bin, &arguments.pairs, &arguments.images) {
            (Some(path), ..) => {
                let found = lfw::read_bin(path)?;
                let names = (0..found.images.len()).map(|i| format!("image {i} (pair {})", i / 2)).collect::<Vec<_>>();
                let name = |name: &String| format!("{}: {name}", path.display());
                let images = names.iter().zip(found.images).map(|(i, bytes)| Encoded::Bytes(name(i), bytes)).collect();
                let pairs = (0..found.same.len()).map(|i| (2 * i, 2 * i + 1)).collect();
                let folds = verification::split(found.same.len(), FOLDS);
                Ok(Pairs { names, images: PairImages::Encoded(images), pairs, same: found.same, folds })
            }
            (None, Some(list), Some(images)) => {
                let found = pair_list::read_pairs(list)?;
                // a list without folds is judged like the others
                let folds = if found.folds > 1 { found.folds } else { FOLDS };
                let (images, folds) = (PairImages::Below(images.clone()), verification::split(found.same.len(), folds));
                Ok(Pairs { names: found.images, images, pairs: found.pairs, same: found.same, folds })
            }
            _ => unreachable!("the parser wants one or the other"),
        }
    }
}

impl PairImages {
    /// Each image, or why there is none that can be used, as far as that is seen without decoding it.
    fn look(self, comm: &Comm, threads: usize, names: &[String]) -> Result<Vec<Result<Encoded>>> {
        match self {
            PairImages::Below(root) => {
                let found = located(comm, threads, &root, names, str::to_owned, look_at_image)?;
                Ok(found.into_iter().map(|path| path.map(Encoded::File)).collect())
            }
            PairImages::Encoded(images) => Ok(images.into_iter().map(whole).collect()),
        }
    }
}

fn whole(image: Encoded) -> Result<Encoded> {
    match &image {
        Encoded::Bytes(_, bytes) => decode::looks_whole(bytes).map_err(Error::failed)?,
        Encoded::File(path) => look_at_image(Path::new(path))?,
    }
    Ok(image)
}

struct Figures {
    pairs: usize,
    left_out: usize,
    folds: usize,
    /// Without pairs now.
    folds_left_out: usize,
    accuracy: Accuracy,
    rate: Option<ValidationRate>,
}

impl Figures {
    /// `rows`: of each pair the two rows of `embeddings`; `same`: of those that are `kept`.
    fn of(
        embeddings: &Tensor,
        rows: Vec<Option<(usize, usize)>>,
        same: Vec<bool>,
        all_folds: &[Range<usize>],
        kept: &[bool],
    ) -> Result<Figures> {
        let select = |side: fn(&(usize, usize)) -> usize| {
            let indices: Vec<i64> = rows.iter().flatten().map(|pair| side(pair) as i64).collect();
            embeddings.index_select(0, &Tensor::from_slice(&indices).to_device(embeddings.device()))
        };
        let difference = select(|pair| pair.0) - select(|pair| pair.1);
        let distances = Vec::<f64>::try_from((&difference * &difference).sum_dim_intlist(1, false, Kind::Double))?;
        let folds = verification::folds_of_kept(all_folds, kept);
        let accuracy = verification::accuracy(&distances, &same, &folds)?;
        let rate = verification::validation_rate(&distances, &same, &folds, FAR)?;
        let (pairs, left_out) = (same.len(), kept.len() - same.len());
        let folds_left_out = all_folds.len() - folds.len();
        Ok(Figures { pairs, left_out, folds: folds.len(), folds_left_out, accuracy, rate })
    }

    fn print(&self, as_json: bool, skipped: usize) {
        let Figures { pairs, left_out, folds, folds_left_out, accuracy, rate } = self;
        if *left_out > 0 {
            let gone = match folds_left_out {
                0 => String::new(),
                gone => format!("; {gone} of {} folds have no pair any more", folds + gone),
            };
            log::warn!("{left_out} of {} pairs are left out with their images{gone}", pairs + left_out);
        }
        if accuracy.at_edge {
            log::warn!(
                "the threshold is at the edge of its grid (0 to 4), where all or no pairs are accepted: has the network collapsed, \
                 so that all images have nearly one embedding?"
            );
        }
        if rate.is_none_or(|rate| rate.folds < *folds) {
            let measured = rate.map_or(0, |rate| rate.folds);
            log::warn!(
                "{measured} of {folds} folds have pairs of one identity and of two: only these have a validation rate"
            );
        }
        if as_json {
            println!(
                "{}",
                serde_json::json!({
                    "pairs": pairs, "pairs_left_out": left_out, "images_left_out": skipped, "folds": folds,
                    "accuracy": accuracy.mean, "accuracy_deviation": accuracy.deviation, "threshold": accuracy.threshold,
                    "validation_rate": rate.map(|rate| rate.mean),
                    "validation_rate_deviation": rate.map(|rate| rate.deviation),
                    "validation_folds": rate.map_or(0, |rate| rate.folds), "far": rate.map(|rate| rate.false_accepts),
                })
            );
            return;
        }
        let without = if *left_out > 0 { format!(", {left_out} left out") } else { String::new() };
        println!("pairs              {pairs} in {folds} folds{without}");
        println!("accuracy           {:.5} +- {:.5}", accuracy.mean, accuracy.deviation);
        println!("threshold          {:.3} (squared distance)", accuracy.threshold);
        match rate {
            Some(rate) => {
                println!(
                    "val @ far {FAR:.0e}     {:.5} +- {:.5} (at {:.5})",
                    rate.mean, rate.deviation, rate.false_accepts
                );
            }
            None => println!("val @ far {FAR:.0e}     -"),
        }
    }
}
