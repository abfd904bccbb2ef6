//! A loss as a file: theta and what it is a loss with (docs/format.md). `export loss` and `fit-loss` write such files.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::loss::{HeadKind, Space, SpaceKind, TauWeights};

pub const FILETYPE: &str = "amlfs loss";
/// Major and minor number of the format.
pub const VERSION: [i32; 2] = [1, 1];

/// What is in the file for us; other fields are for people.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
pub struct LossFile {
    pub filetype: String,
    pub version: [i32; 2],
    /// What was fitted, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitted: Option<serde_json::Value>,
    pub head: HeadKind,
    /// `None`: it says nothing of the scale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    pub space: SpaceKind,
    pub intervals: usize,
    pub w_max: f64,
    /// `None`: it says nothing of them, as its weights may be used either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau_weights: Option<TauWeights>,
    /// `None`: it says nothing of it, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_adjustment: Option<f64>,
    /// What theta's numbers are called.
    pub components: Vec<String>,
    /// theta [P].
    pub mean: Vec<f64>,
    /// theta of each epoch [E, P]: the mean, and that of the chosen sample; empty for a loss without epochs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub means: Vec<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chosen: Vec<Vec<f64>>,
}

impl LossFile {
    /// Whether a path is meant as one: it ends in .json.
    pub fn is_named(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "json")
    }

    /// Errors: not there, no such file, another major version, numbers that are no theta of the space.
    pub fn read(path: &Path) -> Result<LossFile> {
        let bytes = fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
        LossFile::parse(&bytes).map_err(|why| Error::file(path, why))
    }

    fn parse(bytes: &[u8]) -> std::result::Result<LossFile, String> {
        #[derive(Deserialize)]
        struct Kind {
            filetype: String,
            version: [i32; 2],
        }
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|why| match why.is_eof() {
            true => "truncated, or still being written".to_owned(),
            false => format!("not JSON: {why}"),
        })?;
        let kind: Option<Kind> = serde_json::from_value(json.clone()).ok();
        let Some(kind) = kind.filter(|kind| kind.filetype == FILETYPE) else {
            return Err("not a loss: wanted is what 'amlfs fit-loss' or 'amlfs export loss' wrote".into());
        };
        if kind.version[0] != VERSION[0] {
            let [major, minor] = kind.version;
            return Err(format!("a loss of format {major}.{minor}; this amlfs reads {}.x", VERSION[0]));
        }
        let file: LossFile = serde_path_to_error::deserialize(json).map_err(|why| match why.path().to_string() {
            path if path == "." => why.inner().to_string(),
            path => format!("{path}: {}", why.inner()),
        })?;
        file.check().map(|()| file)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let dimension = self.space().dimension();
        let rows = self.means.iter().map(|row| ("means", row)).chain(self.chosen.iter().map(|row| ("chosen", row)));
        for (field, row) in [("mean", &self.mean)].into_iter().chain(rows) {
            if dimension == 0 || row.len() != dimension {
                let (found, intervals) = (row.len(), self.intervals);
                return Err(format!("{field}: {found} numbers, {intervals} intervals of the space have {dimension}"));
            }
        }
        Ok(())
    }

    pub fn space(&self) -> Space {
        Space { kind: self.space, intervals: self.intervals }
    }

    /// Errors: it is there, or can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic_file::refuse_existing(path)?;
        let text = serde_json::to_string_pretty(self).expect("finite numbers");
        atomic_file::write_bytes(path, (text + "\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOSS: &str = r#"{"filetype": "amlfs loss", "version": [1, 7], "run": {"epoch": 3}, "head": "normalised", "scale": 16.0,
        "space": "derivatives", "intervals": 1, "w_max": 4.0, "tau_weights": "raw", "components": ["t_log_slope_1", "t_offset",
        "log_weight_1"], "mean": [0.0, -0.3, 0.1], "means": [[0, 0, 0]], "chosen": [[0, 0, 1]], "of_1_7": true}"#;

    #[test]
    fn fields_that_are_not_known_are_ignored_and_those_left_out_are_none() {
        let loss = LossFile::parse(LOSS.as_bytes()).unwrap();
        assert_eq!((loss.mean, loss.scale, loss.chosen), (vec![0.0, -0.3, 0.1], Some(16.0), vec![vec![0.0, 0.0, 1.0]]));
        let less = LOSS.replace("\"scale\": 16.0,", "").replace("\"tau_weights\": \"raw\",", "");
        let less = LossFile::parse(less.replace("\"means\": [[0, 0, 0]],", "").as_bytes()).unwrap();
        assert_eq!((less.scale, less.tau_weights, less.means), (None, None, Vec::<Vec<f64>>::new()));
    }

    #[test]
    fn what_is_no_loss_says_why() {
        let error = |text: &str| LossFile::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error(""), "truncated, or still being written");
        assert_eq!(error(&LOSS[..200]), "truncated, or still being written");
        assert_eq!(error("mu = 1"), "not JSON: expected value at line 1 column 1");
        let other = "not a loss: wanted is what 'amlfs fit-loss' or 'amlfs export loss' wrote";
        assert_eq!([error("[1, 2]"), error(r#"{"filetype": "amlfs report", "version": [1, 0]}"#)], [other, other]);
        assert_eq!(error(&LOSS.replace("[1, 7]", "[2, 0]")), "a loss of format 2.0; this amlfs reads 1.x");
        assert_eq!(
            error(&LOSS.replace("[0.0, -0.3, 0.1]", "[0.0, -0.3]")),
            "mean: 2 numbers, 1 intervals of the space have 3"
        );
        assert_eq!(error(&LOSS.replace("-0.3", "null")), "mean[1]: invalid type: null, expected f64");
        assert_eq!(error(&LOSS.replace("\"w_max\": 4.0,", "")), "missing field `w_max`");
        assert!(error(&LOSS.replace("\"derivatives\"", "\"curves\"")).starts_with("space: unknown variant `curves`"));
    }
}
