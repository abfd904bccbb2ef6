//! The Gaussian: draws, and the gradient of its log-density.

use rand_distr::{Distribution, StandardNormal};

use crate::rng::{Purpose, rng};
use crate::state::PolicyState;

/// The standard normal numbers eps [P] of draw `draw` of a round.
pub fn noise(seed: u64, round: usize, draw: usize, count: usize) -> Vec<f64> {
    let mut rng = rng(seed, Purpose::Theta, &[round as u64, draw as u64]);
    (0..count).map(|_| StandardNormal.sample(&mut rng)).collect()
}

/// mu + sign sigma eps [P].
pub fn theta(state: &PolicyState, sign: f64, noise: &[f64]) -> Vec<f64> {
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
        let thetas: Vec<Vec<f64>> = (0..5).map(|draw| theta(&state, 1.0, &noise(5, 0, draw, 2))).collect();
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
}
