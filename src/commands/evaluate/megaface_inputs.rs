//! Where MegaFace's probes and distractors lie: lists and files, all looked at before anything is computed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::cli::MegafaceArguments;
use crate::comm::Comm;
use crate::data::{Embeddings, Encoded, EncodedImages, PlainFeatures, name_list, skipped};
use crate::embedding::{Embedder, FeatureSource, look_at_feature, look_at_image};
use crate::error::{Error, Result};
use crate::eval::megaface::devkit::{self, DistractorList, ProbeList};
use crate::eval::records_of_all;

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

/// What was left out so far.
pub struct Skipped {
    /// (name, why)
    found: Vec<(String, String)>,
    /// How many may be.
    allowed: f64,
    all: usize,
    list: PathBuf,
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
            (Items::Embeddings(embeddings), ..) => FeatureSource::embeddings(embeddings),
            (Items::Plain(features), ..) => FeatureSource::plain(features),
            (Items::Files(_, paths), Some(_), _) => FeatureSource::devkit(paths, threads, dimensions),
            (Items::Files(_, paths), None, Some(embedder)) => {
                let (size, fit) = (embedder.size, embedder.fit);
                let images = paths.into_iter().map(Encoded::File).collect();
                FeatureSource::images(embedder, EncodedImages { images, size, fit })
            }
            (Items::Files(..), None, None) => unreachable!("checked in open"),
        }
    }
}

