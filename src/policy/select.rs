//! No search at all: every sample trains with mu, and the best goes on. What a search gains beyond this is the loss's.

use super::advantage::advantages;
use super::{Policy, Start, Update};
use crate::state::PolicyState;

pub struct Select {
    samples: usize,
    state: PolicyState,
}

impl Select {
    pub fn new(start: Start) -> Select {
        let Start { settings, mu, sigma } = start;
        Select { samples: settings.samples, state: PolicyState { mu, sigma, step: 0, memory: Vec::new() } }
    }
}

impl Policy for Select {
    fn ask(&self, _: usize) -> Vec<Vec<f64>> {
        vec![self.state.mu.clone(); self.samples]
    }

    fn tell(&mut self, _: &[Vec<f64>], rewards: &[f64]) -> Update {
        Update::none(advantages(rewards))
    }

    fn state(&self) -> &PolicyState {
        &self.state
    }

    fn set_state(&mut self, state: PolicyState) {
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn every_sample_has_mu_and_mu_stays() {
        let settings = Settings {
            samples: 3,
            learning_rate: 0.05,
            betas: [0.9, 0.999],
            seed: 5,
            groups: Vec::new(),
            smoothness: 0.0,
        };
        let mut policy = Select::new(Start { settings, mu: vec![1.0, 0.5], sigma: vec![0.2; 2] });
        let thetas = policy.ask(0);
        assert_eq!(thetas, vec![vec![1.0, 0.5]; 3]);
        let update = policy.tell(&thetas, &[0.1, 0.3, 0.2]);
        assert_eq!((policy.state().mu.clone(), update.delta_norm), (vec![1.0, 0.5], 0.0));
        assert!(update.advantages[1] > update.advantages[2]);
    }
}
