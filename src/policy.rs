//! The distribution of loss functions and its update (AM-LFS equations 19, 20). Pure f64: no tch, MPI or HDF5.

use rand_distr::{Distribution, StandardNormal};

use crate::config::{self, PolicyName};
use crate::rng::{Purpose, rng};
use crate::state::PolicyState;

const ADAM_EPS: f64 = 1e-8;
/// Below this standard deviation of the rewards, no sample is better than another.
const EQUAL_REWARDS: f64 = 1e-8;

/// theta ~ N(mu, sigma^2) component-wise, and how mu learns from rewards.
pub struct Policy {
    name: PolicyName,
    learning_rate: f64,
    betas: [f64; 2],
    seed: u64,
    state: PolicyState,
}

/// What an update did.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// One per sample; NaN if there was no update.
    pub advantages: Vec<f64>,
    /// Euclidean norms of the gradient of mu and of the change of mu.
    pub gradient_norm: f64,
    pub delta_norm: f64,
}

impl Policy {
    /// `mu`: where it starts; `sigma`: one per component, 0 for a component that is not searched.
    pub fn new(config: &config::Search, mu: Vec<f64>, sigma: Vec<f64>, seed: u64) -> Policy {
        let zeros = vec![0.0; mu.len()];
        let state = PolicyState { mu, sigma, adam_m: zeros.clone(), adam_v: zeros, step: 0 };
        Policy { name: config.policy, learning_rate: config.learning_rate, betas: config.betas, seed, state }
    }

    pub fn state(&self) -> &PolicyState {
        &self.state
    }

    pub fn set_state(&mut self, state: PolicyState) {
        self.state = state;
    }

    /// theta of sample `sample` in the round that starts at `epoch`: any rank can compute it.
    /// `mirrored`: samples 2k and 2k + 1 are mu + sigma eps and mu - sigma eps.
    pub fn theta(&self, epoch: usize, sample: usize) -> Vec<f64> {
        let (draw, sign) = match self.name {
            PolicyName::Reinforce | PolicyName::Fixed => (sample, 1.0),
            PolicyName::Mirrored => (sample / 2, if sample.is_multiple_of(2) { 1.0 } else { -1.0 }),
        };
        let mut rng = rng(self.seed, Purpose::Theta, &[epoch as u64, draw as u64]);
        let PolicyState { mu, sigma, .. } = &self.state;
        mu.iter()
            .zip(sigma)
            .map(|(mu, sigma)| {
                let eps: f64 = StandardNormal.sample(&mut rng);
                mu + sign * sigma * eps
            })
            .collect()
    }

    /// One Adam ascent step along 1/B sum_i advantage_i (theta_i - mu) / sigma^2. `rewards` has one entry per sample,
    /// not finite for a failed one; at least one is finite.
    pub fn update(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        let advantages = advantages(rewards);
        if self.name == PolicyName::Fixed {
            return Update { advantages, gradient_norm: 0.0, delta_norm: 0.0 };
        }
        let gradient = gradient(&self.state, thetas, &advantages);
        let delta = self.adam(&gradient);
        Update { advantages, gradient_norm: norm(&gradient), delta_norm: norm(&delta) }
    }

    /// Moves mu and returns the move.
    fn adam(&mut self, gradient: &[f64]) -> Vec<f64> {
        let state = &mut self.state;
        state.step += 1;
        let correction = self.betas.map(|beta| 1.0 - beta.powf(state.step as f64));
        let mut delta = vec![0.0; gradient.len()];
        for (i, &g) in gradient.iter().enumerate() {
            state.adam_m[i] = self.betas[0] * state.adam_m[i] + (1.0 - self.betas[0]) * g;
            state.adam_v[i] = self.betas[1] * state.adam_v[i] + (1.0 - self.betas[1]) * g * g;
            let (mean, square) = (state.adam_m[i] / correction[0], state.adam_v[i] / correction[1]);
            delta[i] = self.learning_rate * mean / (square.sqrt() + ADAM_EPS);
            state.mu[i] += delta[i];
        }
        delta
    }
}

/// Rewards normalised to zero mean and unit variance over the finite ones; all 0 if they are equal. A failed sample
/// gets the lowest finite advantage.
fn advantages(rewards: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = rewards.iter().copied().filter(|reward| reward.is_finite()).collect();
    let count = finite.len() as f64;
    let mean = finite.iter().sum::<f64>() / count;
    let deviation = (finite.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count).sqrt();
    let normalise = |reward: f64| if deviation < EQUAL_REWARDS { 0.0 } else { (reward - mean) / deviation };
    let lowest = finite.iter().copied().map(normalise).fold(f64::INFINITY, f64::min);
    rewards.iter().map(|&reward| if reward.is_finite() { normalise(reward) } else { lowest }).collect()
}

