//! An insightface folder in MXNet RecordIO: `train.rec` (records), `train.idx` (lines of key TAB byte offset),
//! mostly `property` ("classes,height,width") and in some folders `train.lst` (one row per image, with its path).
//!
//! A record is one or more parts: u32 magic, u32 with the part's kind in the upper 3 bits and its length in the lower
//! 29, that many bytes, zeros up to a multiple of 4. A writer splits a record where its bytes hold the magic on a
//! multiple of 4, so joining puts the magic back (dmlc-core recordio). Its bytes are flag u32, label f32, id u64, id2
//! u64, then if flag > 0 as many f32 labels, then the encoded image (mxnet/recordio.py). All little-endian.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::mapped_file::MappedFile;

const MAGIC: [u8; 4] = 0xCED7_230A_u32.to_le_bytes();
const HEADER: usize = 24;
/// Labels and counts are f32, where only whole numbers up to here are exact. Labels beyond are not told apart, so there are
/// none; of counts see `count`.
const EXACT: usize = 1 << 24;

const MOST_RECORDS: f32 = (1_u32 << 31) as f32;
const KEYS_FROM_1: &str = "its keys start at 1, and key 0, which insightface's readers ask for, is missing: count from 0 \
    with awk '{print $1 - 1 \"\\t\" $2}' train.idx > 0.idx && mv 0.idx train.idx";

type Parsed<T> = std::result::Result<T, String>;
/// Like [`Parsed`], with the name of the file that is at fault.
type ParsedFiles<T> = std::result::Result<T, (&'static str, String)>;

/// The folder, mapped into memory: one page cache for all ranks of a node.
pub struct RecordIo {
    directory: PathBuf,
    records: MappedFile,
    layout: RecordLayout,
}

impl RecordIo {
    /// `directory` holds train.rec, train.idx and, if labels are to be checked, property. Reads the index and record 0,
    /// not the images. Errors: a file that is missing or malformed, a key twice, an offset outside train.rec, keys that don't fit record 0.
    pub fn open(directory: &Path) -> Result<RecordIo> {
        let path = directory.join("train.rec");
        let file = File::open(&path).map_err(|why| Error::file(&path, format!("can't be opened: {why}")))?;
        let records =
            MappedFile::all(&path, &file).map_err(|why| Error::file(&path, format!("can't be mapped: {why}")))?;
        let property = match directory.join("property").exists() {
            true => Some(read(directory, "property")?),
            false => None,
        };
        let layout = RecordLayout::parse(&records, &read(directory, "train.idx")?, property.as_deref())
            .map_err(|(file, why)| Error::file(&directory.join(file), why))?;
        Ok(RecordIo { directory: directory.to_owned(), records, layout })
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.layout.images.len()
    }

    /// Key of image `index`.
    pub fn key(&self, index: usize) -> u64 {
        self.layout.images[index].key
    }

    /// Number of identities that `property` states; every label is below it. `None`: there is no property.
    pub fn classes(&self) -> Option<usize> {
        self.layout.classes
    }

    /// label -> identity name, from train.lst; None if there is none. Reads the label of every image, so it takes as
    /// long as reading train.rec once. Records that are no images are passed over. Errors: rows that are not one per image, have no path, or give a label two
    /// names.
    pub fn identity_names(&self) -> Result<Option<BTreeMap<u32, String>>> {
        let path = self.directory.join("train.lst");
        if !path.try_exists().map_err(|why| Error::file(&path, why))? {
            return Ok(None);
        }
        let names = self.layout.names(&self.records, &read(&self.directory, "train.lst")?);
        names.map(Some).map_err(|(file, why)| Error::file(&self.directory.join(file), why))
    }

    /// Image `index`, 0 to count - 1: (label, encoded bytes). Errors name the record's offset.
    pub fn image(&self, index: usize) -> Parsed<(u32, Cow<'_, [u8]>)> {
        self.layout.image(&self.records, index)
    }
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path = directory.join(name);
    std::fs::read(&path).map_err(|why| Error::file(&path, format!("can't be read: {why}")))
}

/// Where the images are: everything about a folder but its bytes.
#[derive(Debug)]
pub struct RecordLayout {
    classes: Option<usize>,
    images: Vec<Entry>,
}

/// A line of the index. The offset lies inside train.rec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    key: u64,
    offset: usize,
}

