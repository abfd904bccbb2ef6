//! What networks, losses and tasks compute on each device of AMLFS_TEST_DEVICES (`cpu,cuda:0`; by default `cpu,cpu`), against
//! the first of them. f32 is compared without TF32. Needs neither the program nor data, so that this test alone can be taken
//! to a machine with a GPU (`scripts/pack-gpu.sh`). Where the variable is set it prints the errors that it found.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tch::{Cuda, Device, Kind, Tensor, no_grad};

use amlfs::config::{Config, Layers};
use amlfs::data::prepare::Market;
use amlfs::data::{Batch, BatchImages, FaceTree, Folder, MarketTree, PrepareOptions, Store, prepare};
use amlfs::loss::FIXED_LOSSES;
use amlfs::model;
use amlfs::state::{TensorSpec, Within};
use amlfs::task::{self, Epoch, Task};
use amlfs::train::{Normalisation, Observer, Replicas, Step, Trained};

const DEVICES: &str = "AMLFS_TEST_DEVICES";
/// Relative errors that are allowed: of f32 and, beyond what bfloat16 itself costs, of bf16.
const F32: f64 = 1e-4;
const BF16: f64 = 3e-2;
/// A ReLU whose input is almost 0 may be open on one device and shut on the other. So other batches are tried: a device that
/// computes something else does so with each.
const BATCHES: i64 = 3;
/// Of the loss of an untrained network of 50 layers, which makes rounding grow a thousandfold.
const UNTRAINED: f64 = 1e-3;
/// Of mean losses within fifty steps of training: on CPU, weights that were changed by 1e-7 gave 8 % (re-ID).
const CHAOS: f64 = 0.2;
const CLASSES: i64 = 7;
const EXAMPLES: i64 = 8;
const STEPS: u64 = 50;

/// Err: what is wrong.
type Tested = Result<(), String>;
type Settings = &'static [&'static str];
/// Every network: preset, settings, height and width of images.
const NETWORKS: [(&str, Settings, (i64, i64)); 8] = [
    ("demo", &[], (16, 16)),
    ("images-small", &["model.width=0.0625"], (48, 24)),
    ("images-small", &["model.width=0.0625", "model.depth=50"], (48, 24)),
    ("faces-small", &["model.width=0.125"], (48, 24)),
    ("market1501-spherereid", &["model.width=0.0625"], (48, 24)),
    ("market1501-spherereid", &["model.width=0.0625", "model.last_stride=1"], (48, 24)),
    ("market1501-sft", &["model.width=0.0625"], (48, 24)),
    ("market1501-mgn", &["model.width=0.0625"], (48, 24)),
];
const HEADS: [&str; 3] = ["plain", "weights", "normalised"];
/// The searched losses; `FIXED_LOSSES` has the others.
const SEARCHED: [&str; 4] =
    ["search.space=lines", "search.space=derivatives", "loss.tau_weights=normalised", "loss.logit_adjustment=1"];

/// A task: its name, preset and settings.
type TaskCase = (&'static str, &'static str, Settings);
const TASKS: [TaskCase; 3] = [
    (
        "classification",
        "demo",
        &[
            "data.glyphs.image_size=16",
            "data.glyphs.train_images=400",
            "data.glyphs.test_images=100",
            "data.glyphs.difficulty=0.15",
            "train.batch_size=32",
            "train.average=0.3",
        ],
    ),
    (
        "faces",
        "faces-small",
        &[
            "data.faces.size=[32, 32]",
            "data.faces.images_per_identity=5",
            "data.crop_padding=2",
            "model.width=0.125",
            "train.batch_size=20",
        ],
    ),
    (
        "re-ID",
        "market1501-mgn",
        &[
            "data.reid.size=[96, 32]",
            "data.reid.crop=[96, 32]",
            "data.reid.images_per_identity=2",
            "data.reid.validation_identities=4",
            "model.width=0.0625",
            "train.batch_size=16",
            "data.erasing=0.0",
            "data.mirror=false",
            "train.learning_rate=1e-2",
        ],
    ),
];

