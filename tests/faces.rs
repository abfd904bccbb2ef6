//! The face task as its users go through it: prepare, search, evaluate, export.

mod support;

use std::path::Path;
use std::process::Output;

use amlfs::checkpoint;
use amlfs::data::{EmbeddingsWriter, Images, Packed};
use serde_json::Value;
use support::faces::{SMALL_FACES, packed, trained};
use support::kill::kill_and_resume;
use support::{amlfs, assert_code, assert_same, errors, final_without_timings, finish, json, mpirun, path, text};

#[test]
fn faces_give_the_same_bits_for_1_2_and_4_ranks_and_evaluate_repeats_the_test() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path(), "train", 24, 1));
    let test = packed(directory.path(), "test", 6, 2);
    let test = format!("--set=data.faces.test={test}");
    let results: Vec<_> = [1, 2, 4]
        .into_iter()
        .map(|ranks| {
            let out = directory.path().join(ranks.to_string());
            let out_flag = format!("--out={}", out.display());
            assert_code(&finish(&mut mpirun(ranks, &[SMALL_FACES, &[&data, &test, &out_flag]].concat())), 0);
            final_without_timings(&out)
        })
        .collect();
    assert!(results[0].history.iter().any(|record| record.delta_norm > 0.0), "mu never moved");
    assert_same(&results[0], &results[1]);
    assert_same(&results[0], &results[2]);

    assert_eq!(results[0].test.len(), 3);
    // a run's directory stands for its last checkpoint
    for checkpoint in ["1/final.h5", "1"] {
        let found = json(&amlfs(&["evaluate", "--json", "--device=cpu", &path(directory.path(), checkpoint)]));
        for (name, value) in &results[0].test {
            assert_eq!(found[name].as_f64().unwrap(), *value);
        }
    }
    let run = path(directory.path(), "1");
    let seen = amlfs(&["evaluate", "--device=cpu", &run, "--test", &path(directory.path(), "train.h5")]);
    assert_code(&seen, 0);
    let warning =
        "120 of its 120 images are images of the run's data, and 24 of its 24 identities have the name of one there";
    assert!(text(&seen).contains(warning), "{}", text(&seen));
    let none = path(directory.path(), "train-images");
    for command in ["evaluate", "inspect"] {
        let output = amlfs(&[command, &none]);
        assert_code(&output, 1);
        assert!(
            text(&output).contains("a directory without a checkpoint (final.h5 or epoch-*.h5)"),
            "{}",
            text(&output)
        );
    }
}

#[test]
fn a_face_search_that_is_killed_and_resumed_has_the_straight_runs_bits() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path(), "train", 24, 1));
    kill_and_resume(&[SMALL_FACES, &[&data]].concat(), 4, 5);
}

fn list(directory: &Path, name: &str, paths: &[String], ids: Option<Vec<String>>) -> String {
    let mut list = serde_json::json!({ "path": paths });
    if let Some(ids) = ids {
        list["id"] = ids.into();
    }
    std::fs::write(directory.join(name), list.to_string()).unwrap();
    path(directory, name)
}

