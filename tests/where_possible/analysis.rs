//! scripts/analyze.py and docs/analysis.md.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

use amlfs::checkpoint;
use amlfs::loss::{Function, SpaceKind, TauWeights};
use amlfs::state::Status;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{NATURAL, SMALL, amlfs, assert_code, finish, for_training, json, page, path, text};
use crate::{Possible, python};

const MODULES: [&str; 5] = ["h5py", "matplotlib", "numpy", "pandas", "tomllib"];

fn script() -> String {
    path(Path::new(env!("CARGO_MANIFEST_DIR")), "scripts/analyze.py")
}

fn analyze(python: &str, run: &str, out: &str) -> Output {
    finish(Command::new(python).args(["-B", "-W", "error", &script(), run, "--out", out]))
}

/// The columns of a table by their names.
fn table(file: &str) -> HashMap<String, Vec<String>> {
    let mut reader = csv::Reader::from_path(file).unwrap();
    let heads: Vec<String> = reader.headers().unwrap().iter().map(String::from).collect();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    heads.into_iter().enumerate().map(|(i, head)| (head, rows.iter().map(|row| row[i].to_owned()).collect())).collect()
}

fn assert_column(table: &HashMap<String, Vec<String>>, name: &str, expected: &[f64]) {
    let found: Vec<f64> = table[name].iter().map(|text| text.parse().unwrap_or(f64::NAN)).collect();
    assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{name}");
}

pub fn the_tables_are_what_a_checkpoint_holds_and_every_figure_is_drawn() -> Possible {
    let python = python(&MODULES)?;
    let directory = tempfile::tempdir().unwrap();
    // as many components as samples: their data sets have the same shape
    let lines = [SMALL, &["--set=search.intervals=1", "--set=search.warmup_epochs=1"]].concat();
    let fixed = [&["train", "--loss=softmax"], &for_training(SMALL)[..], &["--epochs=1"]].concat();
    for (name, settings, figures) in [
        ("lines", lines, &["rewards", "mu", "transforms"][..]),
        ("derivatives", [SMALL, NATURAL].concat(), &["rewards", "mu", "transforms"]),
        ("fixed", fixed, &["rewards"]),
    ] {
        let (run, out) = (path(directory.path(), name), path(directory.path(), &format!("{name}-analysis")));
        assert_code(&amlfs(&[&settings[..], &["--out", &run]].concat()), 0);
        let output = analyze(&python, &run, &out);
        assert_code(&output, 0);
        assert!(output.stderr.is_empty(), "{}", text(&output));
        for figure in ["rewards", "mu", "transforms"] {
            let file = format!("{out}/{figure}.png");
            assert_eq!(figures.contains(&figure), Path::new(&file).exists(), "{file}");
            if figures.contains(&figure) {
                let image = image::open(&file).unwrap().to_rgb8();
                let coloured = image.pixels().filter(|pixel| pixel.0.iter().any(|&value| value < 200)).count();
                assert!(image.width() > 600 && coloured > 1000, "{file} is empty");
            }
        }

        let found = checkpoint::read(Path::new(&run)).unwrap();
        let history = &found.history;
        let samples = table(&format!("{out}/samples.csv"));
        let each = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            history
                .iter()
                .enumerate()
                .flat_map(|(e, record)| (0..record.samples.len()).map(move |i| of(e, i)))
                .collect()
        };
        assert_column(&samples, "epoch", &each(&|epoch, _| epoch as f64 + 1.0));
        assert_column(&samples, "sample", &each(&|_, i| i as f64));
        assert_column(&samples, "reward", &each(&|epoch, i| history[epoch].samples[i].reward));
        assert_column(&samples, "train_loss", &each(&|epoch, i| history[epoch].samples[i].train_loss));
        let status = |status: Status| match status {
            Status::Ok => "ok",
            Status::Failed => "failed",
            Status::NotMeasured => "not measured",
        };
        let statuses: Vec<&str> =
            history.iter().flat_map(|record| record.samples.iter().map(|sample| status(sample.status))).collect();
        assert_eq!(samples["status"], statuses);
        let chosen = each(&|epoch, i| f64::from(history[epoch].best == i as i64));
        assert_eq!(
            samples["chosen"],
            chosen.iter().map(|&x| if x == 1.0 { "True" } else { "False" }).collect::<Vec<_>>()
        );
        let config = amlfs::config::TypedConfig::from_toml(&found.info.config).unwrap();
        let names = if found.policy.mu.is_empty() { Vec::new() } else { config.search.space().names() };
        assert_eq!(samples.len(), 9 + names.len(), "{:?}", samples.keys());
        let epochs = table(&format!("{out}/epochs.csv"));
        for (k, component) in names.iter().enumerate() {
            assert_column(&samples, component, &each(&|epoch, i| history[epoch].samples[i].theta[k]));
            let mu: Vec<f64> = history.iter().map(|record| record.mu[k]).collect();
            assert_column(&epochs, &format!("mu_{component}"), &mu);
        }
        let rewards = |epoch: usize| {
            let measured = history[epoch].samples.iter().filter(|sample| sample.status == Status::Ok);
            measured.map(|sample| sample.reward).collect::<Vec<f64>>()
        };
        let highest = |epoch| rewards(epoch).into_iter().fold(f64::NAN, f64::max);
        assert_column(&epochs, "reward_max", &(0..history.len()).map(highest).collect::<Vec<_>>());
        assert_column(&epochs, "learning_rate", &history.iter().map(|record| record.learning_rate).collect::<Vec<_>>());
    }
    Ok(())
}

