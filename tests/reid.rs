//! Person re-identification as its users go through it: prepare, search, evaluate.

mod support;

use std::io::BufWriter;
use std::path::Path;

use amlfs::checkpoint;
use npyz::WriterBuilder;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use support::kill::kill_and_resume;
use support::{amlfs, assert_code, assert_same, final_without_timings, finish, for_training, json, mpirun, path, text};

/// A search of seconds: 64 x 32 images, a sixteenth of the channels. On CPU, where the bits are promised.
const SMALL: &[&str] = &[
    "--samples=4",
    "--device=cpu",
    "--threads=1",
    "--epochs=3",
    "--set=search.warmup_epochs=0",
    "--set=data.reid.size=[72, 36]",
    "--set=data.reid.crop=[64, 32]",
    "--set=data.reid.images_per_identity=2",
    "--set=data.reid.validation_identities=4",
    "--set=data.reid.validation_images=6",
    "--set=data.erasing=0.5",
    "--set=model.width=0.0625",
    "--set=train.batch_size=8",
    "--set=train.learning_rate=0.001",
    "--set=train.warmup_epochs=1",
    "--set=train.milestones=[2]",
];

/// A generated benchmark: 12 people to train with, 12 to test, 12 images each.
fn packed(directory: &Path) -> String {
    let (tree, file) = (path(directory, "tree"), path(directory, "tree.h5"));
    let layout = ["--layout=market", "--identities=24", "--images=12", "--size=64x32"];
    assert_code(&amlfs(&[&["prepare", "glyphs", &tree][..], &layout].concat()), 0);
    assert_code(&amlfs(&["prepare", "reid", &tree, "--out", &file]), 0);
    file
}

fn evaluate(ranks: usize, arguments: &[&str]) -> Value {
    let how = ["evaluate", "reid", "--json", "--threads=1", "--device=cpu"];
    json(&finish(&mut mpirun(ranks, &[&how, arguments].concat())))
}

#[test]
fn mgn_gives_the_same_bits_for_1_2_and_4_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path()));
    let results: Vec<_> = [1, 2, 4]
        .into_iter()
        .map(|ranks| {
            let out = directory.path().join(ranks.to_string());
            let out_flag = format!("--out={}", out.display());
            let settings = [SMALL, &["--preset=market1501-mgn", "--set=data.reid.epoch=images", &data, &out_flag]];
            assert_code(&finish(&mut mpirun(ranks, &settings.concat())), 0);
            final_without_timings(&out)
        })
        .collect();
    assert!(results[0].history.iter().any(|record| record.delta_norm > 0.0), "mu never moved");
    assert_same(&results[0], &results[1]);
    assert_same(&results[0], &results[2]);
}

#[test]
fn a_spherereid_search_that_is_killed_and_resumed_has_the_straight_runs_bits() {
    let directory = tempfile::tempdir().unwrap();
    let data = format!("--data={}", packed(directory.path()));
    // long enough to be killed within: dropout, warm-up and Adam's state have to come back
    let longer = ["--preset=market1501-spherereid", "--epochs=4", "--set=train.epoch_iterations=8", &data];
    kill_and_resume(&[SMALL, &longer].concat(), 4, 5);
}

#[test]
fn every_model_is_searched_and_measured_from_its_checkpoint_and_from_its_features() {
    let directory = tempfile::tempdir().unwrap();
    let (here, file) = (directory.path(), packed(directory.path()));
    let data = format!("--data={file}");
    for (preset, dimensions) in [("market1501-spherereid", 64), ("market1501-sft", 128), ("dukemtmc-mgn", 128)] {
        let (preset_flag, out) = (format!("--preset={preset}"), format!("--out={}", path(here, preset)));
        let settings = [SMALL, &[&preset_flag, &data, &out, "--samples=2", "--epochs=2"]].concat();
        assert_code(&finish(&mut mpirun(2, &settings)), 0);
        let model = path(here, &format!("{preset}/final.h5"));
        let stored = checkpoint::read(Path::new(&model)).unwrap();
        assert!(stored.history.iter().flat_map(|record| &record.samples).all(|sample| sample.reward > 0.0));

        let features = path(here, &format!("{preset}-features"));
        let found = evaluate(1, &["--model", &model, "--rerank", "--write-features", &features]);
        for (name, value) in &stored.test {
            let plain = &found["plain"];
            let again = name
                .strip_prefix("rank")
                .map_or(&plain[name.as_str()], |rank| &plain["cmc"][rank.parse::<usize>().unwrap() - 1]);
            assert_eq!(again.as_f64().unwrap(), *value, "{preset} {name}");
        }
        assert_ne!(found["plain"], found["reranked"]);
        for ranks in [2, 4] {
            assert_eq!(found, evaluate(ranks, &["--model", &model, "--data", &file, "--rerank"]), "{preset} {ranks}");
        }
        let (query, gallery) = (format!("{features}/query.h5"), format!("{features}/gallery.h5"));
        assert_eq!(found, evaluate(2, &["--query", &query, "--gallery", &gallery, "--rerank"]), "{preset}");
        let query = hdf5::File::open(query).unwrap().dataset("features").unwrap();
        assert_eq!(query.shape()[1], dimensions);

        // the query's images as files: the same network, sizes and mirror images
        let (images, exported) = (path(here, "tree/query"), path(here, &format!("{preset}-exported.h5")));
        let export = ["export", "embeddings", "--device=cpu", "--threads=1", "--model", &model, &images];
        assert_code(&amlfs(&[&export[..], &["--out", &exported]].concat()), 0);
        let exported = amlfs::data::Embeddings::open(Path::new(&exported)).unwrap();
        let mut rows = vec![0.0; exported.count() * exported.dimensions()];
        exported.read(0..exported.count(), &mut rows).unwrap();
        assert_eq!(rows, query.read_raw::<f32>().unwrap(), "{preset}");
        assert!(exported.names().unwrap().is_sorted());
    }
}

