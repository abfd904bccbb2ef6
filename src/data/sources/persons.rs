//! A packed re-identification benchmark: people to train on, queries, gallery.

use std::path::Path;
use std::sync::Arc;

use crate::data::{CamerasAndSplits, Images, Packed, Split};
use crate::error::{Error, Result};

/// Numbers of the images of each split, who they show and which camera took them.
pub struct Persons {
    pub packed: Arc<Packed>,
    pub train: Vec<u32>,
    pub query: Vec<u32>,
    pub gallery: Vec<u32>,
    /// Number of the person on each image of `packed`, by the file's name. 0, if only in the gallery: a distractor, the
    /// match of no query.
    pub ids: Vec<i64>,
    /// Number of the camera that took each image of `packed`.
    pub cameras: Vec<i64>,
}

impl Persons {
    /// Opens what `amlfs prepare reid` has written. Labels of the images number all people, with distractors and those
    /// of all splits, in the order of their ids.
    ///
    /// Errors (with the path): `Packed::open`'s; no cameras and splits; a split without images; people without a
    /// number.
    pub fn open(path: &Path) -> Result<Persons> {
        Packed::refuse_directory(path, "reid")?;
        let packed = Packed::open(path)?;
        let other = |why: String| Error::file(path, format!("not written by amlfs prepare reid: {why}"));
        let Some(CamerasAndSplits { cameras, splits }) = packed.cameras_and_splits() else {
            return Err(other("it has no cameras and splits".into()));
        };
        let number = |name: &String| name.parse::<u32>().map_err(|_| other(format!("{name:?} is no person's number")));
        let numbers = packed.identities().iter().map(number).collect::<Result<Vec<u32>>>()?;
        let ids: Vec<i64> = (0..packed.count()).map(|index| numbers[packed.label(index) as usize].into()).collect();
        let part = |wanted, name| {
            let images: Vec<u32> = (0..).zip(splits).filter(|&(_, split)| *split == wanted).map(|(i, _)| i).collect();
            if images.is_empty() {
                return Err(other(format!("its {name} is empty")));
            }
            Ok(images)
        };
        let (train, query) = (part(Split::Train, "training set")?, part(Split::Query, "query set")?);
        let gallery = part(Split::Gallery, "gallery")?;
        let cameras = cameras.iter().map(|&camera| camera.into()).collect();
        Ok(Persons { train, query, gallery, ids, cameras, packed: Arc::new(packed) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;
    use crate::data::Store;
    use crate::data::packed::{Content, write};

    /// Images of one byte: (person, camera, split).
    fn open(images: &[(&str, u32, Split)], with_cameras: bool) -> Result<Persons> {
        let directory = tempfile::tempdir().unwrap();
        let mut identities: Vec<String> = images.iter().map(|(person, ..)| person.to_string()).collect();
        identities.sort();
        identities.dedup();
        let label = |person: &str| identities.iter().position(|name| name == person).unwrap() as u32;
        let cameras_and_splits = CamerasAndSplits {
            cameras: images.iter().map(|image| image.1).collect(),
            splits: images.iter().map(|image| image.2).collect(),
        };
        let content = Content {
            size: (0, 0),
            store: Store::Files,
            source: "made up".into(),
            input: String::new(),
            date: "2026-01-02T03:04:05Z".into(),
            lengths: vec![1; images.len()],
            crc32: vec![crc32fast::hash(&[7]); images.len()],
            labels: images.iter().map(|(person, ..)| label(person)).collect(),
            identities,
            cameras_and_splits: with_cameras.then_some(cameras_and_splits),
            subsets: None,
        };
        let (bytes, path) = (directory.path().join("bytes"), directory.path().join("persons.h5"));
        fs::write(&bytes, vec![7; images.len()]).unwrap();
        let (bytes, whole) = (File::open(&bytes).unwrap(), 0..images.len() as u64);
        write(&path, &content, &|index| index.to_string(), &bytes, std::slice::from_ref(&whole), &|| Ok(())).unwrap();
        Persons::open(&path)
    }

    const GOOD: [(&str, u32, Split); 6] = [
        ("0002", 1, Split::Train),
        ("0001", 1, Split::Query),
        ("0000", 3, Split::Gallery),
        ("0001", 2, Split::Gallery),
        ("0007", 6, Split::Train),
        ("0001", 5, Split::Query),
    ];

    #[test]
    fn people_cameras_and_splits_are_read() {
        let persons = open(&GOOD, true).unwrap();
        assert_eq!(persons.train, [0, 4]);
        assert_eq!(persons.query, [1, 5]);
        assert_eq!(persons.gallery, [2, 3]);
        assert_eq!(persons.ids, [2, 1, 0, 1, 7, 1]);
        assert_eq!(persons.cameras, [1, 1, 3, 2, 6, 5]);
        assert_eq!((0..6).map(|index| persons.packed.label(index)).collect::<Vec<_>>(), [2, 1, 0, 1, 3, 1]);
    }

    #[test]
    fn a_tree_that_is_not_packed_yet_comes_with_the_command() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().display();
        let error = Persons::open(&directory.path().join("")).err().unwrap().to_string();
        assert!(error.ends_with(&format!("pack it first: amlfs prepare reid {tree} --out reid.h5")), "{error}");
        let error = Packed::open(directory.path()).err().unwrap().to_string();
        assert!(error.ends_with(&format!("pack it first: amlfs prepare faces {tree} --out faces.h5")), "{error}");
    }

    #[test]
    fn other_packed_files_are_refused() {
        let error = |images: &[_], with_cameras| open(images, with_cameras).err().unwrap().to_string();
        let text = error(&GOOD, false);
        assert!(
            text.ends_with("persons.h5: not written by amlfs prepare reid: it has no cameras and splits"),
            "{text}"
        );
        let mut images = GOOD;
        images[3].0 = "anna";
        assert!(error(&images, true).ends_with("\"anna\" is no person's number"));
        images[3].0 = "-1";
        assert!(error(&images, true).ends_with("\"-1\" is no person's number"));
        assert!(error(&GOOD[1..4], true).ends_with("its training set is empty"));
        assert!(error(&[GOOD[0], GOOD[2]], true).ends_with("its query set is empty"));
        assert!(error(&GOOD[..2], true).ends_with("its gallery is empty"));
    }
}
