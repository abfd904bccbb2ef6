//! An insightface folder as a source.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::Source;
use super::recordio::RecordIo;
use crate::error::Result;

/// Images and labels of a `train.rec`, with the identities' names where `train.lst` tells them.
pub struct Records {
    records: RecordIo,
    names: Option<BTreeMap<u32, String>>,
}

impl Records {
    /// Errors: `RecordIo`'s.
    pub fn open(directory: &Path) -> Result<Records> {
        let records = RecordIo::open(directory)?;
        let names = records.identity_names()?;
        Ok(Records { records, names })
    }
}

impl Source for Records {
    fn count(&self) -> usize {
        self.records.count()
    }

    fn name(&self, index: usize) -> String {
        format!("record {}", self.records.key(index))
    }

    fn read(&self, index: usize) -> Result<(u32, Cow<'_, [u8]>)> {
        self.records.image(index)
    }

    fn identity(&self, number: u32) -> String {
        let name = self.names.as_ref().and_then(|names| names.get(&number));
        name.cloned().unwrap_or_else(|| number.to_string())
    }
}