/// What h5py makes of a checkpoint with these lines of Python, where it is `f`.
fn changed(python: &str, file: &Path, lines: &str) {
    let program = format!("import h5py, sys\nwith h5py.File(sys.argv[1], 'r+') as f:\n    {lines}");
    assert_code(&finish(Command::new(python).args(["-c", &program]).arg(file)), 0);
}

pub fn a_search_that_has_just_begun_and_files_of_older_formats_are_analysed() -> Possible {
    let python = python(&MODULES)?;
    let directory = tempfile::tempdir().unwrap();
    let (here, run) = (directory.path(), path(directory.path(), "run"));
    assert_code(&amlfs(&[SMALL, &["--epochs=2", "--out", &run]].concat()), 0);
    let begun = here.join("begun");
    std::fs::create_dir(&begun).unwrap();
    std::fs::copy(here.join("run/epoch-0001.h5"), begun.join("epoch-0001.h5")).unwrap();
    let output = analyze(&python, begun.to_str().unwrap(), &path(here, "begun-analysis"));
    assert_code(&output, 0);
    let samples = table(&path(here, "begun-analysis/samples.csv"));
    assert_eq!(samples["epoch"], ["1"; 4]);
    assert!(Path::new(&path(here, "begun-analysis/rewards.png")).exists());

    let old = here.join("old.h5");
    std::fs::copy(here.join("run/final.h5"), &old).unwrap();
    changed(&python, &old, "f.attrs['version'] = [1, 0]; del f['history/delta_sigmas'], f['history/chance_sigmas']");
    assert_code(&analyze(&python, old.to_str().unwrap(), &path(here, "old-analysis")), 0);
    let epochs = table(&path(here, "old-analysis/epochs.csv"));
    assert!(epochs.contains_key("delta_norm") && !epochs.contains_key("delta_sigmas"));

    changed(&python, &old, "f.attrs['version'] = [2, 0]");
    let output = analyze(&python, old.to_str().unwrap(), &path(here, "new-analysis"));
    assert_code(&output, 1);
    assert!(text(&output).contains("old.h5: format version 2.0; this script reads 1.x"), "{}", text(&output));
    Ok(())
}

