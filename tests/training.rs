//! Real training runs of the program: it learns, also on two replicas, and label noise hurts.

mod support;

use std::path::Path;

use support::{assert_code, finish, mpirun};

/// Test accuracy of ResNet-8 with softmax on easy glyphs.
fn accuracy(directory: &Path, name: &str, settings: &[&str]) -> f64 {
    let out = directory.join(name);
    let out_flag = format!("--out={}", out.display());
    let common = [
        "train",
        "--loss=softmax",
        "--preset=demo",
        "--epochs=6",
        "--set=train.milestones=[5]",
        "--set=train.batch_size=64",
        "--set=data.glyphs.image_size=16",
        "--set=data.glyphs.train_images=1600",
        "--set=data.glyphs.test_images=500",
        "--set=data.glyphs.difficulty=0.15",
        &out_flag,
    ];
    assert_code(&finish(&mut mpirun(1, &[&common, settings].concat())), 0);
    let test = amlfs::checkpoint::read(&out.join("final.h5")).unwrap().test;
    test.iter().find(|(metric, _)| metric == "top1").unwrap().1
}

#[test]
fn softmax_learns_on_one_and_on_two_replicas_and_label_noise_hurts() {
    let directory = tempfile::tempdir().unwrap();
    let one = accuracy(directory.path(), "one", &[]);
    let two = accuracy(directory.path(), "two", &["--device=cpu", "--devices-per-rank=2"]);
    let noisy = accuracy(directory.path(), "noisy", &["--label-noise=0.6"]);
    println!("test accuracy: one replica {one}, two replicas {two}, 60 % label noise {noisy}");
    assert!(one > 0.6 && two > 0.6, "chance is 0.1");
    assert!(noisy < one - 0.1);
    let changes = std::fs::read_to_string(directory.path().join("noisy/label-noise.csv")).unwrap();
    let count = changes.lines().count() - 1;
    assert!((780..950).contains(&count), "about 60 % of 1440 labels are recorded: {count}");
    assert!(!directory.path().join("one/label-noise.csv").exists());
}

#[test]
fn every_fixed_loss_trains() {
    let directory = tempfile::tempdir().unwrap();
    for loss in ["l-softmax", "a-softmax", "am-softmax", "arcface", "focal"] {
        // the recipe's rate is softmax's; margins on few images want a smaller one
        let flag = format!("--loss={loss}");
        let found = accuracy(directory.path(), loss, &[&flag, "--set=train.learning_rate=0.05"]);
        println!("{loss}: test accuracy {found}");
        assert!(found > 0.2, "{loss}: {found}, chance is 0.1");
    }
}
