use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use tempfile::TempDir;

use super::*;
use crate::data::Images;
use crate::data::packed::Packed;

const SIZE: (usize, usize) = (112, 96);

/// A directory of these files, each with its own name as content; a name that ends in / is a directory.
pub fn tree_of(files: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for file in files {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match file.ends_with('/') {
            true => fs::create_dir_all(path).unwrap(),
            false => fs::write(path, file).unwrap(),
        }
    }
    root
}

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
        assert_eq!((report.images, report.identities, report.unusable), (8, 4, 0));
        assert_eq!(report.empty, ["nobody"]);
        assert_eq!(report.skipped, [("dora/notes.txt".into(), "not an image by its extension".into())]);
        let packed = opened(&dir);
        assert_eq!((packed.count(), packed.size(), packed.store()), (8, SIZE, store));
        assert_eq!(packed.identities(), ["anna", "bert", "carl", "dora"]);
        assert_eq!((0..8).map(|index| packed.label(index)).collect::<Vec<_>>(), [0, 0, 0, 1, 2, 2, 3, 3]);
        assert_eq!((packed.name(0).unwrap(), packed.name(7).unwrap()), ("anna/1.png".into(), "dora/2.jpg".into()));
        let near = |index, image: RgbImage, tolerance| {
            let expected = sources::fit(image, SIZE).into_raw();
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
    let exclude = ["bert", "anna", "nobody"].map(String::from).into();
    let report = run(&dir, &Options { exclude, ..options(Store::Raw) }).unwrap();
    assert_eq!((report.images, report.identities), (4, 2));
    assert_eq!((report.excluded_images, report.excluded_identities), (4, 2));
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
        error.contains("3 of 8 images can't be used, more than the 1 % allowed:\n  anna/2.jpg: truncated"),
        "{error}"
    );
    assert!(error.contains("\n  carl/1.jpg: empty\nAllow more"), "{error}");
    assert!(error.contains("or repair them, and repeat the command: what is done is kept in "), "{error}");
    assert!(!dir.path().join("out.h5").exists());

    // what was done is kept
    let report = run(&dir, &Options { max_skipped: 0.5, ..options(Store::Raw) }).unwrap();
    assert_eq!((report.images, report.identities, report.unusable, report.resumed), (5, 3, 3, 5));
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
    assert_eq!(run(&dir, &small).unwrap().unusable, 1);
    fs::remove_file(dir.path().join("out.h5")).unwrap();
    fs::write(dir.path().join("in/4/004.pgm"), b"no image").unwrap();
    assert!(run(&dir, &small).unwrap_err().to_string().contains("2 of 100 images can't be used"));
}

/// A folder that can't be read from image `fail_at` on.
struct Failing {
    folder: Folder,
    fail_at: usize,
    reads: AtomicUsize,
}

impl Failing {
    fn new(dir: &TempDir, fail_at: usize) -> Failing {
        let folder = Folder::open(&dir.path().join("in")).unwrap();
        Failing { folder, fail_at, reads: AtomicUsize::new(0) }
    }
}

impl Source for Failing {
    fn count(&self) -> usize {
        self.folder.count()
    }

    fn name(&self, index: usize) -> String {
        self.folder.name(index)
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if index >= self.fail_at {
            return Err(Error::failed("the disk is gone"));
        }
        self.folder.read(index)
    }

    fn origin(&self) -> String {
        self.folder.origin()
    }

    fn stamp(&self, index: usize) -> String {
        self.folder.stamp(index)
    }

    fn identity(&self, number: u32) -> String {
        self.folder.identity(number)
    }

    fn has_identity(&self, name: &str) -> bool {
        self.folder.has_identity(name)
    }
}

/// Does the first images of `in` and stops, as if killed.
fn interrupt(dir: &TempDir, options: &Options, done: usize) {
    let out = dir.path().join("out.h5");
    let error = prepare(&Failing::new(dir, done), options, &out, &mut |_, _| {}).unwrap_err();
    assert_eq!(error.to_string(), "the disk is gone");
}

