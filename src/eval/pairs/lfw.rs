//! Pairs of faces to verify, in the two forms they come in: insightface's `lfw.bin` (a pickle with the encoded images;
//! also `cfp_fp.bin`, `agedb_30.bin`) and the original `pairs.txt` beside a folder of images.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

use super::pickle_check::checked;
use crate::error::{Error, Result};

type Parsed<T> = std::result::Result<T, String>;

/// P pairs: images 2i and 2i + 1 (encoded) are pair i, of one person if `same[i]`.
#[derive(Debug, PartialEq)]
pub struct Pairs {
    pub images: Vec<Vec<u8>>,
    pub same: Vec<bool>,
}

/// `lfw.bin`: the pickle of (list of 2P byte strings, list of P bools or 0/1), protocols 0 to 5, by Python 2 or 3
/// [insightface arcface_torch/eval/verification.py]. Errors: a file that is missing or not such a pickle, one that
/// needs code to load (numpy), another number of images than 2P, no pairs, an empty image.
pub fn read_bin(path: &Path) -> Result<Pairs> {
    let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    parse_bin(&bytes).map_err(|why| Error::file(path, why))
}

/// What [`read_bin`] returns, from the file's bytes.
pub fn parse_bin(bytes: &[u8]) -> Parsed<Pairs> {
    let pickle = checked(bytes).map_err(|why| format!("not a pickle of (images, flags): {why}"))?;
    let lists: Lists = serde_pickle::from_slice(&pickle, Default::default()).map_err(|why| {
        // the library puts whole values into its messages
        format!("not a pickle of (images, flags): {}", why.to_string().chars().take(200).collect::<String>())
    })?;
    let images: Vec<Vec<u8>> = lists.images.into_iter().map(|Image(bytes)| bytes).collect();
    let same: Vec<bool> = lists.same.into_iter().map(|Same(same)| same).collect();
    if same.is_empty() || images.len() != 2 * same.len() {
        return Err(format!("{} images for {} pairs; each pair has two", images.len(), same.len()));
    }
    match images.iter().position(Vec::is_empty) {
        Some(i) => Err(format!("image {i} is empty")),
        None => Ok(Pairs { images, same }),
    }
}

struct Lists {
    images: Vec<Image>,
    same: Vec<Same>,
}

struct Image(Vec<u8>);

struct Same(bool);

impl<'de> Deserialize<'de> for Lists {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Lists, D::Error> {
        struct Two;
        impl<'de> Visitor<'de> for Two {
            type Value = Lists;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("two lists: images and flags")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Lists, A::Error> {
                match items.size_hint() {
                    Some(2) => {}
                    other => return Err(A::Error::invalid_length(other.unwrap_or(0), &self)),
                }
                let missing = || A::Error::invalid_length(1, &Two);
                let images = items.next_element()?.ok_or_else(missing)?;
                Ok(Lists { images, same: items.next_element()?.ok_or_else(missing)? })
            }
        }
        deserializer.deserialize_seq(Two)
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Image, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Image;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the bytes of an image")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> std::result::Result<Image, E> {
                Ok(Image(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

impl<'de> Deserialize<'de> for Same {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Same, D::Error> {
        struct Flag;
        impl Visitor<'_> for Flag {
            type Value = Same;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("True, False, 1 or 0")
            }

            fn visit_bool<E>(self, same: bool) -> std::result::Result<Same, E> {
                Ok(Same(same))
            }

            fn visit_i64<E: serde::de::Error>(self, same: i64) -> std::result::Result<Same, E> {
                match same {
                    0 | 1 => Ok(Same(same == 1)),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Signed(same), &self)),
                }
            }
        }
        deserializer.deserialize_bool(Flag)
    }
}

/// The pairs of `pairs.txt` over a folder of images.
#[derive(Debug, PartialEq)]
pub struct PairList {
    /// Each file once, in the order of first use.
    pub images: Vec<PathBuf>,
    /// Numbers of the two images.
    pub pairs: Vec<(usize, usize)>,
    pub same: Vec<bool>,
    /// 10 in the LFW's pairs.txt, whose pairs come fold by fold; 0 if the list has none.
    pub folds: usize,
}

