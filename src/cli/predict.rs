//! `amlfs predict`.

use std::path::PathBuf;

use clap::Args;

use super::evaluate::{MachineArguments, parse_share};

#[derive(Args)]
pub struct PredictArguments {
    /// Images: files, directories of them at any depth, or - for a list of either on standard input, a path a line
    #[arg(required = true, value_name = "IMAGES")]
    pub images: Vec<PathBuf>,
    /// The checkpoint of a classifier, or a run's directory
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The CSV file to write: a row for each image, in their order, with its likeliest classes and their probabilities
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// How many classes are told of each image
    #[arg(long, value_name = "K", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub top: u16,
    /// The run's data (CIFAR only), if they lie elsewhere now
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Share of the images that may be unusable, 0 to 1: they are left out and listed in FILE.skipped.csv
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = parse_share)]
    pub max_skipped: f64,
    #[command(flatten)]
    pub machine: MachineArguments,
}
