use super::*;

fn frame(kind: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &(kind << 29 | payload.len() as u32).to_le_bytes(), payload].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn payload(flag: u32, label: f32, labels: &[f32], image: &[u8]) -> Vec<u8> {
    let mut bytes = [&flag.to_le_bytes()[..], &label.to_le_bytes(), &[0; 16]].concat();
    bytes.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
    bytes.extend(image);
    bytes
}

/// (train.rec, train.idx) with keys 0, 1, ...
fn files(records: &[Vec<u8>]) -> (Vec<u8>, String) {
    let (mut bytes, mut index) = (Vec::new(), String::new());
    for (key, record) in records.iter().enumerate() {
        index += &format!("{key}\t{}\n", bytes.len());
        bytes.extend(record);
    }
    (bytes, index)
}

/// Header, three images of two identities, two identity records.
fn records() -> Vec<Vec<u8>> {
    vec![
        frame(0, &payload(2, 0.0, &[4.0, 6.0], b"")),
        frame(0, &payload(0, 0.0, &[], b"first")),
        frame(0, &payload(1, 9.0, &[1.0], b"second")),
        frame(0, &payload(2, 9.0, &[1.0, 0.0], b"third")),
        frame(0, &payload(2, 0.0, &[1.0, 2.0], b"")),
        frame(0, &payload(2, 0.0, &[2.0, 4.0], b"")),
    ]
}

fn write(directory: &Path, (records, index): (Vec<u8>, String)) {
    std::fs::write(directory.join("train.rec"), records).unwrap();
    std::fs::write(directory.join("train.idx"), index).unwrap();
    std::fs::write(directory.join("property"), "2,112,112\n").unwrap();
}

fn folder() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), files(&records()));
    directory
}

#[test]
fn images_are_read_by_number_with_their_first_label() {
    let directory = folder();
    let data = RecordIo::open(directory.path()).unwrap();
    assert_eq!((data.count(), data.classes()), (3, Some(2)));
    assert_eq!(data.image(0).unwrap(), (0, Cow::Borrowed(&b"first"[..])));
    assert_eq!(data.image(1).unwrap(), (1, Cow::Borrowed(&b"second"[..])));
    assert_eq!(data.image(2).unwrap(), (1, Cow::Borrowed(&b"third"[..])));
    assert!(matches!(data.image(2).unwrap().1, Cow::Borrowed(_)));
    assert_eq!(data.image(3).unwrap_err(), "image 3 of 3");
}

#[test]
fn every_key_of_a_flat_file_is_an_image() {
    let (bytes, index) = files(&[frame(0, &payload(0, 1.0, &[], b"a")), frame(0, &payload(1, 0.0, &[0.0], b"b"))]);
    let layout = RecordLayout::parse(&bytes, index.as_bytes(), Some(b"2,8,8")).unwrap();
    assert_eq!(layout.count(), 2);
    assert_eq!(layout.image(&bytes, 0).unwrap(), (1, Cow::Borrowed(&b"a"[..])));
    assert_eq!(layout.image(&bytes, 1).unwrap(), (0, Cow::Borrowed(&b"b"[..])));
}

#[test]
fn split_records_are_joined_with_the_magic_between_the_parts() {
    let whole = [&payload(0, 1.0, &[], b"abcd")[..], &MAGIC, b"efgh", &MAGIC, b"ij"].concat();
    let split = [frame(1, &whole[..28]), frame(2, b"efgh"), frame(3, b"ij")].concat();
    let (bytes, index) = files(&[split]);
    let layout = RecordLayout::parse(&bytes, index.as_bytes(), Some(b"2,8,8")).unwrap();
    assert_eq!(layout.image(&bytes, 0).unwrap(), (1, Cow::Owned(whole[24..].to_vec())));
}

#[test]
fn missing_files_are_named() {
    for name in ["train.rec", "train.idx"] {
        let directory = folder();
        std::fs::remove_file(directory.path().join(name)).unwrap();
        let error = RecordIo::open(directory.path()).err().unwrap().to_string();
        assert!(error.starts_with(&format!("{}: can't be", directory.path().join(name).display())), "{error}");
    }
    let directory = folder();
    std::fs::write(directory.path().join("train.rec"), "").unwrap();
    let error = RecordIo::open(directory.path()).err().unwrap().to_string();
    assert!(error.ends_with("train.idx: line 1: offset 0 lies beyond the 0 bytes of train.rec"), "{error}");
}

/// The error of opening a folder with this record 0, or with this index or property.
fn refusal(records: &[Vec<u8>], index: Option<&str>, property: &str) -> String {
    let (bytes, own) = files(records);
    let (file, why) =
        RecordLayout::parse(&bytes, index.unwrap_or(&own).as_bytes(), Some(property.as_bytes())).unwrap_err();
    format!("{file}: {why}")
}

