//! Features in files: our embeddings, and any toolkit's labelled features.

mod embeddings;
mod feature_file;
mod labelled_features;
pub mod npy;
mod plain_features;

pub use embeddings::{Embeddings, EmbeddingsWriter};
pub use labelled_features::LabelledFeatures;
pub use plain_features::PlainFeatures;
