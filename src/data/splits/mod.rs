//! What is held out of training for the reward.

mod identities;
mod identities_by_camera;
pub mod misfit;
mod stratified;

pub use identities::{HeldOut, hold_out_identities};
pub use identities_by_camera::{HeldOutByCamera, hold_out_by_camera};
pub use misfit::Misfit;
pub use stratified::{long_tailed, stratified_split};
