//! Event files, read by TensorBoard's own reader.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Possible;
use crate::support::kill::assert_nothing_left;
use crate::support::{
    SMALL, amlfs, assert_code, assert_same, final_without_timings, finish, json, mpirun, path, saved_epochs, until,
    wait,
};

const EPOCHS: usize = 6;

/// Where scripts/setup.sh --for-tests leaves TensorBoard.
fn modules() -> PathBuf {
    let directory = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = directory("AMLFS_CACHE").or_else(|| directory("XDG_CACHE_HOME").map(|cache| cache.join("amlfs")));
    cache.unwrap_or_else(|| directory("HOME").unwrap_or_default().join(".cache/amlfs")).join("tensorboard")
}

fn python() -> Command {
    let mut command = Command::new("python3");
    command.arg("-B").env("PYTHONPATH", modules());
    command
}

/// What TensorBoard reads of a run.
fn read(run: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/event_files.py");
    json(&finish(python().arg(script).arg(run.join("tensorboard"))))
}

fn settings(more: &[&str]) -> Vec<String> {
    let small = SMALL.iter().filter(|argument| !argument.starts_with("--epochs"));
    let epochs = format!("--epochs={EPOCHS}");
    // rounds of two epochs: not every epoch has a reward
    let own = ["--set=search.round_epochs=2", "--set=train.milestones=[]", &epochs, "--tensorboard"];
    small.chain(&own).chain(more).map(|argument| argument.to_string()).collect()
}

/// A search of which a rank is killed after its first round, and that goes on.
fn killed_and_resumed(run: &Path) {
    let out = format!("--out={}", run.display());
    let arguments = settings(&[&out, "--resume"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut killed = mpirun(2, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let written = || std::fs::read_dir(run.join("tensorboard")).is_ok_and(|files| files.count() > 0);
    until("a round is saved", || saved_epochs(run) >= 2 && written() || killed.try_wait().unwrap().is_some());
    let ranks = crate::support::kill::ranks_in(run);
    // SAFETY: a signal to a process of this test's own
    ranks.iter().take(1).for_each(|&rank| assert_eq!(unsafe { libc::kill(rank, libc::SIGKILL) }, 0));
    wait(killed);
    assert_nothing_left(run);
    assert!(saved_epochs(run) < EPOCHS, "it was killed before its end");
    assert_code(&finish(&mut mpirun(2, &arguments)), 0);
}

pub fn events_are_the_history_once_after_a_kill_too_and_change_no_bit() -> Possible {
    if !python().args(["-c", "import tensorboard"]).output().is_ok_and(|found| found.status.success()) {
        return Err(format!("python3 has no tensorboard, not even in {}", modules().display()));
    }
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    killed_and_resumed(&run);
    let (found, held) = (read(&run), amlfs::checkpoint::read(&run).unwrap());
    let history = &held.history;
    assert_eq!((&found["files"], &found["version"], &found["in_order"]), (&json!(1), &json!(2.0), &json!(true)));

    // each once
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.iter().map(Value::to_string).collect::<HashSet<_>>().len(), points.len());
    // in f32, as such files have it
    let scalar = |tag: &str| -> Vec<(u64, f32)> {
        let points = found["scalars"][tag].as_array().unwrap_or_else(|| panic!("no {tag}"));
        points.iter().map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap() as f32)).collect()
    };
    let ends: Vec<usize> = (0..EPOCHS).filter(|&epoch| history[epoch].best >= 0).collect();
    assert_eq!(ends, [1, 3, 5]);
    let at_ends = |of: &dyn Fn(usize) -> f64| -> Vec<(u64, f32)> {
        ends.iter().map(|&epoch| (epoch as u64 + 1, of(epoch) as f32)).collect()
    };
    let rewards = |epoch: usize| history[epoch].samples.iter().map(|sample| sample.reward);
    assert_eq!(scalar("reward/reward_max"), at_ends(&|epoch| rewards(epoch).fold(f64::MIN, f64::max)));
    assert_eq!(scalar("reward/reward_min"), at_ends(&|epoch| rewards(epoch).fold(f64::MAX, f64::min)));
    assert_eq!(scalar("reward/reward_mean"), at_ends(&|epoch| rewards(epoch).sum::<f64>() / 4.0));
    assert_eq!(scalar("steps_of_mu/delta_sigmas"), at_ends(&|epoch| history[epoch].delta_sigmas));
    assert_eq!(scalar("steps_of_mu/chance_sigmas"), at_ends(&|epoch| history[epoch].chance_sigmas));
    assert_eq!(scalar("mu/t_slope_3"), at_ends(&|epoch| history[epoch].mu[2]));
    let rates: Vec<(u64, f32)> = (0..EPOCHS).map(|i| (i as u64 + 1, history[i].learning_rate as f32)).collect();
    assert_eq!(scalar("training/learning_rate"), rates);
    let speeds: Vec<(u64, f32)> = (0..EPOCHS).map(|i| (i as u64 + 1, history[i].images_per_second as f32)).collect();
    assert_eq!(scalar("training/images_per_second"), speeds);
    assert_eq!(scalar("training/train_loss").len(), EPOCHS);
    for (name, value) in &held.test {
        assert_eq!(scalar(&format!("test/{name}")), [(EPOCHS as u64, *value as f32)]);
    }
    let close = |a: &Value, b: f64| (a.as_f64().unwrap() - b).abs() < 1e-12;
    let histograms = &found["histograms"];
    assert_eq!(histograms.as_object().unwrap().len(), 24, "a component each");
    for (point, &epoch) in histograms["theta/tau_bias_6"].as_array().unwrap().iter().zip(&ends) {
        let thetas: Vec<f64> = history[epoch].samples.iter().map(|sample| sample.theta[23]).collect();
        assert_eq!((point[0].as_u64(), point[1].as_f64()), (Some(epoch as u64 + 1), Some(4.0)));
        assert!(close(&point[2], thetas.iter().copied().fold(f64::MAX, f64::min)));
        assert!(close(&point[3], thetas.iter().copied().fold(f64::MIN, f64::max)));
        assert!(close(&point[4], thetas.iter().sum()));
    }
    for tag in ["curves/t", "curves/tau"] {
        let steps: Vec<u64> =
            found["images"][tag].as_array().unwrap().iter().map(|image| image[0].as_u64().unwrap()).collect();
        assert_eq!(steps, [2, 4, 6], "{tag}");
    }

    // without events
    let plain = path(directory.path(), "plain");
    let arguments = settings(&["--out", &plain]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).filter(|flag| *flag != "--tensorboard").collect();
    assert_code(&amlfs(&arguments), 0);
    let [mut with, without] = [&run, Path::new(&plain)].map(final_without_timings);
    assert!(with.info.config.contains("\ntensorboard = true\n") && !without.info.config.contains("tensorboard"));
    with.info.config = without.info.config.clone();
    assert_same(&with, &without);
    assert!(!Path::new(&plain).join("tensorboard").exists());
    Ok(())
}
