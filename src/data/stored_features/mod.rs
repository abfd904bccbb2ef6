//! Features in files: our embeddings, and any toolkit's labelled features.

mod embeddings;
mod labelled_features;
pub mod npy;

pub use embeddings::{Embeddings, EmbeddingsWriter};
pub use labelled_features::LabelledFeatures;
