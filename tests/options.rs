//! Options that some runs have no use for: each is an error that names it and the run, for every kind of data.

mod support;

use std::fs;
use std::path::Path;

use support::persons::{self, SMALL_PERSONS};
use support::{SMALL, amlfs, assert_code, assert_error, faces, for_training, path, text};

/// A run of an epoch on each kind of data, small: its directory, and the kind as messages write it.
fn runs(here: &Path) -> [(String, &'static str); 4] {
    let train = |name: &str, settings: &[&str]| {
        let out = path(here, name);
        let more = ["--epochs=1", "--device=cpu", "--threads=1", "--out", &out];
        assert_code(&amlfs(&[&["train", "--loss=softmax"], settings, &more].concat()), 0);
        out
    };
    let glyphs = train("glyphs", &for_training(SMALL));
    let trained = faces::trained(here);
    let faces = trained.strip_suffix("/final.h5").unwrap().to_owned();
    let cifar = here.join("cifar");
    fs::create_dir(&cifar).unwrap();
    let record = |i: u8| [&[i % 10][..], &[i; 3072]].concat();
    for batch in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(cifar.join(format!("{batch}.bin")), (0..40).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
    let data = format!("--data={}", path(here, "cifar"));
    let small = ["--set=model.depth=8", "--set=train.batch_size=40", "--set=train.milestones=[]", "--set=data.size=16"];
    let cifar = train("cifar-run", &[&["--preset=cifar10", &data], &small[..]].concat());
    let data = format!("--data={}", persons::packed(here));
    let reid = train("reid", &[SMALL_PERSONS, &[&data]].concat());
    [(glyphs, "Glyphs"), (faces, "Faces"), (cifar, "Cifar10"), (reid, "Reid")]
}

#[test]
fn every_option_that_does_nothing_for_a_run_is_an_error_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let images = path(here, "images");
    assert_code(&amlfs(&["prepare", "glyphs", &images, "--identities=2", "--images=1", "--size=32x32"]), 0);
    for (run, kind) in runs(here) {
        let evaluate = |more: &[&str]| amlfs(&[&["evaluate", "--device=cpu", "--threads=1", &run], more].concat());
        let refused = |output: &std::process::Output, option: &str, why: &str| {
            assert_error(output, 78, &format!("{option}: {run} is a run on {kind}, which {why}"));
        };
        let test = path(here, "train.h5");
        match kind {
            "Faces" => assert_code(&evaluate(&["--test", &test]), 0),
            _ => refused(
                &evaluate(&["--test", &test]),
                "--test",
                "has its own test set; only runs on faces and on images take another",
            ),
        }
        match kind {
            "Glyphs" => refused(&evaluate(&["--data", &images]), "--data", "makes its data itself"),
            "Faces" => {}
            _ => {
                // it is read, and so found to be something else
                let read = evaluate(&["--data", &images]);
                assert_code(&read, 1);
                assert!(text(&read).contains("images: "), "{}", text(&read));
            }
        }
        let out = path(here, &format!("{kind}.h5"));
        let export = ["export", "embeddings", "--device=cpu", "--model", &run, &images, "--out", &out];
        let with_data = amlfs(&[&export[..], &["--data", &path(here, "cifar")]].concat());
        match kind {
            "Cifar10" => assert_code(&with_data, 0),
            _ => assert_error(&with_data, 78, "--data: only a network for CIFAR-10 or CIFAR-100 needs its run's data"),
        }
    }
    // a checkpoint beside two files of features
    let both = ["--facescrub", &path(here, "Cifar10.h5"), "--megaface", &path(here, "Cifar10.h5")];
    let model = path(here, "glyphs");
    let output = amlfs(&[&["evaluate", "megaface", "--model", &model][..], &both].concat());
    assert_error(&output, 78, "--model: there is nothing for it to do where --facescrub and --megaface are files");
}
