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
    /// Not a failure: the run was asked to stop. Says what is saved.
    #[error("{0}")]
    Stopped(String),
    /// What another rank has met, and tells.
    #[error("another rank ended with exit code {exit_code}")]
    OfAnotherRank { exit_code: i32 },
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

    /// The same on a rank that leaves it to another to tell.
    pub fn told_elsewhere(&self) -> Error {
        Error::OfAnotherRank { exit_code: self.exit_code() }
    }

    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config(_) => exit::BAD_CONFIG,
            Error::Failed(_) => exit::FAILED,
            Error::Stopped(_) => exit::STOPPED,
            Error::OfAnotherRank { exit_code } => *exit_code,
        }
    }
}

impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Error {
        let text = error.to_string();
        out_of_device_memory(&text).unwrap_or_else(|| {
            // libtorch appends a C++ backtrace after the first line
            Error::Failed(format!("libtorch: {}", text.lines().next().unwrap_or_default()))
        })
    }
}

/// The error with advice if `text`, of an error or of a panic, is libtorch's about a device without free memory.
pub fn out_of_device_memory(text: &str) -> Option<Error> {
    // a panic shows the error's text in quotes, with its line ends escaped
    let mut lines = text.split(['\n', '"']).flat_map(|line| line.split("\\n"));
    let line = lines.find_map(|line| {
        let said = ["CUDA out of memory", "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"];
        said.iter().find_map(|said| line.find(said)).map(|start| line[start..].trim_end())
    })?;
    // after the numbers comes advice for PyTorch
    let line = line.split(" If reserved ").next().unwrap_or(line);
    Some(Error::Failed(format!(
        "libtorch: {line}\nwhat takes less: a smaller train.batch_size, train.precision = \"bf16\", fewer ranks per GPU, or \
         two GPUs for each rank (--devices-per-rank 2)"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHING_ALLOCATOR: &str = "CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 \
        GiB of which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. Of the \
        allocated memory 22.90 GiB is allocated by PyTorch, and 194.87 MiB is reserved by PyTorch but unallocated. If \
        reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid \
        fragmentation.  See documentation for Memory Management  \
        (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)\n\
        Exception raised from malloc at ../c10/cuda/CUDACachingAllocator.cpp:536 (most recent call first):\n\
        frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x6b (0x7fb0d47100db in libc10.so)\n";

    #[test]
    fn no_memory_on_a_gpu_is_an_error_with_advice() {
        let advice = "\nwhat takes less: a smaller train.batch_size, train.precision = \"bf16\", fewer ranks per GPU, or two \
            GPUs for each rank (--devices-per-rank 2)";
        let told = |text: &str| out_of_device_memory(text).map(|error| (error.exit_code(), error.to_string()));
        let expected = "libtorch: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a total capacity of 23.65 GiB of \
            which 11.06 MiB is free. Including non-PyTorch memory, this process has 23.60 GiB memory in use. Of the \
            allocated memory 22.90 GiB is allocated by PyTorch, and 194.87 MiB is reserved by PyTorch but unallocated.";
        let expected = Some((exit::FAILED, format!("{expected}{advice}")));
        let error = tch::TchError::Torch(CACHING_ALLOCATOR.to_owned());
        assert_eq!(told(&error.to_string()), expected);
        assert_eq!(
            Error::from(tch::TchError::Torch(CACHING_ALLOCATOR.to_owned())).to_string(),
            expected.clone().unwrap().1
        );
        let panic =
            format!("panicked at src/wrappers/tensor.rs:1:2:\ncalled `Result::unwrap()` on an `Err` value: {error:?}");
        assert_eq!(told(&panic), expected);

        // libtorch 1.10's, the driver's and cuBLAS'
        for (text, line) in [
            (
                "Internal torch error: CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 3.95 GiB total capacity; 3.16 \
                 GiB already allocated) If reserved memory is >> allocated memory try setting max_split_size_mb",
                "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 3.95 GiB total capacity; 3.16 GiB already allocated)",
            ),
            ("CUDA error: out of memory\nCUDA kernel errors might be", "CUDA error: out of memory"),
            (
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nException raised",
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
            ),
        ] {
            assert_eq!(told(text), Some((exit::FAILED, format!("libtorch: {line}{advice}"))));
        }
        for other in ["index out of range", "CUDA error: device-side assert triggered\nCUDA kernel errors", ""] {
            assert_eq!(told(other), None);
        }
    }
}
