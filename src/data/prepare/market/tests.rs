use std::fs;

use proptest::prelude::*;

use super::*;

const SMALL: [&str; 7] = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0007_c3s3_077419_03.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/0000_c6s1_000151_01.jpg",
    "bounding_box_test/0001_c2s1_000301_00.jpg",
    "bounding_box_test/Thumbs.db",
];

/// A tree of empty files below `name`.
fn tree(name: &str, files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join(name);
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    (directory, root)
}

fn error(name: &str, files: &[&str]) -> String {
    let (_directory, root) = tree(name, files);
    Market::open(&root, false).err().unwrap().to_string()
}

#[test]
fn people_cameras_and_splits_come_from_paths() {
    let more = [&SMALL[..], &["query/.hidden.jpg", "query/list.txt", "query/deep/1.jpg"]].concat();
    let (directory, root) = tree("people", &more);
    // the directory itself or the one above it
    for source in [&root, directory.path()] {
        let market = Market::open(source, false).unwrap();
        let all = (0..market.count()).map(|index| {
            let ImageRead { identity, bytes } = market.read(index).unwrap();
            let (person, bytes) = (identity.unwrap(), bytes.unwrap());
            assert_eq!(*bytes, *market.name(index).as_bytes());
            let (camera, split) = market.camera_and_split(index).unwrap();
            (market.identity(person), camera, split)
        });
        let expected = [
            ("0002", 1, Split::Train),
            ("0007", 3, Split::Train),
            ("0001", 1, Split::Query),
            ("0000", 6, Split::Gallery),
            ("0001", 2, Split::Gallery),
        ];
        assert!(all.eq(expected.map(|(person, camera, split)| (person.to_owned(), camera, split))));
        assert_eq!((market.junk(), market.differences()), (1, vec![]));
        let ignored = [("query/deep", "a directory"), ("query/list.txt", "not an image by its extension")];
        assert_eq!(market.ignored(), ignored.map(|(name, why)| (name.to_owned(), why.to_owned())));
    }
}

#[test]
fn names_that_cannot_be_are_listed_before_any_work() {
    let bad = [
        "bounding_box_train/-1_c1s1_000401_03.jpg",
        "bounding_box_train/0000_c1s1_000401_03.jpg",
        "query/0000_c1s1_000401_03.jpg",
        "query/0003c1s1.jpg",
        "bounding_box_test/-2_c1s1_000401_03.jpg",
        "bounding_box_test/anna_c1.jpg",
    ];
    let text = error("people", &[&SMALL[..], &bad].concat());
    assert!(text.contains("people: 6 images can't be used; wanted are names like 0001_c1s1_001051_00.jpg"), "{text}");
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    let expected = [
        "bounding_box_train/-1_c1s1_000401_03.jpg: person -1 is only for bounding_box_test",
        "bounding_box_train/0000_c1s1_000401_03.jpg: person 0 is only for bounding_box_test",
        "query/0000_c1s1_000401_03.jpg: person 0 is only for bounding_box_test",
        "query/0003c1s1.jpg: its name has another form",
        "bounding_box_test/-2_c1s1_000401_03.jpg: there is no person -2",
        "bounding_box_test/anna_c1.jpg: its name has another form",
    ];
    assert_eq!(lines, expected);
    let many: Vec<String> = (0..25).map(|number| format!("query/image{number}.png")).collect();
    let text = error("people", &many.iter().map(String::as_str).chain(SMALL).collect::<Vec<_>>());
    assert!(text.lines().count() == 12 && text.ends_with("\n  and 15 more"), "{text}");
}

