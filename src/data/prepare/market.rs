//! Benchmarks of re-identification, and trees that are made like one, as a source: people seen by several cameras.

mod layout;
mod names;
mod releases;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::source::{ImageRead, Source, absolute, file_stamp, read_file};
use crate::data::Split;
use crate::data::listing::{EXTENSIONS, Kind, list};
use crate::data::name_list::{Line, NameList};
use crate::data::skipped;
use crate::error::{Error, Result};
use layout::{Layout, SPLITS};
use names::{Name, check, parse, parse_listed};
use releases::Release;

/// What an error about names says is wanted.
const FORM: &str = "wanted are names like 0001_c1s1_001051_00.jpg or 0002_c1_f0044158.jpg: the person's number, _c and \
                    the camera's; -1 (junk) and 0 (distractors) only in bounding_box_test";
const FORM_OF_LISTS: &str =
    "wanted are lines like 0000/0000_000_01_0303morning_0008_0.jpg 0: path and person, the camera after the second _";
const OWN: &str = "; --own-tree says that it is your own tree, whatever its name, with any people and cameras, and person \
                   0 as one of them";
/// Where MSMT17's images are: in version 1, in version 2.
const MSMT17_DIRECTORIES: [[&str; 2]; 3] =
    [["train", "test"], ["mask_train_v2", "mask_test_v2"], ["mask_train_V2", "mask_test_V2"]];

/// The images of a re-identification benchmark without its junk (person -1), which "neither helps nor hurts": those to
/// train on, the queries, the gallery with its distractors (person 0); in the order of their names or lists. Identity
/// numbers are the people's; MSMT17 counts its people from 0 twice, so those to train on become 1, 2, ... and those of
/// the test follow. Hidden files and Thumbs.db are passed over.
pub struct Market {
    root: PathBuf,
    own: bool,
    release: Option<&'static Release>,
    images: Vec<Image>,
    /// Numbers of people as the first file has them: with leading zeros.
    names: BTreeMap<u32, String>,
    junk: usize,
    ignored: Vec<(String, String)>,
    /// What can't be used: (name, why).
    bad: Vec<(String, String)>,
}

struct Image {
    /// Below the root.
    path: PathBuf,
    person: u32,
    camera: u32,
    split: Split,
}

impl Market {
    /// Lists the data set in `source` or in the one directory of it that has one; reads no image. With `own` it is none
    /// of the benchmarks, and person 0 is a person.
    ///
    /// Errors: a directory of images or a list is missing or without images; names of another form; people or cameras
    /// that Market-1501 or DukeMTMC-reID (by the directory's name) or MSMT17 (by its lists) do not have.
    pub fn open(source: &Path, own: bool) -> Result<Market> {
        let (root, layout) = layout::find(source)?;
        let release = match layout {
            _ if own => None,
            Layout::Lists(_) => Some(&releases::MSMT17),
            Layout::Directories(_) => Release::of(&root),
        };
        let mut market = Market {
            root,
            own,
            release,
            images: Vec::new(),
            names: BTreeMap::new(),
            junk: 0,
            ignored: Vec::new(),
            bad: Vec::new(),
        };
        let form = match layout {
            Layout::Directories(directories) => {
                for (directory, split) in directories.into_iter().zip(SPLITS) {
                    market.add_directory(directory, split)?;
                }
                FORM
            }
            Layout::Lists(lists) => {
                market.add_lists(lists)?;
                FORM_OF_LISTS
            }
        };
        let bad = &market.bad;
        if bad.is_empty() {
            return Ok(market);
        }
        let named = skipped::named(bad, None);
        let hint = if own { "" } else { OWN };
        Err(Error::file(&market.root, format!("{} images can't be used; {form}{hint}:{named}", bad.len())))
    }

    fn add_directory(&mut self, directory: &str, split: Split) -> Result<()> {
        let top = self.root.join(directory);
        let before = self.images.len();
        for listed in list(&top, 1) {
            let listed = listed?;
            let name = listed.path.to_string_lossy();
            let path = Path::new(directory).join(&listed.path);
            let text = path.to_string_lossy().into_owned();
            match listed.kind {
                Kind::Directory => self.ignored.push((text, "a directory".into())),
                Kind::Other(why) => self.ignored.push((text, why.into())),
                Kind::Image => {
                    let parsed = parse(&name).ok_or_else(|| "its name has another form".into());
                    match parsed.and_then(|name| check(&name, split, self.own, self.release).map(|()| name)) {
                        Err(why) => self.bad.push((text, why)),
                        Ok(Name { person, number, camera }) => match u32::try_from(number) {
                            Err(_) => self.junk += 1,
                            Ok(number) => self.add(Image { path, person: number, camera, split }, person),
                        },
                    }
                }
            }
        }
        if self.images.len() == before && self.bad.is_empty() {
            let why = format!("no images but junk; wanted are files *.{}", EXTENSIONS.join(", *."));
            return Err(Error::file(&top, why));
        }
        Ok(())
    }

