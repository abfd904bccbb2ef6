//! What was typed. What it means is in `config` and `commands`.

mod evaluate;
mod export;
mod fit_loss;
mod manual;
mod predict;
mod prepare;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use toml::Table;

use crate::comm;
use crate::config::{DeviceKind, Layers, SEARCHES};
use crate::error::Result;
use crate::loss::FIXED_LOSSES;
use crate::policy::POLICIES;

pub use evaluate::{
    EvaluateArguments, EvaluateCommand, EvaluateTestArguments, LfwArguments, MachineArguments, MegafaceArguments,
    ReidArguments,
};
pub use export::{
    ExportCommand, ExportEmbeddingsArguments, ExportLossArguments, ExportWeightsArguments, LossFormat, WeightsFormat,
};
pub use fit_loss::FitLossArguments;
pub use manual::write_manual;
pub use predict::PredictArguments;
pub use prepare::{
    PackingArguments, PrepareCommand, PrepareFacesArguments, PrepareGlyphsArguments, PrepareImagesArguments,
    PrepareReidArguments, TreeLayout,
};
pub use table::{TableArguments, TableFormat};

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
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 75 stopped early (--resume goes on), 78 bad configuration, 101 panic."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    search: RunArguments,
}

#[derive(Subcommand)]
pub enum Command {
    /// Train with one fixed loss, or with what a search learned: one sample and no update
    Train(TrainArguments),
    /// Measure a checkpoint's model: on its run's test set, or by a benchmark's protocol
    Evaluate(EvaluateArguments),
    /// Say which classes images are of, by a checkpoint's classifier
    Predict(PredictArguments),
    /// Show what a run was and what came of it, from a checkpoint
    Inspect(InspectArguments),
    /// Show what runs found, side by side, as one page
    Report(ReportArguments),
    /// Print a table of the paper with the paper's figures and those of runs
    Table(TableArguments),
    /// Find where a search starts to have a known loss first: the nearest theta of a space, and its error
    FitLoss(FitLossArguments),
    /// Pack a data set into one file
    #[command(subcommand)]
    Prepare(PrepareCommand),
    /// Hand a learned loss, a model or its embeddings to other programs
    #[command(subcommand)]
    Export(ExportCommand),
    /// Write man pages and shell completions below a directory, as scripts/install.sh does
    #[command(hide = true)]
    Manual(ManualArguments),
    #[command(skip)]
    Search(RunArguments),
}

#[derive(Args)]
pub struct RunArguments {
    /// Built-in settings: cifar10, cifar10-lt (long-tailed), cifar100, images, images-small, megaface, faces-small, market1501-spherereid (or -sft, -mgn),
    /// dukemtmc-spherereid (or -sft, -mgn), demo
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// How to search: paper, AM-LFS' own settings; robust, for fewer samples and epochs than the paper's; late, robust once the
    /// learning rate has fallen, for a loss to train anew with (docs/search.md); default: the preset's
    #[arg(long, value_name = "NAME", value_parser = searches())]
    search: Option<String>,
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
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Print every setting and the plan (steps, memory, files), and stop before training. What --out holds is looked at,
    /// and nothing is written there
    #[arg(long)]
    pub dry_run: bool,
    /// The training data: for CIFAR the directory of its batches (binary or Python version) or the .tar.gz, for faces,
    /// persons and one's own images the file that amlfs prepare wrote (data.path)
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// Weights to start from instead of random ones, .safetensors: another run's (amlfs export weights), or a ResNet-50's
    /// by torchvision's names (model.init)
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// Start the search from the mean that another run's search ended with: its final.h5 or directory, or from the .json file
    /// of a loss (amlfs fit-loss, amlfs export loss); what theta is comes with it (search.mu); not with amlfs train
    #[arg(long, value_name = "FILE")]
    pub init_mu: Option<PathBuf>,
    /// Share of the training labels to replace by wrong ones, at least 0 and below 1; default: the preset's, 0
    /// without one (data.label_noise)
    #[arg(long, value_name = "SHARE")]
    label_noise: Option<f64>,
    /// How many losses are tried at once, B; at least the number of MPI ranks; default: the preset's, 32 without one; not
    /// with amlfs train, which has 1 (search.samples)
    #[arg(long, value_name = "B")]
    samples: Option<usize>,
    /// How the distribution of losses learns from rewards; default: the preset's, reinforce without one; not with amlfs
    /// train (search.policy)
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
    /// Hours after which this job must have ended: stops two minutes before, or a tenth of a shorter time, with exit code
    /// 75; default: no limit (run.max_hours)
    #[arg(long, value_name = "HOURS")]
    max_hours: Option<f64>,
    /// Minutes after which all ranks end with exit code 75 if one that the others wait for makes no step; default: 30, or
    /// five times the longest round (run.stall_minutes)
    #[arg(long, value_name = "MINUTES")]
    stall_minutes: Option<f64>,
    /// Write event files for TensorBoard to --out: tensorboard --logdir DIR, also while it runs (run.tensorboard)
    #[arg(long)]
    tensorboard: bool,
}

