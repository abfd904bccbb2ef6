//! One's own images of classes as their users go through them: prepare, search, baselines, evaluate, export.

mod support;

use std::fs;
use std::path::Path;

use amlfs::data::{Images, Packed, Subset};
use support::kill::kill_and_resume;
use support::{
    amlfs, assert_code, assert_error, assert_same, final_without_timings, finish, for_training, json, mpirun, path,
    text,
};

/// A search of seconds. On CPU, where the bits are promised.
const SMALL_IMAGES: &[&str] = &[
    "--preset=images-small",
    "--search=paper",
    "--device=cpu",
    "--threads=1",
    "--samples=4",
    "--policy=reinforce",
    "--epochs=3",
    "--set=search.warmup_epochs=0",
    "--set=search.sigma=0.2",
    "--set=search.reward=recall",
    "--set=data.images.size=32",
    "--set=data.images.shorter_side=36",
    "--set=data.erasing=0.3",
    "--set=model.width=0.0625",
    "--set=train.batch_size=20",
    "--set=train.milestones=[2]",
];

/// Images of 6 classes, of another size and shape for each class: the first has 30 of them, the others 10.
fn tree(directory: &Path) -> String {
    let tree = path(directory, "tree");
    for (class, size) in ["40x40", "40x60", "64x40", "33x50", "48x48", "90x40"].iter().enumerate() {
        let part = path(directory, &format!("part-{class}"));
        let (seed, size) = (format!("--seed={class}"), format!("--size={size}"));
        assert_code(
            &amlfs(&["prepare", "glyphs", &part, "--identities=2", "--images=30", "--difficulty=0.05", &size, &seed]),
            0,
        );
        fs::create_dir_all(&tree).unwrap();
        fs::rename(path(Path::new(&part), "0000000"), format!("{tree}/class {class}")).unwrap();
        if class > 0 {
            let images = fs::read_dir(format!("{tree}/class {class}")).unwrap().map(|entry| entry.unwrap().path());
            let mut images: Vec<_> = images.collect();
            images.sort();
            images[10..].iter().for_each(|image| fs::remove_file(image).unwrap());
        }
    }
    tree
}

/// A row for each image of `tree`, of its class, path and split: every fifth image of a class is tested on.
fn listed(tree: &str, row: impl Fn(usize, &str, &str) -> String) -> Vec<String> {
    let mut rows = Vec::new();
    for class in 0..6 {
        let mut images: Vec<_> = fs::read_dir(format!("{tree}/class {class}")).unwrap().flatten().collect();
        images.sort_by_key(|entry| entry.file_name());
        for (number, image) in images.iter().enumerate() {
            let file = format!("tree/class {class}/{}", image.file_name().to_str().unwrap());
            rows.push(row(class, &file, if number % 5 == 0 { "test" } else { "train" }));
        }
    }
    rows
}

fn packed(directory: &Path, tree: &str, arguments: &[&str]) -> String {
    let file = path(directory, "images.h5");
    assert_code(&amlfs(&[&["prepare", "images", tree, "--out", &file], arguments].concat()), 0);
    file
}

#[test]
fn images_give_the_same_bits_for_1_2_and_4_ranks_and_evaluate_repeats_the_test() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path(), &tree(directory.path()), &["--resize=40"]));
    let results: Vec<_> = [1, 2, 4]
        .into_iter()
        .map(|ranks| {
            let out = directory.path().join(ranks.to_string());
            let out_flag = format!("--out={}", out.display());
            assert_code(&finish(&mut mpirun(ranks, &[SMALL_IMAGES, &[&data, &out_flag]].concat())), 0);
            final_without_timings(&out)
        })
        .collect();
    assert!(results[0].history.iter().any(|record| record.delta_norm > 0.0), "mu never moved");
    assert_same(&results[0], &results[1]);
    assert_same(&results[0], &results[2]);
    let names: Vec<&str> = results[0].test.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, ["recall", "top1", "top1_error", "top5"]);
    let found = json(&amlfs(&["evaluate", "--json", "--device=cpu", &path(directory.path(), "1")]));
    for (name, value) in &results[0].test {
        assert_eq!(found[name].as_f64().unwrap(), *value);
    }
}

