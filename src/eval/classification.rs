//! Measuring the logits of a classifier.

use tch::{Kind, Tensor};

use crate::error::Result;

/// Of each row of `logits` [N, C], in the order of `labels` [N] i64, the number of classes with a larger logit than the
/// label's; `None` if a logit is not finite. Of equal logits the first class is ahead, as for arg max.
pub fn ranks(logits: &Tensor, labels: &Tensor) -> Result<Option<Vec<i64>>> {
    if i64::try_from(logits.isfinite().all())? == 0 {
        return Ok(None);
    }
    let labels = labels.unsqueeze(1);
    let own = logits.gather(1, &labels, false);
    let classes = Tensor::arange(logits.size()[1], (Kind::Int64, logits.device()));
    let ahead = logits.gt_tensor(&own).logical_or(&logits.eq_tensor(&own).logical_and(&classes.lt_tensor(&labels)));
    Ok(Some(Vec::try_from(ahead.sum_dim_intlist(1, false, Kind::Int64).to_device(tch::Device::Cpu))?))
}

/// Share of `ranks` below k.
pub fn top(k: i64, ranks: &[i64]) -> f64 {
    ranks.iter().filter(|&&rank| rank < k).count() as f64 / ranks.len() as f64
}

/// The mean over the classes that have images of the share of these with rank 0: accuracy as if classes were equally frequent.
pub fn recall(ranks: &[i64], labels: &[u32]) -> f64 {
    let classes = labels.iter().max().map_or(0, |&most| most as usize + 1);
    let (mut right, mut all) = (vec![0u64; classes], vec![0u64; classes]);
    for (&rank, &label) in ranks.iter().zip(labels) {
        all[label as usize] += 1;
        right[label as usize] += u64::from(rank == 0);
    }
    let shares: Vec<f64> =
        right.iter().zip(&all).filter(|(_, all)| **all > 0).map(|(&right, &all)| right as f64 / all as f64).collect();
    shares.iter().sum::<f64>() / shares.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_the_classes_ahead_and_a_broken_network_has_none() {
        let logits = Tensor::from_slice(&[0.1f32, 0.9, 0.5, 3.0, -1.0, 0.0, 0.5, 0.5, 0.5]).view([3, 3]);
        let labels = Tensor::from_slice(&[0i64, 0, 1]);
        let found = ranks(&logits, &labels).unwrap().unwrap();
        assert_eq!(found, [2, 0, 1], "of equal ones the first is ahead");
        assert_eq!((top(1, &found), top(2, &found), top(3, &found)), (1.0 / 3.0, 2.0 / 3.0, 1.0));
        let most_likely = Vec::<i64>::try_from(logits.argmax(1, false)).unwrap();
        assert_eq!(most_likely, [1, 0, 0], "as arg max");
        assert!(ranks(&(&logits / 0.0), &labels).unwrap().is_none());
    }

    #[test]
    fn recall_gives_each_class_the_same_weight() {
        // class 0: 3 of 4, class 2: none of 1, class 1 has no image
        assert_eq!(recall(&[0, 0, 0, 2, 1], &[0, 0, 0, 0, 2]), (0.75 + 0.0) / 2.0);
    }
}
