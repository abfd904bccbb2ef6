//! The ORL face database: s1 to s40, ten images each.

use std::path::Path;

use amlfs::checkpoint;

use crate::support::{amlfs, assert_code, finish, mpirun, path};
use crate::{Possible, shared};

pub fn real_faces_are_prepared_searched_and_measured() -> Possible {
    let mut archive = shared("orl-faces.zip")?;
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).unwrap();
        let Some(identity) = file.name().strip_suffix(".pgm").map(|name| name.split('/').next().unwrap()) else {
            continue;
        };
        let part = if identity[1..].parse::<u32>().unwrap() <= 30 { "train" } else { "test" };
        let image = here.join(part).join(file.name());
        std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        std::io::copy(&mut file, &mut std::fs::File::create(image).unwrap()).unwrap();
    }
    for part in ["train", "test"] {
        let (images, packed) = (path(here, part), path(here, &format!("{part}.h5")));
        assert_code(&amlfs(&["prepare", "faces", &images, "--out", &packed]), 0);
    }
    let data = format!("--data={}", path(here, "train.h5"));
    let test = format!("--set=data.faces.test={}", path(here, "test.h5"));
    let out = format!("--out={}", path(here, "run"));
    let settings = ["--preset=faces-small", &data, &test, &out, "--epochs=3", "--set=search.warmup_epochs=1"];
    assert_code(&finish(&mut mpirun(2, &settings)), 0);
    let found = checkpoint::read(Path::new(&path(here, "run/final.h5"))).unwrap();
    let rank1 = found.test.iter().find(|(name, _)| name == "rank1").unwrap().1;
    assert!(rank1 > 0.2, "{rank1}; among 90 other images chance is about 0.01");
    Ok(())
}
