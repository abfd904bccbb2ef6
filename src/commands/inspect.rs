//! Shows what a checkpoint holds.

use std::io::Write;

use serde_json::{Value, json};

use crate::checkpoint::{self, Checkpoint};
use crate::cli::InspectArguments;
use crate::config::TypedConfig;
use crate::error::Result;
use crate::terminal::{epoch_header, epoch_row};

pub fn run(arguments: &InspectArguments) -> Result<()> {
    let checkpoint = checkpoint::read(&arguments.file)?;
    let text = if arguments.json { format!("{}\n", json(&checkpoint)) } else { table(&checkpoint) };
    // a closed pipe (amlfs inspect | head) is not an error
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn table(checkpoint: &Checkpoint) -> String {
    let Checkpoint { info, epoch, policy, history, tensors, test } = checkpoint;
    let count = |group: &str| {
        let tensors = tensors.iter().filter(|tensor| tensor.path.starts_with(group));
        tensors.map(|tensor| tensor.values.len()).sum::<usize>()
    };
    let mut lines = vec![
        format!("epochs      {epoch}"),
        format!("seed        {}", info.seed),
        format!(
            "ran on      {} rank(s) x {} thread(s), {}, libtorch {}",
            info.ranks, info.threads, info.device, info.libtorch
        ),
        format!("model       {} numbers, optimizer {}", count("model/"), count("optimizer/")),
    ];
    lines.extend(test.iter().map(|(name, value)| format!("test        {name} {value:.4}")));
    if !policy.mu.is_empty() {
        lines.push(String::new());
        lines.extend(mu_table(checkpoint));
    }
    if !history.is_empty() {
        lines.push(String::new());
        lines.push(epoch_header());
        lines.extend(history.iter().enumerate().map(|(i, record)| epoch_row(i + 1, record)));
    }
    lines.push(String::new());
    lines.push("configuration".into());
    lines.extend(info.config.lines().map(|line| format!("  {line}")));
    lines.join("\n") + "\n"
}

/// A column for each group of mu's components, a row for each interval.
fn mu_table(checkpoint: &Checkpoint) -> Vec<String> {
    let mu = &checkpoint.policy.mu;
    let space = TypedConfig::from_toml(&checkpoint.info.config).map(|config| config.search.space());
    let Some(space) = space.ok().filter(|space| space.dimension() == mu.len()) else {
        return vec![format!("mu {mu:.4?}")];
    };
    let groups = space.groups();
    let mut rest = &mu[..];
    let columns: Vec<&[f64]> = groups.iter().map(|group| rest.split_off(..group.size).expect("as many")).collect();
    let heads: String = groups.iter().map(|group| format!(" {:>12}", group.name)).collect();
    let mut lines = vec![format!("mu: interval{heads}")];
    for i in 0..space.intervals {
        let cell = |column: &&[f64]| column.get(i).map_or(format!("{:13}", ""), |value| format!(" {value:12.4}"));
        let row: String = columns.iter().map(cell).collect();
        lines.push(format!("{:12}{}", i + 1, row.trim_end()));
    }
    lines
}

/// Numbers that are not finite become null: JSON has none.
fn json(checkpoint: &Checkpoint) -> Value {
    let Checkpoint { info, epoch, policy, history, tensors, test } = checkpoint;
    json!({
        "epoch": epoch,
        "seed": info.seed,
        "ranks": info.ranks,
        "threads": info.threads,
        "libtorch": info.libtorch,
        "device": info.device,
        "config": info.config,
        "policy": policy,
        "history": history,
        "tensors": tensors.iter().map(|tensor| json!({ "path": tensor.path, "shape": tensor.shape })).collect::<Vec<_>>(),
        "test": test.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
    })
}
