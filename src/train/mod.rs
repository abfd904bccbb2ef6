//! Training one sample model: replicas on the rank's devices, an optimiser on one flat buffer, a schedule.

mod optimizer;
mod replicas;
mod trainer;

pub use optimizer::Optimizer;
pub use replicas::{Normalisation, Replicas, Step};
pub use trainer::{EpochPlan, Trainer, learning_rate};
