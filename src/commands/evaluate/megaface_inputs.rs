//! Where MegaFace's probes and distractors lie: lists and files, all looked at before anything is computed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::cli::MegafaceArguments;
use crate::comm::Comm;
use crate::commands::skipped::{Skipped, located};
use crate::data::{Embeddings, Encoded, EncodedImages, PlainFeatures};
use crate::embedding::{Embedder, FeatureSource, look_at_feature, look_at_image};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::{self, DistractorList, ProbeList};

/// The images of one side of the protocol.
pub enum Items {
    /// Names of images, and the files: they themselves or their features.
    Files(Vec<String>, Vec<PathBuf>),
    Embeddings(Embeddings),
    Plain(PlainFeatures),
}

/// A distractor set of the results.
pub struct Set {
    pub size: usize,
    pub number: usize,
    /// Which of the distractors are in it.
    pub members: Vec<bool>,
}

pub struct Inputs {
    pub probes: Items,
    /// Equal for images of one identity.
    pub labels: Vec<i64>,
    pub distractors: Items,
    pub sets: Vec<Set>,
    pub skipped: Skipped,
}

impl Items {
    pub fn count(&self) -> usize {
        match self {
            Items::Files(names, _) => names.len(),
            Items::Embeddings(embeddings) => embeddings.count(),
            Items::Plain(features) => features.count(),
        }
    }

    pub fn names(&self) -> Result<Vec<String>> {
        match self {
            Items::Files(names, _) => Ok(names.clone()),
            Items::Embeddings(embeddings) => embeddings.names(),
            Items::Plain(features) => features.names(),
        }
    }

    /// `dimensions` that features have to have, if that is known.
    pub fn source<'a>(
        self,
        algorithm: &Option<String>,
        embedder: Option<&'a mut Embedder>,
        threads: usize,
        dimensions: Option<usize>,
    ) -> FeatureSource<'a> {
        match (self, algorithm, embedder) {
            (Items::Embeddings(embeddings), ..) => FeatureSource::embeddings(embeddings, threads),
            (Items::Plain(features), ..) => FeatureSource::plain(features),
            (Items::Files(_, paths), Some(_), _) => FeatureSource::devkit(paths, threads, dimensions),
            (Items::Files(_, paths), None, Some(embedder)) => {
                let (size, fit) = (embedder.size, embedder.fit);
                let images = paths.into_iter().map(Encoded::File).collect();
                FeatureSource::images(embedder, EncodedImages { images, size, fit })
            }
            (Items::Files(..), None, None) => unreachable!("check_options wants one"),
        }
    }
}

impl Inputs {
    /// All ranks call this, and share the looking. Errors: those of the lists and files; more bad images than may be.
    pub fn open(arguments: &MegafaceArguments, comm: &Comm, threads: usize) -> Result<Inputs> {
        let list = arguments.out.as_deref().unwrap_or(Path::new("")).join("skipped.csv");
        let opened = comm.agree(listed(arguments))?;
        let (probes, labels, distractors, sets) = opened;
        let count = |listed: &Listed| if let Listed::Names(names) = listed { names.len() } else { 0 };
        let all = count(&probes) + count(&distractors);
        let mut skipped = Skipped::new(list, all, arguments.max_skipped.unwrap_or(0.0));

        let as_listed = |name: &str| match &arguments.features {
            Some(algorithm) => devkit::feature_file_name(name, algorithm),
            None => name.to_owned(),
        };
        let mut look = |listed: Listed, root: &Path, whole: bool| -> Result<(Items, Vec<bool>)> {
            let names = match listed {
                Listed::Items(items) => {
                    let good = vec![true; items.count()];
                    return Ok((items, good));
                }
                Listed::Names(names) => names,
            };
            let look_at = |path: &Path| match (&arguments.features, whole) {
                (Some(_), false) => look_at_feature(path),
                (Some(_), true) => look_at_whole_feature(path),
                (None, false) => look_at_image(path),
                (None, true) => look_at_whole_image(path),
            };
            let found = comm.agree(located(comm, threads, root, &names, as_listed, look_at))?;
            let good: Vec<bool> = found.iter().map(Result::is_ok).collect();
            let (kept, paths) = skipped.leave_out(names, found);
            if kept.is_empty() {
                skipped.check(comm)?;
                return comm.agree(Err(Error::file(root, "none of the listed images is there and whole")));
            }
            Ok((Items::Files(kept, paths), good))
        };
        // there are few probes, and each is compared with all distractors
        let (probes, good_probes) = look(probes, &arguments.facescrub, true)?;
        let (distractors, good) = look(distractors, &arguments.megaface, false)?;
        skipped.check(comm)?;
        let kept = |members: Vec<bool>, good: &[bool]| -> Vec<bool> {
            members.into_iter().zip(good).filter(|(_, good)| **good).map(|(member, _)| member).collect()
        };
        let labels = labels.into_iter().zip(good_probes).filter(|(_, good)| *good).map(|(label, _)| label).collect();
        let sets = sets.into_iter().map(|set| Set { members: kept(set.members, &good), ..set }).collect();
        Ok(Inputs { probes, labels, distractors, sets, skipped })
    }
}

