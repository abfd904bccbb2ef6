//! Real training runs of the program: it learns, also on two replicas, and label noise hurts.

mod support;

use std::path::Path;

use support::{assert_code, assert_error, finish, mpirun};

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

/// CIFAR-100's binary version as the archive that is given out, with images that show their class by their colours.
fn cifar100(path: &Path) {
    let records = |copies: usize| {
        let record = |label: u8| {
            let planes = [label % 5 * 60, label / 5 % 5 * 60, label / 25 * 60].map(|value| [value; 1024]).concat();
            [&[label / 5, label][..], &planes].concat()
        };
        (0..100 * copies).map(|i| record((i % 100) as u8)).collect::<Vec<_>>().concat()
    };
    let file = std::fs::File::create(path).unwrap();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(file, Default::default()));
    for (name, bytes) in [("train.bin", records(20)), ("test.bin", records(1)), ("fine_label_names.txt", vec![b'x'])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, format!("cifar-100-binary/{name}"), &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap();
}

#[test]
fn cifar_100_is_trained_on_from_its_archive() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("cifar-100-binary.tar.gz");
    cifar100(&archive);
    let data = format!("--data={}", archive.display());
    let (out, size) = (directory.path().join("run"), "--set=data.size=8");
    let out_flag = format!("--out={}", out.display());
    let common = ["train", "--loss=softmax", "--preset=cifar10", "--set=model.depth=8", "--device=cpu", size, &data];
    let more = ["--set=data.kind=cifar100", "--epochs=12", "--set=train.milestones=[9]", "--set=train.batch_size=32"];
    let plain = ["--set=data.mirror=false", "--set=data.crop_padding=0", &out_flag];
    assert_code(&finish(&mut mpirun(1, &[&common[..], &more, &plain].concat())), 0);
    let found = amlfs::checkpoint::read(&out.join("final.h5")).unwrap();
    let top1 = found.test.iter().find(|(metric, _)| metric == "top1").unwrap().1;
    println!("test accuracy on 100 colours: {top1}");
    assert!(top1 > 0.3, "{top1}, chance is 0.01");
    // the same files with the other kind
    let output = finish(&mut mpirun(1, &[&common[..], &["--out", "nowhere"]].concat()));
    assert_error(&output, 1, "cifar-100-binary.tar.gz: CIFAR-100, not CIFAR-10; --set data.kind=cifar100 trains on it");
}
