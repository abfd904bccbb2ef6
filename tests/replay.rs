//! What a search learned is used again: replayed in a training, or as the start of another search.

mod support;

use std::path::Path;

use amlfs::checkpoint::{self, Checkpoint};
use amlfs::state::EpochRecord;
use support::{NATURAL, SMALL, amlfs, assert_code, assert_error, finish, for_training, mpirun, path, text};

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
fn a_mean_that_moved_no_farther_than_by_chance_is_replayed_with_a_warning_unless_it_went_to_a_margin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("moved.h5");
    let replay = format!("--replay={}", file.display());
    let warning = |search: &Checkpoint, what: &str| {
        checkpoint::write(&file, search).unwrap();
        let output = amlfs(&[&["train", &replay, "--dry-run", "--replay-as", what], &for_training(SMALL)[..]].concat());
        assert_code(&output, 0);
        let said = text(&output);
        said.lines().find(|line| line.contains("its mean moved no farther")).map(str::to_owned)
    };
    let with_steps = |name: &str, space: &str, delta: f64| {
        let mut search = run(&directory.path().join(name), &[], &[SMALL, NATURAL, &[space]]);
        let record = search.history[0].clone();
        let moved = |i| EpochRecord { delta_sigmas: delta + 0.05 * i as f64, chance_sigmas: 0.6, ..record.clone() };
        (search.history, search.epoch) = ((0..6).map(moved).collect(), 6);
        search
    };
    let by_chance = "than chance would have moved it (0.63 sigmas a round, 0.60 by chance)";
    let lines = with_steps("lines", "--set=search.space=lines", 0.5);
    for what in ["mean", "means"] {
        let said = warning(&lines, what).expect("a warning");
        assert!(said.contains(&format!("{by_chance}: nothing says that it is better")), "{said}");
    }
    assert_eq!(warning(&lines, "chosen"), None);
    let longer = with_steps("longer", "--set=search.space=lines", 2.0);
    for what in ["mean", "means", "chosen"] {
        assert_eq!(warning(&longer, what), None, "{what}");
    }

    let mut derivatives = with_steps("derivatives", "--set=search.space=derivatives", 0.5);
    let offset = (derivatives.policy.mu.len() - 1) / 2;
    derivatives.policy.mu[offset] = 0.125;
    let said = warning(&derivatives, "mean").expect("a warning");
    assert!(said.contains(&format!("{by_chance}, and to no margin (t_offset is 0.12): nothing says")), "{said}");
    derivatives.policy.mu[offset] = -0.125;
    assert_eq!(warning(&derivatives, "mean"), None);
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

