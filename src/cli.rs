//! What was typed. What it means is in `config` and `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::comm;
use crate::config::{Config, DeviceKind, Layers, LossName, PolicyName};
use crate::error::Result;

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
    /// Measure a checkpoint's model on the test set
    Evaluate(EvaluateArguments),
    /// Show what a checkpoint holds
    Inspect(InspectArguments),
    #[command(skip)]
    Search(RunArguments),
}

#[derive(Args)]
pub struct RunArguments {
    /// Built-in settings: cifar10, demo
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
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// data.label_noise: share of replaced training labels
    #[arg(long, value_name = "SHARE")]
    label_noise: Option<f64>,
    /// search.samples: B
    #[arg(long, value_name = "B")]
    samples: Option<usize>,
    /// search.policy
    #[arg(long, value_name = "NAME")]
    policy: Option<PolicyName>,
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
    #[arg(long, value_name = "NAME")]
    pub loss: LossName,
    #[command(flatten)]
    pub run: RunArguments,
}

#[derive(Args)]
pub struct EvaluateArguments {
    /// A checkpoint: final.h5 or epoch-*.h5
    pub file: PathBuf,
    /// Where the data are now
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// run.device
    #[arg(long, value_name = "KIND")]
    pub device: Option<DeviceKind>,
    /// run.threads
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// JSON instead of a table
    #[arg(long)]
    pub json: bool,
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
    pub fn resolve(&self, loss: Option<LossName>) -> Result<Config> {
        let mut layers = Layers::new(self.preset.as_deref())?;
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
        set("--data", "data.path", self.data.as_ref().map(|path| path.to_string_lossy().into_owned().into()))?;
        set("--label-noise", "data.label_noise", self.label_noise.map(Into::into))?;
        set("--samples", "search.samples", self.samples.map(count))?;
        set("--policy", "search.policy", self.policy.as_ref().map(name))?;
        set("--epochs", "train.epochs", self.epochs.map(count))?;
        set("--seed", "run.seed", self.seed.map(|seed| (seed as i64).into()))?;
        set("--threads", "run.threads", self.threads.map(count))?;
        set("--device", "run.device", self.device.as_ref().map(name))?;
        set("--devices-per-rank", "run.devices_per_rank", self.devices_per_rank.map(count))?;
        set("--max-hours", "run.max_hours", self.max_hours.map(Into::into))?;
        if let Some(loss) = loss {
            set("--loss", "loss.name", Some(name(&loss)))?;
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
