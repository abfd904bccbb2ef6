//! `amlfs prepare` on what people have: called twice, stopped, on trees that are not quite like the published ones.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use support::{amlfs, assert_code, assert_error, path, started, text, two_at_once, until, wait};

fn tree(here: &Path, name: &str, more: &[&str]) -> String {
    let tree = path(here, name);
    assert_code(&amlfs(&[&["prepare", "glyphs", &tree, "--identities=4"][..], more].concat()), 0);
    tree
}

fn assert_says(output: &Output, what: &str) {
    assert_code(output, 0);
    assert!(text(output).contains(what), "'{}' lacks '{what}'", text(output));
}

#[test]
fn a_second_call_says_that_the_work_is_done_and_other_trees_and_options_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (faces, other) = (tree(here, "a", &["--images=3"]), tree(here, "b", &["--images=3", "--seed=2"]));
    let out = path(here, "faces.h5");
    assert_says(&amlfs(&["prepare", "faces", &faces, "--out", &out]), "12 images of 4 identities");
    let made = fs::read(&out).unwrap();
    assert_says(
        &amlfs(&["prepare", "faces", &faces, "--out", &out]),
        "faces.h5: done before: 12 images of 4 identities",
    );
    assert_error(&amlfs(&["prepare", "faces", &other, "--out", &out]), 1, "exists already, made from something else");
    assert_error(&amlfs(&["prepare", "faces", &faces, "--out", &out, "--store=raw"]), 1, "exists already, made from");
    fs::remove_file(here.join("a/0000000/000.jpg")).unwrap();
    assert_error(&amlfs(&["prepare", "faces", &faces, "--out", &out]), 1, "files of its source have changed");
    assert!(fs::read(&out).unwrap() == made);

    let people = tree(here, "people", &["--images=3", "--layout=market"]);
    let out = path(here, "people.h5");
    assert_says(&amlfs(&["prepare", "reid", &people, "--out", &out]), "to train on: 6 images of 2 people");
    assert_says(&amlfs(&["prepare", "reid", &people, "--out", &out]), "people.h5: done before: ");
}

#[test]
fn what_was_begun_from_one_tree_never_goes_on_with_another_and_what_is_repaired_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (first, second) = (tree(here, "a", &["--images=3"]), tree(here, "b", &["--images=3", "--seed=2"]));
    let (out, straight) = (path(here, "faces.h5"), path(here, "straight.h5"));
    let bad = here.join("a/0000001/001.jpg");
    let whole = fs::read(&bad).unwrap();
    fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    assert_error(&amlfs(&["prepare", "faces", &first, "--out", &out]), 1, "1 of 12 images can't be used");
    assert_error(&amlfs(&["prepare", "faces", &second, "--out", &out]), 1, "index.part: is of another run");
    fs::write(&bad, &whole).unwrap();
    fs::copy(here.join("b/0000002/002.jpg"), here.join("a/0000002/002.jpg")).unwrap();
    assert_says(&amlfs(&["prepare", "faces", &first, "--out", &out]), "12 images of 4 identities");
    assert_code(&amlfs(&["prepare", "faces", &first, "--out", &straight]), 0);
    assert_same_images(&out, &straight);
}

/// So many images of each identity that packing them takes a while.
fn multiplied(tree: &str, images: usize) {
    for identity in 0..4 {
        let image = |number: usize| format!("{tree}/{identity:07}/{number:03}.jpg");
        (100..100 + images).for_each(|number| fs::hard_link(image(0), image(number)).unwrap());
    }
}

fn assert_same_images(one: &str, other: &str) {
    let packed = [one, other].map(|file| amlfs::data::Packed::open(Path::new(file)).unwrap());
    assert_eq!(packed[0].names().unwrap(), packed[1].names().unwrap());
    for index in 0..packed[0].names().unwrap().len() {
        assert_eq!(packed[0].stored(index).unwrap(), packed[1].stored(index).unwrap());
    }
}

#[test]
fn of_two_that_make_one_file_at_a_time_the_second_is_told_whose_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let faces = tree(here, "faces", &["--images=3"]);
    multiplied(&faces, 1500);
    let people = tree(here, "people", &["--images=3", "--layout=market"]);
    let person = |number: usize| format!("{people}/bounding_box_train/0001_c1s1_{number:06}_00.jpg");
    (100..6100).for_each(|number| fs::hard_link(person(0), person(number)).unwrap());
    let (packed, straight) = (path(here, "faces.h5"), path(here, "straight.h5"));
    let (reid, glyphs) = (path(here, "people.h5"), path(here, "glyphs"));
    for (arguments, out) in [
        (&["prepare", "faces", &faces, "--out", &packed, "--threads=1"][..], &packed),
        (&["prepare", "reid", &people, "--out", &reid, "--threads=1"], &reid),
        (&["prepare", "glyphs", &glyphs, "--identities=1000", "--images=1"], &glyphs),
    ] {
        let [first, second] = two_at_once(arguments, out);
        assert_code(&first, 0);
        assert_error(&second, 1, &format!("{out}: process "));
        assert!(text(&second).contains(" makes this; wait until it ends, or name another --out"), "{}", text(&second));
        assert!(!Path::new(&format!("{out}.owner")).exists());
    }
    assert_says(&amlfs(&["prepare", "faces", &faces, "--out", &straight]), "6012 images of 4 identities");
    assert_same_images(&packed, &straight);
    assert_eq!(fs::read_dir(glyphs).unwrap().count(), 1000);
    let left: Vec<_> = fs::read_dir(here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 6, "{left:?}");
}

