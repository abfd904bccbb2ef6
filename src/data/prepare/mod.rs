//! Packs the images of a source into one file (docs/format.md). A run that was killed goes on where it was.

mod cifar;
pub mod exclude;
mod face_tree;
mod folder;
mod journal;
mod labelled_files;
mod market;
mod market_tree;
pub mod recordio;
mod records;
mod source;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::atomic_file::with_suffix;
use crate::data::jpeg_encoder::to_jpeg;
use crate::data::packed::{self, Content, Packed, Store, Subset};
use crate::data::skipped::{self, write_skipped};
use crate::data::{Images, decode, sources};
use crate::error::{Error, Result};
use crate::run_lock::RunLock;
use journal::{Done, Entry, Journal, StampPrint};

pub use cifar::CifarFiles;
pub use face_tree::FaceTree;
pub use folder::Folder;
pub use labelled_files::LabelledFiles;
pub use market::Market;
pub use market_tree::MarketTree;
pub use records::Records;
pub use source::{ImageRead, Source};

/// What is resized would be too large, and shows nothing, if one side were more often the other one than this.
const MOST_UNEVEN: u32 = 100;
/// Images that a worker may be ahead of the writer.
const QUEUE: usize = 16;

#[derive(Clone, Debug)]
pub struct Options {
    /// Height and width in pixels; (0, 0) with `Store::Files`.
    pub size: (usize, usize),
    pub store: Store,
    /// One's own images: turned as their EXIF tag says, and without strips (one side 100 times the other).
    pub photographs: bool,
    /// With `Store::Files`: images whose shorter side is longer than this get it, as JPEG. Others stay as they are.
    pub shorter_side: Option<u32>,
    /// Names of identities to leave out.
    pub exclude: HashSet<String>,
    /// Part of the images, without the excluded ones, that may be unusable.
    pub max_skipped: f64,
    /// Worker threads; they decode, resize and encode.
    pub threads: usize,
    /// Where the images come from, for people who look into the file.
    pub source: String,
    /// RFC 3339; goes into the file.
    pub date: String,
}

