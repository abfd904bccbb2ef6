//! Images and labels: where they come from, how they are split, and how batches of them reach the training loop.

mod augment;
mod cifar;
mod dataset;
pub mod decode;
mod embeddings;
mod files;
mod glyph_images;
mod glyphs;
mod identities;
mod identities_by_camera;
mod labelled_features;
mod loader;
pub mod npy;
mod packed;
mod persons;
mod prepare;
pub mod recordio;
mod resized;
mod sampler;

pub use augment::Augment;
pub use cifar::Cifar10;
pub use dataset::{Dataset, LabelChange, add_label_noise, stratified_split};
pub use embeddings::{Embeddings, EmbeddingsWriter};
pub use files::{Encoded, EncodedImages};
pub use glyph_images::GlyphImages;
pub use glyphs::Glyphs;
pub use identities::{HeldOut, hold_out_identities};
pub use identities_by_camera::{HeldOutByCamera, hold_out_by_camera};
pub use labelled_features::LabelledFeatures;
pub use loader::{Batch, batches};
pub use packed::{Packed, Places, Split, Store};
pub use persons::Persons;
pub use prepare::{Folder, Market, Options as PrepareOptions, Records, Report, Source, prepare};
pub use recordio::RecordIo;
pub use resized::{Resized, resize};
pub use sampler::{Balanced, shuffled};

use crate::error::Result;

/// A source of images of one size, addressed by number. Shared by the loader's threads.
pub trait Images: Send + Sync {
    fn count(&self) -> usize;

    /// Height and width in pixels.
    fn size(&self) -> (usize, usize);

    /// Label of image `index`, below the number of classes.
    fn label(&self, index: usize) -> u32;

    /// Writes image `index` as RGB bytes [H, W, 3]. Error: a damaged image.
    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<()>;
}