/// With the paper's search, and steps enough for a curve in an epoch.
fn config(preset: &str, settings: &[&[&str]]) -> Config {
    let mut layers = Layers::new(Some(preset), None, Some("paper")).unwrap();
    let common = ["data.path=nowhere", "train.warmup_epochs=0", "train.milestones=[]", "train.epoch_iterations=50"];
    for setting in common.iter().chain(settings.iter().copied().flatten()) {
        layers.set_text(setting).unwrap();
    }
    layers.resolve().unwrap()
}

/// A loss that is neither softmax nor at a clamp.
fn theta(config: &Config) -> Vec<f64> {
    let identity = config.space().identity();
    identity.iter().enumerate().map(|(i, value)| value + 0.2 * (1.7 * i as f64).sin()).collect()
}

/// Smooth images; those of noise alone are all alike to a network.
fn batch(seed: i64, examples: i64, (height, width): (i64, i64)) -> Batch {
    let noise = |i: i64| ((12.9898 * i as f64 + 78.233 * (seed + 1) as f64).sin() * 43758.5453).rem_euclid(1.0);
    let coarse: Vec<f32> = (0..examples * 3 * 16).map(|i| 255.0 * noise(i) as f32).collect();
    let images = Tensor::from_slice(&coarse)
        .view([examples, 3, 4, 4])
        .upsample_bilinear2d([height, width], false, None, None)
        .permute([0, 2, 3, 1]);
    let pairs = Tensor::arange(examples, (Kind::Int64, Device::Cpu)).floor_divide_scalar(2);
    let pixels = images.to_kind(Kind::Uint8).contiguous();
    Batch { images: BatchImages::Pixels(pixels), labels: pairs.remainder(CLASSES) }
}

/// Names of single parameters' gradients begin so.
const GRADIENT_OF: &str = "gradient of ";
/// Named numbers, f64 on the CPU.
type Outputs = Vec<(String, Tensor)>;

/// What a training step leaves (loss, gradients, BatchNorm's statistics), and what the network gives at test time.
fn outputs(config: &Config, size: (i64, i64), batch: &Batch, devices: &[Device]) -> Outputs {
    let (model, layout) = model::build(&config.model, (size.0 as usize, size.1 as usize), CLASSES as usize);
    let normalisation = Normalisation { mean: [127.5; 3], deviation: [64.0; 3] };
    let mut replicas = Replicas::new(config, model.into(), &layout, normalisation, devices);
    let parameters = layout.entries().0;
    let of = |flat: &Tensor, entry: &model::Entry| flat.narrow(0, entry.offset as i64, entry.count() as i64);
    // Residual branches that are as strong as what they are added to make rounding grow from block to block, a thousandfold in
    // ResNet-50; a trained network's are weaker.
    let bottlenecks = parameters.iter().any(|entry| entry.name.ends_with("bn3.weight"));
    let last_norm = if bottlenecks { "bn3.weight" } else { "bn2.weight" };
    for entry in parameters.iter().filter(|entry| entry.name.contains("layer") && entry.name.ends_with(last_norm)) {
        let _ = no_grad(|| of(&replicas.first().flat, entry).fill_(0.1));
    }
    replicas.synchronise();
    let theta = theta(config);
    let counts: Vec<u64> = (1..=CLASSES as u64).collect();
    replicas.set_loss(|device| config.loss.function.build(&theta, &counts, device, Kind::Float));

    let loss = replicas.gradient(batch, Step { number: 500, stream: 0 });
    let output = |name: &str, tensor: &Tensor| (name.to_owned(), tensor.to_device(Device::Cpu).to_kind(Kind::Double));
    let mut found = vec![output("loss", &loss), output("statistics", &replicas.first().flat_buffers)];
    // the last replica's: all have the same
    let gradient = replicas.gradients().last().expect("a replica").1;
    found.push(output("gradient", gradient));
    let named = |entry: &model::Entry| output(&format!("{GRADIENT_OF}{}", entry.name), &of(gradient, entry));
    found.extend(parameters.iter().map(named));
    replicas.synchronise();
    found.push(output("logits", &replicas.logits(batch)));
    found.push(output("embeddings", &replicas.embed(batch, true)));
    found
}