#[test]
fn megaface_from_images_feature_files_and_exported_embeddings_agree() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    packed(here, "probes", 5, 3);
    packed(here, "distractors", 30, 4);
    let images = |name: &str, identities: usize| -> Vec<String> {
        (0..identities)
            .flat_map(|i| (0..5).map(move |j| format!("{i:07}/{j:03}.jpg")))
            .inspect(|image| {
                assert!(here.join(name).join(image).exists(), "{image}");
            })
            .collect()
    };
    let probes = images("probes-images", 5);
    let ids = probes.iter().map(|path| path.split('/').next().unwrap().to_owned()).collect();
    let probe_list = list(here, "facescrub_features_list.json", &probes, Some(ids));
    let distractors = images("distractors-images", 30);
    let large = list(here, "megaface_features_list.json_150_1", &distractors, None);
    let backwards: Vec<String> = distractors.iter().rev().take(20).cloned().collect();
    let small = list(here, "megaface_features_list.json_20_1", &backwards, None);
    let noises = path(here, "noises.txt");
    std::fs::write(&noises, format!("# mislabelled\n{}\n", distractors[7])).unwrap();

    let measure = |ranks: usize, sources: &[&str]| {
        let how = ["evaluate", "megaface", "--json", "--threads=1", "--device=cpu"];
        json(&finish(&mut mpirun(ranks, &[&how, sources].concat())))
    };
    let common = ["--facescrub-list", &probe_list, "--megaface-noises", &noises, "--megaface-list", &small, &large];
    let (probe_images, distractor_images) = (path(here, "probes-images"), path(here, "distractors-images"));
    let (features, out) = (path(here, "features"), path(here, "cmc"));
    let from_images = [
        &["--model", &model, "--facescrub", &probe_images, "--megaface", &distractor_images][..],
        &["--write-features", &features, "--out", &out],
        &common[..],
    ]
    .concat();
    let found = measure(1, &from_images);
    assert_eq!(found["results"].as_array().unwrap().len(), 2);
    assert_eq!(found["results"][1]["raw"]["distractors"], 150);
    assert_eq!(found["results"][1]["refined"]["distractors"], 149);
    assert_eq!(found, measure(2, &from_images));

    let (facescrub, megaface) = (path(here, "features/facescrub"), path(here, "features/megaface"));
    let from_features =
        [&["--features", "amlfs", "--facescrub", &facescrub, "--megaface", &megaface][..], &common[..]].concat();
    assert_eq!(found, measure(1, &from_features));

    let cmc = std::fs::read(here.join("cmc/cmc_facescrub_megaface_amlfs_150_1.json")).unwrap();
    let cmc: Value = serde_json::from_slice(&cmc).unwrap();
    assert_eq!(cmc["cmc"][1][0], found["results"][1]["raw"]["rank1"]);
    assert!(here.join("cmc/cmc_facescrub_megaface_amlfs_refined_20_1.json").exists());

    let (probe_file, distractor_file) = (path(here, "p.h5"), path(here, "d.h5"));
    let export = |images: &str, out: &str| {
        let arguments = ["export", "embeddings", "--device=cpu", "--model", &model, images, "--out", out];
        assert_code(&amlfs(&arguments), 0);
    };
    export(&probe_images, &probe_file);
    export(&distractor_images, &distractor_file);
    let exported = measure(1, &["--facescrub", &probe_file, "--megaface", &distractor_file]);
    assert_eq!(exported["results"][2]["raw"], found["results"][1]["raw"]);

    // the same rank-1 by its definition
    let (rows, labels) = (embeddings(&probe_file), |i: usize| i / 5);
    let others = embeddings(&distractor_file);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let (mut successes, mut pairs) = (0, 0);
    for j in 0..rows.len() {
        let best = others.iter().map(|other| dot(other, &rows[j])).fold(f64::MIN, f64::max);
        for i in (0..rows.len()).filter(|&i| i != j && labels(i) == labels(j)) {
            pairs += 1;
            successes += (dot(&rows[i], &rows[j]) >= best) as usize;
        }
    }
    assert_eq!(found["results"][1]["raw"]["rank1"].as_f64().unwrap(), successes as f64 / pairs as f64);

    let npy = path(here, "p.npy");
    export(&probe_images, &npy);
    let bytes = std::fs::read(&npy).unwrap();
    let last: Vec<u8> = rows.concat().iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(bytes.starts_with(b"\x93NUMPY") && bytes.ends_with(&last));
    assert_eq!(std::fs::read_to_string(path(here, "p.npy.names.txt")).unwrap().lines().count(), 25);
}

fn embeddings(file: &str) -> Vec<Vec<f32>> {
    let file = amlfs::data::Embeddings::open(Path::new(file)).unwrap();
    let mut rows = vec![0.0; file.count() * file.dimensions()];
    file.read(0..file.count(), &mut rows).unwrap();
    rows.chunks_exact(file.dimensions()).map(<[f32]>::to_vec).collect()
}

