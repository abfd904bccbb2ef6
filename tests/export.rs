//! What `export` hands to other programs, of any network and from directories as people have them.

mod support;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use amlfs::data::Embeddings;
use support::{SMALL, amlfs, assert_code, assert_error, damaged_png, for_training, path, text, two_at_once};

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
    (Vec::try_from(file.rows(0..file.count()).unwrap()).unwrap(), file.labels().to_vec(), file.names().unwrap())
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
    let other = amlfs(&["export", "weights", "--model", &model, "--out", &path(here, "w.pth")]);
    assert_error(&other, 78, "w.pth: must end in .safetensors");
}