impl RecordLayout {
    /// Finds the images in the bytes of train.rec, train.idx and property. If record 0 has flag 2, it is a header with
    /// labels (N0, N1): images are the keys 1 to N0 - 1, and identity records (not needed here) N0 to N1 - 1. With flag 0
    /// every key is an image, in the index's order [insightface arcface_torch/dataset.py].
    pub fn parse(records: &[u8], index: &[u8], property: Option<&[u8]>) -> ParsedFiles<RecordLayout> {
        let classes = property.map(parse_property).transpose().map_err(|why| ("property", why))?;
        let images = parse_index(index, records.len()).map_err(|why| ("train.idx", why))?;
        let mut sorted = images.clone();
        sorted.sort_unstable();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].key == pair[1].key) {
            return Err(("train.idx", format!("key {} is there twice", pair[0].key)));
        }
        let zero = match sorted.first() {
            Some(&zero) if zero.key == 0 => zero,
            Some(Entry { key: 1, .. }) => return Err(("train.idx", KEYS_FROM_1.to_owned())),
            _ => return Err(("train.idx", "key 0, the header record, is missing".to_owned())),
        };
        let wrong = |why: String| ("train.rec", format!("record 0 at offset {}: {why}", zero.offset));
        let fields = record(records, zero.offset).and_then(|bytes| Fields::parse(&bytes)).map_err(wrong)?;
        match fields.flag {
            0 => Ok(RecordLayout { classes, images }),
            2 => {
                let last_key = sorted[sorted.len() - 1].key;
                let is_image = |key: usize| has_image(records, sorted[key].offset);
                let end = end_of_images(fields.labels, sorted.len(), last_key, is_image);
                let end = end.map_err(|(file, why)| if file == "train.rec" { wrong(why) } else { (file, why) })?;
                Ok(RecordLayout { classes, images: sorted[1..end].to_vec() })
            }
            flag => Err(wrong(format!("flag {flag}; a header has 2, an image of a flat file 0"))),
        }
    }

    pub fn count(&self) -> usize {
        self.images.len()
    }

    pub fn classes(&self) -> Option<usize> {
        self.classes
    }

    /// What [`RecordIo::image`] returns, found in `rec`: the bytes that this layout was made from.
    pub fn image<'a>(&self, records: &'a [u8], index: usize) -> Parsed<(u32, Cow<'a, [u8]>)> {
        let Some(&Entry { offset, .. }) = self.images.get(index) else {
            return Err(format!("image {index} of {}", self.images.len()));
        };
        let image = || {
            let bytes = record(records, offset)?;
            let fields = Fields::parse(&bytes)?;
            let label = fields.labels[0];
            let label = match (whole(label), self.classes) {
                (Some(label), None) if label < EXACT => label,
                (Some(label), Some(classes)) if label < classes => label,
                (_, None) => return Err(format!("label {label} is no number of an identity")),
                (_, Some(classes)) => {
                    return Err(format!("label {label} is none of the {classes} classes that property states"));
                }
            };
            let image = match bytes {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[fields.length..]),
                Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(fields.length)),
            };
            if image.is_empty() { Err("no image in it".to_owned()) } else { Ok((label as u32, image)) }
        };
        image().map_err(|why: String| format!("at offset {offset}: {why}"))
    }

    /// label -> name: the folder that holds the image in the row's path, which is the one column that is not a number;
    /// row k belongs to image k.
    pub fn names(&self, records: &[u8], list: &[u8]) -> ParsedFiles<BTreeMap<u32, String>> {
        let wrong = |why: String| ("train.lst", why);
        let rows: Vec<&str> = text(list).map_err(wrong)?.lines().collect();
        if rows.len() != self.images.len() {
            return Err(wrong(format!("{} rows for {} images", rows.len(), self.images.len())));
        }
        let mut names = BTreeMap::new();
        for (k, row) in rows.iter().enumerate() {
            let name = name(row).map_err(|why| wrong(format!("line {}: {why}", k + 1)))?;
            // one without a label will be skipped, and counted then
            let Ok((label, _)) = self.image(records, k) else { continue };
            let known = names.entry(label).or_insert_with(|| name.to_owned());
            if known != name {
                return Err(wrong(format!("line {}: label {label} is {known:?} and {name:?}", k + 1)));
            }
        }
        Ok(names)
    }
}

fn name(row: &str) -> Parsed<&str> {
    let mut paths = row.split('\t').filter(|column| column.trim().parse::<f64>().is_err());
    let (Some(path), None) = (paths.next(), paths.next()) else {
        return Err("not one column that is a path".to_owned());
    };
    match path.rsplit('/').nth(1) {
        Some(name) if !name.is_empty() => Ok(name),
        _ => Err(format!("{path:?} has no folder that names the identity")),
    }
}

/// The bytes of the record at `offset`: borrowed if it is in one part.
fn record(records: &[u8], offset: usize) -> Parsed<Cow<'_, [u8]>> {
    let (kind, first, mut next) = part(records, offset)?;
    match kind {
        0 => return Ok(Cow::Borrowed(first)),
        1 => {}
        2 | 3 => return Err(format!("starts with a continuation (part kind {kind})")),
        _ => return Err(format!("part kind {kind}; there are 0 to 3")),
    }
    let mut joined = first.to_vec();
    loop {
        let (kind, bytes, end) = part(records, next).map_err(|why| format!("part at offset {next}: {why}"))?;
        if kind != 2 && kind != 3 {
            return Err(format!("part at offset {next}: kind {kind} where a continuation (2 or 3) is due"));
        }
        joined.extend(MAGIC);
        joined.extend(bytes);
        if kind == 3 {
            return Ok(Cow::Owned(joined));
        }
        next = end;
    }
}

