//! Measures a checkpoint's model: on its run's test set here, by a benchmark's protocol in the other files.

mod lfw;
mod megaface;

use crate::checkpoint;
use crate::cli::{EvaluateArguments, EvaluateCommand, EvaluateTestArguments};
use crate::config::Config;
use crate::device;
use crate::error::{Error, Result};
use crate::task;

pub fn run(arguments: &EvaluateArguments) -> Result<()> {
    match &arguments.protocol {
        None => test_set(&arguments.test_set),
        Some(EvaluateCommand::Megaface(arguments)) => megaface::run(arguments),
        Some(EvaluateCommand::Lfw(arguments)) => lfw::run(arguments),
    }
}

fn test_set(arguments: &EvaluateTestArguments) -> Result<()> {
    let file = arguments.file.as_deref().expect("required by the parser");
    let checkpoint = checkpoint::read(file)?;
    let mut config = Config::from_toml(&checkpoint.info.config).map_err(|why| Error::file(file, why))?;
    config.data.path = arguments.data.clone().or(config.data.path);
    config.data.faces.test = arguments.test.clone().or(config.data.faces.test);
    arguments.machine.adjust(&mut config.run);
    tch::set_num_threads(config.run.threads as i32);
    let devices = device::choose(&config.run)?;
    let mut task = task::open(&config, &devices)?;
    let state = checkpoint::from_named(&checkpoint.tensors, task.specs()).map_err(|why| Error::file(file, why))?;
    task.load(&state);
    let metrics = task.test()?;
    if metrics.is_empty() {
        return Err(Error::config("data.faces.test is not set: there is nothing to measure on; give --test FILE"));
    }
    if arguments.json {
        let object: serde_json::Map<_, _> = metrics.into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        for (name, value) in metrics {
            println!("test {name:24} {value:.4}");
        }
    }
    Ok(())
}
