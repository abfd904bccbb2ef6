//! Lists of names in text files, and what they name.
//!
//! Public lists spell the same name in many ways: other extension, leading `./` or directories, or none of the directories,
//! blanks, CRLF, a byte-order mark, a second column. All are understood where they fit one name alone.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const EXTENSIONS: [&str; 9] = ["jpg", "jpeg", "png", "bmp", "pgm", "ppm", "pnm", "tif", "tiff"];
/// Names of each kind that messages show.
const SHOWN: usize = 3;

/// The text of a list, without its byte-order mark. Error: not UTF-8.
pub fn text(bytes: &[u8]) -> std::result::Result<&str, String> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("not text: UTF-16; save it as UTF-8".into());
    }
    let text = std::str::from_utf8(bytes).map_err(|why| {
        let line = 1 + bytes[..why.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        format!("not text: line {line} is no UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// A text file with a name in each line.
#[derive(Debug)]
pub struct NameList {
    path: PathBuf,
    lines: Vec<Line>,
}

/// Its number in the file, and its text without blanks around it.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub number: usize,
    pub text: String,
}

/// What a list names among N names.
#[derive(Debug)]
pub struct Members {
    /// [N]
    pub are: Vec<bool>,
    matched: usize,
    of: usize,
    column: &'static str,
    rest: Vec<String>,
}

/// How the name is told from the rest of a line; one way for the whole list. Of lines with TABs the second column counts
/// first [insightface _evaluation_/megaface/remove_noises.py].
type Column = (&'static str, fn(&str) -> &str);
const COLUMNS: [Column; 7] = [
    ("", |line| line),
    (" in its second column", |line| line.split('\t').nth(1).unwrap_or(line)),
    (" in its first column", |line| line.split('\t').next().unwrap_or(line)),
    (" in its first column", |line| line.split([',', ';']).next().unwrap_or(line)),
    (" in its second column", |line| line.split([',', ';']).nth(1).unwrap_or(line)),
    (" in its first column", |line| line.split_whitespace().next().unwrap_or(line)),
    (" in its second column", |line| line.split_whitespace().nth(1).unwrap_or(line)),
];

impl NameList {
    /// Errors: those of `lines`; a list without a name.
    pub fn read(path: &Path) -> Result<NameList> {
        let lines = NameList::lines(path)?;
        if lines.is_empty() {
            return Err(Error::file(path, "a list without a name"));
        }
        Ok(NameList { path: path.to_owned(), lines })
    }

    /// The lines of a file. Errors: it can't be read; those of `parse`.
    pub fn lines(path: &Path) -> Result<Vec<Line>> {
        let bytes = std::fs::read(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
        NameList::parse(&bytes).map_err(|why| Error::file(path, why))
    }

    /// Blank lines and those that start with '#' are left out. Error: not UTF-8.
    pub fn parse(bytes: &[u8]) -> std::result::Result<Vec<Line>, String> {
        let lines = (1..).zip(text(bytes)?.lines()).map(|(number, line)| (number, line.trim()));
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        Ok(lines.map(|(number, line)| Line { number, text: line.to_owned() }).collect())
    }

    /// Which of `names` [N] the list means; `what` they are. Error: none.
    pub fn members(&self, names: &[String], what: &str) -> Result<Members> {
        let members = members(&self.lines, names);
        if members.matched == 0 {
            let mut why = format!("none of its {} names is one of the {} {what}: ", self.lines.len(), names.len());
            why += &members.rest[..members.rest.len().min(SHOWN)].join(", ");
            if let Some(name) = names.first() {
                why += &format!("; {what} have names like {name:?}");
            }
            return Err(Error::file(&self.path, why));
        }
        Ok(members)
    }

    /// Says how many names matched; for one rank.
    pub fn report(&self, members: &Members) {
        let level = if members.rest.is_empty() { log::Level::Info } else { log::Level::Warn };
        log::log!(level, "{}: {members}", self.path.display());
    }
}

impl fmt::Display for Members {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Members { matched, of, column, rest, .. } = self;
        write!(f, "{matched} of {of} names matched{column}")?;
        if !rest.is_empty() {
            write!(f, "; not {}", rest[..rest.len().min(SHOWN)].join(", "))?;
        }
        if rest.len() > SHOWN {
            write!(f, " and {} more", rest.len() - SHOWN)?;
        }
        Ok(())
    }
}

/// By the column that names most.
pub fn members(lines: &[Line], names: &[String]) -> Members {
    let mut best: Option<Members> = None;
    for (column, name) in COLUMNS {
        let spelled: Vec<&str> = lines.iter().map(|line| name(&line.text).trim().trim_matches('"')).collect();
        let found = named(&spelled, names);
        let matched = found.iter().filter(|fit| fit.names == 1).count();
        if best.as_ref().is_some_and(|best| best.matched >= matched) {
            continue;
        }
        let mut are = vec![false; names.len()];
        found.iter().filter(|fit| fit.names == 1).for_each(|fit| are[fit.first] = true);
        let rest = found.iter().zip(lines).filter(|(fit, _)| fit.names != 1).map(|(fit, Line { number, text })| {
            let several = if fit.names > 1 { format!(", which fits {} of them", fit.names) } else { String::new() };
            format!("{text:?} (line {number}{several})")
        });
        let (of, rest) = (lines.len(), rest.collect());
        best = Some(Members { are, matched, of, column, rest });
        if matched == of {
            break;
        }
    }
    best.expect("there are columns")
}

/// The names that a spelling fits best.
#[derive(Clone, Copy)]
struct Fit {
    closeness: usize,
    names: usize,
    first: usize,
}

fn named(spelled: &[&str], names: &[String]) -> Vec<Fit> {
    let mut of_stem: HashMap<&str, Vec<usize>> = HashMap::new();
    let parts: Vec<Spelling> = spelled.iter().map(|name| Spelling::new(name)).collect();
    for (i, part) in parts.iter().enumerate() {
        of_stem.entry(part.stem).or_default().push(i);
    }
    let mut fits = vec![Fit { closeness: usize::MAX, names: 0, first: 0 }; spelled.len()];
    for (number, name) in names.iter().enumerate() {
        let part = Spelling::new(name);
        for &i in of_stem.get(part.stem).into_iter().flatten() {
            let closeness = if spelled[i] == name { Some(0) } else { parts[i].closeness(&part) };
            let fit = &mut fits[i];
            match closeness {
                Some(closeness) if closeness < fit.closeness => *fit = Fit { closeness, names: 1, first: number },
                Some(closeness) if closeness == fit.closeness => fit.names += 1,
                _ => {}
            }
        }
    }
    fits
}

/// The parts of a path; directories from the innermost out.
struct Spelling<'a> {
    file: &'a str,
    /// The file's name without an image's extension.
    stem: &'a str,
    directories: Vec<&'a str>,
}

impl Spelling<'_> {
    fn new(name: &str) -> Spelling<'_> {
        let mut parts = name.rsplit(['/', '\\']).filter(|part| !matches!(*part, "" | "."));
        let file = parts.next().unwrap_or_default();
        Spelling { file, stem: stem(file), directories: parts.collect() }
    }

    /// How well two of one stem fit; less is better. `None`: in other directories.
    fn closeness(&self, other: &Spelling) -> Option<usize> {
        let (mine, theirs) = (&self.directories, &other.directories);
        let common = mine.len().min(theirs.len());
        let directories = if mine.len() == theirs.len() { 1 } else { 3 };
        (mine[..common] == theirs[..common]).then_some(directories + usize::from(self.file != other.file))
    }
}

fn stem(file: &str) -> &str {
    let known = |extension: &str| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension));
    file.rsplit_once('.')
        .filter(|(stem, extension)| !stem.is_empty() && known(extension))
        .map_or(file, |(stem, _)| stem)
}

