//! Images and labels: where they come from, how they are split, and how batches of them reach the training loop.

mod augment;
mod cifar;
mod dataset;
mod glyph_images;
mod glyphs;
mod loader;

pub use augment::Augment;
pub use cifar::Cifar10;
pub use dataset::{Dataset, LabelChange, add_label_noise, stratified_split};
pub use glyph_images::GlyphImages;
pub use glyphs::Glyphs;
pub use loader::{Batch, batches, shuffled};

/// A source of images of one size, addressed by number. Shared by the loader's threads.
pub trait Images: Send + Sync {
    fn count(&self) -> usize;

    /// Height and width in pixels.
    fn size(&self) -> (usize, usize);

    /// Label of image `index`, below the number of classes.
    fn label(&self, index: usize) -> u32;

    /// Writes image `index` as RGB bytes [H, W, 3].
    fn read(&self, index: usize, pixels: &mut [u8]);
}
