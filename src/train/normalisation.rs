//! How bytes become the numbers that a network sees.

use tch::{Device, Kind, Tensor};

use crate::data::Dataset;
use crate::error::Result;
use crate::tensor_memory::{numbers, numbers_mut};

/// Numbers that are normalised at once: a multiple of 3 and of vectors' lengths.
const TILE: usize = 48;

/// Per-channel mean and deviation of the training images, in units of 0..255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
}

impl Normalisation {
    /// SphereFace's: (x - 127.5) / 128.
    pub const FACES: Normalisation = Normalisation { mean: [127.5; 3], deviation: [128.0; 3] };

    /// ImageNet's, as torchvision's weights want it.
    pub const IMAGENET: Normalisation =
        Normalisation { mean: [123.675, 116.28, 103.53], deviation: [58.395, 57.12, 57.375] };

    /// Channel means and deviations over the training images (at most the first 50,000 of them).
    pub fn of(training: &Dataset) -> Result<Normalisation> {
        let (height, width) = training.images.size();
        let mut pixels = vec![0; 3 * height * width];
        let (mut sum, mut squares, mut count) = ([0u64; 3], [0u64; 3], 0);
        for &index in training.indices.iter().take(50_000) {
            training.images.read(index as usize, &mut pixels)?;
            for pixel in pixels.chunks_exact(3) {
                for channel in 0..3 {
                    let value = pixel[channel] as u64;
                    sum[channel] += value;
                    squares[channel] += value * value;
                }
            }
            count += height * width;
        }
        let mean = sum.map(|sum| sum as f64 / count as f64);
        let deviation =
            |channel: usize| (squares[channel] as f64 / count as f64 - mean[channel].powi(2)).max(1.0).sqrt();
        Ok(Normalisation {
            mean: mean.map(|mean| mean as f32),
            deviation: [0, 1, 2].map(|channel| deviation(channel) as f32),
        })
    }

    /// images [N, H, W, 3] u8 on the CPU -> f32, (x - mean) * (1 / deviation), each byte read once.
    pub fn apply(&self, images: &Tensor) -> Tensor {
        let images = images.contiguous();
        let normalised = Tensor::empty(images.size(), (Kind::Float, Device::Cpu));
        // SAFETY: nothing else refers to it
        self.write(numbers(&images), unsafe { numbers_mut(&normalised) });
        normalised
    }

    fn write(&self, bytes: &[u8], values: &mut [f32]) {
        let mean: [f32; TILE] = std::array::from_fn(|i| self.mean[i % 3]);
        let inverse: [f32; TILE] = std::array::from_fn(|i| self.deviation[i % 3].recip());
        let ((bytes, last_bytes), (values, last_values)) = (bytes.as_chunks::<TILE>(), values.as_chunks_mut::<TILE>());
        for (values, bytes) in values.iter_mut().zip(bytes) {
            for i in 0..TILE {
                values[i] = (f32::from(bytes[i]) - mean[i]) * inverse[i];
            }
        }
        for (i, (value, &byte)) in last_values.iter_mut().zip(last_bytes).enumerate() {
            *value = (f32::from(byte) - mean[i]) * inverse[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_normalised_with_the_bits_that_libtorch_gives() {
        let images = Tensor::from_slice(&(0..2 * 7 * 5 * 3).map(|i| (i * 37) as u8).collect::<Vec<_>>());
        let images = images.view([2, 7, 5, 3]);
        let by_channel = |values: [f32; 3]| Tensor::from_slice(&values);
        for normalisation in [Normalisation::IMAGENET, Normalisation::FACES] {
            let mut expected = images.to_kind(Kind::Float);
            expected -= by_channel(normalisation.mean);
            expected *= by_channel(normalisation.deviation.map(f32::recip));
            assert_eq!(normalisation.apply(&images), expected);
            let last = images.narrow(2, 1, 3);
            assert_eq!(normalisation.apply(&last), expected.narrow(2, 1, 3), "a part that is not contiguous");
        }
    }
}
