//! Looks through the opcodes of a pickle before serde-pickle loads it. That library runs no code, but a hostile file
//! can make it overflow the stack (tuples in tuples), clone without end (DUP, memo entries of memo entries) or drop
//! what it doesn't know (class instances become empty dicts). Passed is what Python writes for lists of bytes and of
//! bools, at protocols 0 to 5, and nothing else. Opcodes: CPython Lib/pickletools.py.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;

type Parsed<T> = std::result::Result<T, String>;

/// A tuple of two lists, and room for a list instead of the tuple.
const LISTS: usize = 3;
const OPEN_MARKS: usize = 4;
/// serde-pickle keeps some 100 bytes for each.
const VALUES: usize = 1 << 22;
/// Bytes that references to memoised images may add: 4 times the file and this.
const SHARED: usize = 64 << 20;

/// The pickle to give to serde-pickle: the same bytes, except that `\'` in the text strings of protocol 0, which that
/// library does not know, is written as `\x27`. Errors name the byte.
pub fn checked(pickle: &[u8]) -> Parsed<Cow<'_, [u8]>> {
    let mut machine = Machine::new(pickle);
    while machine.step()? {}
    Ok(without(&machine.quotes, pickle))
}

/// What the last opcode left on the stack. Only a fresh value may be memoised, as Python does: a second name for a memo
/// entry would be a clone of it.
#[derive(Clone, Copy)]
enum OnTop {
    Other,
    Container,
    Text(usize),
    Called,
}

/// Python's pickle machine without its values: it counts what they would take.
struct Machine<'a> {
    cursor: Cursor<'a>,
    /// Where the opcode at work begins.
    start: usize,
    on_top: OnTop,
    /// A tuple is the argument of a call or the whole: then no tuple holds another.
    tuple: bool,
    lists: usize,
    marks: usize,
    values: usize,
    /// Bytes that a reference to each memo entry adds, at most.
    memo: HashMap<u32, usize>,
    longest_text: usize,
    shared: usize,
    budget: usize,
    /// Where each `\'` is.
    quotes: Vec<usize>,
}

