//! What a run knows between epochs, in plain numbers: what `search` works on, `comm` sends and `checkpoint` saves.
//! Nothing here knows of tch, MPI or HDF5.

/// How a sample's epoch ended. The numbers are those of `/history/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Trained, with a finite reward.
    Ok = 0,
    /// Loss, weights or reward were not finite.
    Failed = 1,
    /// No reward was due: inside a round, or not needed in a warm-up epoch.
    NotMeasured = 2,
}

impl Status {
    pub fn from_number(number: u8) -> Option<Status> {
        [Status::Ok, Status::Failed, Status::NotMeasured].into_iter().find(|&status| status as u8 == number)
    }
}

/// One sample (theta_i) in one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleRecord {
    /// theta_i, 4M numbers; empty for a fixed loss.
    pub theta: Vec<f64>,
    pub status: Status,
    /// NaN unless `status` is `Ok`.
    pub reward: f64,
    /// NaN where there was no update.
    pub advantage: f64,
    /// Mean training loss of the epoch; NaN if not trained.
    pub train_loss: f64,
    /// Wall-clock seconds of training and of validation.
    pub train_seconds: f64,
    pub validation_seconds: f64,
}

/// One epoch of the search: a row of every `/history` data set.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// The distribution's mean that the epoch's thetas were drawn from.
    pub mu: Vec<f64>,
    /// One per sample, B of them.
    pub samples: Vec<SampleRecord>,
    /// Index of the sample whose model went on; -1 inside a round.
    pub best: i64,
    pub learning_rate: f64,
    /// |gradient of mu| and |change of mu| (Euclidean); 0 where there was no update.
    pub gradient_norm: f64,
    pub delta_norm: f64,
    /// Training images per second over all ranks.
    pub images_per_second: f64,
    /// Seconds of the whole epoch, of waiting for the slowest rank, of Allgather + policy + Bcast, and of writing the
    /// previous checkpoint (a file can't hold the time of its own writing).
    pub seconds: f64,
    pub wait_seconds: f64,
    pub exchange_seconds: f64,
    pub checkpoint_seconds: f64,
}

/// The distribution of loss functions: N(mu, sigma^2), and its Adam state.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyState {
    /// [4M] each; empty for a fixed loss.
    pub mu: Vec<f64>,
    pub sigma: Vec<f64>,
    pub adam_m: Vec<f64>,
    pub adam_v: Vec<f64>,
    pub step: u64,
}

/// Where one named tensor lies in a task's state vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Path in the checkpoint: `model/layer1.0.conv1.weight`, `optimizer/layer1.0.conv1.weight/momentum`.
    pub path: String,
    /// Logical shape, as PyTorch's state dict has it.
    pub shape: Vec<usize>,
    /// First element in the state vector.
    pub offset: usize,
    /// 4-D weights lie in memory as [O, H, W, I] (channels_last); files hold [O, I, H, W].
    pub channels_last: bool,
}

impl TensorSpec {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor's values in a state vector, row-major in the order of `shape`. Panics if it reaches beyond `state`.
    pub fn read(&self, state: &[f32]) -> Vec<f32> {
        let memory = &state[self.offset..self.offset + self.len()];
        match self.channels_last_sizes() {
            None => memory.to_vec(),
            Some((outputs, inputs, pixels)) => {
                let mut values = Vec::with_capacity(memory.len());
                for output in 0..outputs {
                    for input in 0..inputs {
                        values.extend((0..pixels).map(|pixel| memory[(output * pixels + pixel) * inputs + input]));
                    }
                }
                values
            }
        }
    }

    /// The inverse of `read`. Panics also if `values` are more or fewer than the tensor has.
    pub fn write(&self, values: &[f32], state: &mut [f32]) {
        let memory = &mut state[self.offset..self.offset + self.len()];
        match self.channels_last_sizes() {
            None => memory.copy_from_slice(values),
            Some((outputs, inputs, pixels)) => {
                assert_eq!(values.len(), memory.len());
                let mut values = values.iter();
                for output in 0..outputs {
                    for input in 0..inputs {
                        for (pixel, &value) in values.by_ref().take(pixels).enumerate() {
                            memory[(output * pixels + pixel) * inputs + input] = value;
                        }
                    }
                }
            }
        }
    }

    /// Output channels, input channels and H * W of a tensor whose memory is [O, H, W, I]; `None` for all others.
    fn channels_last_sizes(&self) -> Option<(usize, usize, usize)> {
        match self.shape[..] {
            [outputs, inputs, height, width] if self.channels_last => Some((outputs, inputs, height * width)),
            _ => None,
        }
    }
}
