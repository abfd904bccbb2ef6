//! The forms in which CIFAR is about: the binary and the Python version, unpacked or as the archive that is given out.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use super::PIXELS;
use crate::error::{Error, Result};
use crate::mapped_file::MappedFile;

/// One of the two data sets, each in two versions.
pub struct Set {
    pub name: &'static str,
    /// What `data.kind` calls it.
    pub kind: &'static str,
    pub classes: usize,
    pub binary: Version,
    pub python: Version,
    /// Bytes before a binary record's pixels; the last one is the label.
    pub labels: usize,
    /// What the dict of a Python batch calls the labels.
    pub key: &'static str,
    /// Of the classes, by label.
    pub names: &'static str,
}

pub struct Version {
    directory: &'static str,
    archive: &'static str,
    training: &'static [&'static str],
    test: &'static str,
}

pub const CIFAR10: Set = Set {
    name: "CIFAR-10",
    kind: "cifar10",
    classes: 10,
    binary: Version {
        directory: "cifar-10-batches-bin",
        archive: "cifar-10-binary.tar.gz",
        training: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
        test: "test_batch.bin",
    },
    python: Version {
        directory: "cifar-10-batches-py",
        archive: "cifar-10-python.tar.gz",
        training: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
        test: "test_batch",
    },
    labels: 1,
    key: "labels",
    names: "airplane automobile bird cat deer dog frog horse ship truck",
};

/// With its fine labels; the coarse ones are passed over.
pub const CIFAR100: Set = Set {
    name: "CIFAR-100",
    kind: "cifar100",
    classes: 100,
    binary: Version {
        directory: "cifar-100-binary",
        archive: "cifar-100-binary.tar.gz",
        training: &["train.bin"],
        test: "test.bin",
    },
    python: Version {
        directory: "cifar-100-python",
        archive: "cifar-100-python.tar.gz",
        training: &["train"],
        test: "test",
    },
    labels: 2,
    key: "fine_labels",
    names: "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle \
            caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant \
            flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man \
            maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree \
            plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail \
            snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout \
            tulip turtle wardrobe whale willow_tree wolf woman worm",
};

/// No file of CIFAR has more bytes.
const MOST_BYTES: u64 = 1 << 28;

/// A file's bytes: mapped (one page cache for all ranks of a node), or out of an archive.
pub enum Bytes {
    Mapped(MappedFile),
    Read(Vec<u8>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(bytes) => bytes,
            Bytes::Read(bytes) => bytes,
        }
    }
}

/// The files of a data set.
pub struct Files {
    /// With the paths for messages; within an archive, behind its own.
    pub training: Vec<(PathBuf, Bytes)>,
    pub test: (PathBuf, Bytes),
    /// The Python version.
    pub pickled: bool,
}

/// What is in `path`: the directory of the batches, the one above it, or the archive.
///
/// Errors: nothing of that kind; the other data set; a file that is missing or can't be read.
pub fn open(path: &Path, set: &Set) -> Result<Files> {
    if !path.is_dir() {
        return open_archive(path, set);
    }
    for (version, pickled) in [(&set.binary, false), (&set.python, true)] {
        let inner = path.join(version.directory);
        let directories = [path, &inner];
        if let Some(directory) = directories.into_iter().find(|directory| version.begun(directory)) {
            let map = |name: &&str| Ok((directory.join(name), map(&directory.join(name))?));
            let training = version.training.iter().map(map).collect::<Result<_>>()?;
            return Ok(Files { training, test: map(&version.test)?, pickled });
        }
        let archive = path.join(version.archive);
        if archive.is_file() {
            return open_archive(&archive, set);
        }
    }
    let other = set.other();
    for version in [&other.binary, &other.python] {
        if version.begun(path) || version.begun(&path.join(version.directory)) {
            return Err(Error::file(path, other_set(set, other)));
        }
    }
    Err(Error::file(path, format!("no {} here; {}", set.name, set.wanted())))
}

