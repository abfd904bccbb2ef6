use amlfs::data::name_list::{NameList, members};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{bytes, fuzz};

#[test]
fn name_lists() {
    let line = "(#|\\./|/)?([0-9]{1,2}[\t ,])?[a-b/\\\\]{0,4}[a-bé](\\.(jpg|PNG))?([\t, ;][01])?\r?";
    let valid = (vec(line, 0..6), any::<bool>()).prop_map(|(lines, mark)| {
        let mark = if mark { "\u{feff}" } else { "" };
        (mark.to_owned() + &lines.join("\n")).into_bytes()
    });
    let names = vec("[a-b/]{0,3}[a-b](\\.(jpg|png))?", 0..6);
    fuzz("name lists", (bytes(valid), names), |(bytes, names)| {
        let Ok(lines) = NameList::parse(&bytes) else { return false };
        assert!(lines.is_sorted_by(|a, b| a.number < b.number));
        for line in &lines {
            assert!(!line.text.is_empty() && line.text.trim() == line.text && !line.text.contains('\n'));
        }
        let found = members(&lines, &names);
        assert_eq!(found.are.len(), names.len());
        assert!(found.are.iter().filter(|&&is| is).count() <= lines.len());
        // a name that is there once, spelled exactly so, is found
        let itself = |name: &String| !name.is_empty() && names.iter().filter(|&other| other == name).count() == 1;
        if let [line] = &lines[..]
            && itself(&line.text)
            && let Some(at) = names.iter().position(|name| *name == line.text)
        {
            assert!(found.are[at], "{:?} among {names:?}", line.text);
        }
        found.are.contains(&true)
    });
}
