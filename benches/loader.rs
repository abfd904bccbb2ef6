//! Batches of a packed file, shuffled, augmented and normalised as training wants them: images, and seconds of the clock
//! and of all cores that they took.
//! `benches/loader.py` runs it beside torchvision.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use amlfs::data::{Augment, ClassImages, Dataset, Packed, Subset, Zoom, batches, shuffled};
use amlfs::train::Normalisation;

/// Side and shorter side of ImageNet's recipe.
const SIDE: usize = 224;
const SHORTER_SIDE: usize = 256;

/// TASK PACKED BATCH THREADS PASSES
fn main() {
    // cargo adds --bench
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [task, file, numbers @ ..] = &arguments[..] else {
        println!("loader: skipped; benches/loader.py gives it a packed file");
        return;
    };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [batch, threads, passes] = numbers[..] else { panic!("BATCH THREADS PASSES") };
    tch::set_num_threads(1);
    let file = Path::new(file);
    let (dataset, zoom, normalisation) = match &task[..] {
        "faces" => {
            let packed = Packed::open(file).expect("packed faces");
            (Dataset::whole(Arc::new(packed)), None, Normalisation::FACES)
        }
        "images" => {
            let images = ClassImages::open(file, (SIDE, SIDE), SHORTER_SIDE).expect("packed images");
            let training = images.of(Subset::Train);
            let zoom = Zoom { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] };
            (Dataset::part(Arc::new(images), training), Some(zoom), Normalisation::IMAGENET)
        }
        other => panic!("{other}: faces or images"),
    };
    let dataset = Arc::new(dataset);
    let count = dataset.len() * passes;
    let crop = dataset.images.size();
    let augment =
        Augment { padding: 0, zoom, crop, mirror: true, erasing: 0.0, fill: [0; 3], seed: 1, epoch: 0, stream: 0 };
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut sum = 0.0;
    for batch in batches(&dataset, shuffled(dataset.len(), count, 1, 0, 0), 0, batch, Some(augment), threads) {
        let images = batch.expect("whole images").images.pixels();
        let normalised = normalisation.apply(&images).permute([0, 3, 1, 2]);
        sum += normalised.double_value(&[0, 0, 0, 0]);
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let rate = count as f64 / seconds;
    println!(
        "{{\"images\": {count}, \"seconds\": {seconds}, \"cpu_seconds\": {cpu}, \"images_per_second\": {rate}, \"sum\": {sum}}}"
    );
}

/// Of this process, all threads together.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `time` alone
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
