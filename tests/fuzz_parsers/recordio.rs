use amlfs::data::prepare::recordio::RecordLayout;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{apply, damage, fuzz};

const MAGIC: [u8; 4] = 0xCED7_230A_u32.to_le_bytes();

/// As dmlc-core writes it: split where the magic is on a multiple of 4.
fn frame(payload: &[u8]) -> Vec<u8> {
    let mut parts = vec![Vec::new()];
    for word in payload.chunks(4) {
        if word == MAGIC {
            parts.push(Vec::new());
        } else {
            parts.last_mut().unwrap().extend(word);
        }
    }
    let mut bytes = Vec::new();
    for (k, part) in parts.iter().enumerate() {
        let kind = match (k, parts.len() - k) {
            (0, 1) => 0,
            (0, _) => 1,
            (_, 1) => 3,
            _ => 2_u32,
        };
        bytes.extend(MAGIC);
        bytes.extend((kind << 29 | part.len() as u32).to_le_bytes());
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

type Image = (u32, Vec<u8>);

fn image() -> impl Strategy<Value = Image> {
    let piece = prop_oneof![3 => vec(any::<u8>(), 1..12), 1 => Just(MAGIC.to_vec()), 1 => Just(vec![0; 4])];
    (0..4_u32, vec(piece, 1..5).prop_map(|pieces| pieces.concat()))
}

/// train.rec, train.idx, property and train.lst with these images, of 4 identities.
fn folder(images: &[Image], flat: bool, vector: bool) -> [Vec<u8>; 4] {
    let payload = |labels: &[f32], vector: bool, image: &[u8]| {
        let flag = if vector { labels.len() as u32 } else { 0 };
        let mut bytes = [&flag.to_le_bytes()[..], &labels[0].to_le_bytes(), &[0; 16]].concat();
        bytes.extend(labels.iter().filter(|_| vector).flat_map(|label| label.to_le_bytes()));
        bytes.extend(image);
        frame(&bytes)
    };
    let mut records: Vec<Vec<u8>> =
        images.iter().map(|(label, image)| payload(&[*label as f32], vector && !flat, image)).collect();
    if !flat {
        let n0 = images.len() as f32 + 1.0;
        records.insert(0, payload(&[n0, n0 + 2.0], true, b""));
        records.extend([payload(&[1.0, 2.0], true, b""), payload(&[2.0, n0], true, b"")]);
    }
    let (mut bytes, mut index) = (Vec::new(), String::new());
    for (key, record) in records.iter().enumerate() {
        index += &format!("{key}\t{}\n", bytes.len());
        bytes.extend(record);
    }
    let list: String =
        images.iter().enumerate().map(|(k, (label, _))| format!("1\tdata/id{label}/{k}.jpg\t{label}\n")).collect();
    [bytes, index.into_bytes(), b"4,112,112\n".to_vec(), list.into_bytes()]
}

#[test]
fn record_folders() {
    let valid = (vec(image(), 1..6), any::<bool>(), any::<bool>(), any::<bool>());
    let damages = prop_oneof![
        1 => Just(Vec::new()),
        6 => vec((prop_oneof![5 => Just(0), 2 => Just(1_usize), 1 => Just(2), 1 => Just(3)], damage()), 1..4),
    ];
    let arbitrary = (0..8_usize, vec(any::<u8>(), 0..200));
    fuzz(
        "recordio",
        (valid, damages, arbitrary),
        |((images, flat, vector, with_property), damages, (replaced, bytes))| {
            let mut files = folder(&images, flat, vector);
            for (file, damage) in &damages {
                files[*file] = apply(std::mem::take(&mut files[*file]), std::slice::from_ref(damage));
            }
            let pristine = damages.is_empty() && replaced > 3;
            if let Some(file) = files.get_mut(replaced) {
                *file = bytes;
            }
            let [records, index, property, list] = files;
            let Ok(layout) = RecordLayout::parse(&records, &index, Some(&property[..]).filter(|_| with_property))
            else {
                assert!(!pristine, "a valid folder is refused");
                return false;
            };
            let classes = layout.classes().unwrap_or(1 << 24);
            assert!((1..=1 << 24).contains(&classes) && layout.classes().is_some() == with_property);
            assert!(layout.count() <= index.len());
            for k in 0..layout.count() {
                let original = images.get(k).filter(|_| pristine);
                match layout.image(&records, k) {
                    Ok((label, image)) => {
                        assert!((label as usize) < classes && (1..records.len()).contains(&image.len()));
                        assert!(original.is_none_or(|original| (label, &*image) == (original.0, &original.1[..])));
                    }
                    Err(why) => assert!(!pristine && why.starts_with("at offset "), "{why}"),
                }
            }
            assert!(layout.image(&records, layout.count()).is_err());
            let names = layout.names(&records, &list);
            if let Ok(names) = &names {
                assert!(names.keys().all(|&label| (label as usize) < classes));
                assert!(!pristine || names.iter().all(|(label, name)| *name == format!("id{label}")));
            }
            assert!(!pristine || names.is_ok());
            true
        },
    );
}
