use std::fs;
use std::ops::Range;

use proptest::prelude::*;
use tempfile::TempDir;

use super::write::write_hdf5;
use super::*;
use crate::data::jpeg_encoder::to_jpeg;
use crate::hdf5_file::trailer::seal;
use crate::hdf5_file::{fill, write_many_texts};

const SIZE: (usize, usize) = (4, 6);

/// Three images of two identities, and their bytes.
fn content(store: Store) -> (Content, Vec<u8>) {
    let image = |value: u8| match store {
        Store::Raw => vec![value; SIZE.0 * SIZE.1 * 3],
        Store::Jpeg | Store::Files => {
            let pixels = image::RgbImage::from_pixel(SIZE.1 as u32, SIZE.0 as u32, image::Rgb([value; 3]));
            to_jpeg(&pixels).unwrap()
        }
    };
    let images = [image(10), image(100), image(200)];
    let people = store == Store::Files;
    let content = Content {
        size: if people { (0, 0) } else { SIZE },
        store,
        source: "made up".into(),
        input: "made up of this".into(),
        date: "2026-01-02T03:04:05Z".into(),
        lengths: images.iter().map(|image| image.len() as u64).collect(),
        crc32: images.iter().map(|image| crc32fast::hash(image)).collect(),
        labels: vec![0, 1, 1],
        identities: ["ä", "b"].map(String::from).to_vec(),
        cameras_and_splits: people.then(|| CamerasAndSplits {
            cameras: vec![1, 1, 6],
            splits: vec![Split::Train, Split::Query, Split::Gallery],
        }),
        subsets: (store == Store::Jpeg).then(|| vec![Subset::Train, Subset::Test, Subset::Validation]),
    };
    (content, images.concat())
}

const NAMES: [&str; 3] = ["ä/1.png", "b/2.png", "b/3.png"];

fn name_of(index: usize) -> String {
    NAMES[index].into()
}

fn part(dir: &TempDir, bytes: &[u8]) -> File {
    let path = dir.path().join("part");
    fs::write(&path, bytes).unwrap();
    File::open(path).unwrap()
}

fn packed(dir: &TempDir, store: Store) -> PathBuf {
    let (content, bytes) = content(store);
    let path = dir.path().join("packed.h5");
    write(&path, &content, &name_of, &part(dir, &bytes), std::slice::from_ref(&(0..bytes.len() as u64)), &|| Ok(()))
        .unwrap();
    path
}

/// Writes without verification; returns what `Packed::open` says.
fn open_unverified(content: &Content, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packed.h5");
    let written = write_hdf5(&path, content, &name_of).and_then(|range| {
        fill(&path, &range, &part(&dir, bytes), std::slice::from_ref(&(0..bytes.len() as u64)))?;
        seal(&path, &range)
    });
    assert!(written.is_ok());
    Packed::open(&path).err().unwrap().to_string()
}

/// Where the images are, by the trailer.
fn images_of(file: &[u8]) -> Range<usize> {
    let number = |at: usize| u64::from_le_bytes(file[file.len() - at..][..8].try_into().unwrap()) as usize;
    number(20)..number(20) + number(12)
}

#[test]
fn what_is_written_is_read() {
    for store in [Store::Raw, Store::Jpeg] {
        let dir = tempfile::tempdir().unwrap();
        let packed = Packed::open(&packed(&dir, store)).unwrap();
        assert_eq!((packed.count(), packed.size(), packed.store()), (3, SIZE, store));
        assert_eq!((0..3).map(|index| packed.label(index)).collect::<Vec<_>>(), [0, 1, 1]);
        assert_eq!(packed.identities(), ["ä", "b"]);
        assert_eq!(packed.names().unwrap(), NAMES);
        assert_eq!((packed.name(0).unwrap(), packed.name(2).unwrap()), ("ä/1.png".into(), "b/3.png".into()));
        let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3];
        for (index, value) in [10u8, 100, 200].into_iter().enumerate() {
            packed.read(index, &mut pixels).unwrap();
            assert!(pixels.iter().all(|pixel| pixel.abs_diff(value) < 3), "{store:?} {value} {pixels:?}");
        }
        // neither the temporary file nor anything else is left
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

#[test]
fn files_are_kept_with_camera_and_split_and_have_no_common_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(&dir, Store::Files);
    let packed = Packed::open(&path).unwrap();
    let (content, bytes) = content(Store::Files);
    assert_eq!((packed.count(), packed.size(), packed.store()), (3, (0, 0), Store::Files));
    assert_eq!(packed.cameras_and_splits(), content.cameras_and_splits.as_ref());
    let stored: Vec<u8> = (0..3).flat_map(|index| packed.stored(index).unwrap().to_vec()).collect();
    assert_eq!(stored, bytes);
    assert_eq!(packed.image(1).unwrap().dimensions(), (SIZE.1 as u32, SIZE.0 as u32));
    let error = packed.read(1, &mut []).unwrap_err().to_string();
    assert_eq!(error, format!("{}: its images have sizes of their own: they are no faces", path.display()));
}