#[test]
fn what_a_killed_process_was_making_is_taken_over_with_a_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let faces = tree(here, "faces", &["--images=3"]);
    multiplied(&faces, 1500);
    let (out, straight) = (path(here, "faces.h5"), path(here, "straight.h5"));
    let command = ["prepare", "faces", &faces, "--out", &out, "--threads=1"];
    let mut first = started(&command);
    let begun = || fs::metadata(format!("{out}.bytes.part")).is_ok_and(|part| part.len() > 0);
    until("something is packed", begun);
    first.kill().unwrap();
    let killed = first.id();
    wait(first);
    let output = amlfs(&command);
    assert_says(&output, "6012 images of 4 identities");
    assert!(text(&output).contains(&format!("faces.h5: its last owner, process {killed} on ")), "{}", text(&output));
    assert!(text(&output).contains("of 6012 images are done already"), "{}", text(&output));
    assert_code(&amlfs(&["prepare", "faces", &faces, "--out", &straight]), 0);
    assert_same_images(&out, &straight);

    // half a generated tree is none
    let glyphs = path(here, "glyphs");
    let command = ["prepare", "glyphs", &glyphs, "--identities=1000", "--images=1"];
    let mut first = started(&command);
    until("something is drawn", || Path::new(&format!("{glyphs}.part/0000000")).exists());
    first.kill().unwrap();
    wait(first);
    assert!(!Path::new(&glyphs).exists());
    assert_code(&amlfs(&command), 0);
    assert_eq!(fs::read_dir(&glyphs).unwrap().count(), 1000);
    assert!(!Path::new(&format!("{glyphs}.part")).exists());
}

#[test]
fn named_pipes_and_dead_links_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let faces = tree(here, "faces", &["--images=3"]);
    let people = tree(here, "people", &["--images=3", "--layout=market"]);
    for (kind, tree, inner) in [("faces", &faces, "0000000"), ("reid", &people, "query")] {
        let pipe = std::ffi::CString::new(format!("{tree}/{inner}/0003_c1_1.jpg")).unwrap();
        // SAFETY: a path that ends with 0
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        std::os::unix::fs::symlink("nowhere.jpg", format!("{tree}/{inner}/0003_c2_9.jpg")).unwrap();
        let out = path(here, &format!("{kind}.h5"));
        assert_says(
            &amlfs(&["prepare", kind, tree, "--out", &out, "--max-skipped=0.2"]),
            "2 of them images that can't",
        );
        let skipped = fs::read_to_string(format!("{out}.skipped.csv")).unwrap();
        assert!(skipped.contains("_c1_1.jpg,neither a file nor a directory"), "{skipped}");
        assert!(skipped.contains("_c2_9.jpg,can't be read: No such file"), "{skipped}");
    }
}

#[test]
fn a_tree_in_the_place_of_a_packed_file_comes_with_the_command_that_packs_it() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (faces, people) =
        (tree(here, "faces", &["--images=3"]), tree(here, "people", &["--images=3", "--layout=market"]));
    for (preset, tree, kind) in [("faces-small", &faces, "faces"), ("market1501-spherereid", &people, "reid")] {
        let output = amlfs(&["--preset", preset, "--data", tree, "--device=cpu", "--out", &path(here, "run")]);
        assert_error(&output, 1, &format!("pack it first: amlfs prepare {kind} {tree} --out {kind}.h5"));
    }
}

#[test]
fn an_own_tree_that_is_called_market1501_and_has_a_person_0_is_prepared_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let people = tree(here, "market1501", &["--images=4", "--layout=market"]);
    let rename =
        |from: &str, to: &str| fs::rename(here.join("market1501").join(from), here.join("market1501").join(to));
    rename("bounding_box_train/0001_c1s1_000000_00.jpg", "bounding_box_train/0000_c9s1_000000_00.jpg").unwrap();
    let out = path(here, "own.h5");
    let refused = amlfs(&["prepare", "reid", &people, "--out", &out]);
    assert_error(&refused, 1, "--own-tree says that it is your own tree, whatever its name");
    let output = amlfs(&["prepare", "reid", &people, "--out", &out, "--own-tree"]);
    assert_says(&output, "to train on: 8 images of 3 people");
    assert!(!text(&output).contains("distractors"), "{}", text(&output));
}