/// 1/B sum_i advantage_i grad_mu log N(theta_i; mu, sigma^2); 0 for components that are not searched.
fn gradient(state: &PolicyState, thetas: &[Vec<f64>], advantages: &[f64]) -> Vec<f64> {
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

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::Space;

    fn policy(name: &str, mu: Vec<f64>, sigma: f64) -> Policy {
        let mut layers = config::Layers::new(Some("demo"), None).unwrap();
        layers.set_text(&format!("search.policy={name}")).unwrap();
        layers.set_text("search.learning_rate=0.05").unwrap();
        let sigma = vec![sigma; mu.len()];
        Policy::new(&layers.resolve().unwrap().search, mu, sigma, 5)
    }

    #[test]
    fn the_gradient_is_that_of_the_gaussians_log_density() {
        let policy = policy("reinforce", vec![0.3, -1.0], 0.2);
        let thetas: Vec<Vec<f64>> = (0..5).map(|i| policy.theta(0, i)).collect();
        let advantages = [0.7, -1.2, 0.1, 1.4, -1.0];
        let found = gradient(policy.state(), &thetas, &advantages);
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
            let mut high = policy.state().mu.clone();
            let mut low = high.clone();
            high[i] += 1e-6;
            low[i] -= 1e-6;
            let numerical = (objective(&high) - objective(&low)) / 2e-6;
            assert!((found[i] - numerical).abs() < 1e-5 * (1.0 + numerical.abs()), "{} {numerical}", found[i]);
        }
    }

    #[test]
    fn the_first_adam_step_has_the_learning_rates_length_in_every_component() {
        let mut policy = policy("reinforce", vec![0.0; 3], 0.2);
        let thetas: Vec<Vec<f64>> = (0..4).map(|i| policy.theta(0, i)).collect();
        let update = policy.update(&thetas, &[0.1, 0.2, 0.3, 0.4]);
        for mu in &policy.state().mu {
            assert!((mu.abs() - 0.05).abs() < 1e-7);
        }
        assert!((update.delta_norm - 0.05 * 3f64.sqrt()).abs() < 1e-7 && update.gradient_norm > 0.0);
    }

    #[test]
    fn mu_reaches_the_target_of_a_synthetic_reward() {
        for name in ["reinforce", "mirrored"] {
            let space = Space { intervals: 2 };
            let mut policy = policy(name, space.identity(), 0.2);
            let target = [1.5, 0.4, 0.5, -0.5, 0.7, 1.3, 0.2, -0.2];
            let reward = |theta: &[f64]| -theta.iter().zip(target).map(|(x, target)| (x - target).powi(2)).sum::<f64>();
            let start = -reward(&policy.state().mu);
            for epoch in 0..400 {
                let thetas: Vec<Vec<f64>> = (0..32).map(|i| policy.theta(epoch, i)).collect();
                let rewards: Vec<f64> = thetas.iter().map(|theta| reward(theta)).collect();
                policy.update(&thetas, &rewards);
            }
            let end = -reward(&policy.state().mu);
            assert!(end < 0.02 * start, "{name}: squared distance {start} -> {end}");
        }
    }

    #[test]
    fn fixed_samples_but_never_moves() {
        let mut policy = policy("fixed", vec![1.0; 4], 0.2);
        assert_ne!(policy.theta(0, 0), policy.theta(0, 1));
        let thetas: Vec<Vec<f64>> = (0..2).map(|i| policy.theta(0, i)).collect();
        let update = policy.update(&thetas, &[0.0, 1.0]);
        assert_eq!((policy.state().mu.clone(), update.delta_norm), (vec![1.0; 4], 0.0));
        assert_eq!(update.advantages, [-1.0, 1.0]);
    }

    #[test]
    fn mirrored_samples_come_in_pairs_around_mu() {
        let policy = policy("mirrored", vec![0.5, 1.0], 0.2);
        for (a, b) in
            policy.theta(3, 4).iter().zip(policy.theta(3, 5)).zip([0.5, 1.0]).map(|((a, b), mu)| (a - mu, b - mu))
        {
            assert!((a + b).abs() < 1e-15 && a != 0.0);
        }
        assert_ne!(policy.theta(3, 2), policy.theta(3, 4));
    }

    #[test]
    fn failed_samples_get_the_lowest_advantage_and_equal_rewards_none() {
        let found = advantages(&[1.0, f64::NAN, 3.0, 2.0, f64::INFINITY]);
        let unit = (1.5f64).sqrt();
        for (found, expected) in found.iter().zip([-unit, -unit, unit, 0.0, -unit]) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert_eq!(advantages(&[0.5, 0.5, f64::NAN]), [0.0, 0.0, 0.0]);
        assert_eq!(advantages(&[0.5]), [0.0]);
    }

    #[test]
    fn components_with_sigma_zero_stay() {
        let mut policy = policy("reinforce", vec![1.0, 0.0], 0.2);
        policy.state.sigma[0] = 0.0;
        let thetas: Vec<Vec<f64>> = (0..4).map(|i| policy.theta(0, i)).collect();
        assert!(thetas.iter().all(|theta| theta[0] == 1.0));
        policy.update(&thetas, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(policy.state().mu[0], 1.0);
        assert_ne!(policy.state().mu[1], 0.0);
    }
}
