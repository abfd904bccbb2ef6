//! What was typed. What it means is in `config` and `commands`.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::comm;
use crate::config::{Config, DeviceKind, Layers, Run};
use crate::data::Store;
use crate::error::Result;
use crate::eval::retrieval::Metric;
use crate::loss::FIXED_LOSSES;
use crate::policy::POLICIES;

/// Searches a loss function while the network trains (AM-LFS).
///
/// Without a subcommand: search. Start it with mpirun or srun, one rank per sample model, for example
/// mpirun -n 4 amlfs --preset cifar10 --data DIR --out runs/cifar10
#[derive(Parser)]
#[command(
    version,
    max_term_width = 110,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    args_override_self = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 75 stopped early with everything saved, 78 bad configuration, 101 panic."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    search: RunArguments,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train with one fixed loss: a search with one sample and no update
    Train(TrainArguments),
    /// Measure a checkpoint's model: on its run's test set, or by a benchmark's protocol
    Evaluate(EvaluateArguments),
    /// Show what a checkpoint holds
    Inspect(InspectArguments),
    /// Pack a data set into one file
    #[command(subcommand)]
    Prepare(PrepareCommand),
    /// Hand a model or its embeddings to other programs
    #[command(subcommand)]
    Export(ExportCommand),
    #[command(skip)]
    Search(RunArguments),
}

#[derive(Args)]
pub struct RunArguments {
    /// Built-in settings: cifar10, megaface, faces-small, market1501-spherereid (or -sft, -mgn), dukemtmc-spherereid (or
    /// -sft, -mgn), demo
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// TOML file with settings, over the preset's
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting, over all others, for example search.sigma=0.3; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run directory
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Continue the run in --out if there is one with the same configuration
    #[arg(long)]
    pub resume: bool,
    /// Print the configuration and the plan, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// data.path
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// model.init: ImageNet weights, .safetensors
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// data.label_noise: share of replaced training labels
    #[arg(long, value_name = "SHARE")]
    label_noise: Option<f64>,
    /// search.samples: B
    #[arg(long, value_name = "B")]
    samples: Option<usize>,
    /// search.policy
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(POLICIES.iter().map(|kind| kind.name)))]
    policy: Option<String>,
    /// train.epochs
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// run.seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// run.threads per rank
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// run.device
    #[arg(long, value_name = "KIND")]
    device: Option<DeviceKind>,
    /// run.devices_per_rank
    #[arg(long, value_name = "N")]
    devices_per_rank: Option<usize>,
    /// run.max_hours: stop in time with exit code 75
    #[arg(long, value_name = "HOURS")]
    max_hours: Option<f64>,
}

#[derive(Args)]
pub struct TrainArguments {
    /// The loss
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(FIXED_LOSSES.iter().map(|kind| kind.name)))]
    pub loss: String,
    #[command(flatten)]
    pub run: RunArguments,
}

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
    /// Where the data are now
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Faces: the packed test file
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArguments,
    /// JSON instead of a table
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
    /// run.device
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,
    /// run.devices_per_rank
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub devices_per_rank: Option<u8>,
    /// run.threads and run.loader_threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

impl MachineArguments {
    pub fn adjust(&self, run: &mut Run) {
        run.device = self.device.unwrap_or(run.device);
        run.devices_per_rank = self.devices_per_rank.map(Into::into).or(run.devices_per_rank);
        if let Some(threads) = self.threads {
            run.threads = threads.into();
            run.loader_threads = usize::from(threads).min(256);
        }
    }
}

