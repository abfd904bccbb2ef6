//! No option is ignored: what has no use beside another option is a usage error that names both.

use std::collections::BTreeSet;

use clap::error::ErrorKind;
use clap::{Arg, CommandFactory};

use super::*;

/// The command itself and all below it, each with the words that call it.
fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn below(words: Vec<String>, command: &clap::Command, all: &mut Vec<(Vec<String>, clap::Command)>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            below([words.clone(), vec![inner.get_name().into()]].concat(), inner, all);
        }
        all.push((words, command.clone()));
    }
    let mut root = Cli::command();
    root.build();
    let mut all = Vec::new();
    below(vec!["amlfs".into()], &root, &mut all);
    all
}

/// What one types to give an argument, with a value that it takes.
fn typed(argument: &Arg) -> Vec<String> {
    let choices = argument.get_possible_values();
    let candidates = choices.first().map(|choice| choice.get_name().to_owned());
    let candidates = candidates.into_iter().chain(["1", "64", "0.5", "64x32"].map(String::from));
    let parser = argument.get_value_parser();
    let takes_values = argument.get_num_args().is_none_or(|range| range.takes_values());
    let accepted = candidates.into_iter().find(|text| {
        let command = clap::Command::new("one").arg(Arg::new("it").long("it").value_parser(parser.clone()));
        command.try_get_matches_from(["one", "--it", text]).is_ok()
    });
    let value = takes_values.then(|| accepted.unwrap_or_else(|| panic!("no value for {}", argument.get_id())));
    let flag = argument.get_long().map(|long| format!("--{long}"));
    flag.into_iter().chain(value).collect()
}

fn error_of(words: &[String]) -> Option<clap::Error> {
    Cli::try_parse_from(words).err()
}

/// Every pair of arguments that a command declares to exclude each other.
fn exclusive_pairs() -> BTreeSet<(String, String, String)> {
    let mut pairs = BTreeSet::new();
    for (words, command) in commands() {
        for one in command.get_arguments() {
            for other in command.get_arg_conflicts_with(one) {
                let mut names = [one.get_id().to_string(), other.get_id().to_string()];
                names.sort();
                let [first, second] = names;
                pairs.insert((words.join(" "), first, second));
            }
        }
    }
    pairs
}

#[test]
fn both_of_two_options_that_exclude_each_other_are_named_in_either_order() {
    let commands = commands();
    let mut tried = 0;
    for (name, first, second) in exclusive_pairs() {
        let (words, command) = commands.iter().find(|(words, _)| words.join(" ") == name).unwrap();
        let argument = |id: &str| command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
        let (first, second) = (argument(&first), argument(&second));
        for (one, other) in [(first, second), (second, first)] {
            let typed = [&words[..], &typed(one), &typed(other)].concat();
            let error = error_of(&typed).unwrap_or_else(|| panic!("{typed:?} is accepted"));
            assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ArgumentConflict, 2), "{typed:?}: {error}");
            let said = error.to_string();
            for argument in [one, other] {
                let name = argument
                    .get_long()
                    .map_or_else(|| argument.get_value_names().unwrap()[0].to_string(), |long| format!("--{long}"));
                assert!(said.contains(&name), "{typed:?}: {said}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 14, "only {tried}");
}

#[test]
fn what_has_no_use_beside_another_option_or_without_one_is_refused() {
    let split = |line: &str| -> Vec<String> { line.split(' ').map(String::from).collect() };
    for (line, named) in [
        // a training has one sample, no policy and no mean to start from
        ("amlfs train --out x --loss softmax --samples 4", "--samples"),
        ("amlfs train --out x --loss softmax --policy natural", "--policy"),
        ("amlfs train --out x --loss softmax --init-mu f", "--init-mu"),
        ("amlfs train --out x --replay f --samples 4", "--samples"),
        ("amlfs train --out x --replay f --policy natural", "--policy"),
        ("amlfs train --out x --replay f --init-mu f", "--init-mu"),
        ("amlfs train --out x --replay f --loss softmax", "--loss"),
        ("amlfs train --out x --loss softmax --replay-as means", "--replay"),
        ("amlfs train --out x --replay-as means", "--replay"),
        ("amlfs --out x --replay-as means", "--replay-as"),
        ("amlfs --dry-run --resume", "--out"),
        ("amlfs --preset demo inspect f", "inspect"),
        ("amlfs export embeddings --model f --out e.h5 images --max-skipped 2", "--max-skipped"),
        ("amlfs prepare faces tree --out f --max-skipped nan", "--max-skipped"),
        ("amlfs prepare reid tree --out f --max-skipped=-1", "--max-skipped"),
        ("amlfs fit-loss --margin 0.3", "NAME"),
        ("amlfs fit-loss --space lines --out f.json", "NAME"),
        ("amlfs fit-loss am-softmax --out f.json", "--space"),
        ("amlfs fit-loss am-softmax --head plain", "--out"),
        ("amlfs fit-loss unified", "NAME"),
    ] {
        let error = error_of(&split(line)).unwrap_or_else(|| panic!("{line} is accepted"));
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(named), "{line}: {error}");
    }
    for line in [
        "amlfs --out x --samples 4 --policy natural --init-mu f --resume",
        "amlfs --out x --dry-run --resume",
        "amlfs --dry-run",
        "amlfs train --out x --replay f --replay-as means",
        "amlfs --out x --seed 1 --seed 2",
    ] {
        assert!(error_of(&split(line)).is_none(), "{line}");
    }
}

#[test]
fn every_arm_of_the_grids_in_scripts_is_a_command_and_its_settings_exist() {
    let arguments = |value: &toml::Value| -> Vec<String> { value.clone().try_into().expect("a list of arguments") };
    let mut tried = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/evidence")).unwrap() {
        let file = file.unwrap().path();
        let grid: Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
        let data = grid.get("cifar10").map(|_| vec!["--data=data".to_owned()]).unwrap_or_default();
        let (arms, tasks) = (grid["arms"].as_table().unwrap(), grid["tasks"].as_table().unwrap());
        for ((name, arm), (task, more)) in arms.iter().flat_map(|arm| tasks.iter().map(move |task| (arm, task))) {
            let run =
                [arguments(&arm["arguments"]), arguments(&grid["arguments"]), arguments(more), data.clone()].concat();
            let words = ["amlfs".into()].into_iter().chain(run).chain(["--out=out".into()]);
            let of = format!("{}: {name}, {task}", file.display());
            let Cli { command, search } = Cli::try_parse_from(words).unwrap_or_else(|why| panic!("{of}: {why}"));
            let layers = match &command {
                Some(Command::Train(train)) => train.run.layers(train.loss.as_deref(), None),
                Some(_) => panic!("{of}: neither a search nor a training"),
                None => search.layers(None, None),
            };
            layers.and_then(|layers| layers.resolve()).unwrap_or_else(|why| panic!("{of}: {why}"));
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried}");
}
