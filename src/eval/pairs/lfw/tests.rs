use super::*;

/// pickle.dumps(([b"\x01'\"\\\n", b"\xff\x00"], [True]), protocol) of CPython 3.11, for protocols 0 to 5.
const PYTHON3: [&[u8]; 6] = [
    b"((lp0\nc_codecs\nencode\np1\n(V\x01'\"\\u005c\\u000a\np2\nVlatin1\np3\n\
      tp4\nRp5\nag1\n(V\xff\\u0000\np6\ng3\ntp7\nRp8\na(lp9\nI01\natp10\n.",
    b"(]q\x00(c_codecs\nencode\nq\x01(X\x05\0\0\0\x01'\"\\\nq\x02X\x06\0\0\0latin1q\x03\
      tq\x04Rq\x05h\x01(X\x03\0\0\0\xc3\xbf\0q\x06h\x03tq\x07Rq\x08e]q\x09I01\natq\x0a.",
    b"\x80\x02]q\x00(c_codecs\nencode\nq\x01X\x05\0\0\0\x01'\"\\\nq\x02X\x06\0\0\0latin1q\x03\
      \x86q\x04Rq\x05h\x01X\x03\0\0\0\xc3\xbf\0q\x06h\x03\x86q\x07Rq\x08e]q\x09\x88a\x86q\x0a.",
    b"\x80\x03]q\x00(C\x05\x01'\"\\\nq\x01C\x02\xff\0q\x02e]q\x03\x88a\x86q\x04.",
    b"\x80\x04\x95\x18\0\0\0\0\0\0\0]\x94(C\x05\x01'\"\\\n\x94C\x02\xff\0\x94e]\x94\x88a\x86\x94.",
    b"\x80\x05\x95\x18\0\0\0\0\0\0\0]\x94(C\x05\x01'\"\\\n\x94C\x02\xff\0\x94e]\x94\x88a\x86\x94.",
];

/// The same with `str` images as Python 2's pickle writes them, for protocols 0 to 2.
const PYTHON2: [&[u8]; 3] = [
    b"((lp0\nS'\\x01\\'\"\\\\\\n'\np1\naS'\\xff\\x00'\np2\na(lp3\nI01\natp4\n.",
    b"(]q\x00(U\x05\x01'\"\\\nq\x01U\x02\xff\0q\x02e]q\x03I01\natq\x04.",
    b"\x80\x02]q\x00(U\x05\x01'\"\\\nq\x01T\x02\0\0\0\xff\0q\x02e]q\x03\x88a\x86q\x04.",
];

#[test]
fn pickles_of_every_protocol_are_read() {
    let pairs = Pairs { images: vec![b"\x01'\"\\\n".to_vec(), b"\xff\0".to_vec()], same: vec![true] };
    for (protocol, pickle) in PYTHON3.iter().chain(&PYTHON2).enumerate() {
        assert_eq!(parse_bin(pickle).as_ref(), Ok(&pairs), "case {protocol}");
    }
}

/// pickle.dumps(pickle.load(file, encoding="latin1"), protocol) of a file by Python 2.
#[test]
fn images_that_are_text_are_their_latin1_bytes() {
    let pairs = Pairs { images: vec![b"\x01'\"\\\n".to_vec(), b"\xff\0".to_vec()], same: vec![true] };
    let pickles: [&[u8]; 3] = [
        b"((lp0\nV\x01'\"\\u005c\\u000a\np1\naV\xff\\u0000\np2\na(lp3\nI01\natp4\n.",
        b"\x80\x02]q\x00(X\x05\0\0\0\x01'\"\\\nq\x01X\x03\0\0\0\xc3\xbf\0q\x02e]q\x03\x88a\x86q\x04.",
        b"\x80\x04\x95\x19\0\0\0\0\0\0\0]\x94(\x8c\x05\x01'\"\\\n\x94\x8c\x03\xc3\xbf\0\x94e]\x94\x88a\x86\x94.",
    ];
    for pickle in pickles {
        assert_eq!(parse_bin(pickle).as_ref(), Ok(&pairs), "{:?}", pickle.escape_ascii().to_string());
    }
}

#[test]
fn flags_may_be_0_and_1_and_images_may_be_shared() {
    let pickle = b"\x80\x03](C\x01aq\x00h\x00C\x01bh\x00e](K\x01\x8a\x00e\x86.";
    let images = [b"a", b"a", b"b", b"a"].map(|image| image.to_vec()).to_vec();
    assert_eq!(parse_bin(pickle), Ok(Pairs { images, same: vec![true, false] }));
}

#[test]
fn files_are_named_in_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lfw.bin");
    assert!(read_bin(&path).unwrap_err().to_string().starts_with(&format!("{}: can't be read: ", path.display())));
    std::fs::write(&path, PYTHON3[4]).unwrap();
    assert_eq!(read_bin(&path).unwrap().same, [true]);
    std::fs::write(&path, &PYTHON3[4][..20]).unwrap();
    let error = format!("{}: not a pickle of (images, flags): truncated at its 20 bytes", path.display());
    assert_eq!(read_bin(&path).unwrap_err().to_string(), error);
}

