//! Natural-gradient steps in units of sigma, along a smoothed path. Of a Gaussian with a fixed sigma, the natural gradient
//! of the expected reward is sigma^2 times the gradient (Amari 1998; Wierstra et al. 2014, section 3):
//!
//! g = mean_i A_i (theta_i - mu) / sigma,  path <- c path + (1 - c) g,  mu <- mu + eta sigma path
//!
//! with c = betas[0]. A step is as long as rewards and eps agree, at most about eta sigma, and nearly nothing where they do
//! not; Adam's first step has its full length whatever the evidence.

use super::advantage::advantages;
use super::{Policy, Settings, Start, Update, gaussian};
use crate::state::{PolicyState, PolicyVector};

/// Name of the path in `PolicyState::memory`.
const PATH: &str = "path";

pub struct Natural {
    settings: Settings,
    state: PolicyState,
}

impl Natural {
    pub fn new(start: Start) -> Natural {
        let Start { settings, mu, sigma, .. } = start;
        let path = PolicyVector {
            name: PATH.to_owned(),
            long_name: "smoothed natural gradient of mu, in units of sigma".to_owned(),
            values: vec![0.0; mu.len()],
        };
        Natural { settings, state: PolicyState { mu, sigma, step: 0, memory: vec![path] } }
    }
}

impl Policy for Natural {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        gaussian::pairs(&self.settings, &self.state, round)
    }

    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        let Settings { learning_rate, betas: [smoothing, _], .. } = self.settings;
        let advantages = advantages(rewards);
        let gradient = gaussian::gradient(&self.state, thetas, &advantages);
        let PolicyState { mu, sigma, step, memory } = &mut self.state;
        *step += 1;
        let mut delta = vec![0.0; mu.len()];
        for (i, path) in memory[0].values.iter_mut().enumerate() {
            *path = smoothing * *path + (1.0 - smoothing) * gradient[i] * sigma[i];
            delta[i] = learning_rate * sigma[i] * *path;
            mu[i] += delta[i];
        }
        Update { advantages, gradient_norm: gaussian::norm(&gradient), delta_norm: gaussian::norm(&delta) }
    }

    fn state(&self) -> &PolicyState {
        &self.state
    }

    fn set_state(&mut self, state: PolicyState) {
        let names: Vec<&str> = state.memory.iter().map(|vector| &vector.name[..]).collect();
        assert_eq!(names, [PATH], "the policy's vectors");
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(samples: usize, mu: Vec<f64>, sigma: Vec<f64>) -> Natural {
        let settings = Settings { samples, learning_rate: 0.8, betas: [0.5, 0.0], seed: 5, ..Settings::default() };
        Natural::new(Start { settings, mu, sigma, schedule: Vec::new() })
    }

    #[test]
    fn a_step_is_the_smoothed_mean_of_advantage_times_eps_in_units_of_sigma() {
        let sigma = [0.2, 0.01, 0.0];
        let mut policy = policy(4, vec![0.3, 0.0, 1.0], sigma.into());
        let mut mu = policy.state().mu.clone();
        let mut path = [0.0; 3];
        for (round, rewards) in [[0.1, 0.4, 0.2, 0.3], [0.5, 0.1, 0.1, 0.4]].into_iter().enumerate() {
            let thetas = policy.ask(round);
            let advantages = advantages(&rewards);
            policy.tell(&thetas, &rewards);
            for i in 0..3 {
                let eps = |theta: &Vec<f64>| if sigma[i] > 0.0 { (theta[i] - mu[i]) / sigma[i] } else { 0.0 };
                let mean = thetas.iter().zip(&advantages).map(|(theta, a)| a * eps(theta)).sum::<f64>() / 4.0;
                path[i] = 0.5 * path[i] + 0.5 * mean;
                mu[i] += 0.8 * sigma[i] * path[i];
                assert!((policy.state().mu[i] - mu[i]).abs() < 1e-12, "{:?} {mu:?}", policy.state().mu);
            }
        }
        assert_eq!(policy.state().mu[2], 1.0, "a component with sigma 0 stays");
    }
}