#[test]
fn an_image_search_that_is_killed_and_resumed_has_the_straight_runs_bits() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path(), &tree(directory.path()), &[]));
    kill_and_resume(&[SMALL_IMAGES, &[&data]].concat(), 3, 4);
}

#[test]
fn classes_are_counted_duplicates_named_and_a_baseline_learns_raw_pixels() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (tree, list, file) = (tree(here), path(here, "list.tsv"), path(here, "images.h5"));
    // one of those that are tested on is trained on as well
    let mut rows = vec!["path\tlabel\tsplit".to_owned()];
    rows.extend(listed(&tree, |class, file, split| format!("{file}\t{class}\t{split}")));
    fs::copy(first_image(&tree), path(here, "copy.jpg")).unwrap();
    rows.push("copy.jpg\t1\ttrain".into());
    rows.push("missing.jpg\t1\ttrain".into());
    fs::write(&list, rows.join("\n")).unwrap();
    let output = amlfs(&["prepare", "images", &list, "--out", &file, "--raw=32x32", "--max-skipped=0.1"]);
    assert_code(&output, 0);
    let told = text(&output);
    for part in [
        "images.h5: 81 images of 6 classes",
        "to train on: 65 images of 6 classes, imbalance 3.0 (0 24, 1 9, 2 8, 3 8, 4 8, 5 8)",
        "validation: none; a part of the images to train on will be used",
        "test: 16 images of 6 classes, imbalance 3.0",
        "1 image(s) are in two of training, validation and test set, byte for byte, such as tree/class 1/",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(fs::read_to_string(format!("{file}.skipped.csv")).unwrap().contains("missing.jpg,can't be read"));
    let found = Packed::open(Path::new(&file)).unwrap();
    assert_eq!(found.subsets().unwrap().iter().filter(|&&subset| subset == Subset::Test).count(), 16);
    assert_eq!((found.count(), found.size()), (81, (32, 32)));

    let (data, out) = (format!("--data={file}"), format!("--out={}", path(here, "softmax")));
    let padded = ["--set=data.images.crop=padded", "--set=data.crop_padding=2", "--set=data.images.shorter_side=32"];
    let network =
        ["--set=model.name=resnet-cifar", "--set=model.depth=8", "--epochs=40", "--set=train.milestones=[30]"];
    let train = ["train", "--loss=softmax"];
    let settings = [
        &train,
        &for_training(SMALL_IMAGES)[..],
        &padded,
        &network,
        &["--set=data.erasing=0", "--set=data.mirror=false", &data, &out],
    ]
    .concat();
    assert_code(&finish(&mut mpirun(1, &settings)), 0);
    let (name, recall) = &final_without_timings(&here.join("softmax")).test[0];
    assert!(name == "recall" && *recall > 0.5, "{name} {recall}: chance is a sixth");
}

fn first_image(tree: &str) -> String {
    let mut images: Vec<_> = fs::read_dir(format!("{tree}/class 1")).unwrap().flatten().map(|e| e.path()).collect();
    images.sort();
    images[0].display().to_string()
}

#[test]
fn files_of_other_data_and_trees_are_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let (tree, faces) = (tree(directory.path()), path(directory.path(), "faces.h5"));
    assert_code(&amlfs(&["prepare", "faces", &tree, "--out", &faces, "--size=32x32"]), 0);
    let search = |data: &str| {
        let (data, out) = (format!("--data={data}"), format!("--out={}", path(directory.path(), "run")));
        finish(&mut mpirun(1, &[SMALL_IMAGES, &[&data, &out]].concat()))
    };
    assert_error(&search(&faces), 1, "faces.h5: not written by amlfs prepare images: its images have no subsets");
    assert_error(&search(&tree), 1, "pack it first: amlfs prepare images");
    let file = packed(directory.path(), &tree, &[]);
    let out = format!("--out={}", path(directory.path(), "run"));
    let faces = ["--preset=faces-small", "--device=cpu", &format!("--data={file}"), &out];
    assert_error(
        &finish(&mut mpirun(1, &faces)),
        1,
        "written by amlfs prepare images; for these take the preset images",
    );
}

