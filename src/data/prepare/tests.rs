use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::data::Images;
use crate::data::packed::Packed;

const SIZE: (usize, usize) = (112, 96);

fn picture(height: u32, width: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x + seed) as u8, (y * 2) as u8, (x * y / 64 + seed) as u8]))
}

fn save(dir: &Path, name: &str, image: impl Into<DynamicImage>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let format = ImageFormat::from_path(&path).unwrap();
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    fs::write(path, bytes.into_inner()).unwrap();
}

/// Four identities, eight images of several formats and sizes.
fn faces() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    save(root, "in/anna/1.png", picture(112, 96, 0));
    save(root, "in/anna/2.jpg", picture(112, 96, 1));
    save(root, "in/anna/3.png", picture(112, 112, 2));
    save(root, "in/bert/1.pgm", GrayImage::from_fn(92, 112, |x, y| Luma([(x + y) as u8])));
    save(root, "in/carl/1.jpg", picture(112, 112, 3));
    save(root, "in/carl/2.ppm", picture(57, 201, 4));
    save(root, "in/dora/1.png", picture(300, 20, 5));
    save(root, "in/dora/2.jpg", picture(112, 96, 6));
    fs::create_dir(root.join("in/nobody")).unwrap();
    fs::write(root.join("in/dora/notes.txt"), "x").unwrap();
    dir
}

fn options(store: Store) -> Options {
    Options { threads: 3, date: "2026-01-02T03:04:05Z".into(), ..Options::new(SIZE, store, "test") }
}

fn run(dir: &TempDir, options: &Options) -> Result<PackingReport> {
    let source = Folder::open(&dir.path().join("in"))?;
    prepare(&source, options, &dir.path().join("out.h5"), &mut |_, _| {})
}

fn opened(dir: &TempDir) -> Packed {
    Packed::open(&dir.path().join("out.h5")).unwrap()
}

fn pixels(packed: &Packed, index: usize) -> Vec<u8> {
    let mut pixels = vec![0; SIZE.0 * SIZE.1 * 3];
    packed.read(index, &mut pixels).unwrap();
    pixels
}

#[test]
fn a_folder_becomes_a_packed_file() {
    for store in [Store::Raw, Store::Jpeg] {
        let dir = faces();
        let report = run(&dir, &options(store)).unwrap();
        assert_eq!((report.images, report.identities, report.undecodable), (8, 4, 0));
        assert_eq!(report.empty, ["nobody"]);
        assert_eq!(report.skipped, [("dora/notes.txt".into(), "not an image by its extension".into())]);
        let packed = opened(&dir);
        assert_eq!((packed.count(), packed.size(), packed.store()), (8, SIZE, store));
        assert_eq!(packed.identities(), ["anna", "bert", "carl", "dora"]);
        assert_eq!((0..8).map(|index| packed.label(index)).collect::<Vec<_>>(), [0, 0, 0, 1, 2, 2, 3, 3]);
        assert_eq!((packed.name(0).unwrap(), packed.name(7).unwrap()), ("anna/1.png".into(), "dora/2.jpg".into()));
        let near = |index, image: RgbImage, tolerance| {
            let expected = decode::fit(image, SIZE).into_raw();
            let difference = pixels(&packed, index).iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(difference <= tolerance, "{store:?} {index} {difference}");
        };
        let tolerance = if store == Store::Raw { 0 } else { 12 };
        near(0, picture(112, 96, 0), tolerance);
        near(2, picture(112, 112, 2), tolerance);
        near(5, picture(57, 201, 4), tolerance);
        near(6, picture(300, 20, 5), tolerance);
        // only the packed file and the list of what was skipped
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["in", "out.h5", "out.h5.skipped.csv"]);
    }
}

