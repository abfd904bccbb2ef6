//! What images can be read from: CIFAR-10, generated glyphs, image files, packed persons.

mod cifar;
mod encoded;
mod glyph_images;
mod glyphs;
mod persons;
mod resized;
mod scaled;

pub use cifar::Cifar10;
pub use encoded::{Encoded, EncodedImages, Fit};
pub use glyph_images::GlyphImages;
pub use glyphs::Glyphs;
pub use persons::Persons;
pub use resized::{Resized, resize};
pub use scaled::Scaled;