/// Which of the two is in `path`, a directory or an archive. Errors: both are; an archive of something else.
pub fn which(path: &Path) -> Result<Option<&'static Set>> {
    let is_there = |set: &Set| {
        let versions = [&set.binary, &set.python];
        versions.iter().any(|version| {
            version.begun(path) || version.begun(&path.join(version.directory)) || path.join(version.archive).is_file()
        })
    };
    if path.is_dir() {
        return match (is_there(&CIFAR10), is_there(&CIFAR100)) {
            (true, true) => Err(Error::file(path, "CIFAR-10 and CIFAR-100 are here; name the directory of one")),
            (true, false) => Ok(Some(&CIFAR10)),
            (false, true) => Ok(Some(&CIFAR100)),
            (false, false) => Ok(None),
        };
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if ![".gz", ".tgz"].iter().any(|extension| name.ends_with(extension)) {
        return Ok(None);
    }
    let file = File::open(path).map_err(|why| Error::file(path, format!("can't be opened: {why}")))?;
    let wrong = |why: std::io::Error| Error::file(path, format!("can't be read as .tar.gz: {why}"));
    let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
    for entry in archive.entries().map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let name = entry.path().map_err(wrong)?.file_name().map(|name| name.to_string_lossy().into_owned());
        let is_batch = |version: &Version| version.batches().any(|batch| Some(batch) == name.as_deref());
        let found = [&CIFAR10, &CIFAR100].into_iter().find(|set| is_batch(&set.binary) || is_batch(&set.python));
        if found.is_some() {
            return Ok(found);
        }
    }
    Err(Error::file(path, "an archive without CIFAR-10 or CIFAR-100; unpack it and name its directory"))
}

fn other_set(set: &Set, other: &Set) -> String {
    format!("{}, not {}; --set data.kind={} trains on it", other.name, set.name, other.kind)
}

impl Version {
    fn begun(&self, directory: &Path) -> bool {
        self.batches().any(|name| directory.join(name).is_file())
    }

    fn batches(&self) -> impl Iterator<Item = &'static str> {
        self.training.iter().copied().chain([self.test])
    }
}

impl Set {
    fn other(&self) -> &'static Set {
        if self.classes == CIFAR10.classes { &CIFAR100 } else { &CIFAR10 }
    }

    pub fn wanted(&self) -> String {
        let Set { binary, python, .. } = self;
        format!(
            "wanted is the directory of {} or of {}, or {} or {} as it is given out at https://www.cs.toronto.edu/~kriz/cifar.html",
            binary.training[0], python.training[0], binary.archive, python.archive
        )
    }
}

fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(|why| Error::file(path, format!("can't be opened: {why}")))?;
    let bytes = MappedFile::all(path, &file).map_err(|why| Error::file(path, format!("can't be mapped: {why}")))?;
    Ok(Bytes::Mapped(bytes))
}

/// Reads the batches out of a .tar.gz; they are known by their names, whatever directory they are in.
fn open_archive(path: &Path, set: &Set) -> Result<Files> {
    let wrong = |why: std::io::Error| Error::file(path, format!("can't be read as .tar.gz: {why}; {}", set.wanted()));
    let file = File::open(path).map_err(|why| Error::file(path, format!("can't be opened: {why}")))?;
    let (mut found, mut seen) = (HashMap::new(), HashSet::new());
    let versions = [&set.binary, &set.python];
    let wanted = |name: &str| versions.iter().any(|version| version.batches().any(|it| it == name));
    let mut archive = tar::Archive::new(GzDecoder::new(BufReader::new(file)));
    for entry in archive.entries().map_err(wrong)? {
        let mut entry = entry.map_err(wrong)?;
        let name = entry.path().map_err(wrong)?.file_name().map(|name| name.to_string_lossy().into_owned());
        seen.extend(name.clone());
        let Some(name) = name.filter(|name| wanted(name)) else { continue };
        if entry.size() > MOST_BYTES {
            return Err(Error::file(&path.join(name), format!("{} bytes are too many for {}", entry.size(), set.name)));
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(wrong)?;
        found.insert(name, bytes);
    }
    let complete = |version: &Version| version.batches().all(|name| seen.contains(name));
    let Some(pickled) = versions.iter().position(|version| complete(version)) else {
        let other = set.other();
        let why = match complete(&other.binary) || complete(&other.python) {
            true => other_set(set, other),
            false => format!("it has not all batches of {}; {}", set.name, set.wanted()),
        };
        return Err(Error::file(path, why));
    };
    let version = versions[pickled];
    let mut take = |name: &str| (path.join(name), Bytes::Read(found.remove(name).unwrap_or_default()));
    let training = version.training.iter().map(|name| take(name)).collect();
    Ok(Files { training, test: take(version.test), pickled: pickled == 1 })
}

/// Bytes of a record of the binary version.
pub fn record(set: &Set) -> usize {
    set.labels + PIXELS
}
