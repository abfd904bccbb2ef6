//! The triplet loss with batch-hard mining (Hermans et al. 2017), as seathiefwang/MGN-pytorch has it (loss/triplet.py).

use tch::{Kind, Tensor};

/// features [N, D] f32, labels [N] i64 on the same device. The sum over the anchors of
/// max(0, margin + distance of the farthest example with the anchor's label - distance of the nearest with another),
/// Euclidean distances in f64, divided by `examples`: N, or the size of the whole batch that the N are a part of. A scalar that
/// autograd can go back from. An anchor without a negative adds nothing.
pub fn batch_hard_triplet(features: &Tensor, labels: &Tensor, margin: f64, examples: f64) -> Tensor {
    // with a common offset |x|^2 + |y|^2 - 2 xy has more digits than f32 can hold
    let wide = features.to_kind(Kind::Double);
    let square = (&wide * &wide).sum_dim_intlist(1, true, Kind::Double);
    let square = &square + square.tr() - wide.mm(&wide.tr()) * 2.0;
    let distance = square.clamp_min(1e-12).sqrt();
    let same = labels.unsqueeze(1).eq_tensor(&labels.unsqueeze(0));
    let farthest = distance.masked_fill(&same.logical_not(), f64::NEG_INFINITY).amax([1i64].as_slice(), false);
    let nearest = distance.masked_fill(&same, f64::INFINITY).amin([1i64].as_slice(), false);
    (farthest - nearest + margin).relu().sum(Kind::Double).to_kind(Kind::Float) / examples
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(points: &[f32], labels: &[i64], margin: f64) -> (f64, Vec<f32>) {
        let x = Tensor::from_slice(points).view([-1, 1]).set_requires_grad(true);
        let loss = batch_hard_triplet(&x, &Tensor::from_slice(labels), margin, labels.len() as f64);
        loss.backward();
        (f64::try_from(loss).unwrap(), Vec::try_from(x.grad().view(-1)).unwrap())
    }

    #[test]
    fn a_batch_on_a_line_by_hand() {
        // 0 and 1 of one identity, 3 and 7 of the other; margin 2:
        // 0: 1 - 3 + 2 = 0; 1: 1 - 2 + 2 = 1; 3: 4 - 2 + 2 = 4; 7: 4 - 6 + 2 = 0
        let (value, gradient) = loss(&[0.0, 1.0, 3.0, 7.0], &[5, 5, 2, 2], 2.0);
        assert!((value - 5.0 / 4.0).abs() < 1e-6, "{value}");
        // anchor 1: d(0, 1) - d(1, 3); anchor 3: d(3, 7) - d(1, 3); nothing from those at the margin
        let expected = [-1.0, 1.0 + 1.0 + 1.0, -1.0 - 1.0 - 1.0, 1.0].map(|sum: f32| sum / 4.0);
        for (found, expected) in gradient.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{gradient:?}");
        }
    }

    #[test]
    fn a_batch_of_one_identity_costs_nothing() {
        let (value, gradient) = loss(&[0.0, 1.0], &[4, 4], 1.2);
        assert_eq!((value, gradient), (0.0, vec![0.0, 0.0]));
    }

    /// The loss and its gradient by the definition: differences in f64.
    fn by_differences(features: &Tensor, labels: &Tensor, margin: f64) -> (f64, Tensor) {
        let x = features.detach().to_kind(Kind::Double).set_requires_grad(true);
        let difference = x.unsqueeze(1) - x.unsqueeze(0);
        let distance = (&difference * &difference).sum_dim_intlist(2, false, Kind::Double).clamp_min(1e-30).sqrt();
        let same = labels.unsqueeze(1).eq_tensor(&labels.unsqueeze(0));
        let farthest = distance.masked_fill(&same.logical_not(), f64::NEG_INFINITY).amax([1i64].as_slice(), false);
        let nearest = distance.masked_fill(&same, f64::INFINITY).amin([1i64].as_slice(), false);
        let loss = (farthest - nearest + margin).relu().sum(Kind::Double) / labels.size()[0] as f64;
        loss.backward();
        (f64::try_from(&loss).unwrap(), x.grad())
    }

    #[test]
    fn features_with_a_large_common_offset_have_the_loss_and_the_gradient_of_f64() {
        let labels = Tensor::from_slice(&(0..32).map(|i| i / 4).collect::<Vec<i64>>());
        for (offset, spread) in [(0.0, 1.0), (10.0, 1.0), (1000.0, 0.1), (4096.0, 0.1)] {
            let wave = |i: i32| ((12.9898 * i as f64 + 78.233).sin() * 43758.5453).rem_euclid(1.0) - 0.5;
            let numbers: Vec<f32> = (0..32 * 256).map(|i| (offset + spread * wave(i)) as f32).collect();
            let x = Tensor::from_slice(&numbers).view([32, 256]).set_requires_grad(true);
            let loss = batch_hard_triplet(&x, &labels, spread, 32.0);
            loss.backward();
            let (value, gradient) = by_differences(&x, &labels, spread);
            let found = f64::try_from(&loss).unwrap();
            let largest = f64::try_from(gradient.abs().max()).unwrap();
            let wrong = f64::try_from((x.grad().to_kind(Kind::Double) - gradient).abs().max()).unwrap() / largest;
            assert!((found - value).abs() < 1e-5 * value, "offset {offset}: {found} for {value}");
            assert!(wrong < 1e-5, "offset {offset}: the gradient is off by {wrong} of its largest item");
        }
    }

    #[test]
    fn value_and_gradient_are_the_original_implementations() {
        // tests/reference/reid_models.py: seathiefwang/MGN-pytorch's TripletLoss
        let wave = |i: i32| ((12.9898 * i as f64 + 78.233 * 7.0).sin() * 43758.5453).rem_euclid(1.0) - 0.5;
        let numbers: Vec<f32> = (0..32).map(|i| (3.0 * wave(i)) as f32).collect();
        let x = Tensor::from_slice(&numbers).view([8, 4]).set_requires_grad(true);
        let labels = Tensor::from_slice(&[0i64, 0, 0, 1, 1, 2, 2, 2]);
        let loss = batch_hard_triplet(&x, &labels, 0.3, 8.0);
        loss.backward();
        assert!((f64::try_from(&loss).unwrap() - 1.641904).abs() < 1e-5, "{loss}");
        let expected = Tensor::from_slice2(&[
            [-0.142851, 0.099595, 0.138548, -0.053074],
            [-0.167121, 0.146078, -0.008707, 0.003626],
            [0.075393, 0.164214, 0.037137, 0.18601],
            [-0.171053, -0.342028, 0.055511, -0.143561],
            [0.243591, 0.136854, -0.294328, 0.101043],
            [0.0, 0.0, 0.0, 0.0],
            [0.175474, -0.094104, 0.170931, -0.084802],
            [-0.013433, -0.110609, -0.099093, -0.009242f32],
        ]);
        assert!(x.grad().allclose(&expected, 1e-4, 1e-5, false), "{}", x.grad());
        let parts = [(0, 5), (5, 3)].map(|(start, count)| {
            let part = batch_hard_triplet(&x.narrow(0, start, count), &labels.narrow(0, start, count), 0.3, 8.0);
            f64::try_from(part).unwrap()
        });
        assert!(parts[1] == 0.0 && parts[0] > 0.0, "one identity alone has no negatives: {parts:?}");
    }
}
