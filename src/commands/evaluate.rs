//! Measures a checkpoint's model on the test set.

use crate::checkpoint;
use crate::cli::EvaluateArguments;
use crate::config::Config;
use crate::device;
use crate::error::{Error, Result};
use crate::task::{Classification, Task};

pub fn run(arguments: &EvaluateArguments) -> Result<()> {
    let checkpoint = checkpoint::read(&arguments.file)?;
    let mut config = Config::from_toml(&checkpoint.info.config).map_err(|why| Error::file(&arguments.file, why))?;
    config.data.path = arguments.data.clone().or(config.data.path);
    config.run.device = arguments.device.unwrap_or(config.run.device);
    config.run.threads = arguments.threads.unwrap_or(config.run.threads);
    tch::set_num_threads(config.run.threads as i32);
    let devices = device::choose(&config.run)?;
    let mut task = Classification::new(&config, &devices)?;
    let state =
        checkpoint::from_named(&checkpoint.tensors, task.specs()).map_err(|why| Error::file(&arguments.file, why))?;
    task.load(&state);
    let metrics = task.test()?;
    if arguments.json {
        let object: serde_json::Map<_, _> = metrics.into_iter().map(|(name, value)| (name, value.into())).collect();
        println!("{}", serde_json::Value::Object(object));
    } else {
        for (name, value) in metrics {
            println!("test {name:12} {value:.4}");
        }
    }
    Ok(())
}
