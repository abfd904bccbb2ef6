//! What the protocols share: inner products, the largest of many scores, unit rows, blocks of work for ranks and threads.

pub mod blocks;
pub mod bounded_product;
pub mod inner_products;
mod integer_product;
pub mod largest;
mod unit_rows;

pub use unit_rows::{normalise_rows, unit_rows, unit_rows_of};
