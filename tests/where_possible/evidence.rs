//! scripts/evidence.py on a grid of seconds.

use std::path::Path;
use std::process::{Command, Output};

use crate::Possible;
use crate::support::{AMLFS, assert_code, finish, path, text};

const GRID: &str = r#"
metric = "top1"
scale = 100.0
seeds = [1, 2]
baseline = "softmax"
arguments = [
    "--preset=demo", "--device=cpu", "--threads=1", "--set=data.glyphs.image_size=16",
    "--set=data.glyphs.train_images=200", "--set=data.glyphs.test_images=100", "--epochs=2", "--set=train.milestones=[]",
]
[tasks]
noise = ["--label-noise=0.3"]
[arms.softmax]
arguments = ["train", "--loss=softmax"]
seeds = [1, 2, 3]
[arms.replay]
arguments = ["train", "--replay={from}"]
from = "search"
seeds = [2, 3]
[arms.search]
arguments = ["--samples=2"]
[landscape]
tasks = ["noise"]
seeds = [1]
learned = "search"
[landscape.directions]
offset = [0, 0, 0, 0, 0, 0, 0.2, 0, 0, 0, 0, 0, 0]
"#;

fn evidence(directory: &Path, more: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/evidence.py");
    let (grid, out) = (path(directory, "grid.toml"), path(directory, "out"));
    let arguments = [&grid, "--out", &out, "--binary", AMLFS];
    finish(Command::new("python3").arg("-B").arg(script).args(arguments).args(more))
}

pub fn a_grid_is_run_once_and_its_tables_say_what_the_runs_found() -> Possible {
    let found = Command::new("python3").args(["-c", "import tomllib"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        return Err("python3 has no tomllib (3.11)".into());
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("grid.toml"), GRID).unwrap();
    let first = evidence(directory.path(), &["--jobs=2"]);
    assert_code(&first, 0);
    let final_file = directory.path().join("out/noise/softmax/1/final.h5");
    let written = || std::fs::metadata(&final_file).unwrap().modified().unwrap();
    let (printed, before) = (text(&first), written());

    // the table, anew from the checkpoints
    let top1 = |arm: &str, seed: u32| {
        let file = directory.path().join(format!("out/noise/{arm}/{seed}/final.h5"));
        let test = amlfs::checkpoint::read(&file).unwrap().test;
        100.0 * test.iter().find(|(name, _)| name == "top1").unwrap().1
    };
    let mean_and_error = |values: [f64; 2]| {
        let (mean, half) = ((values[0] + values[1]) / 2.0, (values[0] - values[1]).abs() / 2.0);
        (mean, half) // two values: their standard error is half their difference
    };
    let (mean, error) = mean_and_error([1, 2].map(|seed| top1("search", seed)));
    let (difference, its_error) = mean_and_error([1, 2].map(|seed| top1("search", seed) - top1("softmax", seed)));
    let row = format!("| search | 2 | {mean:.2} +- {error:.2} | {difference:+.2} +- {its_error:.2} |");
    assert!(printed.contains(&row), "no row {row} in\n{printed}");
    let effect = (top1("offset+", 1) - top1("offset-", 1)) / 2.0;
    assert!(printed.contains(&format!("| offset | {effect:+.2} +- nan |")), "{printed}");

    let again = evidence(directory.path(), &[]);
    assert_code(&again, 0);
    assert_eq!((text(&again), written()), (printed, before), "complete runs are left alone");
    let listed = text(&evidence(directory.path(), &["--list"]));
    assert_eq!(listed.lines().filter(|line| line.contains(" complete ")).count(), 3 + 2 + 2 + 2, "{listed}");
    Ok(())
}
