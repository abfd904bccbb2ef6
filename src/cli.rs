//! What was typed. What it means is in `config` and `commands`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::comm;
use crate::config::{Config, DeviceKind, Layers, MOST_LOADER_THREADS, Run};
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
    /// Built-in settings: cifar10, megaface, faces-small, market1501-spherereid (or -sft, -mgn), dukemtmc-spherereid
    /// (or -sft, -mgn), demo
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A TOML file with settings, which override the preset's; repeatable, the last one wins. All keys and their
    /// defaults are in src/presets/defaults.toml, and --dry-run prints them
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// One setting by its key, for example search.sigma=0.3; overrides presets and files; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run's directory: checkpoints, metrics.csv and the log are written there. It must be new or empty, but for
    /// --resume
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    pub out: Option<PathBuf>,
    /// Go on with the run in --out from its newest checkpoint; its settings must be the same. Without a checkpoint
    /// there, start anew
    #[arg(long)]
    pub resume: bool,
    /// Print every setting and the plan (steps, memory, files), and stop before training
    #[arg(long)]
    pub dry_run: bool,
    /// The training data: for CIFAR-10 the directory of data_batch_1.bin, for faces and persons the file that amlfs
    /// prepare wrote (data.path)
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Weights to start from instead of random ones, by torchvision's names, .safetensors (model.init)
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Share of the training labels to replace by wrong ones, at least 0 and below 1; default: the preset's, 0
    /// without one (data.label_noise)
    #[arg(long, value_name = "SHARE")]
    label_noise: Option<f64>,
    /// How many losses are tried at once, B; at least the number of MPI ranks; default: the preset's, 32 without one;
    /// amlfs train always has 1 (search.samples)
    #[arg(long, value_name = "B")]
    samples: Option<usize>,
    /// How the distribution of losses learns from rewards; default: the preset's, reinforce without one;
    /// amlfs train ignores it (search.policy)
    #[arg(long, value_name = "NAME", value_parser = policies())]
    policy: Option<String>,
    /// Epochs to train, those of earlier jobs included; default: the preset's, 200 without one (train.epochs)
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Seed of all random numbers; on CPU, equal seeds and threads give equal bits; default 1 (run.seed)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// CPU threads of each rank; default: the preset's, 1 without one (run.threads)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// What to compute on; auto: GPUs where there are any, else the CPU; default auto (run.device)
    #[arg(long, value_name = "KIND")]
    device: Option<DeviceKind>,
    /// GPUs of each rank, 1 or 2, or copies of the network on the CPU; a batch is split over them; default: as many
    /// as the rank sees, at most 2, and 1 on CPU (run.devices_per_rank)
    #[arg(long, value_name = "N")]
    devices_per_rank: Option<usize>,
    /// Hours after which this job must have ended: stops before a round that would not fit, with exit code 75; default:
    /// no limit (run.max_hours)
    #[arg(long, value_name = "HOURS")]
    max_hours: Option<f64>,
}

#[derive(Args)]
pub struct TrainArguments {
    /// The fixed loss to train with
    #[arg(long, value_name = "NAME", value_parser = losses())]
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
    /// A directory with a subdirectory of images per identity, or one with train.rec, train.idx and property
    pub source: PathBuf,
    /// The packed file to write; if it was interrupted, the same command goes on
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Height x width of the stored images in pixels
    #[arg(long, value_name = "HxW", default_value = "112x96", value_parser = parse_size)]
    pub size: (usize, usize),
    /// How images are stored: encoded ones take a tenth of the space, raw ones no time to decode
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Store::Jpeg)]
    pub store: Store,
    /// Text file of identities to leave out, one per line: directory names, or labels of a .rec without train.lst;
    /// repeatable
    #[arg(long, value_name = "FILE")]
    pub exclude: Vec<PathBuf>,
    /// Share of the images that may be undecodable, 0 to 1: they are left out and listed in FILE.skipped.csv; if there
    /// are more, the file is not made
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_skipped: f64,
    /// Threads that decode and encode; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

#[derive(Args)]
pub struct PrepareReidArguments {
    /// Directory with bounding_box_train, query and bounding_box_test, or the one above it
    pub source: PathBuf,
    /// The packed file to write; if it was interrupted, the same command goes on
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Share of the images that may be undecodable, 0 to 1: they are left out and listed in FILE.skipped.csv; if there
    /// are more, the file is not made
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    pub max_skipped: f64,
    /// Threads that decode and encode; default: one per core
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
    #[arg(long, default_value_t = 0.3)]
    pub difficulty: f64,
    /// Seed of the glyphs and their images: equal seeds give equal files
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
    /// Checkpoint of the network that embeds the images
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Directory of images, in a directory per identity
    pub images: PathBuf,
    /// File to write: .h5 (embeddings, names, identities) or .npy (embeddings; the names go to FILE.names.txt)
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    #[command(flatten)]
    pub machine: MachineArguments,
}

#[derive(Args)]
pub struct ExportWeightsArguments {
    /// Checkpoint of the network: final.h5 or epoch-*.h5
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// The .safetensors file to write; it must not be there yet
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
    /// A checkpoint: final.h5 or epoch-*.h5
    pub file: PathBuf,
    /// Print JSON instead of a table: everything but the tensors' numbers
    #[arg(long)]
    pub json: bool,
}

/// The searched loss too: `train` says why it is not for it.
fn losses() -> PossibleValuesParser {
    let fixed = FIXED_LOSSES.iter().map(|kind| PossibleValue::new(kind.name));
    PossibleValuesParser::new(fixed.chain([PossibleValue::new("unified").hide(true)]))
}

fn policies() -> PossibleValuesParser {
    PossibleValuesParser::new(POLICIES.iter().map(|kind| PossibleValue::new(kind.name).help(kind.about)))
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
