//! `amlfs export`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::MachineArguments;
use super::evaluate::parse_share;

#[derive(Subcommand)]
pub enum ExportCommand {
    /// Unit embeddings of the images below a directory, with their mirror images' added, by any run's network: .h5 or
    /// .npy
    Embeddings(ExportEmbeddingsArguments),
    /// The loss that a search learned: .py (a module of PyTorch, for any training loop) or .json
    Loss(ExportLossArguments),
    /// The model's weights for PyTorch: .safetensors or .pth
    Weights(ExportWeightsArguments),
}

#[derive(Args)]
pub struct ExportEmbeddingsArguments {
    /// Checkpoint of the network that embeds the images, or a run's directory
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Directory with image files at any depth; the directory that holds an image is its identity
    pub images: PathBuf,
    /// File to write: .h5 (embeddings, names, identities) or .npy (embeddings; the names go to FILE.names.txt)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Share of the images that may be missing or broken, 0 to 1: they are left out and listed in FILE.skipped.csv; if there
    /// are more, nothing is written
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = parse_share)]
    pub max_skipped: f64,
    /// For a network for CIFAR-10 or CIFAR-100, whose colours are normalised by its training images: where they lie now; default:
    /// where they were during the run
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
pub struct ExportLossArguments {
    /// A search's checkpoint: final.h5 or epoch-*.h5, or its directory
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to write; default: by the ending of --out, .py or .json
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<LossFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LossFormat {
    /// One file that needs nothing but PyTorch
    Python,
    /// The numbers (docs/format.md)
    Json,
}

#[derive(Args)]
pub struct ExportWeightsArguments {
    /// Checkpoint of the network: final.h5 or epoch-*.h5, or a run's directory
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to write; default: by the ending of --out, .safetensors or .pth
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<WeightsFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsFormat {
    /// With the run's configuration
    Safetensors,
    /// As torch.save(model.state_dict(), FILE) writes it
    Pth,
}
