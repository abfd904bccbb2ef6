//! Market-1501, DukeMTMC-reID and trees with the same names as a source: people seen by several cameras.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::folder::{EXTENSIONS, is_hidden, is_image};
use super::{NAMED, Source};
use crate::data::Split;
use crate::error::{Error, Result};

const DIRECTORIES: [(&str, Split); 3] =
    [("bounding_box_train", Split::Train), ("query", Split::Query), ("bounding_box_test", Split::Gallery)];
/// What an error about names says is wanted.
const FORM: &str = "wanted are names like 0001_c1s1_001051_00.jpg or 0002_c1_f0044158.jpg: the person's number, _c and \
                    the camera's; -1 (junk) and 0 (distractors) only in bounding_box_test";

/// What a data set's authors say about it (torchreid: market1501.py, dukemtmcreid.py).
struct Release {
    /// What the directory's name begins with: its letters and digits, in lower case.
    word: &'static str,
    name: &'static str,
    last_person: Option<u32>,
    cameras: u32,
    /// The counts that `Market::figures` gives for the complete data set.
    figures: [usize; 7],
}

const RELEASES: [Release; 2] = [
    Release {
        word: "market1501",
        name: "Market-1501",
        last_person: Some(1501),
        cameras: 6,
        figures: [12_936, 751, 3_368, 750, 19_732, 3_819, 2_798],
    },
    Release {
        word: "dukemtmc",
        name: "DukeMTMC-reID",
        last_person: None,
        cameras: 8,
        figures: [16_522, 702, 2_228, 702, 17_661, 0, 0],
    },
];

/// The images of a re-identification benchmark without its junk (person -1), which "neither helps nor hurts": those to
/// train on, the queries, the gallery with its distractors (person 0); in the order of their names. Identity numbers
/// are the people's. Hidden files and Thumbs.db are passed over.
pub struct Market {
    root: PathBuf,
    images: Vec<Image>,
    /// Numbers of people as the first file has them: with leading zeros.
    names: BTreeMap<u32, String>,
    junk: usize,
    ignored: Vec<(String, String)>,
}

struct Image {
    /// Below the root.
    path: PathBuf,
    person: u32,
    camera: u32,
    split: Split,
}

impl Market {
    /// Lists the data set in `source` or in the one directory of it that has one; reads no image.
    ///
    /// Errors: bounding_box_train, query or bounding_box_test is missing or without images; names of another form;
    /// people or cameras that Market-1501 or DukeMTMC-reID (by the directory's name) do not have.
    pub fn open(source: &Path) -> Result<Market> {
        let root = root(source)?;
        let release = release(&root);
        let mut market = Market { root, images: Vec::new(), names: BTreeMap::new(), junk: 0, ignored: Vec::new() };
        let mut bad = Vec::new();
        for (directory, split) in DIRECTORIES {
            let before = market.images.len();
            market.list(directory, split, release, &mut bad)?;
            if market.images.len() == before && bad.is_empty() {
                let why = format!("no images but junk; wanted are files *.{}", EXTENSIONS.join(", *."));
                return Err(Error::file(&market.root.join(directory), why));
            }
        }
        if bad.is_empty() {
            return Ok(market);
        }
        let named: String = bad.iter().take(NAMED).map(|(name, why)| format!("\n  {name}: {why}")).collect();
        let more = bad.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        Err(Error::file(&market.root, format!("{} images can't be used; {FORM}:{named}{more}", bad.len())))
    }