/// For whoever has chosen the devices.
fn note(what: &str) {
    if std::env::var_os(DEVICES).is_some() {
        println!("    {what}");
    }
}

fn norm(x: &Tensor) -> f64 {
    f64::try_from(x.norm()).unwrap()
}

/// The relative error of each output.
fn errors<'a>(found: &Outputs, expected: &'a Outputs) -> Vec<(&'a str, f64)> {
    assert_eq!(found.len(), expected.len());
    let whole = expected.iter().find(|(name, _)| name == "gradient").map_or(0.0, |(_, gradient)| norm(gradient));
    let error = |((_, found), (name, expected)): (&(String, Tensor), &'a (String, Tensor))| {
        // a parameter that has next to no gradient has only rounding
        let least = if name.starts_with("gradient") { 1e-3 * whole } else { 1e-12 };
        (name.as_str(), norm(&(found - expected)) / norm(expected).max(least))
    };
    found.iter().zip(expected).map(error).collect()
}

/// What is wrong with the errors: those that are not below the tolerance, as NaN is not.
fn too_large(precision: &str, errors: &[(&str, f64)], tolerance: f64) -> Vec<String> {
    let wrong = errors.iter().filter(|(_, error)| error.is_nan() || *error >= tolerance);
    wrong.map(|(name, error)| format!("{precision} {name}: relative error {error:.1e}")).collect()
}

/// A network, where it is computed.
struct Side<'a> {
    f32: &'a Config,
    /// The same in bf16; `None`: not compared.
    bf16: Option<&'a Config>,
    devices: &'a [Device],
}

/// Err: `other` does not compute what `first` does, with any of the batches.
fn agree(what: &str, size: (i64, i64), first: &Side, other: &Side) -> Result<(), String> {
    let mut failures = Vec::new();
    for seed in 0..BATCHES {
        let batch = batch(seed, EXAMPLES, size);
        let expected = outputs(first.f32, size, &batch, first.devices);
        let found = outputs(other.f32, size, &batch, other.devices);
        let found = errors(&found, &expected);
        let mut wrong = too_large("f32", &found, F32);
        let mut listed = vec![summary("f32", &found)];
        if let (Some(half), Some(other_half)) = (first.bf16, other.bf16) {
            let (cost, found) =
                (outputs(half, size, &batch, first.devices), outputs(other_half, size, &batch, other.devices));
            let (cost, found) = (errors(&cost, &expected), errors(&found, &expected));
            listed.push(summary("bf16 from f32", &found));
            // no further from f32 than twice the first device's bf16 and 3e-2; single parameters' gradients are noise
            let beyond = found.iter().zip(cost).map(|(found, cost)| (found.0, found.1 - 2.0 * cost.1));
            let beyond: Vec<_> = beyond.filter(|(name, _)| !name.starts_with(GRADIENT_OF)).collect();
            wrong.extend(too_large("bf16", &beyond, BF16));
        }
        note(&format!("{what}: {}", listed.join("; ")));
        if wrong.is_empty() {
            return Ok(());
        }
        failures.push(format!("batch {seed}: {}", wrong[..wrong.len().min(4)].join("; ")));
    }
    Err(format!("{what}:\n{}", failures.join("\n")))
}

/// The errors of the outputs, and the largest one of a parameter's gradient.
fn summary(precision: &str, errors: &[(&str, f64)]) -> String {
    let (parts, whole): (Vec<_>, Vec<_>) = errors.iter().copied().partition(|(name, _)| name.starts_with(GRADIENT_OF));
    let part = parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let listed: Vec<_> = whole.into_iter().chain(part).map(|(name, error)| format!("{name} {error:.1e}")).collect();
    format!("{precision} {}", listed.join(", "))
}

