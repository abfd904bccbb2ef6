//! What was done so far: the images' bytes in one file, a line for each processed image in the other.
//!
//! After kill -9 or a crash either file may end anywhere. What counts is the longest run of whole lines whose bytes are
//! there; the rest is cut off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

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
        identity: u32,
        reason: String,
    },
}

pub struct Journal {
    // dropped, and so flushed, before the index
    bytes: BufWriter<File>,
    index: BufWriter<File>,
    bytes_path: PathBuf,
    index_path: PathBuf,
    /// One for each image that is done, in the order of the source.
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Opens or creates `<out>.bytes.part` and `<out>.index.part`; `header` is one line.
    ///
    /// Errors: the files belong to another header, or can't be read or written.
    pub fn open(out: &Path, header: &str) -> Result<Journal> {
        let (bytes_path, index_path) = (with_suffix(out, ".bytes.part"), with_suffix(out, ".index.part"));
        let mut bytes = open_part(&bytes_path)?;
        let mut index = open_part(&index_path)?;

        let mut text = Vec::new();
        index.read_to_end(&mut text).map_err(|why| Error::file(&index_path, why))?;
        let header = format!("{header}\n");
        let (mut entries, mut index_end, mut bytes_end) = (Vec::new(), 0, 0);
        // an incomplete first line: killed before anything was done
        if let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            if text[..=end] != *header.as_bytes() {
                let found = String::from_utf8_lossy(&text[..end]).into_owned();
                let why = format!(
                    "is of another run ({found}; now {}); delete it and {} to start anew",
                    header.trim_end(),
                    bytes_path.display()
                );
                return Err(Error::file(&index_path, why));
            }
            let read = read_entries(&text[end + 1..], &mut bytes);
            let (kept, length, total) = read.map_err(|why| Error::file(&bytes_path, why))?;
            (entries, index_end, bytes_end) = (kept, (end + 1) as u64 + length, total);
        }
        cut(&mut bytes, bytes_end).map_err(|why| Error::file(&bytes_path, why))?;
        cut(&mut index, index_end).map_err(|why| Error::file(&index_path, why))?;

        let bytes = BufWriter::with_capacity(1 << 20, bytes);
        let mut journal = Journal { bytes, index: BufWriter::new(index), bytes_path, index_path, entries };
        if index_end == 0 {
            journal.write_index(header.as_bytes())?;
            journal.flush()?;
        }
        Ok(journal)
    }

    /// Adds the next image of the source; `image` is empty unless it is stored.
    pub fn append(&mut self, entry: Entry, image: &[u8]) -> Result<()> {
        let number = self.entries.len();
        let line = line(number, &entry).map_err(|why| Error::file(&self.index_path, why))?;
        self.bytes.write_all(image).map_err(|why| Error::file(&self.bytes_path, why))?;
        self.write_index(&line)?;
        self.entries.push(entry);
        if (number + 1).is_multiple_of(FLUSH) { self.flush() } else { Ok(()) }
    }

    fn write_index(&mut self, line: &[u8]) -> Result<()> {
        self.index.write_all(line).map_err(|why| Error::file(&self.index_path, why))
    }

    /// From here on a killed process loses nothing.
    pub fn flush(&mut self) -> Result<()> {
        self.bytes.flush().map_err(|why| Error::file(&self.bytes_path, why))?;
        self.index.flush().map_err(|why| Error::file(&self.index_path, why))
    }

    /// The file of the images' bytes.
    pub fn bytes(&mut self) -> Result<File> {
        self.flush()?;
        File::open(&self.bytes_path).map_err(|why| Error::file(&self.bytes_path, why))
    }

    /// Both files, for messages.
    pub fn paths(&self) -> String {
        format!("{} and {}", self.bytes_path.display(), self.index_path.display())
    }

    pub fn remove(self) -> Result<()> {
        for path in [&self.index_path, &self.bytes_path] {
            fs::remove_file(path).map_err(|why| Error::file(path, format!("can't be removed: {why}")))?;
        }
        Ok(())
    }
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

/// Entries whose bytes are there, the length of their lines and that of their bytes.
fn read_entries(text: &[u8], bytes: &mut File) -> io::Result<(Vec<Entry>, u64, u64)> {
    let room = bytes.metadata()?.len();
    // each with the ends of its line and of its bytes
    let (mut kept, mut line_end, mut total) = (Vec::new(), 0, 0);
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let Some(entry) = parse(line, kept.len()) else { break };
        if let Entry::Stored { length, .. } = entry {
            match u64::checked_add(total, length) {
                Some(end) if end <= room => total = end,
                _ => break,
            }
        }
        line_end += line.len() as u64;
        kept.push((entry, line_end, total));
    }
    // after a power failure the bytes may have the right length, but not the right content
    let is_stored = |(entry, ..): &(Entry, u64, u64)| matches!(entry, Entry::Stored { .. });
    while let Some(last) = kept.iter().rposition(is_stored) {
        let (Entry::Stored { length, crc32, .. }, _, end) = kept[last] else { break };
        if matches(bytes, end - length, length, crc32)? {
            break;
        }
        kept.truncate(last);
    }
    let (line_end, total) = kept.last().map_or((0, 0), |(_, line_end, total)| (*line_end, *total));
    Ok((kept.into_iter().map(|(entry, ..)| entry).collect(), line_end, total))
}

