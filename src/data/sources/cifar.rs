//! CIFAR-10 and CIFAR-100: 32 x 32 pixels as three planes, red, green, blue; the binary version has them in records with
//! their labels, the Python version in pickles.

mod files;
mod pickled;

use std::path::{Path, PathBuf};

use crate::data::Images;
use crate::error::{Error, Result};
use files::{Bytes, CIFAR10, CIFAR100, Set};
use pickled::Pickled;

const PLANE: usize = 32 * 32;
const PIXELS: usize = 3 * PLANE;

/// Images of one of the two data sets.
pub struct Cifar {
    batches: Vec<Batch>,
    /// Number of the first image of each batch, and the total.
    starts: Vec<usize>,
}

/// One of the two data sets with all that is known of it.
pub struct NamedCifar {
    pub training: Cifar,
    pub test: Cifar,
    /// Names of the classes by label.
    pub classes: Vec<String>,
    /// The files, or the archive, that the images are in.
    pub files: Vec<PathBuf>,
}

struct Batch {
    bytes: Bytes,
    labels: Vec<u8>,
    /// Where the first image's pixels begin, and how far from there the next one's do.
    first: usize,
    stride: usize,
}

impl Cifar {
    /// (training, test) of CIFAR-10 or CIFAR-100 (fine labels), by their numbers of classes. `path` is the directory of
    /// the batches in their binary or Python version, the directory above it, or the .tar.gz of either, which every rank
    /// then keeps in memory.
    ///
    /// Errors: a file that is missing, of another form, or holds a label that is no class.
    pub fn open(path: &Path, classes: usize) -> Result<(Cifar, Cifar)> {
        let set = set(classes);
        let files = files::open(path, set)?;
        Ok((Cifar::new(files.training, files.pickled, set)?, Cifar::new(vec![files.test], files.pickled, set)?))
    }

    /// Names of the classes of CIFAR-10 or CIFAR-100, by label.
    pub fn names(classes: usize) -> Vec<String> {
        set(classes).names.split_whitespace().map(String::from).collect()
    }

    /// Whichever of the two is at `path` (CIFAR-100 with its fine labels), with the names of its classes. `None`: neither.
    ///
    /// Errors: those of `open`; both are there.
    pub fn named(path: &Path) -> Result<Option<NamedCifar>> {
        let Some(set) = files::which(path)? else { return Ok(None) };
        let files = files::open(path, set)?;
        let paths = match path.is_dir() {
            true => files.training.iter().chain([&files.test]).map(|(path, _)| path.clone()).collect(),
            false => vec![path.to_owned()],
        };
        let pickled = files.pickled;
        Ok(Some(NamedCifar {
            training: Cifar::new(files.training, pickled, set)?,
            test: Cifar::new(vec![files.test], pickled, set)?,
            classes: Cifar::names(set.classes),
            files: paths,
        }))
    }

    fn new(files: Vec<(PathBuf, Bytes)>, pickled: bool, set: &Set) -> Result<Cifar> {
        let mut images = Cifar { batches: Vec::new(), starts: vec![0] };
        for (path, bytes) in files {
            let batch = if pickled { Batch::pickled(bytes, set) } else { Batch::binary(bytes, set) };
            let batch = batch.map_err(|why| Error::file(&path, why))?;
            if let Some(number) = batch.labels.iter().position(|&label| label as usize >= set.classes) {
                let (label, most) = (batch.labels[number], set.classes - 1);
                return Err(Error::file(
                    &path,
                    format!("record {number} has label {label}; {}'s are 0 to {most}", set.name),
                ));
            }
            images.starts.push(images.count() + batch.labels.len());
            images.batches.push(batch);
        }
        Ok(images)
    }

    /// The batch of an image, and its number there.
    fn place(&self, index: usize) -> (&Batch, usize) {
        let batch = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.batches[batch], index - self.starts[batch])
    }
}

impl Batch {
    fn binary(bytes: Bytes, set: &Set) -> std::result::Result<Batch, String> {
        let stride = files::record(set);
        if bytes.is_empty() || !bytes.len().is_multiple_of(stride) {
            let length = bytes.len();
            return Err(format!(
                "{length} bytes are no whole number of {stride}-byte {} records; the file is truncated or not {0}",
                set.name
            ));
        }
        let labels = bytes.chunks_exact(stride).map(|record| record[set.labels - 1]).collect();
        Ok(Batch { bytes, labels, first: set.labels, stride })
    }