/// The file that an uninterrupted call makes of `in`, with what `interrupt` left put aside.
fn straight(dir: &TempDir, options: &Options) -> Vec<u8> {
    let source = Folder::open(&dir.path().join("in")).unwrap();
    let out = dir.path().join("straight.h5");
    prepare(&source, options, &out, &mut |_, _| {}).unwrap();
    let bytes = fs::read(&out).unwrap();
    fs::remove_file(out).unwrap();
    bytes
}

#[test]
fn an_interrupted_run_continues_and_gives_the_same_file() {
    for store in [Store::Raw, Store::Jpeg] {
        let dir = faces();
        fs::write(dir.path().join("in/carl/2.ppm"), b"P6 bad").unwrap();
        let options = Options { max_skipped: 0.5, exclude: ["bert".into()].into(), ..options(store) };
        [0, 2, 3, 6].into_iter().for_each(|done| interrupt(&dir, &options, done));
        // as if killed while writing
        let index = dir.path().join("out.h5.index.part");
        let text = fs::read(&index).unwrap();
        fs::write(&index, &text[..text.len() - 3]).unwrap();
        let (source, out) = (Failing::new(&dir, 8), dir.path().join("out.h5"));
        let report = prepare(&source, &options, &out, &mut |_, _| {}).unwrap();
        assert_eq!((report.resumed, source.reads.into_inner()), (5, 3));
        assert!(fs::read(out).unwrap() == straight(&dir, &options));
    }
}

#[test]
fn what_has_changed_since_is_done_again_and_what_was_left_out_is_tried_again() {
    for store in [Store::Raw, Store::Jpeg] {
        let dir = faces();
        let whole = fs::read(dir.path().join("in/bert/1.pgm")).unwrap();
        fs::write(dir.path().join("in/bert/1.pgm"), b"P5 3 3").unwrap();
        let options = options(store);
        assert!(run(&dir, &options).unwrap_err().to_string().contains("1 of 8 images can't be used"));
        // one is replaced by another image of the same length, one repaired, one is gone, one new
        let other = GrayImage::from_fn(92, 112, |x, y| Luma([(x * y) as u8]));
        save(dir.path(), "in/carl/1.pgm", other.clone());
        save(dir.path(), "in/anna/1.png", picture(112, 96, 77));
        fs::write(dir.path().join("in/bert/1.pgm"), whole).unwrap();
        fs::remove_file(dir.path().join("in/dora/1.png")).unwrap();
        let report = run(&dir, &options).unwrap();
        // of the eight: not anna/1, bert/1, dora/1
        assert_eq!((report.images, report.unusable, report.resumed), (8, 0, 5));
        assert!(fs::read(dir.path().join("out.h5")).unwrap() == straight(&dir, &options));
        let packed = opened(&dir);
        assert_eq!(packed.identities(), ["anna", "bert", "carl", "dora"]);
        if store == Store::Raw {
            assert_eq!(pixels(&packed, 0), picture(112, 96, 77).into_raw());
        }
    }
}

#[test]
fn another_tree_with_the_same_names_is_never_taken_for_the_first() {
    let (first, second) = (faces(), faces());
    interrupt(&first, &options(Store::Raw), 8 - 1);
    for part in ["out.h5.bytes.part", "out.h5.index.part"] {
        fs::copy(first.path().join(part), second.path().join(part)).unwrap();
    }
    let error = run(&second, &options(Store::Raw)).unwrap_err().to_string();
    assert!(error.contains("out.h5.index.part: is of another run (amlfs prepare 2: \""), "{error}");
    assert!(error.ends_with("out.h5.bytes.part to start anew, or choose another --out"), "{error}");
    // a tree in the first one's place
    fs::remove_dir_all(first.path().join("in")).unwrap();
    fs::rename(second.path().join("in"), first.path().join("in")).unwrap();
    assert_eq!(run(&first, &options(Store::Raw)).unwrap().resumed, 0);
}