/// The file below `root` that a list's name means; `file` makes a file's name of an image's. What does not lie there under
/// its own name is sought with the other extensions, then without its first directories, and taken if it is one file alone.
pub fn find(root: &Path, name: &str, file: impl Fn(&str) -> String) -> Option<PathBuf> {
    let there = |name: &str| Some(root.join(file(name))).filter(|path| path.is_file());
    let mut name = name.trim();
    if let Some(path) = there(name) {
        return Some(path);
    }
    loop {
        let spelled = |extension: &str| there(&Path::new(name).with_extension(extension).to_string_lossy());
        let stemmed = stem(name) != name;
        let bare = if stemmed { stem(name).to_owned() } else { name.to_owned() };
        let mut found: Vec<PathBuf> = there(name).into_iter().collect();
        if found.is_empty() {
            let upper: Vec<String> = EXTENSIONS.iter().map(|extension| extension.to_uppercase()).collect();
            let extensions = EXTENSIONS.iter().copied().chain(upper.iter().map(String::as_str));
            found = match stemmed {
                true => extensions.filter_map(spelled).chain(there(&bare)).collect(),
                false => extensions.filter_map(|extension| there(&format!("{bare}.{extension}"))).collect(),
            };
        }
        match &found[..] {
            [path] => return Some(path.clone()),
            [_, ..] => return None,
            [] => name = name.split_once(['/', '\\'])?.1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &[u8], names: &[&str]) -> (Vec<usize>, String) {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let members = members(&NameList::parse(list).unwrap(), &names);
        let are = members.are.iter().enumerate().filter(|(_, are)| **are).map(|(i, _)| i).collect();
        (are, members.to_string())
    }

    #[test]
    fn the_spellings_of_public_lists_are_understood() {
        let names = ["A/A_1.png", "A/A_2.png", "B/B_1.png", "12/34@N00/5.jpg"];
        for list in [
            "A/A_1.png\n12/34@N00/5.jpg\n",
            "\u{feff}A/A_1.png\r\n\r\n 12/34@N00/5.jpg \r\n",
            "# comment\n./A/A_1.jpg\n./12/34@N00/5\n",
            "A_1.png\n5.jpg\n",
            "A_1.JPEG\n34@N00/5.bmp",
            "facescrub/A/A_1.png\nC:\\data\\12\\34@N00\\5.jpg",
            "686\tA/A_1.png\n7\t12/34@N00/5.jpg\n",
            "A/A_1.png\t686\n12/34@N00/5.jpg\t7\n",
            "A_1.png 1\n5.jpg 0\n",
            "1 A_1.png\n0 5.jpg\n",
            "\"A_1.png\",noise\n\"5.jpg\",noise\n",
        ] {
            let (are, said) = of(list.as_bytes(), &names);
            assert_eq!(are, [0, 3], "{list:?}: {said}");
            assert!(said.starts_with("2 of 2 names matched"), "{said}");
        }
    }

    #[test]
    fn what_fits_several_names_or_none_is_told() {
        let names = ["A/1.jpg", "B/1.jpg", "C/1.jpg", "C/1.png", "with blanks/a b.jpg"];
        let (are, said) = of(b"A/1.jpg\n1.jpg\nC/1.bmp\nD/1.jpg\nC/1.png\na b.jpg\nX/C/1.png", &names);
        assert_eq!(are, [0, 3, 4]);
        assert_eq!(
            said,
            "4 of 7 names matched; not \"1.jpg\" (line 2, which fits 3 of them), \"C/1.bmp\" (line 3, which fits 2 of them), \
             \"D/1.jpg\" (line 4)"
        );
    }

    #[test]
    fn a_list_that_matches_nothing_is_an_error_with_examples() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("noises.txt");
        let error = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            let names = ["A/1.jpg".to_owned(), "B/2.jpg".to_owned()];
            NameList::read(&path).and_then(|list| list.members(&names, "probes")).unwrap_err().to_string()
        };
        let none = error(b"x.jpg\ny.jpg\n");
        assert!(
            none.ends_with(
                "noises.txt: none of its 2 names is one of the 2 probes: \"x.jpg\" (line 1), \"y.jpg\" (line 2); probes have \
                 names like \"A/1.jpg\""
            ),
            "{none}"
        );
        assert!(error(b"\n# nothing\n").ends_with("noises.txt: a list without a name"));
        assert!(error(b"a\n\xff").ends_with("noises.txt: not text: line 2 is no UTF-8"));
        assert!(error(b"\xff\xfea\0").ends_with("noises.txt: not text: UTF-16; save it as UTF-8"));
    }

    #[test]
    fn files_are_found_under_other_extensions_and_without_first_directories_if_only_one_fits() {
        let directory = tempfile::tempdir().unwrap();
        for file in ["a/1.JPG", "a/2.png", "a/3.jpg", "a/3.png", "4_x.bin", "n.05/6"] {
            let path = directory.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let found = |name: &str| {
            let found = find(directory.path(), name, |name| name.to_owned());
            found.map(|path| path.strip_prefix(directory.path()).unwrap().to_str().unwrap().to_owned())
        };
        for (name, file) in [
            ("a/1.jpg", Some("a/1.JPG")),
            ("./a/2.jpeg", Some("a/2.png")),
            ("faces/a/2.png", Some("a/2.png")),
            ("a/2", Some("a/2.png")),
            ("a/3.png", Some("a/3.png")),
            ("a/3.bmp", None),
            ("n.05/6.jpg", Some("n.05/6")),
            ("n.05/7", None),
            ("b/9.jpg", None),
        ] {
            assert_eq!(found(name).as_deref(), file, "{name}");
        }
        let feature = find(directory.path(), "x/4", |name| format!("{name}_x.bin"));
        assert_eq!(feature, Some(directory.path().join("4_x.bin")));
    }
}
