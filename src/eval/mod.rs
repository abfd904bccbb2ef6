//! Measuring trained networks by the benchmarks' protocols.

mod closed_set;
pub mod devkit;
pub mod distances;
mod embedder;
mod features;
pub mod identification;
pub mod lfw;
pub mod megaface;
mod neighbours;
mod pickle_check;
pub mod reranking;
pub mod retrieval;
mod scores;
mod shares;
mod top;
pub mod verification;

pub use closed_set::ClosedSet;
pub use embedder::{BATCH, Embedder};
pub use features::{Features, read_shared};
pub use identification::{Identification, normalise_rows};
