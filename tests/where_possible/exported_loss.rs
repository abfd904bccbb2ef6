//! `amlfs export loss` for PyTorch gives the values and gradients of our own head, in every epoch.

use std::path::Path;
use std::process::Command;

use amlfs::checkpoint::{self, Checkpoint, NamedTensor};
use amlfs::config::TypedConfig;
use amlfs::loss::{HeadKind, Space, SpaceKind, TauWeights};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{NATURAL, SMALL, amlfs, assert_code, for_training, json, path};
use crate::{Possible, python};

const EXAMPLES: i64 = 64;
const FEATURES: i64 = 6;

/// A run of seconds.
fn run(directory: &Path, name: &str, arguments: &[&[&str]]) -> Checkpoint {
    let out = format!("--out={}", path(directory, name));
    assert_code(&amlfs(&[&arguments.concat()[..], &[&out]].concat()), 0);
    checkpoint::read(&directory.join(name)).unwrap()
}

/// A checkpoint's loss as exported, and what to ask it.
struct Asked {
    model: String,
    cases: Vec<Value>,
}

/// What each gives and refuses; one Python for all, as torch takes seconds to load.
fn answers(python: &str, asked: &[Asked]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/exported_loss.py");
    let mut command = Command::new(python);
    command.arg("-B").arg(script);
    let directories: Vec<_> = asked.iter().map(|_| tempfile::tempdir().unwrap()).collect();
    for (asked, directory) in asked.iter().zip(&directories) {
        let module = path(directory.path(), "loss.py");
        assert_code(&amlfs(&["export", "loss", "--model", &asked.model, "--out", &module]), 0);
        std::fs::write(directory.path().join("cases.json"), serde_json::to_string(&asked.cases).unwrap()).unwrap();
        command.arg(directory.path());
    }
    serde_json::from_value(json(&command.output().unwrap())).unwrap()
}

/// (features, weight, labels) in f64, with cosines of the labels over the whole of [-1, 1].
fn inputs(weight: &Tensor, seed: i64) -> (Tensor, Tensor, Tensor) {
    tch::manual_seed(seed);
    let (double, size) = ((Kind::Double, Device::Cpu), weight.size());
    let labels = Tensor::randint(size[0], [EXAMPLES], (Kind::Int64, Device::Cpu));
    let near = Tensor::rand([EXAMPLES, 1], double) * 3.0 - 1.5;
    let features = weight.index_select(0, &labels) * near + Tensor::randn([EXAMPLES, size[1]], double);
    (features, weight.shallow_clone(), labels)
}

fn rows(tensor: &Tensor) -> Value {
    json!(Vec::<Vec<f64>>::try_from(tensor).unwrap())
}

/// A checkpoint, and class weights [C, D] for its loss.
struct Compared {
    found: Checkpoint,
    weight: Tensor,
}

