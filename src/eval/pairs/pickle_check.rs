//! Looks through the opcodes of a pickle before serde-pickle loads it. That library runs no code, but a hostile file
//! can make it overflow the stack (tuples in tuples), clone without end (DUP, memo entries of memo entries) or drop
//! what it doesn't know (class instances become empty dicts). Passed is what Python writes for lists of bytes and of
//! bools, at protocols 0 to 5, and nothing else. Opcodes: CPython Lib/pickletools.py.

use std::borrow::Cow;
use std::collections::HashMap;

type Parsed<T> = std::result::Result<T, String>;

/// A tuple of two lists, and room for a list instead of the tuple.
const LISTS: usize = 3;
const OPEN_MARKS: usize = 4;
/// serde-pickle keeps some 100 bytes for each.
const VALUES: usize = 1 << 22;
/// Bytes that references to memoised images may add: 4 times the file and this.
const SHARED: usize = 64 << 20;

/// What the last opcode left on the stack. Only a fresh value may be memoised, as Python does: a second name for a memo
/// entry would be a clone of it.
#[derive(Clone, Copy)]
enum Top {
    Other,
    Container,
    Text(usize),
    Called,
}

/// The pickle to give to serde-pickle: the same bytes, except that `\'` in the text strings of protocol 0, which that
/// library does not know, is written as `\x27`. Errors name the byte.
pub fn checked(pickle: &[u8]) -> Parsed<Cow<'_, [u8]>> {
    let mut cursor = Cursor { bytes: pickle, at: 0 };
    let mut quotes = Vec::new();
    let mut memo: HashMap<u32, usize> = HashMap::new();
    let (mut lists, mut marks, mut values, mut longest, mut shared) = (0, 0_usize, 0, 0, 0_usize);
    let budget = pickle.len().saturating_mul(4).saturating_add(SHARED);
    let mut top = Top::Other;
    // a tuple is the argument of a call or the whole: then no tuple holds another
    let mut tuple = false;
    loop {
        let start = cursor.at;
        let wrong = |why: &str| Err(format!("byte {start}: {why}"));
        let opcode = cursor.take(1)?[0];
        let is_put = matches!(opcode, b'p' | b'q' | b'r' | 0x94);
        if tuple && !is_put {
            if !matches!(opcode, b'R' | b'.') {
                return wrong("a tuple inside of something; this is no pair of lists");
            }
            tuple = false;
        }
        top = match opcode {
            b'.' => return Ok(without(&quotes, pickle)),
            // PROTO, FRAME
            0x80 => cursor.take(1).map(|_| Top::Other)?,
            0x95 => cursor.take(8).map(|_| Top::Other)?,
            b'(' => {
                marks += 1;
                if marks > OPEN_MARKS {
                    return wrong("nested too deeply for a pair of lists");
                }
                Top::Other
            }
            // APPENDS, LIST, TUPLE close a mark; APPEND does not
            b'e' | b'l' | b't' => {
                marks = marks.saturating_sub(1);
                lists += (opcode == b'l') as usize;
                tuple = opcode == b't';
                if opcode == b'e' { Top::Other } else { Top::Container }
            }
            b'a' => Top::Other,
            b']' => {
                lists += 1;
                Top::Container
            }
            // TUPLE2
            0x86 => {
                tuple = true;
                Top::Container
            }
            b'p' | b'q' | b'r' | 0x94 => {
                let id =
                    if opcode == 0x94 { memo.len() as u32 } else { cursor.memo_id(opcode == b'p', opcode == b'r')? };
                let size = match top {
                    Top::Text(length) => length,
                    Top::Called => longest,
                    Top::Container => 0,
                    Top::Other => return wrong("names something that has just been named"),
                };
                // references are resolved at the end, so a second entry would change what the first ones cost
                if memo.insert(id, size).is_some() {
                    return wrong(&format!("defines memo entry {id} again"));
                }
                Top::Other
            }
            b'g' | b'h' | b'j' => {
                let id = cursor.memo_id(opcode == b'g', opcode == b'j')?;
                let Some(size) = memo.get(&id) else {
                    return wrong(&format!("refers to memo entry {id}, which is not there"));
                };
                shared = shared.saturating_add(*size);
                if shared > budget {
                    return wrong("refers to the same images too often");
                }
                Top::Other
            }
            // NEWTRUE, NEWFALSE, BININT, BININT1, BININT2
            0x88 | 0x89 => Top::Other,
            b'J' => cursor.take(4).map(|_| Top::Other)?,
            b'K' => cursor.take(1).map(|_| Top::Other)?,
            b'M' => cursor.take(2).map(|_| Top::Other)?,
            // INT, LONG, LONG1: big ones take square time
            b'I' | b'L' if cursor.line()?.len() <= 21 => Top::Other,
            0x8a => {
                let length = cursor.take(1)?[0] as usize;
                if cursor.take(length)?.len() > 8 {
                    return wrong("an integer that is neither 0 nor 1");
                }
                Top::Other
            }
            b'I' | b'L' => return wrong("an integer that is neither 0 nor 1"),
            // STRING
            b'S' => {
                let line = cursor.line()?;
                let mut at = 0;
                while at < line.len() {
                    if line[at..].starts_with(b"\\'") {
                        quotes.push(start + 1 + at);
                    }
                    at += if line[at] == b'\\' { 2 } else { 1 };
                }
                Top::Text(line.len())
            }
            // UNICODE, and strings of 1-, 4- and 8-byte lengths
            b'V' => Top::Text(cursor.line()?.len()),
            b'U' | b'C' | 0x8c => Top::Text(cursor.string(1)?),
            b'T' | b'B' | b'X' => Top::Text(cursor.string(4)?),
            0x8e | 0x96 => Top::Text(cursor.string(8)?),
            // GLOBAL: what Python 3 makes of bytes for protocols 0 to 2
            b'c' => {
                let (module, name) = (cursor.line()?, cursor.line()?);
                if (module, name) != (b"_codecs", b"encode") {
                    let name =
                        String::from_utf8_lossy(&[module, b".", name].concat()).chars().take(80).collect::<String>();
                    return wrong(&format!("needs Python's {name}; {REWRITE}"));
                }
                Top::Container
            }
            b'R' => Top::Called,
            _ => {
                return wrong(&format!(
                    "opcode {:?} is not needed for lists of bytes and bools; {REWRITE}",
                    opcode as char
                ));
            }
        };
        if let Top::Text(length) = top {
            longest = longest.max(length);
        }
        if lists > LISTS {
            return wrong("more lists than the images and the flags");
        }
        values += 1;
        if values > VALUES {
            return wrong("more values than any list of test pairs has");
        }
    }
}