#[test]
fn a_panic_in_the_progress_bar_loses_nothing() {
    let dir = faces();
    let out = dir.path().join("out.h5");
    let source = Folder::open(&dir.path().join("in")).unwrap();
    let options = Options { threads: 1, ..options(Store::Raw) };
    let run = |progress: &mut dyn FnMut(usize, usize)| prepare(&source, &options, &out, progress);
    let panicked = catch_unwind(AssertUnwindSafe(|| run(&mut |done, _| assert!(done < 4, "stop (a test)"))));
    assert!(panicked.is_err());
    let mut calls = Vec::new();
    assert_eq!(run(&mut |done, total| calls.push((done, total))).unwrap().resumed, 4);
    assert_eq!(calls, [(4, 8), (5, 8), (6, 8), (7, 8), (8, 8)]);
    assert!(fs::read(&out).unwrap() == straight(&dir, &options));
}

#[test]
fn parts_of_other_options_are_refused() {
    let dir = faces();
    interrupt(&dir, &options(Store::Raw), 4);
    for other in [
        options(Store::Jpeg),
        Options { size: (112, 112), ..options(Store::Raw) },
        Options { exclude: ["bert".into()].into(), ..options(Store::Raw) },
    ] {
        let error = run(&dir, &other).unwrap_err().to_string();
        assert!(error.contains("out.h5.index.part: is of another run (amlfs prepare 2: "), "{error}");
    }
    assert_eq!(run(&dir, &Options { threads: 1, max_skipped: 0.0, ..options(Store::Raw) }).unwrap().resumed, 4);
}

#[test]
fn a_second_call_finds_the_file_finished_unless_it_would_make_another_one() {
    let dir = faces();
    let made = run(&dir, &options(Store::Raw)).unwrap();
    let bytes = fs::read(dir.path().join("out.h5")).unwrap();
    fs::write(dir.path().join("out.h5.index.part"), "left by a kill").unwrap();
    let again = run(&dir, &options(Store::Raw)).unwrap();
    assert_eq!((again.images, again.identities, again.finished_before), (8, 4, true));
    assert!(!made.finished_before && !dir.path().join("out.h5.index.part").exists());
    let refused = |options: &Options| {
        let error = run(&dir, options).unwrap_err().to_string();
        assert!(error.contains("out.h5: exists already") && error.ends_with("remove it or choose another name"));
        error
    };
    let error = refused(&options(Store::Jpeg));
    assert!(error.contains("made from something else (amlfs prepare 2: "), "{error}");
    save(dir.path(), "in/dora/2.jpg", picture(112, 96, 8));
    let error = refused(&options(Store::Raw));
    assert!(error.contains("files of its source have changed, come or gone since it was made"), "{error}");
    assert!(fs::read(dir.path().join("out.h5")).unwrap() == bytes);
    fs::write(dir.path().join("out.h5"), "something else").unwrap();
    refused(&options(Store::Raw));
}

