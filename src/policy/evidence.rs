//! How far an update moved mu, and how far it would have moved it by chance.

use rand::seq::SliceRandom;

use super::Policy;
use crate::rng::{Purpose, rng};
use crate::state::PolicyState;

/// How often rewards are dealt out at random.
const DEALS: u64 = 32;

/// |(after - before) / sigma| over the components that are searched (Euclidean).
pub fn length_in_sigmas(before: &PolicyState, after: &PolicyState) -> f64 {
    let steps = before.mu.iter().zip(&after.mu).zip(&before.sigma).filter(|&(_, &sigma)| sigma > 0.0);
    steps.map(|((before, after), sigma)| ((after - before) / sigma).powi(2)).sum::<f64>().sqrt()
}

/// The root mean square of `length_in_sigmas` if the same rewards had been dealt out to the thetas at random: what mu
/// moves by where thetas and rewards have nothing to do with each other. Leaves the policy as it is.
pub fn length_by_chance(policy: &mut dyn Policy, thetas: &[Vec<f64>], rewards: &[f64], seed: u64, round: usize) -> f64 {
    let before = policy.state().clone();
    let mut dealt = rewards.to_vec();
    let mut length = |deal: u64| {
        dealt.shuffle(&mut rng(seed, Purpose::Chance, &[round as u64, deal]));
        policy.tell(thetas, &dealt);
        let length = length_in_sigmas(&before, policy.state());
        policy.set_state(before.clone());
        length
    };
    ((0..DEALS).map(|deal| length(deal).powi(2)).sum::<f64>() / DEALS as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, find};
    use super::*;

    fn lengths(reward: impl Fn(&[f64], usize) -> f64) -> (f64, f64) {
        let settings = Settings {
            samples: 200,
            learning_rate: 1.0,
            betas: [0.0, 0.0],
            seed: 3,
            groups: Vec::new(),
            smoothness: 0.0,
        };
        let mut policy =
            find("natural").unwrap().start(settings, vec![0.0; 8], vec![0.1, 0.1, 2.0, 2.0, 0.5, 0.5, 0.0, 0.0]);
        let thetas = policy.ask(0);
        let rewards: Vec<f64> = thetas.iter().enumerate().map(|(i, theta)| reward(theta, i)).collect();
        let before = policy.state().clone();
        let chance = length_by_chance(&mut *policy, &thetas, &rewards, 3, 0);
        assert_eq!(*policy.state(), before);
        policy.tell(&thetas, &rewards);
        (length_in_sigmas(&before, policy.state()), chance)
    }

    #[test]
    fn chance_is_the_square_root_of_dimensions_over_samples_for_natural_gradients() {
        // the mean of 200 products of independent numbers of variance 1, in 6 searched components
        let (_, chance) = lengths(|_, i| ((i * 77) % 200) as f64);
        assert!((chance / (6.0f64 / 200.0).sqrt() - 1.0).abs() < 0.15, "{chance}");
    }

    #[test]
    fn a_reward_that_theta_explains_moves_mu_by_a_sigma_and_is_far_from_chance() {
        let (length, chance) = lengths(|theta, _| theta[2]);
        assert!((length - 1.0).abs() < 0.2 && length > 4.0 * chance, "{length} {chance}");
    }
}