#[test]
fn images_of_any_store_are_decoded_in_their_size() {
    for store in [Store::Raw, Store::Jpeg] {
        let dir = tempfile::tempdir().unwrap();
        let packed = Packed::open(&packed(&dir, store)).unwrap();
        assert_eq!(packed.cameras_and_splits(), None);
        assert_eq!(packed.subsets(), content(store).0.subsets.as_deref());
        let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3];
        packed.read(2, &mut pixels).unwrap();
        assert_eq!(packed.image(2).unwrap().into_raw(), pixels);
    }
}

#[test]
fn contradictions_between_cameras_and_splits_are_refused() {
    let (good, bytes) = content(Store::Files);
    let mut bad = good.clone();
    bad.cameras_and_splits.as_mut().unwrap().cameras.pop();
    assert!(open_unverified(&bad, &bytes).ends_with("damaged: 3 labels, but 2 cameras and 3 splits"));
    let mut bad = good.clone();
    bad.size = (4, 0);
    assert!(open_unverified(&bad, &bytes).ends_with("damaged: its height is 4"));
    for (name, edit) in [
        ("of the data sets camera and split it has one", (|file| file.unlink("split")) as fn(&hdf5::File) -> _),
        ("of the data sets camera and split it has one", |file| file.unlink("camera")),
        ("an image of split 3; there are 0, 1 and 2", |file| file.dataset("split")?.write_raw(&[0u8, 3, 1])),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed.h5");
        let Ok(range) = write_hdf5(&path, &good, &name_of) else { panic!("can't write") };
        let file = hdf5::File::open_rw(&path).unwrap();
        edit(&file).unwrap();
        file.close().unwrap();
        assert!(
            fill(&path, &range, &part(&dir, &bytes), std::slice::from_ref(&(0..bytes.len() as u64))).is_ok()
                && seal(&path, &range).is_ok()
        );
        let error = Packed::open(&path).err().unwrap().to_string();
        assert!(error.ends_with(name), "{error}");
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert!(fs::read(packed(&a, Store::Raw)).unwrap() == fs::read(packed(&b, Store::Raw)).unwrap());
}

#[test]
fn any_changed_byte_outside_the_images_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(&dir, Store::Jpeg);
    let original = fs::read(&path).unwrap();
    let images = images_of(&original);
    assert!(images.len() > 1000 && original.len() - images.len() > 1000);
    let mut file = original.clone();
    for at in (0..original.len()).filter(|at| !images.contains(at)) {
        for flip in [0x01, 0xFF] {
            file[at] = original[at] ^ flip;
            fs::write(&path, &file).unwrap();
            assert!(Packed::open(&path).is_err(), "byte {at}");
        }
        file[at] = original[at];
    }
}

