//! How likely scores make the right answers: a reward with less noise than a rate, and without a rate's ceiling.
//!
//! Where every right answer is above all wrong ones, the likelihood at the best scale is 0 whatever the scores are: the best scale is
//! infinite. A bound on it leaves a difference between just right and far from wrong.

use tch::{Kind, Tensor};

use crate::error::Result;

/// beta times the standard deviation of the scores is at most this: e^10 between one deviation and the next.
const STEEPEST: f64 = 10.0;
/// ln of the steepest beta over the flattest one, with which a score counts for nothing.
const RANGE: f64 = 24.0;
/// Golden sections: they leave 1e-8 of the way between the bounds, and the likelihood is flat at its top.
const SECTIONS: usize = 40;
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// max over beta of the mean over rows of the mean over a row's right answers of ln(exp(beta s) / (exp(beta s) + sum over the wrong ones
/// of exp(beta s'))), in nats, at most 0; -ln C for scores that know nothing of C classes.
///
/// `scores` [N, C] (any float); `right` and `wrong` [N, C] bool: what answers a row rightly, and what else might have been answered. Rows
/// without a right answer don't count. For a classifier's logits this is its log-likelihood at the best temperature (Guo et al. 2017,
/// section 4.2). For similarities every mate stands by itself against the strangers, as in MegaFace's rank-1 and, nearly, in an average
/// precision: one near mate must not hide the far ones. The best beta is at most `STEEPEST` over the standard deviation of all
/// answers. NaN if a score is not finite, or no row counts. With `weights` [N] f64 the mean over rows is a weighted one.
pub fn calibrated_log_likelihood(
    scores: &Tensor,
    right: &Tensor,
    wrong: &Tensor,
    weights: Option<&Tensor>,
) -> Result<f64> {
    let answerable = right.any_dim(1, false).nonzero().squeeze_dim(1);
    if i64::try_from(scores.isfinite().all())? == 0 || answerable.numel() == 0 {
        return Ok(f64::NAN);
    }
    let [scores, right, wrong] = [scores, right, wrong].map(|of| of.index_select(0, &answerable));
    let scores = scores.to_kind(Kind::Double);
    // a row's level means nothing, and what is equal becomes 0, which no scale makes different
    let scores = &scores - scores.amax([1i64].as_slice(), true);
    let deviation = f64::try_from(scores.masked_select(&right.logical_or(&wrong)).std(false))?;
    let strangers = scores.masked_fill(&wrong.logical_not(), f64::NEG_INFINITY);
    let (mates, rows) = (scores.masked_select(&right), right.nonzero().select(1, 0));
    let weights = match weights {
        Some(weights) => weights.index_select(0, &answerable),
        None => Tensor::ones([scores.size()[0]], (Kind::Double, scores.device())),
    };
    let each = &weights / right.sum_dim_intlist([1i64].as_slice(), false, Kind::Double);
    let weights = each.index_select(0, &rows) / weights.sum(Kind::Double);
    let at = |log_beta: f64| -> Result<f64> {
        let beta = log_beta.exp();
        let of_strangers = (&strangers * beta).logsumexp([1], false).index_select(0, &rows);
        Ok(f64::try_from((&mates * beta - of_strangers).log_sigmoid().dot(&weights))?)
    };

    let steepest = (STEEPEST / deviation.max(f64::MIN_POSITIVE.sqrt())).ln();
    let (mut low, mut high) = (steepest - RANGE, steepest);
    let inner = |low: f64, high: f64| (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
    let (mut left, mut right) = inner(low, high);
    let (mut at_left, mut at_right) = (at(left)?, at(right)?);
    for _ in 0..SECTIONS {
        if at_left < at_right {
            (low, left, at_left) = (left, right, at_right);
            right = inner(low, high).1;
            at_right = at(right)?;
        } else {
            (high, right, at_right) = (right, left, at_left);
            left = inner(low, high).0;
            at_left = at(left)?;
        }
    }
    Ok(at_left.max(at_right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_classes(logits: &[f64], labels: &[i64]) -> f64 {
        let logits = Tensor::from_slice(logits).view([labels.len() as i64, -1]);
        let right = Tensor::from_slice(labels)
            .unsqueeze(1)
            .eq_tensor(&Tensor::arange(logits.size()[1], (Kind::Int64, logits.device())));
        calibrated_log_likelihood(&logits, &right, &right.logical_not(), None).unwrap()
    }

    #[test]
    fn two_classes_have_a_closed_form_and_their_scale_is_nothing() {
        // margins of 1 for two in three and -1 for one in three: the best beta makes sigmoid(beta) = 2 / 3
        let expected = (2.0 * (2.0f64 / 3.0).ln() + (1.0f64 / 3.0).ln()) / 3.0;
        for scale in [1e-3, 1.0, 50.0] {
            let logits = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0].map(|logit| logit * scale + 7.0);
            let found = of_classes(&logits, &[0, 1, 1]);
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
    }

    #[test]
    fn who_knows_nothing_has_minus_ln_c() {
        assert!((of_classes(&[0.3; 12], &[0, 1, 2]) + 4f64.ln()).abs() < 1e-12);
        // wrong throughout: no beta above 0 is of use
        assert!((of_classes(&[0.0, 1.0, 0.0, 1.0], &[0, 0]) + 2f64.ln()).abs() < 1e-4);
    }

    #[test]
    fn who_is_right_throughout_has_more_the_farther_from_wrong() {
        // margins of 1 and m: the scores' variance is that of {0, 1, m, 0}
        let closed_form = |m: f64| {
            let variance = (1.0 + m * m) / 4.0 - ((1.0 + m) / 4.0).powi(2);
            let beta = STEEPEST / variance.sqrt();
            -((-beta).exp().ln_1p() + (-beta * m).exp().ln_1p()) / 2.0
        };
        for scale in [1e-3, 1.0, 50.0] {
            let found = [0.05, 0.2, 0.5, 1.0].map(|m| of_classes(&[0.0, scale, m * scale, 0.0], &[1, 0]));
            for (m, found) in [0.05, 0.2, 0.5, 1.0].into_iter().zip(found) {
                assert!((found - closed_form(m)).abs() < 1e-6, "{m}: {found} {}", closed_form(m));
            }
            assert!(found.is_sorted() && found[3] < 0.0, "{found:?}");
        }
    }

    #[test]
    fn every_right_answer_stands_by_itself_and_some_do_not_count() {
        let of = |scores: &[f64], right: &[i64], wrong: &[i64]| {
            let table = |values: &Tensor| values.view([-1, 3]);
            let mask = |mask: &[i64]| table(&Tensor::from_slice(mask)).to_kind(Kind::Bool);
            calibrated_log_likelihood(&table(&Tensor::from_slice(scores)), &mask(right), &mask(wrong), None).unwrap()
        };
        // mates at 2 and -1 of a stranger: with x = e^beta the mean of ln(x^2 / (1 + x^2)) and ln(1 / (1 + x)), whose derivative is
        // zero where x^3 - x - 2 is
        let x = 1.521_379_706_804_567_6f64;
        let expected = ((x * x / (1.0 + x * x)).ln() - x.ln_1p()) / 2.0;
        let found = of(&[2.0, -1.0, 0.0], &[1, 1, 0], &[0, 0, 1]);
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        // a row counts once, however many mates it has: margins of 1 for two in three and -1 for one in three, and a row without mates
        let scores = [1.0, 1.0, 0.0, 1.0, 9.0, 0.0, 9.0, 0.0, 1.0, 5.0, 6.0, 7.0];
        let found = of(&scores, &[1, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], &[0, 0, 1, 0, 0, 1, 0, 0, 1, 1, 1, 1]);
        let expected = (2.0 * (2.0f64 / 3.0).ln() + (1.0f64 / 3.0).ln()) / 3.0;
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        assert!(of(&[f64::INFINITY, 0.0, 0.0], &[1, 0, 0], &[0, 1, 1]).is_nan());
        assert!(of(&[1.0, 0.0, 0.0], &[0, 0, 0], &[0, 1, 1]).is_nan());
    }

    #[test]
    fn weights_count_a_row_as_often_as_they_say() {
        let scores = Tensor::from_slice(&[1.0, 0.0, 0.2, 0.9, 0.5, 0.6]).view([3, 2]);
        let right = Tensor::from_slice(&[1i64, 0, 0, 1, 1, 0]).view([3, 2]).to_kind(Kind::Bool);
        let found = |rows: &[i64], weights: Option<&[f64]>| {
            let rows = Tensor::from_slice(rows);
            let (scores, right) = (scores.index_select(0, &rows), right.index_select(0, &rows));
            let weights = weights.map(Tensor::from_slice);
            calibrated_log_likelihood(&scores, &right, &right.logical_not(), weights.as_ref()).unwrap()
        };
        let weighted = found(&[0, 1, 2], Some(&[2.0, 6.0, 4.0]));
        let repeated = found(&[0, 1, 1, 1, 2, 2], None);
        assert!((weighted - repeated).abs() < 1e-12 && (weighted - found(&[0, 1, 2], None)).abs() > 1e-3);
    }
}