impl Options {
    /// Nothing excluded, 1 % unusable images allowed, a thread per core, now.
    pub fn new(size: (usize, usize), store: Store, source: impl Into<String>) -> Options {
        Options {
            size,
            store,
            photographs: false,
            shorter_side: None,
            exclude: HashSet::new(),
            max_skipped: 0.01,
            threads: thread::available_parallelism().map_or(1, |threads| threads.get()),
            source: source.into(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
    }

    fn excludes(&self, source: &dyn Source, identity: u32) -> bool {
        !self.exclude.is_empty() && self.exclude.contains(&source.identity(identity))
    }
}

/// What became of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PackingReport {
    /// Images that the packed file holds.
    pub images: usize,
    pub identities: usize,
    pub excluded_images: usize,
    pub excluded_identities: usize,
    /// Images that can't be used, then `Source::ignored`: (name, why).
    pub skipped: Vec<(String, String)>,
    /// How many of `skipped` are images that can't be used: damaged, unreadable, of no identity.
    pub unusable: usize,
    /// Identities without a usable image.
    pub empty: Vec<String>,
    /// Images that an earlier, interrupted call had done.
    pub resumed: usize,
    /// `out` was made by an earlier call with the same source and options; then all but `images` and `identities` is 0.
    pub finished_before: bool,
}

/// Packs `source` into the new file `out`. Identities with at least one usable image get the labels 0, 1, ... in the
/// order of their numbers.
///
/// Until the end, the work is kept in `<out>.bytes.part` and `<out>.index.part`, from which a second call with the same
/// source and options continues, even after kill -9. Images whose file has changed since are done again, and so are those
/// that could not be used. What was left out, and why, is listed in `<out>.skipped.csv`. `progress` gets the images done
/// and all images. Needs room for the images twice on file systems that can't share blocks between files.
///
/// Before the first image is decoded, `Source::look` is asked about all: too many unusable ones end it at once. Until the end,
/// `<out>.owner` keeps other processes away.
///
/// Errors: `out` exists and was not made of this source with these options; parts of other options or of another source;
/// the source can't be read; no space; no usable image; too many unusable ones; another process makes `out`. The parts are kept.
pub fn prepare(
    source: &dyn Source,
    options: &Options,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PackingReport> {
    let header = header(source, options);
    if out.exists() {
        return finished_before(source, &header, out);
    }
    let lock = RunLock::take_output(out)?;
    // by an owner that has just ended
    if out.exists() {
        return finished_before(source, &header, out);
    }
    let mut journal = Journal::open(out, &header, source)?;
    let resumed = journal.done.iter().flatten().count();
    if resumed > 0 {
        log::info!("{}: {resumed} of {} images are done already", out.display(), source.count());
    }
    let (unusable, all) = look(source, options, &journal);
    check_skipped(out, source, options, (&unusable, all), &journal)?;
    let processed = process(source, options, &mut journal, &lock, progress);
    // also what was done before an error, which is the one to report
    let flushed = journal.flush();
    processed?;
    flushed?;

    let (report, stored, mut content) = summarize(source, options, &journal.done, resumed);
    let stamp = |index: usize| journal.done[index].as_ref().map_or(StampPrint::of(""), |done| done.stamp);
    content.input = Input { header, images: digest(source, stamp) }.to_string();
    let unusable = (&report.skipped[..report.unusable], report.images + report.unusable);
    check_skipped(out, source, options, unusable, &journal)?;
    write_skipped(&with_suffix(out, ".skipped.csv"), &report.skipped)?;
    if content.labels.is_empty() {
        return Err(Error::failed(format!("{}: the source has no usable image", out.display())));
    }
    check_trained(&content).map_err(|why| Error::file(out, why))?;
    let (bytes, pieces) = journal.bytes()?;
    // not needed any more, and large
    journal.done = Vec::new();
    let name = |number: usize| source.name(stored[number] as usize);
    packed::write(out, &content, &name, &bytes, &pieces, &|| lock.check()).map_err(|error| {
        let parts = journal.paths();
        Error::failed(format!("{error}; the images are kept in {parts} for another call; delete these to start anew"))
    })?;
    Journal::remove(out)?;
    Ok(report)
}

/// Source and options: whether parts belong to them.
fn header(source: &dyn Source, options: &Options) -> String {
    let mut hasher = crc32fast::Hasher::new();
    for name in options.exclude.iter().collect::<BTreeSet<_>>() {
        hasher.update(name.as_bytes());
        hasher.update(b"\n");
    }
    let shorter = options.shorter_side.map_or(String::new(), |side| format!(" with shorter sides of {side}"));
    format!(
        "amlfs prepare 2: {} as {}{shorter} of {} x {} without {} identities ({:08x})",
        source.origin(),
        options.store.name(),
        options.size.0,
        options.size.1,
        options.exclude.len(),
        hasher.finalize(),
    )
}

/// All that a packed file is made from, as one line.
struct Input {
    header: String,
    /// Digest of all images' names and stamps.
    images: u32,
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}; images {:08x}", self.header, self.images)
    }
}

fn digest(source: &dyn Source, stamp: impl Fn(usize) -> StampPrint) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for index in 0..source.count() {
        hasher.update(source.name(index).as_bytes());
        hasher.update(b"\n");
        stamp(index).update(&mut hasher);
        hasher.update(b"\n");
    }
    hasher.finalize()
}

/// What `out` holds, if this call would make it again.
fn finished_before(source: &dyn Source, header: &str, out: &Path) -> Result<PackingReport> {
    let refused = |why: String| Error::file(out, format!("exists already{why}; remove it or choose another name"));
    // whatever it is, it is not to be replaced
    let packed = Packed::open(out).map_err(|_| refused(String::new()))?;
    let input =
        Input { header: header.to_owned(), images: digest(source, |index| StampPrint::of(&source.stamp(index))) }
            .to_string();
    match packed.input() {
        Some(found) if found == input => {}
        Some(found) if found.starts_with(&format!("{header};")) => {
            return Err(refused(", and files of its source have changed, come or gone since it was made".into()));
        }
        Some(found) => return Err(refused(format!(", made from something else ({found}; now {header})"))),
        None => return Err(refused(String::new())),
    }
    // left by a kill between the two
    Journal::remove(out)?;
    let (images, identities) = (packed.count(), packed.identities().len());
    Ok(PackingReport { images, identities, finished_before: true, ..PackingReport::default() })
}

