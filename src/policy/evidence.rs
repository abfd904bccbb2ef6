//! How far updates moved mu, and how far they would have moved it by chance.

use rand::seq::SliceRandom;

use super::Policy;
use crate::rng::{Purpose, rng};
use crate::state::{EpochRecord, PolicyState};

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

/// A search's updates beside those of rewards that have nothing to do with theta.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    pub count: usize,
    /// Root mean squares of `delta_sigmas` and of `chance_sigmas`.
    pub sigmas: f64,
    pub chance: f64,
    /// Whether steps are longer than chance makes them, by two standard errors; `None`: they are too few to tell.
    pub beyond_chance: Option<bool>,
}

impl Steps {
    /// What follows "steps of mu: ".
    pub fn verdict(&self) -> &'static str {
        match self.beyond_chance {
            Some(true) => "longer than chance makes them",
            Some(false) => "no longer than chance makes them",
            None => "too few to tell from chance",
        }
    }
}

/// With fewer updates the standard error is no guide.
const LEAST_UPDATES: usize = 5;

/// Of all updates in a history, or in those of several runs; `None`: there were none, or an older version ran.
pub fn steps<'a>(history: impl IntoIterator<Item = &'a EpochRecord>) -> Option<Steps> {
    let squares = |record: &EpochRecord| (record.delta_sigmas.powi(2), record.chance_sigmas.powi(2));
    let squares: Vec<(f64, f64)> = history.into_iter().map(squares).filter(|&(_, chance)| chance > 0.0).collect();
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| squares.iter().map(of).sum::<f64>() / squares.len() as f64;
    // 1 on average by chance; skewed to the right, which makes the test stricter
    let ratio = |&(delta, chance): &(f64, f64)| delta / chance;
    let longer = mean(&ratio);
    let count = squares.len();
    let error = (mean(&|pair| (ratio(pair) - longer).powi(2)) / (count as f64 - 1.0)).sqrt();
    (count > 0).then(|| Steps {
        count,
        sigmas: mean(&|pair| pair.0).sqrt(),
        chance: mean(&|pair| pair.1).sqrt(),
        beyond_chance: (count >= LEAST_UPDATES).then_some(longer > 1.0 + 2.0 * error),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, find};
    use super::*;

    fn lengths(reward: impl Fn(&[f64], usize) -> f64) -> (f64, f64) {
        let settings = Settings { samples: 200, learning_rate: 1.0, betas: [0.0, 0.0], seed: 3, ..Settings::default() };
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

    #[test]
    fn steps_that_chance_explains_are_told_from_longer_ones_and_from_too_few() {
        let history = |deltas: &[f64]| -> Vec<EpochRecord> {
            let record =
                |&delta_sigmas: &f64| EpochRecord { delta_sigmas, chance_sigmas: 0.5, ..EpochRecord::default() };
            // an epoch inside a round, and a step of an older version
            let others = [EpochRecord::default(), EpochRecord { chance_sigmas: f64::NAN, ..EpochRecord::default() }];
            deltas.iter().map(record).chain(others).collect()
        };
        let by_chance = steps(&history(&[0.4, 0.6, 0.5, 0.7, 0.3, 0.45])).unwrap();
        assert_eq!((by_chance.count, by_chance.chance, by_chance.beyond_chance), (6, 0.5, Some(false)));
        assert!((by_chance.sigmas - 0.509).abs() < 1e-3);
        let longer = [0.9, 1.1, 0.8, 1.0, 0.7, 1.2];
        assert_eq!(steps(&history(&longer)).unwrap().beyond_chance, Some(true));
        assert_eq!(steps(&history(&longer[..4])).unwrap().beyond_chance, None);
        assert_eq!(steps(&history(&[])), None);
    }
}