/// Features with small whole numbers, so that squared distances are exact and many are equal.
struct Set {
    features: Vec<[f32; 4]>,
    ids: Vec<i64>,
    cameras: Vec<i64>,
}

impl Set {
    fn new(seed: u64, count: usize, id: impl Fn(usize) -> i64, camera: impl Fn(usize) -> i64) -> Set {
        let mut state = seed;
        let mut number = || {
            state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            ((state >> 40) % 5) as f32
        };
        Set {
            features: (0..count).map(|_| [(); 4].map(|()| number())).collect(),
            ids: (0..count).map(id).collect(),
            cameras: (0..count).map(camera).collect(),
        }
    }

    fn write(&self, directory: &Path, name: &str) -> String {
        let file = |name: &str| BufWriter::new(std::fs::File::create(directory.join(name)).unwrap());
        let shape = [self.features.len() as u64, 4];
        let mut writer = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&shape)
            .writer(file(&format!("{name}.npy")))
            .begin_nd()
            .unwrap();
        writer.extend(self.features.concat()).unwrap();
        writer.finish().unwrap();
        for (column, values) in [("ids", &self.ids), ("cameras", &self.cameras)] {
            let file = file(&format!("{name}.{column}.npy"));
            let mut writer = npyz::WriteOptions::new()
                .default_dtype()
                .shape(&[values.len() as u64])
                .writer(file)
                .begin_nd()
                .unwrap();
            writer.extend(values.iter().map(|&value| value as i32)).unwrap();
            writer.finish().unwrap();
        }
        path(directory, &format!("{name}.npy"))
    }
}

/// CMC at ranks 1, 5 and 10, both mAPs, mINP and the queries without a match, straight from the definitions.
fn by_definition(query: &Set, gallery: &Set) -> ([f64; 6], usize) {
    let (mut sums, mut counted) = ([0.0; 6], 0);
    for q in 0..query.ids.len() {
        let own = |g: &usize| gallery.ids[*g] == query.ids[q];
        let mut ranking: Vec<usize> = (0..gallery.ids.len())
            .filter(|g| gallery.ids[*g] != -1 && !(own(g) && gallery.cameras[*g] == query.cameras[q]))
            .collect();
        let distance = |g: usize| {
            let pairs = query.features[q].iter().zip(gallery.features[g]);
            pairs.map(|(a, b)| ((a - b) * (a - b)) as i64).sum::<i64>()
        };
        ranking.sort_by_key(|&g| distance(g)); // stable
        let hits: Vec<usize> = (1..).zip(&ranking).filter(|(_, g)| own(g)).map(|(rank, _)| rank).collect();
        if hits.is_empty() {
            continue;
        }
        counted += 1;
        let precision = |rank: usize| match rank {
            0 => 1.0,
            _ => hits.iter().filter(|&&hit| hit <= rank).count() as f64 / rank as f64,
        };
        let mean = |of: &dyn Fn(usize) -> f64| hits.iter().map(|&hit| of(hit)).sum::<f64>() / hits.len() as f64;
        let within = |rank| f64::from(u8::from(hits[0] <= rank));
        let values = [
            within(1),
            within(5),
            within(10),
            mean(&precision),
            mean(&|hit| (precision(hit - 1) + precision(hit)) / 2.0),
            hits.len() as f64 / *hits.last().unwrap() as f64,
        ];
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    (sums.map(|sum| sum / counted as f64), query.ids.len() - counted)
}

#[test]
fn figures_equal_their_definitions_with_ties_junk_and_missing_matches_for_1_2_and_4_ranks() {
    let directory = tempfile::tempdir().unwrap();
    // queries 40 to 43 have nobody; identity 7 has one match, 8 only images of the query's own camera
    let query = Set::new(1, 300, |i| if (40..44).contains(&i) { 500 } else { i as i64 % 30 }, |i| i as i64 % 4);
    let gallery = Set::new(
        2,
        700,
        |i| match i % 10 {
            0 => -1,
            1 => 0,
            _ => [i as i64 % 31, 9][usize::from(i as i64 % 31 == 7 && i > 100)],
        },
        |i| if i % 31 == 8 { 0 } else { i as i64 / 31 % 4 },
    );
    let one_camera = Set { cameras: vec![3; 700], ..Set::new(2, 700, |i| i as i64 % 31, |_| 3) };
    let (q, g, c) = (query.write(directory.path(), "q"), gallery.write(directory.path(), "g"), "c");
    let c = one_camera.write(directory.path(), c);
    for (file, gallery) in [(&g, &gallery), (&c, &one_camera)] {
        let arguments = ["--query", &q, "--gallery", file, "--metric=euclidean", "--rerank"];
        let found = evaluate(1, &arguments);
        let (expected, without_match) = by_definition(&query, gallery);
        assert!(without_match >= 4 && expected[0] > 0.0, "{expected:?}");
        assert_eq!(found["without_match"], without_match);
        let plain = &found["plain"];
        let (cmc, rest) = (&plain["cmc"], ["map", "map_trapezoid", "minp"].map(|name| &plain[name]));
        let all = [&cmc[0], &cmc[4], &cmc[9], rest[0], rest[1], rest[2]].map(|value| value.as_f64().unwrap());
        for (found, expected) in all.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{all:?}, not {expected}");
        }
        for ranks in [2, 4] {
            assert_eq!(found, evaluate(ranks, &arguments), "{ranks} ranks");
        }
    }
}

