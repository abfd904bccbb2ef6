//! Generated persons, and the smallest network for them.

use std::path::Path;

use super::{amlfs, assert_code, path};

pub const SMALL_PERSONS: &[&str] = &[
    "--preset=market1501-spherereid",
    "--set=data.reid.size=[72, 36]",
    "--set=data.reid.crop=[64, 32]",
    "--set=data.reid.images_per_identity=2",
    "--set=data.reid.validation_identities=4",
    "--set=model.width=0.0625",
    "--set=train.batch_size=8",
    "--set=train.epoch_iterations=2",
    "--set=train.milestones=[]",
    "--set=train.warmup_epochs=0",
];

/// The packed file of 24 persons, in `directory`, beside their tree `people`.
pub fn packed(directory: &Path) -> String {
    let (tree, file) = (path(directory, "people"), path(directory, "people.h5"));
    let layout = ["--layout=market", "--identities=24", "--images=6", "--size=64x32"];
    assert_code(&amlfs(&[&["prepare", "glyphs", &tree][..], &layout].concat()), 0);
    assert_code(&amlfs(&["prepare", "reid", &tree, "--out", &file]), 0);
    file
}
