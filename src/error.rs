//! The one error type for everything a user can meet, and the exit codes that batch scripts act on.

use std::path::Path;

/// Exit codes (README.md). `STOPPED` asks a batch script to requeue the job.
pub mod exit {
    pub const DONE: i32 = 0;
    pub const FAILED: i32 = 1;
    pub const USAGE: i32 = 2;
    pub const STOPPED: i32 = 75;
    pub const BAD_CONFIG: i32 = 78;
    pub const PANIC: i32 = 101;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag, key or combination that can't be: names file, key, value and what is allowed.
    #[error("{0}")]
    Config(String),
    /// Everything else that stops the run: data, files, devices, all samples failed.
    #[error("{0}")]
    Failed(String),
    /// Not a failure: the run was asked to stop, and everything is saved.
    #[error("{0}")]
    Stopped(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn config(message: impl Into<String>) -> Error {
        Error::Config(message.into())
    }

    pub fn failed(message: impl Into<String>) -> Error {
        Error::Failed(message.into())
    }

    /// A file that can't be used: `path: why`.
    pub fn file(path: &Path, why: impl std::fmt::Display) -> Error {
        Error::Failed(format!("{}: {why}", path.display()))
    }

    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config(_) => exit::BAD_CONFIG,
            Error::Failed(_) => exit::FAILED,
            Error::Stopped(_) => exit::STOPPED,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        // libtorch appends a C++ backtrace after the first line
        let text = error.to_string();
        Error::Failed(format!("libtorch: {}", text.lines().next().unwrap_or_default()))
    }
}
