//! Measuring the logits of a classifier.

use tch::{Kind, Tensor};

use crate::error::Result;

/// Share of rows of `logits` [N, C] whose largest number is that of `labels` [N] i64; NaN if a logit is not finite.
pub fn top1(logits: &Tensor, labels: &Tensor) -> Result<f64> {
    if i64::try_from(logits.isfinite().all())? == 0 {
        return Ok(f64::NAN);
    }
    let correct = logits.argmax(1, false).eq_tensor(labels).sum(Kind::Int64);
    Ok(i64::try_from(correct)? as f64 / logits.size()[0] as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn top1_counts_rows_and_a_broken_network_has_none() {
        let logits = Tensor::from_slice(&[0.1f32, 0.9, 3.0, -1.0, 0.5, 0.4]).view([3, 2]);
        let labels = Tensor::from_slice(&[1i64, 0, 1]);
        assert_eq!(top1(&logits, &labels).unwrap(), 2.0 / 3.0);
        assert!(top1(&(&logits / 0.0), &labels).unwrap().is_nan());
    }
}
