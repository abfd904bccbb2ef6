//! What `export` hands to other programs, of any network and from directories as people have them.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use amlfs::checkpoint;
use amlfs::config::TypedConfig;
use amlfs::data::Embeddings;
use serde_json::json;
use support::{NATURAL, SMALL, amlfs, assert_code, assert_error, damaged_png, for_training, path, text, two_at_once};

/// A small network for glyphs, trained for an epoch: its final.h5.
fn trained(directory: &Path) -> String {
    let out = format!("--out={}", path(directory, "run"));
    assert_code(&amlfs(&[&["train", "--loss=softmax"], &for_training(SMALL)[..], &["--epochs=1", &out]].concat()), 0);
    path(directory, "run/final.h5")
}

/// 3 identities with 4 images each, and another one a level deeper, as MegaFace's distractors lie.
fn tree(directory: &Path) -> String {
    let tree = path(directory, "images");
    let size = ["--identities=3", "--images=4", "--size=24x24"];
    assert_code(&amlfs(&[&["prepare", "glyphs", &tree][..], &size].concat()), 0);
    std::fs::create_dir_all(format!("{tree}/10/100@N00")).unwrap();
    for image in 0..4 {
        std::fs::copy(format!("{tree}/0000001/00{image}.jpg"), format!("{tree}/10/100@N00/{image}.jpg")).unwrap();
    }
    tree
}

fn export(model: &str, images: &str, out: &str, more: &[&str]) -> std::process::Output {
    amlfs(&[&["export", "embeddings", "--device=cpu", "--model", model, images, "--out", out], more].concat())
}

fn rows(file: &str) -> (Vec<Vec<f32>>, Vec<u32>, Vec<String>) {
    let file = Embeddings::open(Path::new(file)).unwrap();
    let mut rows = vec![0.0; file.count() * file.dimensions()];
    file.read(0..file.count(), &mut rows).unwrap();
    (rows.chunks_exact(file.dimensions()).map(<[f32]>::to_vec).collect(), file.labels().to_vec(), file.names().unwrap())
}

#[test]
fn a_classification_networks_embeddings_of_nested_directories_are_exported_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let (images, out) = (tree(here), path(here, "e.h5"));
    let output = export(&model, &images, &out, &[]);
    assert_code(&output, 0);
    assert!(text(&output).contains("e.h5: 16 images of 4 identities"), "{}", text(&output));
    let (rows, labels, names) = rows(&out);
    assert_eq!(labels, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
    assert_eq!((&*names[0], &*names[4], &*names[15]), ("0000000/000.jpg", "0000001/000.jpg", "10/100@N00/3.jpg"));
    assert!(rows.iter().all(|row| row.len() == 64));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    for i in 0..4 {
        assert_eq!(rows[4 + i], rows[12 + i], "equal images");
        assert!((dot(&rows[i], &rows[i]) - 1.0).abs() < 1e-5);
        assert!(dot(&rows[i], &rows[4 + i]) < 0.9999, "different images");
    }
    let refused = export(&model, &images, &path(here, "x.h5"), &["--data", &images]);
    assert_error(&refused, 78, "--data: only a network for CIFAR-10 or CIFAR-100 needs its run's data; leave it out");
}

