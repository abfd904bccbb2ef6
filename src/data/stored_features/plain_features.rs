//! Features of faces, as other programs write them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::Tensor;

use super::feature_file::FeatureFile;
use super::labelled_features::read_features;
use crate::error::Result;

/// The features [N, D] f32 of a file; ids and names stay there until they are asked for.
pub struct PlainFeatures {
    path: PathBuf,
    pub features: Tensor,
}

impl PlainFeatures {
    /// Errors: those of `FeatureFile::open` and `read_features`.
    pub fn read(path: &Path) -> Result<PlainFeatures> {
        let features = read_features(&mut FeatureFile::open(path)?, path)?;
        Ok(PlainFeatures { path: path.to_owned(), features })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn count(&self) -> usize {
        self.features.size()[0] as usize
    }

    /// [N]: numbers from 0 that are equal for equal `ids` of the file. Error: it has none.
    pub fn labels(&self) -> Result<Vec<u32>> {
        let ids = FeatureFile::open(&self.path)?.column("ids", self.count())?;
        let mut labels = HashMap::new();
        let label = |id| {
            let next = labels.len() as u32;
            *labels.entry(id).or_insert(next)
        };
        Ok(ids.into_iter().map(label).collect())
    }

    /// [N]. Error: the file has none.
    pub fn names(&self) -> Result<Vec<String>> {
        FeatureFile::open(&self.path)?.names(self.count())
    }
}
