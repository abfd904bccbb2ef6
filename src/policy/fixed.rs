//! The paper's ablation: samples, but never learns.

use super::advantage::advantages;
use super::reinforce::Reinforce;
use super::{Policy, Start, Update};
use crate::state::PolicyState;

/// Draws as `reinforce` does.
pub struct Fixed(Reinforce);

impl Fixed {
    pub fn new(start: Start) -> Fixed {
        Fixed(Reinforce::new(start))
    }
}

impl Policy for Fixed {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        self.0.ask(round)
    }

    fn tell(&mut self, _: &[Vec<f64>], rewards: &[f64]) -> Update {
        Update::none(advantages(rewards))
    }

    fn state(&self) -> &PolicyState {
        self.0.state()
    }

    fn set_state(&mut self, state: PolicyState) {
        self.0.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn fixed_samples_but_never_moves() {
        let settings =
            Settings { samples: 2, learning_rate: 0.05, betas: [0.9, 0.999], seed: 5, ..Settings::default() };
        let mut policy = Fixed::new(Start { settings, mu: vec![1.0; 4], sigma: vec![0.2; 4], schedule: Vec::new() });
        let thetas = policy.ask(0);
        assert_ne!(thetas[0], thetas[1]);
        let update = policy.tell(&thetas, &[0.0, 1.0]);
        assert_eq!((policy.state().mu.clone(), update.delta_norm), (vec![1.0; 4], 0.0));
        assert_eq!(update.advantages, [-1.0, 1.0]);
    }
}
