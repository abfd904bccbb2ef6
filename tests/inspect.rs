//! What `amlfs inspect` tells of runs that were just made.

mod support;

use std::fs;
use std::path::Path;

use support::{SMALL, amlfs, assert_code, assert_error, for_training, path, started, text, until, wait};

/// A line of the summary, without its name.
fn line(summary: &str, name: &str) -> String {
    let found = summary.lines().find_map(|line| line.strip_prefix(&format!("{name:<12}")));
    found.unwrap_or_else(|| panic!("no line '{name}' in\n{summary}")).to_owned()
}

fn inspect(arguments: &[&str]) -> String {
    let output = amlfs(&[&["inspect"], arguments].concat());
    assert_code(&output, 0);
    text(&output)
}

fn checkpoint(run: &str) -> amlfs::checkpoint::Checkpoint {
    amlfs::checkpoint::read(Path::new(run)).unwrap()
}

#[test]
fn a_summary_says_what_a_search_was_what_it_set_and_what_came_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let run = path(directory.path(), "search");
    assert_code(&amlfs(&[SMALL, &["--out", &run]].concat()), 0);
    let summary = inspect(&[&run]);
    let what = "search on glyphs with ResNet-8: search paper, policy mirrored, B = 4 samples, M = 6 intervals, space lines, seed 1";
    assert_eq!(line(&summary, "run"), what);
    assert_eq!(line(&summary, "epochs"), "3 of 3, complete");
    assert_eq!(line(&summary, "preset"), "demo; other settings than its own:");
    let set: Vec<&str> = summary.lines().filter_map(|line| line.strip_prefix("            ")).collect();
    assert!(set.contains(&"train.epochs = 3 (preset: 14)"), "{summary}");
    assert!(set.contains(&"search.policy = \"mirrored\" (preset: \"reinforce\")"), "{summary}");
    assert!(!summary.contains("search.warmup_epochs") && !summary.contains("data.mirror"), "not set:\n{summary}");

    let held = checkpoint(&run);
    let rewards = held
        .history
        .iter()
        .enumerate()
        .map(|(i, record)| (i + 1, record.best, record.samples[record.best as usize].reward));
    let (epoch, sample, reward) = rewards.reduce(|best, next| if next.2 > best.2 { next } else { best }).unwrap();
    assert_eq!(line(&summary, "best"), format!("reward {reward:.4} of sample {sample} in epoch {epoch}"));
    assert_eq!(line(&summary, "test"), format!("{} {:.4}", held.test[0].0, held.test[0].1));
    assert!(line(&summary, "steps of mu").ends_with("if by chance: too few to tell from chance"));
    assert_eq!(line(&summary, "failed"), "none of 12 samples");
    assert!(line(&summary, "time").contains("training "));
    assert!(summary.contains("\nmu: interval ") && summary.contains("\n epoch ") && !summary.contains("configuration"));
    let all = inspect(&["--all", &run]);
    assert!(all.starts_with(&summary) && all.contains("\nconfiguration\n  [data]\n"), "{all}");
}

#[test]
fn a_training_a_replay_and_a_file_without_its_preset_are_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let [softmax, search, replay] = ["softmax", "search", "replay"].map(|name| path(directory.path(), name));
    let training = for_training(SMALL);
    assert_code(&amlfs(&[&["train", "--loss=arcface", "--out", &softmax], &training[..]].concat()), 0);
    let summary = inspect(&[&softmax]);
    assert_eq!(line(&summary, "run"), "training on glyphs with ResNet-8, loss arcface (margin 0.5), seed 1");
    assert!(!summary.contains("steps of mu") && !summary.contains("search.policy"), "{summary}");

    // as an older version left it
    let flags: Vec<&str> = SMALL.iter().copied().filter(|flag| *flag != "--preset=demo").collect();
    let demo = path(directory.path(), "demo.toml");
    let (settings, _of_the_robust_search) = include_str!("../src/presets/demo.toml").split_once("[searches.").unwrap();
    fs::write(&demo, settings).unwrap();
    assert_code(&amlfs(&[&["--config", &demo], &flags[..], &["--out", &search]].concat()), 0);
    let summary = inspect(&[&path(Path::new(&search), "final.h5")]);
    assert_eq!(line(&summary, "preset"), "not named in the file; demo differs least; other settings than its own:");
    // --resume does not ask what the preset was called
    assert_code(&amlfs(&[SMALL, &["--resume", "--out", &search]].concat()), 0);

    assert_code(&amlfs(&[&["train", "--replay", &search, "--out", &replay], &training[..]].concat()), 0);
    let summary = inspect(&[&replay]);
    assert!(line(&summary, "run").starts_with("training on glyphs with ResNet-8, replay of a search's loss, M = 6"));
    assert!(!summary.contains("search.policy"), "{summary}");
}

#[test]
fn what_is_no_run_is_told_and_json_has_no_other_form() {
    let directory = tempfile::tempdir().unwrap();
    let empty = path(directory.path(), "");
    assert_error(&amlfs(&["inspect", &empty]), 1, "a directory without a checkpoint (final.h5 or epoch-*.h5)");
    assert_code(&amlfs(&["inspect", "--json", "--all", &empty]), 2);
}

#[test]
fn a_run_is_followed_from_its_start_to_its_end_a_line_for_each_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let run = path(directory.path(), "run");
    let early = amlfs(&["inspect", "--follow", &run]);
    assert_error(&early, 1, "run: not there (yet); --follow wants the directory of a run, its --out");
    let searching = started(&[SMALL, &["--out", &run]].concat());
    until("the directory is there", || Path::new(&run).is_dir());
    let following = started(&["inspect", "--follow", &run]);
    assert_code(&wait(searching), 0);
    let followed = wait(following);
    assert_code(&followed, 0);
    // the rows of the run's own log, without the time to go
    let log = fs::read_to_string(Path::new(&run).join("run.log")).unwrap();
    let shown: Vec<&str> =
        log.lines().filter(|line| line.trim_start().starts_with(['e', '1', '2', '3', 't'])).collect();
    let followed = text(&followed);
    let followed: Vec<&str> = followed.lines().collect();
    assert!(followed[0].starts_with(" epoch ") && followed.len() > 4, "{followed:?}");
    for line in &followed {
        assert!(shown.iter().any(|shown| shown.starts_with(line)), "'{line}' is not in\n{log}");
    }
    // one that is complete already
    assert_eq!(text(&amlfs(&["inspect", "--follow", &run])).lines().collect::<Vec<_>>(), followed);
    let none = path(directory.path(), "");
    assert_error(&amlfs(&["inspect", "--follow", &none]), 1, "not the directory of a run: it has no config.toml");
    let file = path(Path::new(&run), "final.h5");
    assert_error(&amlfs(&["inspect", "--follow", &file]), 1, "final.h5: a file; --follow wants the directory of a run");
    assert_code(&amlfs(&["inspect", "--follow", "--json", &run]), 2);
}
