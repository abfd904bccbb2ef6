//! Where a run's recipe differs from that of the preset for its table.

use crate::config::{Layers, ModelName};
use crate::error::Result;
use crate::runs::{Arm, Run};

/// Characters of a value that are shown.
const LONGEST: usize = 36;

/// The preset of the paper's experiment that a run on this model repeats.
pub fn preset(run: &Run) -> &'static str {
    match run.config.model.name {
        ModelName::ResnetCifar | ModelName::Resnet => "cifar10",
        ModelName::Sphereface => "megaface",
        // the presets for DukeMTMC-reID are the same
        ModelName::SphereReid => "market1501-spherereid",
        ModelName::Sft => "market1501-sft",
        ModelName::Mgn => "market1501-mgn",
    }
}

/// `key = value (recipe: value)`, but for the key that tells the table's rows apart and for what makes a run its arm.
pub fn deviations(run: &Run, key_of_rows: &str) -> Result<Vec<String>> {
    let typed = run.config.typed();
    let fixed = match &run.arm {
        Arm::Loss(name) => Some(&name[..]),
        _ => None,
    };
    let (preset, search) = (preset(run), typed.search.name.as_deref());
    let mut layers = Layers::new(Some(preset), fixed, search)?;
    layers.set("table", "data.path", "data".into())?; // not compared
    if let Some(name) = fixed {
        layers.set("table", "loss.name", name.into())?;
    }
    let recipe = layers.resolve()?;
    let counts = |key: &str| {
        let of_the_arm = match &run.arm {
            Arm::Search(_) => false,
            Arm::Fixed => key == "search.policy",
            Arm::Select | Arm::BestOf => {
                ["search.policy", "search.data_order", "search.round_epochs", "search.rounds"].contains(&key)
            }
            Arm::Loss(_) | Arm::Replay | Arm::Held => key.starts_with("search."),
        };
        let follows = key == "search.round_epochs" && typed.search.rounds.is_some(); // from rounds and epochs
        key != key_of_rows && key != "search.name" && !follows && !key.starts_with("run.") && !of_the_arm
    };
    let mut found: Vec<String> = typed
        .different_settings(recipe.typed())
        .into_iter()
        .filter(|(key, _, _)| counts(key))
        .map(|(key, ours, theirs)| format!("{key} = {} (recipe: {})", short(&ours), short(&theirs)))
        .collect();
    if let Some(name) = search.filter(|name| *name != "paper") {
        found.insert(0, format!("--search {name} (the paper's: paper)"));
    }
    Ok(found)
}

/// A mean has dozens of numbers.
fn short(value: &str) -> String {
    match value.char_indices().nth(LONGEST) {
        _ if value == "nothing" => "not set".into(),
        Some((end, _)) => format!("{} ...", &value[..end]),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, RunInfo};

    /// A run as `amlfs --preset PRESET` makes it, with more settings.
    fn run(preset: &str, search: Option<&str>, arm: Arm, settings: &[&str]) -> Run {
        let fixed = match &arm {
            Arm::Loss(name) => Some(&name[..]),
            _ => None,
        };
        let mut layers = Layers::new(Some(preset), fixed, search).unwrap();
        let of_arm = match &arm {
            Arm::Loss(name) => {
                vec![format!("loss.name={name}"), "search.policy=fixed".into(), "search.samples=1".into()]
            }
            Arm::Fixed => vec!["search.policy=fixed".into()],
            _ => vec![],
        };
        let here = ["data.path=/scratch/data", "run.seed=7", "run.threads=2"].map(String::from);
        let settings = settings.iter().map(|setting| setting.to_string());
        of_arm.into_iter().chain(here).chain(settings).for_each(|setting| layers.set_text(&setting).unwrap());
        let config = layers.resolve().unwrap();
        let info = RunInfo {
            config: config.to_toml(),
            seed: 7,
            ranks: 1,
            threads: 2,
            libtorch: String::new(),
            device: String::new(),
            classes: Vec::new(),
        };
        let policy = crate::search::policy(&config).state().clone();
        let checkpoint = Checkpoint {
            info,
            epoch: 0,
            policy,
            history: Vec::new(),
            tensors: Vec::new(),
            test: Vec::new(),
            predictions: None,
        };
        Run { path: "run".into(), checkpoint, config, arm }
    }

    fn searched() -> Arm {
        Arm::Search("reinforce".into())
    }

    #[test]
    fn a_run_by_its_preset_differs_in_nothing() {
        let arms = ["softmax", "a-softmax", "am-softmax", "cosface", "arcface"].map(|name| Arm::Loss(name.into()));
        for preset in ["cifar10", "megaface", "market1501-spherereid", "dukemtmc-sft", "market1501-mgn"] {
            for arm in arms.iter().cloned().chain([searched(), Arm::Fixed]) {
                let run = run(preset, None, arm.clone(), &[]);
                assert_eq!(deviations(&run, "").unwrap(), Vec::<String>::new(), "{preset}, {arm:?}");
            }
        }
    }

    #[test]
    fn what_differs_is_named_but_not_what_the_row_says() {
        let noisy = run("cifar10", None, searched(), &["data.label_noise=0.2", "search.samples=8"]);
        assert_eq!(deviations(&noisy, "data.label_noise").unwrap(), ["search.samples = 8 (recipe: 32)"]);
        assert_eq!(deviations(&noisy, "search.samples").unwrap(), ["data.label_noise = 0.2 (recipe: 0.0)"]);
        let robust = run("megaface", Some("robust"), searched(), &["train.epochs=50"]);
        let expected = ["--search robust (the paper's: paper)", "train.epochs = 50 (recipe: 15)"];
        assert_eq!(deviations(&robust, "").unwrap(), expected);
        let margin = run("megaface", None, Arm::Loss("arcface".into()), &["loss.margin=0.4", "search.intervals=9"]);
        assert_eq!(deviations(&margin, "").unwrap(), ["loss.margin = 0.4 (recipe: 0.5)"]);
        let mu = format!("search.mu={:?}", [0.25; 24]);
        let started = deviations(&run("cifar10", None, searched(), &[&mu]), "").unwrap();
        assert_eq!(started, ["search.mu = [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, ... (recipe: not set)"]);
    }
}
