//! A face run of seconds.

use std::path::Path;

use super::{amlfs, assert_code, finish, for_training, mpirun, path};

/// A search of seconds on 32 x 32 images. On CPU, where the bits are promised.
pub const SMALL_FACES: &[&str] = &[
    "--preset=faces-small",
    "--search=paper",
    "--device=cpu",
    "--threads=1",
    "--samples=4",
    "--policy=reinforce",
    "--epochs=4",
    "--set=search.warmup_epochs=0",
    "--set=search.sigma=0.2",
    "--set=data.faces.size=[32, 32]",
    "--set=data.faces.probe_identities=4",
    "--set=data.faces.distractor_identities=4",
    "--set=data.faces.images_per_identity=5",
    "--set=data.crop_padding=2",
    "--set=model.width=0.125",
    "--set=train.batch_size=20",
    "--set=train.milestones=[3]",
];

/// `identities` with 5 images each, packed.
pub fn packed(directory: &Path, name: &str, identities: usize, seed: usize) -> String {
    let (tree, file) = (path(directory, &format!("{name}-images")), path(directory, &format!("{name}.h5")));
    let (identities, seed) = (format!("--identities={identities}"), format!("--seed={seed}"));
    let size = "--size=32x32";
    assert_code(&amlfs(&["prepare", "glyphs", &tree, &identities, "--images=5", size, &seed]), 0);
    assert_code(&amlfs(&["prepare", "faces", &tree, "--out", &file, size]), 0);
    file
}

/// Trains for an epoch; the run's final.h5.
pub fn trained(directory: &Path) -> String {
    let data = format!("--data={}", packed(directory, "train", 24, 1));
    let out = format!("--out={}", path(directory, "run"));
    let settings =
        [&["train", "--loss=am-softmax"], &for_training(SMALL_FACES)[..], &[&data, &out, "--epochs=1"]].concat();
    assert_code(&finish(&mut mpirun(1, &settings)), 0);
    path(directory, "run/final.h5")
}
