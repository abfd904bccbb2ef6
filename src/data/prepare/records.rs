//! An insightface folder as a source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::recordio::RecordIo;
use super::source::{ImageRead, Source, absolute, file_stamp};
use crate::data::decode;
use crate::error::Result;

/// Images and labels of a `train.rec`, with the identities' names where `train.lst` tells them.
pub struct Records {
    directory: PathBuf,
    records: RecordIo,
    names: Option<BTreeMap<u32, String>>,
}

impl Records {
    /// Notes what is missing that is not needed. Errors: `RecordIo`'s.
    pub fn open(directory: &Path) -> Result<Records> {
        let records = RecordIo::open(directory)?;
        if records.classes().is_none() {
            log::warn!("{}: no property file: classes are counted from the records", directory.display());
        }
        let names = records.identity_names()?;
        Ok(Records { directory: directory.to_owned(), records, names })
    }
}

impl Source for Records {
    fn count(&self) -> usize {
        self.records.count()
    }

    fn name(&self, index: usize) -> String {
        format!("record {}", self.records.key(index))
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        Ok(match self.records.image(index) {
            Ok((label, image)) => ImageRead { identity: Some(label), bytes: Ok(image) },
            Err(why) => ImageRead { identity: None, bytes: Err(why) },
        })
    }

    fn look(&self, index: usize) -> (Option<u32>, Option<String>) {
        match self.records.image(index) {
            Ok((label, image)) => (Some(label), decode::looks_whole(&image).err()),
            Err(why) => (None, Some(why)),
        }
    }

    fn origin(&self) -> String {
        let stamp = |name: &str| format!(", {name} {}", file_stamp(&self.directory.join(name)));
        let stamps: String = ["train.rec", "train.idx", "property", "train.lst"].map(stamp).concat();
        format!("{}{stamps}", absolute(&self.directory))
    }

    fn identity(&self, number: u32) -> String {
        let name = self.names.as_ref().and_then(|names| names.get(&number));
        name.cloned().unwrap_or_else(|| number.to_string())
    }

    fn has_identity(&self, name: &str) -> bool {
        match &self.names {
            Some(names) => names.values().any(|known| known == name),
            None => name.parse().is_ok_and(|number: u32| {
                number.to_string() == name && self.records.classes().is_none_or(|classes| number < classes as u32)
            }),
        }
    }
}
