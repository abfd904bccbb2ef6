//! What `amlfs evaluate` makes of the lists and features that people have: no figure from half of the input without a word.

mod support;

use std::io::BufWriter;
use std::path::Path;

use amlfs::eval::megaface::devkit::write_feature;
use npyz::WriterBuilder;
use serde_json::Value;
use support::{amlfs, assert_code, finish, json, mpirun, path, text};

const DIMENSIONS: usize = 8;
const PROBES: usize = 12;
const DISTRACTORS: usize = 60;

/// Equal numbers give equal features.
fn feature(number: usize) -> Vec<f32> {
    let mut state = (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..DIMENSIONS).map(|_| next()).collect()
}

/// Four probes of each of three persons, alike; some distractors are like a person, too.
fn probe(i: usize) -> Vec<f32> {
    feature(1000 + i / 4).iter().zip(feature(i)).map(|(centre, own)| centre + 0.4 * own).collect()
}

fn distractor(i: usize) -> Vec<f32> {
    match i % 10 {
        0 => feature(1000 + i % 3).iter().zip(feature(500 + i)).map(|(centre, own)| centre + 0.3 * own).collect(),
        _ => feature(100 + i),
    }
}

fn probe_name(i: usize) -> String {
    format!("P{0}/P{0}_{i}.png", i / 4)
}

fn distractor_name(i: usize) -> String {
    format!("{}/{i}.jpg", i % 7)
}

/// The devkit's lists and features of two toolkits below `here`; the arguments that measure one.
struct Devkit(Vec<String>);

impl Devkit {
    fn new(here: &Path) -> Devkit {
        for algorithm in ["one", "two"] {
            for (side, count, name, feature) in [
                ("facescrub", PROBES, probe_name as fn(usize) -> String, probe as fn(usize) -> Vec<f32>),
                ("megaface", DISTRACTORS, distractor_name, distractor),
            ] {
                for i in 0..count {
                    write_feature(&here.join(side).join(format!("{}_{algorithm}.bin", name(i))), &feature(i)).unwrap();
                }
            }
        }
        let (probes, distractors): (Vec<String>, Vec<String>) =
            ((0..PROBES).map(probe_name).collect(), (0..DISTRACTORS).map(distractor_name).collect());
        let ids: Vec<usize> = (0..PROBES).map(|i| i / 4).collect();
        let list = |name: &str, list: Value| {
            // as Windows' editors write it
            std::fs::write(here.join(name), format!("\u{feff}{list}")).unwrap();
            path(here, name)
        };
        let probes = list("facescrub_list.json", serde_json::json!({ "path": probes, "id": ids }));
        let distractors: Vec<String> = distractors.iter().map(|name| format!("./{name}")).collect();
        let distractors = list("megaface_list.json_60_1", serde_json::json!({ "path": distractors }));
        let (facescrub, megaface) = (path(here, "facescrub"), path(here, "megaface"));
        let arguments = ["--facescrub", &facescrub, "--megaface", &megaface];
        let lists = ["--facescrub-list", &probes, "--megaface-list", &distractors];
        Devkit(arguments.iter().chain(&lists).map(|argument| argument.to_string()).collect())
    }

    fn measure(&self, ranks: usize, more: &[&str]) -> std::process::Output {
        let own: Vec<&str> = self.0.iter().map(String::as_str).collect();
        let how = ["evaluate", "megaface", "--json", "--threads=2", "--features"];
        let algorithm = if more.first() == Some(&"two") { ["two"] } else { ["one"] };
        let more = if more.first() == Some(&"two") { &more[1..] } else { more };
        finish(&mut mpirun(ranks, &[&how[..], &algorithm, &own, more].concat()))
    }
}

