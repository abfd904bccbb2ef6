//! The paper's policy (AM-LFS equations 19, 20): independent draws, and Adam along the REINFORCE gradient.

use super::advantage::advantages;
use super::{Policy, Settings, Start, Update, adam, gaussian};
use crate::state::PolicyState;

pub struct Reinforce {
    settings: Settings,
    state: PolicyState,
}

impl Reinforce {
    pub fn new(start: Start) -> Reinforce {
        Reinforce { settings: start.settings.clone(), state: adam::start(start) }
    }
}

impl Policy for Reinforce {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        gaussian::independent(&self.settings, &self.state, round)
    }

    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        adam::ascend(&self.settings, &mut self.state, thetas, advantages(rewards))
    }

    fn state(&self) -> &PolicyState {
        &self.state
    }

    fn set_state(&mut self, state: PolicyState) {
        adam::check(&state);
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(mu: Vec<f64>, sigma: Vec<f64>) -> Reinforce {
        let settings =
            Settings { samples: 4, learning_rate: 0.05, betas: [0.9, 0.999], seed: 5, ..Settings::default() };
        Reinforce::new(Start { settings, mu, sigma, schedule: Vec::new() })
    }

    #[test]
    fn the_first_adam_step_has_the_learning_rates_length_in_every_component() {
        let mut policy = policy(vec![0.0; 3], vec![0.2; 3]);
        let update = policy.tell(&policy.ask(0), &[0.1, 0.2, 0.3, 0.4]);
        for mu in &policy.state().mu {
            assert!((mu.abs() - 0.05).abs() < 1e-7);
        }
        assert!((update.delta_norm - 0.05 * 3f64.sqrt()).abs() < 1e-7 && update.gradient_norm > 0.0);
    }

    #[test]
    fn components_with_sigma_zero_stay() {
        let mut policy = policy(vec![1.0, 0.0], vec![0.0, 0.2]);
        let thetas = policy.ask(0);
        assert!(thetas.iter().all(|theta| theta[0] == 1.0));
        policy.tell(&thetas, &[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(policy.state().mu[0], 1.0);
        assert_ne!(policy.state().mu[1], 0.0);
    }
}