/// `pairs`: a first line of folds and n (or of n alone: no folds), then n + n lines per fold, `name i j` for two images
/// of one person and `name1 i name2 j` for two persons. Image i of a person is `images`/name/name_%04d.jpg or .png.
/// Errors name the line: malformed, another number of pairs than stated, an image that is not there.
pub fn read_pairs(pairs: &Path, images: &Path) -> Result<PairList> {
    let bytes = std::fs::read(pairs).map_err(|why| Error::file(pairs, format!("can't be read: {why}")))?;
    let (folds, entries) = parse_pairs(&bytes).map_err(|why| Error::file(pairs, why))?;
    let mut list = PairList { images: Vec::new(), pairs: Vec::new(), same: Vec::new(), folds };
    let mut numbers: HashMap<(&str, u32), usize> = HashMap::new();
    let mut find = |name, number, line| match numbers.entry((name, number)) {
        Entry::Occupied(known) => Ok(*known.get()),
        Entry::Vacant(vacant) => {
            let folder = images.join(name);
            let path = |extension| folder.join(format!("{name}_{number:04}.{extension}"));
            let Some(path) = [path("jpg"), path("png")].into_iter().find(|path| path.is_file()) else {
                let why = format!("line {line}: no file {} (or .png)", path("jpg").display());
                return Err(Error::file(pairs, why));
            };
            list.images.push(path);
            Ok(*vacant.insert(list.images.len() - 1))
        }
    };
    for (k, entry) in entries.iter().enumerate() {
        let [first, second] = entry.images;
        list.pairs.push((find(first.0, first.1, k + 2)?, find(second.0, second.1, k + 2)?));
        list.same.push(entry.same());
    }
    Ok(list)
}

/// A line of pairs.txt.
#[derive(Debug, PartialEq)]
pub struct PairEntry<'a> {
    /// (person, number of the image)
    pub images: [(&'a str, u32); 2],
}

impl PairEntry<'_> {
    pub fn same(&self) -> bool {
        self.images[0].0 == self.images[1].0
    }
}

/// (folds, pairs) of a pairs.txt's text; see [`read_pairs`].
pub fn parse_pairs(bytes: &[u8]) -> Parsed<(usize, Vec<PairEntry<'_>>)> {
    let text = std::str::from_utf8(bytes).map_err(|why| format!("not text: {why}"))?;
    let mut lines = text.trim_end().lines();
    let head: Option<Vec<usize>> = lines.next().unwrap_or("").split_whitespace().map(|n| n.parse().ok()).collect();
    let (folds, half) = match head.as_deref() {
        Some(&[half]) if half > 0 => (0, half),
        Some(&[folds, half]) if folds > 0 && half > 0 => (folds, half),
        _ => return Err("line 1: neither folds and pairs per fold nor a number of pairs".to_owned()),
    };
    let mut entries = Vec::new();
    for (k, line) in lines.enumerate() {
        entries.push(entry(line).map_err(|why| format!("line {}: {why}", k + 2))?);
    }
    let stated = folds.max(1).checked_mul(half).and_then(|half| half.checked_mul(2));
    let same = entries.iter().filter(|entry| entry.same()).count();
    if stated != Some(entries.len()) || same != entries.len() / 2 {
        let different = entries.len() - same;
        let folds = folds.max(1);
        return Err(format!(
            "{same} pairs of one person and {different} of two; line 1 states {folds} x {half} of each"
        ));
    }
    Ok((folds, entries))
}

fn entry(line: &str) -> Parsed<PairEntry<'_>> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (names, numbers) = match columns[..] {
        [name, i, j] => ([name, name], [i, j]),
        [first, i, second, j] => ([first, second], [i, j]),
        _ => return Err("neither 'name i j' nor 'name1 i name2 j'".to_owned()),
    };
    let image = |k: usize| match numbers[k].parse() {
        _ if names[k].contains(['/', '\\', '\0']) || names[k].starts_with('.') => {
            Err(format!("{:?} is no person's name", names[k]))
        }
        Ok(number) if number > 0 => Ok((names[k], number)),
        _ => Err(format!("{:?} is no image number", numbers[k])),
    };
    let images = [image(0)?, image(1)?];
    match (columns.len(), names[0] == names[1]) {
        (4, true) => Err(format!("{:?} twice where two persons are due", names[0])),
        _ if images[0] == images[1] => Err("an image and itself".to_owned()),
        _ => Ok(PairEntry { images }),
    }
}

#[cfg(test)]
mod tests;
