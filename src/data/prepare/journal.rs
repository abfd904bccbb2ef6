//! What was done so far: the images' bytes in one file, a line for each processed image in the other.
//!
//! After kill -9 or a crash either file may end anywhere. What counts is the longest run of whole lines whose bytes are
//! there; the rest is cut off. Of these lines count those whose image is what it was (`Source::stamp`); the last one, if
//! an image has been done again. What was left out is done again always: it may have been repaired.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::source::Source;
use crate::atomic_file::with_suffix;
use crate::error::{Error, Result};

/// Images after which both files are handed to the operating system.
const FLUSH: usize = 64;

/// What became of an image of the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Its bytes are the next `length` of the bytes file.
    Stored {
        identity: u32,
        length: u64,
        crc32: u32,
    },
    Excluded {
        identity: u32,
    },
    Skipped {
        /// `None`: not even that is known.
        identity: Option<u32>,
        reason: Box<str>,
    },
}

/// An entry, from which image it was made, and where its bytes begin.
#[derive(Clone, Debug, PartialEq)]
pub struct Done {
    pub entry: Entry,
    pub stamp: StampPrint,
    start: u64,
}

/// A stamp (`Source::stamp`) in few bytes: enough to go on with a checksum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StampPrint {
    crc32: u32,
    length: u32,
}

impl StampPrint {
    pub fn of(stamp: &str) -> StampPrint {
        StampPrint { crc32: crc32fast::hash(stamp.as_bytes()), length: stamp.len() as u32 }
    }

    /// As if the stamp's text went on.
    pub fn update(self, hasher: &mut crc32fast::Hasher) {
        hasher.combine(&crc32fast::Hasher::new_with_initial_len(self.crc32, self.length as u64));
    }
}

pub struct Journal {
    // dropped, and so flushed, before the index
    bytes: BufWriter<File>,
    index: BufWriter<File>,
    bytes_path: PathBuf,
    index_path: PathBuf,
    /// Length of the bytes file.
    length: u64,
    lines: usize,
    /// One for each image of the source that is done.
    pub done: Vec<Option<Done>>,
}

impl Journal {
    /// Opens or creates `<out>.bytes.part` and `<out>.index.part`; `header` is one line.
    ///
    /// Errors: the files belong to another header, or can't be read or written.
    pub fn open(out: &Path, header: &str, source: &dyn Source) -> Result<Journal> {
        let [bytes_path, index_path] = parts(out);
        let mut bytes = open_part(&bytes_path)?;
        let mut index = open_part(&index_path)?;
        let header = format!("{header}\n");
        let mut lines = BufReader::new(&index);
        let mut first = Vec::new();
        lines.read_until(b'\n', &mut first).map_err(|why| Error::file(&index_path, why))?;
        let mut kept = Kept::default();
        let mut done = vec![None; source.count()];
        // an incomplete first line: killed before anything was done
        if first.ends_with(b"\n") {
            if first != *header.as_bytes() {
                let found = String::from_utf8_lossy(&first[..first.len() - 1]).into_owned();
                let why = format!(
                    "is of another run ({found}; now {}); delete it and {} to start anew, or choose another --out",
                    header.trim_end(),
                    bytes_path.display()
                );
                return Err(Error::file(&index_path, why));
            }
            kept = whole_lines(&mut lines, &mut bytes).map_err(|why| Error::file(&bytes_path, why))?;
            lines.seek(SeekFrom::Start(first.len() as u64)).map_err(|why| Error::file(&index_path, why))?;
            still_valid(lines, kept.lines, source, &mut done).map_err(|why| Error::file(&index_path, why))?;
            kept.line_end += first.len() as u64;
        }
        cut(&mut bytes, kept.total).map_err(|why| Error::file(&bytes_path, why))?;
        cut(&mut index, kept.line_end).map_err(|why| Error::file(&index_path, why))?;

        let bytes = BufWriter::with_capacity(1 << 20, bytes);
        let index = BufWriter::new(index);
        let Kept { lines, line_end, total: length } = kept;
        let mut journal = Journal { bytes, index, bytes_path, index_path, length, lines, done };
        if line_end == 0 {
            journal.write_index(header.as_bytes())?;
            journal.flush()?;
        }
        Ok(journal)
    }