/// Rank-N with ties over more distractors than a block has, straight from the definition.
#[test]
fn rank_n_equals_its_definition_with_ties_for_1_2_and_4_ranks() {
    const DISTRACTORS: usize = 20_000;
    let directory = tempfile::tempdir().unwrap();
    // rows with two components of +-1 or one: after normalisation few distinct scores, so most pairs tie with some
    let row = |k: usize| {
        let mut row = vec![0f32; 16];
        let mut state = (k as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for _ in 0..4 {
            state = state.rotate_left(23).wrapping_mul(0xD134_2543_DE82_EF95) ^ (state >> 29);
            row[(state >> 40) as usize % 16] = if state >> 63 == 0 { 0.5 } else { -0.5 };
        }
        row
    };
    // exactly four components of 0.5: unit rows whose scores are exact multiples of 0.25
    let rows: Vec<Vec<f32>> = (0..)
        .map(row)
        .filter(|row| row.iter().filter(|&&value| value != 0.0).count() == 4)
        .take(DISTRACTORS + 60)
        .collect();
    let (probes, distractors) = rows.split_at(60);
    // 12 identities of 1 to 9 images
    let labels: Vec<u32> =
        (0..60).map(|i| [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 5, 5, 6, 7][i % 15] + 8 * (i / 30) as u32).collect();
    let write = |name: &str, rows: &[Vec<f32>], labels: &[u32]| {
        let file = path(directory.path(), name);
        let mut writer = EmbeddingsWriter::new(Path::new(&file)).unwrap();
        writer.push(&tch::Tensor::from_slice2(rows)).unwrap();
        let names: Vec<String> = (0..rows.len()).map(|i| i.to_string()).collect();
        writer.finish(labels, &names, &["someone".into()], "a test").unwrap();
        file
    };
    let probe_file = write("p.h5", probes, &labels);
    let distractor_file = write("d.h5", distractors, &vec![0; DISTRACTORS]);
    let how = ["evaluate", "megaface", "--json", "--device=cpu"];
    let arguments = [&how[..], &["--facescrub", &probe_file, "--megaface", &distractor_file]].concat();
    let found = json(&finish(&mut mpirun(1, &arguments)));
    for ranks in [2, 4] {
        assert_eq!(found, json(&finish(&mut mpirun(ranks, &arguments))), "{ranks} ranks");
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    for (result, size) in found["results"].as_array().unwrap().iter().zip([10, 100, 1000, 10_000, DISTRACTORS]) {
        let (mut within, mut pairs, mut ties) = ([0; 3], 0, 0);
        let mut mates = Vec::new();
        let mut impostors: Vec<f64> = Vec::new();
        for j in 0..60 {
            let scores: Vec<f64> = distractors[..size].iter().map(|other| dot(other, &probes[j])).collect();
            impostors.extend(&scores);
            for i in (0..60).filter(|&i| i != j && labels[i] == labels[j]) {
                let mate = dot(&probes[i], &probes[j]);
                mates.push(mate);
                let better = scores.iter().filter(|&&score| score > mate).count();
                ties += scores.iter().filter(|&&score| score == mate).count();
                pairs += 1;
                for (within, rank) in within.iter_mut().zip([1, 10, 100]) {
                    *within += (better < rank) as usize;
                }
            }
        }
        assert!(ties > 0 && pairs > 100);
        for (name, within) in ["rank1", "rank10", "rank100"].into_iter().zip(within) {
            // the curve is as long as there are distractors
            if let Some(rate) = result["raw"][name].as_f64() {
                assert_eq!(rate, within as f64 / pairs as f64, "{name} of {size}");
            }
        }
        impostors.sort_by(|a, b| b.total_cmp(a));
        let threshold = impostors[(1e-6 * impostors.len() as f64) as usize];
        let accepted = mates.iter().filter(|&&mate| mate > threshold).count() as f64 / pairs as f64;
        assert_eq!(result["raw"]["verification_rate"].as_f64().unwrap(), accepted, "{size}");
    }
}

#[test]
fn weights_are_exported_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let (here, model) = (directory.path(), trained(directory.path()));
    let weights = path(here, "weights.safetensors");
    assert_code(&amlfs(&["export", "weights", "--model", &model, "--out", &weights]), 0);
    let bytes = std::fs::read(&weights).unwrap();
    let found = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let expected = checkpoint::read(Path::new(&model)).unwrap();
    let expected: Vec<_> = expected.tensors.iter().filter(|tensor| tensor.path.starts_with("model/")).collect();
    assert_eq!(found.len(), expected.len());
    for tensor in expected {
        let view = found.tensor(&tensor.path["model/".len()..]).unwrap();
        assert_eq!(view.shape(), tensor.shape);
        let values: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(view.data(), values);
    }
}

/// An insightface folder with the images of `tree`: record 0 says where the images end and the identities begin.
fn write_records(folder: &Path, tree: &Path, identities: usize, images: usize) {
    let mut records = Vec::new();
    let mut index = String::new();
    let mut push = |key: usize, flag: u32, labels: &[f32], image: &[u8]| {
        index += &format!("{key}\t{}\n", records.len());
        let mut payload = [flag.to_le_bytes(), labels[0].to_le_bytes()].concat();
        payload.extend([0; 16]);
        if flag > 0 {
            payload.extend(labels.iter().flat_map(|label| label.to_le_bytes()));
        }
        payload.extend(image);
        records.extend(0xCED7_230Au32.to_le_bytes());
        records.extend((payload.len() as u32).to_le_bytes());
        records.extend(&payload);
        records.resize(records.len().next_multiple_of(4), 0);
    };
    let count = identities * images;
    push(0, 2, &[(count + 1) as f32, (count + 1 + identities) as f32], &[]);
    for key in 1..=count {
        let (identity, number) = ((key - 1) / images, (key - 1) % images);
        let image = std::fs::read(tree.join(format!("{identity:07}/{number:03}.jpg"))).unwrap();
        push(key, 0, &[identity as f32], &image);
    }
    for identity in 0..identities {
        let first = (1 + identity * images) as f32;
        push(count + 1 + identity, 2, &[first, first + images as f32], &[]);
    }
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("train.rec"), records).unwrap();
    std::fs::write(folder.join("train.idx"), index).unwrap();
    std::fs::write(folder.join("property"), format!("{identities},32,32")).unwrap();
}