/// What only a search has; a training has one of `--loss` and `--replay`.
const OF_A_SEARCH: [&str; 3] = ["init_mu", "samples", "policy"];

#[derive(Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["loss", "replay"])))]
pub struct TrainArguments {
    /// The fixed loss to train with
    #[arg(long, value_name = "NAME", value_parser = losses(), conflicts_with_all = OF_A_SEARCH)]
    pub loss: Option<String>,
    /// Train with what a search learned: its final.h5 or directory, or the .json file of a loss
    #[arg(long, value_name = "FILE", conflicts_with_all = OF_A_SEARCH)]
    pub replay: Option<PathBuf>,
    /// What of it to train with
    // the parser requires nothing that excludes what is there: that must exclude this option, too
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Replayed::Mean, requires = "replay", conflicts_with = "loss")]
    pub replay_as: Replayed,
    #[command(flatten)]
    pub run: RunArguments,
}

/// What of a search is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Replayed {
    /// The mean that it ended with, in every epoch
    Mean,
    /// The mean of each of its epochs, stretched to the epochs of this training
    Means,
    /// The loss of each epoch's best sample, stretched likewise
    Chosen,
}

#[derive(Args)]
pub struct ReportArguments {
    /// Runs: their directories or checkpoints. Those with the same settings and other seeds are one line; a run that is not
    /// finished is shown as far as it is
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The page to write, HTML; one that is there is replaced
    #[arg(long, short, value_name = "FILE", default_value = "report.html")]
    pub out: PathBuf,
    /// Write each figure as NAME.svg and NAME.png, and its numbers as NAME.csv, into this directory too
    #[arg(long, value_name = "DIR")]
    pub figures: Option<PathBuf>,
    /// Run the network of each search's first run on images: how its loss pulls at easy and hard examples (the paper's
    /// figure 4). Takes the run's data and, for large networks, minutes
    #[arg(long)]
    pub activations: bool,
    /// Where these data are now, if not where they were
    #[arg(long, value_name = "PATH", requires = "activations")]
    pub data: Option<PathBuf>,
}

#[derive(Args)]
pub struct InspectArguments {
    /// A checkpoint: final.h5 or epoch-*.h5, or a run's directory, of which the last one is taken
    pub file: PathBuf,
    /// Print JSON instead of a summary: everything but the tensors' numbers
    #[arg(long)]
    pub json: bool,
    /// Print every epoch of a long run, and the whole configuration
    #[arg(long, conflicts_with = "json")]
    pub all: bool,
    /// Watch a run's directory until the run is complete: rewards, how far mu has gone, the time to go; without a terminal a
    /// line for each epoch. Only looks, so the run is not disturbed; Ctrl-C ends it
    #[arg(long, conflicts_with_all = ["json", "all"])]
    pub follow: bool,
}

#[derive(Args)]
pub struct ManualArguments {
    /// The directory, share of an installation: man/man1, bash-completion/completions and so on are made there
    pub directory: PathBuf,
}

/// The searched loss too: `train` says why it is not for it.
fn losses() -> PossibleValuesParser {
    let fixed = FIXED_LOSSES.iter().map(|kind| PossibleValue::new(kind.name));
    PossibleValuesParser::new(fixed.chain([PossibleValue::new("unified").hide(true)]))
}

fn searches() -> PossibleValuesParser {
    PossibleValuesParser::new(SEARCHES.iter().map(|(name, ..)| *name))
}

fn policies() -> PossibleValuesParser {
    PossibleValuesParser::new(POLICIES.iter().map(|kind| PossibleValue::new(kind.name).help(kind.about)))
}

/// Parses the command line. `Err`: the exit code after a usage error, --help or --version, which it has told. Only one rank speaks.
pub fn parse() -> std::result::Result<Command, i32> {
    match Cli::try_parse() {
        Ok(Cli { command, search }) => Ok(command.unwrap_or(Command::Search(search))),
        Err(error) => {
            if comm::launcher_rank() == 0 {
                let _ = error.print();
            }
            Err(error.exit_code())
        }
    }
}

impl RunArguments {
    /// What was set, lowest first: the preset with its search, what another run's losses come with (source, settings),
    /// files, --set, then flags. `fixed` is the loss that `train` names.
    pub fn layers(&self, fixed: Option<&str>, learned: Option<(String, Table)>) -> Result<Layers> {
        let mut layers = Layers::new(self.preset.as_deref(), fixed, self.search.as_deref())?;
        if let Some((source, settings)) = learned {
            layers.add_learned(source, settings);
        }
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
        set("--stall-minutes", "run.stall_minutes", self.stall_minutes.map(Into::into))?;
        set("--tensorboard", "run.tensorboard", self.tensorboard.then_some(true.into()))?;
        if fixed.is_some() {
            set("--loss", "loss.name", fixed.map(Into::into))?;
            set("train", "search.samples", Some(1.into()))?;
            set("train", "search.policy", Some("fixed".into()))?;
        }
        Ok(layers)
    }
}

/// A flag's value as the configuration writes it.
fn name(value: &impl ValueEnum) -> toml::Value {
    let value = value.to_possible_value().expect("no value is hidden");
    value.get_name().into()
}
