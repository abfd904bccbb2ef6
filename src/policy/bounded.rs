//! Any policy whose mean stays at or below bounds. Draws go beyond them: what is just above tells as much as what is below.

use super::{Policy, Update, gaussian};
use crate::state::PolicyState;

pub struct Bounded {
    policy: Box<dyn Policy>,
    /// [P]
    ceiling: Vec<f64>,
}

impl Bounded {
    pub fn new(policy: Box<dyn Policy>, ceiling: Vec<f64>) -> Bounded {
        assert_eq!(policy.state().mu.len(), ceiling.len(), "a bound for each component");
        Bounded { policy, ceiling }
    }
}

impl Policy for Bounded {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        self.policy.ask(round)
    }

    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        let before = self.policy.state().mu.clone();
        let update = self.policy.tell(thetas, rewards);
        let mut state = self.policy.state().clone();
        state.mu.iter_mut().zip(&self.ceiling).for_each(|(mu, &ceiling)| *mu = mu.min(ceiling));
        let delta: Vec<f64> = state.mu.iter().zip(&before).map(|(after, before)| after - before).collect();
        self.policy.set_state(state);
        Update { delta_norm: gaussian::norm(&delta), ..update }
    }

    fn state(&self) -> &PolicyState {
        self.policy.state()
    }

    fn set_state(&mut self, state: PolicyState) {
        self.policy.set_state(state);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{POLICIES, Settings};

    #[test]
    fn the_mean_of_a_policy_that_learns_stays_below_and_what_one_chose_is_left_alone() {
        for kind in POLICIES {
            let ceiling = vec![0.1, f64::INFINITY];
            let settings =
                Settings { samples: 8, learning_rate: 0.3, betas: [0.5, 0.9], ceiling, ..Settings::default() };
            let schedule = vec![vec![0.5, 0.0], vec![0.7, 0.0]];
            let mut policy = kind.with_schedule(settings, vec![0.0; 2], vec![0.2; 2], schedule);
            let mut above = false;
            for round in 0..30 {
                let (before, thetas) = (policy.state().mu.clone(), policy.ask(round));
                above |= thetas.iter().any(|theta| theta[0] > 0.1);
                let rewards: Vec<f64> = thetas.iter().map(|theta| theta[0] + theta[1]).collect();
                let update = policy.tell(&thetas, &rewards);
                let mu = &policy.state().mu;
                let moved = (mu[0] - before[0]).hypot(mu[1] - before[1]);
                assert!(kind.name == "select" || (update.delta_norm - moved).abs() < 1e-12, "{}", kind.name);
            }
            let mu = &policy.state().mu;
            assert!(above, "{}: draws go beyond", kind.name);
            match kind.name {
                "select" => assert_eq!(mu[0], 0.7),
                "fixed" => assert_eq!(mu[..], [0.0, 0.0]),
                name => assert!(mu[0] == 0.1 && mu[1] > 0.5, "{name}: {mu:?}"),
            }
        }
    }
}
