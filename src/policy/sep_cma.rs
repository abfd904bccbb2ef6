//! Separable CMA-ES: the spread of each component is learned too. After Hansen, "The CMA Evolution Strategy: A Tutorial"
//! (2016, arXiv:1604.00772, table 1), without its negative weights, with a diagonal covariance and its faster learning
//! (Ros and Hansen 2008). The state's sigma is the step size times the root of the variances, so the step size is what
//! sigma^2 / variance says.

use super::{Policy, Settings, Start, Update, gaussian};
use crate::policy::advantage::advantages;
use crate::state::{PolicyState, PolicyVector};

/// Names of the vectors in `PolicyState::memory`, in this order.
const VECTORS: [(&str, &str); 3] = [
    ("path", "evolution path of mu in units of the step size, for the variances"),
    ("path_sigma", "conjugate evolution path, for the step size"),
    ("variance", "variances of the components, without the step size"),
];

pub struct SepCma {
    settings: Settings,
    state: PolicyState,
}

/// The strategy's constants for n searched components.
struct Constants {
    /// Of the better half of the samples, best first; their sum is 1.
    weights: Vec<f64>,
    mu_eff: f64,
    c_sigma: f64,
    d_sigma: f64,
    c_c: f64,
    c_1: f64,
    c_mu: f64,
    /// E|N(0, I)|
    chi: f64,
}