    /// Adds image `number` of the source, called `name`; `image` is empty unless it is stored.
    pub fn append(&mut self, number: usize, name: &str, stamp: &str, entry: Entry, image: &[u8]) -> Result<()> {
        let line = line(number, name, stamp, &entry).map_err(|why| Error::file(&self.index_path, why))?;
        self.bytes.write_all(image).map_err(|why| Error::file(&self.bytes_path, why))?;
        self.write_index(&line)?;
        self.done[number] = Some(Done { entry, stamp: StampPrint::of(stamp), start: self.length });
        self.length += image.len() as u64;
        self.lines += 1;
        if self.lines.is_multiple_of(FLUSH) { self.flush() } else { Ok(()) }
    }

    fn write_index(&mut self, line: &[u8]) -> Result<()> {
        self.index.write_all(line).map_err(|why| Error::file(&self.index_path, why))
    }

    /// From here on a killed process loses nothing.
    pub fn flush(&mut self) -> Result<()> {
        self.bytes.flush().map_err(|why| Error::file(&self.bytes_path, why))?;
        self.index.flush().map_err(|why| Error::file(&self.index_path, why))
    }

    /// The file of the images' bytes, and where in it those of the stored images are, in the order of the source: one
    /// range, unless images were done again.
    pub fn bytes(&mut self) -> Result<(File, Vec<Range<u64>>)> {
        self.flush()?;
        let mut pieces: Vec<Range<u64>> = Vec::new();
        for done in self.done.iter().flatten() {
            let Entry::Stored { length, .. } = done.entry else { continue };
            match pieces.last_mut() {
                Some(last) if last.end == done.start => last.end += length,
                _ => pieces.push(done.start..done.start + length),
            }
        }
        Ok((File::open(&self.bytes_path).map_err(|why| Error::file(&self.bytes_path, why))?, pieces))
    }

    /// Both files, for messages.
    pub fn paths(&self) -> String {
        format!("{} and {}", self.bytes_path.display(), self.index_path.display())
    }

    /// Removes the two files of `out`, which is finished.
    pub fn remove(out: &Path) -> Result<()> {
        let removed = parts(out).into_iter().map(|path| match fs::remove_file(&path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                Err(Error::file(&path, format!("can't be removed: {why}")))
            }
            _ => Ok(()),
        });
        removed.collect()
    }
}

fn parts(out: &Path) -> [PathBuf; 2] {
    [with_suffix(out, ".bytes.part"), with_suffix(out, ".index.part")]
}

/// For each image of the source what is still true of it, by the first `count` lines.
fn still_valid(
    mut lines: impl BufRead,
    count: usize,
    source: &dyn Source,
    done: &mut [Option<Done>],
) -> io::Result<()> {
    // other numbers than before only where images were added or removed
    let mut numbers: Option<HashMap<u64, Option<u32>>> = None;
    let (mut line, mut start) = (Vec::new(), 0);
    for _ in 0..count {
        line.clear();
        lines.read_until(b'\n', &mut line)?;
        let Some(Line { number, name, stamp, entry }) = parse(&line) else { break };
        let is_named = |index: usize| index < source.count() && quoted(&source.name(index)) == name;
        let index = match is_named(number) {
            true => Some(number),
            false => numbers
                .get_or_insert_with(|| by_name(source))
                .get(&hashed(&name))
                .copied()
                .flatten()
                .map(|index| index as usize),
        };
        let begin = start;
        if let Entry::Stored { length, .. } = entry {
            start += length;
        }
        let index = index.filter(|&index| is_named(index));
        if let Some(index) = index {
            let valid = !matches!(entry, Entry::Skipped { .. }) && stamp == source.stamp(index);
            done[index] = valid.then(|| Done { entry, stamp: StampPrint::of(&stamp), start: begin });
        }
    }
    Ok(())
}

/// Numbers by the hashes of quoted names. `None`: two have one (names that are not text are replaced, and so may be equal).
fn by_name(source: &dyn Source) -> HashMap<u64, Option<u32>> {
    let mut numbers = HashMap::new();
    for index in 0..source.count() {
        let number = numbers.entry(hashed(&quoted(&source.name(index))));
        number.and_modify(|number| *number = None).or_insert(Some(index as u32));
    }
    numbers
}

fn hashed(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// Without line ends.
fn quoted(name: &str) -> String {
    format!("{name:?}")
}

fn open_part(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    opened.map_err(|why| Error::file(path, format!("can't be opened: {why}")))
}

fn cut(file: &mut File, length: u64) -> io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    Ok(())
}

/// Number, quoted name and stamp of an image, and what was done with it.
#[derive(Debug, PartialEq)]
struct Line {
    number: usize,
    name: String,
    stamp: String,
    entry: Entry,
}

