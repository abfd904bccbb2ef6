//! Shows what a checkpoint holds.

mod follow;
mod summary;
mod view;

use std::io::Write;

use serde_json::{Value, json};

use crate::checkpoint::{self, Checkpoint};
use crate::cli::InspectArguments;
use crate::error::Result;

pub fn run(arguments: &InspectArguments) -> Result<()> {
    if arguments.follow {
        return follow::run(&arguments.file);
    }
    let checkpoint = checkpoint::read(&arguments.file)?;
    let text = match arguments.json {
        true => format!("{}\n", json(&checkpoint)),
        false => summary::of(&checkpoint, arguments.all),
    };
    // a closed pipe (amlfs inspect | head) is not an error
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// Numbers that are not finite become null: JSON has none.
fn json(checkpoint: &Checkpoint) -> Value {
    let Checkpoint { info, epoch, policy, history, tensors, test, predictions } = checkpoint;
    json!({
        "epoch": epoch,
        "seed": info.seed,
        "ranks": info.ranks,
        "threads": info.threads,
        "libtorch": info.libtorch,
        "device": info.device,
        "config": info.config,
        "classes": info.classes,
        "policy": policy,
        "history": history,
        "tensors": tensors.iter().map(|tensor| json!({ "path": tensor.path, "shape": tensor.shape })).collect::<Vec<_>>(),
        "test": test.iter().map(|(name, value)| (name.clone(), json!(value))).collect::<serde_json::Map<_, _>>(),
        "predictions": predictions,
    })
}