#[test]
fn noise_lists_in_other_spellings_count_and_those_that_match_nothing_are_errors() {
    let directory = tempfile::tempdir().unwrap();
    let (here, devkit) = (directory.path(), Devkit::new(directory.path()));
    let with = |probes: &str, distractors: &str| {
        std::fs::write(here.join("p.txt"), probes).unwrap();
        std::fs::write(here.join("d.txt"), distractors).unwrap();
        let (probes, distractors) = (path(here, "p.txt"), path(here, "d.txt"));
        devkit.measure(1, &["--facescrub-noises", &probes, "--megaface-noises", &distractors])
    };
    let exact = json(&with("P0/P0_1.png\n", "0/0.jpg\n3/10.jpg\n"));
    let all = &exact["results"][1];
    assert_eq!((&all["raw"]["distractors"], &all["refined"]["distractors"]), (&60.into(), &58.into()));
    assert_ne!(all["raw"]["rank1"], all["refined"]["rank1"]);
    for (probes, distractors) in [
        ("P0_1.jpg\n", "megaface/0/0.png\r\nmegaface/3/10.png\r\n"),
        ("\u{feff}facescrub/P0/P0_1.png\r\n", "17\t./0/0.jpg\n18\t./3/10.jpg\n"),
        (" P0_1.png 1\n", "0/0.jpg,noise\n3/10.jpg,noise\n"),
    ] {
        let output = with(probes, distractors);
        assert_eq!(json(&output), exact, "{probes:?} {distractors:?}");
        assert!(text(&output).contains("d.txt: 2 of 2 names matched"), "{}", text(&output));
    }
    let some = with("P0_1.png\nP9_1.png\n", "0/0.jpg\n");
    assert_code(&some, 0);
    assert!(text(&some).contains("p.txt: 1 of 2 names matched; not \"P9_1.png\" (line 2)"), "{}", text(&some));
    let none = with("P0_1.png\n", "a.jpg\nb.jpg\n");
    assert_code(&none, 1);
    assert!(
        text(&none).contains("d.txt: none of its 2 names is one of the 60 distractors: \"a.jpg\" (line 1)"),
        "{}",
        text(&none)
    );
}

#[test]
fn missing_and_broken_images_are_all_listed_before_anything_is_measured() {
    let directory = tempfile::tempdir().unwrap();
    let (here, devkit) = (directory.path(), Devkit::new(directory.path()));
    let whole = json(&devkit.measure(1, &[]));
    let file = |i: usize| here.join("megaface").join(format!("{}_one.bin", distractor_name(i)));
    let out = path(here, "out");
    std::fs::remove_file(file(7)).unwrap();
    std::fs::write(file(8), "short").unwrap();
    std::fs::remove_file(here.join("facescrub").join(format!("{}_one.bin", probe_name(11)))).unwrap();
    let stopped = devkit.measure(2, &["--out", &out]);
    assert_code(&stopped, 1);
    let said = text(&stopped);
    for what in [
        "3 of 72 images are missing or broken, more than the 0 allowed:",
        "P2/P2_11.png: ",
        "0/7.jpg: ",
        "1/8.jpg: ",
        "not there, nor with another extension",
        "5 bytes; the header alone has 16",
        "--max-skipped 0.0417",
    ] {
        assert!(said.contains(what), "'{what}' is not said: {said}");
    }
    let skipped = || std::fs::read_to_string(here.join("out/skipped.csv")).unwrap();
    assert_eq!(skipped().lines().count(), 4, "{}", skipped());
    let rest = json(&devkit.measure(1, &["--out", &out, "--max-skipped=0.05"]));
    assert_eq!(rest["results"][1]["raw"]["distractors"], 58);
    assert_eq!(rest, json(&devkit.measure(2, &["--out", &out, "--max-skipped=0.05"])));

    // what only its content tells
    write_feature(&file(9), &[0.0; DIMENSIONS]).unwrap();
    write_feature(&file(21), &[1.0; DIMENSIONS + 1]).unwrap();
    let stopped = devkit.measure(1, &["--out", &out, "--max-skipped=0.05"]);
    assert_code(&stopped, 1);
    assert!(
        text(&stopped).contains("5 of 72 images are missing or broken, more than the 3 allowed (--max-skipped): "),
        "{}",
        text(&stopped)
    );
    for ranks in [1, 2] {
        let rest = devkit.measure(ranks, &["--out", &out, "--max-skipped=0.1"]);
        assert_eq!(json(&rest)["results"][1]["raw"]["distractors"], 56);
        assert!(text(&rest).contains("5 of 72 images are missing or broken and left out, see "), "{}", text(&rest));
        assert!(skipped().contains("0/21.jpg,") && skipped().contains("2/9.jpg,"), "{}", skipped());
    }
    // without them the figures are those of a list without them
    assert_ne!(whole, rest);
}

