//! Files of the MegaFace devkit: features (OpenCV Mat dumps), template lists and the CMC it reports.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::atomic_file;
use crate::error::{Error, Result};

/// Mat types CV_32F and CV_64F.
const F32: i32 = 5;
const F64: i32 = 6;
const MAX_DIM: usize = 65536;

type Parsed<T> = std::result::Result<T, String>;

/// A feature: four little-endian i32 (rows, columns, bytes per row, type 5 = f32 or 6 = f64), then the numbers. One row
/// or one column of 1 to 65536 [insightface _evaluation_/megaface: `write_bin`]. Errors: another shape, type or length,
/// a number that is not finite as f32.
pub fn parse_feature(bytes: &[u8]) -> Parsed<Vec<f32>> {
    let Some((header, data)) = bytes.split_first_chunk::<16>() else {
        return Err(format!("{} bytes; the header alone has 16", bytes.len()));
    };
    let field = |k: usize| i32::from_le_bytes([header[4 * k], header[4 * k + 1], header[4 * k + 2], header[4 * k + 3]]);
    let (rows, columns, step, kind) = (field(0), field(1), field(2), field(3));
    let width = match kind {
        F32 => 4,
        F64 => 8,
        _ => return Err(format!("type {kind}; 5 (f32) and 6 (f64) are known")),
    };
    let dim = match (usize::try_from(rows), usize::try_from(columns)) {
        (Ok(dim @ 1..=MAX_DIM), Ok(1)) | (Ok(1), Ok(dim @ 1..=MAX_DIM)) => dim,
        _ => return Err(format!("{rows} x {columns} is no row or column of 1 to {MAX_DIM} numbers")),
    };
    if i64::from(step) != i64::from(columns) * width as i64 {
        return Err(format!(
            "step {step}; {columns} columns of {width} bytes are {}",
            i64::from(columns) * width as i64
        ));
    }
    if data.len() != dim * width {
        return Err(format!("{} bytes after the header; {dim} numbers of {width} are {}", data.len(), dim * width));
    }
    let number = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32,
        _ => f32::NAN,
    };
    let feature: Vec<f32> = data.chunks_exact(width).map(number).collect();
    match feature.iter().position(|value| !value.is_finite()) {
        Some(k) => Err(format!("number {k} is {}", feature[k])),
        None => Ok(feature),
    }
}

/// [dim] f32; errors as [`parse_feature`].
pub fn read_feature(path: &Path) -> Result<Vec<f32>> {
    parse_feature(&read(path)?).map_err(|why| Error::file(path, why))
}

/// The bytes of a [dim] f32 feature, as one column.
pub fn feature_bytes(feature: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + 4 * feature.len());
    bytes.extend([feature.len() as i32, 1, 4, F32].iter().flat_map(|field| field.to_le_bytes()));
    bytes.extend(feature.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// Writes a [dim] f32 feature, and its folders where they are missing. Errors: what [`parse_feature`] would refuse, and
/// what the file system does.
pub fn write_feature(path: &Path, feature: &[f32]) -> Result<()> {
    if !(1..=MAX_DIM).contains(&feature.len()) {
        return Err(Error::file(path, format!("a feature of {} numbers; 1 to {MAX_DIM} can be", feature.len())));
    }
    if let Some(k) = feature.iter().position(|value| !value.is_finite()) {
        return Err(Error::file(path, format!("number {k} of the feature is {}", feature[k])));
    }
    create_folders(path)?;
    atomic_file::write_bytes_unsynced(path, &feature_bytes(feature))
}

/// The feature file of a list's image: `<image name>_<algorithm>.bin`, in the image's folder.
pub fn feature_file_name(image: &str, algorithm: &str) -> String {
    format!("{image}_{algorithm}.bin")
}

/// The distractors: image files relative to the data set's folder, none twice.
#[derive(Debug, Deserialize)]
pub struct DistractorList {
    #[serde(rename = "path")]
    pub paths: Vec<String>,
}

impl DistractorList {
    /// JSON {"path": [...]}. Errors: not that, an empty list, a path that is empty, twice there, absolute or with '..'.
    pub fn parse(json: &[u8]) -> Parsed<DistractorList> {
        let mut list: DistractorList = object(json)?;
        check_paths(&mut list.paths)?;
        Ok(list)
    }

    /// Reads and parses a file. Errors: those of [`DistractorList::parse`]; the file's name states another size.
    pub fn read(path: &Path) -> Result<DistractorList> {
        let list = DistractorList::parse(&read(path)?).map_err(|why| Error::file(path, why))?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match size_and_set(name) {
            Some((size, _)) if size != list.paths.len() => {
                Err(Error::file(path, format!("{} paths; its name states {size}", list.paths.len())))
            }
            _ => Ok(list),
        }
    }
}

/// (size, set) of a list's name: `megaface_features_list.json_1000000_1` is (1000000, 1); None if it has none.
pub fn size_and_set(name: &str) -> Option<(usize, usize)> {
    let (_, numbers) = name.rsplit_once(".json_")?;
    let (size, set) = numbers.split_once('_')?;
    let digits = |number: &str| number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok()).flatten();
    Some((digits(size)?, digits(set)?))
}

