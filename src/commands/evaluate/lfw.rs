//! 10-fold verification on sets of pairs.

use std::sync::Arc;

use tch::Kind;

use crate::cli::LfwArguments;
use crate::data::{Encoded, EncodedImages, Images};
use crate::embedding::{Embedder, StoredRun};
use crate::error::Result;
use crate::eval::pairs::{lfw, pair_list, verification};

/// Pairs of a fold where the file does not say it.
const FOLDS: usize = 10;
/// insightface's.
const FAR: f64 = 1e-3;

pub fn run(arguments: &LfwArguments) -> Result<()> {
    let run = StoredRun::open(&arguments.model, |config| arguments.machine.adjust(&mut config.run))?;
    let mut embedder = Embedder::faces(run)?;
    let (images, pairs, same, folds) = match (&arguments.bin, &arguments.pairs, &arguments.images) {
        (Some(path), _, _) => {
            let found = lfw::read_bin(path)?;
            let name = |i: usize| format!("{}: image {i}", path.display());
            let images = found.images.into_iter().enumerate().map(|(i, bytes)| Encoded::Bytes(name(i), bytes));
            let pairs = (0..found.same.len()).map(|i| (2 * i, 2 * i + 1)).collect();
            (images.collect(), pairs, found.same, FOLDS)
        }
        (None, Some(pairs), Some(images)) => {
            let found = pair_list::read_pairs(pairs, images)?;
            let files = found.images.into_iter().map(Encoded::File).collect();
            // a list without folds is judged like the others
            let folds = if found.folds > 1 { found.folds } else { FOLDS };
            (files, found.pairs, found.same, folds)
        }
        _ => unreachable!("the parser wants one or the other"),
    };
    let images: Arc<dyn Images> = Arc::new(EncodedImages { images, size: embedder.size, fit: embedder.fit });
    let embeddings = embedder.embed(&images, 0..images.count())?;
    let select = |side: fn(&(usize, usize)) -> usize| {
        let indices: Vec<i64> = pairs.iter().map(|pair| side(pair) as i64).collect();
        embeddings.index_select(0, &tch::Tensor::from_slice(&indices).to_device(embeddings.device()))
    };
    let difference = select(|pair| pair.0) - select(|pair| pair.1);
    let distances = Vec::<f64>::try_from((&difference * &difference).sum_dim_intlist(1, false, Kind::Double))?;
    let accuracy = verification::accuracy(&distances, &same, folds)?;
    let rate = verification::validation_rate(&distances, &same, folds, FAR)?;
    if accuracy.at_edge {
        log::warn!(
            "the threshold is at the edge of its grid (0 to 4), where all or no pairs are accepted: has the network collapsed, so \
             that all images have nearly one embedding?"
        );
    }
    if rate.is_none_or(|rate| rate.folds < folds) {
        let measured = rate.map_or(0, |rate| rate.folds);
        log::warn!(
            "{measured} of {folds} folds have pairs of one identity and of two: only these have a validation rate"
        );
    }
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({
                "pairs": same.len(), "accuracy": accuracy.mean, "accuracy_deviation": accuracy.deviation,
                "threshold": accuracy.threshold,
                "validation_rate": rate.map(|rate| rate.mean), "validation_rate_deviation": rate.map(|rate| rate.deviation),
                "validation_folds": rate.map_or(0, |rate| rate.folds), "far": rate.map(|rate| rate.false_accepts),
            })
        );
        return Ok(());
    }
    println!("pairs              {}", same.len());
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
    Ok(())
}