#[test]
fn market_and_duke_have_their_people_and_cameras() {
    let found = |name, file| error(name, &[&SMALL[..], &[file]].concat());
    let text = found("Market-1501-v15.09.15", "query/1502_c1s1_1.jpg");
    assert!(text.ends_with("query/1502_c1s1_1.jpg: Market-1501 has no person 1502, only up to 1501"), "{text}");
    let text = found("market1501-copy", "query/1501_c7s1_1.jpg");
    assert!(text.ends_with("query/1501_c7s1_1.jpg: Market-1501 has no camera 7, only 1 to 6"), "{text}");
    let text = found("Market_1501", "bounding_box_test/-1_c0s1_1.jpg");
    assert!(text.ends_with("Market-1501 has no camera 0, only 1 to 6"), "{text}");
    let text = found("DukeMTMC-reID", "query/7140_c9_f1.jpg");
    assert!(text.ends_with("DukeMTMC-reID has no camera 9, only 1 to 8"), "{text}");
    let (_directory, root) = tree("DukeMTMC-reID", &[&SMALL[..], &["query/7140_c8_f1.jpg"]].concat());
    assert!(Market::open(&root, false).is_ok());
}

#[test]
fn other_numbers_than_the_authors_are_warned_about() {
    let (_directory, root) = tree("Market-1501-v15.09.15", &SMALL);
    let expected = [
        "Market-1501: expected 12936 images to train on, found 2",
        "Market-1501: expected 751 people to train on, found 2",
        "Market-1501: expected 3368 queries, found 1",
        "Market-1501: expected 750 people among the queries, found 1",
        "Market-1501: expected 19732 gallery images with junk, found 3",
        "Market-1501: expected 3819 junk images, found 1",
        "Market-1501: expected 2798 distractors, found 1",
    ];
    assert_eq!(Market::open(&root, false).unwrap().differences(), expected);
}

#[test]
fn what_is_missing_is_named() {
    let text = error("people", &[SMALL[0], SMALL[5]]);
    assert!(text.ends_with("people: no directory query; wanted are bounding_box_train, query and bounding_box_test"));
    let text = error("people", &[&SMALL[..2], &["query/1.txt"], &SMALL[3..]].concat());
    assert!(text.ends_with("query: no images but junk; wanted are files *.jpg, *.jpeg, *.png, *.pgm, *.ppm, *.pnm"));
    let text = error("people", &SMALL[..4]);
    assert!(text.contains("bounding_box_test: no images but junk"), "{text}");
    let (directory, _) = tree("a", &SMALL);
    assert!(fs::create_dir_all(directory.path().join("b/query")).is_ok());
    let text = Market::open(directory.path(), false).err().unwrap().to_string();
    assert!(text.contains("several data sets: ") && text.ends_with("b ...; choose one"), "{text}");
    let text = error("people", &["faces/anna/1.jpg"]);
    assert!(text.contains("no data set here or one directory below; wanted are"), "{text}");
    let text = Market::open(&directory.path().join("missing"), false).err().unwrap().to_string();
    assert!(text.ends_with("missing: can't be listed: No such file or directory (os error 2)"), "{text}");
}

#[test]
fn an_own_tree_may_have_any_name_people_and_cameras_and_person_0() {
    let own =
        [&SMALL[..], &["query/0000_c9s1_1.jpg", "bounding_box_train/0000_c7_1.jpg", "query/1502_c1_1.jpg"]].concat();
    let (_directory, root) = tree("market1501", &own);
    let text = Market::open(&root, false).err().unwrap().to_string();
    assert!(text.contains("; --own-tree says that it is your own tree, whatever its name"), "{text}");
    assert_eq!(text.lines().count(), 4);
    let market = Market::open(&root, true).unwrap();
    assert_eq!((market.count(), market.junk(), market.differences()), (8, 1, vec![]));
    let people: BTreeSet<u32> = market.images.iter().map(|image| image.person).collect();
    assert_eq!(people, [0, 1, 2, 7, 1502].into());
    // still no person, and no such number
    let (_directory, root) = tree("mine", &[&SMALL[..], &["query/-1_c1_1.jpg"]].concat());
    assert!(Market::open(&root, true).err().unwrap().to_string().ends_with("person -1 is only for bounding_box_test"));
    let origins = [true, false].map(|own| {
        let (_directory, root) = tree("people", &SMALL);
        Market::open(&root, own).unwrap().origin().ends_with(", an own tree")
    });
    assert_eq!(origins, [true, false]);
}