#[test]
fn jpegs_of_the_right_size_are_stored_byte_for_byte() {
    let dir = faces();
    run(&dir, &options(Store::Jpeg)).unwrap();
    let packed = opened(&dir);
    for (index, name) in [(1, "in/anna/2.jpg"), (7, "in/dora/2.jpg")] {
        assert_eq!(packed.stored(index).unwrap(), fs::read(dir.path().join(name)).unwrap());
    }
    assert_ne!(packed.stored(4).unwrap(), fs::read(dir.path().join("in/carl/1.jpg")).unwrap());
}

#[test]
fn excluded_identities_are_left_out_and_labels_stay_contiguous() {
    let dir = faces();
    let exclude = ["bert", "anna", "nobody", "zoe"].map(String::from).into();
    let report = run(&dir, &Options { exclude, ..options(Store::Raw) }).unwrap();
    assert_eq!((report.images, report.identities), (4, 2));
    assert_eq!((report.excluded_images, report.excluded_identities, report.unknown_exclusions), (4, 2, 1));
    assert!(report.empty.is_empty());
    let packed = opened(&dir);
    assert_eq!(packed.identities(), ["carl", "dora"]);
    assert_eq!((0..4).map(|index| packed.label(index)).collect::<Vec<_>>(), [0, 0, 1, 1]);
}

#[test]
fn bad_images_are_listed() {
    let dir = faces();
    fs::write(dir.path().join("in/bert/1.pgm"), b"P5 3 3").unwrap();
    let jpeg = fs::read(dir.path().join("in/anna/2.jpg")).unwrap();
    fs::write(dir.path().join("in/anna/2.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(dir.path().join("in/carl/1.jpg"), b"").unwrap();

    let error = run(&dir, &options(Store::Raw)).unwrap_err().to_string();
    assert!(
        error.contains("3 of 8 images can't be decoded, more than the 1 % allowed:\n  anna/2.jpg: truncated"),
        "{error}"
    );
    assert!(error.contains("\n  carl/1.jpg: empty\nAllow more"), "{error}");
    assert!(!dir.path().join("out.h5").exists());

    // what was done is kept
    let report = run(&dir, &Options { max_skipped: 0.5, ..options(Store::Raw) }).unwrap();
    assert_eq!((report.images, report.identities, report.undecodable, report.resumed), (5, 3, 3, 8));
    assert_eq!(report.empty, ["bert", "nobody"]);
    assert_eq!(opened(&dir).identities(), ["anna", "carl", "dora"]);
    let list = fs::read_to_string(dir.path().join("out.h5.skipped.csv")).unwrap();
    let names: Vec<_> = list.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(names, ["name", "anna/2.jpg", "bert/1.pgm", "carl/1.jpg", "dora/notes.txt"]);
}

#[test]
fn one_bad_image_in_a_hundred_is_no_error_but_two_are() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..100 {
        save(dir.path(), &format!("in/{}/{index:03}.pgm", index % 7), GrayImage::from_pixel(8, 8, Luma([index as u8])));
    }
    fs::write(dir.path().join("in/3/003.pgm"), b"no image").unwrap();
    let small = Options { size: (8, 8), ..options(Store::Raw) };
    assert_eq!(run(&dir, &small).unwrap().undecodable, 1);
    fs::remove_file(dir.path().join("out.h5")).unwrap();
    fs::write(dir.path().join("in/4/004.pgm"), b"no image").unwrap();
    assert!(run(&dir, &small).unwrap_err().to_string().contains("2 of 100 images can't be decoded"));
}

/// A folder that can't be read from image `fail_at` on.
struct Failing {
    folder: Folder,
    fail_at: usize,
    reads: AtomicUsize,
}

impl Source for Failing {
    fn count(&self) -> usize {
        self.folder.count()
    }

    fn name(&self, index: usize) -> String {
        self.folder.name(index)
    }

    fn read(&self, index: usize) -> Result<(u32, Cow<'_, [u8]>)> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if index >= self.fail_at {
            return Err(Error::failed("the disk is gone"));
        }
        self.folder.read(index)
    }

    fn identity(&self, number: u32) -> String {
        self.folder.identity(number)
    }
}

