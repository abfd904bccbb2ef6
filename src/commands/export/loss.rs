//! The loss that a search learned, as numbers and as a module of PyTorch.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::format_of;
use crate::atomic_file;
use crate::checkpoint::{self, Checkpoint};
use crate::cli::{ExportLossArguments, LossFormat};
use crate::commands::learned;
use crate::config::{Config, TypedConfig};
use crate::error::{Error, Result};
use crate::loss::{Function, HeadKind};
use crate::loss_file::{FILETYPE, VERSION};
use crate::terminal;

/// A module that works by itself; what was learned takes the place of the last assignment.
const MODULE: &str = include_str!("learned_loss.py");
const LEARNED: &str = "\nLEARNED = ";

pub fn export(arguments: &ExportLossArguments) -> Result<()> {
    let ExportLossArguments { model, out, format } = arguments;
    let format = format_of(*format, out, [("py", LossFormat::Python), ("json", LossFormat::Json)])?;
    atomic_file::refuse_existing(out)?;
    let file = &checkpoint::file_of(model)?;
    let checkpoint = learned::searched(file)?;
    let config = TypedConfig::from_toml(&checkpoint.info.config).and_then(TypedConfig::resolve);
    let config = config.map_err(|why| Error::file(file, why))?;
    let learned = object(&learned_of(&checkpoint, &config, file).map_err(|why| Error::file(file, why))?);
    let text = match format {
        LossFormat::Json => learned + "\n",
        LossFormat::Python => {
            let (module, _) = MODULE.rsplit_once(LEARNED).expect("learned_loss.py has it");
            // JSON without null, true and false is Python
            format!("{module}{LEARNED}{learned}\n")
        }
    };
    atomic_file::write_bytes(out, text.as_bytes())?;
    let (done, all) = (checkpoint.epoch, config.train.epochs);
    let unfinished = if done < all { ": the search has not ended" } else { "" };
    terminal::line(&format!("{}: what was learned in {done} of {all} epochs{unfinished}", out.display()));
    Ok(())
}

/// The fields of the file, in order (docs/format.md). Error: numbers that are none, or that don't belong to the configuration.
fn learned_of(
    checkpoint: &Checkpoint,
    config: &Config,
    file: &Path,
) -> std::result::Result<Vec<(&'static str, Value)>, String> {
    let (space, head) = (config.space(), config.loss.head);
    let Function::Unified { w_max, tau_weights, logit_adjustment, .. } = config.loss.function else {
        return Err("damaged: it has a mean of losses, and its configuration a fixed loss".into());
    };
    let (mean, history) = (&checkpoint.policy.mu, &checkpoint.history);
    if mean.len() != space.dimension() {
        let (found, expected) = (mean.len(), space.dimension());
        return Err(format!("damaged: theta has {found} numbers, by its configuration {expected}"));
    }
    let means: Vec<Vec<f64>> = history.iter().map(|record| record.mu.clone()).collect();
    let chosen = learned::chosen(history);
    let schedules = [("policy/mu", std::slice::from_ref(mean)), ("history/mu", &means), ("history/theta", &chosen)];
    if let Some((name, _)) = schedules.iter().find(|(_, rows)| rows.iter().flatten().any(|x| !x.is_finite())) {
        return Err(format!("{name} has numbers that are not finite: there is no loss to export"));
    }
    let test = checkpoint.test.iter().filter(|(_, value)| value.is_finite());
    let mut fields = vec![
        ("filetype", json!(FILETYPE)),
        ("version", json!(VERSION)),
        (
            "run",
            json!({
                "checkpoint": std::path::absolute(file).unwrap_or_else(|_| file.to_owned()).to_string_lossy(),
                "epoch": checkpoint.epoch,
                "epochs": config.train.epochs,
                "seed": checkpoint.info.seed,
                "test": test.map(|(name, value)| (name.clone(), json!(value))).collect::<Map<_, _>>(),
                "exported_by": concat!("amlfs ", env!("CARGO_PKG_VERSION")),
                "git_sha1": env!("AMLFS_GIT_SHA1"),
            }),
        ),
        ("head", json!(head.kind)),
    ];
    if head.kind == HeadKind::Normalised {
        fields.push(("scale", json!(head.scale)));
    }
    fields.extend([
        ("space", json!(space.kind)),
        ("intervals", json!(space.intervals)),
        ("w_max", json!(w_max)),
        ("tau_weights", json!(tau_weights)),
        ("logit_adjustment", json!(logit_adjustment)),
        ("components", json!(space.names())),
        ("mean", json!(mean)),
        ("means", json!(means)),
        ("chosen", json!(chosen)),
    ]);
    Ok(fields)
}

/// JSON for people, too: a line for each field, and for each row of one that has rows.
fn object(fields: &[(&str, Value)]) -> String {
    let value = |value: &Value| match value {
        Value::Array(rows) if rows.iter().any(Value::is_array) => {
            let rows: Vec<String> = rows.iter().map(|row| format!("        {row}")).collect();
            format!("[\n{}\n    ]", rows.join(",\n"))
        }
        other => other.to_string(),
    };
    let lines: Vec<String> = fields.iter().map(|(name, field)| format!("    \"{name}\": {}", value(field))).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}
