//! Person re-identification from features in .npy files. `benches/retrieval.py` runs it beside torchreid.

use std::path::Path;
use std::time::Instant;

use amlfs::comm::Comm;
use amlfs::eval::retrieval::distances::{Points, Rows};
use amlfs::eval::retrieval::reranking::Reranked;
use amlfs::eval::retrieval::{ImageFeatures, Metric, Reranking, retrieve};
use tch::Tensor;

/// DIRECTORY THREADS plain|reranked: figures and their seconds; DIRECTORY THREADS distances: writes ours.npy,
/// re-ranked distances [queries, gallery].
fn main() {
    // cargo adds --bench
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [directory, threads, what] = &arguments[..] else {
        println!("retrieval: skipped; benches/retrieval.py gives it features");
        return;
    };
    let threads = threads.parse().expect("a number");
    let read = |name: &str| Tensor::read_npy(Path::new(directory).join(name)).expect("a .npy file");
    let numbers = |name: &str| Vec::<i64>::try_from(read(name)).expect("a vector of i64");
    let (query, gallery) = (read("query.npy"), read("gallery.npy"));
    if what == "distances" {
        return write_distances(&query, &gallery, threads, &Path::new(directory).join("ours.npy"));
    }
    let (query_ids, query_cameras) = (numbers("query_ids.npy"), numbers("query_cameras.npy"));
    let (gallery_ids, gallery_cameras) = (numbers("gallery_ids.npy"), numbers("gallery_cameras.npy"));
    let query = ImageFeatures { name: "query", features: &query, ids: &query_ids, cameras: &query_cameras };
    let gallery = ImageFeatures { name: "gallery", features: &gallery, ids: &gallery_ids, cameras: &gallery_cameras };
    let reranking = (what == "reranked").then(Reranking::default);
    let start = Instant::now();
    let figures =
        retrieve(&Comm::single(), &query, &gallery, Metric::Euclidean, reranking, threads).expect("good features");
    let seconds = start.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).expect("Linux");
    let kib: f64 = peak.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    println!(
        "{{\"seconds\": {seconds}, \"mib\": {:.0}, \"map\": {}, \"map_trapezoid\": {}, \"minp\": {}, \"cmc\": {:?}}}",
        kib / 1024.0,
        figures.map,
        figures.map_trapezoid,
        figures.minp,
        figures.cmc
    );
}

fn write_distances(query: &Tensor, gallery: &Tensor, threads: usize, path: &Path) {
    let all = |features: &Tensor| (0..features.size()[0] as usize).collect::<Vec<_>>();
    let (queries, images) = (all(query), all(gallery));
    let query = Rows { features: query, rows: &queries, name: "query" };
    let gallery = Rows { features: gallery, rows: &images, name: "gallery" };
    let [query, gallery] = Points::new([query, gallery], Metric::Euclidean).expect("good features");
    let reranked = Reranked::new(&Comm::single(), &query, &gallery, Reranking::default(), threads).expect("encodings");
    let count = query.count();
    let blocks = (0..count).step_by(128).map(|start| start..(start + 128).min(count));
    let rows: Vec<Vec<f32>> = blocks.map(|block| reranked.distances(block).expect("distances")).collect();
    let distances = Tensor::from_slice(&rows.concat()).view([-1, gallery.count() as i64]);
    distances.write_npy(path).expect("a file");
}
