//! Lists of identities to leave out, as they are about: with directories, a second column, another system's line ends.

use std::collections::HashSet;
use std::path::Path;

use super::source::Source;
use crate::data::name_list::{Line, NameList};
use crate::error::{Error, Result};

/// Names that an error or a note shows.
const SHOWN: usize = 3;

/// What a list says of a source.
#[derive(Debug, Default, PartialEq)]
pub struct Exclusion {
    /// Identities of the source.
    pub identities: HashSet<String>,
    /// Lines that name one.
    pub matched: usize,
    /// Those that name none, as they are in the list.
    pub unmatched: Vec<String>,
}

/// Matches the lines of a text file with the identities of `source`, which no list of a data set writes quite alike: see
/// [`spellings`].
///
/// Errors: the file can't be read, is no text, is empty, or names no identity of the source at all.
pub fn read(path: &Path, source: &dyn Source) -> Result<Exclusion> {
    let lines = NameList::lines(path)?;
    let found = matching(&lines, |name| source.has_identity(name));
    match found.matched {
        0 if lines.is_empty() => Err(Error::file(path, "empty; leave it out, or name an identity on each line")),
        0 => {
            let (count, examples) = (lines.len(), examples(&found.unmatched));
            let own = own_names(source);
            let why = format!("none of its {count} names ({examples}) is an identity of the source, which has {own}");
            Err(Error::file(path, why))
        }
        _ => Ok(found),
    }
}

/// A few names, quoted.
pub fn examples(names: &[String]) -> String {
    let few: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = if names.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", few.join(", "))
}

fn own_names(source: &dyn Source) -> String {
    // the first image tells one; a bad one none
    let first = (0..source.count()).find_map(|index| source.read(index).ok()?.identity);
    first.map_or("other names".into(), |number| format!("{:?}", source.identity(number)))
}

/// Finds for each line the one name that `known` knows.
pub fn matching(lines: &[Line], known: impl Fn(&str) -> bool) -> Exclusion {
    let mut found = Exclusion::default();
    for Line { text: line, .. } in lines {
        let mut names = spellings(line).into_iter().map(|way| {
            let mut names: Vec<&str> = way.into_iter().filter(|name| known(name)).collect();
            names.dedup();
            names
        });
        match names.find(|names| !names.is_empty()).as_deref() {
            Some([name]) => {
                found.identities.insert((*name).to_owned());
                found.matched += 1;
            }
            // several: which is meant is not known
            _ => found.unmatched.push(line.clone()),
        }
    }
    found
}

/// The names that a line may mean, the likeliest way to read it first: all of it, the parts of a path
/// (`./CASIA/0000045/`, `0000045/001.jpg`), its first column and the parts of that.
fn spellings(line: &str) -> [Vec<&str>; 4] {
    let first = line.split([',', ';', '\t', ' ']).next().unwrap_or(line).trim_matches('"');
    [vec![line], path_parts(line), vec![first], path_parts(first)]
}

fn path_parts(path: &str) -> Vec<&str> {
    path.split(['/', '\\']).filter(|part| !matches!(*part, "" | "." | "..")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::data::Folder;

    fn found(text: &[u8], known: &[&str]) -> Exclusion {
        matching(&NameList::parse(text).unwrap(), |name| known.contains(&name))
    }

    #[test]
    fn public_spellings_of_one_name_are_understood() {
        for text in [
            "0000045",
            "\u{feff}0000045\r\n",
            "  0000045\t\n\n",
            "./0000045/",
            "CASIA-WebFace/0000045",
            "C:\\faces\\0000045",
            "0000045/001.jpg",
            "0000045 Aaron_Eckhart",
            "0000045,Aaron Eckhart",
            "\"0000045\";1",
            "./0000045/001.jpg 1",
        ] {
            let Exclusion { identities, matched, unmatched } = found(text.as_bytes(), &["0000045", "001", "Aaron"]);
            assert_eq!((identities, matched, unmatched), (["0000045".to_owned()].into(), 1, vec![]), "{text:?}");
        }
    }

    #[test]
    fn a_name_with_blanks_is_one_name_and_what_is_ambiguous_matches_nothing() {
        let known = ["anna b", "anna", "x", "y"];
        assert_eq!(found(b"anna b", &known).identities, ["anna b".to_owned()].into());
        assert_eq!(found(b"anna c", &known).identities, ["anna".to_owned()].into());
        let both = found(b"x/y\nx/z\n45\n", &known);
        assert_eq!((both.matched, both.identities), (1, ["x".to_owned()].into()));
        assert_eq!(both.unmatched, ["x/y", "45"]);
        assert_eq!(examples(&["a", "b", "c", "d"].map(String::from)), "\"a\", \"b\", \"c\", ...");
    }

    #[test]
    fn a_list_that_names_no_identity_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        for name in ["0000045", "0000099", "empty"] {
            fs::create_dir_all(tree.join(name)).unwrap();
        }
        for image in ["0000045/001.jpg", "0000099/001.jpg"] {
            fs::write(tree.join(image), "").unwrap();
        }
        let source = Folder::open(&tree).unwrap();
        let list = directory.path().join("list.txt");
        let read_text = |text: &str| {
            fs::write(&list, text).unwrap();
            read(&list, &source).map_err(|error| error.to_string())
        };
        let Exclusion { identities, matched, unmatched } = read_text("CASIA/0000045/\r\nempty\n7\n").unwrap();
        assert_eq!(identities, ["0000045", "empty"].map(String::from).into());
        assert_eq!((matched, &unmatched[..]), (2, &["7".to_owned()][..]));
        let error = read_text("Anna\nBert\nCarl\nDora\n").unwrap_err();
        let why = "none of its 4 names (\"Anna\", \"Bert\", \"Carl\", ...) is an identity of the source, which has \"0000045\"";
        assert!(error.ends_with(&format!("list.txt: {why}")), "{error}");
        assert!(read_text("\n \r\n").unwrap_err().contains("list.txt: empty; leave it out"));
        fs::remove_file(&list).unwrap();
        assert!(read(&list, &source).unwrap_err().to_string().contains("list.txt: can't be read: No such file"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_and_every_line_is_accounted_for(text in "[a-c./\\\\,; \t\r\n\u{feff}\"]{0,40}|.{0,20}") {
            let lines = NameList::parse(text.as_bytes()).unwrap();
            let known = |name: &str| ["a", "b", "ab c"].contains(&name);
            let found = matching(&lines, known);
            assert_eq!(found.matched + found.unmatched.len(), lines.len());
            assert!(found.identities.len() <= found.matched && found.identities.iter().all(|name| known(name)));
            // a line that is a name means it
            assert!(lines.iter().all(|line| !known(&line.text) || found.identities.contains(&line.text)));
        }
    }

    fn cases() -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2000)
    }
}