impl Inputs {
    /// All ranks call this, and share the looking. Errors: those of the lists and files; options that would do nothing; more
    /// bad images than may be.
    pub fn open(arguments: &MegafaceArguments, comm: &Comm, threads: usize) -> Result<Inputs> {
        let list = arguments.out.as_deref().unwrap_or(Path::new("")).join("skipped.csv");
        let opened = comm.agree(listed(arguments))?;
        let (probes, labels, distractors, sets) = opened;
        let mut skipped = Skipped { found: Vec::new(), allowed: 0.0, all: 0, list };
        let count = |listed: &Listed| if let Listed::Names(names) = listed { names.len() } else { 0 };
        skipped.all = count(&probes) + count(&distractors);
        skipped.allowed = arguments.max_skipped.unwrap_or(0.0) * skipped.all as f64;

        let mut look = |listed: Listed, root: &Path, whole: bool| -> Result<(Items, Vec<bool>)> {
            let names = match listed {
                Listed::Items(items) => {
                    let good = vec![true; items.count()];
                    return Ok((items, good));
                }
                Listed::Names(names) => names,
            };
            let found = comm.agree(located(arguments, root, &names, whole, comm, threads))?;
            let good: Vec<bool> = found.iter().map(Result::is_ok).collect();
            let (mut kept, mut paths) = (Vec::new(), Vec::new());
            for (name, found) in names.into_iter().zip(found) {
                match found {
                    Ok(path) => {
                        kept.push(name);
                        paths.push(path);
                    }
                    Err(why) => skipped.found.push((name, why.to_string())),
                }
            }
            if comm.is_root() {
                log::info!("{}: {} of {} names matched", root.display(), kept.len(), good.len());
            }
            if kept.is_empty() {
                skipped.check(comm)?;
                return Err(Error::file(root, "none of the listed images is there and whole"));
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

impl Skipped {
    /// Writes the list; more than may be are an error. All ranks call this.
    fn check(&self, comm: &Comm) -> Result<()> {
        let written = if comm.is_root() { self.write() } else { Ok(()) };
        comm.agree(written)?;
        let (count, all, list) = (self.found.len(), self.all, self.list.display());
        if count == 0 {
            return Ok(());
        }
        if count as f64 <= self.allowed {
            if comm.is_root() {
                log::warn!("{count} of {all} images are missing or broken and left out, see {list}");
            }
            return Ok(());
        }
        let named = skipped::named(&self.found, Some(&self.list));
        Err(Error::failed(format!(
            "{count} of {all} listed images are missing or broken, more than the {} allowed:{named}\nRepair them, or leave \
             them out with --max-skipped {:.4}; the list is {list}",
            self.allowed.floor(),
            (count as f64 / all as f64 * 1e4).ceil() / 1e4
        )))
    }

    fn write(&self) -> Result<()> {
        let path = &self.list;
        if self.found.is_empty() {
            return Ok(());
        }
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(|why| Error::file(directory, why))?;
        }
        skipped::write_skipped(path, &self.found)
    }

    /// On a rank that reads: more broken than may be are an error at once, not after hours.
    pub fn stop_early(&self, broken: &BTreeMap<usize, String>) -> Result<()> {
        match broken.values().next() {
            Some(first) if (self.found.len() + broken.len()) as f64 > self.allowed => Err(Error::failed(format!(
                "{} of {} listed images are broken, more than the {} allowed (--max-skipped): {first}",
                self.found.len() + broken.len(),
                self.all,
                self.allowed.floor()
            ))),
            _ => Ok(()),
        }
    }

    /// Adds what all ranks found broken while they read: numbers among `names`. All ranks call this.
    pub fn add(&mut self, comm: &Comm, names: &[String], broken: &BTreeMap<usize, String>) -> Result<()> {
        let most = comm.all_max(broken.len() as u64) as usize;
        if most == 0 {
            return Ok(());
        }
        let mut numbers: Vec<f64> = broken.keys().map(|&number| number as f64).collect();
        numbers.resize(most, -1.0);
        let mut numbers: Vec<usize> = comm
            .all_gather(&numbers)
            .into_iter()
            .filter(|&number| number >= 0.0)
            .map(|number| number as usize)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let why = broken.get(&number).map_or("broken, as another rank found", |why| why);
            self.found.push((names[number].clone(), why.to_owned()));
        }
        self.check(comm)
    }
}

/// One side before its files were looked at.
enum Listed {
    Names(Vec<String>),
    Items(Items),
}

/// The probes and their labels, the distractors and their sets.
fn listed(arguments: &MegafaceArguments) -> Result<(Listed, Vec<i64>, Listed, Vec<Set>)> {
    let file = |path: &Path| {
        path.extension().is_some_and(|ending| ["h5", "hdf5", "npy", "npz", "mat"].iter().any(|known| ending == *known))
    };
    let files = (file(&arguments.facescrub), file(&arguments.megaface));
    let (probes, ids): (Listed, Vec<String>) = match (&arguments.facescrub_list, files.0) {
        (Some(list), false) => {
            let list = ProbeList::read(list)?;
            (Listed::Names(list.paths), list.ids)
        }
        (None, true) => {
            let items = opened(&arguments.facescrub)?;
            let labels = match &items {
                Items::Plain(features) => features.labels()?,
                Items::Embeddings(embeddings) => embeddings.labels().to_vec(),
                Items::Files(..) => unreachable!("a file was opened"),
            };
            (Listed::Items(items), labels.iter().map(u32::to_string).collect())
        }
        _ => {
            let why = "--facescrub: a directory with --facescrub-list, or a file (.h5, .npy, .npz) without";
            return Err(Error::config(why));
        }
    };
    let (distractors, sets) = match (&arguments.megaface_list[..], files.1) {
        ([], true) => {
            let items = opened(&arguments.megaface)?;
            let sets = prefixes(items.count(), 1);
            (Listed::Items(items), sets)
        }
        ([list], false) => {
            let number = list_name(list).map_or(1, |(_, number)| number);
            let paths = DistractorList::read(list)?.paths;
            let sets = prefixes(paths.len(), number);
            (Listed::Names(paths), sets)
        }
        ([_, ..], false) => several_lists(&arguments.megaface_list)?,
        _ => {
            let why = "--megaface: a directory with --megaface-list, or a file (.h5, .npy, .npz) without";
            return Err(Error::config(why));
        }
    };
    match (files, &arguments.model, &arguments.features, arguments.max_skipped) {
        ((true, true), Some(_), ..) => return Err(nothing_to_do("--model")),
        ((true, true), _, Some(_), _) => return Err(nothing_to_do("--features")),
        ((true, true), _, _, Some(_)) => return Err(nothing_to_do("--max-skipped")),
        ((true, true), ..) => {}
        (_, None, None, _) => {
            return Err(Error::config("directories need --model FILE to embed their images, or --features ALGO"));
        }
        _ => {}
    }
    let mut numbers = HashMap::new();
    let mut label = |id| {
        let next = numbers.len() as i64;
        *numbers.entry(id).or_insert(next)
    };
    let labels = ids.into_iter().map(&mut label).collect();
    Ok((probes, labels, distractors, sets))
}

fn nothing_to_do(option: &str) -> Error {
    Error::config(format!(
        "{option}: there is nothing for it to do where --facescrub and --megaface are files of features"
    ))
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

/// How a file was found.
const AS_LISTED: f64 = 0.0;
const ELSEWHERE: f64 = 1.0;
const BAD: f64 = 2.0;

/// The file of each name below `root`, or why there is none that can be used; `whole`: they are read to their end. The ranks
/// share the work.
fn located(
    arguments: &MegafaceArguments,
    root: &Path,
    names: &[String],
    whole: bool,
    comm: &Comm,
    threads: usize,
) -> Result<Vec<Result<PathBuf>>> {
    let as_listed = |name: &str| match &arguments.features {
        Some(algorithm) => devkit::feature_file_name(name, algorithm),
        None => name.to_owned(),
    };
    let file = |name: &str| -> Result<PathBuf> {
        let path = root.join(as_listed(name));
        name_list::find(root, name, as_listed).ok_or_else(|| match path.exists() {
            true => Error::file(&path, "no regular file"),
            false => Error::file(&path, "not there, nor with another extension"),
        })
    };
    let look = |path: &Path| match (&arguments.features, whole) {
        (Some(_), false) => look_at_feature(path),
        (Some(_), true) => look_at_whole_feature(path),
        (None, false) => look_at_image(path),
        (None, true) => look_at_whole_image(path),
    };
    let good = |name: &str| file(name).and_then(|path| look(&path).map(|()| path));
    let outcomes = records_of_all(comm, threads, names.len(), 1, |range| {
        let outcome = |name: &String| match good(name) {
            Ok(path) if path == root.join(as_listed(name)) => AS_LISTED,
            Ok(_) => ELSEWHERE,
            Err(_) => BAD,
        };
        Ok(names[range].iter().map(outcome).collect())
    })?;
    let located = |(name, outcome): (&String, f64)| match outcome {
        AS_LISTED => Ok(root.join(as_listed(name))),
        ELSEWHERE => file(name),
        _ => good(name),
    };
    Ok(names.iter().zip(outcomes).map(located).collect())
}

fn look_at_whole_feature(path: &Path) -> Result<()> {
    let feature = devkit::read_feature(path)?;
    if feature.iter().all(|&value| value == 0.0) { Err(Error::file(path, "all its numbers are 0")) } else { Ok(()) }
}

fn look_at_whole_image(path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    crate::data::decode::any(&bytes).map(|_| ()).map_err(|why| Error::file(path, why))
}