#[test]
fn a_pipe_and_a_dead_link_are_skipped_files() {
    let dir = faces();
    let root = dir.path().join("in");
    let pipe = |name: &str| {
        let path = std::ffi::CString::new(root.join(name).to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with 0
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    pipe("anna/0.jpg");
    pipe("top.jpg");
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    link("1.jpg", "carl/link.jpg");
    link("nowhere.jpg", "carl/dead.jpg");
    link("dead", "dead");
    link("..", "dora/loop");
    let report = run(&dir, &Options { max_skipped: 0.2, ..options(Store::Raw) }).unwrap();
    assert_eq!((report.images, report.identities, report.unusable), (9, 4, 2));
    let expected = [
        ("anna/0.jpg", "neither a file nor a directory"),
        ("carl/dead.jpg", "can't be read: No such file or directory (os error 2)"),
        ("dead", "not in an identity's directory"),
        ("dora/loop", "a link to a directory that it lies in"),
        ("dora/notes.txt", "not an image by its extension"),
        ("top.jpg", "not in an identity's directory"),
    ];
    assert_eq!(report.skipped, expected.map(|(name, why)| (name.to_owned(), why.to_owned())));
}

#[test]
fn a_tree_that_vanishes_is_an_error_and_not_a_million_skipped_files() {
    let dir = faces();
    let source = Folder::open(&dir.path().join("in")).unwrap();
    fs::rename(dir.path().join("in"), dir.path().join("away")).unwrap();
    let error = prepare(&source, &options(Store::Raw), &dir.path().join("out.h5"), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("in/anna/1.png: can't be read: "), "{error}");
}

#[test]
fn bad_records_are_skipped_and_listed() {
    let dir = faces();
    let image = fs::read(dir.path().join("in/anna/2.jpg")).unwrap();
    let record = |label: f32, image: &[u8]| [&[0; 4][..], &label.to_le_bytes(), &[0; 16], image].concat();
    let mut records = vec![record(0.0, &image), record(1.0, b""), record(7.0, &image), record(1.0, b"no image")];
    records.extend((0..6).map(|_| record(1.0, &image)));
    let (mut bytes, mut index) = (Vec::new(), String::new());
    for (key, record) in records.iter().enumerate() {
        index += &format!("{key}\t{}\n", bytes.len());
        bytes.extend(0xCED7_230A_u32.to_le_bytes());
        bytes.extend((record.len() as u32).to_le_bytes());
        bytes.extend(record);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let folder = dir.path().join("records");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("train.rec"), &bytes).unwrap();
    fs::write(folder.join("train.idx"), index).unwrap();
    fs::write(folder.join("property"), "3,112,96").unwrap();
    let run = |max_skipped: f64| {
        let options = Options { max_skipped, ..options(Store::Jpeg) };
        prepare(&Records::open(&folder).unwrap(), &options, &dir.path().join("out.h5"), &mut |_, _| {})
    };
    let parts = ["out.h5.bytes.part", "out.h5.index.part"].map(|name| dir.path().join(name));
    let error = run(0.2).unwrap_err().to_string();
    assert!(error.contains("3 of 10 images can't be used, more than the 20 % allowed:\n  record 1: at offset "));
    assert!(error.contains("label 7 is none of the 3 classes that property states\n  record 3: neither"), "{error}");
    let list = || fs::read_to_string(dir.path().join("out.h5.skipped.csv")).unwrap();
    assert_eq!(list().lines().count(), 4, "{}", list());
    assert_eq!(fs::metadata(&parts[0]).unwrap().len(), 0, "nothing was packed before all had been looked at");
    let report = run(0.3).unwrap();
    assert_eq!((report.images, report.identities, report.unusable, report.resumed), (7, 2, 3, 0));
    assert_eq!(list().lines().count(), 4, "{}", list());
    // of the excluded ones none counts
    fs::remove_file(dir.path().join("out.h5")).unwrap();
    let only_anna = Options { max_skipped: 0.3, exclude: ["1".into()].into(), ..options(Store::Jpeg) };
    let packed = |options: &Options| {
        prepare(&Records::open(&folder).unwrap(), options, &dir.path().join("out.h5"), &mut |_, _| {})
    };
    let error = packed(&only_anna).unwrap_err().to_string();
    assert!(error.contains("2 of 3 images can't be used, more than the 30 % allowed:"), "{error}");
    let report = packed(&Options { max_skipped: 0.75, ..only_anna }).unwrap();
    assert_eq!((report.images, report.unusable, report.excluded_images), (1, 2, 7));
    // without property the seventh class is one
    fs::remove_file(dir.path().join("out.h5")).unwrap();
    fs::remove_file(folder.join("property")).unwrap();
    let report = run(0.3).unwrap();
    assert_eq!((report.images, report.identities, report.unusable), (8, 3, 2));
    assert_eq!(opened(&dir).identities(), ["0", "1", "7"]);
}