fn matches(bytes: &mut File, start: u64, length: u64, crc32: u32) -> io::Result<bool> {
    let mut image = Vec::new();
    bytes.seek(SeekFrom::Start(start))?;
    bytes.take(length).read_to_end(&mut image)?;
    Ok(image.len() as u64 == length && crc32fast::hash(&image) == crc32)
}

/// number, status, identity, length, crc32, reason
fn line(number: usize, entry: &Entry) -> csv::Result<Vec<u8>> {
    let (status, identity, length, crc32, reason) = match entry {
        Entry::Stored { identity, length, crc32 } => ("stored", identity, *length, *crc32, ""),
        Entry::Excluded { identity } => ("excluded", identity, 0, 0, ""),
        Entry::Skipped { identity, reason } => ("skipped", identity, 0, 0, reason.as_str()),
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    let reason = reason.replace(['\r', '\n'], " ");
    let fields =
        [&number.to_string(), status, &identity.to_string(), &length.to_string(), &format!("{crc32:08x}"), &reason];
    writer.write_record(fields)?;
    writer.into_inner().map_err(|why| io::Error::other(why.to_string()).into())
}

/// `None` unless it is the whole line of entry `number`.
fn parse(line: &[u8], number: usize) -> Option<Entry> {
    if !line.ends_with(b"\n") {
        return None;
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line);
    let record = reader.records().next()?.ok()?;
    if record.len() != 6 || record[0] != *number.to_string() {
        return None;
    }
    let identity = record[2].parse().ok()?;
    match &record[1] {
        "stored" => {
            let (length, crc32) = (record[3].parse().ok()?, u32::from_str_radix(&record[4], 16).ok()?);
            Some(Entry::Stored { identity, length, crc32 })
        }
        "excluded" => Some(Entry::Excluded { identity }),
        "skipped" => Some(Entry::Skipped { identity, reason: record[5].to_owned() }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(image: &[u8]) -> Entry {
        Entry::Stored { identity: 7, length: image.len() as u64, crc32: crc32fast::hash(image) }
    }

    fn write_three(out: &Path) -> Vec<Entry> {
        let mut journal = Journal::open(out, "header").unwrap();
        journal.append(stored(b"first"), b"first").unwrap();
        journal.append(Entry::Skipped { identity: 3, reason: "a \"bad\",\nthing".into() }, b"").unwrap();
        journal.append(stored(b"third"), b"third").unwrap();
        drop(journal);
        vec![stored(b"first"), Entry::Skipped { identity: 3, reason: "a \"bad\", thing".into() }, stored(b"third")]
    }

    #[test]
    fn entries_come_back_and_more_can_be_added() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut entries = write_three(&out);
        let mut journal = Journal::open(&out, "header").unwrap();
        assert_eq!(journal.entries, entries);
        journal.append(Entry::Excluded { identity: 0 }, b"").unwrap();
        journal.append(stored(b"fifth"), b"fifth").unwrap();
        drop(journal);
        entries.extend([Entry::Excluded { identity: 0 }, stored(b"fifth")]);
        assert_eq!(Journal::open(&out, "header").unwrap().entries, entries);
        assert_eq!(fs::read(with_suffix(&out, ".bytes.part")).unwrap(), b"firstthirdfifth");
    }

    #[test]
    fn after_a_cut_anywhere_the_rest_is_a_prefix_that_matches_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let (bytes_path, index_path) = (with_suffix(&out, ".bytes.part"), with_suffix(&out, ".index.part"));
        let entries = write_three(&out);
        let (bytes, index) = (fs::read(&bytes_path).unwrap(), fs::read(&index_path).unwrap());
        for bytes_length in 0..=bytes.len() {
            for index_length in 0..=index.len() {
                fs::write(&bytes_path, &bytes[..bytes_length]).unwrap();
                fs::write(&index_path, &index[..index_length]).unwrap();
                let kept = Journal::open(&out, "header").unwrap().entries;
                assert!(entries.starts_with(&kept));
                let total: u64 =
                    kept.iter().map(|entry| if let Entry::Stored { length, .. } = entry { *length } else { 0 }).sum();
                assert_eq!(fs::metadata(&bytes_path).unwrap().len(), total);
                let whole = bytes_length == bytes.len() && index_length == index.len();
                assert_eq!(kept.len() == 3, whole, "{bytes_length} {index_length}");
            }
        }
    }

    #[test]
    fn bytes_that_do_not_match_their_checksum_are_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let entries = write_three(&out);
        fs::write(with_suffix(&out, ".bytes.part"), b"firstTHIRD").unwrap();
        assert_eq!(Journal::open(&out, "header").unwrap().entries, entries[..2]);
        fs::write(with_suffix(&out, ".bytes.part"), b"FIRSTTHIRD").unwrap();
        assert_eq!(Journal::open(&out, "header").unwrap().entries, []);
    }

    #[test]
    fn another_header_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        write_three(&out);
        let error = Journal::open(&out, "other").err().unwrap().to_string();
        assert!(error.contains("out.index.part: is of another run (header; now other); delete it and"), "{error}");
        assert!(error.ends_with("out.bytes.part to start anew"), "{error}");
    }
}
