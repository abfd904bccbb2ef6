//! Pairs of faces, same or not: LFW-like sets and closed sets.

mod closed_set;
pub mod lfw;
pub mod pair_list;
mod pickle_check;
pub mod verification;

pub use closed_set::ClosedSet;