#[test]
fn what_an_export_leaves_out_is_counted_listed_and_an_error_if_it_is_too_much() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let (images, out) = (tree(here), path(here, "e.npy"));
    let below = |name: &str| Path::new(&images).join(name);
    let whole = std::fs::read(below("0000002/000.jpg")).unwrap();
    std::fs::write(below("0000002/000.jpg"), "half an im").unwrap();
    std::fs::write(below("0000002/9.gif"), "GIF89a").unwrap();
    std::fs::write(below("0000002/9.jpg.json"), "{}").unwrap();
    symlink("gone", below("0000002/dead.jpg")).unwrap();
    assert!(Command::new("mkfifo").arg(below("0000002/pipe.jpg")).status().unwrap().success());

    let output = export(&model, &images, &out, &[]);
    assert_error(&output, 1, "4 of 19 images are missing or broken, more than the 0 allowed:");
    for what in [
        "0000002/9.gif: neither JPEG nor PNG nor PNM",
        "0000002/pipe.jpg: neither a file nor a directory",
        "--max-skipped",
    ] {
        assert!(text(&output).contains(what), "{}", text(&output));
    }
    let listed = std::fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
    let listed: Vec<_> = listed.lines().map(|line| line.split(',').next().unwrap()).collect();
    let expected =
        ["name", "0000002/000.jpg", "0000002/9.gif", "0000002/dead.jpg", "0000002/pipe.jpg", "0000002/9.jpg.json"];
    assert_eq!(listed, expected);
    assert!(!Path::new(&out).exists());

    let output = export(&model, &images, &out, &["--max-skipped=0.25"]);
    assert_code(&output, 0);
    let said = "skipped: 5 files, 4 of them images that can't be used; listed in ";
    assert!(text(&output).contains(said), "{}", text(&output));
    let names = std::fs::read_to_string(format!("{out}.names.txt")).unwrap();
    assert_eq!(names.lines().count(), 15);
    assert!(!names.contains("0000002/000.jpg"));

    // what only decoding tells
    std::fs::write(below("0000002/000.jpg"), damaged_png(&whole)).unwrap();
    let (out, straight) = (path(here, "later.h5"), path(here, "straight.h5"));
    assert_error(&export(&model, &images, &out, &["--max-skipped=0.2"]), 1, "4 of 19 images are missing or broken");
    assert!(!Path::new(&out).exists());
    assert_code(&export(&model, &images, &out, &["--max-skipped=0.25"]), 0);
    let listed = std::fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
    assert!(listed.contains("0000002/000.jpg,"), "{listed}");
    std::fs::remove_file(below("0000002/000.jpg")).unwrap();
    assert_code(&export(&model, &images, &straight, &["--max-skipped=0.25"]), 0);
    let (found, expected) = (rows(&out), rows(&straight));
    assert_eq!((found.1, &found.2), (expected.1, &expected.2));
    for (found, expected) in found.0.iter().flatten().zip(expected.0.iter().flatten()) {
        assert!((found - expected).abs() < 1e-5);
    }
    let whole_tree = tempfile::tempdir().unwrap();
    let images = tree(whole_tree.path());
    assert_code(&export(&model, &images, &path(here, "all.h5"), &[]), 0);
    assert!(!Path::new(&path(here, "all.h5.skipped.csv")).exists());

    let bad = below("0000002");
    for image in 0..4 {
        std::fs::write(bad.join(format!("00{image}.jpg")), "").unwrap();
    }
    let output = export(&model, bad.to_str().unwrap(), &path(here, "none.h5"), &["--max-skipped=1"]);
    assert_error(&output, 1, "none of the 7 images is there and whole:");
    assert_code(&export(&model, &images, &path(here, "x.h5"), &["--max-skipped=nan"]), 2);
}

#[test]
fn of_two_exports_to_one_file_the_second_is_told_whose_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let (images, out) = (tree(here), path(here, "e.h5"));
    (100..1100)
        .try_for_each(|i| std::fs::hard_link(format!("{images}/0000001/000.jpg"), format!("{images}/0000001/{i}.jpg")))
        .unwrap();
    let command = ["export", "embeddings", "--device=cpu", "--threads=1", "--model", &model, &images, "--out", &out];
    let [first, second] = two_at_once(&command, &out);
    assert_code(&first, 0);
    assert_error(&second, 1, " makes this; wait until it ends, or name another --out");
    assert_eq!(rows(&out).2.len(), 1016);
    assert!(!Path::new(&format!("{out}.owner")).exists());
}