#[test]
fn any_changed_byte_of_an_image_is_reported_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(&dir, Store::Raw);
    let original = fs::read(&path).unwrap();
    let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3];
    for at in images_of(&original) {
        let mut file = original.clone();
        file[at] ^= 4;
        fs::write(&path, &file).unwrap();
        let packed = Packed::open(&path).unwrap();
        let errors: Vec<_> = (0..3).filter_map(|index| packed.read(index, &mut pixels).err()).collect();
        let index = (at - images_of(&original).start) / pixels.len();
        let name = ["ä/1.png", "b/2.png", "b/3.png"][index];
        let expected = format!("{}: image {index} ({name}): damaged: it does not match its checksum", path.display());
        assert_eq!(errors.iter().map(|error| error.to_string()).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn files_cut_off_anywhere_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = packed(&dir, Store::Raw);
    let file = fs::read(&path).unwrap();
    for length in 0..file.len() {
        fs::write(&path, &file[..length]).unwrap();
        let error = Packed::open(&path).err().unwrap().to_string();
        assert!(error.contains("not an HDF5 file") || error.contains("truncated"), "{length}: {error}");
    }
    fs::write(&path, [&file[..], &[0]].concat()).unwrap();
    assert!(Packed::open(&path).is_err());
    fs::remove_file(&path).unwrap();
    assert!(Packed::open(&path).err().unwrap().to_string().contains("No such file"));
}

#[test]
fn contradictions_between_columns_are_refused() {
    let (good, bytes) = content(Store::Raw);
    let mut bad = good.clone();
    bad.labels[1] = 2;
    assert!(open_unverified(&bad, &bytes).contains("image 1 has label 2, but there are 2 identities"));
    let mut bad = good.clone();
    bad.lengths = vec![72, 73, 71];
    assert!(open_unverified(&bad, &bytes).contains("image 1 has not 72 bytes"));
    let mut bad = good.clone();
    bad.size.0 = 0;
    assert!(open_unverified(&bad, &bytes).contains("its height is 0"));
    let dir = tempfile::tempdir().unwrap();
    let none = Content { lengths: vec![], crc32: vec![], labels: vec![], ..good };
    assert!(write(&dir.path().join("packed.h5"), &none, &name_of, &part(&dir, b""), &[], &|| Ok(())).is_err());
}

#[test]
fn offsets_that_do_not_divide_the_bytes_are_refused() {
    for offsets in [[0u64, 144, 72, 216], [1, 72, 144, 216], [0, 72, 144, 215], [0, 72, 144, u64::MAX]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed.h5");
        let (content, bytes) = content(Store::Raw);
        let Ok(range) = write_hdf5(&path, &content, &name_of) else { panic!("can't write") };
        let file = hdf5::File::open_rw(&path).unwrap();
        file.dataset("offsets").unwrap().write_raw(&offsets).unwrap();
        file.close().unwrap();
        assert!(
            fill(&path, &range, &part(&dir, &bytes), std::slice::from_ref(&(0..bytes.len() as u64))).is_ok()
                && seal(&path, &range).is_ok()
        );
        let error = Packed::open(&path).err().unwrap().to_string();
        assert!(error.ends_with("damaged: its offsets do not divide its bytes"), "{error}");
    }
}

#[test]
fn files_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.h5");
    let seal_and_open = |edit: &dyn Fn(&hdf5::File)| {
        let Ok(range) = write_hdf5(&path, &content(Store::Raw).0, &name_of) else { panic!("can't write") };
        let file = hdf5::File::open_rw(&path).unwrap();
        edit(&file);
        file.close().unwrap();
        assert!(seal(&path, &range).is_ok());
        Packed::open(&path).err().unwrap().to_string()
    };
    let error = seal_and_open(&|file| {
        let text: VarLenUnicode = "amlfs checkpoint".parse().unwrap();
        file.attr("filetype").unwrap().write_scalar(&text).unwrap();
    });
    assert!(error.ends_with("not a packed data set (its filetype is \"amlfs checkpoint\")"), "{error}");
    let error = seal_and_open(&|file| file.attr("version").unwrap().write_raw(&[2, 5]).unwrap());
    assert!(error.ends_with("format version 2.5; this amlfs reads 1.x"), "{error}");
    let error = seal_and_open(&|file| file.unlink("label").unwrap());
    assert!(error.ends_with("damaged: it has no data set label"), "{error}");
    let error = seal_and_open(&|file| {
        file.unlink("name").unwrap();
        assert!(write_many_texts(file, "name", 2, &name_of, "two of three").is_ok());
    });
    assert!(error.contains("3 labels, but 4 offsets, 3 checksums and 2 names"), "{error}");
    let error = seal_and_open(&|file| {
        let text: VarLenUnicode = "webp".parse().unwrap();
        file.attr("store").unwrap().write_scalar(&text).unwrap();
    });
    assert!(error.ends_with("this amlfs can't read images stored as webp"), "{error}");
    fs::write(&path, b"images").unwrap();
    assert!(Packed::open(&path).err().unwrap().to_string().ends_with("not an HDF5 file"));
}

#[test]
fn images_that_do_not_match_are_not_given_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("packed.h5");
    let (content, mut bytes) = content(Store::Raw);
    bytes[100] ^= 1;
    let error =
        write(&path, &content, &name_of, &part(&dir, &bytes), std::slice::from_ref(&(0..bytes.len() as u64)), &|| {
            Ok(())
        })
        .unwrap_err()
        .to_string();
    assert!(error.contains("reading it back failed") && error.contains("image 1 (b/2.png): damaged"), "{error}");
    let error = write(
        &path,
        &content,
        &name_of,
        &part(&dir, &bytes[1..]),
        std::slice::from_ref(&(0..bytes.len() as u64)),
        &|| Ok(()),
    )
    .unwrap_err()
    .to_string();
    assert!(error.ends_with("the images have 215 bytes instead of 216"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_never_cause_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        in_images in prop::bool::weighted(0.3),
        store in prop::sample::select(vec![Store::Raw, Store::Jpeg, Store::Files]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("packed.h5");
        let mut file = original(store).clone();
        let images = images_of(&file);
        for (index, value) in changes {
            let at = if in_images { images.start + index.index(images.len()) } else { index.index(file.len()) };
            file[at] = value;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        fs::write(&path, &file).unwrap();
        if let Ok(packed) = Packed::open(&path) {
            let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3];
            for index in 0..packed.count() {
                let _ = (packed.read(index, &mut pixels), packed.image(index));
            }
        }
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
}

fn original(store: Store) -> &'static Vec<u8> {
    static FILES: [std::sync::OnceLock<Vec<u8>>; 3] = [const { std::sync::OnceLock::new() }; 3];
    FILES[store as usize].get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        fs::read(packed(&dir, store)).unwrap()
    })
}
