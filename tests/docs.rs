//! Commands in the documentation: blocks marked ```sh run are executed as they stand, in an empty directory. Messages in the
//! documentation: they are in the source.

mod support;

use std::path::Path;

use support::page::run;

#[test]
fn the_first_commands_of_the_page_on_faces_work_on_generated_images() {
    let said = run("megaface.md", None);
    for what in ["faces.h5: 192 images of 24 identities", "runs/search/final.h5", "VR@FAR", "weights.safetensors: "] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
}

#[test]
fn the_first_commands_of_the_page_on_persons_work_on_generated_images() {
    let said = run("reid.md", None);
    for what in ["to train on: 192 images of 16 people", "runs/search/final.h5", "re-ranked", "query.h5: "] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
}

#[test]
fn the_first_commands_of_the_page_on_images_work_on_generated_images() {
    let said = run("images.md", None);
    for what in
        ["to train on: 300 images of 10 classes", "runs/search/final.h5", "recall", "runs/from-weights/final.h5"]
    {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
}

/// Everything that the program and its Slurm scripts can say, with the parts of a sentence joined.
fn source() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = ["src", "slurm"].into_iter().flat_map(|directory| walkdir::WalkDir::new(root.join(directory)));
    let files = files.map(Result::unwrap).filter(|entry| entry.file_type().is_file());
    let text = |entry: &walkdir::DirEntry| entry.path().extension().is_none_or(|ending| ending != "ttf");
    let text: String = files.filter(text).map(|entry| std::fs::read_to_string(entry.path()).unwrap()).collect();
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
