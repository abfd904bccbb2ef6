//! Batches of CIFAR's Python version: a pickled dict with the pixels, a NumPy array of bytes [N, 3072], and a list of
//! labels.
//!
//! Nothing is executed or built: the opcodes (CPython Lib/pickletools.py) are gone through once, and what is wanted is
//! recognised among them.

use std::ops::Range;

type Parsed<T> = std::result::Result<T, String>;

/// Where a batch's pixels are in the file, and its labels.
#[derive(Debug, PartialEq)]
pub struct Pickled {
    pub pixels: Range<usize>,
    /// In Fortran order: byte k of image i is number N k + i instead of 3072 i + k.
    pub fortran: bool,
    pub labels: Vec<u8>,
}

/// The batch in a file's bytes; `image` is the number of bytes of each, `key` what the dict calls the labels. Protocols 2
/// to 4, by Python 2 or 3.
///
/// Errors: no pickle, or one of something else; another number of labels than of images; labels above 255.
pub fn parse(bytes: &[u8], image: usize, key: &str) -> Parsed<Pickled> {
    let mut cursor = Cursor { bytes, at: 0 };
    let mut found = None;
    let mut labels = None;
    let mut state = State::Elsewhere;
    let mut before = 0;
    loop {
        let start = cursor.at;
        let wrong = |why: &str| Err(format!("byte {start}: {why}"));
        let opcode = cursor.take(1)?[0];
        let mut number = None;
        let mut text = None;
        match opcode {
            // STOP
            b'.' => break,
            // MARK, dicts, lists, tuples, None, booleans, MEMOIZE, STACK_GLOBAL, REDUCE, BUILD, APPEND(S), SETITEM(S)
            b'('
            | b'}'
            | b']'
            | b')'
            | b't'
            | 0x85..=0x87
            | b'N'
            | 0x88
            | 0x89
            | 0x94
            | 0x93
            | b'R'
            | b'b'
            | b'a'
            | b'e'
            | b's'
            | b'u' => {}
            // PROTO, FRAME, BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            0x80 | b'q' | b'h' => drop(cursor.take(1)?),
            b'r' | b'j' => drop(cursor.take(4)?),
            0x95 => drop(cursor.take(8)?),
            // BININT1, BININT2, BININT
            b'K' => number = Some(cursor.number(1)?),
            b'M' => number = Some(cursor.number(2)?),
            b'J' => number = Some(cursor.number(4)?),
            // GLOBAL
            b'c' => {
                cursor.line()?;
                cursor.line()?;
            }
            // strings and bytes of 1-, 4- and 8-byte lengths
            b'U' | b'C' | 0x8c => text = Some(cursor.string(1)?),
            b'T' | b'B' | b'X' => text = Some(cursor.string(4)?),
            0x8e => text = Some(cursor.string(8)?),
            _ => return wrong(&format!("opcode {:?} is not needed for a batch of CIFAR", opcode as char)),
        }
        if let Some(range) = text.clone()
            && range.len() >= image
        {
            if found.is_some() || !range.len().is_multiple_of(image) || !matches!(before, 0x88 | 0x89) {
                return wrong(&format!("{} bytes that are not an array of images of {image}", range.len()));
            }
            found = Some((range, before == 0x88));
        }
        let memo = matches!(opcode, b'q' | b'r' | 0x94);
        state = match (state, opcode, number) {
            (state, ..) if memo => state,
            _ if text.is_some_and(|range| bytes[range] == *key.as_bytes()) => State::Key,
            (State::Key, b']', _) if labels.is_none() => {
                labels = Some(Vec::new());
                State::List
            }
            (State::List, _, Some(label)) => {
                let label = u8::try_from(label).map_err(|_| format!("byte {start}: the label {label}"))?;
                labels.get_or_insert_default().push(label);
                State::List
            }
            (State::List, b'(' | b'a' | b'e', _) => State::List,
            _ => State::Elsewhere,
        };
        before = if memo { before } else { opcode };
    }
    let (pixels, fortran) = found.ok_or("it has no array of images")?;
    let labels = labels.ok_or_else(|| format!("it has no list {key}"))?;
    if labels.len() * image != pixels.len() {
        return Err(format!("{} images, but {} {key}", pixels.len() / image, labels.len()));
    }
    Ok(Pickled { pixels, fortran, labels })
}

