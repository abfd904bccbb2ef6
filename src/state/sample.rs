//! One sample's training in a round: which one it is, and how far it has come.

use std::ops::Range;

/// Which training it is. What was kept of a sample is used only where all of this is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleKey {
    /// Index in the round, from 0.
    pub sample: usize,
    /// The round's epochs.
    pub epochs: Range<usize>,
    /// Of data order, augmentation and dropout.
    pub stream: u64,
    /// [P], the sample's loss; empty for a fixed one.
    pub theta: Vec<f64>,
    /// CRC-32 of the state vector that the round starts from.
    pub start_crc32: u32,
}

/// Where an epoch stands between two steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Within {
    /// Steps done, and examples seen in them.
    pub steps: u64,
    pub examples: u64,
    /// Sum of the loss over these examples.
    pub loss: f64,
}

/// How far a sample's round has come.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleProgress {
    /// Mean training loss, and seconds, of each epoch of the round that is over. Shorter than the round if training
    /// failed in the last of them.
    pub train_loss: Vec<f64>,
    pub train_seconds: Vec<f64>,
    /// The epoch after these, and the seconds that it has taken so far.
    pub within: Within,
    pub within_seconds: f64,
    /// Trained and measured.
    pub finished: bool,
    /// Not finite: failed, or not finished.
    pub reward: f64,
    pub validation_seconds: f64,
}

impl Default for SampleProgress {
    fn default() -> SampleProgress {
        SampleProgress {
            train_loss: Vec::new(),
            train_seconds: Vec::new(),
            within: Within::default(),
            within_seconds: 0.0,
            finished: false,
            reward: f64::NAN,
            validation_seconds: 0.0,
        }
    }
}