/// The same configuration in f32 and in bf16.
fn precisions(preset: &str, settings: &[&str]) -> [Config; 2] {
    ["train.precision=f32", "train.precision=bf16"].map(|precision| config(preset, &[settings, &[precision]]))
}

fn network_agrees((preset, settings, size): (&str, Settings, (i64, i64)), first: Device, device: Device) -> Tested {
    let [f32, bf16] = &precisions(preset, settings);
    let [first, other] = [[first], [device]];
    let side = |devices| Side { f32, bf16: Some(bf16), devices };
    agree(&format!("{:?}", f32.model.name), size, &side(&first), &side(&other))
}

fn losses_agree(head: &str, first: Device, device: Device) -> Tested {
    let fixed = FIXED_LOSSES.iter().map(|kind| format!("loss.name={}", kind.name));
    for loss in SEARCHED.into_iter().map(String::from).chain(fixed) {
        let [f32, bf16] = &precisions("demo", &[&loss, &format!("loss.head={head}")]);
        let [first, other] = [[first], [device]];
        let side = |devices| Side { f32, bf16: Some(bf16), devices };
        agree(&loss, (16, 16), &side(&first), &side(&other))?;
    }
    Ok(())
}

/// What the comparison is for.
fn a_wrong_scale_is_found(first: Device, device: Device) -> Tested {
    let [right, wrong] = ["loss.scale=16", "loss.scale=16.016"].map(|scale| config("demo", &[&[scale]]));
    let side = |f32, devices| Side { f32, bf16: None, devices };
    match agree("a wrong scale", (16, 16), &side(&right, &[first]), &side(&wrong, &[device])) {
        Ok(()) => Err("it was taken for the right one".into()),
        Err(_) => Ok(()),
    }
}

/// SphereFace has no BatchNorm: a batch that is split has the same gradient.
fn two_replicas_agree(one: Device, two: [Device; 2]) -> Tested {
    let f32 = &config("faces-small", &[&["model.width=0.125"]]);
    let side = |devices| Side { f32, bf16: None, devices };
    agree("two replicas", (48, 24), &side(&[one]), &side(&two))
}

/// Pauses after each step.
struct EachStep;

impl Observer for EachStep {
    fn step(&mut self, _: usize) -> bool {
        false
    }
}

/// Trains `steps` steps from `within`: the loss of each, and where that ends.
fn train(task: &mut dyn Task, theta: &[f64], mut within: Within, steps: u64) -> (Vec<f64>, Within) {
    let mut losses = Vec::new();
    for _ in 0..steps {
        let epoch = Epoch { epoch: 0, theta, stream: 0, from: within };
        let Trained::Paused(now) = task.train(epoch, &mut EachStep).unwrap() else { panic!("no pause") };
        losses.push((now.loss - within.loss) / (now.examples - within.examples) as f64);
        within = now;
    }
    (losses, within)
}

fn state(task: &mut dyn Task) -> Vec<f32> {
    let end = |spec: &TensorSpec| spec.offset + spec.shape.iter().product::<usize>();
    let mut state = vec![f32::NAN; task.specs().iter().map(end).max().unwrap()];
    task.save(&mut state);
    state
}

fn bits(state: &[f32]) -> Vec<u32> {
    state.iter().map(|number| number.to_bits()).collect()
}

/// Packed images of faces and of persons.
struct Data {
    faces: PathBuf,
    persons: PathBuf,
}

