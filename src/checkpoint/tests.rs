use std::collections::BTreeSet;

use hdf5::types::VarLenUnicode;
use tempfile::TempDir;

use super::content::{Block, Values, blocks, digest, same_values};
use super::*;
use crate::state::{PolicyVector, SampleRecord, Status};

fn checkpoint(epochs: usize, batch: usize, width: usize) -> Checkpoint {
    let vector = |start: f64| (0..width).map(|i| start + i as f64 / 7.0).collect::<Vec<f64>>();
    let sample = |epoch: usize, index: usize| SampleRecord {
        theta: vector((epoch * 10 + index) as f64),
        status: [Status::Ok, Status::Failed, Status::NotMeasured][(epoch + index) % 3],
        reward: if index == 1 { f64::NAN } else { 0.1 * index as f64 },
        advantage: -0.0,
        train_loss: f64::INFINITY,
        train_seconds: 1.5,
        validation_seconds: f64::MIN_POSITIVE / 2.0,
    };
    let record = |epoch: usize| EpochRecord {
        mu: vector(epoch as f64),
        samples: (0..batch).map(|index| sample(epoch, index)).collect(),
        best: epoch as i64 - 1,
        learning_rate: 0.1,
        gradient_norm: 1e-300,
        delta_norm: 0.0,
        delta_sigmas: 0.7,
        chance_sigmas: f64::NAN,
        images: 45_000.0,
        images_per_second: 264.0,
        seconds: 60.0 + epoch as f64,
        wait_seconds: 2.0,
        exchange_seconds: 3.0,
        checkpoint_seconds: f64::NAN,
    };
    let tensor = |path: &str, shape: &[usize]| NamedTensor {
        path: path.to_owned(),
        shape: shape.to_vec(),
        values: (0..shape.iter().product()).map(|i| if i == 3 { f32::NAN } else { i as f32 - 4.5 }).collect(),
    };
    Checkpoint {
        info: RunInfo {
            config: "# Größe\n[search]\nseed = 7\n".repeat(40),
            seed: u64::MAX,
            ranks: 4,
            threads: 2,
            libtorch: "2.13.0".to_owned(),
            device: String::new(),
            classes: ["cat", "Käfer"].map(String::from).into(),
        },
        epoch: epochs,
        policy: PolicyState {
            mu: vector(0.5),
            sigma: vector(0.2),
            step: 1 << 60,
            memory: [("adam_m", -1.0), ("adam_v", 1e-9)]
                .map(|(name, start)| PolicyVector {
                    name: name.to_owned(),
                    long_name: format!("about {name}"),
                    values: vector(start),
                })
                .into(),
        },
        history: (0..epochs).map(record).collect(),
        tensors: vec![
            tensor("model/bn1.num_batches_tracked", &[]),
            tensor("model/empty", &[0, 3]),
            tensor("model/fc.weight", &[10, 64]),
            tensor("model/layer1.0.conv1.weight", &[4, 3, 3, 3]),
            tensor("optimizer/fc.weight/momentum", &[10, 64]),
        ],
        test: vec![("accuracy".to_owned(), 0.93), ("loss".to_owned(), f64::NAN)],
        predictions: Some(Predictions { image: vec![7, 3], label: vec![0, 1], predicted: vec![0, 0] }),
    }
}

fn same(a: &Checkpoint, b: &Checkpoint) -> bool {
    let [blocks_a, blocks_b] = [a, b].map(|checkpoint| blocks(checkpoint, &[], &[]).ok().unwrap());
    let same = |(a, b): (&Block, &Block)| a.path == b.path && a.shape == b.shape && same_values(&a.values, &b.values);
    a.info == b.info
        && a.epoch == b.epoch
        && blocks_a.len() == blocks_b.len()
        && blocks_a.iter().zip(&blocks_b).all(same)
}

fn files(dir: &Path) -> BTreeSet<String> {
    names(dir).unwrap().into_iter().collect()
}