#[test]
fn two_toolkits_results_lie_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let (here, devkit) = (directory.path(), Devkit::new(directory.path()));
    let out = path(here, "out");
    for arguments in [&["--out", &out][..], &["two", "--out", &out]] {
        assert_code(&devkit.measure(1, arguments), 0);
    }
    for file in ["cmc_facescrub_megaface_one_60_1.json", "cmc_facescrub_megaface_two_60_1.json"] {
        assert!(here.join("out").join(file).exists(), "{file}");
    }
}

fn write<T: npyz::AutoSerialize>(file: &Path, shape: &[u64], order: npyz::Order, values: impl IntoIterator<Item = T>) {
    let file = BufWriter::new(std::fs::File::create(file).unwrap());
    let options = npyz::WriteOptions::new().default_dtype().shape(shape).order(order);
    let mut writer = options.writer(file).begin_nd().unwrap();
    writer.extend(values).unwrap();
    writer.finish().unwrap();
}

#[test]
fn megaface_reads_other_programs_arrays_and_tells_probes_that_are_distractors() {
    let directory = tempfile::tempdir().unwrap();
    let (here, devkit) = (directory.path(), Devkit::new(directory.path()));
    let whole = json(&devkit.measure(1, &[]));
    let (p, d) = (path(here, "p.npy"), path(here, "d.npy"));
    let by_columns = (0..DIMENSIONS).flat_map(|k| (0..PROBES).map(move |i| f64::from(probe(i)[k])));
    write(Path::new(&p), &[PROBES as u64, DIMENSIONS as u64], npyz::Order::Fortran, by_columns);
    write(&here.join("p.ids.npy"), &[PROBES as u64, 1], npyz::Order::C, (0..PROBES).map(|i| i as u16 / 4));
    write(
        Path::new(&d),
        &[DISTRACTORS as u64, DIMENSIONS as u64],
        npyz::Order::C,
        (0..DISTRACTORS).flat_map(distractor),
    );
    let measure = |arguments: &[&str]| {
        let how = ["evaluate", "megaface", "--json", "--threads=1"];
        finish(&mut mpirun(1, &[&how, arguments].concat()))
    };
    let found = measure(&["--facescrub", &p, "--megaface", &d]);
    assert_eq!(json(&found), whole);
    assert!(!text(&found).contains("same feature"), "{}", text(&found));
    let names: String = (0..DISTRACTORS).map(|i| distractor_name(i) + "\n").collect();
    std::fs::write(here.join("d.npy.names.txt"), names).unwrap();
    std::fs::write(here.join("n.txt"), "0/0.jpg\n").unwrap();
    let (out, noises) = (path(here, "out"), path(here, "n.txt"));
    let refined = json(&measure(&["--facescrub", &p, "--megaface", &d, "--megaface-noises", &noises, "--out", &out]));
    assert_eq!(refined["results"][1]["refined"]["distractors"], 59);
    assert!(here.join("out/cmc_facescrub_megaface_d_60_1.json").exists());

    let twins = (0..DISTRACTORS).flat_map(|i| if i < 5 { probe(i) } else { distractor(i) });
    write(Path::new(&d), &[DISTRACTORS as u64, DIMENSIONS as u64], npyz::Order::C, twins);
    let found = measure(&["--facescrub", &p, "--megaface", &d]);
    assert_code(&found, 0);
    assert!(text(&found).contains("5 of 12 probes have a distractor with the same feature"), "{}", text(&found));

    write(Path::new(&d), &[DISTRACTORS as u64, 4], npyz::Order::C, (0..DISTRACTORS * 4).map(|i| i as f32));
    let other = measure(&["--facescrub", &p, "--megaface", &d]);
    assert_code(&other, 1);
    assert!(text(&other).contains("p.npy has 8 features for each image, "), "{}", text(&other));
    assert!(text(&other).contains("d.npy has 4: they are not of one network"), "{}", text(&other));
    for (arguments, why) in [
        (["--features", "x"], "--features: there is nothing for it to do where --facescrub and --megaface are files"),
        (["--max-skipped", "0.1"], "--max-skipped: there is nothing for it to do"),
        (
            ["--device", "cuda"],
            "--device cuda and --devices-per-rank: only a checkpoint's network (--model) computes there",
        ),
    ] {
        let output = measure(&[&["--facescrub", &p, "--megaface", &d], &arguments[..]].concat());
        assert_code(&output, 78);
        assert!(text(&output).contains(why), "{}", text(&output));
    }
}

