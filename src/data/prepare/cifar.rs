//! CIFAR-10 and CIFAR-100 as packed files like those of one's own images: raw pixels, the subsets as they are given out.

use std::borrow::Cow;
use std::path::Path;

use super::source::{ImageRead, Source, absolute, file_stamp};
use crate::data::Images;
use crate::data::packed::Subset;
use crate::data::sources::{Cifar, NamedCifar};
use crate::error::Result;

pub struct CifarFiles {
    set: NamedCifar,
    origin: String,
    /// Of all files: they are small enough to be done again together.
    stamp: u32,
}

impl CifarFiles {
    /// Height and width of the images.
    pub const SIZE: (usize, usize) = (32, 32);

    /// Either version, unpacked or as .tar.gz. `None`: neither of the two data sets. Errors: those of `Cifar::named`.
    pub fn open(path: &Path) -> Result<Option<CifarFiles>> {
        let Some(set) = Cifar::named(path)? else { return Ok(None) };
        let stamps: Vec<String> = set.files.iter().map(|file| file_stamp(file)).collect();
        let stamp = crc32fast::hash(stamps.join("\n").as_bytes());
        Ok(Some(CifarFiles { set, origin: absolute(path), stamp }))
    }

    /// The subset of an image, its name and its number there.
    fn place(&self, index: usize) -> (&Cifar, Subset, usize) {
        match index.checked_sub(self.set.training.count()) {
            None => (&self.set.training, Subset::Train, index),
            Some(number) => (&self.set.test, Subset::Test, number),
        }
    }
}

impl Source for CifarFiles {
    fn count(&self) -> usize {
        self.set.training.count() + self.set.test.count()
    }

    /// Both versions have the images in the same order, but only one has names for them.
    fn name(&self, index: usize) -> String {
        let (_, subset, number) = self.place(index);
        format!("{}/{number:05}", if subset == Subset::Test { "test" } else { "train" })
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        let (images, _, number) = self.place(index);
        let header = b"P6 32 32 255\n";
        let mut bytes = vec![0; header.len() + 3 * CifarFiles::SIZE.0 * CifarFiles::SIZE.1];
        bytes[..header.len()].copy_from_slice(header);
        images.read(number, &mut bytes[header.len()..])?;
        Ok(ImageRead { identity: Some(images.label(number)), bytes: Ok(Cow::Owned(bytes)) })
    }

    fn origin(&self) -> String {
        self.origin.clone()
    }

    fn stamp(&self, index: usize) -> String {
        let (images, _, number) = self.place(index);
        format!("{:08x} {}", self.stamp, images.label(number))
    }

    fn identity(&self, number: u32) -> String {
        self.set.classes[number as usize].clone()
    }

    fn identities(&self) -> &'static str {
        "classes"
    }

    fn has_identity(&self, name: &str) -> bool {
        self.set.classes.iter().any(|known| known == name)
    }

    fn subset(&self, index: usize) -> Option<Subset> {
        Some(self.place(index).1)
    }
}