#[test]
fn veri_and_cuhk03_np_are_read_as_published() {
    let vehicles = [
        "image_train/0002_c002_00030600_0.jpg",
        "image_query/0001_c001_00016450_0.jpg",
        "image_test/0001_c020_00016460_0.jpg",
        "name_train.txt",
        "train_label.xml",
    ];
    let (_directory, root) = tree("VeRi", &vehicles);
    let market = Market::open(&root, false).unwrap();
    let cameras: Vec<u32> = market.images.iter().map(|image| image.camera).collect();
    assert_eq!((market.count(), cameras), (3, vec![2, 1, 20]));
    let text = error("VeRi", &vehicles[..2]);
    assert!(text.ends_with("no directory image_test; wanted are image_train, image_query and image_test"), "{text}");

    let files = |kind: &str| {
        ["bounding_box_train/0003_c1_21.png", "query/0001_c1_1.png", "bounding_box_test/0001_c2_6.png"]
            .map(|file| format!("{kind}/{file}"))
    };
    let both: Vec<String> = ["detected", "labeled"].into_iter().flat_map(files).collect();
    let (_directory, root) = tree("cuhk03-np", &both.iter().map(String::as_str).collect::<Vec<_>>());
    let text = Market::open(&root, false).err().unwrap().to_string();
    assert!(text.contains("several data sets: ") && text.ends_with("labeled ...; choose one"), "{text}");
    assert_eq!(Market::open(&root.join("labeled"), false).unwrap().count(), 3);
}

/// MSMT17 with the lists that are given.
fn msmt17(directories: [&str; 2], query: &str, val: Option<&str>) -> (tempfile::TempDir, PathBuf) {
    let [train, test] = directories;
    let images = ["0000/0000_000_01_0303morning_0008_0.jpg", "0001/0001_000_15_0303noon_0008_0.jpg"];
    let files = [train, test].map(|name| images.map(|image| format!("{name}/{image}"))).concat();
    let (directory, root) = tree("MSMT17_V1", &files.iter().map(String::as_str).collect::<Vec<_>>());
    fs::write(root.join("list_train.txt"), format!("\u{feff}{} 0\r\n{} 1\r\n", images[0], images[1])).unwrap();
    if let Some(val) = val {
        fs::write(root.join("list_val.txt"), val).unwrap();
    }
    fs::write(root.join("list_query.txt"), query).unwrap();
    fs::write(root.join("list_gallery.txt"), format!("{} 0\n{} 1\n", images[0], images[1])).unwrap();
    (directory, root)
}

#[test]
fn msmt17_is_read_from_its_lists_and_its_people_are_numbered_once() {
    let query = "0001/0001_000_15_0303noon_0008_0.jpg 1\n";
    for directories in MSMT17_DIRECTORIES {
        let (directory, root) = msmt17(directories, query, Some("0002/0002_000_03_0303noon_0008_0.jpg 2\n"));
        for source in [&root, directory.path()] {
            let market = Market::open(source, false).unwrap();
            let all: Vec<_> =
                market.images.iter().map(|image| (image.person, image.camera, image.split as u8)).collect();
            let train = [(1, 1, 0), (2, 15, 0), (3, 3, 0)];
            assert_eq!(all, [&train[..], &[(5, 15, 1), (4, 1, 2), (5, 15, 2)]].concat());
            assert_eq!(market.identity(5), "0005");
            assert_eq!(market.name(0), format!("{}/0000/0000_000_01_0303morning_0008_0.jpg", directories[0]));
            assert_eq!(market.differences()[0], "MSMT17: expected 32621 images to train on, found 3");
            assert!(market.read(0).unwrap().bytes.is_ok());
            // what a list names and is not there is skipped and counted
            assert!(market.read(2).unwrap().bytes.unwrap_err().starts_with("can't be read: "));
        }
    }
    let (_directory, root) = msmt17(["train", "test"], query, None);
    assert_eq!(Market::open(&root, true).unwrap().count(), 5);
    fs::rename(root.join("test"), root.join("tests")).unwrap();
    let text = Market::open(&root, true).err().unwrap().to_string();
    assert!(text.contains("no directories train and test, or mask_train_v2"), "{text}");
    fs::remove_file(root.join("list_gallery.txt")).unwrap();
    let text = Market::open(&root, true).err().unwrap().to_string();
    assert!(text.contains("no list list_gallery.txt; wanted are list_train.txt, list_query.txt and"), "{text}");
}

