//! Commands in the documentation: blocks marked ```sh run are executed as they stand, in an empty directory.

mod support;

use std::path::Path;
use std::process::Command;

use support::{AMLFS, assert_code, finish, mpirun_program, text};

/// The fenced blocks of a page: (what follows the fence, text).
fn blocks(page: &str) -> Vec<(String, String)> {
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

/// Runs a page's marked blocks, one after the other in one shell, and returns what they printed.
fn run(page: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let blocks = blocks(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(blocks[0].0, "sh run", "{page} begins with what anybody can try");
    let script: String = blocks.into_iter().filter(|(mark, _)| mark == "sh run").map(|(_, text)| text).collect();

    let directory = tempfile::tempdir().unwrap();
    let programs = Path::new(AMLFS).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euxo", "pipefail", "-c", &script]).current_dir(directory.path()).env("PATH", path);
    // what lets mpirun run as root and with more ranks than cores
    for (name, value) in mpirun_program(1, Path::new(AMLFS)).get_envs() {
        command.env(name, value.unwrap());
    }
    let output = finish(&mut command);
    assert_code(&output, 0);
    text(&output)
}

#[test]
fn the_first_commands_of_the_page_on_faces_work_on_generated_images() {
    let said = run("megaface.md");
    for what in ["faces.h5: 192 images of 24 identities", "runs/search/final.h5", "VR@FAR", "weights.safetensors: "] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
}

#[test]
fn the_first_commands_of_the_page_on_persons_work_on_generated_images() {
    let said = run("reid.md");
    for what in ["to train on: 192 images of 16 people", "runs/search/final.h5", "re-ranked", "query.h5: "] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
}