    fn list(
        &mut self,
        directory: &str,
        split: Split,
        release: Option<&Release>,
        bad: &mut Vec<(String, String)>,
    ) -> Result<()> {
        let top = self.root.join(directory);
        let walk = WalkDir::new(&top).min_depth(1).max_depth(1).follow_links(true).sort_by_file_name();
        for entry in walk.into_iter().filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry)) {
            let entry = entry.map_err(|error| {
                let why = error.io_error().map_or_else(|| error.to_string(), |why| why.to_string());
                Error::file(error.path().unwrap_or(&top), format!("can't be listed: {why}"))
            })?;
            let name = entry.file_name().to_string_lossy();
            let path = Path::new(directory).join(entry.file_name());
            let text = path.to_string_lossy().into_owned();
            if entry.file_type().is_dir() {
                self.ignored.push((text, "a directory".into()));
                continue;
            }
            if !is_image(&path) {
                self.ignored.push((text, "not an image by its extension".into()));
                continue;
            }
            let parsed = parse(&name).ok_or_else(|| "its name has another form".into());
            match parsed.and_then(|name| check(&name, split, release).map(|()| name)) {
                Err(why) => bad.push((text, why)),
                Ok(Name { person, number, camera }) => match u32::try_from(number) {
                    Err(_) => self.junk += 1,
                    Ok(number) => {
                        self.names.entry(number).or_insert_with(|| person.to_owned());
                        self.images.push(Image { path, person: number, camera, split });
                    }
                },
            }
        }
        Ok(())
    }

    /// Images of person -1, which are left out.
    pub fn junk(&self) -> usize {
        self.junk
    }

    /// Where this differs from the Market-1501 or DukeMTMC-reID that its directory's name promises: for warnings.
    pub fn differences(&self) -> Vec<String> {
        let Some(release) = release(&self.root) else { return Vec::new() };
        let differ = |((what, found), expected): ((&str, usize), usize)| {
            (found != expected).then(|| format!("{}: expected {expected} {what}, found {found}", release.name))
        };
        self.figures().into_iter().zip(release.figures).filter_map(differ).collect()
    }

    fn figures(&self) -> [(&'static str, usize); 7] {
        let images = |split| self.images.iter().filter(move |image| image.split == split);
        let people = |split| images(split).map(|image| image.person).collect::<BTreeSet<_>>().len();
        [
            ("images to train on", images(Split::Train).count()),
            ("people to train on", people(Split::Train)),
            ("queries", images(Split::Query).count()),
            ("people among the queries", people(Split::Query)),
            ("gallery images with junk", images(Split::Gallery).count() + self.junk),
            ("junk images", self.junk),
            ("distractors", images(Split::Gallery).filter(|image| image.person == 0).count()),
        ]
    }
}

impl Source for Market {
    fn count(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> String {
        self.images[index].path.to_string_lossy().into_owned()
    }

    fn read(&self, index: usize) -> Result<(u32, Cow<'_, [u8]>)> {
        let image = &self.images[index];
        let path = self.root.join(&image.path);
        let bytes = fs::read(&path).map_err(|why| Error::file(&path, format!("can't be read: {why}")))?;
        Ok((image.person, bytes.into()))
    }

    fn identity(&self, number: u32) -> String {
        self.names[&number].clone()
    }

    fn camera_and_split(&self, index: usize) -> Option<(u32, Split)> {
        let image = &self.images[index];
        Some((image.camera, image.split))
    }

    fn ignored(&self) -> &[(String, String)] {
        &self.ignored
    }
}

/// The directory with the three directories of images.
fn root(source: &Path) -> Result<PathBuf> {
    let present = |root: &Path| DIRECTORIES.iter().filter(|(name, _)| root.join(name).is_dir()).count();
    let mut roots = vec![source.to_owned()];
    if present(source) == 0 {
        let listed = fs::read_dir(source)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>());
        roots = listed.map_err(|why| Error::file(source, format!("can't be listed: {why}")))?;
        roots.retain(|root| present(root) > 0);
        roots.sort();
    }
    let wanted = "wanted are bounding_box_train, query and bounding_box_test";
    match &roots[..] {
        [root] => match DIRECTORIES.iter().find(|(name, _)| !root.join(name).is_dir()) {
            None => Ok(root.clone()),
            Some((name, _)) => Err(Error::file(root, format!("no directory {name}; {wanted}"))),
        },
        [] => Err(Error::file(source, format!("no data set here or one directory below; {wanted}"))),
        [first, second, ..] => {
            let why = format!("several data sets: {}, {} ...; choose one", first.display(), second.display());
            Err(Error::file(source, why))
        }
    }
}

fn release(root: &Path) -> Option<&'static Release> {
    // a path like . has no name of its own
    let named = root.file_name().map(ToOwned::to_owned);
    let name = named.or_else(|| Some(fs::canonicalize(root).ok()?.file_name()?.to_owned()))?;
    let name: String =
        name.to_string_lossy().to_lowercase().chars().filter(|letter| letter.is_alphanumeric()).collect();
    RELEASES.iter().find(|release| name.starts_with(release.word))
}

