//! Real CIFAR-10 images, where they are: ../shared/data beside the checkout, and Python with Pillow to unpack them.

mod support;

use std::path::Path;
use std::process::Command;

use support::{assert_code, finish, mpirun, skipped};

#[test]
fn softmax_learns_and_a_search_runs_on_real_images() {
    let unpack = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/unpack-cifar10");
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let unpacked = Command::new("python3").arg(&unpack).arg(&data).args(["--train=2000", "--test=500"]).output();
    if !unpacked.is_ok_and(|output| output.status.success()) {
        skipped(&format!("no CIFAR-10 ({} needs the images beside it and Pillow)", unpack.display()));
        return;
    }
    let data = format!("--data={}", data.display());
    let common = ["--preset=cifar10", "--set=model.depth=8", "--set=train.batch_size=50", &data];

    let out = directory.path().join("softmax");
    let out_flag = format!("--out={}", out.display());
    let settings =
        [&["train", "--loss=softmax"], &common[..], &["--epochs=5", "--set=train.milestones=[3]", &out_flag]].concat();
    assert_code(&finish(&mut mpirun(1, &settings)), 0);
    let test = amlfs::checkpoint::read(&out.join("final.h5")).unwrap().test;
    let accuracy = test.iter().find(|(name, _)| name == "top1").unwrap().1;
    println!("test accuracy {accuracy}");
    assert!(accuracy > 0.25, "{accuracy}, chance is 0.1");

    let out_flag = format!("--out={}", directory.path().join("search").display());
    let settings = [&common[..], &["--epochs=2", "--samples=4", "--set=search.sigma=0.05", &out_flag]].concat();
    assert_code(&finish(&mut mpirun(2, &settings)), 0);
}
