//! How bytes become the numbers that a network sees.

use crate::data::Dataset;
use crate::error::Result;

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
}