/// (kind, bytes, offset of the next part)
fn part(records: &[u8], offset: usize) -> Parsed<(u32, &[u8], usize)> {
    let rest = records.get(offset..).unwrap_or_default();
    let Some((magic, length)) = rest.first_chunk::<8>().map(|head| (&head[..4], u32_at(head, 4))) else {
        return Err(format!("truncated: {} bytes left for the 8 of its frame", rest.len()));
    };
    if magic != MAGIC {
        return Err(format!("no RecordIO magic number but {:#010x}", u32_at(magic, 0)));
    }
    let (kind, length) = (length >> 29, (length & 0x1fff_ffff) as usize);
    match rest[8..].get(..length) {
        Some(bytes) => Ok((kind, bytes, offset + 8 + length.next_multiple_of(4))),
        None => Err(format!("truncated: {} of {length} bytes are there", rest.len() - 8)),
    }
}

/// What comes before the image.
struct Fields {
    flag: u32,
    /// The first two; NaN where there are fewer.
    labels: [f32; 2],
    length: usize,
}

impl Fields {
    fn parse(bytes: &[u8]) -> Parsed<Fields> {
        if bytes.len() < HEADER {
            return Err(format!("{} bytes are too few for the {HEADER} of its header", bytes.len()));
        }
        let flag = u32_at(bytes, 0);
        let float = |at| f32::from_bits(u32_at(bytes, at));
        let length = HEADER as u64 + 4 * flag as u64;
        if length > bytes.len() as u64 {
            return Err(format!("{flag} labels don't fit its {} bytes", bytes.len()));
        }
        let labels = match flag {
            0 => [float(4), f32::NAN],
            1 => [float(HEADER), f32::NAN],
            _ => [float(HEADER), float(HEADER + 4)],
        };
        Ok(Fields { flag, labels, length: length as usize })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The key behind the last image's, by a header's labels (N0, N1) and an index of so many keys.
fn end_of_images(
    [n0, n1]: [f32; 2],
    keys: usize,
    last_key: u64,
    is_image: impl Fn(usize) -> bool,
) -> ParsedFiles<usize> {
    let (images, all) = match (count(n0), count(n1)) {
        (Some(images), Some(all)) if 2.0 <= n0 && n0 <= n1 => (images, all),
        _ => return Err(("train.rec", format!("header labels ({n0}, {n1}) are no counts of records"))),
    };
    if !all.contains(&keys) || last_key != keys as u64 - 1 {
        let last = n1 as usize - 1;
        return Err(("train.idx", format!("{keys} keys don't fit train.rec, whose header asks for 0 to {last}")));
    }
    // where f32 can't hold the number, the first record without an image tells it
    let most = (*images.end()).min(keys);
    Ok((*images.start()..most).find(|&key| !is_image(key)).unwrap_or(most))
}

/// Whether the record is one of an image: not of an identity, which has no bytes behind its labels, and not damaged.
fn has_image(records: &[u8], offset: usize) -> bool {
    let image = |bytes: Cow<[u8]>| Fields::parse(&bytes).is_ok_and(|fields| fields.length < bytes.len());
    record(records, offset).is_ok_and(image)
}

/// The numbers of records that become this f32: one up to 2^24, more beyond.
fn count(value: f32) -> Option<RangeInclusive<usize>> {
    if !(value >= 0.0 && value.fract() == 0.0 && value < MOST_RECORDS) {
        return None;
    }
    let half = ((value.next_up() - value) / 2.0) as usize;
    Some(value as usize - half..=value as usize + half)
}

fn whole(value: f32) -> Option<usize> {
    (value >= 0.0 && value <= EXACT as f32 && value.fract() == 0.0).then_some(value as usize)
}

fn text(bytes: &[u8]) -> Parsed<&str> {
    std::str::from_utf8(bytes).map_err(|why| format!("not text: {why}"))
}

fn parse_property(bytes: &[u8]) -> Parsed<usize> {
    let line = text(bytes)?.trim();
    let numbers: Option<Vec<usize>> = line.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[classes, height, width]) if (1..=EXACT).contains(&classes) && height > 0 && width > 0 => Ok(classes),
        _ => Err(format!("{:?} is not \"classes,height,width\"", line.chars().take(60).collect::<String>())),
    }
}

fn parse_index(bytes: &[u8], length: usize) -> Parsed<Vec<Entry>> {
    let mut entries = Vec::new();
    for (number, line) in text(bytes)?.lines().enumerate() {
        let wrong = |why: String| format!("line {}: {why}", number + 1);
        let columns = line.split_once('\t').and_then(|(key, offset)| Some((key.parse().ok()?, offset.parse().ok()?)));
        let Some((key, offset)): Option<(u64, i64)> = columns else {
            let line: String = line.chars().take(60).collect();
            return Err(wrong(format!("{line:?} is not key TAB offset")));
        };
        match usize::try_from(offset) {
            Ok(offset) if offset < length => entries.push(Entry { key, offset }),
            Ok(_) => return Err(wrong(format!("offset {offset} lies beyond the {length} bytes of train.rec"))),
            Err(_) => return Err(wrong(format!("offset {offset} is negative"))),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