/// Whether the numbers that come are labels.
enum State {
    Elsewhere,
    /// Behind the labels' key.
    Key,
    List,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..count);
        self.at += count.min(self.bytes.len() - self.at);
        taken.ok_or_else(|| format!("truncated at its {} bytes", self.bytes.len()))
    }

    /// Little-endian.
    fn number(&mut self, width: usize) -> Parsed<u64> {
        Ok(self.take(width)?.iter().rev().fold(0, |number, &byte| number << 8 | byte as u64))
    }

    /// Where a string is whose length comes first.
    fn string(&mut self, width: usize) -> Parsed<Range<usize>> {
        let length = usize::try_from(self.number(width)?).unwrap_or(usize::MAX);
        let start = self.at;
        self.take(length)?;
        Ok(start..self.at)
    }

    fn line(&mut self) -> Parsed<()> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        self.take(length.map_or(usize::MAX, |length| length + 1)).map(drop)
    }
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Python 2's cPickle writes a batch at protocol 2.
    pub fn python2(key: &str, labels: &[u8], pixels: &[u8], fortran: bool) -> Vec<u8> {
        let short = |text: &str| [&[b'U', text.len() as u8], text.as_bytes()].concat();
        let list: Vec<u8> = labels.iter().flat_map(|&label| [b'K', label]).collect();
        let shape = [&b"M"[..], &(labels.len() as u16).to_le_bytes(), b"M\x00\x0c\x86"].concat();
        [
            &b"\x80\x02}q\x01("[..],
            &short("batch_label"),
            b"q\x02",
            &short("training batch 1 of 5"),
            b"q\x03",
            &short(key),
            b"q\x04]q\x05(",
            &list,
            b"e",
            &short("data"),
            b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\x09(K\x01",
            &shape,
            b"cnumpy\ndtype\nq\x0aU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            if fortran { b"\x88" } else { b"\x89" },
            b"T",
            &(pixels.len() as u32).to_le_bytes(),
            pixels,
            b"tb",
            &short("filenames"),
            b"q\x0c]q\x0d(",
            &short("leptodactylus_pentadactylus_s_000004.png"),
            b"q\x0eeu.",
        ]
        .concat()
    }

    const IMAGE: usize = 60;

    fn batch() -> (Vec<u8>, Vec<u8>) {
        let pixels: Vec<u8> = (0..3 * IMAGE).map(|i| i as u8).collect();
        (python2("labels", &[6, 9, 0], &pixels, false), pixels)
    }

    #[test]
    fn pixels_and_labels_are_found() {
        let (bytes, pixels) = batch();
        let found = parse(&bytes, IMAGE, "labels").unwrap();
        assert_eq!((&bytes[found.pixels.clone()], found.fortran), (&pixels[..], false));
        assert_eq!(found.labels, [6, 9, 0]);
        assert!(parse(&python2("fine_labels", &[99, 1, 2], &pixels, true), IMAGE, "fine_labels").unwrap().fortran);
        // by Python 3 at protocol 4: pickle.dumps({b"labels": [6], b"data": numpy.zeros((1, 60), "uint8")}, 4), shortened
        let python3 = [
            &b"\x80\x04\x95\x00\x01\x00\x00\x00\x00\x00\x00}\x94(C\x06labels\x94]\x94K\x06aC\x04data\x94\x8c\x15numpy.core.\
               multiarray\x94\x8c\x0c_reconstruct\x94\x93\x94\x89B\x3c\x00\x00\x00"[..],
            &[7; IMAGE],
            b"t\x94bu.",
        ]
        .concat();
        assert_eq!(parse(&python3, IMAGE, "labels").unwrap().labels, [6]);
    }

    #[test]
    fn what_is_no_batch_says_why() {
        let (bytes, pixels) = batch();
        let error = |bytes: &[u8]| parse(bytes, IMAGE, "labels").unwrap_err();
        assert_eq!(error(&python2("labels", &[6, 9], &pixels, false)), "3 images, but 2 labels");
        assert_eq!(error(&python2("label", &[6, 9, 1], &pixels, false)), "it has no list labels");
        assert_eq!(error(b"\x80\x02}q\x01."), "it has no array of images");
        assert!(error(&python2("labels", &[6, 9, 1], &pixels[1..], false)).contains("179 bytes that are not an array"));
        assert_eq!(error(b"PK\x03\x04"), "byte 0: opcode 'P' is not needed for a batch of CIFAR");
        for length in 0..bytes.len() {
            assert_eq!(error(&bytes[..length]), format!("truncated at its {length} bytes"));
        }
        let place = bytes.windows(3).position(|window| window == b"K\x06K").unwrap();
        let large = [&bytes[..place], b"M\x06\x01", &bytes[place + 2..]].concat();
        assert!(error(&large).ends_with(": the label 262"), "{}", error(&large));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn damaged_batches_never_cause_a_panic(
            labels in prop::collection::vec(0..10u8, 0..5), fortran: bool, arbitrary in prop::collection::vec(any::<u8>(), 0..60),
            damages in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), cut in any::<usize>(), kind in 0..4,
        ) {
            let pixels = vec![7; labels.len() * IMAGE];
            let mut bytes = python2("labels", &labels, &pixels, fortran);
            for (at, value) in &damages {
                let at = at % bytes.len();
                bytes[at] = *value;
            }
            match kind {
                0 => bytes = arbitrary,
                1 => bytes.truncate(cut % bytes.len()),
                _ => {}
            }
            match parse(&bytes, IMAGE, "labels") {
                Ok(found) => {
                    assert_eq!(found.labels.len() * IMAGE, found.pixels.len());
                    assert!(found.pixels.end <= bytes.len());
                    assert!(!damages.is_empty() || found.labels == labels && found.fortran == fortran);
                }
                Err(_) => assert!(kind < 2 || !damages.is_empty() || labels.is_empty()),
            }
        }
    }

    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    }
}
