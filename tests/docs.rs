//! Commands in the documentation: blocks marked ```sh run are executed as they stand, in an empty directory. Messages in the
//! documentation: they are in the source.

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

/// Everything that the program and its Slurm scripts can say, with the parts of a sentence joined.
fn source() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "slurm"].into_iter().flat_map(|directory| walkdir::WalkDir::new(root.join(directory)));
    let files = files.map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let text: String = files.map(|entry| std::fs::read_to_string(entry.path()).unwrap()).collect();
    // a literal that goes on in the next line, in Rust and in the shell
    let lines = text.lines().map(str::trim_start);
    lines.map(|line| line.strip_suffix('\\').map_or(format!("{line}\n"), str::to_owned)).collect()
}

#[test]
fn the_messages_on_the_page_on_clusters_are_those_of_the_source() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clusters.md")).unwrap();
    let (_, messages) = page.split_once("### amlfs\n").unwrap();
    let (messages, _) = messages.split_once("### Of the launchers\n").unwrap();
    let source = source().replace("\" \"", "");
    let mut count = 0;
    for entry in messages.split("\n* ").skip(1) {
        // before the colon that ends the messages of an entry
        let quoted = entry.split('`').skip(1).step_by(2).next().unwrap().replace('\n', " ");
        for part in quoted.split("...").map(str::trim).filter(|part| part.len() > 3) {
            assert!(source.contains(part), "nothing says {part:?}: {entry}");
            count += 1;
        }
    }
    assert!(count > 30, "{count}");
}