fn message(result: Result<Checkpoint>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

/// A file that passes the checksum, whatever `content` puts into it.
fn sealed(dir: &TempDir, content: impl Fn(&hdf5::File)) -> PathBuf {
    let path = dir.path().join("sealed.h5");
    let file = hdf5::File::create(&path).unwrap();
    content(&file);
    file.close().unwrap();
    write::seal(&path).ok().unwrap();
    path
}

fn set_text(file: &hdf5::File, name: &str, text: &str) {
    let text: VarLenUnicode = text.parse().unwrap();
    file.new_attr::<VarLenUnicode>().create(name).unwrap().write_scalar(&text).unwrap();
}

#[test]
fn what_was_written_is_read_back() {
    let dir = TempDir::new().unwrap();
    for (epochs, batch, width) in [(3, 4, 8), (0, 0, 8), (2, 0, 8), (2, 3, 0), (0, 0, 0), (1, 1, 1)] {
        let path = epoch_file(dir.path(), epochs);
        let mut written = checkpoint(epochs, batch, width);
        write(&path, &written).unwrap();
        assert!(same(&read(&path).unwrap(), &written), "{epochs} {batch} {width}");

        // order does not matter, and writing again replaces
        written.tensors.reverse();
        written.test.clear();
        write(&path, &written).unwrap();
        assert!(same(&read(&path).unwrap(), &written));
        assert!(files(dir.path()).iter().all(|name| !name.ends_with(".tmp")));
    }
}

#[test]
fn tensors_of_many_chunks_and_without_tensors() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    let mut written = checkpoint(1, 2, 3);
    let shape = vec![3, 700_001];
    let values = (0..3 * 700_001).map(|i| (i as f32).sqrt()).collect();
    written.tensors = vec![NamedTensor { path: "model/wide".to_owned(), shape, values }];
    write(&path, &written).unwrap();
    assert!(same(&read(&path).unwrap(), &written));
    written.tensors.clear();
    write(&path, &written).unwrap();
    assert!(same(&read(&path).unwrap(), &written));
}

#[test]
fn data_sets_have_units_names_and_checksums() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    let written = checkpoint(3, 4, 8);
    write(&path, &written).unwrap();
    let file = hdf5::File::open(&path).unwrap();
    for block in blocks(&written, &[], &[]).ok().unwrap() {
        let dataset = file.dataset(&block.path).unwrap();
        assert_eq!(dataset.shape(), block.shape);
        assert_eq!(dataset.attr("units").unwrap().read_scalar::<VarLenUnicode>().unwrap().as_str(), block.units);
        assert!(!dataset.attr("long_name").unwrap().read_scalar::<VarLenUnicode>().unwrap().is_empty());
        let protected = dataset.filters().contains(&hdf5::filters::Filter::Fletcher32);
        let texts = matches!(block.values, Values::Texts(_));
        assert_eq!(protected, dataset.size() > 0 && !block.shape.is_empty() && !texts, "{}", block.path);
    }
}

#[test]
fn truncated_files_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    write(&path, &checkpoint(2, 2, 8)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let near_end = bytes.len() - 40..bytes.len();
    for length in (0..bytes.len()).step_by(97).chain(0..40).chain(near_end) {
        fs::write(&path, &bytes[..length]).unwrap();
        let text = message(read(&path));
        assert!(text.starts_with(path.to_str().unwrap()), "{text}");
        assert!(text.contains("not an HDF5 file") || text.contains("truncated"), "{text}");
    }
    fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn flipped_bits_are_found() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    write(&path, &checkpoint(2, 2, 8)).unwrap();
    let bytes = fs::read(&path).unwrap();
    let mut random = 1u64;
    for _ in 0..2000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let bit = (random >> 20) as usize % (8 * bytes.len());
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        message(read(&path));
    }
}

#[test]
fn a_wrong_digest_is_found() {
    let written = checkpoint(2, 2, 8);
    let mut changed = written.clone();
    let digest_of = |checkpoint: &Checkpoint| digest(checkpoint, &blocks(checkpoint, &[], &[]).ok().unwrap());
    assert_eq!(digest_of(&written), digest_of(&changed));
    changed.info.config.push('#');
    assert_ne!(digest_of(&written), digest_of(&changed));
    changed = written.clone();
    changed.tensors[2].values[0] += 1.0;
    assert_ne!(digest_of(&written), digest_of(&changed));

    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    write(&path, &written).unwrap();
    let file = hdf5::File::open_rw(&path).unwrap();
    file.dataset("policy/mu").unwrap().write_raw(&[0.0; 8]).unwrap();
    file.close().unwrap();
    // edited by another program: the checksum at the end is gone or wrong
    message(read(&path));
    write::seal(&path).ok().unwrap();
    assert!(message(read(&path)).contains("digest"));
}

