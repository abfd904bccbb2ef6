//! No search: every sample trains with the mean, and the best goes on. What a search gains beyond this is the loss's. With a
//! schedule the mean is the schedule's, from round to round; its last row stays.

use super::advantage::advantages;
use super::{Policy, Start, Update};
use crate::state::PolicyState;

pub struct Select {
    samples: usize,
    /// A theta [P] for each round.
    schedule: Vec<Vec<f64>>,
    state: PolicyState,
}

impl Select {
    pub fn new(start: Start) -> Select {
        let Start { settings, mu, sigma, schedule } = start;
        let schedule = if schedule.is_empty() { vec![mu] } else { schedule };
        let state = PolicyState { mu: schedule[0].clone(), sigma, step: 0, memory: Vec::new() };
        Select { samples: settings.samples, schedule, state }
    }
}

impl Policy for Select {
    fn ask(&self, _: usize) -> Vec<Vec<f64>> {
        vec![self.state.mu.clone(); self.samples]
    }

    fn tell(&mut self, _: &[Vec<f64>], rewards: &[f64]) -> Update {
        self.state.step += 1;
        let round = (self.state.step as usize).min(self.schedule.len() - 1);
        self.state.mu = self.schedule[round].clone();
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

    fn select(samples: usize, schedule: Vec<Vec<f64>>) -> Select {
        let settings = Settings { samples, ..Settings::default() };
        Select::new(Start { settings, mu: vec![1.0, 0.5], sigma: vec![0.2; 2], schedule })
    }

    #[test]
    fn every_sample_has_mu_and_mu_stays() {
        let mut policy = select(3, Vec::new());
        let thetas = policy.ask(0);
        assert_eq!(thetas, vec![vec![1.0, 0.5]; 3]);
        let update = policy.tell(&thetas, &[0.1, 0.3, 0.2]);
        assert_eq!((policy.state().mu.clone(), update.delta_norm), (vec![1.0, 0.5], 0.0));
        assert!(update.advantages[1] > update.advantages[2]);
    }

    #[test]
    fn a_schedule_is_gone_through_and_its_last_row_stays() {
        let mut policy = select(1, vec![vec![1.0, 0.0], vec![2.0, 0.0], vec![3.0, 0.0]]);
        for theta in [1.0, 2.0, 3.0, 3.0] {
            assert_eq!((policy.ask(0), policy.state().mu[0]), (vec![vec![theta, 0.0]], theta));
            policy.tell(&[vec![theta, 0.0]], &[0.5]);
        }
    }
}