/// Decodes, fits and encodes on worker threads what the journal lacks; appends it in order.
fn process(
    source: &dyn Source,
    options: &Options,
    journal: &mut Journal,
    lock: &RunLock,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let count = source.count();
    let open: Vec<u32> = (0..count as u32).filter(|&index| journal.done[index as usize].is_none()).collect();
    let (open, before) = (&open[..], count - open.len());
    let threads = options.threads.max(1);
    thread::scope(|scope| {
        // a queue per worker, taken from in turn, keeps the order and bounds the memory
        let queues: Vec<_> = (0..threads)
            .map(|worker| {
                let (sender, queue) = mpsc::sync_channel(QUEUE);
                scope.spawn(move || {
                    for &index in open.iter().skip(worker).step_by(threads) {
                        // an error: the writer has given up
                        if sender.send(convert(source, options, index as usize)).is_err() {
                            return;
                        }
                    }
                });
                queue
            })
            .collect();
        progress(before, count);
        for (turn, index) in open.iter().map(|&index| index as usize).enumerate() {
            let converted = queues[turn % threads].recv();
            // the scope repeats the worker's panic
            let Converted { entry, stamp, image } =
                converted.map_err(|_| Error::failed("a worker thread panicked"))??;
            lock.check()?;
            journal.append(index, &source.name(index), &stamp, entry, &image)?;
            progress(before + turn + 1, count);
        }
        Ok(())
    })
}

/// An image's part of the journal, and the bytes to store.
struct Converted<'a> {
    entry: Entry,
    stamp: String,
    image: Cow<'a, [u8]>,
}

fn convert<'a>(source: &'a dyn Source, options: &Options, index: usize) -> Result<Converted<'a>> {
    // before the image: what is changed in between is then done again
    let stamp = source.stamp(index);
    let ImageRead { identity, bytes } = source.read(index)?;
    let skipped = |reason: String| (Entry::Skipped { identity, reason: reason.into() }, Cow::default());
    let (entry, image) = match (identity, bytes) {
        (Some(identity), _) if options.excludes(source, identity) => (Entry::Excluded { identity }, Cow::default()),
        (Some(identity), Ok(bytes)) => match encode(bytes, options) {
            Ok(image) => {
                (Entry::Stored { identity, length: image.len() as u64, crc32: crc32fast::hash(&image) }, image)
            }
            Err(reason) => skipped(reason),
        },
        (None, Ok(_)) => skipped("it is of no identity".into()),
        (_, Err(reason)) => skipped(reason),
    };
    Ok(Converted { entry, stamp, image })
}

fn encode<'a>(bytes: Cow<'a, [u8]>, options: &Options) -> std::result::Result<Cow<'a, [u8]>, String> {
    let image = if options.photographs { decode::upright(&bytes)? } else { decode::any(&bytes)? };
    let (longer, shorter) = (image.width().max(image.height()), image.width().min(image.height()));
    if options.photographs && longer > MOST_UNEVEN * shorter {
        let (height, width) = (image.height(), image.width());
        return Err(format!("{height} x {width} pixels: one side is more than {MOST_UNEVEN} times the other"));
    }
    let fits = (image.height() as usize, image.width() as usize) == options.size;
    match options.store {
        // encoding it once more would lose quality
        Store::Jpeg if fits && decode::is_jpeg(&bytes) => Ok(bytes),
        Store::Jpeg => to_jpeg(&sources::fit(image, options.size)).map(Cow::Owned),
        Store::Raw => Ok(Cow::Owned(sources::fit(image, options.size).into_raw())),
        // decoded only to find the damaged ones, unless they are too large
        Store::Files => match options.shorter_side.and_then(|side| sources::shorter_side(&image, side)) {
            Some(smaller) => to_jpeg(&smaller).map(Cow::Owned),
            None => Ok(bytes),
        },
    }
}

