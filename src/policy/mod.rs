//! The distribution of loss functions, theta ~ N(mu, sigma^2) component-wise, and how mu learns from rewards: policies as
//! `ask` and `tell`. Pure f64: no tch, MPI or HDF5.
//!
//! ```
//! use amlfs::policy::{self, Settings};
//!
//! // which theta has the largest reward? mu should come near (2, -1)
//! let reward = |theta: &[f64]| -(theta[0] - 2.0).powi(2) - (theta[1] + 1.0).powi(2);
//! let settings = Settings { samples: 8, learning_rate: 0.1, betas: [0.9, 0.999], seed: 1, ..Settings::default() };
//! let mut policy = policy::find("mirrored").unwrap().start(settings, vec![0.0, 0.0], vec![0.2, 0.2]);
//! for round in 0..100 {
//!     let thetas = policy.ask(round);
//!     let rewards: Vec<f64> = thetas.iter().map(|theta| reward(theta)).collect();
//!     policy.tell(&thetas, &rewards);
//! }
//! let mu = &policy.state().mu;
//! assert!((mu[0] - 2.0).abs() < 0.3 && (mu[1] + 1.0).abs() < 0.3);
//! ```
//!
//! A new policy is a file beside `reinforce.rs` and a line in `POLICIES`.

mod adam;
mod advantage;
mod bounded;
mod evidence;
mod fixed;
mod gaussian;
mod mirrored;
mod natural;
mod reinforce;
mod select;
mod sep_cma;

use crate::state::PolicyState;

use bounded::Bounded;
pub use evidence::{Steps, length_by_chance, length_in_sigmas, steps};

/// Every policy, by the name that `search.policy` has.
pub const POLICIES: &[PolicyKind] = &[
    PolicyKind {
        name: "reinforce",
        about: "the paper's: independent draws, Adam along the gradient",
        pairs: false,
        smooth: false,
        least_rounds: 20,
        new: |start| Box::new(reinforce::Reinforce::new(start)),
    },
    PolicyKind {
        name: "fixed",
        about: "draws, but never learns: a control",
        pairs: false,
        smooth: true,
        least_rounds: 0,
        new: |start| Box::new(fixed::Fixed::new(start)),
    },
    PolicyKind {
        name: "mirrored",
        about: "draws in pairs around the mean; needs an even number of samples",
        pairs: true,
        smooth: false,
        least_rounds: 20,
        new: |start| Box::new(mirrored::Mirrored::new(start)),
    },
    PolicyKind {
        name: "natural",
        about: "pairs, and natural-gradient steps in units of sigma along a smoothed path",
        pairs: true,
        smooth: true,
        least_rounds: 4,
        new: |start| Box::new(natural::Natural::new(start)),
    },
    PolicyKind {
        name: "select",
        about: "every sample has the mean's loss, and the best goes on: a control",
        pairs: false,
        smooth: true,
        least_rounds: 0,
        new: |start| Box::new(select::Select::new(start)),
    },
    PolicyKind {
        name: "sep-cma",
        about: "separable CMA-ES: learns the spread too",
        pairs: false,
        smooth: false,
        least_rounds: 20,
        new: |start| Box::new(sep_cma::SepCma::new(start)),
    },
];

pub trait Policy {
    /// The losses of a round: one theta [P] per sample. `round` is the epoch that it starts after. Equal wherever and
    /// however often it is asked, as long as the state is.
    fn ask(&self, round: usize) -> Vec<Vec<f64>>;

    /// Learns from what `ask` gave. `rewards` has one entry per sample, not finite for one that failed; at least one is
    /// finite.
    fn tell(&mut self, thetas: &[Vec<f64>], rewards: &[f64]) -> Update;

    /// What is broadcast, saved and resumed.
    fn state(&self) -> &PolicyState;

    /// Goes on from a state of the same policy. Panics if it lacks one of the policy's vectors.
    fn set_state(&mut self, state: PolicyState);
}

/// What an update did.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// One per sample; NaN if there was no update.
    pub advantages: Vec<f64>,
    /// Euclidean norms of the gradient of mu and of the change of mu.
    pub gradient_norm: f64,
    pub delta_norm: f64,
}

