//! What `amlfs prepare` is given.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::evaluate::parse_share;
use crate::data::Store;

#[derive(Subcommand)]
pub enum PrepareCommand {
    /// Faces: a directory of identities with image files, or an insightface folder (train.rec, train.idx, property)
    Faces(PrepareFacesArguments),
    /// One's own images of classes: a directory per class, or a list of files
    Images(PrepareImagesArguments),
    /// People seen by several cameras: Market-1501-v15.09.15, DukeMTMC-reID, MSMT17, CUHK03-NP or a tree like one
    Reid(PrepareReidArguments),
    /// Generated images as a directory of identities, to try things with
    Glyphs(PrepareGlyphsArguments),
}

/// What all that is packed has.
#[derive(Args)]
pub struct PackingArguments {
    /// The packed file to write; if it was interrupted, the same command goes on
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Share of the images that may be unusable, 0 to 1: they are left out and listed in FILE.skipped.csv; if there
    /// are more, the file is not made
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = parse_share)]
    pub max_skipped: f64,
    /// Threads that decode and encode; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Args)]
pub struct PrepareFacesArguments {
    /// A directory with a subdirectory of images per identity, or one with train.rec, train.idx and property
    pub source: PathBuf,
    /// Height x width of the stored images in pixels
    #[arg(long, value_name = "HxW", default_value = "112x96", value_parser = parse_size)]
    pub size: (usize, usize),
    /// How images are stored: encoded ones take a tenth of the space, raw ones no time to decode
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Store::Jpeg)]
    pub store: Store,
    /// Text file of identities to leave out, one per line: directory names (also within a path or as a first column), or
    /// labels of a .rec without train.lst; repeatable
    #[arg(long, value_name = "FILE")]
    pub exclude: Vec<PathBuf>,
    #[command(flatten)]
    pub packing: PackingArguments,
}

#[derive(Args)]
pub struct PrepareImagesArguments {
    /// A directory with a subdirectory of images per class, or with train, test and val (valid, validation) that hold such
    /// subdirectories; a CSV or TSV file of path, label and, if there is one, split; or CIFAR-10 or CIFAR-100: the directory
    /// of either version, or its .tar.gz
    pub source: PathBuf,
    /// Shrink images whose shorter side is longer than N pixels to N, as JPEG; default: every file stays as it is
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub resize: Option<u32>,
    /// Store raw pixels, Height x width: the centre in this shape, resized; they take no time to decode. CIFAR's images are
    /// stored so always, 32x32 unless this says otherwise
    #[arg(long, value_name = "HxW", value_parser = parse_size, conflicts_with = "resize")]
    pub raw: Option<(usize, usize)>,
    #[command(flatten)]
    pub packing: PackingArguments,
}

#[derive(Args)]
pub struct PrepareReidArguments {
    /// Directory with bounding_box_train, query and bounding_box_test, or the one above it; likewise VeRi-776's and
    /// MSMT17's own
    pub source: PathBuf,
    /// The tree is your own, not one of these benchmarks, whatever its name: any people and cameras, and person 0 is one
    /// of them instead of a distractor
    #[arg(long)]
    pub own_tree: bool,
    #[command(flatten)]
    pub packing: PackingArguments,
}

/// What a tree of generated images resembles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TreeLayout {
    /// A directory per identity
    Faces,
    /// Market-1501: half of the identities to train on, the others to test; six cameras, distractors, junk
    Market,
}

#[derive(Args)]
pub struct PrepareGlyphsArguments {
    /// The directory to make; it must not be there yet
    pub out: PathBuf,
    /// Which data set the directory resembles
    #[arg(long, value_enum, default_value_t = TreeLayout::Faces)]
    pub layout: TreeLayout,
    /// How many identities there are; each is a glyph of its own
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub identities: u32,
    /// How many images each identity has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub images: u32,
    /// Height x width of the images in pixels; default: 112x96, for market 128x64
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<(usize, usize)>,
    /// How hard the glyphs are to read: 0 (clean) to 1 (hardly readable)
    #[arg(long, default_value_t = 0.3, value_parser = parse_share)]
    pub difficulty: f64,
    /// Seed of the glyphs and their images: equal seeds give equal files
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

fn parse_size(text: &str) -> std::result::Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(height, width)| Some((height.parse().ok()?, width.parse().ok()?)));
    sides
        .filter(|&(height, width): &(usize, usize)| (16..=1024).contains(&height) && (16..=1024).contains(&width))
        .ok_or_else(|| "expected HEIGHTxWIDTH, each 16 to 1024, for example 112x96".into())
}
