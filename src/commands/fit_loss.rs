//! Where a search starts to have a known loss first: the nearest theta, and how far it is from the loss.

use std::io::Write;

use serde_json::json;
use toml::Value;

use crate::cli::FitLossArguments;
use crate::config::{Config, Layers};
use crate::error::{Error, Result};
use crate::loss::{Difference, FIXED_LOSSES, FixedLoss, Function, MOST_P, Nearest, Space, SpaceKind, nearest};
use crate::loss_file::{FILETYPE, LossFile, VERSION};
use crate::terminal;

/// What `--set` may say: the rest of a configuration is no part of a loss.
const SETTINGS: [&str; 3] = ["loss.scale", "loss.tau_weights", "loss.w_max"];

pub fn run(arguments: &FitLossArguments) -> Result<()> {
    let spaces = arguments.space.map_or(vec![SpaceKind::Lines, SpaceKind::Derivatives], |space| vec![space]);
    let names = match &arguments.name {
        Some(name) => vec![&name[..]],
        None => FIXED_LOSSES.iter().filter(|kind| kind.by_default().is_in_the_form()).map(|kind| kind.name).collect(),
    };
    if let Some(out) = arguments.out.as_ref().filter(|out| !LossFile::is_named(out)) {
        return Err(Error::config(format!("--out {}: must end in .json", out.display())));
    }
    let mut lines = vec![HEADER.to_owned()];
    for name in &names {
        let config = configured(arguments, name)?;
        for &kind in &spaces {
            let space = Space { kind, intervals: arguments.intervals.into() };
            let found = nearest(fixed(&config), space, config.typed().loss.w_max);
            lines.push(row(&config, kind, &found));
            if arguments.name.is_some() {
                lines.extend(theta(space, &found.theta));
            }
            if let Some(out) = &arguments.out {
                let file = file(arguments, &config, space, found);
                file.write(out)?;
            }
        }
    }
    lines.push(String::new());
    lines.push(format!(
        "M = {}. t: difference in cosine, over [-1, 1]; log weight: of the natural logarithm of examples' weights,",
        arguments.intervals
    ));
    lines.push(format!(
        "over p, where an example counts 1 - p; max: the largest, and at which cosine, or at which p up to {MOST_P}."
    ));
    if names.iter().any(|name| ["l-softmax", "a-softmax"].contains(name)) {
        lines.push("l-softmax and a-softmax: at the end of their annealing, lambda = 5.".into());
    }
    // a closed pipe is not an error
    let _ = std::io::stdout().write_all((lines.join("\n") + "\n").as_bytes());
    if let Some(out) = &arguments.out {
        terminal::line(&out.display().to_string());
    }
    Ok(())
}

/// The loss with its margin and its head, checked.
fn configured(arguments: &FitLossArguments, name: &str) -> Result<Config> {
    let mut layers = Layers::new(None, None, None)?;
    // of a task that needs no data
    layers.set("fit-loss", "data.kind", "glyphs".into())?;
    layers.set("NAME", "loss.name", name.into())?;
    for assignment in &arguments.set {
        if !SETTINGS.contains(&key_of(assignment)) {
            let why = format!("of a loss one can set {}", SETTINGS.join(", "));
            return Err(Error::config(format!("--set {assignment}: {why}")));
        }
        layers.set_text(assignment)?;
    }
    if let Some(margin) = arguments.margin {
        layers.set("--margin", "loss.margin", margin.into())?;
    }
    if let Some(head) = arguments.head {
        layers.set("--head", "loss.head", Value::try_from(head).expect("a name"))?;
    }
    layers.resolve()
}

fn key_of(assignment: &str) -> &str {
    assignment.split('=').next().unwrap_or_default().trim()
}

fn fixed(config: &Config) -> FixedLoss {
    match config.loss.function {
        Function::Fixed(fixed) => fixed,
        Function::Unified { .. } => unreachable!("the parser knows fixed losses only"),
    }
}

const HEADER: &str = "loss       margin space       t: rms    max       at   log weight: rms    max       at";

fn row(config: &Config, space: SpaceKind, found: &Nearest) -> String {
    let loss = &config.typed().loss;
    let margin = loss.margin.map_or("-".to_owned(), |margin| margin.to_string());
    let space = match space {
        SpaceKind::Lines => "lines",
        SpaceKind::Derivatives => "derivatives",
    };
    let figures = |Difference { root_mean_square, largest, at }: &Difference, width: usize| {
        let at = if *largest < 0.00005 { String::new() } else { format!("{at:.3}") };
        format!("{root_mean_square:width$.4} {largest:6.4} {at:>8}")
    };
    let (t, log_weight) = (figures(&found.t, 7), figures(&found.log_weight, 17));
    format!("{:10} {margin:>6} {space:11} {t} {log_weight}", loss.name).trim_end().to_owned()
}

/// A line for each of theta's parts.
fn theta(space: Space, theta: &[f64]) -> Vec<String> {
    let mut rest = theta;
    let mut part = |size: usize| {
        let (part, others) = rest.split_at(size);
        rest = others;
        part.iter().map(|value| format!(" {value:8.4}")).collect::<String>()
    };
    space.groups().iter().map(|group| format!("  {:12}{}", group.name, part(group.size))).collect()
}

fn file(arguments: &FitLossArguments, config: &Config, space: Space, found: Nearest) -> LossFile {
    let loss = &config.typed().loss;
    let said = |key: &str| arguments.set.iter().any(|assignment| key_of(assignment) == key);
    let difference = |of: &Difference| json!({ "rms": of.root_mean_square, "max": of.largest, "at": of.at });
    LossFile {
        filetype: FILETYPE.into(),
        version: VERSION,
        fitted: Some(json!({
            "loss": loss.name,
            "margin": loss.margin,
            "t": difference(&found.t),
            "log_weight": difference(&found.log_weight),
            "fitted_by": concat!("amlfs ", env!("CARGO_PKG_VERSION")),
        })),
        head: config.loss.head.kind,
        scale: said("loss.scale").then_some(loss.scale),
        space: space.kind,
        intervals: space.intervals,
        w_max: loss.w_max,
        tau_weights: said("loss.tau_weights").then_some(loss.tau_weights),
        logit_adjustment: None,
        components: space.names(),
        mean: found.theta,
        means: Vec::new(),
        chosen: Vec::new(),
    }
}
