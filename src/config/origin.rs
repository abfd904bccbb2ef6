//! Which preset a stored configuration was started with, and what it sets otherwise.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::layers::{Layers, PRESETS};
use super::{TypedConfig, UNIFIED};
use crate::error::Result;

/// Where a configuration comes from.
#[derive(Debug, PartialEq)]
pub struct Origin {
    /// The presets that it may have been started with; none: the defaults alone.
    pub presets: Vec<&'static str>,
    /// Whether the configuration names its preset; if not, `presets` are those that differ least.
    pub named: bool,
    pub changes: Vec<Change>,
}

/// A setting that is another than the preset's.
#[derive(Debug, PartialEq)]
pub struct Change {
    /// `train.epochs`
    pub key: String,
    /// As TOML; `None`: not set.
    pub value: Option<String>,
    pub preset: Option<String>,
}

/// What only says how a run was started, or is told by everything that describes a run.
const APART: [&str; 6] = ["data.path", "search.name", "run.preset", "run.seed", "run.threads", "run.device"];

impl TypedConfig {
    /// Errors: the configuration names a preset or a search that this version does not have.
    pub fn origin(&self) -> Result<Origin> {
        if let Some(name) = &self.run.preset {
            let changes = self.changes(Some(name))?;
            let presets = PRESETS.iter().map(|(known, ..)| *known).filter(|known| known == name).collect();
            return Ok(Origin { presets, named: true, changes });
        }
        let mut nearest = Origin { presets: Vec::new(), named: false, changes: self.changes(None)? };
        for &(name, ..) in PRESETS {
            let changes = self.changes(Some(name))?;
            if changes.len() < nearest.changes.len() {
                nearest = Origin { presets: vec![name], named: false, changes };
            } else if changes == nearest.changes && !nearest.presets.is_empty() {
                nearest.presets.push(name);
            }
        }
        Ok(nearest)
    }

    /// The settings that are others than if nothing but the preset and the kind of run had been named.
    fn changes(&self, preset: Option<&str>) -> Result<Vec<Change>> {
        let mut of_preset = settings(self.started_with(preset)?.typed());
        let mut ours = settings(self);
        for key in APART {
            of_preset.remove(key);
            ours.remove(key);
        }
        // one follows from the other
        let rounds = if self.search.rounds.is_some() { "search.round_epochs" } else { "search.rounds" };
        let warmup = if self.search.late { "search.warmup_epochs" } else { "search.late" };
        for follows in [rounds, warmup] {
            of_preset.remove(follows);
            ours.remove(follows);
        }
        let mut keys: Vec<&String> = of_preset.keys().chain(ours.keys()).collect();
        keys.sort();
        keys.dedup();
        let value = |table: &BTreeMap<String, Value>, key: &String| table.get(key).map(Value::to_string);
        let change =
            |key: &String| Change { key: key.clone(), value: value(&ours, key), preset: value(&of_preset, key) };
        Ok(keys.into_iter().map(change).filter(|change| change.value != change.preset).collect())
    }

    fn started_with(&self, preset: Option<&str>) -> Result<super::Config> {
        let fixed = (self.loss.name != UNIFIED).then_some(&self.loss.name[..]);
        let mut layers = Layers::new(preset, fixed, self.search.name.as_deref())?;
        layers.set("", "data.path", "anywhere".into())?;
        let kind: &[(&str, Value)] = match fixed {
            Some(loss) => {
                &[("loss.name", loss.into()), ("search.samples", 1.into()), ("search.policy", "fixed".into())]
            }
            None if self.search.schedule.is_empty() => &[],
            // a replay
            None => &[
                ("search.samples", 1.into()),
                ("search.policy", "select".into()),
                ("search.round_epochs", 1.into()),
                ("search.warmup_epochs", 0.into()),
            ],
        };
        for (key, value) in kind {
            layers.set("", key, value.clone())?;
        }
        layers.resolve()
    }
}

/// Every value by its dotted key.
fn settings(config: &TypedConfig) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, table: Table, into: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            match value {
                Value::Table(table) => collect(&format!("{prefix}{key}."), table, into),
                value => drop(into.insert(format!("{prefix}{key}"), value)),
            }
        }
    }
    let mut settings = BTreeMap::new();
    collect("", Table::try_from(config).expect("a configuration is a table"), &mut settings);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(preset: Option<&str>, fixed: Option<&str>, set: &[&str]) -> TypedConfig {
        let mut layers = Layers::new(preset, fixed, None).unwrap();
        for assignment in [&["data.path=x", "run.seed=7"], set].concat() {
            layers.set_text(assignment).unwrap();
        }
        layers.resolve().unwrap().typed().clone()
    }

    fn told(origin: &Origin) -> Vec<String> {
        let or_nothing = |value: &Option<String>| value.clone().unwrap_or("nothing".into());
        let changes = origin.changes.iter();
        changes.map(|c| format!("{} {} {}", c.key, or_nothing(&c.value), or_nothing(&c.preset))).collect()
    }

    #[test]
    fn a_run_names_its_preset_and_what_was_set_is_found_without_what_follows_from_it() {
        let config = started(Some("demo"), None, &["train.epochs=30", "run.stall_minutes=5.0"]);
        let origin = config.origin().unwrap();
        assert_eq!((&origin.presets[..], origin.named), (&["demo"][..], true));
        assert_eq!(told(&origin), ["run.stall_minutes 5.0 nothing", "train.epochs 30 14"]);
        let rounds = started(Some("demo"), None, &["search.round_epochs=3"]).origin().unwrap();
        assert_eq!(told(&rounds), ["search.round_epochs 3 4"]);
        let late = started(Some("demo"), None, &["search.late=true"]).origin().unwrap();
        assert_eq!(told(&late), ["search.late true nothing"]);
    }

    #[test]
    fn the_loss_of_a_training_is_no_setting_beside_its_preset() {
        let set = ["loss.name=a-softmax", "search.samples=1", "search.policy=fixed", "train.batch_size=7"];
        let training = started(Some("megaface"), Some("a-softmax"), &set).origin().unwrap();
        assert_eq!(told(&training), ["train.batch_size 7 256"]);
        let replay = ["search.samples=1", "search.policy=select", "search.round_epochs=1", "search.warmup_epochs=0"];
        let schedule = format!("{:?}", [[0.5; 24]]);
        let replay = started(Some("cifar10"), None, &[&replay[..], &[&format!("search.schedule={schedule}")]].concat());
        assert_eq!(told(&replay.origin().unwrap()), [format!("search.schedule {schedule} nothing")]);
    }

    #[test]
    fn without_a_name_the_nearest_presets_are_told_as_such() {
        let unnamed = |preset: Option<&str>| {
            let mut config = started(preset, None, &["train.gamma=0.5"]);
            config.run.preset = None;
            config.origin().unwrap()
        };
        for (preset, expected) in [
            (None, vec![]),
            (Some("demo"), vec!["demo"]),
            (Some("market1501-sft"), vec!["market1501-sft", "dukemtmc-sft"]),
        ] {
            let origin = unnamed(preset);
            assert_eq!((origin.presets.clone(), origin.named), (expected, false));
            assert_eq!(told(&origin), ["train.gamma 0.5 0.1"]);
        }
        let mut unknown = started(Some("demo"), None, &[]);
        unknown.run.preset = Some("demos".into());
        let error = unknown.origin().unwrap_err().to_string();
        assert!(error.starts_with("--preset demos: there is no such preset; known: cifar10, "), "{error}");
    }
}