    fn pickled(bytes: Bytes, set: &Set) -> std::result::Result<Batch, String> {
        let Pickled { pixels, fortran, labels } = pickled::parse(&bytes, PIXELS, set.key)
            .map_err(|why| format!("no batch of {}'s Python version: {why}; {}", set.name, set.wanted()))?;
        if !fortran {
            return Ok(Batch { bytes, labels, first: pixels.start, stride: PIXELS });
        }
        let (columns, count) = (&bytes[pixels], labels.len());
        let rows = (0..count).flat_map(|image| (0..PIXELS).map(move |k| columns[count * k + image])).collect();
        Ok(Batch { bytes: Bytes::Read(rows), labels, first: 0, stride: PIXELS })
    }
}

fn set(classes: usize) -> &'static Set {
    if classes == CIFAR100.classes { &CIFAR100 } else { &CIFAR10 }
}

impl Images for Cifar {
    fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn size(&self) -> (usize, usize) {
        (32, 32)
    }

    fn label(&self, index: usize) -> u32 {
        let (batch, number) = self.place(index);
        batch.labels[number].into()
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()> {
        let (batch, number) = self.place(index);
        let (red, rest) = batch.bytes[batch.first + number * batch.stride..][..PIXELS].split_at(PLANE);
        let (green, blue) = rest.split_at(PLANE);
        for (i, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&[red[i], green[i], blue[i]]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, labels: &[u8]) {
        let records: Vec<u8> = labels
            .iter()
            .flat_map(|&label| {
                [vec![label], vec![label + 10; PLANE], vec![label + 20; PLANE], vec![label + 30; PLANE]].concat()
            })
            .collect();
        std::fs::write(directory.join(name), records).unwrap();
    }

    fn directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for i in 1..=5 {
            write(directory.path(), &format!("data_batch_{i}.bin"), &[i, 9]);
        }
        write(directory.path(), "test_batch.bin", &[3]);
        directory
    }

    fn pixels(images: &Cifar, index: usize) -> Vec<u8> {
        let mut pixels = vec![0; PIXELS];
        images.read(index, &mut pixels).unwrap();
        pixels
    }

    #[test]
    fn every_class_has_a_name_of_its_own_in_the_order_of_the_labels() {
        for count in [10, 100] {
            let names = Cifar::names(count);
            assert_eq!(names.len(), count);
            assert!(names.is_sorted() || count == 10, "CIFAR-100's are alphabetical");
            assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), count);
        }
    }

    #[test]
    fn images_are_read_across_batches_as_rgb() {
        let directory = directory();
        let (training, test) = Cifar::open(directory.path(), 10).unwrap();
        assert_eq!((training.count(), test.count()), (10, 1));
        assert_eq!((0..10).map(|i| training.label(i)).collect::<Vec<_>>(), [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]);
        let pixels = pixels(&training, 4);
        assert_eq!((&pixels[..3], &pixels[PIXELS - 3..]), (&[13, 23, 33][..], &[13, 23, 33][..]));
    }

    /// Images whose bytes are the label's and their own number's, as pixels in rows or in columns.
    fn planes(labels: &[u8], fortran: bool) -> Vec<u8> {
        let byte = |image: usize, k: usize| (k / 7 + image + labels[image] as usize) as u8;
        let count = labels.len();
        match fortran {
            false => (0..count * PIXELS).map(|i| byte(i / PIXELS, i % PIXELS)).collect(),
            true => (0..count * PIXELS).map(|i| byte(i % count, i / count)).collect(),
        }
    }

    /// A file of both versions of both data sets: (directory, name, bytes).
    fn versions(labels: &[u8], split: usize) -> [(&'static str, String, Vec<u8>); 4] {
        let python = |key, fortran| pickled::tests::python2(key, labels, &planes(labels, fortran), fortran);
        let binary = |before: &[u8]| {
            let planes = planes(labels, false);
            let records = planes.chunks(PIXELS).zip(labels).map(|(pixels, label)| [before, &[*label], pixels].concat());
            records.collect::<Vec<_>>().concat()
        };
        let (batch, whole) = match split {
            0 => ("test_batch".to_owned(), "test".to_owned()),
            number => (format!("data_batch_{number}"), "train".to_owned()),
        };
        [
            ("cifar-10-batches-bin", format!("{batch}.bin"), binary(&[])),
            ("cifar-10-batches-py", batch, python("labels", split % 2 == 1)),
            ("cifar-100-binary", format!("{whole}.bin"), binary(&[19])),
            ("cifar-100-python", whole, python("fine_labels", false)),
        ]
    }

    /// All four below one directory.
    fn everything() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for split in 0..6 {
            for (folder, name, bytes) in versions(&[split as u8, 9, 3], split) {
                let folder = directory.path().join(folder);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(name), bytes).unwrap();
            }
        }
        directory
    }

    #[test]
    fn both_versions_and_their_archives_hold_the_same_images() {
        let directory = everything();
        let here = directory.path();
        for (classes, folders, batches) in [
            (10, ["cifar-10-batches-bin", "cifar-10-batches-py"], 5),
            (100, ["cifar-100-binary", "cifar-100-python"], 1),
        ] {
            let (expected, expected_test) = Cifar::open(here, classes).unwrap();
            assert_eq!((expected.count(), expected_test.count()), (3 * batches, 3));
            assert_eq!(pixels(&expected_test, 2)[..3], [5, (PLANE / 7) as u8 + 5, (2 * PLANE / 7) as u8 + 5]);
            for folder in folders {
                let archive = here.join("archive.tar.gz");
                let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(
                    std::fs::File::create(&archive).unwrap(),
                    Default::default(),
                ));
                builder.append_dir_all(folder, here.join(folder)).unwrap();
                builder.into_inner().unwrap().finish().unwrap();
                for path in [here.join(folder), archive] {
                    let (training, test) = Cifar::open(&path, classes).unwrap();
                    let named = Cifar::named(&path).unwrap().unwrap();
                    assert_eq!((named.training.count(), named.test.count()), (3 * batches, 3));
                    assert_eq!(named.classes, Cifar::names(classes));
                    for (found, expected) in [(&training, &expected), (&test, &expected_test)] {
                        let all = |images: &Cifar| {
                            (0..images.count()).map(|i| (images.label(i), pixels(images, i))).collect::<Vec<_>>()
                        };
                        assert!(all(found) == all(expected), "{}", path.display());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_there_is_named_with_where_it_is_given_out() {
        let directory = everything();
        let here = directory.path();
        let error = |path: &Path, classes| Cifar::open(path, classes).err().unwrap().to_string();
        let text = error(&here.join("cifar-100-python"), 10);
        assert!(
            text.ends_with("cifar-100-python: CIFAR-100, not CIFAR-10; --set data.kind=cifar100 trains on it"),
            "{text}"
        );
        let text = error(&here.join("cifar-10-batches-bin"), 100);
        assert!(text.ends_with("CIFAR-10, not CIFAR-100; --set data.kind=cifar10 trains on it"), "{text}");
        let named = |path: &Path| Cifar::named(path).err().unwrap().to_string();
        assert!(named(here).ends_with("CIFAR-10 and CIFAR-100 are here; name the directory of one"));
        let empty = tempfile::tempdir().unwrap();
        assert!(Cifar::named(empty.path()).unwrap().is_none());
        let text = error(empty.path(), 10);
        assert!(text.contains("no CIFAR-10 here; wanted is the directory of data_batch_1.bin or of data_batch_1, or"));
        assert!(text.ends_with("as it is given out at https://www.cs.toronto.edu/~kriz/cifar.html"), "{text}");
        let text = error(&here.join("cifar-10-batches-py/data_batch_1"), 10);
        assert!(text.contains("data_batch_1: can't be read as .tar.gz: "), "{text}");
        std::fs::write(here.join("cifar-10-batches-py/data_batch_3"), b"\x80\x02}.").unwrap();
        let text = error(&here.join("cifar-10-batches-py"), 10);
        let why = "data_batch_3: no batch of CIFAR-10's Python version: it has no array of images; wanted is the directory of data_batch_1.bin or of";
        assert!(text.contains(why), "{text}");
    }

    #[test]
    fn bad_files_are_named() {
        let directory = directory();
        let error = || Cifar::open(directory.path(), 10).err().unwrap().to_string();
        write(directory.path(), "data_batch_2.bin", &[2, 11]);
        assert!(error().ends_with("data_batch_2.bin: record 1 has label 11; CIFAR-10's are 0 to 9"));
        std::fs::write(directory.path().join("data_batch_2.bin"), vec![0; 5000]).unwrap();
        assert!(error().contains("data_batch_2.bin: 5000 bytes are no whole number"));
        std::fs::remove_file(directory.path().join("test_batch.bin")).unwrap();
        write(directory.path(), "data_batch_2.bin", &[2]);
        assert!(error().contains("test_batch.bin: can't be opened"));
    }
}