/// Asserts that the exported losses equal the runs' own, and prints the largest relative errors.
fn compare(python: &str, directory: &Path, compared: &[Compared]) {
    let resolved = |found: &Checkpoint| TypedConfig::from_toml(&found.info.config).unwrap().resolve().unwrap();
    let (mut asked, mut all_inputs) = (Vec::new(), Vec::new());
    for (number, Compared { found, weight }) in compared.iter().enumerate() {
        let model = path(directory, &format!("compared-{number}.h5"));
        checkpoint::write(Path::new(&model), found).unwrap();
        let (features, weight, labels) = inputs(weight, number as i64);
        let mut cases = Vec::new();
        for dtype in ["float32", "float64"] {
            for (schedule, of) in
                [("mean", "features"), ("means", "features"), ("chosen", "features"), ("mean", "cosines")]
            {
                if of == "features" || resolved(found).loss.head.kind == HeadKind::Normalised {
                    cases.push(json!({
                        "schedule": schedule, "epoch": 1, "epochs": 5, "dtype": dtype, "of": of, "features": rows(&features),
                        "weight": rows(&weight), "labels": Vec::<i64>::try_from(&labels).unwrap(),
                    }));
                }
            }
        }
        asked.push(Asked { model, cases });
        all_inputs.push((features, weight, labels));
    }

    let mut errors = [0.0f64; 2];
    for ((Compared { found, .. }, asked), ((features, weight, labels), said)) in
        compared.iter().zip(&asked).zip(all_inputs.iter().zip(answers(python, &asked)))
    {
        let config = resolved(found);
        for (case, result) in asked.cases.iter().zip(said["cases"].as_array().unwrap()) {
            let numbers = |name: &str| -> Vec<f64> { serde_json::from_value(result[name].clone()).unwrap() };
            let (kind, precision) = if case["dtype"] == "float32" { (Kind::Float, 0) } else { (Kind::Double, 1) };
            let counts: Vec<u64> = (0..weight.size()[0] as u64).map(|label| 1 + label * label).collect();
            let loss = config.loss.function.build(&numbers("theta"), &counts, Device::Cpu, kind);
            let (x, w) = (features.to_kind(kind), weight.to_kind(kind));
            let ours = config.loss.head.gradient(&*loss, &x, &w, labels, EXAMPLES as f64, 0);
            let (value, dx, dw) = (vec![result["loss"].as_f64().unwrap()], numbers("features"), numbers("weights"));
            for (ours, theirs) in [(ours.loss, value), (ours.features, dx), (ours.weights, dw)] {
                let (ours, theirs) = (ours.to_kind(Kind::Double).reshape(-1), Tensor::from_slice(&theirs));
                let error = f64::try_from((&ours - theirs).norm() / ours.norm()).unwrap();
                // in f32 they round in another order: 9.4e-7 with torch 1.13, 1.4e-6 with 2.13
                let what = format!("{} {} {}, {}", case["dtype"], case["schedule"], case["of"], found.info.config);
                assert!(error < [3e-6, 1e-12][precision], "{error}: {what}");
                errors[precision] = errors[precision].max(error);
            }
        }
        let refused = |what: &str| said[what].as_str().unwrap_or_default().to_owned();
        if config.loss.head.kind == HeadKind::Normalised {
            assert_eq!(refused("without_scale"), "");
        } else {
            let why = refused("without_scale");
            assert!(why.contains("whose logits have no fixed scale: give one"), "{why}");
        }
        let why = refused("without_epoch");
        assert!(why.contains("call set_epoch(epoch, epochs) first"), "{why}");
        assert_eq!(refused("beyond_the_last"), "ValueError: epoch 3 of 3: 0 to 2, or more epochs");
        assert_eq!(refused("unknown"), "ValueError: schedule 'best': one of mean, means, chosen");
        let why = refused("without_counts");
        let adjusted = config.typed().loss.logit_adjustment.is_some();
        assert_eq!(why.contains("this loss adjusts logits by the training images of each class"), adjusted, "{why}");
        assert_eq!(said["half"], json!(["torch.float32", true]));
    }
    println!("largest relative error: {:.1e} in f32, {:.1e} in f64", errors[0], errors[1]);
}

/// `found` with thetas that reach every clamp, in a space, with a head and weights.
fn varied(found: &Checkpoint, kind: SpaceKind, head: HeadKind, weights: TauWeights, intervals: usize) -> Checkpoint {
    let mut found = found.clone();
    let mut typed = TypedConfig::from_toml(&found.info.config).unwrap();
    (typed.loss.head, typed.loss.tau_weights, typed.loss.scale) = (Some(head), weights, 12.0);
    (typed.search.space, typed.search.intervals) = (Some(kind), intervals);
    typed.loss.logit_adjustment = (intervals == 3).then_some(0.7);
    typed.search.sigmas.clear();
    found.info.config = typed.to_toml();
    let width = Space { kind, intervals }.dimension();
    let theta =
        || -> Vec<f64> { (Tensor::rand([width as i64], (Kind::Double, Device::Cpu)) * 4.0 - 2.0).try_into().unwrap() };
    (found.policy.mu, found.policy.sigma) = (theta(), vec![0.2; width]);
    found.policy.memory.clear();
    for record in &mut found.history {
        record.mu = theta();
        record.samples.iter_mut().for_each(|sample| sample.theta = theta());
    }
    found
}

pub fn values_and_gradients_are_those_of_our_own_head() -> Possible {
    let python = python(&["torch"])?;
    let directory = tempfile::tempdir().unwrap();
    let search = run(directory.path(), "search", &[SMALL]);
    let mut compared = Vec::new();
    for kind in [SpaceKind::Lines, SpaceKind::Derivatives] {
        for head in [HeadKind::Plain, HeadKind::Weights, HeadKind::Normalised] {
            for (weights, intervals) in [(TauWeights::Raw, 6), (TauWeights::Normalised, 3), (TauWeights::Raw, 1)] {
                tch::manual_seed(1000 + compared.len() as i64);
                let found = varied(&search, kind, head, weights, intervals);
                compared.push(Compared { found, weight: Tensor::randn([20, FEATURES], (Kind::Double, Device::Cpu)) });
            }
        }
    }
    compare(&python, directory.path(), &compared);
    Ok(())
}

