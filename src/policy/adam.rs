//! Adam's ascent on mu (Kingma and Ba 2015).

use super::{Settings, Start, Update, gaussian};
use crate::state::{PolicyState, PolicyVector};

const EPS: f64 = 1e-8;
/// Names of the moments in `PolicyState::memory`.
const MOMENTS: [(&str, &str); 2] =
    [("adam_m", "Adam's first moment of the gradient of mu"), ("adam_v", "Adam's second moment of the gradient of mu")];

/// A Gaussian with Adam's moments, both 0.
pub fn start(start: Start) -> PolicyState {
    let zeros = vec![0.0; start.mu.len()];
    let vector = |(name, long_name): (&str, &str)| PolicyVector {
        name: name.to_owned(),
        long_name: long_name.to_owned(),
        values: zeros.clone(),
    };
    PolicyState { mu: start.mu, sigma: start.sigma, step: 0, memory: MOMENTS.map(vector).into() }
}

/// Panics unless the state has the moments.
pub fn check(state: &PolicyState) {
    let names: Vec<&str> = state.memory.iter().map(|vector| &vector.name[..]).collect();
    assert_eq!(names, MOMENTS.map(|(name, _)| name), "the policy's vectors");
}

/// One step along the gradient of the expected reward.
pub fn ascend(settings: &Settings, state: &mut PolicyState, thetas: &[Vec<f64>], advantages: Vec<f64>) -> Update {
    let gradient = gaussian::gradient(state, thetas, &advantages);
    let delta = step(settings, state, &gradient);
    Update { advantages, gradient_norm: gaussian::norm(&gradient), delta_norm: gaussian::norm(&delta) }
}

/// Moves mu and returns the move.
fn step(settings: &Settings, state: &mut PolicyState, gradient: &[f64]) -> Vec<f64> {
    let betas = settings.betas;
    state.step += 1;
    let correction = betas.map(|beta| 1.0 - beta.powf(state.step as f64));
    let [m, v] = &mut state.memory[..] else { unreachable!("two moments, see check") };
    let mut delta = vec![0.0; gradient.len()];
    for (i, &g) in gradient.iter().enumerate() {
        let (m, v) = (&mut m.values[i], &mut v.values[i]);
        *m = betas[0] * *m + (1.0 - betas[0]) * g;
        *v = betas[1] * *v + (1.0 - betas[1]) * g * g;
        let (mean, square) = (*m / correction[0], *v / correction[1]);
        delta[i] = settings.learning_rate * mean / (square.sqrt() + EPS);
        state.mu[i] += delta[i];
    }
    delta
}
