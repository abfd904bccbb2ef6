//! The search space: theta = [a^t, b^t, a^tau, b^tau], M numbers each (AM-LFS section 3.3). Pure f64.

use serde::{Deserialize, Serialize};

/// What is searched; the other transform stays the identity.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Transforms {
    Both,
    T,
    Tau,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// M, the number of equal intervals of t on [-1, 1] and of tau on [0, 1]; 0: a fixed loss, nothing to search.
    pub intervals: usize,
}

impl Space {
    /// 4M.
    pub fn dimension(&self) -> usize {
        4 * self.intervals
    }

    /// Slopes 1 and biases 0: plain softmax.
    pub fn identity(&self) -> Vec<f64> {
        (0..self.dimension()).map(|i| if (i / self.intervals).is_multiple_of(2) { 1.0 } else { 0.0 }).collect()
    }

    /// The standard deviation of each component: sigma where it is searched, else 0.
    pub fn sigma(&self, sigma: f64, transforms: Transforms) -> Vec<f64> {
        (0..self.dimension())
            .map(|i| match transforms {
                Transforms::T if i >= 2 * self.intervals => 0.0,
                Transforms::Tau if i < 2 * self.intervals => 0.0,
                _ => sigma,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn theta_is_slopes_then_biases_of_t_then_tau() {
        let space = Space { intervals: 2 };
        assert_eq!(space.identity(), [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(space.sigma(0.2, Transforms::T), [0.2, 0.2, 0.2, 0.2, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(space.sigma(0.2, Transforms::Tau), [0.0, 0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.2]);
        assert!(Space { intervals: 0 }.identity().is_empty());
    }
}
