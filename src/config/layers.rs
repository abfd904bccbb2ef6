//! Where settings come from: the defaults, a preset, files and flags, merged in this order.

use std::path::Path;

use toml::{Table, Value};

use super::{Config, TypedConfig};
use crate::error::{Error, Result};

const DEFAULTS: &str = include_str!("../presets/defaults.toml");
/// Name, text, and the search that it has unless --search says another: presets for the paper's tasks have the paper's.
pub const PRESETS: &[(&str, &str, &str)] = &[
    ("cifar10", include_str!("../presets/cifar10.toml"), PAPER),
    ("cifar100", include_str!("../presets/cifar100.toml"), ROBUST),
    ("cifar10-lt", include_str!("../presets/cifar10-lt.toml"), ROBUST),
    ("demo", include_str!("../presets/demo.toml"), ROBUST),
    ("images", include_str!("../presets/images.toml"), ROBUST),
    ("images-small", include_str!("../presets/images-small.toml"), ROBUST),
    ("megaface", include_str!("../presets/megaface.toml"), PAPER),
    ("faces-small", include_str!("../presets/faces-small.toml"), ROBUST),
    ("market1501-spherereid", SPHEREREID, PAPER),
    ("market1501-sft", SFT, PAPER),
    ("market1501-mgn", MGN, PAPER),
    // no source has other settings for DukeMTMC-reID
    ("dukemtmc-spherereid", SPHEREREID, PAPER),
    ("dukemtmc-sft", SFT, PAPER),
    ("dukemtmc-mgn", MGN, PAPER),
];
const PAPER: &str = "paper";
const ROBUST: &str = "robust";
/// How to search, by the name that `--search` has: a layer over any preset, and the search that it is itself a layer over.
pub const SEARCHES: &[(&str, &str, Option<&str>)] = &[
    (PAPER, include_str!("../presets/search-paper.toml"), None),
    (ROBUST, include_str!("../presets/search-robust.toml"), None),
    ("late", include_str!("../presets/search-late.toml"), Some(ROBUST)),
];
const SPHEREREID: &str = include_str!("../presets/reid-spherereid.toml");
const SFT: &str = include_str!("../presets/reid-sft.toml");
const MGN: &str = include_str!("../presets/reid-mgn.toml");
/// A preset's table of settings for single fixed losses: `[recipes.a-softmax.train]` and so on.
const RECIPES: &str = "recipes";
/// A preset's settings that differ from a search's own: `[searches.robust.train]` and so on.
const PRESET_SEARCHES: &str = "searches";

/// The layers of a configuration, lowest first, each with the name of its source.
pub struct Layers(Vec<(String, Table)>);

impl Layers {
    /// The defaults and, if named, a preset with its recipe for the fixed loss `fixed`, and a search, the preset's own
    /// unless another is named. Error: an unknown preset or search.
    pub fn new(preset: Option<&str>, fixed: Option<&str>, search: Option<&str>) -> Result<Layers> {
        let mut layers = Layers(vec![("defaults".into(), parse(DEFAULTS).expect("defaults.toml is valid"))]);
        let Some(name) = preset else {
            return match search {
                Some(search) => layers.add_search(search, &mut None).map(|()| layers),
                None => Ok(layers),
            };
        };
        let Some((_, text, own_search)) = PRESETS.iter().find(|(known, ..)| *known == name) else {
            return Err(unknown("--preset", name, "preset", PRESETS.iter().map(|(name, ..)| *name)));
        };
        let mut table = parse(text).expect("presets are valid");
        let (mut recipes, mut searches) = (table.remove(RECIPES), table.remove(PRESET_SEARCHES));
        layers.0.push((format!("preset {name}"), table));
        layers.set("--preset", "run.preset", name.into())?;
        if let Some((loss, recipe)) = fixed.and_then(|loss| Some((loss, take(recipes.as_mut()?, loss)?))) {
            layers.0.push((format!("preset {name}, recipe {loss}"), recipe));
        }
        let search = search.unwrap_or(own_search);
        layers.add_search(search, &mut searches)?;
        Ok(layers)
    }