/// What of the two files counts.
#[derive(Clone, Copy, Default)]
struct Kept {
    lines: usize,
    /// Where the last of them ends, from the first one on.
    line_end: u64,
    /// Where its bytes end.
    total: u64,
}

/// Lines whose bytes are there.
fn whole_lines(lines: &mut impl BufRead, bytes: &mut File) -> io::Result<Kept> {
    let room = bytes.metadata()?.len();
    // before each stored image, with its length and checksum
    let (mut stored, mut kept) = (Vec::new(), Kept::default());
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let Some(found) = parse(&line) else { break };
        if let Entry::Stored { length, crc32, .. } = found.entry {
            match u64::checked_add(kept.total, length) {
                Some(end) if end <= room => {
                    stored.push((kept, length, crc32));
                    kept.total = end;
                }
                _ => break,
            }
        }
        kept.lines += 1;
        kept.line_end += line.len() as u64;
        line.clear();
    }
    // after a power failure the bytes may have the right length, but not the right content
    while let Some((before, length, crc32)) = stored.pop() {
        if matches(bytes, before.total, length, crc32)? {
            break;
        }
        kept = before;
    }
    Ok(kept)
}

fn matches(bytes: &mut File, start: u64, length: u64, crc32: u32) -> io::Result<bool> {
    let mut image = Vec::new();
    bytes.seek(SeekFrom::Start(start))?;
    bytes.take(length).read_to_end(&mut image)?;
    Ok(image.len() as u64 == length && crc32fast::hash(&image) == crc32)
}