impl Machine<'_> {
    fn new(pickle: &[u8]) -> Machine<'_> {
        Machine {
            cursor: Cursor { bytes: pickle, at: 0 },
            start: 0,
            on_top: OnTop::Other,
            tuple: false,
            lists: 0,
            marks: 0,
            values: 0,
            memo: HashMap::new(),
            longest_text: 0,
            shared: 0,
            budget: pickle.len().saturating_mul(4).saturating_add(SHARED),
            quotes: Vec::new(),
        }
    }

    /// Takes one opcode; false at the pickle's end.
    fn step(&mut self) -> Parsed<bool> {
        self.start = self.cursor.at;
        let opcode = self.cursor.take(1)?[0];
        self.leave_tuple(opcode)?;
        self.on_top = match opcode {
            // STOP
            b'.' => return Ok(false),
            // PROTO, FRAME
            0x80 => self.skip(1)?,
            0x95 => self.skip(8)?,
            // MARK; what closes one: LIST, TUPLE, APPENDS; what does not: EMPTY_LIST, TUPLE2, APPEND
            b'(' => self.open_mark()?,
            b'l' => self.close_mark().list(),
            b't' => self.close_mark().tuple(),
            b'e' => self.close_mark().appended(),
            b']' => self.list(),
            0x86 => self.tuple(),
            b'a' => self.appended(),
            // PUT, BINPUT, LONG_BINPUT, MEMOIZE; GET, BINGET, LONG_BINGET
            b'p' | b'q' | b'r' | 0x94 => self.memoise(opcode)?,
            b'g' | b'h' | b'j' => self.refer(opcode)?,
            // NEWTRUE, NEWFALSE, BININT1, BININT2, BININT; INT, LONG; LONG1
            0x88 | 0x89 => OnTop::Other,
            b'K' => self.skip(1)?,
            b'M' => self.skip(2)?,
            b'J' => self.skip(4)?,
            b'I' | b'L' => self.integer_in_text()?,
            0x8a => self.long_integer()?,
            // STRING; UNICODE; strings of 1-, 4- and 8-byte lengths
            b'S' => self.quoted_string()?,
            b'V' => OnTop::Text(self.cursor.line()?.len()),
            b'U' | b'C' | 0x8c => OnTop::Text(self.cursor.string(1)?),
            b'T' | b'B' | b'X' => OnTop::Text(self.cursor.string(4)?),
            0x8e | 0x96 => OnTop::Text(self.cursor.string(8)?),
            // GLOBAL, REDUCE
            b'c' => self.function()?,
            b'R' => OnTop::Called,
            _ => {
                let opcode = opcode as char;
                return self.wrong(format!("opcode {opcode:?} is not needed for lists of bytes and bools; {REWRITE}"));
            }
        };
        self.count()?;
        Ok(true)
    }

    fn wrong<T>(&self, why: impl Display) -> Parsed<T> {
        Err(format!("byte {}: {why}", self.start))
    }

    /// After a tuple and its memo entry may come only a call or the end.
    fn leave_tuple(&mut self, opcode: u8) -> Parsed<()> {
        let memoises = matches!(opcode, b'p' | b'q' | b'r' | 0x94);
        if self.tuple && !memoises {
            if !matches!(opcode, b'R' | b'.') {
                return self.wrong("a tuple inside of something; this is no pair of lists");
            }
            self.tuple = false;
        }
        Ok(())
    }

    fn count(&mut self) -> Parsed<()> {
        if let OnTop::Text(length) = self.on_top {
            self.longest_text = self.longest_text.max(length);
        }
        if self.lists > LISTS {
            return self.wrong("more lists than the images and the flags");
        }
        self.values += 1;
        if self.values > VALUES {
            return self.wrong("more values than any list of test pairs has");
        }
        Ok(())
    }

    fn skip(&mut self, count: usize) -> Parsed<OnTop> {
        self.cursor.take(count)?;
        Ok(OnTop::Other)
    }

    fn open_mark(&mut self) -> Parsed<OnTop> {
        self.marks += 1;
        if self.marks > OPEN_MARKS {
            return self.wrong("nested too deeply for a pair of lists");
        }
        Ok(OnTop::Other)
    }

    fn close_mark(&mut self) -> &mut Self {
        self.marks = self.marks.saturating_sub(1);
        self
    }

    fn list(&mut self) -> OnTop {
        self.lists += 1;
        OnTop::Container
    }

    /// The list is on top again; it could be memoised when it was made.
    fn appended(&self) -> OnTop {
        OnTop::Other
    }

    fn tuple(&mut self) -> OnTop {
        self.tuple = true;
        OnTop::Container
    }

    fn memoise(&mut self, opcode: u8) -> Parsed<OnTop> {
        let id = match opcode {
            0x94 => self.memo.len() as u32,
            _ => self.cursor.memo_id(opcode == b'p', opcode == b'r')?,
        };
        let size = match self.on_top {
            OnTop::Text(length) => length,
            OnTop::Called => self.longest_text,
            OnTop::Container => 0,
            OnTop::Other => return self.wrong("names something that has just been named"),
        };
        // references are resolved at the end, so a second entry would change what the first ones cost
        if self.memo.insert(id, size).is_some() {
            return self.wrong(format!("defines memo entry {id} again"));
        }
        Ok(OnTop::Other)
    }

    fn refer(&mut self, opcode: u8) -> Parsed<OnTop> {
        let id = self.cursor.memo_id(opcode == b'g', opcode == b'j')?;
        let Some(size) = self.memo.get(&id) else {
            return self.wrong(format!("refers to memo entry {id}, which is not there"));
        };
        self.shared = self.shared.saturating_add(*size);
        if self.shared > self.budget {
            return self.wrong("refers to the same images too often");
        }
        Ok(OnTop::Other)
    }

    /// As text; big ones take square time.
    fn integer_in_text(&mut self) -> Parsed<OnTop> {
        if self.cursor.line()?.len() > 21 {
            return self.wrong("an integer that is neither 0 nor 1");
        }
        Ok(OnTop::Other)
    }

    fn long_integer(&mut self) -> Parsed<OnTop> {
        let length = self.cursor.take(1)?[0] as usize;
        if self.cursor.take(length)?.len() > 8 {
            return self.wrong("an integer that is neither 0 nor 1");
        }
        Ok(OnTop::Other)
    }

    fn quoted_string(&mut self) -> Parsed<OnTop> {
        let line = self.cursor.line()?;
        let mut at = 0;
        while at < line.len() {
            if line[at..].starts_with(b"\\'") {
                self.quotes.push(self.start + 1 + at);
            }
            at += if line[at] == b'\\' { 2 } else { 1 };
        }
        Ok(OnTop::Text(line.len()))
    }

    /// The one that Python 3 makes bytes with for protocols 0 to 2.
    fn function(&mut self) -> Parsed<OnTop> {
        let (module, name) = (self.cursor.line()?, self.cursor.line()?);
        if (module, name) != (b"_codecs", b"encode") {
            let name: String = String::from_utf8_lossy(&[module, b".", name].concat()).chars().take(80).collect();
            return self.wrong(format!("needs Python's {name}; {REWRITE}"));
        }
        Ok(OnTop::Container)
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
