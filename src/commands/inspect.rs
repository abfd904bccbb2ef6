//! Shows what a checkpoint holds.

use std::io::Write;

use serde_json::{Value, json};

use crate::checkpoint::{self, Checkpoint};
use crate::cli::InspectArguments;
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
    let intervals = policy.mu.len() / 4;
    if intervals > 0 {
        lines.push(String::new());
        lines.push("mu: interval    t: slope    bias    tau: slope    bias".into());
        for i in 0..intervals {
            let [a_t, b_t, a_tau, b_tau] = [0, 1, 2, 3].map(|part| policy.mu[part * intervals + i]);
            lines.push(format!("{i:12} {a_t:11.4} {b_t:7.4} {a_tau:13.4} {b_tau:7.4}"));
        }
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
