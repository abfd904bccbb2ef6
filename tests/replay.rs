//! What a search learned is used again: replayed in a training, or as the start of another search.

mod support;

use std::path::Path;

use amlfs::checkpoint::{self, Checkpoint};
use support::{NATURAL, SMALL, amlfs, assert_code, assert_error, finish, for_training, mpirun, path};

/// Runs to the end and reads final.h5.
fn run(out: &Path, command: &[&str], settings: &[&[&str]]) -> Checkpoint {
    let flag = format!("--out={}", out.display());
    assert_code(&finish(&mut mpirun(1, &[command, &settings.concat(), &[&flag]].concat())), 0);
    checkpoint::read(&out.join("final.h5")).unwrap()
}

fn tensors(checkpoint: &Checkpoint, group: &str) -> Vec<(String, Vec<u32>)> {
    let tensors = checkpoint.tensors.iter().filter(|tensor| tensor.path.starts_with(group));
    tensors.map(|t| (t.path.clone(), t.values.iter().map(|value| value.to_bits()).collect())).collect()
}

#[test]
fn the_chosen_losses_train_the_searchs_own_model_again_to_the_last_bit() {
    let directory = tempfile::tempdir().unwrap();
    let file = path(directory.path(), "search/final.h5");
    let search = run(&directory.path().join("search"), &[], &[SMALL, NATURAL]);
    assert!(search.history.iter().any(|record| record.best > 0), "the seed chooses different samples");
    let replay = format!("--replay={file}");
    let training = for_training(SMALL);
    let chosen =
        run(&directory.path().join("chosen"), &["train", &replay, "--replay-as=chosen"], &[&training, &NATURAL[6..]]);
    for group in ["model/", "last/", "optimizer/"] {
        assert!(!tensors(&search, group).is_empty());
        assert!(tensors(&search, group) == tensors(&chosen, group), "{group} differs");
    }
    assert_eq!(search.test, chosen.test);

    // another seed and twice as many epochs
    let other = ["--seed=7", "--epochs=6"];
    let mean = run(&directory.path().join("mean"), &["train", &replay], &[&training, &other]);
    assert!(mean.history.iter().all(|record| record.samples.len() == 1 && record.samples[0].theta == search.policy.mu));
    let means = run(&directory.path().join("means"), &["train", &replay, "--replay-as=means"], &[&training, &other]);
    assert_eq!(means.history[0].samples[0].theta, search.history[0].mu);
    assert_eq!(means.history[5].samples[0].theta, search.history[2].mu);
}

#[test]
fn a_search_starts_from_anothers_mean_and_a_fixed_losss_run_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let search = run(&directory.path().join("search"), &[], &[SMALL, NATURAL]);
    let start = format!("--init-mu={}", path(directory.path(), "search/final.h5"));
    let second = run(&directory.path().join("second"), &[&start, "--policy=natural"], &[SMALL, &["--epochs=1"]]);
    assert_eq!(second.history[0].mu, search.policy.mu);
    assert_ne!(second.policy.mu, search.policy.mu);

    let softmax = directory.path().join("softmax");
    run(&softmax, &["train", "--loss=softmax"], &[&for_training(SMALL), &["--epochs=1"]]);
    let replay = format!("--replay={}", softmax.join("final.h5").display());
    let output = amlfs(&[&["train", &replay, "--out=x"], &for_training(SMALL)[..]].concat());
    assert_error(&output, 1, "final.h5: the checkpoint of a training with a fixed loss: it has learned no loss");
    assert_error(&amlfs(&[SMALL, &["--init-mu=nowhere.h5", "--out=x"]].concat()), 1, "nowhere.h5: ");
}

#[test]
fn what_was_learned_in_one_space_is_used_under_a_preset_with_another() {
    let directory = tempfile::tempdir().unwrap();
    let one_epoch: &[&str] = &["--epochs=1"];
    for (space, learned, preset) in [("lines", &[][..], "--search=robust"), ("derivatives", NATURAL, "--search=paper")]
    {
        let name = |what: &str| directory.path().join(format!("{what}-{space}"));
        let search = run(&name("search"), &[], &[SMALL, learned, one_epoch]);
        let file = name("search").join("final.h5");
        let (replay, start) = (format!("--replay={}", file.display()), format!("--init-mu={}", file.display()));
        let replayed = run(&name("replay"), &["train", &replay], &[&for_training(SMALL), &[preset], one_epoch]);
        assert_eq!(replayed.history[0].samples[0].theta, search.policy.mu);
        let second = run(&name("second"), &[&start], &[SMALL, &[preset, "--policy=natural"], one_epoch]);
        assert_eq!((&second.history[0].mu, &second.policy.sigma), (&search.policy.mu, &search.policy.sigma));
    }
}