/// The probes: image files as in [`DistractorList`], and the identity of each.
#[derive(Debug)]
pub struct ProbeList {
    pub paths: Vec<String>,
    pub ids: Vec<String>,
}

impl ProbeList {
    /// JSON {"path": [...], "id": [...]}; ids are strings or numbers. Errors as for distractors, and other lengths.
    pub fn parse(json: &[u8]) -> Parsed<ProbeList> {
        #[derive(Deserialize)]
        struct Raw {
            path: Vec<String>,
            id: Vec<Id>,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "an id that is a string or a number")]
        enum Id {
            Text(String),
            Number(serde_json::Number),
        }
        let mut raw: Raw = object(json)?;
        if raw.path.len() != raw.id.len() {
            return Err(format!("{} paths but {} ids", raw.path.len(), raw.id.len()));
        }
        check_paths(&mut raw.path)?;
        let text = |id| match id {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        };
        Ok(ProbeList { paths: raw.path, ids: raw.id.into_iter().map(text).collect() })
    }

    pub fn read(path: &Path) -> Result<ProbeList> {
        ProbeList::parse(&read(path)?).map_err(|why| Error::file(path, why))
    }
}

fn object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Parsed<T> {
    let json = json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json);
    // serde would take an array for the fields in order
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err("no JSON object".to_owned());
    }
    serde_json::from_slice(json).map_err(|why| why.to_string())
}

/// Drops the `./` that some begin with.
fn check_paths(paths: &mut [String]) -> Parsed<()> {
    if paths.is_empty() {
        return Err("an empty list".to_owned());
    }
    for path in paths.iter_mut() {
        while let Some(rest) = path.strip_prefix("./") {
            *path = rest.to_owned();
        }
    }
    let mut seen = HashSet::with_capacity(paths.len());
    for (k, path) in paths.iter().enumerate() {
        let normal = |component| matches!(component, Component::Normal(_));
        let why = if path.is_empty() {
            "is empty"
        } else if path.starts_with('/') {
            "is absolute"
        } else if !Path::new(path).components().all(normal) || path.contains('\0') {
            "is no plain path below the data set's folder"
        } else if !seen.insert(path) {
            "is there twice"
        } else {
            continue;
        };
        return Err(format!("path {k} {path:?} {why}"));
    }
    Ok(())
}

/// What the devkit's FuseResults reports. Serialises as {"cmc": [[0, 1, ...], [values]], "roc": [[far], [tar]]}.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cmc {
    /// Ranks, counted from 0, and the share of probes that find their mate at that rank or before.
    pub cmc: (Vec<u64>, Vec<f64>),
    /// False accept rates and the true accept rates there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roc: Option<(Vec<f64>, Vec<f64>)>,
}

impl Cmc {
    /// `values[k]` is the share at rank k + 1: the first is rank-1 identification.
    pub fn new(values: Vec<f64>, roc: Option<(Vec<f64>, Vec<f64>)>) -> Cmc {
        Cmc { cmc: ((0..values.len() as u64).collect(), values), roc }
    }

    /// Writes `directory`/`name`, and the folders where they are missing. Errors: lists of unequal length, a value that
    /// is not finite (JSON has none), and what the file system refuses.
    pub fn write(&self, directory: &Path, name: &str) -> Result<()> {
        let path = directory.join(name);
        let (far, tar) = self.roc.as_ref().map_or((&[][..], &[][..]), |(far, tar)| (far, tar));
        if self.cmc.0.len() != self.cmc.1.len() || far.len() != tar.len() {
            return Err(Error::file(&path, "curves with lists of unequal length"));
        }
        if let Some(value) = self.cmc.1.iter().chain(far).chain(tar).find(|value| !value.is_finite()) {
            return Err(Error::file(&path, format!("a value of {value}")));
        }
        create_folders(&path)?;
        atomic_file::write_bytes(&path, &serde_json::to_vec(self).map_err(|why| Error::file(&path, why))?)
    }
}

/// `cmc_<probe>_<distractor>_<algorithm>_<size>_<set>.json`, as `cmc_facescrub_megaface_amlfs_1000000_1.json`.
pub fn cmc_file_name(probe: &str, distractor: &str, algorithm: &str, size: usize, set: usize) -> String {
    format!("cmc_{probe}_{distractor}_{algorithm}_{size}_{set}.json")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))
}

fn create_folders(of: &Path) -> Result<()> {
    let folders = of.parent().map_or(Ok(()), std::fs::create_dir_all);
    folders.map_err(|why| Error::file(of, format!("can't be written: {why}")))
}

#[cfg(test)]
mod tests;
