//! Every random number of a run. A generator is made where it is needed from (run seed, purpose, counters) and
//! thrown away, so no generator state is ever carried, sent or saved: what is drawn never depends on the rank, the
//! thread, the wall clock or an earlier draw. Hence the same bits for any number of ranks and after a resume.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub type Rng = ChaCha8Rng;

/// What the numbers are for. The discriminants are part of the reproducibility promise: never renumber.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Initial weights; counters: tensor.
    Weights = 1,
    /// eps of theta = mu + sigma eps; counters: epoch, sample.
    Theta = 2,
    /// Order of the training examples; counters: epoch, stream.
    Order = 3,
    /// Crop and mirror; counters: epoch, stream, example.
    Augment = 4,
    /// Which labels are replaced and by what; counters: example.
    LabelNoise = 5,
    /// Validation split; counters: class.
    Split = 6,
    /// Generated images; counters: what the generator says.
    Glyphs = 7,
    /// Identities held out of training; counters: 0, or 1 + identity for the choice of its images.
    HeldOut = 8,
    /// Dropout's masks; counters: training step, stream, place in the batch.
    Dropout = 9,
    /// Looks of generated cameras; counters: camera.
    Cameras = 10,
    Chance = 11,
    /// Which images a long-tailed part keeps; counters: class.
    LongTail = 12,
}

/// The generator of (seed, purpose, counters). ChaCha8 keyed with all of them: distinct inputs give independent
/// streams (no hashing, so no collisions). At most 4 counters.
pub fn rng(seed: u64, purpose: Purpose, counters: &[u64]) -> Rng {
    assert!(counters.len() <= 4, "at most 4 counters");
    // 256 bits of key: seed 64, purpose 8, counters 46 each: far beyond any epoch, sample or example number.
    let mut words = [0u64; 4];
    words[0] = seed;
    for (i, &counter) in counters.iter().enumerate() {
        assert!(counter < 1 << 46, "counter {counter} is out of range");
        let bit = 64 + 8 + 46 * i;
        words[bit / 64] |= counter << (bit % 64);
        if bit % 64 > 64 - 46 {
            words[bit / 64 + 1] |= counter >> (64 - bit % 64);
        }
    }
    words[1] |= purpose as u64;
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use std::collections::HashSet;

    #[test]
    fn different_keys_give_different_streams() {
        let mut seen = HashSet::new();
        for seed in [0, 1, u64::MAX] {
            for purpose in [Purpose::Weights, Purpose::Order] {
                for a in [0, 1, (1 << 46) - 1] {
                    for b in [0, 1, 5, (1 << 46) - 1] {
                        for d in [0, 7, (1 << 46) - 1] {
                            assert!(seen.insert(rng(seed, purpose, &[a, b, 0, d]).random::<u128>()));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_same_key_gives_the_same_stream_for_ever() {
        let mut first = rng(42, Purpose::Theta, &[3, 1]);
        let mut again = rng(42, Purpose::Theta, &[3, 1]);
        let drawn: Vec<u32> = (0..4).map(|_| first.random()).collect();
        assert_eq!(drawn, (0..4).map(|_| again.random::<u32>()).collect::<Vec<_>>());
    }
}
