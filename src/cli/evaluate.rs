//! `amlfs evaluate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::config::{DeviceKind, MOST_LOADER_THREADS, Run};
use crate::eval::retrieval::Metric;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct EvaluateArguments {
    #[command(subcommand)]
    pub protocol: Option<EvaluateCommand>,
    #[command(flatten)]
    pub test_set: EvaluateTestArguments,
}

#[derive(Args)]
pub struct EvaluateTestArguments {
    /// A checkpoint: final.h5 or epoch-*.h5
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// The run's data, if they lie elsewhere now; default: where they were during the run
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// For a run on faces: the packed file of other identities to measure on; default: the run's data.faces.test
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum EvaluateCommand {
    /// MegaFace: rank-1 among up to a million distractors; with mpirun, the distractors are split over the ranks
    Megaface(MegafaceArguments),
    /// LFW and other sets of pairs: 10-fold verification
    Lfw(LfwArguments),
    /// Person re-ID: CMC, mAP, mINP, re-ranking, from a checkpoint or from features; with mpirun, the queries are split
    /// over the ranks
    Reid(ReidArguments),
}

/// How to compute.
#[derive(Args, Clone, Copy)]
pub struct MachineArguments {
    /// What to compute on; auto: GPUs where there are any, else the CPU; default: as in the run
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,
    /// GPUs of each rank, 1 or 2, or copies of the network on the CPU; default: as in the run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub devices_per_rank: Option<u8>,
    /// CPU threads that compute, and as many that read images; default: as in the run, or for megaface and reid this
    /// rank's share of the machine's cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl MachineArguments {
    pub fn adjust(&self, run: &mut Run) {
        run.device = self.device.unwrap_or(run.device);
        run.devices_per_rank = self.devices_per_rank.map(Into::into).or(run.devices_per_rank);
        if let Some(threads) = self.threads {
            run.threads = threads.into();
            run.loader_threads = usize::from(threads).min(MOST_LOADER_THREADS);
        }
    }
}

#[derive(Args)]
pub struct MegafaceArguments {
    /// Checkpoint of the network that embeds the images
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    pub model: Option<PathBuf>,
    /// Instead of embedding images, read the devkit's feature files IMAGE_ALGO.bin of the algorithm ALGO
    #[arg(long, value_name = "ALGO")]
    pub features: Option<String>,
    /// Probes: the directory of the images or feature files, or embeddings (.h5, from amlfs export embeddings)
    #[arg(long, value_name = "PATH")]
    pub facescrub: PathBuf,
    /// The devkit's facescrub_features_list.json; not with .h5
    #[arg(long, value_name = "FILE")]
    pub facescrub_list: Option<PathBuf>,
    /// Distractors: the directory of the images or feature files, or embeddings (.h5, from amlfs export embeddings)
    #[arg(long, value_name = "PATH")]
    pub megaface: PathBuf,
    /// The devkit's megaface_features_list.json_SIZE_SET, one or more; not with .h5. With a single one (or .h5),
    /// smaller sizes are its first 10, 100, 1000, ...
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub megaface_list: Vec<PathBuf>,
    /// Text file of mislabelled probe images, a name per line: in the refined figures their feature is replaced by
    /// their identity's centre
    #[arg(long, value_name = "FILE")]
    pub facescrub_noises: Option<PathBuf>,
    /// Text file of distractor images that show a probe's person, a name per line: they are left out of the refined
    /// figures
    #[arg(long, value_name = "FILE")]
    pub megaface_noises: Option<PathBuf>,
    /// Also write the features there as the devkit's files, below facescrub/ and megaface/
    #[arg(long, value_name = "DIR", requires = "model")]
    pub write_features: Option<PathBuf>,
    /// Also write the results there as the devkit's cmc_*.json; default: only print them
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
pub struct ReidArguments {
    /// Checkpoint of the network that embeds the images
    #[arg(long, value_name = "FILE", required_unless_present = "query", conflicts_with_all = ["query", "gallery", "metric"])]
    pub model: Option<PathBuf>,
    /// The packed file that 'amlfs prepare reid' wrote; default: the run's
    #[arg(long, value_name = "FILE", requires = "model")]
    pub data: Option<PathBuf>,
    /// Instead of a checkpoint: features, ids and cameras of the queries, .h5 or .npy (docs/format.md)
    #[arg(long, value_name = "FILE", requires = "gallery")]
    pub query: Option<PathBuf>,
    /// Features, ids and cameras of the gallery, .h5 or .npy
    #[arg(long, value_name = "FILE", requires = "query")]
    pub gallery: Option<PathBuf>,
    /// How features are compared: by their angle or by their distance
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Metric::Cosine)]
    pub metric: Metric,
    /// Also re-rank with k-reciprocal encoding, and print both
    #[arg(long)]
    pub rerank: bool,
    /// Re-ranking's k1: how many nearest neighbours may be reciprocal
    #[arg(long, value_name = "N", default_value_t = 20, requires = "rerank", value_parser = clap::value_parser!(u16).range(1..))]
    pub k1: u16,
    /// Re-ranking's k2: over how many nearest neighbours encodings are averaged
    #[arg(long, value_name = "N", default_value_t = 6, requires = "rerank", value_parser = clap::value_parser!(u16).range(1..))]
    pub k2: u16,
    /// Re-ranking's lambda: weight of the original distance, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, requires = "rerank", value_parser = parse_share)]
    pub lambda: f64,
    /// Also write the features there, as query.h5 and gallery.h5: files for --query and --gallery
    #[arg(long, value_name = "DIR", requires = "model")]
    pub write_features: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("pairs").required(true).args(["bin", "images"])))]
pub struct LfwArguments {
    /// Checkpoint of the network that embeds the images
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// A set of pairs in one file: insightface's lfw.bin, agedb_30.bin, cfp_fp.bin ...
    #[arg(long, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Or a directory of aligned images NAME/NAME_0001.jpg ..., with --pairs
    #[arg(long, value_name = "DIR", requires = "pairs_file")]
    pub images: Option<PathBuf>,
    /// LFW's pairs.txt: which images to compare
    #[arg(long = "pairs", id = "pairs_file", value_name = "FILE", requires = "images")]
    pub pairs: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArguments,
}

pub(super) fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}