    fn add(&mut self, image: Image, name: &str) {
        self.names.entry(image.person).or_insert_with(|| name.to_owned());
        self.images.push(image);
    }

    /// MSMT17's own training set is list_train.txt and list_val.txt: 32,621 images, of which every search holds its own
    /// out.
    fn add_lists(&mut self, [train, query, gallery]: [&str; 3]) -> Result<()> {
        let there = |pair: &&[&str; 2]| pair.iter().all(|name| self.root.join(name).is_dir());
        let Some([training, test]) = MSMT17_DIRECTORIES.iter().find(there) else {
            let why = "no directories train and test, or mask_train_v2 and mask_test_v2, beside its lists";
            return Err(Error::file(&self.root, why));
        };
        self.add_list(train, training, Split::Train, 1)?;
        if self.root.join("list_val.txt").exists() {
            self.add_list("list_val.txt", training, Split::Train, 1)?;
        }
        let first = self.names.keys().last().map_or(1, |last| last + 1);
        self.add_list(query, test, Split::Query, first)?;
        self.add_list(gallery, test, Split::Gallery, first)
    }

    /// `first` is the number that its person 0 gets.
    fn add_list(&mut self, list: &str, directory: &str, split: Split, first: u32) -> Result<()> {
        let file = self.root.join(list);
        let lines = NameList::lines(&file)?;
        if lines.is_empty() {
            return Err(Error::file(&file, "names no images"));
        }
        for Line { text: line, .. } in &lines {
            let parsed = parse_listed(line).and_then(|found| {
                self.release.map_or(Ok(()), |release| release.check(found.1 as i32, found.2)).map(|()| found)
            });
            match parsed {
                Err(why) => self.bad.push((format!("{list}: {line}"), why)),
                Ok((path, person, camera)) => {
                    let person = first + person;
                    let image = Image { path: Path::new(directory).join(path), person, camera, split };
                    self.add(image, &format!("{person:04}"));
                }
            }
        }
        Ok(())
    }

    /// Images of person -1, which are left out.
    pub fn junk(&self) -> usize {
        self.junk
    }

    /// Where this differs from the benchmark that its directory's name or its lists promise: for warnings.
    pub fn differences(&self) -> Vec<String> {
        let Some(release) = self.release else { return Vec::new() };
        let differ = |((what, found), expected): ((&str, usize), usize)| {
            (found != expected).then(|| format!("{}: expected {expected} {what}, found {found}", release.name))
        };
        self.figures().into_iter().zip(release.figures).filter_map(differ).collect()
    }

    fn figures(&self) -> [(&'static str, usize); 7] {
        let images = |split| self.images.iter().filter(move |image| image.split == split);
        let people = |split| images(split).map(|image| image.person).collect::<BTreeSet<_>>().len();
        [
            ("images to train on", images(Split::Train).count()),
            ("people to train on", people(Split::Train)),
            ("queries", images(Split::Query).count()),
            ("people among the queries", people(Split::Query)),
            ("gallery images with junk", images(Split::Gallery).count() + self.junk),
            ("junk images", self.junk),
            ("distractors", images(Split::Gallery).filter(|image| image.person == 0).count()),
        ]
    }
}

impl Source for Market {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> String {
        self.images[index].path.to_string_lossy().into_owned()
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        let image = &self.images[index];
        read_file(&self.root, &image.path, image.person)
    }

    fn origin(&self) -> String {
        let own = if self.own { ", an own tree" } else { "" };
        format!("{}{own}", absolute(&self.root))
    }

    fn stamp(&self, index: usize) -> String {
        let Image { path, person, camera, split } = &self.images[index];
        format!("{} {person} {camera} {}", file_stamp(&self.root.join(path)), *split as u8)
    }

    fn identity(&self, number: u32) -> String {
        self.names[&number].clone()
    }

    fn has_identity(&self, name: &str) -> bool {
        self.names.values().any(|known| known == name)
    }

    fn camera_and_split(&self, index: usize) -> Option<(u32, Split)> {
        let image = &self.images[index];
        Some((image.camera, image.split))
    }

    fn ignored(&self) -> &[(String, String)] {
        &self.ignored
    }
}
