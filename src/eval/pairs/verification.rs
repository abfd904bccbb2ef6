//! Verification of pairs: accuracy by 10-fold cross-validation of the threshold, and validation rate at a false-accept
//! rate, as recognition/arcface_torch/eval/verification.py of deepinsight/insightface (after facenet) defines them.
//!
//! Pairs are counted by the first threshold that accepts them, so all thresholds cost one pass over the pairs.

use std::ops::Range;

use crate::error::{Error, Result};

/// Squared distances of unit vectors lie in [0, 4]; numpy's arange(0, 4, 0.01) and arange(0, 4, 0.001).
const ACCURACY_STEP: f64 = 0.01;
const ACCURACY_THRESHOLDS: usize = 400;
const RATE_STEP: f64 = 0.001;
const RATE_THRESHOLDS: usize = 4000;

/// Means over the folds, and standard deviations (numpy's, that is, of the folds as the population).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accuracy {
    pub mean: f64,
    pub deviation: f64,
    /// Mean of the folds' thresholds on the squared distance.
    pub threshold: f64,
    /// A fold's threshold is at an edge of the grid, where all or no pairs are accepted: the sign of a network that gives
    /// all images one embedding.
    pub at_edge: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidationRate {
    pub mean: f64,
    pub deviation: f64,
    /// False-accept rate of the held-out folds, mean.
    pub false_accepts: f64,
    /// Those that were measured.
    pub folds: usize,
}

/// distances [P]: squared Euclidean distances of unit-norm embeddings; same [P]: whether a pair is of one identity.
/// Each of the consecutive `folds` is judged by the (first) threshold of the best accuracy on the others; accepted
/// is `distance < threshold`.
pub fn accuracy(distances: &[f64], same: &[bool], folds: &[Range<usize>]) -> Result<Accuracy> {
    check(distances, same, folds)?;
    let thresholds = thresholds(ACCURACY_STEP, ACCURACY_THRESHOLDS);
    let counts = count(distances, same, folds, &thresholds);
    let (mut accuracies, mut best_thresholds, mut at_edge) = (Vec::new(), Vec::new(), false);
    for (fold, test) in counts.iter().enumerate() {
        let train = others(&counts, fold);
        let correct = |counts: &Counts, i: usize| counts.genuine[i] + counts.impostors() - counts.impostor[i];
        let best = (0..thresholds.len()).rev().max_by_key(|&i| correct(&train, i)).expect("thresholds"); // the first
        accuracies.push(correct(test, best) as f64 / (test.genuines() + test.impostors()) as f64);
        best_thresholds.push(thresholds[best]);
        at_edge |= best <= 1 || best == thresholds.len() - 1;
    }
    let (mean, deviation) = moments(&accuracies);
    Ok(Accuracy { mean, deviation, threshold: moments(&best_thresholds).0, at_edge })
}

/// Inputs as for `accuracy`. Each fold is judged by the threshold at which the others' false-accept rate is `far`,
/// interpolated linearly; 0 if they don't reach it. Where the rate is `far` at several thresholds, the largest counts
/// (interp1d's answer before scipy refused such input). Insightface uses 10 folds and far = 1e-3. Folds that lack one kind of
/// pairs have no rate and are left out; `None`: all do.
pub fn validation_rate(
    distances: &[f64],
    same: &[bool],
    folds: &[Range<usize>],
    far: f64,
) -> Result<Option<ValidationRate>> {
    check(distances, same, folds)?;
    if !(far > 0.0 && far <= 1.0) {
        return Err(Error::failed(format!("false-accept rate {far} is not in (0, 1]")));
    }
    let thresholds = thresholds(RATE_STEP, RATE_THRESHOLDS);
    let counts = count(distances, same, folds, &thresholds);
    let (mut rates, mut false_accepts) = (Vec::new(), Vec::new());
    for (fold, (test, pairs)) in counts.iter().zip(folds).enumerate() {
        let train = others(&counts, fold);
        if test.genuines() == 0 || test.impostors() == 0 || train.impostors() == 0 {
            continue;
        }
        let rates_of_train: Vec<f64> =
            train.impostor[..thresholds.len()].iter().map(|&n| n as f64 / train.impostors() as f64).collect();
        let threshold = interpolate(&rates_of_train, &thresholds, far);
        let accepted = |genuine: bool| {
            pairs.clone().filter(|&pair| same[pair] == genuine && distances[pair] < threshold).count() as f64
        };
        rates.push(accepted(true) / test.genuines() as f64);
        false_accepts.push(accepted(false) / test.impostors() as f64);
    }
    if rates.is_empty() {
        return Ok(None);
    }
    let (mean, deviation) = moments(&rates);
    Ok(Some(ValidationRate { mean, deviation, false_accepts: moments(&false_accepts).0, folds: rates.len() }))
}

