//! Rewards as an update uses them.

/// Below this standard deviation of the rewards, no sample is better than another.
const EQUAL_REWARDS: f64 = 1e-8;

/// Rewards normalised to zero mean and unit variance over the finite ones; all 0 if they are equal. A failed sample
/// gets the lowest finite advantage.
pub fn advantages(rewards: &[f64]) -> Vec<f64> {
    let finite: Vec<f64> = rewards.iter().copied().filter(|reward| reward.is_finite()).collect();
    let count = finite.len() as f64;
    let mean = finite.iter().sum::<f64>() / count;
    let deviation = (finite.iter().map(|reward| (reward - mean).powi(2)).sum::<f64>() / count).sqrt();
    let normalise = |reward: f64| if deviation < EQUAL_REWARDS { 0.0 } else { (reward - mean) / deviation };
    let lowest = finite.iter().copied().map(normalise).fold(f64::INFINITY, f64::min);
    rewards.iter().map(|&reward| if reward.is_finite() { normalise(reward) } else { lowest }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