#[test]
fn an_interrupted_run_continues_and_gives_the_same_file() {
    for store in [Store::Raw, Store::Jpeg] {
        let (straight, broken) = (faces(), faces());
        for dir in [&straight, &broken] {
            fs::write(dir.path().join("in/carl/2.ppm"), b"P6 bad").unwrap();
        }
        let options = Options { max_skipped: 0.5, exclude: ["bert".into()].into(), ..options(store) };
        run(&straight, &options).unwrap();
        let out = broken.path().join("out.h5");
        for fail_at in [0, 2, 3, 6] {
            let folder = Folder::open(&broken.path().join("in")).unwrap();
            let source = Failing { folder, fail_at, reads: AtomicUsize::new(0) };
            let error = prepare(&source, &options, &out, &mut |_, _| {}).unwrap_err();
            assert_eq!(error.to_string(), "the disk is gone");
        }
        // as if killed while writing
        let index = broken.path().join("out.h5.index.part");
        let text = fs::read(&index).unwrap();
        fs::write(&index, &text[..text.len() - 3]).unwrap();
        let folder = Folder::open(&broken.path().join("in")).unwrap();
        let source = Failing { folder, fail_at: 8, reads: AtomicUsize::new(0) };
        let report = prepare(&source, &options, &out, &mut |_, _| {}).unwrap();
        assert_eq!((report.resumed, source.reads.into_inner()), (5, 3));
        let files = [&straight, &broken].map(|dir| fs::read(dir.path().join("out.h5")).unwrap());
        assert!(files[0] == files[1]);
    }
}

#[test]
fn a_panic_in_the_progress_bar_loses_nothing() {
    let (straight, broken) = (faces(), faces());
    run(&straight, &options(Store::Raw)).unwrap();
    let out = broken.path().join("out.h5");
    let source = Folder::open(&broken.path().join("in")).unwrap();
    let options = Options { threads: 1, ..options(Store::Raw) };
    let run = |progress: &mut dyn FnMut(usize, usize)| prepare(&source, &options, &out, progress);
    let panicked = catch_unwind(AssertUnwindSafe(|| run(&mut |done, _| assert!(done < 4, "stop (a test)"))));
    assert!(panicked.is_err());
    let mut calls = Vec::new();
    assert_eq!(run(&mut |done, total| calls.push((done, total))).unwrap().resumed, 4);
    assert_eq!(calls, [(4, 8), (5, 8), (6, 8), (7, 8), (8, 8)]);
    assert!(fs::read(straight.path().join("out.h5")).unwrap() == fs::read(out).unwrap());
}

#[test]
fn parts_of_another_run_and_finished_files_are_refused() {
    let dir = faces();
    let source =
        Failing { folder: Folder::open(&dir.path().join("in")).unwrap(), fail_at: 4, reads: AtomicUsize::new(0) };
    prepare(&source, &options(Store::Raw), &dir.path().join("out.h5"), &mut |_, _| {}).unwrap_err();
    for other in [
        options(Store::Jpeg),
        Options { size: (112, 112), ..options(Store::Raw) },
        Options { exclude: ["bert".into()].into(), ..options(Store::Raw) },
    ] {
        let error = run(&dir, &other).unwrap_err().to_string();
        assert!(error.contains("out.h5.index.part: is of another run (amlfs prepare 1: 8 images"), "{error}");
    }
    save(dir.path(), "in/dora/3.png", picture(112, 96, 7));
    assert!(run(&dir, &options(Store::Raw)).unwrap_err().to_string().contains("is of another run"));
    fs::remove_file(dir.path().join("in/dora/3.png")).unwrap();
    run(&dir, &options(Store::Raw)).unwrap();
    let error = run(&dir, &options(Store::Raw)).unwrap_err().to_string();
    assert!(error.ends_with("out.h5: exists already; remove it or choose another name"), "{error}");
}