#[test]
fn pickles_of_something_else_are_refused() {
    let refused = |pickle: &[u8], why: &str| {
        let error = parse_bin(pickle).unwrap_err();
        let error = error.strip_prefix("not a pickle of (images, flags): ").unwrap_or(&error);
        assert!(error.starts_with(why), "{error}");
    };
    refused(b"", "truncated at its 0 bytes");
    refused(
        b"\xff\xd8\xff\xe0 a jpeg",
        "byte 0: opcode 'ÿ' is not needed for lists of bytes and bools; write it again",
    );
    refused(b"\x80\x03](C\x01aC\x01be]\x88a\x86.more", "eval error at offset 16: trailing bytes found");
    refused(
        b"\x80\x03](C\x01aC\x01be]\x88a.",
        "decoding error: invalid length 1, expected two lists: images and flags",
    );
    refused(b"\x80\x03](C\x01aC\x01be](\x88\x89e\x86.", "2 images for 2 pairs; each pair has two");
    refused(b"\x80\x03]]\x86.", "0 images for 0 pairs; each pair has two");
    refused(
        b"\x80\x03](C\x01aC\x01be]K\x02a\x86.",
        "decoding error: invalid value: integer `2`, expected True, False, 1 or 0",
    );
    refused(
        b"\x80\x03](X\x03\0\0\0\xe2\x82\xacC\x01be]\x88a\x86.",
        "decoding error: invalid value: a text that is not latin1, expected the bytes of an image",
    );
    refused(b"\x80\x03\x88.", "decoding error: invalid type: boolean `true`, expected two lists: images and flags");
    refused(
        b"\x80\x03(](C\x01aC\x01be]\x88a]t.",
        "decoding error: invalid length 3, expected two lists: images and flags",
    );
    refused(b"](I99999999999999999999999\n", "byte 2: an integer that is neither 0 nor 1");
    refused(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "truncated at its 9 bytes");
    refused(b"T\xff\xff\xff\xff", "truncated at its 5 bytes");
    refused(b"h\x05.", "byte 0: refers to memo entry 5, which is not there");
}

#[test]
fn pickles_that_need_code_are_refused() {
    let rewrite =
        "write it again with pickle.dump(([bytes(b) for b in bins], [bool(s) for s in issame]), file, protocol=4)";
    let refused = |pickle: &[u8], why: &str| {
        assert_eq!(parse_bin(pickle), Err(format!("not a pickle of (images, flags): {why}; {rewrite}")));
    };
    refused(b"cos\nsystem\n(S'id'\ntR.", "byte 0: needs Python's os.system");
    let numpy = b"\x80\x02](cnumpy.core.multiarray\nscalar\n";
    refused(numpy, "byte 4: needs Python's numpy.core.multiarray.scalar");
    for (opcode, name) in [(b'i', "'i'"), (b'o', "'o'"), (b'b', "'b'"), (0x81, "'\\u{81}'"), (0x93, "'\\u{93}'")] {
        refused(&[b']', opcode], &format!("byte 1: opcode {name} is not needed for lists of bytes and bools"));
    }
}

/// Each of these makes serde-pickle alone overflow the stack or fill the memory.
#[test]
fn hostile_pickles_end_in_an_error() {
    let refused = |pickle: Vec<u8>, why: &str| {
        assert!(parse_bin(&pickle).unwrap_err().starts_with(&format!("not a pickle of (images, flags): byte {why}")));
    };
    refused([b"N", &[0x85; 1_000_000][..], b"."].concat(), "0: opcode 'N' is not needed");
    refused([b")", &[0x85; 1_000_000][..], b"."].concat(), "0: opcode ')' is not needed");
    refused([b"C\x01a".repeat(1_000_001), vec![0x86; 1_000_000]].concat(), "3000004: a tuple inside of something");
    refused([vec![b'('; 4], b"C\x01at".repeat(4)].concat(), "8: a tuple inside of something");
    refused(vec![b'('; 1_000_000], "4: nested too deeply");
    refused(vec![b']'; 1_000_000], "3: more lists than the images and the flags");
    refused([b"]".to_vec(), b"2a".repeat(100)].concat(), "1: opcode '2' is not needed");
    refused([&b"C\x01aq\x00q\x01"[..]].concat(), "5: names something that has just been named");
    refused([&b"]q\x00h\x00q\x01"[..]].concat(), "5: names something that has just been named");
    refused([&b"C\x01aq\x00C\x01bq\x00"[..]].concat(), "8: defines memo entry 0 again");
    let image = [&b"](B\0\0\x10\0"[..], &[7; 1 << 20], b"q\0", &b"h\0".repeat(200)].concat();
    refused(image, "1048721: refers to the same images too often");
    refused([&b"]("[..], &[0x88; 5_000_000]].concat(), "4194304: more values than any list of test pairs has");
}
