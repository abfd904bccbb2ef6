use std::path::{Path, PathBuf};

use super::*;
use crate::checkpoint::{self, Checkpoint, RunInfo};
use crate::config::Layers;
use crate::search;
use crate::state::{EpochRecord, SampleRecord, Status};

/// A checkpoint of a search that was never made: `epochs` of them with 32 samples each.
fn search_of(directory: &Path, seed: u64, epochs: usize, reward: impl Fn(usize, usize) -> f64) -> PathBuf {
    let mut layers = Layers::new(Some("demo"), None, Some("paper")).unwrap();
    for (key, value) in
        [("train.epochs", 200.into()), ("run.seed", (seed as i64).into()), ("search.samples", 32.into())]
    {
        layers.set("the test", key, value).unwrap();
    }
    let config = layers.resolve().unwrap();
    let policy = search::policy(&config).state().clone();
    let record = |epoch: usize| EpochRecord {
        mu: policy.mu.iter().enumerate().map(|(i, mu)| mu + (epoch * i) as f64 / 1e4).collect(),
        samples: (0..32).map(|sample| sample_of(&policy.mu, epoch, sample, reward(epoch, sample))).collect(),
        best: 3,
        learning_rate: if epoch < 100 { 0.1 } else { 0.01 },
        delta_norm: 0.1,
        delta_sigmas: 0.8,
        chance_sigmas: 0.7,
        seconds: 1.0,
        ..EpochRecord::default()
    };
    let info = RunInfo {
        config: config.to_toml(),
        seed,
        ranks: 1,
        threads: 1,
        libtorch: "none".into(),
        device: "none".into(),
        classes: Vec::new(),
    };
    let history = (0..epochs).map(record).collect();
    let test = if epochs == 200 { vec![("top1".to_owned(), 0.9 + seed as f64 / 1e3)] } else { Vec::new() };
    let checkpoint = Checkpoint { info, epoch: epochs, policy, history, tensors: Vec::new(), test, predictions: None };
    let file = directory.join(format!("seed-{seed}.h5"));
    checkpoint::write(&file, &checkpoint).unwrap();
    file
}

fn sample_of(mu: &[f64], epoch: usize, sample: usize, reward: f64) -> SampleRecord {
    let drawn = |(i, mu): (usize, &f64)| mu + ((epoch * 31 + sample * 17 + i * 7) as f64).sin() * 0.2;
    let status = if reward.is_finite() { Status::Ok } else { Status::Failed };
    SampleRecord {
        theta: mu.iter().enumerate().map(drawn).collect(),
        status,
        reward,
        train_loss: 1.0,
        ..Default::default()
    }
}

fn reported(directory: &Path, runs: Vec<PathBuf>) -> String {
    let out = directory.join("report.html");
    run(&ReportArguments { runs, out: out.clone(), figures: None, activations: false, data: None }).unwrap();
    std::fs::read_to_string(out).unwrap()
}

/// The ids of a page's figures.
fn figures(page: &str) -> Vec<&str> {
    page.split("<figure id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn the_paper_s_search_of_200_epochs_and_32_samples_fits_on_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let reward = |epoch: usize, sample: usize| ((epoch + sample) as f64).sin();
    let runs = (1..=3).map(|seed| search_of(directory.path(), seed, 200, reward)).collect();
    let page = reported(directory.path(), runs);
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
    assert_eq!(
        figures(&page),
        [
            "test-top1",
            "rewards",
            "mu-t-slope",
            "mu-t-bias",
            "mu-tau-slope",
            "mu-tau-bias",
            "steps",
            "directions",
            "target-transform",
            "example-weights",
            "loss-values"
        ]
    );
    assert!(page.contains("90.20 ± 0.06") && page.contains("1 to 3"), "mean, standard error and seeds of the test");
}

#[test]
fn a_run_without_a_reward_shows_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let failed = |_, _| f64::NAN;
    let page = reported(directory.path(), vec![search_of(directory.path(), 1, 5, failed)]);
    let found = figures(&page);
    assert!(!found.contains(&"rewards") && !found.contains(&"directions"), "{found:?}");
    assert!(found.contains(&"mu-t-slope"), "{found:?}");
    assert!(page.contains("160 of 160 samples") && page.contains("1 of them not finished"), "{page}");
}

#[test]
fn what_is_no_run_is_left_out_with_a_reason_and_can_not_break_the_page() {
    let directory = tempfile::tempdir().unwrap();
    let strange = directory.path().join("<b>run");
    std::fs::create_dir(&strange).unwrap();
    let run_1 = search_of(directory.path(), 1, 0, |_, _| 0.5);
    let run_2 = search_of(directory.path(), 2, 3, |_, _| 0.5);
    let page = reported(directory.path(), vec![run_1.clone(), strange.clone(), run_2]);
    assert!(page.contains("no epoch is finished yet") && page.contains("a directory without a checkpoint"), "{page}");
    assert!(!page.contains("<b>run"), "escaped");

    let out = directory.path().join("none.html");
    let error = run(&ReportArguments {
        runs: vec![run_1, strange],
        out: out.clone(),
        figures: None,
        activations: false,
        data: None,
    })
    .unwrap_err();
    assert!(error.to_string().contains("no run that can be read"), "{error}");
    assert!(!out.exists());
}