#[test]
fn weights_to_start_from_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let (data, init) = (packed(directory.path()), path(directory.path(), "imagenet.safetensors"));
    let stem: Vec<u8> = (1..=4 * 3 * 7 * 7).flat_map(|i| (i as f32 / 100.0).to_le_bytes()).collect();
    let tensor = TensorView::new(Dtype::F32, vec![4, 3, 7, 7], &stem).unwrap();
    safetensors::serialize_to_file([("conv1.weight", tensor)], None, Path::new(&init)).unwrap();
    let out = path(directory.path(), "run");
    let rest = ["--preset=market1501-sft", "--data", &data, "--init", &init, "--out", &out, "--epochs=1"];
    let frozen = ["--set=train.learning_rate=1e-30", "--set=train.warmup_epochs=0"];
    let output =
        finish(&mut mpirun(1, &[&["train", "--loss=am-softmax"], &for_training(SMALL)[..], &rest, &frozen].concat()));
    assert_code(&output, 0);
    assert!(text(&output).contains("1 tensors start from"), "{}", text(&output));
    let stored = checkpoint::read(Path::new(&path(directory.path(), "run/final.h5"))).unwrap();
    let found = stored.tensors.iter().find(|tensor| tensor.path == "model/backbone.conv1.weight").unwrap();
    assert_eq!(found.values, (1..=588).map(|i| i as f32 / 100.0).collect::<Vec<_>>());
}

#[test]
fn a_run_starts_from_the_exported_weights_of_another_or_of_its_backbone() {
    let directory = tempfile::tempdir().unwrap();
    let (here, data) = (directory.path(), packed(directory.path()));
    let frozen = ["--epochs=1", "--set=train.learning_rate=1e-30", "--set=train.warmup_epochs=0"];
    let train = |preset: &str, name: &str, init: &[&str]| {
        let what = ["train", "--loss=softmax", "--preset", preset, "--data", &data, "--out", &path(here, name)];
        let output = amlfs(&[&what[..], &for_training(SMALL), &frozen, init].concat());
        assert_code(&output, 0);
        (checkpoint::read(Path::new(&path(here, &format!("{name}/final.h5")))).unwrap(), text(&output))
    };
    let (first, _) = train("market1501-spherereid", "first", &[]);
    let weights = path(here, "first.safetensors");
    let model = path(here, "first/final.h5");
    assert_code(&amlfs(&["export", "weights", "--model", &model, "--out", &weights]), 0);

    let (second, said) = train("market1501-spherereid", "second", &["--init", &weights, "--seed=2"]);
    assert!(said.contains("random: none"), "{said}");
    let parameters = |run: &checkpoint::Checkpoint| {
        let all = run.tensors.iter().filter(|tensor| {
            tensor.path.starts_with("model/") && (tensor.path.ends_with(".weight") || tensor.path.ends_with(".bias"))
        });
        all.flat_map(|tensor| tensor.values.clone()).collect::<Vec<_>>()
    };
    let pairs = parameters(&second).into_iter().zip(parameters(&first));
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-20, "{worst}: nothing is learned at this rate, but for biases of 0");

    // MGN has the backbone alone, and copies of its last stage
    let (mgn, said) = train("market1501-mgn", "mgn", &["--init", &weights]);
    assert!(said.contains("that have no place: ") && said.contains("bn2.running_var"), "{said}");
    let of = |run: &checkpoint::Checkpoint, name: &str| {
        run.tensors.iter().find(|tensor| tensor.path == format!("model/{name}")).unwrap().values.clone()
    };
    for (here, there) in
        [("backbone.bn1.weight", "backbone.bn1.weight"), ("p3.layer4.2.conv1.weight", "backbone.layer4.2.conv1.weight")]
    {
        assert_eq!(of(&mgn, here), of(&first, there));
    }

    let wider = ["--init", &weights, "--set=model.width=0.125", "--preset=market1501-spherereid", "--data", &data];
    let output =
        amlfs(&[&["train", "--loss=softmax", "--out", &path(here, "no")], &for_training(SMALL)[..], &wider].concat());
    assert_code(&output, 1);
    let said = "first.safetensors: backbone.conv1.weight is [4, 3, 7, 7] F32 there; the network's backbone.conv1.weight is [8, 3, 7, 7] F32";
    assert!(text(&output).contains(said), "{}", text(&output));
}