#[test]
fn an_insightface_folder_packs_to_the_same_images_as_the_directory_and_identities_can_be_excluded() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let from_tree = Packed::open(Path::new(&packed(here, "train", 6, 1))).unwrap();
    let folder = here.join("records");
    write_records(&folder, &here.join("train-images"), 6, 5);
    let (source, file, exclude) = (path(here, "records"), path(here, "records.h5"), path(here, "exclude.txt"));
    assert_code(&amlfs(&["prepare", "faces", &source, "--out", &file, "--size=32x32"]), 0);
    let from_records = Packed::open(Path::new(&file)).unwrap();
    assert_eq!(from_records.count(), 30);
    for index in 0..30 {
        assert_eq!(from_records.stored(index).unwrap(), from_tree.stored(index).unwrap());
        assert_eq!(from_records.label(index), from_tree.label(index));
    }
    // labels are the names where there is no train.lst
    std::fs::write(&exclude, "\u{feff}0\r\n 4 somebody\r\n0000001\r\n").unwrap();
    let rest = path(here, "rest.h5");
    let output = amlfs(&["prepare", "faces", &source, "--out", &rest, "--size=32x32", "--exclude", &exclude]);
    assert_code(&output, 0);
    assert!(text(&output).contains("excluded: 10 images of 2 identities"), "{}", text(&output));
    assert!(text(&output).contains("exclude.txt: 2 of 3 names matched; not \"0000001\""), "{}", text(&output));
    let rest = Packed::open(Path::new(&rest)).unwrap();
    assert_eq!((rest.count(), rest.identities()), (20, &["1", "2", "3", "5"].map(String::from)[..]));

    let whole = std::fs::read(folder.join("train.rec")).unwrap();
    std::fs::write(folder.join("train.rec"), &whole[..whole.len() / 2]).unwrap();
    let output = amlfs(&["prepare", "faces", &source, "--out", &path(here, "cut.h5"), "--size=32x32"]);
    assert_code(&output, 1);
    assert!(text(&output).contains("train.idx: "), "names the file at fault: {}", text(&output));
}