impl Data {
    fn generate(directory: &Path) -> Data {
        let (tree, faces) = (directory.join("face-images"), directory.join("faces.h5"));
        let images = FaceTree { identities: 24, images: 5, size: (32, 32), difficulty: 0.3, seed: 1 };
        images.write(&tree, &mut |_| {}).unwrap();
        let options = PrepareOptions::new((32, 32), Store::Jpeg, "generated");
        prepare(&Folder::open(&tree).unwrap(), &options, &faces, &mut |_, _| {}).unwrap();

        let (tree, persons) = (directory.join("person-images"), directory.join("persons.h5"));
        let images = MarketTree { identities: 24, images: 6, size: (96, 32), difficulty: 0.1, seed: 1 };
        images.write(&tree, &mut |_| {}).unwrap();
        let options = PrepareOptions::new((0, 0), Store::Files, "generated");
        prepare(&Market::open(&tree, false).unwrap(), &options, &persons, &mut |_, _| {}).unwrap();
        Data { faces, persons }
    }

    /// The task on one replica, or more.
    fn open(&self, (_, preset, settings): TaskCase, more: &[&str], devices: &[Device]) -> (Config, Box<dyn Task>) {
        let path = if preset == "faces-small" { &self.faces } else { &self.persons };
        let config = config(preset, &[&[&format!("data.path={}", path.display())], settings, more]);
        let task = task::open(&config, devices).unwrap();
        (config, task)
    }
}

fn close(what: &str, found: f64, expected: f64, tolerance: f64) -> Tested {
    let error = (found - expected).abs() / expected.abs();
    note(&format!("{what}: {found} for {expected}, relative error {error:.1e}"));
    // NaN is not close
    if error < tolerance { Ok(()) } else { Err(format!("{what} is {found}, not {expected}")) }
}

/// What was saved on one device is loaded on another, bit for bit, has the same next loss there and is worth as much.
fn saved_state_goes_on(data: &Data, case: TaskCase, first: Device, device: Device) -> Tested {
    for reward in ["metric", "likelihood"] {
        let settings = [&*format!("search.reward={reward}"), "run.resident=off"];
        let (config, mut ours) = data.open(case, &settings, &[first]);
        let (_, mut theirs) = data.open(case, &settings, &[device]);
        let (_, mut replicas) = data.open(case, &settings, &[device; 2]);
        let theta = theta(&config);
        let (_, within) = train(&mut *ours, &theta, Within::default(), 3);
        let saved = state(&mut *ours);
        for task in [&mut theirs, &mut replicas] {
            task.load(&saved);
            if bits(&state(&mut **task)) != bits(&saved) {
                return Err("what was loaded is saved as other bits".into());
            }
        }
        let [expected, found] = [&mut ours, &mut theirs].map(|task| (task.reward().unwrap(), task.test().unwrap()));
        // an answer or two may hang in the balance
        match reward {
            "metric" => close(&format!("{} reward", case.0), 1.0 + found.0, 1.0 + expected.0, 0.03)?,
            _ => close(&format!("{} likelihood", case.0), found.0, expected.0, UNTRAINED)?,
        }
        for ((name, found), (_, expected)) in found.1.metrics.into_iter().zip(expected.1.metrics) {
            close(&format!("{} {name}", case.0), 1.0 + found, 1.0 + expected, 0.03)?;
        }
        let [expected, found] = [&mut ours, &mut theirs].map(|task| train(&mut **task, &theta, within, 1).0[0]);
        close(&format!("{}, next loss", case.0), found, expected, UNTRAINED)?;
    }
    Ok(())
}

/// Fifty steps from the same weights, on `devices` with the images kept there: equal bits on one CPU; elsewhere rounding grows,
/// and only means over ten steps are compared.
fn curves_agree(data: &Data, case: TaskCase, first: Device, devices: &[Device]) -> Tested {
    let curve = |resident: &str, devices: &[Device]| {
        let (config, mut task) = data.open(case, &[resident], devices);
        train(&mut *task, &config.space().identity(), Within::default(), STEPS).0
    };
    let (expected, found) = (curve("run.resident=off", &[first]), curve("run.resident=on", devices));
    if first == Device::Cpu && devices == [first] && found != expected {
        return Err(format!("on CPU, {found:?} is not {expected:?}"));
    }
    close(&format!("{}, first loss", case.0), found[0], expected[0], UNTRAINED)?;
    let means = |losses: &[f64]| losses.chunks(10).map(|ten| ten.iter().sum::<f64>() / 10.0).collect::<Vec<_>>();
    let (found, expected) = (means(&found), means(&expected));
    for (ten, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
        close(&format!("{}, mean loss of steps from {}", case.0, 10 * ten), found, expected, CHAOS)?;
    }
    if found[4] < 0.85 * found[0] { Ok(()) } else { Err(format!("it does not learn: {found:?}")) }
}

