//! Tables of the paper from runs of seconds.

mod support;

use std::fs;
use std::path::Path;

use support::faces::{SMALL_FACES, packed};
use support::persons::{self, SMALL_PERSONS};
use support::{amlfs, assert_code, assert_error, for_training, json, path, text};

/// CIFAR-10's binary version, with 200 images to train with; a class is a colour.
fn cifar(here: &Path) -> String {
    let data = here.join("cifar");
    fs::create_dir(&data).unwrap();
    let record = |i: u8| [&[i % 10][..], &[20 * (i % 10) + i / 10; 3072]].concat();
    for batch in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        fs::write(data.join(format!("{batch}.bin")), (0..40).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
    format!("--data={}", data.display())
}

const SMALL_CIFAR: &[&str] = &[
    "--preset=cifar10",
    "--set=model.depth=8",
    "--set=data.size=16",
    "--set=train.batch_size=60",
    "--set=train.milestones=[]",
    "--epochs=1",
    "--device=cpu",
    "--threads=1",
];

/// The cells of a CSV table's row that begins with these keys.
fn row(csv: &str, keys: &str) -> Vec<String> {
    let line =
        csv.lines().find(|line| line.starts_with(&format!("{keys},"))).unwrap_or_else(|| panic!("{keys}: {csv}"));
    line[keys.len() + 1..].split(',').map(String::from).collect()
}

fn csv(table: &str, runs: &[&str]) -> (String, String) {
    let output = amlfs(&[&["table", table, "--format=csv"], runs].concat());
    assert_code(&output, 0);
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (utf8(&output.stdout), utf8(&output.stderr))
}

#[test]
fn table_2_has_runs_in_the_papers_rows_and_says_what_they_did_otherwise() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let data = cifar(here);
    let train = |name: &str, settings: &[&str]| {
        let out = path(here, name);
        assert_code(&amlfs(&[settings, SMALL_CIFAR, &[&data, "--out", &out]].concat()), 0);
        let test = amlfs::checkpoint::read(&Path::new(&out).join("final.h5")).unwrap().test;
        (out, 100.0 * test.iter().find(|(name, _)| name == "top1_error").unwrap().1)
    };
    let softmax = ["train", "--loss=softmax"];
    let noisy = ["--label-noise=0.2", "--samples=2"];
    let (first, a) = train("first", &softmax);
    let (second, b) = train("second", &[&softmax[..], &["--seed=2"]].concat());
    let (search, c) = train("search", &noisy);
    let (fixed, _) = train("fixed", &[&noisy[..], &["--policy=fixed"]].concat());

    let copy = path(here, "first/final.h5");
    let (table, warnings) = csv("2", &[&first, &second, &search, &fixed, &copy, "nowhere"]);
    let [mean, error] = [(a + b) / 2.0, (a - b).abs() / 2.0];
    let cells = row(&table, "0 %,softmax (CE)");
    assert_eq!(cells[0], "8.75");
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!((number(&cells[1]) - mean).abs() < 1e-9 && (number(&cells[2]) - error).abs() < 1e-9, "{cells:?}");
    assert_eq!(cells[3], "2", "the copy counts once");
    let cells = row(&table, "20 %,AM-LFS");
    assert_eq!((&cells[0][..], number(&cells[1]), &cells[2][..]), ("12.73", c, ""));
    assert_eq!(row(&table, "20 %,fixed policy")[0], "", "not in the paper");
    assert_eq!(row(&table, "10 %,AM-LFS"), ["10.05", "", "", "0", ""]);
    let notes = &table[table.find("20 %,AM-LFS").unwrap()..];
    for note in ["model.depth = 8 (recipe: 20)", "train.epochs = 1 (recipe: 200)", "search.samples = 2 (recipe: 32)"] {
        assert!(notes.contains(note), "{notes}");
    }
    assert!(notes.contains("180 images to train with (CIFAR-10: 45000)"), "{notes}");
    assert!(!table.contains("label_noise") && !table.contains("search.policy"), "{table}");
    assert!(warnings.contains("left out: nowhere: ") && warnings.contains("first/final.h5: named twice, or a copy"));

    let output = amlfs(&["table", "2", &first, &search]);
    assert_code(&output, 0);
    assert!(text(&output).contains("b: model.depth = 8 (recipe: 20)"), "{}", text(&output));
    let output = amlfs(&["table", "6", &search]);
    assert_error(&output, 1, "no run has a place in table 6: ");
    assert_error(&output, 1, "search: a run on cifar10; table 6 is of runs on reid");
    assert_code(&amlfs(&["table", "8", &search]), 2);

    // stopped after its first epoch
    let stopped = path(here, "stopped");
    fs::create_dir(&stopped).unwrap();
    let two = [&softmax[..], SMALL_CIFAR, &[&data, "--epochs=2", "--out", &stopped]].concat();
    assert_code(&amlfs(&two), 0);
    fs::remove_file(Path::new(&stopped).join("final.h5")).unwrap();
    fs::remove_file(Path::new(&stopped).join("epoch-0002.h5")).unwrap();
    assert_error(
        &amlfs(&["table", "2", &stopped]),
        1,
        "stopped: not finished: 1 of 2 epochs, and no figures of a test",
    );
}

