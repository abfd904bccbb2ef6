//! Real CIFAR-10 images.

use std::fs::File;
use std::io::Read;
use std::ops::Range;

use zip::ZipArchive;

use crate::support::{assert_code, finish, mpirun};
use crate::{Possible, shared};

const CLASSES: [&str; 10] = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

/// Records of the official binary version: the label, then the red, green and blue plane.
fn records(archive: &mut ZipArchive<File>, split: &str, numbers: Range<usize>) -> Vec<u8> {
    let mut records = Vec::new();
    for number in numbers {
        for (label, class) in CLASSES.iter().enumerate() {
            let mut jpeg = Vec::new();
            let name = format!("{split}/{class}/{number:04}.jpg");
            archive.by_name(&name).unwrap().read_to_end(&mut jpeg).unwrap();
            let image = image::load_from_memory(&jpeg).unwrap().to_rgb8();
            records.push(label as u8);
            records.extend((0..3).flat_map(|channel| image.pixels().map(move |pixel| pixel[channel])));
        }
    }
    records
}

pub fn softmax_learns_and_a_search_runs() -> Possible {
    let mut archive = shared("cifar10.zip")?;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for i in 0..5 {
        let batch = records(&mut archive, "train", 40 * i..40 * (i + 1));
        std::fs::write(data.join(format!("data_batch_{}.bin", i + 1)), batch).unwrap();
    }
    std::fs::write(data.join("test_batch.bin"), records(&mut archive, "test", 0..50)).unwrap();
    let data = format!("--data={}", data.display());
    let common = ["--preset=cifar10", "--set=model.depth=8", "--set=train.batch_size=50", &data];

    let out = directory.path().join("softmax");
    let out_flag = format!("--out={}", out.display());
    let settings =
        [&["train", "--loss=softmax"], &common[..], &["--epochs=5", "--set=train.milestones=[3]", &out_flag]].concat();
    assert_code(&finish(&mut mpirun(1, &settings)), 0);
    let test = amlfs::checkpoint::read(&out.join("final.h5")).unwrap().test;
    let accuracy = test.iter().find(|(name, _)| name == "top1").unwrap().1;
    assert!(accuracy > 0.25, "{accuracy}, chance is 0.1");

    let out_flag = format!("--out={}", directory.path().join("search").display());
    let settings = [&common[..], &["--epochs=2", "--samples=4", "--set=search.sigma=0.05", &out_flag]].concat();
    assert_code(&finish(&mut mpirun(2, &settings)), 0);
    Ok(())
}