    /// The settings of a search over those of the one below it, and what a preset says else for each.
    fn add_search(&mut self, name: &str, of_preset: &mut Option<Value>) -> Result<()> {
        let Some((_, text, below)) = SEARCHES.iter().find(|(known, ..)| *known == name) else {
            return Err(unknown("--search", name, "search", SEARCHES.iter().map(|(name, ..)| *name)));
        };
        if let Some(below) = below {
            self.add_search(below, of_preset)?;
        }
        let of_preset = of_preset.as_mut().and_then(|searches| take(searches, name));
        self.0.push((format!("search {name}"), parse(text).expect("searches are valid")));
        self.0.extend(of_preset.map(|table| (format!("search {name} of the preset"), table)));
        Ok(())
    }

    /// Adds what a theta is a loss with. Sigmas that were set before are gone if they are another space's, or if `settings`
    /// say sigma.
    pub fn add_learned(&mut self, source: String, settings: Table) {
        const SPACE: &str = "search.space";
        let lines = Value::from("lines"); // what is meant where nothing is said
        let space = self.source(SPACE).map_or(&lines, |(_, space)| space);
        let fit = value(&settings, SPACE) == Some(space) && value(&settings, "search.sigma").is_none();
        for (_, table) in &mut self.0 {
            if let Some(Value::Table(search)) = table.get_mut("search").filter(|_| !fit) {
                search.remove("sigmas");
            }
        }
        self.0.push((source, settings));
    }

    /// Adds a TOML file. Errors: unreadable, not TOML.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|why| Error::config(format!("--config {}: can't be read: {why}", path.display())))?;
        let table = parse(&text).map_err(|why| Error::config(format!("{}: {why}", path.display())))?;
        self.0.push((path.display().to_string(), table));
        Ok(())
    }

    /// Sets one dotted key from a flag. Error: `key` is not of the form a.b.
    pub fn set(&mut self, source: &str, key: &str, value: Value) -> Result<()> {
        let mut table = Table::new();
        let mut names = key.split('.').rev();
        let last = names.next().unwrap_or_default();
        if last.is_empty() || !key.contains('.') {
            return Err(Error::config(format!("{source}: '{key}' is no key; keys look like search.sigma")));
        }
        table.insert(last.into(), value);
        for name in names {
            table = Table::from_iter([(name.to_string(), Value::Table(table))]);
        }
        self.0.push((source.into(), table));
        Ok(())
    }

    /// `--set KEY=VALUE`; the value is TOML, a bare word counts as a string.
    pub fn set_text(&mut self, assignment: &str) -> Result<()> {
        let source = format!("--set {assignment}");
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Error::config(format!("{source}: expected KEY=VALUE, for example search.sigma=0.3")));
        };
        let (key, text) = (key.trim(), text.trim());
        let value = match parse(&format!("value = {text}")) {
            Ok(mut table) => table.remove("value").expect("just parsed"),
            Err(_) => Value::String(text.into()),
        };
        self.set(&source, key, value)
    }

    /// Merges, types, fills in what depends on other keys, and checks.
    pub fn resolve(&self) -> Result<Config> {
        let mut merged = Table::new();
        for (_, table) in &self.0 {
            // two ways to say one thing: the later one holds
            for (said, other) in [("search.round_epochs", "rounds"), ("search.warmup_epochs", "late")] {
                if let (Some(_), Some(Value::Table(search))) = (value(table, said), merged.get_mut("search")) {
                    search.remove(other);
                }
            }
            merge(&mut merged, table);
        }
        let typed: TypedConfig = serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| {
            let key = error.path().to_string();
            let why = error.inner().message().replace('\n', " ");
            // an unknown field's path ends at its table; its own name stands in the message
            let named =
                why.split('`').nth(1).map(|name| format!("{key}.{name}")).filter(|key| self.source(key).is_some());
            Error::config(self.describe(&named.unwrap_or(key), &why))
        })?;
        typed.try_resolve().map_err(|(key, why)| Error::config(self.describe(key, &why)))
    }

    /// The value of a dotted key and the source that set it last.
    fn source(&self, key: &str) -> Option<(&str, &Value)> {
        self.0.iter().rev().find_map(|(source, table)| Some((source.as_str(), value(table, key)?)))
    }

    fn describe(&self, key: &str, why: &str) -> String {
        match self.source(key) {
            Some((source, value)) if !value.is_table() => format!("{key} = {value} ({source}): {why}"),
            _ => format!("{key}: {why}"),
        }
    }
}