#[test]
fn table_3_takes_what_evaluate_megaface_printed() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (data, run) = (format!("--data={}", packed(here, "train", 24, 1)), path(here, "run"));
    let settings = ["train", "--loss=arcface", "--epochs=1", "--out", &run, &data];
    assert_code(&amlfs(&[&settings[..], &for_training(SMALL_FACES)[..3], &for_training(SMALL_FACES)[4..]].concat()), 0);
    assert_error(&amlfs(&["table", "3", &run]), 1, "run: its directory has no megaface.json: amlfs evaluate megaface");

    let images = |name: &str| path(here, &format!("{name}-images"));
    let embed = |name: &str, seed| {
        packed(here, name, 6, seed);
        let file = path(here, &format!("{name}-embedded.h5"));
        let model = format!("{run}/final.h5");
        assert_code(&amlfs(&["export", "embeddings", "--model", &model, &images(name), "--out", &file]), 0);
        file
    };
    let (probes, distractors) = (embed("probes", 2), embed("distractors", 3));
    let output = amlfs(&["evaluate", "megaface", "--json", "--facescrub", &probes, "--megaface", &distractors]);
    let rank1 = json(&output)["results"].as_array().unwrap().last().unwrap()["raw"]["rank1"].as_f64().unwrap();
    let beside = Path::new(&run).join("megaface.json");
    fs::write(&beside, &output.stdout).unwrap();
    let (table, _) = csv("3", &[&run]);
    let cells = row(&table, "ArcFace");
    assert_eq!((&cells[0][..], cells[1].parse::<f64>().unwrap()), ("72.4", 100.0 * rank1));
    assert!(table.contains("among 30 distractors (the paper's: 1000000)"), "{table}");

    fs::write(&beside, &output.stdout[..output.stdout.len() / 2]).unwrap();
    assert_error(&amlfs(&["table", "3", &run]), 1, "megaface.json: truncated, or still being written");
    fs::write(&beside, "{}").unwrap();
    assert_error(&amlfs(&["table", "3", &run]), 1, "not what 'amlfs evaluate megaface --json' prints: missing field");
}

#[test]
fn tables_4_to_7_tell_people_apart_by_their_number_and_take_re_ranked_figures() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let data = format!("--data={}", persons::packed(here));
    let small = [SMALL_PERSONS, &["--epochs=1", "--device=cpu", "--threads=1"]].concat();
    let train = |name: &str, settings: &[&str]| {
        let out = path(here, name);
        assert_code(&amlfs(&[settings, &small, &[&data, "--out", &out]].concat()), 0);
        out
    };
    let softmax = train("softmax", &["train", "--loss=softmax"]);
    let search = train("search", &["--samples=4", "--set=search.intervals=3"]);
    let output = amlfs(&["evaluate", "reid", "--model", &search, "--rerank", "--json", "--device=cpu", "--threads=1"]);
    let figures = json(&output);
    fs::write(Path::new(&search).join("reid.json"), &output.stdout).unwrap();

    let (table, _) = csv("4", &[&softmax, &search]);
    assert_eq!(row(&table, "SphereReID")[0], "83.6");
    let number = |text: &str| text.parse::<f64>().unwrap();
    let of = |which: &str| 100.0 * figures[which]["map"].as_f64().unwrap();
    let plain = row(&table, "SphereReID + AM-LFS");
    assert!((number(&plain[1]) - of("plain")).abs() < 0.01, "{plain:?}, {figures}");
    let reranked = row(&table, "SphereReID(RK) + AM-LFS");
    assert_eq!((&reranked[0][..], number(&reranked[1])), ("", of("reranked")));
    for note in ["random weights to start from (recipe: ImageNet's)", "12 identities to train on (Market-1501: 751)"] {
        assert!(table.contains(note), "{table}");
    }
    for (number, key) in [("6", "12 identities,4"), ("7", "12 identities,3")] {
        let (table, warnings) = csv(number, &[&search, &softmax]);
        assert_eq!(row(&table, key)[1], plain[1], "{table}");
        assert!(warnings.contains("softmax: no search (softmax); tables 6 and 7 are of searches"), "{warnings}");
    }
}
