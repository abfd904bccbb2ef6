//! The end of a file with one large data set that readers map into memory (packed images, embeddings): its last 28
//! bytes, little-endian, after the HDF5 data, where HDF5 readers do not look. The items of the large data set have a
//! CRC-32 each, in a column `crc32`.
//!
//! | bytes  | content                                                                         |
//! |--------|---------------------------------------------------------------------------------|
//! | 0..8   | `AMLFSMAP`                                                                      |
//! | 8..16  | u64, where in the file the large data set's bytes begin                         |
//! | 16..24 | u64, how many bytes they are                                                    |
//! | 24..28 | u32, CRC-32 of all bytes of the file but the large data set's and these last four |

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::Outcome;

const END_MARK: &[u8; 8] = b"AMLFSMAP";
const LEN: u64 = 28;
const CHECKSUM_LEN: u64 = 4;

/// The last N bytes of an HDF5 file; zeros if it is shorter. Error: no HDF5 file by its first bytes.
pub fn last_bytes<const N: usize>(mut file: &File) -> Outcome<[u8; N]> {
    const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";
    let length = file.metadata()?.len();
    let mut signature = [0; SIGNATURE.len()];
    if length < signature.len() as u64 {
        return Err("not an HDF5 file".into());
    }
    file.read_exact(&mut signature)?;
    if signature != *SIGNATURE {
        return Err("not an HDF5 file".into());
    }
    let mut last = [0; N];
    if length >= N as u64 {
        file.seek(SeekFrom::Start(length - N as u64))?;
        file.read_exact(&mut last)?;
    }
    Ok(last)
}

/// Whether the file has such an end, damaged or not.
pub fn is_there(file: &File) -> bool {
    last_bytes(file).is_ok_and(|trailer: [u8; LEN as usize]| trailer.starts_with(END_MARK))
}

/// Where the large data set is, if all other bytes are those that were written: only then is the file safe for libhdf5.
pub fn check(file: &File) -> Outcome<Range<u64>> {
    let length = file.metadata()?.len();
    let trailer: [u8; LEN as usize] = last_bytes(file)?;
    if !trailer.starts_with(END_MARK) {
        return Err("truncated, or not written by amlfs (no checksum at its end)".into());
    }
    let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().expect("8 bytes"));
    let (start, count) = (number(8), number(16));
    match start.checked_add(count) {
        Some(end) if end <= length - LEN => {
            let range = start..end;
            match checksum(file, &range, length - CHECKSUM_LEN)?.to_le_bytes() == trailer[24..] {
                true => Ok(range),
                false => Err("damaged: its content does not match its checksum".into()),
            }
        }
        _ => Err("damaged: its trailer points beyond its end".into()),
    }
}

/// Appends the trailer.
pub fn seal(path: &Path, range: &Range<u64>) -> Outcome<()> {
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    file.write_all(END_MARK)?;
    file.write_all(&range.start.to_le_bytes())?;
    file.write_all(&(range.end - range.start).to_le_bytes())?;
    let length = file.metadata()?.len();
    let checksum = checksum(&file, range, length)?;
    file.write_all(&checksum.to_le_bytes())?;
    Ok(())
}

/// CRC-32 of a file's first `length` bytes without the large data set (`range`).
fn checksum(mut file: &File, range: &Range<u64>, length: u64) -> io::Result<u32> {
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for part in [0..range.start, range.end..length] {
        file.seek(SeekFrom::Start(part.start))?;
        let mut rest = file.take(part.end - part.start);
        loop {
            match rest.read(&mut buffer)? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
    }
    Ok(hasher.finalize())
}
