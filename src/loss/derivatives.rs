//! theta as what training feels of t and tau: their derivatives (AM-LFS section 3.2 and equation 15). Pure f64.
//!
//! theta = [log t'_1 .. log t'_M, t(0), log w_1 .. log w_M]: t is continuous with the slope t'_i on interval i of [-1, 1], and
//! an example with p in interval i of [0, 1] has the weight w_i. Its tau is a power of p there: -log tau = w_i nll + c_i with
//! nll = -log p, continuous, and 0 at p = 1.

/// Lines, one for each interval: slopes and intercepts [M].
#[derive(Debug, PartialEq)]
pub struct Lines {
    pub slopes: Vec<f64>,
    pub intercepts: Vec<f64>,
}

/// (t by the cosine, the loss value by nll) of theta [2M + 1]. All zeros give (c, nll), exactly.
pub fn lines(theta: &[f64]) -> (Lines, Lines) {
    let intervals = theta.len() / 2;
    let exp = |logs: &[f64]| logs.iter().map(|log| log.exp()).collect::<Vec<f64>>();
    let (slopes, weights) = (exp(&theta[..intervals]), exp(&theta[intervals + 1..]));

    // from the interval of 0 to both sides: neighbours meet at their knot
    let middle = intervals / 2;
    let mut intercepts = vec![theta[intervals]; intervals];
    for i in middle + 1..intervals {
        intercepts[i] = intercepts[i - 1] + (slopes[i - 1] - slopes[i]) * knot(i, intervals);
    }
    for i in (0..middle).rev() {
        intercepts[i] = intercepts[i + 1] + (slopes[i + 1] - slopes[i]) * knot(i + 1, intervals);
    }

    let mut constants = vec![0.0; intervals];
    for i in (0..intervals - 1).rev() {
        let nll = (intervals as f64 / (i + 1) as f64).ln();
        constants[i] = constants[i + 1] + (weights[i + 1] - weights[i]) * nll;
    }
    (Lines { slopes, intercepts }, Lines { slopes: weights, intercepts: constants })
}

/// theta with log w_1 .. log w_M less their mean.
pub fn without_level(theta: &[f64]) -> Vec<f64> {
    let (rest, logs) = theta.split_at(theta.len() / 2 + 1);
    let level = logs.iter().sum::<f64>() / logs.len() as f64;
    rest.iter().copied().chain(logs.iter().map(|log| log - level)).collect()
}

/// Where interval i of [-1, 1] begins.
pub fn knot(i: usize, intervals: usize) -> f64 {
    -1.0 + 2.0 * i as f64 / intervals as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12 * (1.0 + b.abs()), "{a} is not {b}");
    }

    #[test]
    fn zeros_are_softmax_exactly() {
        for intervals in [1, 2, 5, 6] {
            let (t, loss) = lines(&vec![0.0; 2 * intervals + 1]);
            for lines in [t, loss] {
                assert_eq!(lines, Lines { slopes: vec![1.0; intervals], intercepts: vec![0.0; intervals] });
            }
        }
    }

    #[test]
    fn t_and_the_loss_are_the_integrals_of_their_derivatives() {
        for intervals in [1, 3, 4, 6] {
            let theta: Vec<f64> = (0..2 * intervals + 1).map(|i| (i as f64 * 2.7).sin() * 0.8).collect();
            let (t, loss) = lines(&theta);
            let (slope, offset) = (|i: usize| theta[i].exp(), theta[intervals]);
            // t: a sum of slopes over the intervals, numerically, from 0 to the middle of each interval
            for i in 0..intervals {
                let c = -1.0 + (2.0 * i as f64 + 1.0) / intervals as f64;
                let steps = 120_000;
                let slope_at = |x: f64| slope((((x + 1.0) / 2.0 * intervals as f64) as usize).min(intervals - 1));
                let integral: f64 = (0..steps).map(|k| slope_at((k as f64 + 0.5) / steps as f64 * c)).sum::<f64>();
                let expected = offset + integral / steps as f64 * c;
                assert!((t.slopes[i] * c + t.intercepts[i] - expected).abs() < 1e-4);
            }
            // the loss: neighbours meet at the knots, and it is 0 at p = 1
            close(loss.intercepts[intervals - 1], 0.0);
            for i in 0..intervals - 1 {
                let nll = -((i + 1) as f64 / intervals as f64).ln();
                let at = |i: usize| loss.slopes[i] * nll + loss.intercepts[i];
                close(at(i), at(i + 1));
                close(loss.slopes[i], theta[intervals + 1 + i].exp());
            }
        }
    }
}
