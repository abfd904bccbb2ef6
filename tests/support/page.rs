//! Pages of the documentation: their commands are executed as they stand.

use std::path::Path;
use std::process::Command;

use super::{AMLFS, assert_code, finish, mpirun_program, text};

/// The fenced blocks of a page: (what follows the fence, text).
pub fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut blocks, mut open): (Vec<(String, String)>, bool) = (Vec::new(), false);
    for line in page.lines() {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(mark) => {
                blocks.push((mark.to_owned(), String::new()));
                open = true;
            }
            None if open => blocks.last_mut().unwrap().1.extend([line, "\n"]),
            None => {}
        }
    }
    assert!(!open, "a block without an end");
    blocks
}

/// Runs a page's blocks that are marked `sh run` or `python run`, one after the other, in an empty directory with a link to
/// `scripts`, and returns what they printed. `python` is the directory of its python3.
pub fn run(page: &str, python: Option<&Path>) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let blocks = blocks(&std::fs::read_to_string(root.join("docs").join(page)).unwrap());
    assert_eq!(blocks[0].0, "sh run", "{page} begins with what anybody can try");
    let command = |(mark, text): (String, String)| match &*mark {
        "sh run" => text,
        "python run" => format!("python3 - <<'END_OF_BLOCK'\n{text}END_OF_BLOCK\n"),
        _ => String::new(),
    };
    let script: String = blocks.into_iter().map(command).collect();

    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(root.join("scripts"), directory.path().join("scripts")).unwrap();
    let programs = Path::new(AMLFS).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let path = python.map_or(path.clone(), |python| format!("{}:{path}", python.display()));
    let mut command = Command::new("bash");
    command.args(["-euxo", "pipefail", "-c", &script]).current_dir(directory.path()).env("PATH", path);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    // what lets mpirun run as root and with more ranks than cores
    for (name, value) in mpirun_program(1, Path::new(AMLFS)).get_envs() {
        command.env(name, value.unwrap());
    }
    let output = finish(&mut command);
    assert_code(&output, 0);
    text(&output)
}
