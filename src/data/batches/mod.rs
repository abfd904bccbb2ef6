//! From a data set to augmented batches, in an order that the epoch's random numbers give.

mod augment;
mod loader;
mod sampler;

pub use augment::Augment;
pub use loader::{Batch, batches};
pub use sampler::{Balanced, shuffled};
