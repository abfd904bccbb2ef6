//! What images can be read from: CIFAR, generated glyphs, image files, packed persons and classes.

mod cifar;
mod class_images;
mod encoded;
mod glyph_images;
mod glyphs;
mod persons;
mod resized;
mod scaled;

pub use cifar::{Cifar, NamedCifar};
pub use class_images::ClassImages;
pub use encoded::{Encoded, EncodedImages, Fit};
pub use glyph_images::GlyphImages;
pub use glyphs::Glyphs;
pub use persons::Persons;
pub use resized::{Resized, fit, resize, resize_part, resize_region, shorter_side};
pub use scaled::Scaled;