#[test]
fn a_bad_index_is_refused() {
    let refused = |index: &str| refusal(&records(), Some(index), "2,8,8");
    assert_eq!(refused("0 0\n"), "train.idx: line 1: \"0 0\" is not key TAB offset");
    assert_eq!(refused("0\t0\nx\t40\n"), "train.idx: line 2: \"x\\t40\" is not key TAB offset");
    assert_eq!(refused("0\t0\n\n1\t40\n"), "train.idx: line 2: \"\" is not key TAB offset");
    assert_eq!(refused("0\t0\n1\t-4\n"), "train.idx: line 2: offset -4 is negative");
    assert_eq!(refused("0\t9999\n"), "train.idx: line 1: offset 9999 lies beyond the 252 bytes of train.rec");
    assert_eq!(refused("0\t0\n1\t40\n1\t80\n"), "train.idx: key 1 is there twice");
    let from_1 = refused("1\t0\n2\t40\n");
    assert!(from_1.contains("its keys start at 1") && from_1.ends_with("mv 0.idx train.idx"), "{from_1}");
    assert_eq!(refused("2\t40\n"), "train.idx: key 0, the header record, is missing");
    assert_eq!(refused(""), "train.idx: key 0, the header record, is missing");
    let misfit = |keys| format!("train.idx: {keys} keys don't fit train.rec, whose header asks for 0 to 5");
    assert_eq!(refused("0\t0\n1\t40\n"), misfit(2));
    assert_eq!(refused("0\t0\n1\t0\n2\t0\n3\t0\n4\t0\n6\t0\n"), misfit(6));
}

#[test]
fn a_bad_property_is_refused() {
    for property in ["", "2", "2,112", "2,112,112,3", "0,112,112", "2,0,112", "-1,2,3", "a,b,c", "99999999,1,1"] {
        let error = format!("property: {property:?} is not \"classes,height,width\"");
        assert_eq!(refusal(&records(), None, property), error);
    }
}

#[test]
fn a_bad_header_record_is_refused() {
    let refused = |record: Vec<u8>| refusal(&[record], None, "2,8,8");
    let of = |flag, labels: &[f32]| refused(frame(0, &payload(flag, 0.0, labels, b"")));
    assert_eq!(of(1, &[1.0]), "train.rec: record 0 at offset 0: flag 1; a header has 2, an image of a flat file 0");
    for (n0, n1) in [(1.0, 4.0), (4.0, 3.0), (f32::NAN, 4.0), (4.0, f32::INFINITY), (2.5, 4.0), (-4.0, 4.0), (2.0, 3e9)]
    {
        let error = format!("train.rec: record 0 at offset 0: header labels ({n0}, {n1}) are no counts of records");
        assert_eq!(of(2, &[n0, n1]), error);
    }
    assert_eq!(
        refused(b"not a record".to_vec()),
        "train.rec: record 0 at offset 0: no RecordIO magic number but 0x20746f6e"
    );
}

/// The error of image 0, record 1, of a folder where that record is `record`.
fn image_refusal(record: Vec<u8>) -> String {
    let mut records = records();
    records[1] = record;
    records.truncate(2);
    records[0] = frame(0, &payload(2, 0.0, &[2.0, 2.0], b""));
    let (bytes, index) = files(&records);
    RecordLayout::parse(&bytes, index.as_bytes(), Some(b"2,8,8")).unwrap().image(&bytes, 0).unwrap_err()
}

#[test]
fn a_bad_record_is_refused_with_key_and_offset() {
    let refused = |record: Vec<u8>, why: &str| {
        assert_eq!(image_refusal(record), format!("at offset 40: {why}"));
    };
    let good = frame(0, &payload(0, 1.0, &[], b"image"));
    refused(good[..5].to_vec(), "truncated: 5 bytes left for the 8 of its frame");
    refused(good[..20].to_vec(), "truncated: 12 of 29 bytes are there");
    refused([&[1, 2, 3, 4], &good[4..]].concat(), "no RecordIO magic number but 0x04030201");
    refused(frame(0, &[0; 23]), "23 bytes are too few for the 24 of its header");
    refused(frame(0, &payload(0, 1.0, &[], b"")), "no image in it");
    refused(frame(0, &payload(3, 1.0, &[1.0], b"image")), "3 labels don't fit its 33 bytes");
    refused(frame(0, &payload(u32::MAX, 1.0, &[1.0], b"image")), "4294967295 labels don't fit its 33 bytes");
    refused(frame(2, b"image"), "starts with a continuation (part kind 2)");
    refused(frame(3, b"image"), "starts with a continuation (part kind 3)");
    refused(frame(7, b"image"), "part kind 7; there are 0 to 3");
    let lone = frame(1, &payload(0, 1.0, &[], b"imag"));
    refused(lone.clone(), "part at offset 76: truncated: 0 bytes left for the 8 of its frame");
    refused([lone, good].concat(), "part at offset 76: kind 0 where a continuation (2 or 3) is due");
}

