//! A run's checkpoint, opened to compute with its network on this machine.

use std::path::{Path, PathBuf};

use tch::Device;

use crate::checkpoint::{self, NamedTensor};
use crate::config::{Config, DataKind, TypedConfig};
use crate::device;
use crate::error::{Error, Result};
use crate::state::TensorSpec;

pub struct StoredRun {
    path: PathBuf,
    pub config: Config,
    /// Names of the classes that its network tells apart, by label; none in files of a format before 1.3.
    pub classes: Vec<String>,
    /// Chosen, so a program with MPI opens the run before MPI_Init.
    pub devices: Vec<Device>,
    tensors: Vec<NamedTensor>,
}

impl StoredRun {
    /// `adjust` changes what is not the run's to say here, such as device and threads. Errors: not a checkpoint; the
    /// device is not there.
    pub fn open(path: &Path, adjust: impl FnOnce(&mut TypedConfig)) -> Result<StoredRun> {
        let path = &checkpoint::file_of(path)?;
        let checkpoint = checkpoint::read(path)?;
        let stored = TypedConfig::from_toml(&checkpoint.info.config);
        let mut typed = stored.map_err(|why| Error::file(path, why))?;
        adjust(&mut typed);
        let config = typed.resolve().map_err(|why| Error::file(path, why))?;
        tch::set_num_threads(config.run.threads as i32);
        let devices = device::choose(&config.run)?;
        let classes = checkpoint.info.classes;
        Ok(StoredRun { path: path.to_owned(), config, classes, devices, tensors: checkpoint.tensors })
    }

    pub fn kind(&self) -> DataKind {
        self.config.typed().data.kind
    }

    /// The state vector that `specs` describe. Error: the checkpoint is of another network.
    pub fn state(&self, specs: &[TensorSpec]) -> Result<Vec<f32>> {
        checkpoint::from_named(&self.tensors, specs).map_err(|why| self.unfit(why))
    }

    /// The shape of the checkpoint's tensor of this name. Error: it has none.
    pub fn shape(&self, tensor: &str) -> Result<&[usize]> {
        let found = self.tensors.iter().find(|found| found.path == tensor);
        found.map(|found| &found.shape[..]).ok_or_else(|| self.unfit(format!("it has no tensor {tensor}")))
    }

    /// The checkpoint can't be used, and why.
    pub fn unfit(&self, why: impl std::fmt::Display) -> Error {
        Error::file(&self.path, why)
    }
}