#[test]
fn bad_lines_of_msmt17s_lists_are_named() {
    let bad = "0/0_0_16_x.jpg 0\n../0_0_1.jpg 0\n0/0_0_1.jpg\n0/0.jpg 1\n0/0_0_1.jpg -1\n/0_0_1.jpg 1\n0/0_0_1_x.jpg 4000000000\n";
    let (_directory, root) = msmt17(["train", "test"], bad, None);
    let text = Market::open(&root, false).err().unwrap().to_string();
    assert!(text.contains("7 images can't be used; wanted are lines like 0000/0000_000_01"), "{text}");
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    let expected = [
        "list_query.txt: 0/0_0_16_x.jpg 0: MSMT17 has no camera 16, only 1 to 15",
        "list_query.txt: ../0_0_1.jpg 0: not a path below the directory of images",
        "list_query.txt: 0/0_0_1.jpg: not a path and a person's number",
        "list_query.txt: 0/0.jpg 1: its name has not the camera's number behind its second _",
        "list_query.txt: 0/0_0_1.jpg -1: not a path and a person's number",
        "list_query.txt: /0_0_1.jpg 1: not a path below the directory of images",
        "list_query.txt: 0/0_0_1_x.jpg 4000000000: there is no person 4000000000",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn names_are_parsed_as_by_torchreid() {
    let name = |person, number, camera| Some(Name { person, number, camera });
    assert_eq!(parse("0001_c1s1_001051_00.jpg"), name("0001", 1, 1));
    assert_eq!(parse("0002_c1_f0044158.jpg"), name("0002", 2, 1));
    assert_eq!(parse("-1_c3s2_1.jpg"), name("-1", -1, 3));
    assert_eq!(parse("12_c14"), name("12", 12, 14));
    for bad in
        ["", "_c1.jpg", "-_c1.jpg", "+1_c1.jpg", "1_cx.jpg", "1_c", "1_C1.jpg", "1-2_c1", "x1_c1", "99999999999_c1"]
    {
        assert_eq!(parse(bad), None, "{bad}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_say_what_was_put_into_them(
        number in -1..20_000i32, camera in 0..100u32, rest in "([a-z_.][ -~é]{0,20})?", digits in 0..6usize,
    ) {
        let person = if number < 0 { number.to_string() } else { format!("{number:0digits$}") };
        let text = format!("{person}_c{camera}{rest}");
        assert_eq!(parse(&text), Some(Name { person: &person, number, camera }));
    }

    #[test]
    fn other_lines_of_lists_never_cause_a_panic(line in "[0-9/_. \t-]{0,30}|[0-9]{1,2}/[0-9_]{5,9}[.]jpg [0-9]{1,11}|.{0,20}") {
        if let Ok((path, person, _)) = parse_listed(&line) {
            assert!(line.starts_with(path.to_str().unwrap().trim_start()) || line.trim_start() != line);
            assert!(!path.is_absolute() && !path.to_str().unwrap().split('/').any(|part| part == ".."));
            assert!(line.ends_with(|last: char| last.is_ascii_digit()) && person <= 1 << 30);
        }
    }

    #[test]
    fn other_names_never_cause_a_panic(text in "[-+0-9_cséx.]{0,12}|.{0,20}") {
        if let Some(name) = parse(&text) {
            let prefix = format!("{}_c", name.person);
            let camera = text.strip_prefix(&prefix).unwrap().trim_start_matches('0');
            assert!(name.camera == 0 || camera.starts_with(&name.camera.to_string()));
            assert_eq!(name.person.parse(), Ok(name.number));
            let _ = check(&name, Split::Gallery, false, Some(&releases::MSMT17));
        }
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
}
