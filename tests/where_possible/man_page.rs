//! The pages that `amlfs manual` writes, as man shows them.

use std::process::Command;

use crate::Possible;
use crate::support::{amlfs, assert_code, finish, text};

pub fn every_page_is_shown_without_a_warning() -> Possible {
    let directory = tempfile::tempdir().unwrap();
    assert_code(&amlfs(&["manual", directory.path().to_str().unwrap()]), 0);
    for entry in std::fs::read_dir(directory.path().join("man/man1")).unwrap() {
        let page = entry.unwrap().path();
        let mut man = Command::new("man");
        man.args(["--warnings=mac,w", "-l"])
            .arg(&page)
            .env("MANPAGER", "cat")
            .env("MANWIDTH", "100")
            .env("LC_ALL", "C.UTF-8");
        if let Err(why) = man.output() {
            return Err(format!("can't start man: {why}"));
        }
        let shown = finish(&mut man);
        if text(&shown).contains("minimized") {
            return Err("man is Ubuntu's minimized one".into());
        }
        assert_code(&shown, 0);
        assert!(text(&shown).contains("SYNOPSIS"), "{}", text(&shown));
        assert!(shown.stderr.is_empty(), "{}: {}", page.display(), String::from_utf8_lossy(&shown.stderr));
        if page.ends_with("amlfs-train.1") {
            assert!(text(&shown).contains("--replay-as <WHAT>"), "{}", text(&shown));
        }
    }
    Ok(())
}