/// One side before its files were looked at.
enum Listed {
    Names(Vec<String>),
    Items(Items),
}

/// Whether a side is a file of features, not a directory.
fn is_file(side: &Path) -> bool {
    let ending = side.extension();
    ending.is_some_and(|ending| ["h5", "hdf5", "npy", "npz", "mat"].iter().any(|known| ending == *known))
}

/// Error: an option that does nothing beside the others, or that is missing.
pub fn check_options(arguments: &MegafaceArguments) -> Result<()> {
    let (probes, distractors) = (is_file(&arguments.facescrub), is_file(&arguments.megaface));
    for (side, is_file, list) in [
        ("facescrub", probes, arguments.facescrub_list.is_some()),
        ("megaface", distractors, !arguments.megaface_list.is_empty()),
    ] {
        if is_file == list {
            let why = format!("--{side}: a directory with --{side}-list, or a file (.h5, .npy, .npz) without");
            return Err(Error::config(why));
        }
    }
    let embedding = arguments.model.is_some() || arguments.features.is_some();
    if !(probes && distractors) {
        let why = "directories need --model FILE to embed their images, or --features ALGO";
        return if embedding { Ok(()) } else { Err(Error::config(why)) };
    }
    let useless = [
        ("--model", arguments.model.is_some()),
        ("--features", arguments.features.is_some()),
        ("--max-skipped", arguments.max_skipped.is_some()),
    ];
    match useless.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((option, _)) => Err(Error::config(format!(
            "{option}: there is nothing for it to do where --facescrub and --megaface are files of features"
        ))),
    }
}

/// The probes and their labels, the distractors and their sets; of options that fit together (`check_options`).
fn listed(arguments: &MegafaceArguments) -> Result<(Listed, Vec<i64>, Listed, Vec<Set>)> {
    let (probes, ids): (Listed, Vec<String>) = match &arguments.facescrub_list {
        Some(list) => {
            let list = ProbeList::read(list)?;
            (Listed::Names(list.paths), list.ids)
        }
        None => {
            let items = opened(&arguments.facescrub)?;
            let labels = match &items {
                Items::Plain(features) => features.labels()?,
                Items::Embeddings(embeddings) => embeddings.labels().to_vec(),
                Items::Files(..) => unreachable!("a file was opened"),
            };
            (Listed::Items(items), labels.iter().map(u32::to_string).collect())
        }
    };
    let (distractors, sets) = match &arguments.megaface_list[..] {
        [] => {
            let items = opened(&arguments.megaface)?;
            let sets = prefixes(items.count(), 1);
            (Listed::Items(items), sets)
        }
        [list] => {
            let number = list_name(list).map_or(1, |(_, number)| number);
            let paths = DistractorList::read(list)?.paths;
            let sets = prefixes(paths.len(), number);
            (Listed::Names(paths), sets)
        }
        lists => several_lists(lists)?,
    };
    let mut numbers = HashMap::new();
    let mut label = |id| {
        let next = numbers.len() as i64;
        *numbers.entry(id).or_insert(next)
    };
    let labels = ids.into_iter().map(&mut label).collect();
    Ok((probes, labels, distractors, sets))
}

/// Our embeddings, or another program's features.
fn opened(path: &Path) -> Result<Items> {
    match Embeddings::are_in(path) {
        true => Embeddings::open(path).map(Items::Embeddings),
        false => PlainFeatures::read(path).map(Items::Plain),
    }
}

fn list_name(list: &Path) -> Option<(usize, usize)> {
    devkit::size_and_set(list.file_name()?.to_str()?)
}

/// The first 10, 100, ... of `count`, and all of them.
fn prefixes(count: usize, number: usize) -> Vec<Set> {
    let powers = (1..).map(|power| 10usize.pow(power)).take_while(|&size| size < count);
    let set = |size: usize| Set { size, number, members: (0..count).map(|i| i < size).collect() };
    powers.chain([count]).map(set).collect()
}