#[test]
fn a_training_with_a_fitted_loss_is_that_with_the_loss_and_a_search_starts_from_it() {
    let directory = tempfile::tempdir().unwrap();
    let fitted = |space: &str| {
        let file = path(directory.path(), &format!("{space}.json"));
        let output = amlfs(&["fit-loss", "am-softmax", "--margin=0.3", "--space", space, "--out", &file]);
        assert_code(&output, 0);
        let found: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let mean: Vec<f64> = found["mean"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        (file, mean)
    };
    let named = |name: &str| directory.path().join(name);
    let training = for_training(SMALL);
    let margin: &[&str] = &["train", "--loss=am-softmax", "--set=loss.margin=0.3"];
    let expected = run(&named("am-softmax"), margin, &[&training]);
    let (lines, mean_of_lines) = fitted("lines");
    let (derivatives, mean) = fitted("derivatives");
    for (name, file, mean) in [("lines", &lines, &mean_of_lines), ("derivatives", &derivatives, &mean)] {
        let replayed = run(&named(name), &["train", &format!("--replay={file}")], &[&training]);
        assert_eq!(&replayed.history[0].samples[0].theta, mean);
        let loss = |run: &Checkpoint, epoch: usize| run.history[epoch].samples[0].train_loss;
        for epoch in 0..3 {
            // sums in another order
            let (found, expected) = (loss(&replayed, epoch), loss(&expected, epoch));
            assert!((found - expected).abs() < 0.02 * expected, "{name}, epoch {epoch}: {found}, {expected}");
        }
        let accuracy = |run: &Checkpoint| run.test.iter().find(|(name, _)| name == "top1").unwrap().1;
        assert!((accuracy(&replayed) - accuracy(&expected)).abs() <= 0.05, "{name}: {:?}", replayed.test);
    }

    // the search's own sigmas, where they fit, and its own weights
    let one_epoch: &[&str] = &["--preset=demo", "--epochs=1", "--device=cpu", "--threads=1", "--samples=2"];
    let small: &[&str] = &["--set=data.glyphs.train_images=300", "--set=data.glyphs.test_images=100"];
    let start = format!("--init-mu={derivatives}");
    let search = run(&named("search"), &[&start], &[one_epoch, small]);
    assert_eq!(search.history[0].mu, mean);
    assert_eq!(search.policy.sigma, [vec![0.0; 6], vec![0.3], vec![0.063; 6]].concat());
    assert!(
        search.info.config.contains("tau_weights = \"normalised\"") && search.info.config.contains("\"derivatives\"")
    );
    let output = amlfs(&[&[&format!("--init-mu={lines}")[..], "--dry-run"], one_epoch].concat());
    assert_code(&output, 0);
    let warning =
        "its space is not that of the search, whose sigmas it can't have: all of theta has search.sigma = 0.2";
    assert!(text(&output).contains(warning), "{}", text(&output));

    // and how it adjusts logits
    let text_of = std::fs::read_to_string(&derivatives).unwrap();
    let adjusted = path(directory.path(), "adjusted.json");
    std::fs::write(&adjusted, text_of.replacen('{', "{\"logit_adjustment\": 0.5,", 1)).unwrap();
    let search = run(&named("adjusted"), &[&format!("--init-mu={adjusted}")], &[one_epoch, small]);
    assert!(search.info.config.contains("logit_adjustment = 0.5"), "{}", search.info.config);

    let output = amlfs(
        &[&["train", &format!("--replay={lines}"), "--replay-as=chosen", "--out=x"], &for_training(SMALL)[..]].concat(),
    );
    assert_error(&output, 78, "a loss by itself, without a search's epochs; leave --replay-as out");
    let whole = std::fs::read(&lines).unwrap();
    std::fs::write(&lines, &whole[..whole.len() / 2]).unwrap();
    let output = amlfs(&[&[&format!("--init-mu={lines}")[..], "--out=x"], one_epoch].concat());
    assert_error(&output, 1, "lines.json: truncated, or still being written");
    let output = amlfs(&["fit-loss", "arcface", "--space=lines", "--out", &lines]);
    assert_error(&output, 1, "lines.json: exists already");
}

#[test]
fn fit_loss_lists_every_loss_in_both_spaces_and_says_what_it_can_not_fit() {
    let output = amlfs(&["fit-loss"]);
    assert_code(&output, 0);
    let said = text(&output);
    for name in ["softmax", "l-softmax", "a-softmax", "am-softmax", "cosface", "arcface", "focal"] {
        let rows = said.lines().take_while(|line| !line.is_empty()).filter(|line| line.split(' ').next() == Some(name));
        assert_eq!(rows.count(), 2, "{name}: {said}");
    }
    for (typed, why) in [
        (&["am-softmax", "--margin=3"][..], "loss.margin = 3.0 (--margin): must be at least 0 and below 2"),
        (&["softmax", "--margin=0.3"], "loss.margin = 0.3 (--margin): must be left out: this loss has no margin"),
        (&["focal", "--set=loss.w_max=0.5"], "loss.w_max = 0.5 (--set loss.w_max=0.5): must be at least 1"),
        (&["focal", "--set=search.sigma=1"], "--set search.sigma=1: of a loss one can set loss.scale"),
        (&["focal", "--space=lines", "--out=focal.toml"], "--out focal.toml: must end in .json"),
    ] {
        assert_error(&amlfs(&[&["fit-loss"], typed].concat()), 78, why);
    }
}
