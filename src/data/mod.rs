//! Images and labels: where they come from, how they are split, and how batches of them reach the training loop.

mod batches;
mod dataset;
pub mod decode;
mod image_tree;
mod jpeg;
mod jpeg_encoder;
mod label_noise;
mod listing;
pub mod name_list;
mod packed;
pub mod prepare;
pub mod skipped;
mod sources;
mod splits;
pub mod stored_features;

pub use batches::{
    Augment, Balanced, Batch, BatchImages, Picks, Rectangle, Resident, Zoom, batches, evened_out, picked_batches,
    shuffled,
};
pub use dataset::Dataset;
pub use image_tree::ImageTree;
pub use label_noise::{LabelChange, add_label_noise};
pub use name_list::NameList;
pub use packed::{CamerasAndSplits, Packed, Split, Store, Subset};
pub use prepare::{
    CifarFiles, FaceTree, Folder, LabelledFiles, Market, MarketTree, Options as PrepareOptions, PackingReport, Records,
    Source, prepare,
};
pub use sources::{
    Cifar, ClassImages, Encoded, EncodedImages, Fit, GlyphImages, Glyphs, Persons, Resized, Scaled, resize,
};
pub use splits::{
    HeldOut, HeldOutByCamera, Misfit, hold_out_by_camera, hold_out_identities, long_tailed, misfit, stratified_split,
};
pub use stored_features::{Embeddings, EmbeddingsWriter, LabelledFeatures, PlainFeatures};

use image::RgbImage;

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

    /// Writes the part of image `index` that `choose` takes from its height and width, brought to `size`, as RGB bytes
    /// [H, W, 3]. Error: a damaged image.
    fn read_part(
        &self,
        index: usize,
        size: (usize, usize),
        choose: &mut dyn FnMut((usize, usize)) -> Rectangle,
        pixels: &mut [u8],
    ) -> Result<()> {
        let (height, width) = self.size();
        let mut image = RgbImage::new(width as u32, height as u32);
        self.read(index, &mut image)?;
        sources::resize_part(&image, choose((height, width)), size, pixels);
        Ok(())
    }
}
