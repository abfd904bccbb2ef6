//! AM-LFS: searches a loss function while the network trains. docs/architecture.md is the map.

mod atomic_file;
pub mod checkpoint;
pub mod cli;
pub mod comm;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
mod embedding;
pub mod error;
pub mod eval;
mod hdf5_file;
mod lookout;
pub mod loss;
pub mod model;
pub mod policy;
pub mod pretrained;
pub mod process;
pub mod rng;
pub mod run_directory;
mod run_lock;
pub mod search;
pub mod state;
pub mod stop;
pub mod task;
pub mod terminal;
pub mod train;
