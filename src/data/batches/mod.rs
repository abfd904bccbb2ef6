//! From a data set to augmented batches, in an order that the epoch's random numbers give.

mod augment;
mod loader;
mod resident;
mod sampler;

use augment::Draw;
pub use augment::{Augment, Rectangle, Zoom};
use loader::Example;
pub use loader::{Batch, BatchImages, batches, picked_batches};
pub use resident::{Picks, Resident};
pub use sampler::{Balanced, evened_out, shuffled};
