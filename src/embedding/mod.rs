//! Where the features that the protocols measure come from: a checkpoint's network, or files.

mod embedder;
mod feature_source;
mod stored_run;

pub use embedder::Embedder;
pub use feature_source::{FeatureSource, look_at_feature, look_at_image, read_shared};
pub use stored_run::StoredRun;
