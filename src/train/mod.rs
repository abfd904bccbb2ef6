//! Training one sample model: replicas on the rank's devices, an optimiser on one flat buffer, a schedule.

mod average;
mod normalisation;
mod optimizer;
mod replicas;
mod trainer;

pub use average::Average;
pub use normalisation::Normalisation;
pub use optimizer::Optimizer;
pub use replicas::{Replicas, Step};
pub use trainer::{EVALUATION_BATCH, EpochPlan, Observer, Trained, Trainer, evaluation_batches, learning_rate};