#[derive(Debug, PartialEq)]
struct Name<'a> {
    /// The name as it is in the file's name.
    person: &'a str,
    number: i32,
    camera: u32,
}

/// `([-\d]+)_c(\d+)`, the rest doesn't matter. None: another form.
fn parse(name: &str) -> Option<Name<'_>> {
    let (person, rest) = name.split_once("_c")?;
    // a plus sign would be parsed, too
    let digits = person.strip_prefix('-').unwrap_or(person);
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let end = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    Some(Name { person, number: person.parse().ok()?, camera: rest[..end].parse().ok()? })
}

/// Errors: a person or a camera that can't be there.
fn check(name: &Name, split: Split, release: Option<&Release>) -> std::result::Result<(), String> {
    let Name { number, camera, .. } = *name;
    if number < -1 {
        return Err(format!("there is no person {number}"));
    }
    if number < 1 && split != Split::Gallery {
        return Err(format!("person {number} is only for bounding_box_test"));
    }
    let Some(Release { name, last_person, cameras, .. }) = release else { return Ok(()) };
    if let Some(last) = last_person.filter(|&last| number > last as i32) {
        return Err(format!("{name} has no person {number}, only up to {last}"));
    }
    if !(1..=*cameras).contains(&camera) {
        return Err(format!("{name} has no camera {camera}, only 1 to {cameras}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
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
        Market::open(&root).err().unwrap().to_string()
    }

    #[test]
    fn people_cameras_and_splits_come_from_paths() {
        let more = [&SMALL[..], &["query/.hidden.jpg", "query/list.txt", "query/deep/1.jpg"]].concat();
        let (directory, root) = tree("people", &more);
        // the directory itself or the one above it
        for source in [&root, directory.path()] {
            let market = Market::open(source).unwrap();
            let all = (0..market.count()).map(|index| {
                let (person, bytes) = market.read(index).unwrap();
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
        assert!(
            text.contains("people: 6 images can't be used; wanted are names like 0001_c1s1_001051_00.jpg"),
            "{text}"
        );
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
        assert!(Market::open(&root).is_ok());
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
        assert_eq!(Market::open(&root).unwrap().differences(), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = error("people", &[SMALL[0], SMALL[5]]);
        assert!(
            text.ends_with("people: no directory query; wanted are bounding_box_train, query and bounding_box_test")
        );
        let text = error("people", &[&SMALL[..2], &["query/1.txt"], &SMALL[3..]].concat());
        assert!(
            text.ends_with("query: no images but junk; wanted are files *.jpg, *.jpeg, *.png, *.pgm, *.ppm, *.pnm")
        );
        let text = error("people", &SMALL[..4]);
        assert!(text.contains("bounding_box_test: no images but junk"), "{text}");
        let (directory, _) = tree("a", &SMALL);
        assert!(fs::create_dir_all(directory.path().join("b/query")).is_ok());
        let text = Market::open(directory.path()).err().unwrap().to_string();
        assert!(text.contains("several data sets: ") && text.ends_with("b ...; choose one"), "{text}");
        let text = error("people", &["faces/anna/1.jpg"]);
        assert!(text.contains("no data set here or one directory below; wanted are"), "{text}");
        let text = Market::open(&directory.path().join("missing")).err().unwrap().to_string();
        assert!(text.ends_with("missing: can't be listed: No such file or directory (os error 2)"), "{text}");
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
        fn other_names_never_cause_a_panic(text in "[-+0-9_cséx.]{0,12}|.{0,20}") {
            if let Some(name) = parse(&text) {
                let prefix = format!("{}_c", name.person);
                let camera = text.strip_prefix(&prefix).unwrap().trim_start_matches('0');
                assert!(name.camera == 0 || camera.starts_with(&name.camera.to_string()));
                assert_eq!(name.person.parse(), Ok(name.number));
                let _ = check(&name, Split::Gallery, Some(&RELEASES[0]));
            }
        }
    }

    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    }
}
