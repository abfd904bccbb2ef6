//! Measuring trained networks by the benchmarks' protocols.

mod closed_set;
pub mod devkit;
mod embedder;
mod features;
pub mod identification;
pub mod lfw;
pub mod megaface;
mod pickle_check;
mod top;
pub mod verification;

pub use closed_set::ClosedSet;
pub use embedder::Embedder;
pub use features::Features;
pub use identification::{Identification, normalise_rows};