#[test]
fn mistakes_give_one_sentence_that_names_file_and_cause() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let model = trained(here);
    let data = path(here, "train.h5");
    let out = format!("--out={}", path(here, "bad"));
    let damaged = path(here, "damaged.h5");
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    let index = Packed::open(Path::new(&damaged)).map(|packed| {
        let mut pixels = vec![0; 3 * 32 * 32];
        (0..packed.count()).find(|&index| packed.read(index, &mut pixels).is_err())
    });
    assert!(matches!(index, Ok(Some(_))), "the flipped bit is in an image");
    let probes = list(here, "facescrub_features_list.json", &["0/nobody.jpg".into()], Some(vec!["0".into()]));
    let distractors = list(here, "megaface_features_list.json_5_1", &["a".into()], None);
    std::fs::write(here.join("lfw.bin"), b"cos\nsystem\n(S'true'\ntR.").unwrap();
    let (tree, bin) = (path(here, "train-images"), path(here, "lfw.bin"));
    let search = |settings: &[&str]| finish(&mut mpirun(2, &[SMALL_FACES, &[&out], settings].concat()));
    let damaged_flag = format!("--data={damaged}");
    let data_flag = format!("--data={data}");
    let cases: Vec<(Output, i32, &str)> = vec![
        (search(&[&damaged_flag]), 1, "damaged.h5: image"),
        (
            search(&[&data_flag, "--set=data.faces.size=[112, 96]"]),
            1,
            "images of 32 x 32, but data.faces.size is 112 x 96",
        ),
        (
            search(&[&data_flag, "--set=data.faces.probe_identities=50"]),
            1,
            "held out are data.faces.probe_identities = 50",
        ),
        (search(&["--data=/nowhere.h5"]), 1, "/nowhere.h5: "),
        (search(&[]), 78, "data.path"),
        (amlfs(&["evaluate", &model]), 78, "data.faces.test is not set"),
        (amlfs(&["prepare", "faces", &tree, "--out", &data]), 1, "train.h5: exists already"),
        (amlfs(&["prepare", "faces", &path(here, "run"), "--out", &path(here, "x.h5")]), 1, "no images"),
        (
            amlfs(&[
                "evaluate",
                "megaface",
                "--model",
                &model,
                "--facescrub",
                &tree,
                "--facescrub-list",
                &probes,
                "--megaface",
                &tree,
                "--megaface-list",
                &distractors,
            ]),
            1,
            "megaface_features_list.json_5_1: 1 paths; its name states 5",
        ),
        (
            amlfs(&["evaluate", "megaface", "--facescrub", &tree, "--megaface", &data]),
            78,
            "--facescrub: a directory with --facescrub-list",
        ),
        (amlfs(&["evaluate", "megaface", "--facescrub", &data, "--megaface", &data]), 1, "not a file of embeddings"),
        (amlfs(&["evaluate", "lfw", "--model", &model, "--bin", &bin]), 1, "lfw.bin: not a pickle of (images, flags)"),
        (amlfs(&["export", "embeddings", "--model", &model, &tree, "--out", "x.csv"]), 78, "must end in .h5 or .npy"),
        (amlfs(&["export", "weights", "--model", &data, "--out", "x.safetensors"]), 1, "train.h5: "),
    ];
    for (output, code, what) in cases {
        assert_code(&output, code);
        let errors = errors(&output);
        // each of two ranks may meet a damaged image
        let said = !errors.is_empty() && errors.len() <= 2 && errors.iter().all(|error| error.contains(what));
        assert!(said, "'{what}' is not what is said: {}", text(&output));
    }
}