#[test]
fn predictions_are_those_of_the_test_and_another_files_classes_go_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let tree = tree(here);
    let mut rows = vec!["path,label,split".to_owned()];
    rows.extend(listed(&tree, |class, file, split| format!("{file},{class} 'é',{split}")));
    let list = path(here, "list.csv");
    fs::write(&list, rows.join("\n")).unwrap();
    let file = path(here, "images.h5");
    assert_code(&amlfs(&["prepare", "images", &list, "--out", &file]), 0);
    let (data, out) = (format!("--data={file}"), path(here, "run"));
    let out_flag = format!("--out={out}");
    let train = [&["train", "--loss=softmax"], &for_training(SMALL_IMAGES)[..], &[&data, &out_flag]].concat();
    assert_code(&finish(&mut mpirun(1, &train)), 0);
    let found = final_without_timings(Path::new(&out));
    assert_eq!(found.info.classes[1], "1 'é'");
    let predictions = found.predictions.unwrap();
    let packed = Packed::open(Path::new(&file)).unwrap();
    let names: Vec<String> = predictions.image.iter().map(|&image| packed.name(image as usize).unwrap()).collect();
    assert!(names.len() == 16 && names.iter().all(|name| rows.iter().any(|row| row.starts_with(&name[..]))));

    // the same images as files, half of them named on standard input
    let csv = path(here, "predictions.csv");
    let files: Vec<String> = names.iter().map(|name| path(here, name)).collect();
    let mut predict = std::process::Command::new(support::AMLFS);
    predict.args(["predict", "--device=cpu", "--top=2", "--model", &out, "--out", &csv]).args(&files[..8]).arg("-");
    let listed = path(here, "listed");
    fs::write(&listed, files[8..].join("\n")).unwrap();
    assert_code(&finish(predict.stdin(fs::File::open(&listed).unwrap())), 0);
    let mut reader = csv::Reader::from_path(&csv).unwrap();
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), files.len());
    for ((row, file), &predicted) in rows.iter().zip(&files).zip(&predictions.predicted) {
        assert_eq!((&row[0], &row[1]), (&file[..], &found.info.classes[predicted as usize][..]));
        let [first, second] = [2, 4].map(|column| row[column].parse::<f64>().unwrap());
        assert!(first >= second && second >= 0.0 && first + second <= 1.0 + 1e-5, "{row:?}");
    }
    assert_error(&amlfs(&["predict", "--device=cpu", "--model", &out, "--out", &csv, &files[0]]), 1, "exists already");

    // another file whose classes come in another order, and without a test set
    let test: Vec<String> = (0..6).rev().map(|class| format!("{class} 'é'")).collect();
    let of_class = |class: &str| -> Vec<&String> {
        let directory = format!("class {}", &class[..1]);
        names.iter().filter(|name| name.contains(&directory)).collect()
    };
    let rows: Vec<String> =
        test.iter().flat_map(|class| of_class(class).into_iter().map(move |name| format!("{name},{class}"))).collect();
    fs::write(&list, rows.join("\n")).unwrap();
    let other = path(here, "other.h5");
    assert_code(&amlfs(&["prepare", "images", &list, "--out", &other]), 0);
    let confusion = path(here, "confusion.csv");
    let measured = amlfs(&["evaluate", "--json", "--device=cpu", &out, "--test", &other, "--confusion", &confusion]);
    let top1 = found.test.iter().find(|(name, _)| name == "top1").unwrap().1;
    assert_eq!(json(&measured)["top1"].as_f64().unwrap(), top1);
    let rows = fs::read_to_string(&confusion).unwrap();
    let total: u64 = rows.lines().skip(1).map(|row| row.rsplit(',').next().unwrap().parse::<u64>().unwrap()).sum();
    assert!(rows.starts_with("label,predicted,images\n") && total == 16, "{rows}");
    fs::write(&list, fs::read_to_string(&list).unwrap().replace("5 'é'", "five")).unwrap();
    fs::remove_file(&other).unwrap();
    assert_code(&amlfs(&["prepare", "images", &list, "--out", &other]), 0);
    assert_error(
        &amlfs(&["evaluate", "--device=cpu", &out, "--test", &other]),
        1,
        "other.h5: its class \"five\" is none of the run's 6",
    );
}