const REWRITE: &str =
    "write it again with pickle.dump(([bytes(b) for b in bins], [bool(s) for s in issame]), file, protocol=4)";

fn without<'a>(quotes: &[usize], pickle: &'a [u8]) -> Cow<'a, [u8]> {
    if quotes.is_empty() {
        return Cow::Borrowed(pickle);
    }
    let mut bytes = Vec::with_capacity(pickle.len() + 2 * quotes.len());
    let mut done = 0;
    for &at in quotes {
        bytes.extend(&pickle[done..at]);
        bytes.extend(b"\\x27");
        done = at + 2;
    }
    bytes.extend(&pickle[done..]);
    Cow::Owned(bytes)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..count).ok_or_else(|| format!("truncated at its {} bytes", self.bytes.len()))?;
        self.at += count;
        Ok(taken)
    }

    /// Up to the line's end, which is taken too.
    fn line(&mut self) -> Parsed<&'a [u8]> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let line = self.take(length.map_or(usize::MAX, |length| length + 1))?;
        let line = &line[..line.len() - 1];
        Ok(line.strip_suffix(b"\r").unwrap_or(line))
    }

    /// Takes a string with its little-endian length; returns that.
    fn string(&mut self, width: usize) -> Parsed<usize> {
        let length = self.take(width)?.iter().rev().fold(0, |length: u64, &byte| length << 8 | byte as u64);
        Ok(self.take(usize::try_from(length).unwrap_or(usize::MAX))?.len())
    }

    /// A number in text, in 4 bytes or in 1.
    fn memo_id(&mut self, text: bool, long: bool) -> Parsed<u32> {
        if !text {
            let bytes = self.take(if long { 4 } else { 1 })?;
            return Ok(bytes.iter().rev().fold(0, |id, &byte| id << 8 | byte as u32));
        }
        let line = self.line()?;
        let id = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        id.ok_or_else(|| format!("byte {}: no memo number", self.at))
    }
}
