//! Measuring logits and features by the benchmarks' protocols. Knows arrays, labels and ranks, nothing of networks or runs.

pub mod classification;
mod kernels;
pub mod likelihood;
pub mod megaface;
pub mod pairs;
pub mod retrieval;

pub use kernels::blocks::records_of_all;
pub use kernels::{normalise_rows, unit_rows, unit_rows_of};
