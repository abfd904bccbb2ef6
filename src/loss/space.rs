//! What theta's numbers are. Pure f64.

use serde::{Deserialize, Serialize};

use super::TauWeights;

/// What is searched; the other transform stays the identity.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Transforms {
    Both,
    T,
    Tau,
}

/// How theta says t and tau.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SpaceKind {
    /// A slope and a bias for each piece of t and of tau (AM-LFS section 3.3).
    #[default]
    Lines,
    /// What training feels of them: the logarithms of t's slopes, t(0), and the logarithms of the examples' weights
    /// (`derivatives.rs`).
    Derivatives,
}

/// The group of `SpaceKind::Derivatives` whose components are the logarithms of the examples' weights.
const LOG_WEIGHT: &str = "log_weight";
/// Its t(0).
const T_OFFSET: &str = "t_offset";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub kind: SpaceKind,
    /// M, the number of equal intervals of t on [-1, 1] and of tau on [0, 1]; 0: a fixed loss, nothing to search.
    pub intervals: usize,
}

/// Components of theta that belong together: neighbouring intervals are neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    pub name: &'static str,
    pub size: usize,
    /// What its components are for plain softmax.
    pub identity: f64,
}

impl Group {
    /// Whether it is a part of t; the others are of tau.
    pub fn of_t(&self) -> bool {
        self.name.starts_with("t_")
    }

    /// Whether adding one number to all its components changes the loss. Weights that are divided by their mean are relative.
    pub fn has_level(&self, tau_weights: TauWeights) -> bool {
        self.name != LOG_WEIGHT || tau_weights == TauWeights::Raw
    }
}

impl Space {
    /// theta's parts, in order.
    pub fn groups(&self) -> Vec<Group> {
        let group = |name, size, identity| Group { name, size, identity };
        let intervals = self.intervals;
        match self.kind {
            SpaceKind::Lines => vec![
                group("t_slope", intervals, 1.0),
                group("t_bias", intervals, 0.0),
                group("tau_slope", intervals, 1.0),
                group("tau_bias", intervals, 0.0),
            ],
            SpaceKind::Derivatives => vec![
                group("t_log_slope", intervals, 0.0),
                group(T_OFFSET, intervals.min(1), 0.0),
                group(LOG_WEIGHT, intervals, 0.0),
            ],
        }
    }

    /// Length of theta: 4M or 2M + 1.
    pub fn dimension(&self) -> usize {
        self.groups().iter().map(|group| group.size).sum()
    }

    /// theta for plain softmax.
    pub fn identity(&self) -> Vec<f64> {
        self.each(|group| group.identity)
    }

    /// One number for each component: that of its group.
    pub fn each(&self, of: impl Fn(&Group) -> f64) -> Vec<f64> {
        self.groups().iter().flat_map(|group| std::iter::repeat_n(of(group), group.size)).collect()
    }

    /// [P], what the mean of a search that starts at `mu` stays at or below. An offset of t above 0 is the opposite of a margin: the loss
    /// is soon content, which looks well after a round and is not in the end (docs/search.md).
    pub fn ceiling(&self, mu: &[f64]) -> Vec<f64> {
        let bound = self.each(|group| if group.name == T_OFFSET { 0.0 } else { f64::INFINITY });
        bound.iter().zip(mu).map(|(bound, start)| start.max(*bound)).collect()
    }

    /// `t_slope_1` ... `tau_bias_M`.
    pub fn names(&self) -> Vec<String> {
        let groups = self.groups().into_iter();
        groups
            .flat_map(|Group { name, size, .. }| {
                (1..=size).map(move |i| if name == T_OFFSET { name.to_owned() } else { format!("{name}_{i}") })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_slopes_then_biases_of_t_then_tau() {
        let space = Space { kind: SpaceKind::Lines, intervals: 2 };
        assert_eq!(space.identity(), [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
        let of_t = space.each(|group| f64::from(group.of_t()));
        assert_eq!(of_t, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(space.names()[..3], ["t_slope_1", "t_slope_2", "t_bias_1"]);
        assert_eq!(space.names()[7], "tau_bias_2");
    }

    #[test]
    fn derivatives_have_one_offset_and_softmax_is_zero() {
        let space = Space { kind: SpaceKind::Derivatives, intervals: 2 };
        assert_eq!(space.identity(), [0.0; 5]);
        assert_eq!(space.names(), ["t_log_slope_1", "t_log_slope_2", "t_offset", "log_weight_1", "log_weight_2"]);
        assert_eq!(space.dimension(), 5);
        let levels = |weights| space.groups().iter().map(|group| group.has_level(weights)).collect::<Vec<_>>();
        assert_eq!(levels(TauWeights::Raw), [true; 3]);
        assert_eq!(levels(TauWeights::Normalised), [true, true, false]);
    }

    #[test]
    fn the_offset_stays_a_margin_or_where_it_was_put() {
        let space = Space { kind: SpaceKind::Derivatives, intervals: 1 };
        let free = f64::INFINITY;
        assert_eq!(space.ceiling(&[0.0; 3]), [free, 0.0, free]);
        assert_eq!(space.ceiling(&[0.0, -0.3, 0.0]), [free, 0.0, free]);
        assert_eq!(space.ceiling(&[0.0, 0.2, 0.0]), [free, 0.2, free]);
        let lines = Space { kind: SpaceKind::Lines, intervals: 1 };
        assert_eq!(lines.ceiling(&[1.0, 0.0, 1.0, 0.0]), [free; 4], "the paper's search is the paper's");
    }

    #[test]
    fn a_fixed_loss_has_nothing_to_search() {
        for kind in [SpaceKind::Lines, SpaceKind::Derivatives] {
            assert!(Space { kind, intervals: 0 }.identity().is_empty());
        }
    }
}