#[derive(Args)]
pub struct MegafaceArguments {
    /// Checkpoint of the network that embeds the images
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    pub model: Option<PathBuf>,
    /// Instead of images, read feature files IMAGE_ALGO.bin as the devkit has them
    #[arg(long, value_name = "ALGO")]
    pub features: Option<String>,
    /// Probes: the directory of the images or feature files, or embeddings (.h5, from amlfs export embeddings)
    #[arg(long, value_name = "PATH")]
    pub facescrub: PathBuf,
    /// The devkit's facescrub_features_list.json; not with .h5
    #[arg(long, value_name = "FILE")]
    pub facescrub_list: Option<PathBuf>,
    /// Distractors, in the same ways
    #[arg(long, value_name = "PATH")]
    pub megaface: PathBuf,
    /// The devkit's megaface_features_list.json_SIZE_SET, one or more; not with .h5. With a single one (or .h5), smaller
    /// sizes are its first 10, 100, 1000, ...
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub megaface_list: Vec<PathBuf>,
    /// Image names whose feature is replaced by its identity's centre in the refined figures
    #[arg(long, value_name = "FILE")]
    pub facescrub_noises: Option<PathBuf>,
    /// Image names that are no distractors in the refined figures
    #[arg(long, value_name = "FILE")]
    pub megaface_noises: Option<PathBuf>,
    /// Also write the features as the devkit's files, below facescrub/ and megaface/
    #[arg(long, value_name = "DIR", requires = "model")]
    pub write_features: Option<PathBuf>,
    /// Directory for the devkit's cmc_*.json
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// JSON instead of a table
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
    /// The same of the gallery
    #[arg(long, value_name = "FILE", requires = "query")]
    pub gallery: Option<PathBuf>,
    /// How features are compared; embeddings of a checkpoint are unit vectors, for which both rank alike
    #[arg(long, value_name = "NAME", value_enum, default_value_t = Metric::Cosine)]
    pub metric: Metric,
    /// Also re-rank with k-reciprocal encoding
    #[arg(long)]
    pub rerank: bool,
    /// Of re-ranking: neighbours that may be reciprocal
    #[arg(long, value_name = "N", default_value_t = 20, requires = "rerank", value_parser = clap::value_parser!(u16).range(1..))]
    pub k1: u16,
    /// Of re-ranking: neighbours whose encodings are averaged
    #[arg(long, value_name = "N", default_value_t = 6, requires = "rerank", value_parser = clap::value_parser!(u16).range(1..))]
    pub k2: u16,
    /// Of re-ranking: weight of the original distance, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, requires = "rerank", value_parser = parse_share)]
    pub lambda: f64,
    /// Also write the features: query.h5 and gallery.h5 for --query and --gallery
    #[arg(long, value_name = "DIR", requires = "model")]
    pub write_features: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("pairs").required(true).args(["bin", "images"])))]
pub struct LfwArguments {
    /// Checkpoint of the network
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// insightface's lfw.bin, agedb_30.bin, cfp_fp.bin ...
    #[arg(long, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Directory of NAME/NAME_0001.jpg ..., aligned
    #[arg(long, value_name = "DIR", requires = "pairs_file")]
    pub images: Option<PathBuf>,
    /// pairs.txt
    #[arg(long = "pairs", id = "pairs_file", value_name = "FILE", requires = "images")]
    pub pairs: Option<PathBuf>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Subcommand)]
pub enum PrepareCommand {
    /// Faces: a directory of identities with image files, or an insightface folder (train.rec, train.idx, property)
    Faces(PrepareFacesArguments),
    /// People seen by several cameras: Market-1501-v15.09.15 or DukeMTMC-reID
    Reid(PrepareReidArguments),
    /// Generated images as a directory of identities, to try things with
    Glyphs(PrepareGlyphsArguments),
}

#[derive(Args)]
pub struct PrepareFacesArguments {
    pub source: PathBuf,
    /// The packed file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Height x width of the stored images
    #[arg(long, value_name = "HxW", default_value = "112x96", value_parser = parse_size)]
    pub size: (usize, usize),
    /// Encoded images take a tenth of the space, raw ones no time to decode
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Store::Jpeg)]
    pub store: Store,
    /// Names of identities to leave out, one per line: directory names, or labels of a .rec without train.lst
    #[arg(long, value_name = "FILE")]
    pub exclude: Vec<PathBuf>,
    /// Share of the images that may be undecodable; they are left out and listed
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_skipped: f64,
    /// Worker threads; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Args)]
