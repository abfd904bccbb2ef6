//! Pairs of faces to verify in insightface's `lfw.bin`, a pickle with the encoded images; also `cfp_fp.bin`, `agedb_30.bin`.

use std::fmt;
use std::path::Path;

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

/// `lfw.bin`: the pickle of (list of 2P byte strings, or of their bytes as latin1 text, list of P bools or 0/1), protocols 0 to 5, by
/// Python 2 or 3
/// [insightface arcface_torch/eval/verification.py]. Errors: a file that is missing or not such a pickle, one that
/// needs code to load (numpy), another number of images than 2P, no pairs.
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
    Ok(Pairs { images, same })
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

            /// What Python 3 has of a `str` of Python 2 that it read as latin1.
            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Image, E> {
                let bytes = text.chars().map(u8::try_from).collect::<std::result::Result<Vec<u8>, _>>();
                let unexpected = || E::invalid_value(serde::de::Unexpected::Other("a text that is not latin1"), &self);
                bytes.map(Image).map_err(|_| unexpected())
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

#[cfg(test)]
mod tests;
