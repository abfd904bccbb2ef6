//! `amlfs evaluate lfw`: the same figures from a pickle and from files, and what becomes of images that can't be used.

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::faces::trained;
use support::{assert_code, damaged_png, errors, finish, json, mpirun, text};

/// A set of pairs below `here`, as files (NAME/NAME_0001.jpg below lfw, pairs.txt: 10 folds of 4 and 4) and as lfw.bin.
struct Set<'a> {
    here: &'a Path,
    model: String,
    /// Below lfw, two of each pair.
    names: Vec<String>,
    same: Vec<bool>,
}

impl Set<'_> {
    fn new(here: &Path) -> Set<'_> {
        let model = trained(here);
        for person in 0..24 {
            fs::create_dir_all(here.join(format!("lfw/P{person}"))).unwrap();
            for number in 0..5 {
                let image = here.join(format!("train-images/{person:07}/{number:03}.jpg"));
                fs::copy(image, here.join("lfw").join(name(person, number + 1))).unwrap();
            }
        }
        let (mut lines, mut names, mut same) = (vec!["10\t4".to_owned()], Vec::new(), Vec::new());
        for fold in 0..10 {
            for k in 0..8 {
                let (a, b) = if k < 4 { (2 * fold, 2 * fold) } else { (2 * fold, 2 * fold + 1 + k - 4) };
                let number = if k < 4 { k + 2 } else { 1 };
                lines.push(match k < 4 {
                    true => format!("P{a}\t1\t{number}"),
                    false => format!("P{a}\t1\tP{b}\t1"),
                });
                names.extend([name(a, 1), name(b, number)]);
                same.push(a == b);
            }
        }
        fs::write(here.join("pairs.txt"), lines.join("\n") + "\n").unwrap();
        let set = Set { here, model, names, same };
        set.pickle();
        set
    }

    /// The files as they are now; one that is missing is empty.
    fn pickle(&self) {
        use serde_pickle::Value;
        let bytes = |name: &String| Value::Bytes(fs::read(self.here.join("lfw").join(name)).unwrap_or_default());
        let images = Value::List(self.names.iter().map(bytes).collect());
        let same = Value::List(self.same.iter().map(|&same| Value::Bool(same)).collect());
        let pickle = serde_pickle::value_to_vec(&Value::Tuple(vec![images, same]), Default::default()).unwrap();
        fs::write(self.here.join("lfw.bin"), pickle).unwrap();
    }

    fn measure(&self, ranks: usize, more: &[&str]) -> Output {
        let how = ["evaluate", "lfw", "--json", "--device=cpu", "--threads=1", "--model", &self.model];
        finish(mpirun(ranks, &[&how, more].concat()).current_dir(self.here))
    }

    fn skipped(&self) -> String {
        fs::read_to_string(self.here.join("skipped.csv")).unwrap()
    }
}

fn name(person: usize, number: usize) -> String {
    format!("P{person}/P{person}_{number:04}.jpg")
}

const FILES: [&str; 4] = ["--images", "lfw", "--pairs", "pairs.txt"];
const BIN: [&str; 2] = ["--bin", "lfw.bin"];

#[test]
fn a_pickle_and_pairs_txt_agree_for_any_number_of_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let set = Set::new(directory.path());
    let found = json(&set.measure(1, &BIN));
    assert_eq!((&found["pairs"], &found["folds"], &found["pairs_left_out"]), (&80.into(), &10.into(), &0.into()));
    assert!((0.5..=1.0).contains(&found["accuracy"].as_f64().unwrap()));
    assert_eq!(found, json(&set.measure(1, &FILES)));
    for from in [&BIN[..], &FILES] {
        assert_eq!(found, json(&set.measure(3, from)));
    }
    assert!(!directory.path().join("skipped.csv").exists());
}

#[test]
fn images_that_can_not_be_used_are_all_listed_first_and_left_out_with_their_pairs_if_that_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let set = Set::new(directory.path());
    let file = |person, number| directory.path().join("lfw").join(name(person, number));
    fs::remove_file(file(0, 2)).unwrap(); // in one pair
    fs::write(file(2, 1), "no image").unwrap(); // in all of fold 1, and in a pair of fold 0
    set.pickle();
    let allowed = |from: &[&str], ranks: usize| json(&set.measure(ranks, &[from, &["--max-skipped=0.2"]].concat()));

    let listed = [&name(0, 2), &name(2, 1), "not there, nor with another extension", "neither JPEG nor PNG nor PNM"];
    let pickled = ["image 1 (pair 0)", "image 17 (pair 8)", "image 16 (pair 8)", "empty"];
    for (from, counts, named) in [(&FILES[..], "2 of 63", listed), (&BIN, "10 of 160", pickled)] {
        for ranks in [1, 2] {
            let output = set.measure(ranks, from);
            assert_code(&output, 1);
            let said = text(&output);
            assert_eq!(errors(&output).len(), 1, "{said}");
            let counted = format!("{counts} images are missing or broken, more than the 0 allowed:");
            assert!(said.contains(&counted) && said.contains("leave them out with --max-skipped 0.0"), "{said}");
            for what in named.iter().filter(|what| !what.contains("17")) {
                assert!(said.contains(what) && set.skipped().contains(what), "'{what}': {said}{}", set.skipped());
            }
        }
    }
    let found = allowed(&FILES, 1);
    let counts = |found: &Value| ["pairs", "pairs_left_out", "folds", "images_left_out"].map(|key| found[key].as_u64());
    assert_eq!(counts(&found), [70, 10, 9, 2].map(Some));
    let from_pickle = allowed(&BIN, 2);
    assert_eq!(counts(&from_pickle), [70, 10, 9, 10].map(Some));
    for figure in ["accuracy", "accuracy_deviation", "threshold", "validation_rate"] {
        assert_eq!(found[figure], from_pickle[figure], "{figure}");
    }
    let told = text(&set.measure(1, &[&FILES[..], &["--max-skipped=0.2"]].concat()));
    assert!(
        told.contains("10 of 80 pairs are left out with their images; 1 of 10 folds have no pair any more"),
        "{told}"
    );
    for ranks in [2, 3] {
        assert_eq!(found, allowed(&FILES, ranks));
    }
}

#[test]
fn what_only_decoding_tells_is_left_out_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let set = Set::new(directory.path());
    let file = directory.path().join("lfw").join(name(4, 3));
    fs::write(&file, damaged_png(&fs::read(&file).unwrap())).unwrap();
    set.pickle();
    for (from, count, image) in [(&FILES[..], 63, &name(4, 3)[..]), (&BIN, 160, "image 35 (pair 17)")] {
        for ranks in [1, 2] {
            let output = set.measure(ranks, from);
            assert_code(&output, 1);
            let said = format!("1 of {count} images are missing or broken, more than the 0 allowed (--max-skipped): ");
            assert!(text(&output).contains(&said) && text(&output).contains(image), "{}", text(&output));
            let found = json(&set.measure(ranks, &[from, &["--max-skipped=0.02"]].concat()));
            assert_eq!((&found["pairs"], &found["folds"]), (&79.into(), &10.into()));
            assert!(set.skipped().contains(image), "{}", set.skipped());
            assert!(!set.skipped().contains("broken\n"), "it is said why: {}", set.skipped());
        }
    }
    for person in 0..24 {
        fs::remove_dir_all(directory.path().join(format!("lfw/P{person}"))).unwrap();
    }
    let output = set.measure(2, &[&FILES[..], &["--max-skipped=1"]].concat());
    assert_code(&output, 1);
    assert!(text(&output).contains("none of the 63 images is there and whole:"), "{}", text(&output));
}
