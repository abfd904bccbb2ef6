//! The Gaussian: draws, and the gradient of its log-density.

use rand_distr::{Distribution, StandardNormal};

use super::{Neighbours, Settings};
use crate::rng::{Purpose, rng};
use crate::state::PolicyState;

/// The standard normal numbers eps [P] of draw `draw` of a round; neighbours in a group are correlated if the settings
/// say so.
fn noise(settings: &Settings, round: usize, draw: usize, count: usize) -> Vec<f64> {
    let mut rng = rng(settings.seed, Purpose::Theta, &[round as u64, draw as u64]);
    let independent: Vec<f64> = (0..count).map(|_| StandardNormal.sample(&mut rng)).collect();
    if settings.smoothness == 0.0 {
        return independent;
    }
    let mut smooth = Vec::with_capacity(count);
    for &group in &settings.groups {
        let own = &independent[smooth.len()..][..group.size];
        let sum = |row: Vec<f64>| -> f64 { row.iter().zip(own).map(|(weight, eps)| weight * eps).sum() };
        smooth.extend(smoothing(group, settings.smoothness).into_iter().map(sum));
    }
    smooth
}

/// [M, M]: rows of Gaussian weights around the diagonal, `length` intervals wide, each of norm 1, so that every component
/// keeps its variance. Without a level the columns sum to 0, and the variance is 1 on average.
fn smoothing(group: Neighbours, length: f64) -> Vec<Vec<f64>> {
    let intervals = group.size;
    let row = |i: usize| {
        let weights = (0..intervals).map(|j| (-((i as f64 - j as f64) / length).powi(2)).exp());
        let weights: Vec<f64> = weights.collect();
        let norm = norm(&weights);
        weights.into_iter().map(|weight| weight / norm).collect()
    };
    let mut rows: Vec<Vec<f64>> = (0..intervals).map(row).collect();
    if !group.level && intervals > 1 {
        for j in 0..intervals {
            let mean = rows.iter().map(|row| row[j]).sum::<f64>() / intervals as f64;
            rows.iter_mut().for_each(|row| row[j] -= mean);
        }
        let deviation = norm(&rows.concat()) / (intervals as f64).sqrt();
        rows.iter_mut().flatten().for_each(|weight| *weight /= deviation);
    }
    rows
}

/// The thetas of a round: mu + sigma eps each, eps of its own.
pub fn independent(settings: &Settings, state: &PolicyState, round: usize) -> Vec<Vec<f64>> {
    let noise = |draw| noise(settings, round, draw, state.mu.len());
    (0..settings.samples).map(|sample| theta(state, 1.0, &noise(sample))).collect()
}

/// The thetas of a round in pairs: 2k and 2k + 1 are mu + sigma eps and mu - sigma eps, eps the pair's. What is common
/// to a pair cancels in the gradient.
pub fn pairs(settings: &Settings, state: &PolicyState, round: usize) -> Vec<Vec<f64>> {
    let noise = |draw| noise(settings, round, draw, state.mu.len());
    let sign = |sample: usize| if sample.is_multiple_of(2) { 1.0 } else { -1.0 };
    (0..settings.samples).map(|sample| theta(state, sign(sample), &noise(sample / 2))).collect()
}

/// mu + sign sigma eps [P].
fn theta(state: &PolicyState, sign: f64, noise: &[f64]) -> Vec<f64> {
    let PolicyState { mu, sigma, .. } = state;
    mu.iter().zip(sigma).zip(noise).map(|((mu, sigma), eps)| mu + sign * sigma * eps).collect()
}

/// 1/B sum_i advantage_i grad_mu log N(theta_i; mu, sigma^2), [P]; 0 for components that are not searched (AM-LFS
/// equation 20).
pub fn gradient(state: &PolicyState, thetas: &[Vec<f64>], advantages: &[f64]) -> Vec<f64> {
    let mut gradient = vec![0.0; state.mu.len()];
    for (theta, advantage) in thetas.iter().zip(advantages) {
        for (i, g) in gradient.iter_mut().enumerate() {
            if state.sigma[i] > 0.0 {
                *g += advantage * (theta[i] - state.mu[i]) / state.sigma[i].powi(2) / thetas.len() as f64;
            }
        }
    }
    gradient
}

pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gradient_is_that_of_the_gaussians_log_density() {
        let state = PolicyState { mu: vec![0.3, -1.0], sigma: vec![0.2; 2], step: 0, memory: Vec::new() };
        let settings = Settings { samples: 5, learning_rate: 0.0, betas: [0.0; 2], seed: 5, ..Settings::default() };
        let thetas = independent(&settings, &state, 0);
        let advantages = [0.7, -1.2, 0.1, 1.4, -1.0];
        let found = gradient(&state, &thetas, &advantages);
        let objective = |mu: &[f64]| -> f64 {
            let log_density = |theta: &Vec<f64>| -> f64 {
                theta
                    .iter()
                    .zip(mu)
                    .map(|(x, mu)| -(x - mu).powi(2) / (2.0 * 0.04) - (0.2 * (2.0 * std::f64::consts::PI).sqrt()).ln())
                    .sum()
            };
            thetas.iter().zip(advantages).map(|(theta, advantage)| advantage * log_density(theta)).sum::<f64>() / 5.0
        };
        for i in 0..2 {
            let mut high = state.mu.clone();
            let mut low = high.clone();
            high[i] += 1e-6;
            low[i] -= 1e-6;
            let numerical = (objective(&high) - objective(&low)) / 2e-6;
            assert!((found[i] - numerical).abs() < 1e-5 * (1.0 + numerical.abs()), "{} {numerical}", found[i]);
        }
    }

    #[test]
    fn smooth_draws_keep_their_variance_and_neighbours_are_correlated() {
        let settings = Settings {
            samples: 2000,
            learning_rate: 0.0,
            betas: [0.0; 2],
            seed: 5,
            groups: vec![Neighbours { size: 4, level: true }; 2],
            smoothness: 1.5,
            ..Settings::default()
        };
        let state = PolicyState { mu: vec![0.0; 8], sigma: vec![1.0; 8], step: 0, memory: Vec::new() };
        let thetas = independent(&settings, &state, 0);
        let covariance = |i: usize, j: usize| thetas.iter().map(|theta| theta[i] * theta[j]).sum::<f64>() / 2000.0;
        let weights = |i: i32| [0, 1, 2, 3].map(|j| (-(f64::from(i - j) / 1.5).powi(2)).exp());
        let product = |i, j| weights(i).iter().zip(weights(j)).map(|(a, b)| a * b).sum::<f64>();
        for (i, j) in [(0, 0), (1, 1), (1, 2), (0, 3)] {
            let expected = product(i, j) / (product(i, i) * product(j, j)).sqrt();
            let found = covariance(i as usize, j as usize);
            assert!((found - expected).abs() < 0.1, "{i}, {j}: {found} {expected}");
        }
        assert!(covariance(3, 4).abs() < 0.1, "groups are independent");
    }

    #[test]
    fn draws_without_a_level_sum_to_zero_and_keep_their_variance_on_average() {
        let groups = vec![Neighbours { size: 1, level: true }, Neighbours { size: 6, level: false }];
        let settings = Settings { samples: 2000, seed: 5, groups, smoothness: 3.0, ..Settings::default() };
        let state = PolicyState { mu: vec![0.0; 7], sigma: vec![1.0; 7], step: 0, memory: Vec::new() };
        let thetas = independent(&settings, &state, 0);
        assert!(thetas.iter().all(|theta| theta[1..].iter().sum::<f64>().abs() < 1e-12));
        let mean_square = |i: usize| thetas.iter().map(|theta| theta[i].powi(2)).sum::<f64>() / 2000.0;
        assert!((mean_square(0) - 1.0).abs() < 0.1);
        assert!(((1..7).map(mean_square).sum::<f64>() / 6.0 - 1.0).abs() < 0.1);
        // what is left is a tilt before all
        let tilt = [-5.0, -3.0, -1.0, 1.0, 3.0, 5.0].map(|x: f64| x / 70f64.sqrt());
        let along = |theta: &Vec<f64>| theta[1..].iter().zip(tilt).map(|(x, tilt)| x * tilt).sum::<f64>().powi(2);
        let share = thetas.iter().map(along).sum::<f64>() / 2000.0 / 6.0;
        assert!((0.85..0.97).contains(&share), "{share}");
    }
}