/// The distractors of all lists, each once, the longest list's first.
fn several_lists(lists: &[PathBuf]) -> Result<(Listed, Vec<Set>)> {
    let mut lists: Vec<(&PathBuf, Vec<String>)> =
        lists.iter().map(|list| Ok((list, DistractorList::read(list)?.paths))).collect::<Result<_>>()?;
    lists.sort_by_key(|(_, paths)| std::cmp::Reverse(paths.len()));
    let (mut all, mut numbers) = (Vec::new(), HashMap::new());
    for path in lists.iter().flat_map(|(_, paths)| paths) {
        numbers.entry(path.clone()).or_insert_with(|| {
            all.push(path.clone());
            all.len() - 1
        });
    }
    let sets = lists.iter().rev().map(|(list, paths)| {
        let mut members = vec![false; all.len()];
        paths.iter().for_each(|path| members[numbers[path]] = true);
        let number = list_name(list).map_or(1, |(_, number)| number);
        Set { size: paths.len(), number, members }
    });
    let sets = sets.collect();
    Ok((Listed::Names(all), sets))
}

fn look_at_whole_feature(path: &Path) -> Result<()> {
    let feature = devkit::read_feature(path)?;
    if feature.iter().all(|&value| value == 0.0) { Err(Error::file(path, "all its numbers are 0")) } else { Ok(()) }
}

fn look_at_whole_image(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    crate::data::decode::any(&bytes).map(|_| ()).map_err(|why| Error::file(path, why))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::EvaluateCommand;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        command: EvaluateCommand,
    }

    /// `None`: the parser refuses them.
    fn outcome(options: &[&str]) -> Option<Result<()>> {
        let words = [&["amlfs", "megaface"], options].concat();
        match Program::try_parse_from(words).ok()?.command {
            EvaluateCommand::Megaface(arguments) => Some(check_options(&arguments)),
            _ => unreachable!("megaface was typed"),
        }
    }

    #[test]
    fn options_beside_directories_and_files_of_features_are_all_of_use_or_named() {
        const OTHERS: [&str; 3] = ["--model=m", "--features=a", "--max-skipped=0.1"];
        let sides: Vec<[&str; 4]> = ["--facescrub=d", "--facescrub=p.npz"]
            .iter()
            .flat_map(|probes| ["", "--facescrub-list=l"].map(|list| (probes, list)))
            .flat_map(|probes| ["--megaface=d", "--megaface=d.h5"].map(|distractors| (probes, distractors)))
            .flat_map(|(probes, distractors)| {
                ["", "--megaface-list=l"].map(|list| [*probes.0, probes.1, distractors, list])
            })
            .collect();
        let mut tried = 0;
        for side in &sides {
            for chosen in 0..1 << OTHERS.len() {
                let others: Vec<&str> = (0..3).filter(|bit| chosen >> bit & 1 == 1).map(|bit| OTHERS[bit]).collect();
                let options: Vec<&str> =
                    side.iter().chain(&others).copied().filter(|option| !option.is_empty()).collect();
                let Some(outcome) = outcome(&options) else {
                    assert!(others.contains(&OTHERS[0]) && others.contains(&OTHERS[1]), "{options:?}");
                    continue;
                };
                tried += 1;
                let is_file = |side: &str| side.contains('.');
                let wrong_list = |side: &str, list: &str| is_file(side) != list.is_empty();
                let named: &[&str] = match (is_file(side[0]), is_file(side[2])) {
                    _ if wrong_list(side[0], side[1]) => &["--facescrub:", "--facescrub-list"],
                    _ if wrong_list(side[2], side[3]) => &["--megaface:", "--megaface-list"],
                    (true, true) if !others.is_empty() => {
                        &[others[0].split('=').next().unwrap(), "nothing for it to do"]
                    }
                    (true, true) => &[],
                    _ if others.iter().all(|other| *other == OTHERS[2]) => &["--model FILE", "--features ALGO"],
                    _ => &[],
                };
                let error = outcome.err().map(|error| {
                    assert_eq!(error.exit_code(), 78);
                    error.to_string()
                });
                assert_eq!(error.is_none(), named.is_empty(), "{options:?}: {error:?}");
                let error = error.unwrap_or_default();
                assert!(named.iter().all(|named| error.contains(named)), "{options:?}: {error}");
            }
        }
        assert_eq!(tried, 16 * 6);
    }
}
