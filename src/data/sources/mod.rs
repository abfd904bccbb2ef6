//! What images can be read from: CIFAR, generated glyphs, image files, packed persons.

mod cifar;
mod encoded;
mod glyph_images;
mod glyphs;
mod persons;
mod resized;
mod scaled;

pub use cifar::Cifar;
pub use encoded::{Encoded, EncodedImages, Fit};
pub use glyph_images::GlyphImages;
pub use glyphs::Glyphs;
pub use persons::Persons;
pub use resized::{Resized, resize};
pub use scaled::Scaled;