pub fn the_curves_are_those_of_our_own_loss() -> Possible {
    let python = python(&MODULES)?;
    tch::manual_seed(5);
    let double = (Kind::Double, Device::Cpu);
    let (cosines, p) = (Tensor::rand([200], double) * 2.0 - 1.0, Tensor::rand([200], double));
    let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor).unwrap();
    let mut cases = Vec::new();
    for (space, name) in [(SpaceKind::Lines, "lines"), (SpaceKind::Derivatives, "derivatives")] {
        for intervals in [1, 2, 5, 6] {
            let width = amlfs::loss::Space { kind: space, intervals }.dimension() as i64;
            // slopes down to the least; tau above 0
            let theta = numbers(&(Tensor::rand([width], double) * 1.2 - 0.1).sort(0, true).0);
            cases.push((space, json!([name, theta])));
        }
    }
    let asked: Vec<&Value> = cases.iter().map(|(_, case)| case).collect();
    let program = "import json, sys\nsys.path.insert(0, sys.argv[1])\nimport analyze, numpy as np\n\
        cases, c, p = json.loads(sys.argv[2])\n\
        print(json.dumps([[x.tolist() for x in analyze.transforms(*case, np.array(c), np.array(p))] for case in cases]))";
    let scripts = path(Path::new(env!("CARGO_MANIFEST_DIR")), "scripts");
    let arguments = json!([asked, numbers(&cosines), numbers(&p)]).to_string();
    let said = json(&Command::new(&python).args(["-B", "-c", program, &scripts, &arguments]).output().unwrap());
    for ((space, case), said) in cases.iter().zip(said.as_array().unwrap()) {
        let theta: Vec<f64> = serde_json::from_value(case[1].clone()).unwrap();
        let loss = Function::Unified { space: *space, w_max: 4.0, tau_weights: TauWeights::Raw, logit_adjustment: 0.0 };
        let loss = loss.build(&theta, &[], Device::Cpu, Kind::Double);
        let line = loss.target(&cosines, 0);
        let expected = [line.slope * &cosines + line.intercept, (-loss.weigh(&p, &-p.log()).0).exp()];
        for (found, expected) in said.as_array().unwrap().iter().zip(expected) {
            let found = Tensor::from_slice(&serde_json::from_value::<Vec<f64>>(found.clone()).unwrap());
            let error = f64::try_from((found.clamp_min(-1e9) - &expected).abs().max()).unwrap();
            assert!(error < 1e-12, "{error}: {case}");
        }
    }
    Ok(())
}

pub fn what_is_no_checkpoint_is_told_in_a_sentence() -> Possible {
    let python = python(&MODULES)?;
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (run, out) = (path(here, "run"), path(here, "out"));
    let settings = for_training(SMALL);
    assert_code(&amlfs(&[&["train", "--loss=softmax"], &settings[..], &["--epochs=1", "--out", &run]].concat()), 0);
    let bytes = std::fs::read(here.join("run/final.h5")).unwrap();
    std::fs::write(here.join("half.h5"), &bytes[..bytes.len() / 2]).unwrap();
    let images = path(here, "images");
    assert_code(&amlfs(&["prepare", "glyphs", &images, "--identities=2", "--images=2", "--size=32x32"]), 0);
    assert_code(&amlfs(&["prepare", "faces", &images, "--out", &path(here, "packed.h5"), "--size=32x32"]), 0);
    for (file, why) in [
        ("nowhere.h5", "nowhere.h5: no such file"),
        ("images", "images: a directory without a checkpoint (final.h5 or epoch-*.h5)"),
        ("half.h5", "half.h5: not an HDF5 file, or not whole: "),
        ("run/config.toml", "config.toml: not an HDF5 file, or not whole: "),
        ("packed.h5", "packed.h5: filetype 'amlfs images'; wanted is a checkpoint: a run's final.h5 or epoch-*.h5"),
    ] {
        let output = analyze(&python, &path(here, file), &out);
        assert_code(&output, 1);
        let said = text(&output);
        assert!(said.starts_with("analyze.py: ") && said.contains(why) && said.lines().count() == 1, "{said}");
    }
    assert!(!Path::new(&out).exists());
    Ok(())
}

pub fn the_commands_of_the_page_work_as_they_stand() -> Possible {
    let python = python(&[&MODULES[..], &["torch"]].concat())?;
    let said = page::run("analysis.md", Path::new(&python).parent().filter(|directory| directory.is_absolute()));
    for what in [
        "analysis/transforms.png",
        "learned_loss.py: what was learned in 8 of 8 epochs",
        "model.pth: 36 tensors",
        "delta_sigmas",
        "log_weight_1",
        "'top1': ",
        "<All keys matched successfully>",
    ] {
        assert!(said.contains(what), "no {what:?} in {said}");
    }
    Ok(())
}
