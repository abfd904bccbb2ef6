use amlfs::eval::pairs::lfw::{self, parse_bin};
use amlfs::eval::pairs::pair_list::parse_pairs;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{apply, bytes, damage, fuzz};

/// As Python writes it; `form` 0 to 5 are the protocols with bytes by Python 3, 6 to 8 str by Python 2, 9 and 10 that read as
/// latin1 and written by Python 3 with protocols 2 and 4.
fn pickle(images: &[Vec<u8>], same: &[bool], form: usize) -> Vec<u8> {
    let protocol = [0, 1, 2, 3, 4, 5, 0, 1, 2, 2, 4][form];
    let (text, mut memo, mut encode) = (protocol == 0, 0, None);
    let mut bytes = if protocol > 1 { vec![0x80, protocol as u8] } else { Vec::new() };
    let mut put = |bytes: &mut Vec<u8>| {
        match protocol {
            0 => bytes.extend(format!("p{memo}\n").bytes()),
            1..=3 => bytes.extend([b'q', memo]),
            _ => bytes.push(0x94),
        }
        memo += 1;
        memo - 1
    };
    let get = |bytes: &mut Vec<u8>, id: u8| match text {
        true => bytes.extend(format!("g{id}\n").bytes()),
        false => bytes.extend([b'h', id]),
    };
    bytes.extend(if protocol < 2 { &b"("[..] } else { b"" });
    bytes.extend(if text { &b"(l"[..] } else { b"]" });
    put(&mut bytes);
    bytes.extend(if text { &b""[..] } else { b"(" });
    for image in images {
        match (form, encode) {
            (3.., _) if text => {
                let escape = |&byte: &u8| match byte {
                    b'\\' | b'\'' => vec![b'\\', byte],
                    b' '..=b'~' => vec![byte],
                    _ => format!("\\x{byte:02x}").into_bytes(),
                };
                bytes.extend([&b"S'"[..], &image.iter().flat_map(escape).collect::<Vec<u8>>(), b"'\n"].concat());
            }
            (9.., _) => {
                let latin: String = image.iter().map(|&byte| byte as char).collect();
                bytes.push(b'X');
                bytes.extend((latin.len() as u32).to_le_bytes());
                bytes.extend(latin.bytes());
            }
            (3.., _) => {
                bytes.extend([if form > 5 { b'U' } else { b'C' }, image.len() as u8]);
                bytes.extend(image);
            }
            _ => {
                let latin: String = image.iter().map(|&byte| byte as char).collect();
                let string = |string: &str| match text {
                    true => {
                        let escape = |c: char| match c {
                            '\\' | '\0' | '\n' | '\r' | '\x1a' => format!("\\u{:04x}", c as u32).into_bytes(),
                            _ => vec![c as u8],
                        };
                        [b"V", &string.chars().flat_map(escape).collect::<Vec<u8>>()[..], b"\n"].concat()
                    }
                    false => [b"X", &(string.len() as u32).to_le_bytes()[..], string.as_bytes()].concat(),
                };
                match encode {
                    Some((function, _)) => get(&mut bytes, function),
                    None => bytes.extend(b"c_codecs\nencode\n"),
                }
                let function = encode.map_or_else(|| put(&mut bytes), |(function, _)| function);
                bytes.extend(if protocol < 2 { &b"("[..] } else { b"" });
                bytes.extend(string(&latin));
                put(&mut bytes);
                let name = match encode {
                    Some((_, name)) => {
                        get(&mut bytes, name);
                        name
                    }
                    None => {
                        bytes.extend(string("latin1"));
                        put(&mut bytes)
                    }
                };
                encode = Some((function, name));
                bytes.push(if protocol < 2 { b't' } else { 0x86 });
                put(&mut bytes);
                bytes.push(b'R');
            }
        }
        put(&mut bytes);
        bytes.extend(if text { &b"a"[..] } else { b"" });
    }
    bytes.extend(if text { &b"(l"[..] } else { b"e]" });
    put(&mut bytes);
    bytes.extend(if text { &b""[..] } else { b"(" });
    for &same in same {
        bytes.extend(match (protocol, same) {
            (0, true) => &b"I01\na"[..],
            (0, false) => b"I00\na",
            (1, true) => b"I01\n",
            (1, false) => b"I00\n",
            (_, true) => b"\x88",
            (_, false) => b"\x89",
        });
    }
    bytes.extend(if text {
        &b"t"[..]
    } else if protocol == 1 {
        b"et"
    } else {
        b"e\x86"
    });
    put(&mut bytes);
    bytes.push(b'.');
    bytes
}

