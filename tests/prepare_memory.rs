//! The memory of `amlfs prepare`, as the kernel counts it: a few bytes for each image, so that ten million fit anywhere.

mod support;

use std::borrow::Cow;
use std::io::{BufWriter, Write};
use std::path::Path;

use amlfs::data::prepare::ImageRead;
use amlfs::data::{LabelledFiles, PrepareOptions, Source, Store, Subset, prepare};
use amlfs::error::Result;
use support::{reset_peak, resident};

/// Names that nobody keeps, each of an image with one pixel.
struct Generated(usize);

impl Source for Generated {
    fn count(&self) -> usize {
        self.0
    }

    fn name(&self, index: usize) -> String {
        format!("train/n{:08}/n{:08}_{index}.pgm", index % 1000, index % 1000)
    }

    fn read(&self, index: usize) -> Result<ImageRead<'_>> {
        let bytes = [&b"P5 1 1 255\n"[..], &[index as u8]].concat();
        Ok(ImageRead { identity: Some((index % 1000) as u32), bytes: Ok(Cow::Owned(bytes)) })
    }

    fn origin(&self) -> String {
        "generated".into()
    }

    fn stamp(&self, index: usize) -> String {
        format!("12 {index} 0")
    }

    fn identity(&self, number: u32) -> String {
        number.to_string()
    }

    fn has_identity(&self, _: &str) -> bool {
        false
    }

    fn subset(&self, _: usize) -> Option<Subset> {
        Some(Subset::Train)
    }
}

/// Bytes more than before at the worst, for each of `count`.
fn of_each<T>(count: usize, work: impl FnOnce() -> T) -> (f64, T) {
    reset_peak();
    let (_, before) = resident();
    let done = work();
    ((resident().0 - before) / count as f64, done)
}

fn packed(directory: &Path, count: usize) {
    let options = PrepareOptions::new((0, 0), Store::Files, "generated");
    let report = prepare(&Generated(count), &options, &directory.join(format!("{count}.h5")), &mut |_, _| {}).unwrap();
    assert_eq!(report.images, count);
}

/// One test: the peak is the process's.
#[test]
fn a_million_names_cost_their_letters_and_few_bytes_more() {
    const NAMES: usize = 1_000_000;
    const IMAGES: usize = 100_000;
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("list.csv");
    let mut file = BufWriter::new(std::fs::File::create(&list).unwrap());
    writeln!(file, "path,label").unwrap();
    let mut letters = 0;
    for index in 0..NAMES {
        let name = Generated(NAMES).name(index);
        letters += name.len();
        writeln!(file, "{name},{}", index % 1000).unwrap();
    }
    file.into_inner().unwrap().sync_all().unwrap();
    let (listed, found) = of_each(NAMES, || LabelledFiles::open(&list).unwrap());
    assert_eq!((found.count(), found.name(NAMES - 1)), (NAMES, Generated(NAMES).name(NAMES - 1)));
    let most = letters as f64 / NAMES as f64 + 30.0;
    println!("{listed:.0} bytes for each name of a list, at most {most:.0}");
    assert!(listed < most, "{listed} bytes for each name of a list, more than {most}");
    drop(found);

    // once for what libraries allocate for good
    packed(directory.path(), 1000);
    let (each, ()) = of_each(IMAGES, || packed(directory.path(), IMAGES));
    println!("{each:.0} bytes for each image that is packed");
    assert!(each < 170.0, "{each} bytes for each image that is packed");
}