pub struct PrepareReidArguments {
    /// Directory with bounding_box_train, query and bounding_box_test, or the one above it
    pub source: PathBuf,
    /// The packed file
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Share of the images that may be undecodable; they are left out and listed
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_skipped: f64,
    /// Worker threads; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
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
    /// The directory to make
    pub out: PathBuf,
    #[arg(long, value_enum, default_value_t = TreeLayout::Faces)]
    pub layout: TreeLayout,
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub identities: u32,
    /// Images of each identity
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub images: u32,
    /// Height x width; default: 112x96, 128x64 for market
    #[arg(long, value_name = "HxW", value_parser = parse_size)]
    pub size: Option<(usize, usize)>,
    /// 0 (clean) to 1 (hardly readable)
    #[arg(long, default_value_t = 0.3)]
    pub difficulty: f64,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(Subcommand)]
pub enum ExportCommand {
    /// Unit embeddings of the images below a directory, with their mirror images' added: .h5 or .npy
    Embeddings(ExportEmbeddingsArguments),
    /// The model's weights for PyTorch: .safetensors
    Weights(ExportWeightsArguments),
}

#[derive(Args)]
pub struct ExportEmbeddingsArguments {
    /// Checkpoint of the network
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Directory of images, in a directory per identity
    pub images: PathBuf,
    /// .h5 (embeddings, names, identities) or .npy (embeddings; the names go to FILE.names.txt)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
pub struct ExportWeightsArguments {
    /// A checkpoint
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}

fn parse_size(text: &str) -> std::result::Result<(usize, usize), String> {
    let sides = text.split_once('x').and_then(|(height, width)| Some((height.parse().ok()?, width.parse().ok()?)));
    sides
        .filter(|&(height, width): &(usize, usize)| (16..=1024).contains(&height) && (16..=1024).contains(&width))
        .ok_or_else(|| "expected HEIGHTxWIDTH, each 16 to 1024, for example 112x96".into())
}

#[derive(Args)]
pub struct InspectArguments {
    pub file: PathBuf,
    /// JSON instead of a table; everything but the tensors' numbers
    #[arg(long)]
    pub json: bool,
}

/// Parses the command line; ends the process for usage errors, --help and --version. Only one rank speaks.
pub fn parse() -> Command {
    match Cli::try_parse() {
        Ok(Cli { command, search }) => command.unwrap_or(Command::Search(search)),
        Err(error) => {
            if comm::launcher_rank() == 0 {
                let _ = error.print();
            }
            std::process::exit(error.exit_code());
        }
    }
}

impl RunArguments {
    /// The configuration: presets, files, --set, then flags; `loss` is `train`'s.
    pub fn resolve(&self, loss: Option<&str>) -> Result<Config> {
        let mut layers = Layers::new(self.preset.as_deref(), loss)?;
        for file in &self.config {
            layers.add_file(file)?;
        }
        for assignment in &self.set {
            layers.set_text(assignment)?;
        }
        let mut set = |flag: &str, key: &str, value: Option<toml::Value>| match value {
            Some(value) => layers.set(flag, key, value),
            None => Ok(()),
        };
        let count = |number: usize| (number as i64).into();
        let path = |path: &PathBuf| path.to_string_lossy().into_owned().into();
        set("--data", "data.path", self.data.as_ref().map(path))?;
        set("--init", "model.init", self.init.as_ref().map(path))?;
        set("--label-noise", "data.label_noise", self.label_noise.map(Into::into))?;
        set("--samples", "search.samples", self.samples.map(count))?;
        set("--policy", "search.policy", self.policy.as_deref().map(Into::into))?;
        set("--epochs", "train.epochs", self.epochs.map(count))?;
        set("--seed", "run.seed", self.seed.map(|seed| (seed as i64).into()))?;
        set("--threads", "run.threads", self.threads.map(count))?;
        set("--device", "run.device", self.device.as_ref().map(name))?;
        set("--devices-per-rank", "run.devices_per_rank", self.devices_per_rank.map(count))?;
        set("--max-hours", "run.max_hours", self.max_hours.map(Into::into))?;
        if loss.is_some() {
            set("--loss", "loss.name", loss.map(Into::into))?;
            set("train", "search.samples", Some(1.into()))?;
            set("train", "search.policy", Some("fixed".into()))?;
        }
        layers.resolve()
    }
}

/// A flag's value as the configuration writes it.
fn name(value: &impl ValueEnum) -> toml::Value {
    let value = value.to_possible_value().expect("no value is hidden");
    value.get_name().into()
}
