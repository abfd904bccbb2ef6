//! What a run knows between epochs, in plain numbers: what `search` works on, `comm` sends and `checkpoint` saves.
//! Nothing here knows of tch, MPI or HDF5.

mod record;
mod sample;
mod tensor_spec;
mod tested;

use serde::ser::{Serialize, SerializeMap, Serializer};

pub use record::{
    Column, EPOCH_COLUMNS, EpochRecord, SAMPLE_COLUMNS, SampleRecord, Shown, Status, Value, highest, lowest, mean,
    seconds_by_phase,
};
pub use sample::{SampleKey, SampleProgress, Within};
pub use tensor_spec::TensorSpec;
pub use tested::{Predictions, Tested};

/// The distribution of loss functions, N(mu, sigma^2), and what its policy remembers from round to round.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyState {
    /// [P] each; empty for a fixed loss.
    pub mu: Vec<f64>,
    pub sigma: Vec<f64>,
    /// Updates of mu so far.
    pub step: u64,
    /// The policy's own vectors, sorted by name: data sets `/policy/<name>`.
    pub memory: Vec<PolicyVector>,
}

/// A vector that a policy carries from round to round.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyVector {
    pub name: String,
    /// For people.
    pub long_name: String,
    /// [P]
    pub values: Vec<f64>,
}

/// mu, sigma, step and the vectors by their names.
impl Serialize for PolicyState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("mu", &self.mu)?;
        map.serialize_entry("sigma", &self.sigma)?;
        map.serialize_entry("step", &self.step)?;
        self.memory.iter().try_for_each(|vector| map.serialize_entry(&vector.name, &vector.values))?;
        map.end()
    }
}