/// Scores (larger is more alike) of genuine [G] and impostor [I] pairs -> share of the genuine ones above the
/// (k + 1)-th largest impostor score, k = floor(far I): no more impostors are accepted than `far` in [0, 1) allows.
pub fn tar_at_far(genuine: &[f32], impostor: &[f32], far: f64) -> Result<f64> {
    if genuine.is_empty() || impostor.is_empty() {
        return Err(Error::failed("verification needs genuine and impostor pairs"));
    }
    if genuine.iter().chain(impostor).any(|score| score.is_nan()) {
        return Err(Error::failed("a score is NaN"));
    }
    if !(0.0..1.0).contains(&far) {
        return Err(Error::failed(format!("false-accept rate {far} is not in [0, 1)")));
    }
    let accepts = false_accepts(far, impostor.len() as u64) as usize;
    let mut impostor = impostor.to_vec();
    let (_, &mut threshold, _) = impostor.select_nth_unstable_by(accepts, |a, b| b.total_cmp(a));
    Ok(genuine.iter().filter(|&&score| score > threshold).count() as f64 / genuine.len() as f64)
}

/// How many of `impostors` pairs a false-accept rate below 1 allows: floor(far x impostors), less the rounding of the
/// product (0.29 x 100 is 28.999...). Always below `impostors`.
pub fn false_accepts(far: f64, impostors: u64) -> u64 {
    let product = far * impostors as f64;
    let accepts = (product * (1.0 + 4.0 * f64::EPSILON)).floor() as u64;
    accepts.min(impostors.saturating_sub(1))
}

/// Pairs of a fold below each threshold; the last item is all of them.
struct Counts {
    genuine: Vec<u64>,
    impostor: Vec<u64>,
}

impl Counts {
    fn genuines(&self) -> u64 {
        self.genuine[self.genuine.len() - 1]
    }

    fn impostors(&self) -> u64 {
        self.impostor[self.impostor.len() - 1]
    }
}

fn check(distances: &[f64], same: &[bool], folds: &[Range<usize>]) -> Result<()> {
    if distances.len() != same.len() {
        return Err(Error::failed(format!("{} distances, but {} labels of pairs", distances.len(), same.len())));
    }
    if folds.len() < 2 || folds.iter().any(Range::is_empty) {
        return Err(Error::failed(format!("{} pairs can't be split into {} folds", distances.len(), folds.len())));
    }
    if let Some(pair) = distances.iter().position(|distance| !distance.is_finite()) {
        return Err(Error::failed(format!("the distance of pair {pair} is {}", distances[pair])));
    }
    if same.iter().all(|&is_same| is_same == same[0]) {
        return Err(Error::failed("verification needs pairs of one identity and pairs of two"));
    }
    Ok(())
}

fn thresholds(step: f64, count: usize) -> Vec<f64> {
    (0..count).map(|i| i as f64 * step).collect()
}

/// Consecutive folds of so many pairs; the first P % folds have one pair more (sklearn's KFold).
pub fn split(pairs: usize, folds: usize) -> Vec<Range<usize>> {
    let (size, larger) = (pairs / folds, pairs % folds);
    let fold = |fold: usize| {
        let start = fold * size + fold.min(larger);
        start..start + size + usize::from(fold < larger)
    };
    (0..folds).map(fold).collect()
}

/// The folds of the pairs that are `kept`, each of those of one fold; folds without a pair are gone.
pub fn folds_of_kept(folds: &[Range<usize>], kept: &[bool]) -> Vec<Range<usize>> {
    let mut start = 0;
    let fold = |fold: &Range<usize>| {
        let count = kept[fold.clone()].iter().filter(|&&kept| kept).count();
        start += count;
        start - count..start
    };
    folds.iter().map(fold).filter(|fold| !fold.is_empty()).collect()
}

fn count(distances: &[f64], same: &[bool], folds: &[Range<usize>], thresholds: &[f64]) -> Vec<Counts> {
    let of_fold = |pairs: &Range<usize>| {
        let bins = thresholds.len() + 1;
        let mut counts = Counts { genuine: vec![0; bins], impostor: vec![0; bins] };
        for pair in pairs.clone() {
            let bins = if same[pair] { &mut counts.genuine } else { &mut counts.impostor };
            bins[thresholds.partition_point(|&threshold| threshold <= distances[pair])] += 1;
        }
        for bins in [&mut counts.genuine, &mut counts.impostor] {
            (1..bins.len()).for_each(|i| bins[i] += bins[i - 1]);
        }
        counts
    };
    folds.iter().map(of_fold).collect()
}

/// The sum of all folds but one.
fn others(counts: &[Counts], fold: usize) -> Counts {
    let sum = |of: fn(&Counts) -> &Vec<u64>| {
        let mut sum = vec![0; of(&counts[0]).len()];
        for (i, counts) in counts.iter().enumerate() {
            if i != fold {
                sum.iter_mut().zip(of(counts)).for_each(|(sum, count)| *sum += count);
            }
        }
        sum
    };
    Counts { genuine: sum(|counts| &counts.genuine), impostor: sum(|counts| &counts.impostor) }
}

/// rates ascending; the threshold at which the rate is `far`.
fn interpolate(rates: &[f64], thresholds: &[f64], far: f64) -> f64 {
    let above = rates.partition_point(|&rate| rate <= far);
    if above == rates.len() {
        return if rates[above - 1] < far { 0.0 } else { thresholds[above - 1] };
    }
    let Some(below) = above.checked_sub(1) else { return 0.0 }; // only distances below 0, by rounding, reach it
    let weight = (far - rates[below]) / (rates[above] - rates[below]);
    thresholds[below] + weight * (thresholds[above] - thresholds[below])
}

/// (mean, standard deviation of the population)
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests;