#[test]
fn what_cannot_be_trained_on_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let (data, out) = (format!("--data={}", packed(directory.path())), path(directory.path(), "run"));
    let refused = |code: i32, arguments: &[&str], why: &str| {
        let base = ["--preset=market1501-mgn", "--out", &out, &data];
        let output = amlfs(&[SMALL, &base, arguments].concat());
        assert_code(&output, code);
        assert!(text(&output).contains(why), "{}", text(&output));
        assert!(!Path::new(&out).exists(), "{arguments:?} left a run directory");
    };
    let left =
        "8 are left to train on, and a batch takes 32, train.batch_size = 64 over data.reid.images_per_identity = 2";
    refused(1, &["--set=train.batch_size=64"], left);
    refused(1, &["--set=data.reid.validation_identities=11"], "held out are data.reid.validation_identities = 11");
    let both = ["--set=train.batch_size=64", "--set=data.reid.validation_identities=11"];
    refused(1, &both, "These fit: --set data.reid.validation_identities=3 --set train.batch_size=18");
    refused(78, &["--set=train.batch_size=9"], "train.batch_size = 9 (--set train.batch_size=9): must be P identities");
    refused(78, &["--set=data.reid.crop=[80, 32]"], "data.reid.crop");
    refused(78, &["--set=model.name=resnet-cifar"], "must be sphere-reid, sft or mgn");
    refused(78, &["--preset=market1501-sft", "--set=loss.triplet_weight=1.0"], "only mgn has a triplet loss");
    refused(1, &["--data=Cargo.toml"], "Cargo.toml: ");
    refused(1, &["--init=nowhere.safetensors"], "nowhere.safetensors: can't be read");
}

#[test]
fn what_cannot_be_measured_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let set = || Set::new(1, 8, |i| i as i64 % 2, |i| i as i64 / 2);
    let good = set().write(directory.path(), "good");
    let refused = |name: &str, bad: Set, why: &str| {
        let bad = bad.write(directory.path(), name);
        let output = amlfs(&["evaluate", "reid", "--query", &bad, "--gallery", &good]);
        assert_code(&output, 1);
        assert!(text(&output).contains(why), "{}", text(&output));
    };
    let short = "short.npy: 8 features, but ids of shape [7]";
    refused("short", Set { ids: vec![1; 7], ..set() }, short);
    let mut nan = set();
    nan.features[5][2] = f32::NAN;
    refused("nan", nan, "nan.npy: row 5 has a feature that is NaN");
    let mut zero = set();
    zero.features[3] = [0.0; 4];
    refused("zero", zero, "zero.npy: features of row 3: their norm is 0");
    refused("strangers", Set { ids: vec![9; 8], ..set() }, "none of the 8 queries has an image of its id");
    refused("low", Set { ids: vec![-2; 8], ..set() }, "row 0 has the id -2");
    refused("none", Set::new(1, 0, |_| 0, |_| 0), "none.npy: features of shape [0, 4]: there are none");
    std::fs::remove_file(directory.path().join("low.cameras.npy")).unwrap();
    let (low, text_file) = (path(directory.path(), "low.npy"), path(directory.path(), "text.h5"));
    std::fs::write(&text_file, "no HDF5").unwrap();
    for (file, why) in [(&low, "low.cameras.npy: can't be read"), (&text_file, "text.h5: ")] {
        let output = amlfs(&["evaluate", "reid", "--query", file, "--gallery", &good]);
        assert_code(&output, 1);
        assert!(text(&output).contains(why), "{}", text(&output));
    }
}
