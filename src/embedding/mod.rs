//! A checkpoint's network at work on other images, and where the features that the protocols measure come from.

mod embedder;
mod feature_source;
mod stored_run;
mod tolerant;

pub use embedder::Embedder;
pub use feature_source::{FeatureSource, look_at_feature, look_at_image, read_shared};
pub use stored_run::StoredRun;
pub use tolerant::Tolerant;
