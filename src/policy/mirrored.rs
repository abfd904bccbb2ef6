//! Antithetic pairs; learns as `reinforce` does.

use super::reinforce::Reinforce;
use super::{Policy, Settings, Start, Update, gaussian};
use crate::state::PolicyState;

pub struct Mirrored {
    settings: Settings,
    learner: Reinforce,
}

impl Mirrored {
    pub fn new(start: Start) -> Mirrored {
        Mirrored { settings: start.settings.clone(), learner: Reinforce::new(start) }
    }
}

impl Policy for Mirrored {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        gaussian::pairs(&self.settings, self.state(), round)
    }

    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        self.learner.tell(thetas, rewards)
    }

    fn state(&self) -> &PolicyState {
        self.learner.state()
    }

    fn set_state(&mut self, state: PolicyState) {
        self.learner.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_come_in_pairs_around_mu() {
        let settings =
            Settings { samples: 6, learning_rate: 0.05, betas: [0.9, 0.999], seed: 5, ..Settings::default() };
        let policy = Mirrored::new(Start { settings, mu: vec![0.5, 1.0], sigma: vec![0.2; 2], schedule: Vec::new() });
        let thetas = policy.ask(3);
        for (i, mu) in [0.5, 1.0].into_iter().enumerate() {
            let (a, b) = (thetas[4][i] - mu, thetas[5][i] - mu);
            assert!((a + b).abs() < 1e-15 && a != 0.0);
        }
        assert_ne!(thetas[2], thetas[4]);
    }
}