#[test]
fn pickled_pairs() {
    let image = prop_oneof![vec(any::<u8>(), 1..20), "['\"\\\\\n]{1,4}".prop_map(String::into_bytes)];
    let pairs = vec(((image.clone(), image), any::<bool>()), 1..5);
    let arbitrary = prop_oneof![1 => vec(any::<u8>(), 0..100).prop_map(Some), 4 => Just(None)];
    fuzz("lfw.bin", (pairs, 0..11_usize, vec(damage(), 0..4), arbitrary), |(pairs, form, damages, arbitrary)| {
        let (images, same): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let images: Vec<Vec<u8>> = images.into_iter().flat_map(|(one, other)| [one, other]).collect();
        let pristine = damages.is_empty() && arbitrary.is_none();
        let bytes = arbitrary.unwrap_or_else(|| apply(pickle(&images, &same, form), &damages));
        match parse_bin(&bytes) {
            Ok(read) if pristine => assert_eq!(read, lfw::Pairs { images, same }),
            Ok(read) => {
                assert!(!read.same.is_empty() && read.images.len() == 2 * read.same.len());
                let again = serde_pickle::to_vec(&(Vec::<Vec<u8>>::new(), &read.same), Default::default()).unwrap();
                assert!(parse_bin(&again).is_err(), "flags without images");
            }
            Err(why) => assert!(!pristine && why.len() < 1000, "form {form}: {why}"),
        }
        parse_bin(&bytes).is_ok()
    });
}

/// Sequences of opcodes, which bytes at random seldom are: serde-pickle gets to see everything that the check lets
/// through.
#[test]
fn pickle_opcodes() {
    let plain = b"(]leat.R)012dsu}Nbio\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94";
    let lines =
        ["I01\n", "L1L\n", "S'a'\n", "Va\n", "Vlatin1\n", "c_codecs\nencode\n", "cos\nsystem\n", "p1\n", "g1\n"];
    let pieces = ["(]q\0", "C\x01aq\x01", "e]q\x02(", "et.", "]K\x01at.", "](U\x01aU\x01be"];
    let counted = |(opcode, bytes): (u8, Vec<u8>)| [vec![opcode, bytes.len() as u8], bytes].concat();
    let opcode = prop_oneof![
        6 => prop::sample::select(&plain[..]).prop_map(|opcode| vec![opcode]),
        2 => (prop::sample::select(&b"qhK"[..]), 0..3_u8).prop_map(|(opcode, id)| vec![opcode, id]),
        2 => (prop::sample::select(&b"UC\x8c\x8a"[..]), vec(any::<u8>(), 0..4)).prop_map(counted),
        4 => prop::sample::select([&lines[..], &pieces].concat()).prop_map(|text| text.as_bytes().to_vec()),
    ];
    let valid: [&[u8]; 13] =
        [b"]", b"q\0", b"(", b"C\x01a", b"q\x01", b"U\x01b", b"e", b"]", b"q\x02", b"\x88", b"a", b"\x86", b"."];
    fuzz("pickle opcodes", vec((0..13_usize, 0..2_usize, opcode), 0..8), |edits| {
        let mut opcodes: Vec<Vec<u8>> = valid.iter().map(|opcode| opcode.to_vec()).collect();
        for (at, removed, opcode) in edits {
            opcodes.splice(at..at + removed, [opcode]);
        }
        let Ok(read) = parse_bin(&opcodes.concat()) else { return false };
        assert!(!read.same.is_empty() && read.images.len() == 2 * read.same.len());
        true
    });
}

#[test]
fn pair_lists() {
    let number = || prop_oneof![9 => 1..9_u32, 1 => any::<u32>()];
    let pair = (("[A-C]", number(), number()), ("[a-c]", number(), "[A-C]", number()));
    let valid = (prop_oneof![Just(0), 1..3_usize], vec(pair, 1..4)).prop_map(|(folds, pairs)| {
        let mut text = if folds > 0 { format!("{folds}\t{}\n", pairs.len()) } else { format!("{}\n", pairs.len()) };
        for ((name, i, j), (first, k, second, l)) in pairs.iter().cycle().take(folds.max(1) * pairs.len()) {
            text += &format!("{name}\t{i}\t{j}\n{first}\t{k}\t{second}\t{l}\n");
        }
        text.into_bytes()
    });
    let path = "[a-c/. ]{1,4}";
    let separator = prop_oneof![Just(","), Just("\t"), Just(" ")];
    let paths = (vec((path, path, prop_oneof!["[01]", "-1", "True", "[a-z]{0,2}"]), 0..4), separator, any::<bool>())
        .prop_map(|(rows, separator, in_two)| {
            let line = |(first, second, label): (String, String, String)| match in_two {
                true => format!("{first}{separator}{label}\n{second}{separator}{label}\r\n"),
                false => format!("{first}{separator}{second}{separator}{label}\n"),
            };
            let mark = if rows.len() % 2 == 0 { "\u{feff}" } else { "" };
            (mark.to_owned() + &rows.into_iter().map(line).collect::<String>()).into_bytes()
        });
    fuzz("pairs.txt", bytes(prop_oneof![valid, paths]), |bytes| {
        let Ok((folds, entries)) = parse_pairs(&bytes) else { return false };
        assert!(!entries.is_empty());
        if folds > 0 {
            assert_eq!(entries.len() % (2 * folds), 0);
            assert_eq!(entries.iter().filter(|entry| entry.same).count() * 2, entries.len());
        }
        assert!(entries.is_sorted_by(|a, b| a.line < b.line));
        for entry in entries {
            assert!(entry.images[0] != entry.images[1]);
            assert!(entry.images.iter().all(|name| !name.is_empty() && !name.contains(['\n', '\\'])));
        }
        true
    });
}
