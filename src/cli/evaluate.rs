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
    /// A checkpoint: final.h5 or epoch-*.h5, or a run's directory, of which the last one is taken
    #[arg(required = true)]
    pub file: Option<PathBuf>,
    /// The run's data, if they lie elsewhere now; default: where they were during the run
    #[arg(long, value_name = "PATH")]
    pub data: Option<PathBuf>,
    /// For a run on faces: the packed file of other identities to measure on; default: the run's data.faces.test. For one on
    /// images: another packed file, whose test set is measured on, or all of it if it has none; classes go by their names
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArguments,
    /// Of a classifier: also write how many images of each class were taken for which, CSV: label, predicted, images
    #[arg(long, value_name = "FILE")]
    pub confusion: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Subcommand)]
pub enum EvaluateCommand {
    /// MegaFace: rank-1 among up to a million distractors; with mpirun, the distractors are split over the ranks
    Megaface(MegafaceArguments),
    /// LFW and other sets of pairs: 10-fold verification; with mpirun, the images are split over the ranks
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
    /// CPU threads that compute, and as many that read images; default: as in the run, or for megaface, lfw and reid
    /// this rank's share of the machine's cores
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
    /// Checkpoint of the network that embeds the images, or a run's directory
    #[arg(long, value_name = "FILE", conflicts_with = "features")]
    pub model: Option<PathBuf>,
    /// Instead of embedding images, read the devkit's feature files IMAGE_ALGO.bin of the algorithm ALGO
    #[arg(long, value_name = "ALGO")]
    pub features: Option<String>,
    /// Probes: the directory of the images or feature files, or a file of embeddings (.h5, from amlfs export embeddings) or
    /// of features and ids (.h5, .npy, .npz, docs/format.md)
    #[arg(long, value_name = "PATH")]
    pub facescrub: PathBuf,
    /// The devkit's facescrub_features_list.json; with a directory
    #[arg(long, value_name = "FILE")]
    pub facescrub_list: Option<PathBuf>,
    /// Distractors: the directory of the images or feature files, or a file as for the probes, without ids
    #[arg(long, value_name = "PATH")]
    pub megaface: PathBuf,
    /// The devkit's megaface_features_list.json_SIZE_SET, one or more; with a directory. With a single one (or a file),
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
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with = "features")]
    pub write_features: Option<PathBuf>,
    /// Share of the listed images or feature files that may be missing or broken, 0 to 1; default 0: they are left out and
    /// listed in skipped.csv (in --out, or here)
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub max_skipped: Option<f64>,
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
    /// Checkpoint of the network that embeds the images, or a run's directory
    #[arg(long, value_name = "FILE", required_unless_present = "query", conflicts_with_all = ["query", "gallery", "metric"])]
    pub model: Option<PathBuf>,
    /// The packed file that 'amlfs prepare reid' wrote; default: the run's
    #[arg(long, value_name = "FILE", requires = "model", conflicts_with_all = ["query", "gallery"])]
    pub data: Option<PathBuf>,
    /// Instead of a checkpoint: features, ids and cameras of the queries, .h5, .npy or .npz (docs/format.md)
    #[arg(long, value_name = "FILE", requires = "gallery")]
    pub query: Option<PathBuf>,
    /// Features, ids and cameras of the gallery, .h5, .npy or .npz
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
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with_all = ["query", "gallery"])]
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
    /// Checkpoint of the network that embeds the images, or a run's directory
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// A set of pairs in one file: insightface's lfw.bin, agedb_30.bin, cfp_fp.bin ...
    #[arg(long, value_name = "FILE")]
    pub bin: Option<PathBuf>,
    /// Or a directory of aligned images NAME/NAME_0001.jpg ..., with --pairs
    #[arg(long, value_name = "DIR", requires = "pairs_file")]
    pub images: Option<PathBuf>,
    /// Which images to compare: LFW's pairs.txt, or a list of paths with 1 and 0 (docs/megaface.md)
    #[arg(long = "pairs", id = "pairs_file", value_name = "FILE", requires = "images", conflicts_with = "bin")]
    pub pairs: Option<PathBuf>,
    /// Share of the images that may be missing or broken, 0 to 1: they are left out, with their pairs, and listed in
    /// skipped.csv here
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = parse_share)]
    pub max_skipped: f64,
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        _command: EvaluateCommand,
    }

    /// An option as it is typed, and the options that it is of no use without.
    type Typed = (&'static str, &'static [&'static str]);

    /// Every pair of a command's options parses if it is not `excluded`, and is a usage error if it is.
    fn check(command: &str, always: &[&str], options: &[Typed], excluded: &[(&str, &str)]) {
        let is_excluded = |a: &str, b: &str| {
            let of = |typed: &str| typed.split('=').next().unwrap_or_default().to_owned();
            excluded.iter().any(|&(one, other)| [(one, other), (other, one)].contains(&(&of(a), &of(b))))
        };
        let known: Vec<String> = <Program as clap::CommandFactory>::command()
            .find_subcommand(command)
            .unwrap()
            .get_arguments()
            .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
            .filter(|long| long != "--help")
            .collect();
        let named = |long: &String| {
            options.iter().map(|(typed, _)| typed).chain(always).any(|typed| typed.split('=').next() == Some(long))
        };
        let unnamed: Vec<&String> = known.iter().filter(|long| !named(long)).collect();
        assert!(unnamed.is_empty(), "{command}: the test does not know {unnamed:?}");
        let mut refused = 0;
        for (i, (a, needs)) in options.iter().enumerate() {
            for (b, others) in &options[i..] {
                let mut typed: Vec<&str> = [&[*a, *b][..], needs, others].concat();
                typed.sort_unstable();
                typed.dedup();
                let clash = typed.iter().any(|a| typed.iter().any(|b| is_excluded(a, b)));
                // repeated options are errors, too
                let line = [&["amlfs", command], always, &typed[..]].concat();
                match (Program::try_parse_from(&line).map_err(|error| error.kind()), clash) {
                    (Ok(_), false) => {}
                    (Err(ErrorKind::ArgumentConflict), true) => refused += 1,
                    (Ok(_), true) => panic!("{line:?}: an option is ignored"),
                    (Err(kind), _) => panic!("{line:?}: {kind:?}"),
                }
            }
        }
        assert!(refused >= excluded.len(), "{command}: {refused}");
    }

    const MACHINE: [Typed; 4] =
        [("--device=cpu", &[]), ("--devices-per-rank=1", &[]), ("--threads=1", &[]), ("--json", &[])];

    #[test]
    fn no_option_of_evaluate_megaface_is_ignored_beside_another() {
        let options: [Typed; 8] = [
            ("--model=m", &[]),
            ("--features=a", &[]),
            ("--facescrub-list=l", &[]),
            ("--megaface-list=l", &[]),
            ("--facescrub-noises=n", &[]),
            ("--megaface-noises=n", &[]),
            ("--write-features=d", &["--model=m"]),
            ("--max-skipped=0.1", &[]),
        ];
        let options = [&options[..], &[("--out=d", &[])], &MACHINE].concat();
        let excluded = [("--model", "--features"), ("--features", "--write-features")];
        check("megaface", &["--facescrub=p", "--megaface=p"], &options, &excluded);
    }

    #[test]
    fn no_option_of_evaluate_reid_is_ignored_beside_another() {
        let from_model: [Typed; 3] =
            [("--model=m", &[]), ("--data=d", &["--model=m"]), ("--write-features=d", &["--model=m"])];
        let from_files: [Typed; 3] = [
            ("--query=q", &["--gallery=g"]),
            ("--gallery=g", &["--query=q"]),
            ("--metric=cosine", &["--query=q", "--gallery=g"]),
        ];
        let reranking: [Typed; 4] = [
            ("--rerank", &["--model=m"]),
            ("--k1=20", &["--rerank", "--model=m"]),
            ("--k2=6", &["--rerank", "--model=m"]),
            ("--lambda=0.3", &["--rerank", "--model=m"]),
        ];
        let excluded: Vec<(&str, &str)> = from_model
            .iter()
            .flat_map(|(a, _)| {
                from_files.iter().map(|(b, _)| (a.split_once('=').unwrap().0, b.split_once('=').unwrap().0))
            })
            .collect();
        let options = [&from_model[..], &from_files, &reranking].concat();
        check("reid", &["--json", "--threads=1", "--device=cpu", "--devices-per-rank=1"], &options, &excluded);
        let alone = Program::try_parse_from(["amlfs", "reid", "--model=m", "--k1=20"]).err().map(|error| error.kind());
        assert_eq!(alone, Some(ErrorKind::MissingRequiredArgument), "--k1 without --rerank");
    }

    #[test]
    fn no_option_of_evaluate_lfw_is_ignored_beside_another() {
        let options: [Typed; 3] = [("--bin=b", &[]), ("--images=d", &["--pairs=p"]), ("--pairs=p", &["--images=d"])];
        check(
            "lfw",
            &["--model=m", "--json", "--threads=1", "--device=cpu", "--devices-per-rank=1", "--max-skipped=0.1"],
            &options,
            &[("--bin", "--images"), ("--bin", "--pairs")],
        );
    }
}