impl Constants {
    fn new(samples: usize, dimension: usize) -> Constants {
        let (lambda, n) = (samples as f64, dimension as f64);
        let raw: Vec<f64> = (1..=samples / 2).map(|i| ((lambda + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
        let sum: f64 = raw.iter().sum();
        let weights: Vec<f64> = raw.iter().map(|weight| weight / sum).collect();
        let mu_eff = 1.0 / weights.iter().map(|weight| weight * weight).sum::<f64>();
        let c_sigma = (mu_eff + 2.0) / (n + mu_eff + 5.0);
        let d_sigma = 1.0 + 2.0 * (((mu_eff - 1.0) / (n + 1.0)).sqrt() - 1.0).max(0.0) + c_sigma;
        let c_c = (4.0 + mu_eff / n) / (n + 4.0 + 2.0 * mu_eff / n);
        let faster = (n + 2.0) / 3.0;
        let c_1 = 2.0 / ((n + 1.3).powi(2) + mu_eff);
        let c_mu = 2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((n + 2.0).powi(2) + mu_eff);
        let c_1 = (faster * c_1).min(1.0);
        let c_mu = (faster * c_mu).min(1.0 - c_1);
        let chi = n.sqrt() * (1.0 - 1.0 / (4.0 * n) + 1.0 / (21.0 * n * n));
        Constants { weights, mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi }
    }
}

impl SepCma {
    pub fn new(start: Start) -> SepCma {
        let Start { settings, mu, sigma, .. } = start;
        let vector = |(name, long_name): (&str, &str), values| PolicyVector {
            name: name.to_owned(),
            long_name: long_name.to_owned(),
            values,
        };
        let zeros = vec![0.0; mu.len()];
        // the step size starts at 1
        let variance = sigma.iter().map(|sigma| sigma * sigma).collect();
        let memory = vec![vector(VECTORS[0], zeros.clone()), vector(VECTORS[1], zeros), vector(VECTORS[2], variance)];
        SepCma { settings, state: PolicyState { mu, sigma, step: 0, memory } }
    }
}

impl Policy for SepCma {
    fn ask(&self, round: usize) -> Vec<Vec<f64>> {
        gaussian::independent(&self.settings, &self.state, round)
    }

    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update {
        let advantages = advantages(rewards);
        let searched: Vec<usize> = (0..self.state.mu.len()).filter(|&i| self.state.sigma[i] > 0.0).collect();
        if searched.is_empty() || thetas.len() < 2 || advantages.iter().all(|&advantage| advantage == 0.0) {
            return Update::none(advantages);
        }
        let gradient_norm = gaussian::norm(&gaussian::gradient(&self.state, thetas, &advantages));
        let constants = Constants::new(thetas.len(), searched.len());
        let Constants { mu_eff, c_sigma, d_sigma, c_c, c_1, c_mu, chi, .. } = constants;
        let ranked = ranked_weights(&constants.weights, &advantages);
        let PolicyState { mu, sigma, step, memory } = &mut self.state;
        let [path, path_sigma, variance] = &mut memory[..] else { unreachable!("three vectors, see set_state") };
        *step += 1;
        let step_size = sigma[searched[0]] / variance.values[searched[0]].sqrt();

        // steps in units of the step size, their weighted mean, and mu
        let of = |theta: &[f64], mu: &[f64], i: usize| (theta[i] - mu[i]) / step_size;
        let before = mu.clone();
        let mean: Vec<f64> = searched
            .iter()
            .map(|&i| ranked.iter().zip(thetas).map(|(weight, theta)| weight * of(theta, &before, i)).sum())
            .collect();
        let mut delta = vec![0.0; mu.len()];
        for (&i, mean) in searched.iter().zip(&mean) {
            delta[i] = self.settings.learning_rate * step_size * mean;
            mu[i] += delta[i];
        }

        let (fade, push) = (1.0 - c_sigma, (c_sigma * (2.0 - c_sigma) * mu_eff).sqrt());
        for (&i, mean) in searched.iter().zip(&mean) {
            path_sigma.values[i] = fade * path_sigma.values[i] + push * mean / variance.values[i].sqrt();
        }
        let length = searched.iter().map(|&i| path_sigma.values[i].powi(2)).sum::<f64>().sqrt();
        let expected = (1.4 + 2.0 / (searched.len() as f64 + 1.0)) * chi;
        let growing = length / (1.0 - fade.powf(2.0 * *step as f64)).sqrt() < expected;
        let h = f64::from(growing);
        let (fade, push) = (1.0 - c_c, h * (c_c * (2.0 - c_c) * mu_eff).sqrt());
        for (&i, mean) in searched.iter().zip(&mean) {
            path.values[i] = fade * path.values[i] + push * mean;
            let old = variance.values[i];
            let spread: f64 =
                ranked.iter().zip(thetas).map(|(weight, theta)| weight * of(theta, &before, i).powi(2)).sum();
            let kept = 1.0 - c_1 - c_mu + c_1 * (1.0 - h) * c_c * (2.0 - c_c);
            variance.values[i] = kept * old + c_1 * path.values[i].powi(2) + c_mu * spread;
        }
        let step_size = step_size * ((c_sigma / d_sigma) * (length / chi - 1.0)).min(1.0).exp();
        for &i in &searched {
            sigma[i] = step_size * variance.values[i].sqrt();
        }
        Update { advantages, gradient_norm, delta_norm: gaussian::norm(&delta) }
    }

    fn state(&self) -> &PolicyState {
        &self.state
    }

    fn set_state(&mut self, state: PolicyState) {
        let names: Vec<&str> = state.memory.iter().map(|vector| &vector.name[..]).collect();
        assert_eq!(names, VECTORS.map(|(name, _)| name), "the policy's vectors");
        self.state = state;
    }
}

/// The weight of each sample by its place among them; samples of equal advantage share their weights.
fn ranked_weights(weights: &[f64], advantages: &[f64]) -> Vec<f64> {
    let weight_of_place = |place: usize| weights.get(place).copied().unwrap_or(0.0);
    let share = |advantage: &f64| {
        let better = advantages.iter().filter(|&other| other > advantage).count();
        let equal = advantages.iter().filter(|&other| other == advantage).count();
        (better..better + equal).map(weight_of_place).sum::<f64>() / equal as f64
    };
    advantages.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(samples: usize, sigma: Vec<f64>) -> SepCma {
        let settings = Settings { samples, learning_rate: 1.0, seed: 5, ..Settings::default() };
        SepCma::new(Start { settings, mu: vec![1.0; sigma.len()], sigma, schedule: Vec::new() })
    }

    #[test]
    fn constants_are_the_tutorials() {
        // pycma 4: CMAEvolutionStrategy(10 * [0], 1, {'popsize': 10}).sp has mueff 3.1673, cs 0.2844, damps 1.2844;
        // by hand from table 1: cc = (4 + mueff/10) / (14 + 2 mueff/10)
        let found = Constants::new(10, 10);
        assert!((found.mu_eff - 3.1673).abs() < 1e-4, "{}", found.mu_eff);
        assert!((found.c_sigma - 5.1673 / 18.1673).abs() < 1e-4 && (found.d_sigma - 1.0 - found.c_sigma).abs() < 1e-12);
        assert!((found.c_c - (4.0 + 0.31673) / (14.0 + 0.63346)).abs() < 1e-5);
        assert!((found.c_1 - 4.0 * 2.0 / (11.3f64.powi(2) + 3.1673)).abs() < 1e-5);
        assert!((found.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn it_finds_an_optimum_whose_axes_differ_a_thousandfold_and_shrinks_around_it() {
        let mut policy = policy(12, vec![0.3; 5]);
        let reward = |theta: &[f64]| {
            -theta
                .iter()
                .enumerate()
                .map(|(i, x)| 1000f64.powf(i as f64 / 2.0) * (x - 0.2 * i as f64).powi(2))
                .sum::<f64>()
        };
        for round in 0..250 {
            let thetas = policy.ask(round);
            let rewards: Vec<f64> = thetas.iter().map(|theta| reward(theta)).collect();
            policy.tell(&thetas, &rewards);
        }
        let PolicyState { mu, sigma, .. } = policy.state();
        for (i, x) in mu.iter().enumerate() {
            assert!((x - 0.2 * i as f64).abs() < 1e-3, "{mu:?}");
        }
        assert!(sigma[0] > 20.0 * sigma[4] && sigma[0] < 0.01, "{sigma:?}");
    }

    #[test]
    fn equal_rewards_and_components_with_sigma_0_change_nothing() {
        let mut policy = policy(6, vec![0.2, 0.0]);
        let before = policy.state().clone();
        policy.tell(&policy.ask(0), &[0.5; 6]);
        assert_eq!(*policy.state(), before);
        policy.tell(&policy.ask(0), &[0.5, 0.1, 0.2, 0.7, 0.3, 0.4]);
        assert_eq!((policy.state().mu[1], policy.state().sigma[1]), (1.0, 0.0));
        assert_ne!(policy.state().mu[0], 1.0);
    }

    #[test]
    fn samples_of_equal_reward_share_their_weights() {
        assert_eq!(ranked_weights(&[0.7, 0.3], &[1.0, -1.0, 1.0, 0.0]), [0.5, 0.0, 0.5, 0.0]);
    }
}