pub fn a_runs_own_loss_on_the_logits_of_its_class_weights_and_its_replays_thetas_are_given() -> Possible {
    let python = python(&["torch"])?;
    let directory = tempfile::tempdir().unwrap();
    let search = run(directory.path(), "search", &[SMALL, NATURAL]);
    let is_head = |tensor: &&NamedTensor| tensor.path.starts_with("model/") && tensor.shape.first() == Some(&10);
    let head = search.tensors.iter().find(|tensor| is_head(tensor) && tensor.shape.len() == 2).expect("class weights");
    let weight = Tensor::from_slice(&head.values).to_kind(Kind::Double).reshape([10, -1]);
    compare(&python, directory.path(), &[Compared { found: search, weight }]);

    // the thetas of trainings of our own with the same schedule
    let (model, replay) = (path(directory.path(), "search"), format!("--replay={}", path(directory.path(), "search")));
    let (mut trainings, mut asked) = (Vec::new(), Vec::new());
    for (schedule, epochs) in [("mean", 2), ("means", 5), ("chosen", 2), ("chosen", 4)] {
        let (what, more) = (format!("--replay-as={schedule}"), format!("--epochs={epochs}"));
        let (name, training) = (format!("{schedule}-{epochs}"), for_training(SMALL));
        trainings.push(run(directory.path(), &name, &[&["train", &replay, &what], &training, &[&more]]));
        assert_eq!(trainings.last().unwrap().history.len(), epochs);
        let case = |epoch| json!({ "schedule": schedule, "epoch": epoch, "epochs": epochs });
        asked.push(Asked { model: model.clone(), cases: (0..epochs).map(case).collect() });
    }
    for (training, said) in trainings.iter().zip(answers(&python, &asked)) {
        for (epoch, record) in training.history.iter().enumerate() {
            assert_eq!(said["cases"][epoch]["theta"], json!(record.samples[0].theta), "epoch {epoch}");
        }
    }
    Ok(())
}

/// A layer and class weights, trained by both from the same start with a loss that changes in every epoch.
pub fn a_small_model_learns_in_pytorch_what_it_learns_here() -> Possible {
    const EPOCHS: usize = 60;
    const RATE: f64 = 0.3;
    let python = python(&["torch"])?;
    let directory = tempfile::tempdir().unwrap();
    let search = run(directory.path(), "search", &[SMALL, NATURAL, &["--epochs=4"]]);
    tch::manual_seed(7);
    let normal = |size: [i64; 2]| Tensor::randn(size, (Kind::Double, Device::Cpu));
    let (centres, weight) = (normal([5, 8]), normal([5, FEATURES]));
    let labels = Tensor::randint(5, [300], (Kind::Int64, Device::Cpu));
    let x = centres.index_select(0, &labels) + normal([300, 8]);
    let layer = normal([8, FEATURES]) * 0.3;
    let case = json!({
        "schedule": "means", "epochs": EPOCHS, "rate": RATE, "features": rows(&x), "layer": rows(&layer),
        "weight": rows(&weight), "labels": Vec::<i64>::try_from(&labels).unwrap(),
    });
    let theta = |epoch| json!({ "schedule": "means", "epoch": epoch, "epochs": EPOCHS });
    let asked =
        Asked { model: path(directory.path(), "search"), cases: (0..EPOCHS).map(theta).chain([case]).collect() };
    let said = &answers(&python, &[asked])[0]["cases"];

    let config = TypedConfig::from_toml(&search.info.config).unwrap().resolve().unwrap();
    let (head, mut layer, mut weight) = (config.loss.head, layer, weight);
    let features = |layer: &Tensor| x.mm(layer).tanh();
    for epoch in 0..EPOCHS {
        let theta: Vec<f64> = serde_json::from_value(said[epoch]["theta"].clone()).unwrap();
        let loss = config.loss.function.build(&theta, &[], Device::Cpu, Kind::Double);
        let y = features(&layer);
        let gradient = head.gradient(&*loss, &y, &weight, &labels, 300.0, 0);
        let (ours, theirs) = (f64::try_from(gradient.loss).unwrap(), said[EPOCHS]["values"][epoch].as_f64().unwrap());
        assert!((ours - theirs).abs() < 1e-8 * ours.abs(), "epoch {epoch}: {ours}, in PyTorch {theirs}");
        weight -= gradient.weights * RATE;
        layer -= x.tr().mm(&(gradient.features * (-(&y * &y) + 1.0))) * RATE;
    }
    let theirs: Vec<f64> = serde_json::from_value(said[EPOCHS]["weights"].clone()).unwrap();
    let error = f64::try_from((weight.reshape(-1) - Tensor::from_slice(&theirs)).abs().max()).unwrap();
    assert!(error < 1e-8, "{error}");
    let right = head.logits(&features(&layer), &weight).argmax(1, false).eq_tensor(&labels);
    let accuracy = f64::try_from(right.to_kind(Kind::Double).mean(Kind::Double)).unwrap();
    assert_eq!(said[EPOCHS]["accuracy"].as_f64().unwrap(), accuracy);
    println!("accuracy {accuracy:.3}; weights differ by {error:.1e}");
    assert!(accuracy > 0.7, "{accuracy}, chance is 0.2");
    Ok(())
}