#[test]
fn other_files_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("none.h5");
    assert!(message(read(&path)).contains("No such file"));
    fs::write(&path, "epoch,reward\n".repeat(99)).unwrap();
    assert!(message(read(&path)).contains("not an HDF5 file"));
    message(read(dir.path()));

    let path = sealed(&dir, |_| {});
    assert!(message(read(&path)).contains("not an amlfs checkpoint"));
    let path = sealed(&dir, |file| set_text(file, "filetype", "amlfs dataset"));
    assert!(message(read(&path)).contains("its filetype is \"amlfs dataset\""));
    for (version, expected) in [([2, 0], "format version 2.0; this amlfs reads 1.x"), ([1, 7], "damaged: it has no")] {
        let path = sealed(&dir, |file| {
            set_text(file, "filetype", FILETYPE);
            file.new_attr::<i32>().shape(2).create("version").unwrap().write_raw(&version).unwrap();
        });
        assert!(message(read(&path)).contains(expected));
    }
}

#[test]
fn impossible_content_is_refused_and_leaves_no_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    let mut ragged = checkpoint(2, 2, 8);
    ragged.history[1].samples.pop();
    let mut misshaped = checkpoint(1, 1, 1);
    misshaped.tensors[2].shape = vec![3];
    let mut misplaced = checkpoint(1, 1, 1);
    misplaced.tensors[2].path = "elsewhere/fc.weight".to_owned();
    let mut twice = checkpoint(1, 1, 1);
    twice.tensors.push(twice.tensors[2].clone());
    let mut nul = checkpoint(1, 1, 1);
    nul.info.config.push('\0');
    for impossible in [ragged, misshaped, misplaced, twice, nul] {
        let text = write(&path, &impossible).unwrap_err().to_string();
        assert!(text.contains("can't write the checkpoint") && !text.contains('\n'), "{text}");
        assert!(files(dir.path()).is_empty());
    }
    assert!(write(&dir.path().join("no/such/dir.h5"), &checkpoint(1, 1, 1)).is_err());
}

#[test]
fn channels_last_memory_becomes_the_logical_order() {
    let spec = |path: &str, shape: &[usize], offset, channels_last| TensorSpec {
        path: path.to_owned(),
        shape: shape.to_vec(),
        offset,
        channels_last,
    };
    // the second lies after a gap of one element; 2-D tensors have no channels, and those of one pixel have one order
    let specs = [
        spec("model/conv", &[2, 3, 1, 2], 0, true),
        spec("model/fc", &[2, 2], 13, true),
        spec("model/one", &[2, 2, 1, 1], 17, true),
    ];
    let state: Vec<f32> = (0..21).map(|i| i as f32).collect();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("final.h5");
    let mut written = checkpoint(1, 1, 1);
    written.tensors.clear();
    write_state(&path, &written, &specs, &state).unwrap();
    let named = read(&path).unwrap().tensors;
    assert_eq!(named[0].shape, [2, 3, 1, 2]);
    // element [o, i, 0, w] lies at o * 6 + w * 3 + i
    assert_eq!(named[0].values, [0., 3., 1., 4., 2., 5., 6., 9., 7., 10., 8., 11.]);
    assert_eq!(named[1].values, [13., 14., 15., 16.]);
    assert_eq!(named[2].values, [17., 18., 19., 20.]);

    let mut expected = state;
    expected[12] = 0.0;
    assert_eq!(from_named(&named, &specs).unwrap(), expected);
    assert!(from_named(&named[..1], &specs).unwrap_err().to_string().contains("no tensor model/fc"));
    let other = [spec("model/conv", &[3, 2, 1, 2], 0, true)];
    let text = from_named(&named, &other).unwrap_err().to_string();
    assert!(text.contains("model/conv") && text.contains("[2, 3, 1, 2]") && text.contains("[3, 2, 1, 2]"), "{text}");
}

#[test]
fn newest_and_prune_touch_epoch_files_only() {
    let dir = TempDir::new().unwrap();
    assert_eq!(newest(dir.path()).unwrap(), None);
    assert_eq!(newest(&dir.path().join("none")).unwrap(), None);
    let others = ["config.toml", "final.h5", "epoch-1.h5", "epoch-x.h5", "epoch-0001.h5.bak"];
    for name in others.iter().chain(&["epoch-0011.h5.tmp", "final.h5.tmp"]) {
        fs::write(dir.path().join(name), "").unwrap();
    }
    for epoch in [1, 2, 9, 10, 9999, 10000] {
        fs::write(epoch_file(dir.path(), epoch), "").unwrap();
    }
    assert_eq!(newest(dir.path()).unwrap(), Some(dir.path().join("epoch-10000.h5")));
    prune(dir.path(), &[2, 10000, 12345]).unwrap();
    let kept = others.iter().chain(&["epoch-0002.h5", "epoch-10000.h5"]).map(|name| name.to_string()).collect();
    assert_eq!(files(dir.path()), kept);
    assert_eq!(epoch_file(Path::new("run"), 1), Path::new("run/epoch-0001.h5"));
}
