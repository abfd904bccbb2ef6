//! What a file is that is none of the wanted kind: for messages.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Outcome, trailer};

/// In words, if the file is certainly something else than a checkpoint, such as a packed data set or a NumPy file.
pub fn instead_of_a_checkpoint(path: &Path) -> Option<&'static str> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(16).read_to_end(&mut start).ok()?;
    match &start[..] {
        [0x89, b'H', b'D', b'F', ..] => ours(path).ok(),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("a NumPy file"),
        [b'P', b'K', 3, 4, ..] => Some("a zip archive, as PyTorch's .pth and NumPy's .npz files are"),
        [0x80, 2..=5, ..] => Some("a pickle"),
        // the length of a JSON header
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Some("a .safetensors file"),
        _ => Some("not an HDF5 file"),
    }
}

/// Error: not a whole file of ours with a large data set.
fn ours(path: &Path) -> Outcome<&'static str> {
    trailer::check(&File::open(path)?)?;
    let file = super::open(path)?;
    Ok(match super::text(&file, "filetype")?.as_str() {
        "amlfs images" => "packed images, which amlfs prepare wrote",
        "amlfs embeddings" => "embeddings, which amlfs export embeddings wrote",
        _ => "another file of amlfs'",
    })
}