/// The value of a dotted key.
fn value<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = table.get(names.next()?)?;
    names.try_fold(first, |value, name| value.as_table()?.get(name))
}

/// The table `name` out of a table of tables.
fn take(tables: &mut Value, name: &str) -> Option<Table> {
    match tables.as_table_mut()?.remove(name)? {
        Value::Table(table) => Some(table),
        _ => None,
    }
}

fn unknown(flag: &str, name: &str, what: &str, known: impl Iterator<Item = &'static str>) -> Error {
    let known: Vec<_> = known.collect();
    Error::config(format!("{flag} {name}: there is no such {what}; known: {}", known.join(", ")))
}

fn parse(text: &str) -> std::result::Result<Table, String> {
    toml::from_str::<Table>(text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        format!("line {line}: {}", error.message().replace('\n', " "))
    })
}

fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super as config;
    use super::*;

    fn error(assignments: &[&str]) -> String {
        let mut layers = Layers::new(Some("demo"), None, None).unwrap();
        for assignment in assignments {
            layers.set_text(assignment).unwrap();
        }
        layers.resolve().unwrap_err().to_string()
    }

    fn resolve(preset: &str, search: Option<&str>, set: &[&str]) -> Config {
        let mut layers = Layers::new(Some(preset), None, search).unwrap();
        for assignment in ["data.path=x"].iter().chain(set) {
            layers.set_text(assignment).unwrap();
        }
        layers.resolve().unwrap()
    }

    #[test]
    fn errors_name_key_value_source_and_what_is_allowed() {
        assert_eq!(error(&["search.sigma=-1"]), "search.sigma = -1 (--set search.sigma=-1): must be above 0");
        assert_eq!(
            error(&["search.policy=greedy"]),
            "search.policy = \"greedy\" (--set search.policy=greedy): unknown name, expected one of `reinforce`, `fixed`, `mirrored`, `natural`, `select`, `sep-cma`"
        );
        assert!(
            error(&["search.simga=0.2"])
                .starts_with("search.simga = 0.2 (--set search.simga=0.2): unknown field `simga`, expected one of")
        );
        assert!(error(&["train.epochs=-3"]).starts_with("train.epochs = -3 (--set train.epochs=-3): invalid value"));
        assert!(error(&["train.epochs=0"]).ends_with("must be 1 to 100000"));
        assert!(error(&["search.samples=5"]).contains("even for the policy 'natural'"));
        assert!(error(&["loss.margin=0.3"]).contains("this loss has no margin"));
        assert!(error(&["data.kind=cifar10"]).contains("--data DIR"));
    }

    #[test]
    fn later_layers_win_and_the_text_round_trips() {
        let mut layers = Layers::new(Some("demo"), None, None).unwrap();
        layers.set_text("train.epochs = 3").unwrap();
        layers.set("--loss", "loss.name", "arcface".into()).unwrap();
        let config = layers.resolve().unwrap();
        assert_eq!((config.train.epochs, config.model.depth, config.typed().loss.margin), (3, 8, Some(0.5)));
        let text = config.to_toml();
        assert_eq!(TypedConfig::from_toml(&text).unwrap().resolve().unwrap().to_toml(), text);
    }

    #[test]
    fn every_preset_resolves() {
        for (name, text, _) in PRESETS {
            let resolve = |loss: Option<&str>| {
                let mut layers = Layers::new(Some(name), loss, None).unwrap();
                layers.set("--data", "data.path", "somewhere".into()).unwrap();
                if let Some(loss) = loss {
                    layers.set("--loss", "loss.name", loss.into()).unwrap();
                }
                layers.resolve().unwrap()
            };
            let searched = resolve(None);
            for (loss, _) in parse(text).unwrap().get(RECIPES).and_then(Value::as_table).into_iter().flatten() {
                assert_ne!(resolve(Some(loss)).to_toml(), searched.to_toml(), "{name}, {loss}");
            }
        }
    }

    #[test]
    fn a_search_is_over_its_preset_and_the_later_way_to_say_rounds_holds() {
        let named = |config: &Config| (config.search.name.clone().unwrap(), config.search.samples);
        assert_eq!(named(&resolve("demo", None, &[])), ("robust".into(), 4));
        assert_eq!(named(&resolve("demo", Some("paper"), &[])), ("paper".into(), 4));
        assert_eq!(named(&resolve("cifar10", None, &[])), ("paper".into(), 32));
        let robust = resolve("cifar10", Some("robust"), &[]);
        assert_eq!((robust.policy.name, robust.search.round_epochs, robust.train.average), ("natural", 25, Some(1.0)));
        assert_eq!(resolve("megaface", Some("robust"), &[]).train.average, Some(0.2), "the preset's own");
        assert_eq!(resolve("megaface", None, &[]).train.average, None);
        assert_eq!(resolve("cifar10", Some("robust"), &["train.epochs=16"]).search.round_epochs, 2);
        assert_eq!(resolve("cifar10", Some("robust"), &["search.round_epochs=7"]).search.round_epochs, 7);
        assert_eq!(resolve("cifar10", None, &[]).numbers_to_learn(), 24, "4 M");
        assert_eq!(robust.numbers_to_learn(), 6, "t(0) and M weights, of which one follows from the others");
        assert_eq!(resolve("cifar10", Some("robust"), &["loss.tau_weights=raw"]).numbers_to_learn(), 7);
        let error = Layers::new(None, None, Some("rubust")).err().unwrap().to_string();
        assert_eq!(error, "--search rubust: there is no such search; known: paper, robust, late");
    }

    #[test]
    fn a_late_search_is_the_robust_one_from_the_first_milestone_on() {
        let rounds = |preset: &str, set: &[&str]| {
            let search = resolve(preset, Some("late"), set).search;
            (search.warmup_epochs, search.round_epochs)
        };
        assert_eq!(rounds("cifar10", &[]), (100, 13), "8 rounds of 100 epochs");
        assert_eq!(rounds("cifar10", &["train.milestones=[40, 60]", "train.epochs=80"]), (40, 5));
        assert_eq!(rounds("cifar10", &["train.milestones=[]"]), (100, 13), "the rate never falls: half");
        assert_eq!(rounds("cifar10", &["train.milestones=[300]"]), (100, 13), "not within the training");
        assert_eq!(rounds("cifar10", &["search.warmup_epochs=8"]), (8, 24));
        assert_eq!(rounds("cifar10", &["search.late=false"]), (0, 25));
        let demo = resolve("demo", Some("late"), &[]).search;
        assert_eq!(
            (demo.rounds, demo.sigmas["log_weight"]),
            (Some(4), 0.063),
            "the preset's own for the robust search"
        );
        assert_eq!(demo.name.unwrap(), "late");
    }

    #[test]
    fn the_papers_search_is_what_the_defaults_say() {
        let resolve = |search: Option<&str>| {
            let mut layers = Layers::new(None, None, search).unwrap();
            layers.set_text("data.path=x").unwrap();
            let config = layers.resolve().unwrap();
            config::Search { name: None, ..config.search }
        };
        assert_eq!(resolve(Some("paper")), resolve(None));
    }

    #[test]
    fn a_recipe_is_over_its_preset_and_under_everything_else() {
        let mut layers = Layers::new(Some("megaface"), Some("a-softmax"), None).unwrap();
        for assignment in ["loss.name=a-softmax", "data.path=x", "train.batch_size=7"] {
            layers.set_text(assignment).unwrap();
        }
        let config = layers.resolve().unwrap();
        assert_eq!((config.train.epochs, config.train.batch_size, config.typed().loss.margin), (14, 7, Some(4.0)));
        assert_eq!(config.loss.head.kind, crate::loss::HeadKind::Weights);
    }

    #[test]
    fn differences_ignore_where_it_runs_and_name_what_changed() {
        let ours = Layers::new(Some("demo"), None, None).unwrap().resolve().unwrap().typed().clone();
        let mut theirs = ours.clone();
        theirs.run.keep = 9;
        theirs.data.path = Some("elsewhere".into());
        assert!(ours.differences(&theirs).is_empty());
        theirs.search.sigma = 0.5;
        assert_eq!(ours.differences(&theirs), ["search.sigma is 0.5 there and 0.2 here"]);
    }
}