/// The devices that AMLFS_TEST_DEVICES names. Err: why they can't be compared.
fn devices() -> Result<Vec<Device>, String> {
    let text = std::env::var(DEVICES).unwrap_or_else(|_| "cpu,cpu".into());
    let device = |name: &str| match name.strip_prefix("cuda:").map(str::parse::<usize>) {
        None if name == "cpu" => Ok(Device::Cpu),
        Some(Ok(index)) if (index as i64) < Cuda::device_count() => Ok(Device::Cuda(index)),
        Some(Ok(_)) => Err(format!("{DEVICES}={text}: no {name}: libtorch sees {} CUDA devices", Cuda::device_count())),
        _ => Err(format!("{DEVICES}={text}: '{name}' is neither cpu nor cuda:N")),
    };
    let devices = text.split(',').map(device).collect::<Result<Vec<_>, _>>()?;
    if devices.len() < 2 {
        return Err(format!("{DEVICES}={text}: give two devices at least, such as cpu,cuda:0"));
    }
    Ok(devices)
}

/// Starts the process anew without TF32, which CUDA's libraries may read before main.
fn without_tf32() {
    const TF32: &str = "NVIDIA_TF32_OVERRIDE";
    if std::env::var(TF32).is_ok_and(|value| value == "0") {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(std::env::args_os().skip(1)).env(TF32, "0").env("CUBLAS_WORKSPACE_CONFIG", ":4096:8");
    panic!("this test can't be started anew: {}", command.exec());
}

fn trials(devices: &[Device], data: &Arc<Data>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let first = devices[0];
    for &device in &devices[1..] {
        let name = |device| amlfs::device::describe(&[device]);
        let pair = format!("{} as {}", name(device), name(first));
        let mut add = |what: &str, test: Box<dyn FnOnce() -> Tested + Send>| {
            trials.push(Trial::test(format!("{pair}: {what}"), move || {
                tch::set_num_threads(1);
                Ok(test()?)
            }));
        };
        for network in NETWORKS {
            let what = format!("{} {}", network.0, network.1.join(" "));
            add(what.trim(), Box::new(move || network_agrees(network, first, device)));
        }
        for head in HEADS {
            add(&format!("every loss, head {head}"), Box::new(move || losses_agree(head, first, device)));
        }
        add("a wrong scale is found", Box::new(move || a_wrong_scale_is_found(first, device)));
        add("two replicas", Box::new(move || two_replicas_agree(first, [device; 2])));
        for task in TASKS {
            let data = data.clone();
            add(
                &format!("{} saved and loaded", task.0),
                Box::new(move || saved_state_goes_on(&data, task, first, device)),
            );
        }
        for task in TASKS {
            let data = data.clone();
            let name = format!("{STEPS} steps of {}", task.0);
            add(&name, Box::new(move || curves_agree(&data, task, first, &[device])));
        }
        // without BatchNorm
        let (data, task) = (data.clone(), TASKS[1]);
        let name = format!("{STEPS} steps of {} on two replicas", task.0);
        add(&name, Box::new(move || curves_agree(&data, task, first, &[device; 2])));
    }
    trials
}

fn main() -> ExitCode {
    without_tf32();
    let arguments = Arguments::from_args();
    let devices = match devices() {
        Ok(devices) => devices,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let data = Arc::new(Data::generate(directory.path()));
    libtest_mimic::run(&arguments, trials(&devices, &data)).exit_code()
}
