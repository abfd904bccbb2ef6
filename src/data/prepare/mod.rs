//! Packs the images of a source into one file (docs/format.md). A run that was killed goes on where it was.

mod face_tree;
mod folder;
mod journal;
mod market;
mod market_tree;
pub mod recordio;
mod records;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use crate::atomic_file::{self, with_suffix};
use crate::data::decode;
use crate::data::packed::{self, Content, Split, Store};
use crate::error::{Error, Result};
use journal::{Entry, Journal};

pub use face_tree::FaceTree;
pub use folder::Folder;
pub(super) use folder::{EXTENSIONS, is_hidden, is_image};
pub use market::Market;
pub use market_tree::MarketTree;
pub use records::Records;

/// Images that a worker may be ahead of the writer.
const QUEUE: usize = 16;
/// Bad images that an error message names.
const NAMED: usize = 10;

/// Encoded images with identities, addressed by number. Shared by the worker threads.
pub trait Source: Sync {
    fn count(&self) -> usize;

    /// For messages and the column `name`: path below the root or record key.
    fn name(&self, index: usize) -> String;

    /// Identity number and encoded image (JPEG, PNG, PNM).
    ///
    /// Errors: ends the whole work, to be continued; an image that can't be decoded should be returned as it is.
    fn read(&self, index: usize) -> Result<(u32, Cow<'_, [u8]>)>;

    /// The identity's name: what `Options::exclude` lists and the column `identity` says.
    fn identity(&self, number: u32) -> String;

    /// Camera and split of image `index`; of people only, then of every image.
    fn camera_and_split(&self, _index: usize) -> Option<(u32, Split)> {
        None
    }

    /// What lies in the source but is no image of an identity: (name, why).
    fn ignored(&self) -> &[(String, String)] {
        &[]
    }

    /// Names of identities that have no images at all.
    fn empty_identities(&self) -> &[String] {
        &[]
    }
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Height and width in pixels; (0, 0) with `Store::Files`.
    pub size: (usize, usize),
    pub store: Store,
    /// Names of identities to leave out.
    pub exclude: HashSet<String>,
    /// Part of the images, without the excluded ones, that may be undecodable.
    pub max_skipped: f64,
    /// Worker threads; they decode, resize and encode.
    pub threads: usize,
    /// Where the images come from, for people who look into the file.
    pub source: String,
    /// RFC 3339; goes into the file.
    pub date: String,
}

impl Options {
    /// Nothing excluded, 1 % undecodable images allowed, a thread per core, now.
    pub fn new(size: (usize, usize), store: Store, source: impl Into<String>) -> Options {
        Options {
            size,
            store,
            exclude: HashSet::new(),
            max_skipped: 0.01,
            threads: thread::available_parallelism().map_or(1, |threads| threads.get()),
            source: source.into(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        }
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
    /// Excluded names that the source has no image of.
    pub unknown_exclusions: usize,
    /// Images that can't be decoded, then `Source::ignored`: (name, why).
    pub skipped: Vec<(String, String)>,
    /// How many of `skipped` are images that can't be decoded.
    pub undecodable: usize,
    /// Identities without a usable image.
    pub empty: Vec<String>,
    /// Images that an earlier, interrupted call had done.
    pub resumed: usize,
}

/// Packs `source` into the new file `out`. Identities with at least one usable image get the labels 0, 1, ... in the
/// order of their numbers.
///
/// Until the end, the work is kept in `<out>.bytes.part` and `<out>.index.part`, from which a second call with the same
/// source and options continues, even after kill -9. What was left out, and why, is listed in `<out>.skipped.csv`.
/// `progress` gets the images done and all images. Needs room for the images twice on file systems that can't share
/// blocks between files.
///
/// Errors: `out` exists; parts of other options or of another source; the source can't be read; no space; no usable
/// image; too many undecodable ones. The parts are kept.
pub fn prepare(
    source: &dyn Source,
    options: &Options,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PackingReport> {
    atomic_file::refuse_existing(out)?;
    let mut journal = Journal::open(out, &header(source, options))?;
    let resumed = journal.entries.len();
    if resumed > 0 {
        log::info!("{}: {resumed} of {} images are done already", out.display(), source.count());
    }
    let processed = process(source, options, &mut journal, progress);
    // also what was done before an error, which is the one to report
    let flushed = journal.flush();
    processed?;
    flushed?;

    let (report, content) = summarize(source, options, &journal.entries, resumed);
    write_skipped(&with_suffix(out, ".skipped.csv"), &report.skipped)?;
    if report.unknown_exclusions > 0 {
        let of = options.exclude.len();
        log::warn!("{} of {of} identities to exclude have no image in the source", report.unknown_exclusions);
    }
    check_skipped(out, options, &report, &journal)?;
    if content.labels.is_empty() {
        return Err(Error::failed(format!("{}: the source has no usable image", out.display())));
    }
    packed::write(out, &content, &journal.bytes()?).map_err(|error| {
        let parts = journal.paths();
        Error::failed(format!("{error}; the images are kept in {parts} for another call; delete these to start anew"))
    })?;
    journal.remove()?;
    Ok(report)
}

/// Tells whether parts belong to this source and these options.
fn header(source: &dyn Source, options: &Options) -> String {
    let digest = |texts: &mut dyn Iterator<Item = String>| {
        let mut hasher = crc32fast::Hasher::new();
        texts.for_each(|text| {
            hasher.update(text.as_bytes());
            hasher.update(b"\n");
        });
        hasher.finalize()
    };
    let names = digest(&mut (0..source.count()).map(|index| source.name(index)));
    let excluded: BTreeSet<&String> = options.exclude.iter().collect();
    let exclusion = digest(&mut excluded.into_iter().cloned());
    format!(
        "amlfs prepare 1: {} images (names {names:08x}) as {} of {} x {} without {} identities ({exclusion:08x})",
        source.count(),
        options.store.name(),
        options.size.0,
        options.size.1,
        options.exclude.len(),
    )
}

/// Decodes, fits and encodes on worker threads what the journal lacks; appends it in order.
fn process(
    source: &dyn Source,
    options: &Options,
    journal: &mut Journal,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let (first, count) = (journal.entries.len(), source.count());
    let threads = options.threads.max(1);
    thread::scope(|scope| {
        // a queue per worker, taken from in turn, keeps the order and bounds the memory
        let queues: Vec<_> = (0..threads)
            .map(|worker| {
                let (sender, queue) = mpsc::sync_channel(QUEUE);
                scope.spawn(move || {
                    for index in (first + worker..count).step_by(threads) {
                        // an error: the writer has given up
                        if sender.send(convert(source, options, index)).is_err() {
                            return;
                        }
                    }
                });
                queue
            })
            .collect();
        progress(first, count);
        for index in first..count {
            let converted = queues[(index - first) % threads].recv();
            // the scope repeats the worker's panic
            let (entry, image) = converted.map_err(|_| Error::failed("a worker thread panicked"))??;
            journal.append(entry, &image)?;
            progress(index + 1, count);
        }
        Ok(())
    })
}

/// The journal's entry for an image, and the bytes to store.
fn convert<'a>(source: &'a dyn Source, options: &Options, index: usize) -> Result<(Entry, Cow<'a, [u8]>)> {
    let (identity, bytes) = source.read(index)?;
    if !options.exclude.is_empty() && options.exclude.contains(&source.identity(identity)) {
        return Ok((Entry::Excluded { identity }, Cow::default()));
    }
    Ok(match encode(bytes, options) {
        Ok(image) => (Entry::Stored { identity, length: image.len() as u64, crc32: crc32fast::hash(&image) }, image),
        Err(reason) => (Entry::Skipped { identity, reason }, Cow::default()),
    })
}

fn encode<'a>(bytes: Cow<'a, [u8]>, options: &Options) -> std::result::Result<Cow<'a, [u8]>, String> {
    let image = decode::any(&bytes)?;
    let fits = (image.height() as usize, image.width() as usize) == options.size;
    match options.store {
        // encoding it once more would lose quality
        Store::Jpeg if fits && decode::is_jpeg(&bytes) => Ok(bytes),
        Store::Jpeg => decode::to_jpeg(&decode::fit(image, options.size)).map(Cow::Owned),
        Store::Raw => Ok(Cow::Owned(decode::fit(image, options.size).into_raw())),
        // decoded only to find the damaged ones
        Store::Files => Ok(bytes),
    }
}

fn summarize(source: &dyn Source, options: &Options, entries: &[Entry], resumed: usize) -> (PackingReport, Content) {
    let mut usable = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut excluded = BTreeSet::new();
    for entry in entries {
        match entry {
            Entry::Stored { identity, .. } => usable.insert(*identity),
            Entry::Skipped { identity, .. } => seen.insert(*identity),
            Entry::Excluded { identity } => excluded.insert(*identity),
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
        date: options.date.clone(),
        lengths: Vec::new(),
        crc32: Vec::new(),
        labels: Vec::new(),
        names: Vec::new(),
        identities: usable.iter().map(|&identity| source.identity(identity)).collect(),
        cameras_and_splits: None,
    };
    for (index, entry) in entries.iter().enumerate() {
        match entry {
            Entry::Stored { identity, length, crc32 } => {
                content.lengths.push(*length);
                content.crc32.push(*crc32);
                content.labels.push(labels[identity]);
                content.names.push(source.name(index));
                if let Some((camera, split)) = source.camera_and_split(index) {
                    let cameras_and_splits = content.cameras_and_splits.get_or_insert_default();
                    cameras_and_splits.cameras.push(camera);
                    cameras_and_splits.splits.push(split);
                }
            }
            Entry::Excluded { .. } => report.excluded_images += 1,
            Entry::Skipped { reason, .. } => report.skipped.push((source.name(index), reason.clone())),
        }
    }
    report.images = content.labels.len();
    report.undecodable = report.skipped.len();
    report.skipped.extend_from_slice(source.ignored());
    let without_image = source.empty_identities();
    report.empty = seen.difference(&usable).map(|&identity| source.identity(identity)).collect();
    report.empty.extend(without_image.iter().filter(|name| !options.exclude.contains(*name)).cloned());
    let known: HashSet<String> = excluded.iter().map(|&identity| source.identity(identity)).collect();
    let unknown = |name: &&String| !known.contains(*name) && !without_image.contains(name);
    report.unknown_exclusions = options.exclude.iter().filter(unknown).count();
    (report, content)
}

fn check_skipped(out: &Path, options: &Options, report: &PackingReport, journal: &Journal) -> Result<()> {
    let all = report.images + report.undecodable;
    if report.undecodable as f64 <= options.max_skipped * all as f64 {
        return Ok(());
    }
    let named: String = report
        .skipped
        .iter()
        .take(report.undecodable.min(NAMED))
        .map(|(name, why)| format!("\n  {name}: {why}"))
        .collect();
    let more = report.undecodable.saturating_sub(NAMED);
    let more = if more > 0 {
        format!("\n  and {more} more, see {}", with_suffix(out, ".skipped.csv").display())
    } else {
        String::new()
    };
    Err(Error::failed(format!(
        "{}: {} of {all} images can't be decoded, more than the {} % allowed:{named}{more}\nAllow more (--max-skipped), or repair them, delete {} and start again",
        out.display(),
        report.undecodable,
        options.max_skipped * 100.0,
        journal.paths(),
    )))
}

/// Writes what was left out, and why. No file if nothing was.
pub fn write_skipped(path: &Path, skipped: &[(String, String)]) -> Result<()> {
    if skipped.is_empty() {
        // an earlier call may have left one
        return if path.exists() { fs::remove_file(path).map_err(|why| Error::file(path, why)) } else { Ok(()) };
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = [["name", "why"]].into_iter().chain(skipped.iter().map(|(name, why)| [name.as_str(), why]));
    rows.into_iter().try_for_each(|row| writer.write_record(row)).map_err(|why| Error::file(path, why))?;
    atomic_file::write_bytes(path, &writer.into_inner().map_err(|why| Error::file(path, why))?)
}