#[test]
fn reid_features_with_a_large_offset_give_the_figures_of_f64_and_errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let offset = |values: Vec<f32>| values.into_iter().map(|value| 4096.0 + value / 8.0);
    let set = |name: &str, count: usize, first: usize, shift: bool| {
        let row =
            |i: usize| feature(2000 + (first + i) % 9).iter().zip(feature(first + i)).map(|(a, b)| a + b).collect();
        // sixteenths and their sums are exact on both sides
        let exact = |row: Vec<f32>| row.into_iter().map(|value| (value * 256.0).round() / 256.0).collect::<Vec<f32>>();
        let values: Vec<f32> =
            (0..count).flat_map(|i| if shift { offset(exact(row(i))).collect() } else { exact(row(i)) }).collect();
        let file = |ending: &str| here.join(format!("{name}.{ending}"));
        write(&file("npy"), &[count as u64, DIMENSIONS as u64], npyz::Order::C, values);
        write(&file("ids.npy"), &[count as u64], npyz::Order::C, (0..count).map(|i| ((first + i) % 9) as i32));
        write(&file("cameras.npy"), &[count as u64], npyz::Order::C, (0..count).map(|i| (i % 5) as i32));
        path(here, &format!("{name}.npy"))
    };
    let measure = |q: &str, g: &str| {
        amlfs(&["evaluate", "reid", "--json", "--threads=1", "--metric=euclidean", "--query", q, "--gallery", g])
    };
    let plain = json(&measure(&set("q", 60, 0, false), &set("g", 300, 100, false)));
    let (query, gallery) = (set("sq", 60, 0, true), set("sg", 300, 100, true));
    assert!(plain["plain"]["map"].as_f64().unwrap() < 0.9, "{plain}");
    assert_eq!(json(&measure(&query, &gallery)), plain);

    let zero = here.join("sg.npy");
    write(&zero, &[300, 4], npyz::Order::C, (0..1200).map(|_| 0f32));
    let output = measure(&query, &gallery);
    assert_code(&output, 1);
    let (q, g) = ("sq.npy has 8 features for each image, ", "sg.npy has 4: they are not of one network");
    assert!(text(&output).contains(q) && text(&output).contains(g), "{}", text(&output));
    write(&zero, &[300, 8], npyz::Order::C, (0..2400).map(|_| 0f32));
    let output = amlfs(&["evaluate", "reid", "--query", &query, "--gallery", &gallery]);
    assert!(text(&output).contains("sg.npy: features of row 0: their norm is 0"), "{}", text(&output));
}
