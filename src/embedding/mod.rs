//! Where the features that the protocols measure come from: a checkpoint's network, or files.

mod embedder;
mod feature_source;

pub use embedder::Embedder;
pub use feature_source::{FeatureSource, read_shared};
