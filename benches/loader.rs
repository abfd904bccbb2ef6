//! Batches of a packed file, shuffled, mirrored and normalised as training wants them: images per second.
//! `benches/loader.py` runs it beside torchvision.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use amlfs::data::{Augment, Dataset, Packed, batches, shuffled};
use tch::Kind;

const BATCH: usize = 256;

/// PACKED THREADS PASSES
fn main() {
    // cargo adds --bench
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [file, threads, passes] = &arguments[..] else {
        println!("loader: skipped; benches/loader.py gives it a packed file");
        return;
    };
    let (threads, passes): (usize, usize) = (threads.parse().expect("a number"), passes.parse().expect("a number"));
    tch::set_num_threads(1);
    let dataset = Arc::new(Dataset::whole(Arc::new(Packed::open(Path::new(file)).expect("a packed file"))));
    let count = dataset.len() * passes;
    let crop = dataset.images.size();
    let augment = Augment {
        padding: 0,
        zoom: None,
        crop,
        mirror: true,
        erasing: 0.0,
        fill: [0; 3],
        seed: 1,
        epoch: 0,
        stream: 0,
    };
    let start = Instant::now();
    let mut sum = 0.0;
    for batch in batches(&dataset, shuffled(dataset.len(), count, 1, 0, 0), 0, BATCH, Some(augment), threads) {
        let images = batch.expect("whole images").images.pixels();
        // as train/replicas.rs does it
        let normalised = ((images.to_kind(Kind::Float) - 127.5) * (1.0 / 128.0)).permute([0, 3, 1, 2]);
        sum += normalised.double_value(&[0, 0, 0, 0]);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"images\": {count}, \"seconds\": {seconds}, \"images_per_second\": {}, \"sum\": {sum}}}",
        count as f64 / seconds
    );
}