/// Also the numbers of the images that are stored.
fn summarize(
    source: &dyn Source,
    options: &Options,
    done: &[Option<Done>],
    resumed: usize,
) -> (PackingReport, Vec<u32>, Content) {
    let entries = || done.iter().enumerate().filter_map(|(index, done)| Some((index, &done.as_ref()?.entry)));
    let mut usable = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut excluded = BTreeSet::new();
    for (_, entry) in entries() {
        match entry {
            Entry::Stored { identity, .. } => usable.extend([*identity]),
            Entry::Skipped { identity, .. } => seen.extend(*identity),
            Entry::Excluded { identity } => excluded.extend([*identity]),
        };
    }
    let labels: BTreeMap<u32, u32> = usable.iter().copied().zip(0..).collect();

    let mut report = PackingReport {
        identities: labels.len(),
        excluded_identities: excluded.len(),
        resumed,
        ..PackingReport::default()
    };
    let mut content = Content {
        size: options.size,
        store: options.store,
        source: options.source.clone(),
        input: String::new(),
        date: options.date.clone(),
        lengths: Vec::new(),
        crc32: Vec::new(),
        labels: Vec::new(),
        identities: usable.iter().map(|&identity| source.identity(identity)).collect(),
        cameras_and_splits: None,
        subsets: None,
    };
    let mut stored = Vec::new();
    for (index, entry) in entries() {
        match entry {
            Entry::Stored { identity, length, crc32 } => {
                stored.push(index as u32);
                content.lengths.push(*length);
                content.crc32.push(*crc32);
                content.labels.push(labels[identity]);
                if let Some((camera, split)) = source.camera_and_split(index) {
                    let cameras_and_splits = content.cameras_and_splits.get_or_insert_default();
                    cameras_and_splits.cameras.push(camera);
                    cameras_and_splits.splits.push(split);
                }
                if let Some(subset) = source.subset(index) {
                    content.subsets.get_or_insert_default().push(subset);
                }
            }
            Entry::Excluded { .. } => report.excluded_images += 1,
            Entry::Skipped { reason, .. } => report.skipped.push((source.name(index), reason.to_string())),
        }
    }
    report.images = content.labels.len();
    report.unusable = report.skipped.len();
    report.skipped.extend_from_slice(source.ignored());
    let without_image = source.empty_identities();
    report.empty = seen.difference(&usable).map(|&identity| source.identity(identity)).collect();
    report.empty.extend(without_image.iter().filter(|name| !options.exclude.contains(*name)).cloned());
    (report, stored, content)
}

/// Error: a class has usable images to test, but none to train on.
fn check_trained(content: &Content) -> std::result::Result<(), String> {
    let Some(subsets) = &content.subsets else { return Ok(()) };
    let mut trained = vec![false; content.identities.len()];
    for (&label, _) in content.labels.iter().zip(subsets).filter(|(_, subset)| **subset == Subset::Train) {
        trained[label as usize] = true;
    }
    match trained.iter().position(|trained| !trained) {
        Some(label) => Err(format!(
            "the class {:?} has images to validate or to test, but none to train on that can be used (see the list of what was \
             skipped); repair these, or take the class out",
            content.identities[label]
        )),
        None if trained.len() < 2 => Err(format!(
            "only the class {:?} has images that can be used: classification wants two or more",
            content.identities[0]
        )),
        None => Ok(()),
    }
}

/// Looks at what the journal lacks, as far as that goes without decoding it: (name, why) of what can't be used, and how many
/// images there are without the excluded ones.
fn look(source: &dyn Source, options: &Options, journal: &Journal) -> (Vec<(String, String)>, usize) {
    let open: Vec<u32> = (0..source.count() as u32).filter(|&index| journal.done[index as usize].is_none()).collect();
    let excluded_before =
        journal.done.iter().flatten().filter(|done| matches!(done.entry, Entry::Excluded { .. })).count();
    // a thread has a part of its own, so that files are read on
    let share = open.len().div_ceil(options.threads.max(1)).max(1);
    let look = |share: &[u32]| {
        let (mut images, mut excluded) = (Vec::new(), 0);
        for index in share.iter().map(|&index| index as usize) {
            match source.look(index) {
                (Some(identity), _) if options.excludes(source, identity) => excluded += 1,
                (_, Some(why)) => images.push((source.name(index), why)),
                (_, None) => {}
            }
        }
        (images, excluded)
    };
    let (images, excluded): (Vec<_>, Vec<usize>) = thread::scope(|scope| {
        let looking: Vec<_> = open.chunks(share).map(|share| scope.spawn(|| look(share))).collect();
        looking.into_iter().map(|thread| thread.join().expect("no panic while looking")).unzip()
    });
    (images.concat(), source.count() - excluded_before - excluded.iter().sum::<usize>())
}

/// Error: of so many images more can't be used than may be; then all of these are listed.
fn check_skipped(
    out: &Path,
    source: &dyn Source,
    options: &Options,
    (unusable, all): (&[(String, String)], usize),
    journal: &Journal,
) -> Result<()> {
    if unusable.len() as f64 <= options.max_skipped * all as f64 {
        return Ok(());
    }
    let list = with_suffix(out, ".skipped.csv");
    write_skipped(&list, &[unusable, source.ignored()].concat())?;
    Err(Error::failed(format!(
        "{}: {} of {all} images can't be used, more than the {} % allowed:{}\nAllow more (--max-skipped), or repair them, and \
         repeat the command: what is done is kept in {}",
        out.display(),
        unusable.len(),
        options.max_skipped * 100.0,
        skipped::named(unusable, Some(&list)),
        journal.paths(),
    )))
}