#[test]
fn a_file_of_another_kind_is_told_with_what_to_give_instead() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let (images, embeddings, weights) = (tree(here), path(here, "e.h5"), path(here, "w.safetensors"));
    assert_code(&export(&model, &images, &embeddings, &[]), 0);
    assert_code(&amlfs(&["export", "weights", "--model", &model, "--out", &weights]), 0);
    let (packed, numpy) = (path(here, "packed.h5"), path(here, "e.npy"));
    std::fs::remove_dir_all(format!("{images}/10")).unwrap();
    assert_code(&amlfs(&["prepare", "faces", &images, "--out", &packed, "--size=24x24"]), 0);
    assert_code(&export(&model, &images, &numpy, &[]), 0);

    let wanted = "; wanted is a checkpoint: a run's final.h5 or epoch-*.h5";
    for (file, kind) in [
        (&packed, "packed images, which amlfs prepare wrote"),
        (&embeddings, "embeddings, which amlfs export embeddings wrote"),
        (&weights, "a .safetensors file"),
        (&numpy, "a NumPy file"),
        (&path(here, "run/config.toml"), "not an HDF5 file"),
    ] {
        let told = format!("{file}: {kind}{wanted}");
        assert_error(&amlfs(&["inspect", file]), 1, &told);
        assert_error(&amlfs(&["export", "weights", "--model", file, "--out", &path(here, "x.safetensors")]), 1, &told);
        assert_error(&export(file, &images, &path(here, "x.h5"), &[]), 1, &told);
    }
    // what is damaged is still a checkpoint
    let bytes = std::fs::read(&model).unwrap();
    std::fs::write(path(here, "half.h5"), &bytes[..bytes.len() / 2]).unwrap();
    assert_error(&amlfs(&["inspect", &path(here, "half.h5")]), 1, "half.h5: truncated, or not an amlfs checkpoint");
    let told = "packed.h5: not a directory; give the directory that the image files are below";
    assert_error(&export(&model, &packed, &path(here, "x.h5"), &[]), 1, told);
    let other = amlfs(&["export", "weights", "--model", &model, "--out", &path(here, "w.bin")]);
    assert_error(&other, 78, "w.bin: must end in .safetensors or .pth, or have a --format");
}

#[test]
fn weights_are_exported_as_they_are_for_safetensors_and_for_torch_load() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let weights = |name: &str, more: &[&str]| -> Vec<u8> {
        let out = path(here, name);
        assert_code(&amlfs(&[&["export", "weights", "--model", &model, "--out", &out], more].concat()), 0);
        std::fs::read(out).unwrap()
    };
    let bytes = weights("w.safetensors", &[]);
    assert!(bytes == weights("other.bin", &["--format=safetensors"]), "equal content, other bytes");
    let header = std::str::from_utf8(&bytes[8..]).unwrap_err().valid_up_to();
    let header = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
    let places = ["{\"__metadata__\":{\"amlfs_config\":", "\"epoch\":\"1\"", "\"format\":\"pt\"}", "bn1.bias"];
    assert!(places.map(|what| header.find(what).expect(what)).is_sorted());
    weights("w.pth", &[]);
    let found = tch::Tensor::loadz_multi(path(here, "w.pth")).unwrap();
    let expected = checkpoint::read(Path::new(&model)).unwrap();
    let expected: Vec<_> = expected.tensors.iter().filter(|tensor| tensor.path.starts_with("model/")).collect();
    assert_eq!(found.len(), expected.len());
    for tensor in expected {
        let (_, read) = found.iter().find(|(name, _)| *name == tensor.path["model/".len()..]).unwrap();
        assert_eq!(read.size(), tensor.shape.iter().map(|&side| side as i64).collect::<Vec<_>>());
        assert_eq!(Vec::<f32>::try_from(read.reshape(-1)).unwrap(), tensor.values);
    }
}