/// number, quoted name, stamp, status, identity, length, crc32, reason
fn line(number: usize, name: &str, stamp: &str, entry: &Entry) -> csv::Result<Vec<u8>> {
    let (status, identity, length, crc32, reason) = match entry {
        Entry::Stored { identity, length, crc32 } => ("stored", Some(identity), *length, *crc32, ""),
        Entry::Excluded { identity } => ("excluded", Some(identity), 0, 0, ""),
        Entry::Skipped { identity, reason } => ("skipped", identity.as_ref(), 0, 0, &**reason),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let reason = reason.replace(['\r', '\n'], " ");
    let identity = identity.map(u32::to_string).unwrap_or_default();
    writer.write_record([
        &number.to_string(),
        &quoted(name),
        stamp,
        status,
        &identity,
        &length.to_string(),
        &format!("{crc32:08x}"),
        &reason,
    ])?;
    writer.into_inner().map_err(|why| io::Error::other(why.to_string()).into())
}

/// `None` unless it is a whole line.
fn parse(line: &[u8]) -> Option<Line> {
    if !line.ends_with(b"\n") {
        return None;
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line);
    let record = reader.records().next()?.ok()?;
    if record.len() != 8 {
        return None;
    }
    let identity = record[4].parse().ok();
    let entry = match &record[3] {
        "stored" => {
            let (length, crc32) = (record[5].parse().ok()?, u32::from_str_radix(&record[6], 16).ok()?);
            Entry::Stored { identity: identity?, length, crc32 }
        }
        "excluded" => Entry::Excluded { identity: identity? },
        "skipped" => Entry::Skipped { identity, reason: record[7].into() },
        _ => return None,
    };
    Some(Line { number: record[0].parse().ok()?, name: record[1].to_owned(), stamp: record[2].to_owned(), entry })
}

#[cfg(test)]
mod tests {
    use super::super::source::ImageRead;
    use super::*;

    /// Images that are known by name and stamp alone.
    struct Named(Vec<(&'static str, &'static str)>);

    impl Source for Named {
        fn count(&self) -> usize {
            self.0.len()
        }
        fn name(&self, index: usize) -> String {
            self.0[index].0.into()
        }
        fn stamp(&self, index: usize) -> String {
            self.0[index].1.into()
        }
        fn read(&self, _: usize) -> Result<ImageRead<'_>> {
            unreachable!("the journal reads no image")
        }
        fn origin(&self) -> String {
            String::new()
        }
        fn identity(&self, _: u32) -> String {
            String::new()
        }
        fn has_identity(&self, _: &str) -> bool {
            false
        }
    }

    fn three() -> Named {
        Named(vec![("a", "1"), ("b", "1"), ("new\nline", "1"), ("d", "1"), ("e", "1")])
    }

    fn stored(image: &[u8]) -> Entry {
        Entry::Stored { identity: 7, length: image.len() as u64, crc32: crc32fast::hash(image) }
    }

    fn skipped() -> Entry {
        Entry::Skipped { identity: None, reason: "a \"bad\",\nthing".into() }
    }

    fn open(out: &Path, source: &Named) -> Journal {
        Journal::open(out, "header", source).unwrap()
    }

    fn entries(journal: &Journal) -> Vec<Option<Entry>> {
        journal.done.iter().map(|done| done.as_ref().map(|done| done.entry.clone())).collect()
    }

    fn write(out: &Path, images: &[(usize, Entry, &[u8])]) {
        let source = three();
        let mut journal = open(out, &source);
        for (number, entry, image) in images {
            let (name, stamp) = source.0[*number];
            journal.append(*number, name, stamp, entry.clone(), image).unwrap();
        }
    }

    fn write_three(out: &Path) {
        write(out, &[(0, stored(b"first"), b"first"), (1, skipped(), b""), (2, stored(b"third"), b"third")]);
    }

    #[test]
    fn entries_come_back_but_for_those_left_out_and_more_can_be_added() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_three(&out);
        assert_eq!(entries(&open(&out, &three())), [Some(stored(b"first")), None, Some(stored(b"third")), None, None]);
        let excluded = Entry::Excluded { identity: 0 };
        write(&out, &[(3, excluded.clone(), b""), (4, stored(b"fifth"), b"fifth"), (1, stored(b"2nd"), b"2nd")]);
        let mut journal = open(&out, &three());
        let all = [stored(b"first"), stored(b"2nd"), stored(b"third"), excluded, stored(b"fifth")].map(Some);
        assert_eq!(entries(&journal), all);
        let (bytes, pieces) = journal.bytes().unwrap();
        assert_eq!(io::read_to_string(bytes).unwrap(), "firstthirdfifth2nd");
        assert_eq!(pieces, [0..5, 15..18, 5..15]);
    }

    #[test]
    fn an_image_that_is_another_one_now_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_three(&out);
        let changed = Named(vec![("a", "2"), ("b", "1"), ("new\nline", "1"), ("d", "1"), ("e", "1")]);
        assert_eq!(entries(&open(&out, &changed)), [None, None, Some(stored(b"third")), None, None]);
        // one was removed, one was added: names count, not numbers
        let fewer = Named(vec![("added", "1"), ("b", "1"), ("e", "1"), ("new\nline", "1")]);
        assert_eq!(entries(&open(&out, &fewer)), [None, None, None, Some(stored(b"third"))]);
        // names that are no text may be equal: which one was done is not known
        let twice = Named(vec![("b", "1"), ("a", "1"), ("a", "1")]);
        assert_eq!(entries(&open(&out, &twice)), [None, None, None]);
    }

    #[test]
    fn after_a_cut_anywhere_the_rest_is_a_prefix_that_matches_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let [bytes_path, index_path] = parts(&out);
        write_three(&out);
        let whole = entries(&open(&out, &three()));
        let (bytes, index) = (fs::read(&bytes_path).unwrap(), fs::read(&index_path).unwrap());
        for bytes_length in 0..=bytes.len() {
            for index_length in 0..=index.len() {
                fs::write(&bytes_path, &bytes[..bytes_length]).unwrap();
                fs::write(&index_path, &index[..index_length]).unwrap();
                let kept = entries(&open(&out, &three()));
                assert!(kept.iter().zip(&whole).all(|(kept, whole)| kept.is_none() || kept == whole));
                assert!(kept[2].is_none() || kept[0].is_some());
                let length = |entry: &Entry| if let Entry::Stored { length, .. } = entry { *length } else { 0 };
                let total: u64 = kept.iter().flatten().map(length).sum();
                assert_eq!(fs::metadata(&bytes_path).unwrap().len(), total);
                let all = bytes_length == bytes.len() && index_length == index.len();
                assert_eq!(kept == whole, all, "{bytes_length} {index_length}");
            }
        }
    }

    #[test]
    fn bytes_that_do_not_match_their_checksum_are_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_three(&out);
        let bytes_path = with_suffix(&out, ".bytes.part");
        fs::write(&bytes_path, b"firstTHIRD").unwrap();
        assert_eq!(entries(&open(&out, &three())), [Some(stored(b"first")), None, None, None, None]);
        fs::write(&bytes_path, b"FIRSTTHIRD").unwrap();
        assert_eq!(entries(&open(&out, &three())), [None, None, None, None, None]);
    }

    #[test]
    fn another_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_three(&out);
        let error = Journal::open(&out, "other", &three()).err().unwrap().to_string();
        assert!(error.contains("out.index.part: is of another run (header; now other); delete it and"), "{error}");
        assert!(error.ends_with("out.bytes.part to start anew, or choose another --out"), "{error}");
    }
}