impl Update {
    /// No update of mu.
    pub fn none(advantages: Vec<f64>) -> Update {
        Update { advantages, gradient_norm: 0.0, delta_norm: 0.0 }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// B
    pub samples: usize,
    /// eta
    pub learning_rate: f64,
    /// Adam's.
    pub betas: [f64; 2],
    /// The run's.
    pub seed: u64,
    /// theta's groups, in order.
    pub groups: Vec<Neighbours>,
    /// Over how many neighbours draws are correlated; 0: they are independent.
    pub smoothness: f64,
    /// [P], what mu stays at or below while it learns; may be empty.
    pub ceiling: Vec<f64>,
}

/// Components of theta that are neighbours.
#[derive(Clone, Copy, Debug)]
pub struct Neighbours {
    pub size: usize,
    /// Whether adding one number to all of them changes the loss. If not, correlated draws leave that direction out: it
    /// would be the widest part of them, and rewards can say nothing of it.
    pub level: bool,
}

/// Where a policy starts.
pub struct Start {
    pub settings: Settings,
    /// [P]
    pub mu: Vec<f64>,
    /// [P], 0 for a component that is not searched.
    pub sigma: Vec<f64>,
    /// Thetas [P] for a policy that does not search; may be empty.
    pub schedule: Vec<Vec<f64>>,
}

/// A policy that can be chosen.
#[derive(Debug)]
pub struct PolicyKind {
    pub name: &'static str,
    /// In a phrase, for people.
    pub about: &'static str,
    /// Whether samples come in pairs, so that B must be even.
    pub pairs: bool,
    /// Whether draws may be correlated. Adam's steps follow a gradient that is that of independent components.
    pub smooth: bool,
    /// With fewer rounds than this it can't move mu by a few sigmas; 0 for one that never learns.
    pub least_rounds: usize,
    new: fn(Start) -> Box<dyn Policy>,
}

impl PolicyKind {
    /// mu [P] and sigma [P], the standard deviation of each component, 0 for one that is not searched.
    pub fn start(&self, settings: Settings, mu: Vec<f64>, sigma: Vec<f64>) -> Box<dyn Policy> {
        self.with_schedule(settings, mu, sigma, Vec::new())
    }

    /// As `start`, with thetas that a policy which does not search goes through, one for each round.
    pub fn with_schedule(
        &self,
        settings: Settings,
        mu: Vec<f64>,
        sigma: Vec<f64>,
        schedule: Vec<Vec<f64>>,
    ) -> Box<dyn Policy> {
        let ceiling = settings.ceiling.clone();
        let policy = (self.new)(Start { settings, mu, sigma, schedule });
        match self.learns() && ceiling.iter().any(|bound| bound.is_finite()) {
            true => Box::new(Bounded::new(policy, ceiling)),
            false => policy,
        }
    }

    /// Whether mu follows the rewards.
    fn learns(&self) -> bool {
        self.least_rounds > 0
    }
}

pub fn find(name: &str) -> Option<&'static PolicyKind> {
    POLICIES.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(name: &str, mu: Vec<f64>, sigma: f64) -> Box<dyn Policy> {
        let settings =
            Settings { samples: 32, learning_rate: 0.05, betas: [0.9, 0.999], seed: 5, ..Settings::default() };
        let sigma = vec![sigma; mu.len()];
        find(name).unwrap().start(settings, mu, sigma)
    }

    /// theta = [slopes, biases] of t, then of tau, with two intervals.
    const IDENTITY: [f64; 8] = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0];

    #[test]
    fn mu_reaches_the_target_of_a_synthetic_reward() {
        for name in ["reinforce", "mirrored", "natural", "sep-cma"] {
            let mut policy = start(name, IDENTITY.into(), 0.2);
            let target = [1.5, 0.4, 0.5, -0.5, 0.7, 1.3, 0.2, -0.2];
            let reward = |theta: &[f64]| -theta.iter().zip(target).map(|(x, target)| (x - target).powi(2)).sum::<f64>();
            let before = -reward(&policy.state().mu);
            for epoch in 0..400 {
                let thetas = policy.ask(epoch);
                let rewards: Vec<f64> = thetas.iter().map(|theta| reward(theta)).collect();
                policy.tell(&thetas, &rewards);
            }
            let after = -reward(&policy.state().mu);
            assert!(after < 0.02 * before, "{name}: squared distance {before} -> {after}");
        }
    }

    #[test]
    fn every_policy_gives_b_thetas_and_goes_on_from_a_saved_state() {
        for kind in POLICIES {
            let mut straight = start(kind.name, IDENTITY.into(), 0.2);
            let mut resumed = start(kind.name, IDENTITY.into(), 0.2);
            for round in 0..3 {
                let thetas = straight.ask(round);
                assert_eq!(thetas, straight.ask(round), "{}: asked twice", kind.name);
                assert_eq!((thetas.len(), thetas[0].len()), (32, 8), "{}", kind.name);
                let rewards: Vec<f64> = (0..32).map(|i| ((i * 7 + round) % 11) as f64).collect();
                let update = straight.tell(&thetas, &rewards);
                assert_eq!(update, resumed.tell(&thetas, &rewards), "{}", kind.name);
                let saved = resumed.state().clone();
                resumed = start(kind.name, IDENTITY.into(), 0.2);
                resumed.set_state(saved);
                assert_eq!(straight.state(), resumed.state(), "{}", kind.name);
            }
        }
    }
}