#[test]
fn a_searchs_loss_is_exported_with_its_schedules_and_settings() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let out = format!("--out={}", path(here, "search"));
    assert_code(&amlfs(&[SMALL, NATURAL, &[&out]].concat()), 0);
    let search = checkpoint::read(&here.join("search")).unwrap();
    let loss = |name: &str, more: &[&str]| {
        let (run, out) = (path(here, "search"), path(here, name));
        amlfs(&[&["export", "loss", "--model", &run, "--out", &out], more].concat())
    };
    let output = loss("loss.json", &[]);
    assert_code(&output, 0);
    assert!(text(&output).contains("loss.json: what was learned in 3 of 3 epochs\n"), "{}", text(&output));
    let written = std::fs::read_to_string(path(here, "loss.json")).unwrap();
    let found: serde_json::Value = serde_json::from_str(&written).unwrap();
    let typed = TypedConfig::from_toml(&search.info.config).unwrap();
    assert_eq!((&found["filetype"], &found["version"]), (&json!("amlfs loss"), &json!([1, 1])));
    assert_eq!((&found["space"], &found["intervals"]), (&json!("derivatives"), &json!(typed.search.intervals)));
    assert_eq!((&found["head"], &found["scale"]), (&json!("normalised"), &json!(typed.loss.scale)));
    assert_eq!((&found["w_max"], &found["tau_weights"]), (&json!(typed.loss.w_max), &json!(typed.loss.tau_weights)));
    assert_eq!(found["components"], json!(typed.search.space().names()));
    assert_eq!(found["mean"], json!(search.policy.mu));
    for (epoch, record) in search.history.iter().enumerate() {
        assert_eq!(found["means"][epoch], json!(record.mu));
    }
    // a round ends with the milestone after the first epoch, and the other two are one: its best sample is known at its end
    assert_eq!(search.history[1].best, -1);
    let best = |epoch: usize| search.history[epoch].best as usize;
    for (epoch, best) in [best(0), best(2), best(2)].into_iter().enumerate() {
        assert_eq!(found["chosen"][epoch], json!(search.history[epoch].samples[best].theta));
    }
    let run = &found["run"];
    assert_eq!(run["checkpoint"], json!(path(here, "search/final.h5")));
    assert_eq!((&run["epoch"], &run["epochs"], &run["seed"]), (&json!(3), &json!(3), &json!(1)));
    assert_eq!(run["test"]["top1"], json!(search.test.iter().find(|(name, _)| name == "top1").unwrap().1));

    // the module ends with the same
    assert_code(&loss("loss.py", &[]), 0);
    assert_code(&loss("other", &["--format=python"]), 0);
    let module = std::fs::read_to_string(path(here, "loss.py")).unwrap();
    assert_eq!(module, std::fs::read_to_string(path(here, "other")).unwrap());
    assert!(module.starts_with("\"\"\"The loss function that a search of amlfs learned"));
    assert_eq!(module.split_once("\nLEARNED = ").unwrap().1, written);

    // of a search that has not ended, what it has learned so far
    let early = path(here, "search/epoch-0001.h5");
    let output = amlfs(&["export", "loss", "--model", &early, "--out", &path(here, "early.json")]);
    assert_code(&output, 0);
    assert!(
        text(&output).contains("what was learned in 1 of 3 epochs: the search has not ended\n"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_loss_that_can_not_be_exported_is_an_error_that_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let loss = |model: &str, name: &str, more: &[&str]| {
        amlfs(&[&["export", "loss", "--model", model, "--out", &path(here, name)], more].concat())
    };
    let fixed = "final.h5: the checkpoint of a training with a fixed loss: it has learned no loss";
    assert_error(&loss(&model, "x.py", &[]), 1, fixed);
    let told = "x.txt: must end in .py or .json, or have a --format";
    assert_error(&loss(&model, "x.txt", &[]), 78, told);
    assert_error(&loss(&model, "x.py", &["--format=json"]), 78, "--format json: --out ");
    assert_code(&loss(&model, "x.py", &["--format=onnx"]), 2);
    std::fs::write(path(here, "there.py"), "mine").unwrap();
    assert_error(&loss(&model, "there.py", &[]), 1, "there.py: exists already");
    std::fs::create_dir(path(here, "empty")).unwrap();
    assert_error(&loss(&path(here, "empty"), "x.py", &[]), 1, "empty: a directory without a checkpoint");
    assert_error(&loss(&path(here, "run/config.toml"), "x.py", &[]), 1, "config.toml: not an HDF5 file; wanted is");

    // a search's, changed
    let out = format!("--out={}", path(here, "search"));
    assert_code(&amlfs(&[SMALL, &["--epochs=1", &out]].concat()), 0);
    let search = checkpoint::read(&here.join("search")).unwrap();
    type Change<'a> = &'a dyn Fn(&mut checkpoint::Checkpoint);
    let changes: [(&str, Change, &str); 4] = [
        ("none.h5", &|c| c.history.clear(), "a search without a finished epoch: it has learned no loss"),
        ("nan.h5", &|c| c.history[0].mu[2] = f64::NAN, "history/mu has numbers that are not finite"),
        (
            "other.h5",
            &|c| c.info.config = c.info.config.replace("intervals = 6", "intervals = 3"),
            "damaged: theta has 24 numbers, by its configuration 12",
        ),
        ("config.h5", &|c| c.info.config.push_str("\n[future]\n"), "the stored configuration can't be used: "),
    ];
    for (name, change, why) in changes {
        let (mut changed, file) = (search.clone(), path(here, name));
        change(&mut changed);
        checkpoint::write(Path::new(&file), &changed).unwrap();
        assert_error(&loss(&file, "x.py", &[]), 1, &format!("{name}: "));
        assert_error(&loss(&file, "x.py", &[]), 1, why);
    }
    assert!(!Path::new(&path(here, "x.py")).exists());
}