#[test]
fn a_label_that_is_no_class_is_refused() {
    for label in [f32::NAN, f32::INFINITY, -1.0, 0.5, 2.0, 3e9] {
        let why = format!("at offset 40: label {label} is none of the 2 classes that property states");
        assert_eq!(image_refusal(frame(0, &payload(0, label, &[], b"image"))), why);
        assert_eq!(image_refusal(frame(0, &payload(1, 0.0, &[label], b"image"))), why);
    }
}

#[test]
fn identity_names_come_from_the_list() {
    let directory = folder();
    let data = RecordIo::open(directory.path()).unwrap();
    assert_eq!(data.identity_names().unwrap(), None);
    let write = |list: &str| std::fs::write(directory.path().join("train.lst"), list).unwrap();
    let error = || {
        let error = data.identity_names().unwrap_err().to_string();
        error.strip_prefix(&format!("{}: ", directory.path().join("train.lst").display())).unwrap().to_owned()
    };
    // insightface: aligned, path, label; im2rec: key, label, path
    write("1\t/data/0000045/001.jpg\t0\r\n1\t/data/0000099/001.jpg\t1\n3\t1.0\t0000099/002.jpg\n");
    let names = data.identity_names().unwrap().unwrap();
    assert_eq!(names, BTreeMap::from([(0, "0000045".to_owned()), (1, "0000099".to_owned())]));
    write("1\tA/1.jpg\t0\n");
    assert_eq!(error(), "1 rows for 3 images");
    write("1\tA/1.jpg\t0\n1\tB/1.jpg\t1\n1\tC/2.jpg\t1\n");
    assert_eq!(error(), "line 3: label 1 is \"B\" and \"C\"");
    write("1\t2\t0\n1\tB/1.jpg\t1\n1\tB/2.jpg\t1\n");
    assert_eq!(error(), "line 1: not one column that is a path");
    write("1\tA/1.jpg\tA/2.jpg\n1\tB/1.jpg\t1\n1\tB/2.jpg\t1\n");
    assert_eq!(error(), "line 1: not one column that is a path");
    write("1\t1.jpg\t0\n1\tB/1.jpg\t1\n1\tB/2.jpg\t1\n");
    assert_eq!(error(), "line 1: \"1.jpg\" has no folder that names the identity");
}

#[test]
fn a_header_of_more_records_than_f32_can_count_is_read() {
    // Glint360K's, whose header says 17091658 and 17451890, and its neighbours
    for images in 17_091_654..17_091_660_usize {
        let (n0, n1) = (images + 1, images + 1 + 360_232);
        let end = end_of_images([n0 as f32, n1 as f32], n1, n1 as u64 - 1, |key| key < n0);
        assert_eq!(end, Ok(n0));
    }
    let refused = |keys: usize, last: u64| end_of_images([17091658.0, 17451890.0], keys, last, |_| true).unwrap_err().1;
    let why = |keys| format!("{keys} keys don't fit train.rec, whose header asks for 0 to 17451889");
    assert_eq!(refused(17_451_888, 17_451_887), why(17_451_888));
    assert_eq!(refused(17_451_890, 17_451_890), why(17_451_890));
    assert_eq!((count(17091658.0), count(16777215.0)), (Some(17091657..=17091659), Some(16777215..=16777215)));
    assert_eq!((count(5.0), count(1.5), count(f32::NAN)), (Some(5..=5), None, None));
    let (bytes, _) = files(&[records()[1].clone(), records()[4].clone(), b"damaged".to_vec()]);
    assert_eq!([0, 40, 80].map(|offset| has_image(&bytes, offset)), [true, false, false]);
}

#[test]
fn without_property_labels_are_not_bounded() {
    let directory = folder();
    std::fs::remove_file(directory.path().join("property")).unwrap();
    let data = RecordIo::open(directory.path()).unwrap();
    assert_eq!((data.count(), data.classes()), (3, None));
    assert_eq!(data.image(1).unwrap(), (1, Cow::Borrowed(&b"second"[..])));
    let one = |label: f32| {
        let (bytes, index) = files(&[frame(0, &payload(0, label, &[], b"image"))]);
        RecordLayout::parse(&bytes, index.as_bytes(), None).unwrap().image(&bytes, 0).map(|(label, _)| label)
    };
    assert_eq!(one(999_999.0), Ok(999_999));
    for label in [-1.0, 0.5, f32::NAN, 16777216.0] {
        assert_eq!(one(label), Err(format!("at offset 0: label {label} is no number of an identity")));
    }
}
