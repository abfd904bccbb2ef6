//! The rule for images that can't be used: all are looked at before the long work, every bad one is listed and counted, and
//! --max-skipped decides.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::comm::Comm;
use crate::data::name_list;
use crate::data::skipped::{named, write_skipped};
use crate::embedding::FeatureSource;
use crate::error::{Error, Result};
use crate::eval::records_of_all;
use crate::terminal;

/// What was left out so far.
pub struct Skipped {
    /// (name, why)
    found: Vec<(String, String)>,
    /// What is no image, and so does not count, but is listed.
    others: Vec<(String, String)>,
    /// How many of the images may be left out.
    allowed: f64,
    all: usize,
    list: PathBuf,
}

impl Skipped {
    /// Of `all` images a `share` may be left out; `list` is the file that will say which and why.
    pub fn new(list: PathBuf, all: usize, share: f64) -> Skipped {
        Skipped { found: Vec::new(), others: Vec::new(), allowed: share * all as f64, all, list }
    }

    /// Also lists what is no image at all.
    pub fn listing(self, others: Vec<(String, String)>) -> Skipped {
        Skipped { others, ..self }
    }

    pub fn push(&mut self, name: &str, why: &str) {
        self.found.push((name.to_owned(), why.to_owned()));
    }

    /// Leaves out those of these images that were not found; the others' names, and what was found.
    pub fn leave_out<T>(&mut self, names: Vec<String>, found: Vec<Result<T>>) -> (Vec<String>, Vec<T>) {
        let (mut kept, mut good) = (Vec::new(), Vec::new());
        for (name, found) in names.into_iter().zip(found) {
            match found {
                Ok(found) => {
                    kept.push(name);
                    good.push(found);
                }
                Err(why) => self.push(&name, &why.to_string()),
            }
        }
        (kept, good)
    }

    pub fn count(&self) -> usize {
        self.found.len()
    }

    /// The file that lists them.
    pub fn list(&self) -> &Path {
        &self.list
    }

    /// Writes the list. Errors: more are left out than may be, or all. All ranks call this.
    pub fn check(&self, comm: &Comm) -> Result<()> {
        comm.agree(if comm.is_root() { self.write().and_then(|()| self.judge()) } else { Ok(()) })
    }

    fn write(&self) -> Result<()> {
        if self.found.is_empty() && self.others.is_empty() {
            return Ok(());
        }
        if let Some(directory) = self.list.parent() {
            std::fs::create_dir_all(directory).map_err(|why| Error::file(directory, why))?;
        }
        write_skipped(&self.list, &[&self.found[..], &self.others].concat())
    }

    fn judge(&self) -> Result<()> {
        let (count, all, list) = (self.found.len(), self.all, self.list.display());
        let named = named(&self.found, Some(&self.list));
        if count > 0 && count == all {
            return Err(Error::failed(format!(
                "none of the {all} images is there and whole:{named}\nThe list is {list}"
            )));
        }
        if count as f64 > self.allowed {
            return Err(Error::failed(format!(
                "{count} of {all} images are missing or broken, more than the {} allowed:{named}\nRepair them, or leave them \
                 out with --max-skipped {:.4}; the list is {list}",
                self.allowed.floor(),
                (count as f64 / all as f64 * 1e4).ceil() / 1e4
            )));
        }
        if count > 0 {
            log::warn!("{count} of {all} images are missing or broken and left out, see {list}");
        }
        Ok(())
    }

    /// On a rank that reads: more broken than may be are an error at once, not after hours.
    pub fn stop_early(&self, broken: &BTreeMap<usize, String>) -> Result<()> {
        let count = self.found.len() + broken.len();
        match broken.values().next() {
            Some(first) if count as f64 > self.allowed => Err(Error::failed(format!(
                "{count} of {} images are missing or broken, more than the {} allowed (--max-skipped): {first}",
                self.all,
                self.allowed.floor()
            ))),
            _ => Ok(()),
        }
    }

    /// Adds what all ranks found broken while they read `source`, whose images have these `names`, and returns their numbers.
    /// All ranks call this.
    pub fn add(&mut self, comm: &Comm, names: &[String], source: &mut FeatureSource) -> Result<Vec<usize>> {
        let most = comm.all_max(source.broken().len() as u64) as usize;
        if most == 0 {
            return Ok(Vec::new());
        }
        let mut numbers: Vec<f64> = source.broken().keys().map(|&number| number as f64).collect();
        numbers.resize(most, -1.0);
        let numbers = comm.all_gather(&numbers).into_iter().filter(|&number| number >= 0.0);
        let mut numbers: Vec<usize> = numbers.map(|number| number as usize).collect();
        numbers.sort_unstable();
        for &number in &numbers {
            if comm.is_root() && !source.broken().contains_key(&number) {
                // another rank found it: read again, it is known here why
                let _ = source.read(number..number + 1);
            }
            let why = source.broken().get(&number).map_or("broken", String::as_str).to_owned();
            self.push(&names[number], &why);
        }
        self.check(comm)?;
        Ok(numbers)
    }
}

/// Tells how many files of a source were left out, `bad` of them images, and where they are listed; nothing if none was.
pub fn print_skipped(all: usize, bad: usize, list: &Path) {
    if all > 0 {
        let list = list.display();
        terminal::line(&format!("skipped: {all} files, {bad} of them images that can't be used; listed in {list}"));
    }
}

/// How a file was found.
const AS_LISTED: f64 = 0.0;
const ELSEWHERE: f64 = 1.0;
const BAD: f64 = 2.0;

/// The file of each listed name below `root`, or why there is none that can be used, by `look`; `as_listed` makes a file's name
/// of an image's. The ranks share the work, and all get all.
pub fn located(
    comm: &Comm,
    threads: usize,
    root: &Path,
    names: &[String],
    as_listed: impl Fn(&str) -> String + Sync,
    look: impl Fn(&Path) -> Result<()> + Sync,
) -> Result<Vec<Result<PathBuf>>> {
    let file = |name: &str| -> Result<PathBuf> {
        let path = root.join(as_listed(name));
        name_list::find(root, name, &as_listed).ok_or_else(|| match path.exists() {
            true => Error::file(&path, "no regular file"),
            false => Error::file(&path, "not there, nor with another extension"),
        })
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
    let located = names.iter().zip(outcomes).map(located).collect::<Vec<_>>();
    if comm.is_root() {
        let matched = located.iter().filter(|found| found.is_ok()).count();
        log::info!("{}: {matched} of {} names matched", root.display(), names.len());
    }
    Ok(located)
}
