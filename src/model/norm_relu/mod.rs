//! max(0, BatchNorm(x) + shortcut) with a batch's statistics: what follows nearly every convolution of a ResNet, and a fifth of
//! its time on a CPU as libtorch's separate operations.

mod autograd;
mod kernels;

use tch::{Device, Kind, Tensor};

/// A BatchNorm's numbers, [C] f32 each, and its settings.
pub struct Norm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub running_mean: &'a Tensor,
    pub running_var: &'a Tensor,
    pub momentum: f64,
    pub eps: f64,
}

impl Norm<'_> {
    /// As one operation for x [N, C, H, W] f32 on the CPU, channels_last; `None`: for these there is none. Moves the running
    /// statistics.
    pub fn relu(&self, x: &Tensor, shortcut: Option<&Tensor>) -> Option<Tensor> {
        self.fits(x, shortcut).then(|| autograd::apply(self, x, shortcut))
    }

    fn fits(&self, x: &Tensor, shortcut: Option<&Tensor>) -> bool {
        let has_layout = |x: &Tensor| {
            let (size, stride) = (x.size(), x.stride());
            // that of channels_last, also where a side is 1
            let expected = |size: &[i64]| [size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]];
            let fits = |(dimension, expected): (usize, i64)| size[dimension] == 1 || stride[dimension] == expected;
            size.len() == 4 && expected(&size).into_iter().enumerate().all(fits)
        };
        let numbers = [self.weight, self.bias, self.running_mean, self.running_var];
        let all = numbers.into_iter().chain([x]).chain(shortcut);
        all.clone().all(|tensor| tensor.device() == Device::Cpu && tensor.kind() == Kind::Float)
            && numbers.iter().all(|tensor| tensor.is_contiguous())
            && has_layout(x)
            && shortcut.is_none_or(|shortcut| has_layout(shortcut) && shortcut.size() == x.size())
            && kernels::has_lanes_for(x.size()[1] as usize)
            && x.numel() > x.size()[1] as usize
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand_distr::StandardNormal;

    use super::*;
    use crate::rng::{Purpose, rng};

    const MOMENTUM: f64 = 0.1;
    const EPS: f64 = 1e-5;

    struct Numbers {
        x: Tensor,
        shortcut: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        dy: Tensor,
    }

    /// Far from zero, and of another spread in each channel.
    fn numbers(size: [i64; 4], kind: Kind) -> Numbers {
        let mut rng = rng(size.iter().sum::<i64>() as u64, Purpose::Theta, &[]);
        let mut draw = |size: &[i64]| {
            let count = size.iter().product::<i64>() as usize;
            Tensor::from_slice(&(0..count).map(|_| rng.sample(StandardNormal)).collect::<Vec<f64>>()).reshape(size)
        };
        let (per_channel, channels) = (&[1, size[1], 1, 1][..], &size[1..2]);
        let like_images = |x: Tensor| x.to_kind(kind).channels_last();
        let leaf = |x: Tensor| x.to_kind(kind).set_requires_grad(true);
        Numbers {
            x: like_images(draw(&size) * (draw(per_channel) * 0.5).exp() + draw(per_channel) * 3.0)
                .set_requires_grad(true),
            shortcut: like_images(draw(&size)).set_requires_grad(true),
            weight: leaf(draw(channels) * 0.3 + 1.0),
            bias: leaf(draw(channels) * 0.3),
            running_mean: draw(channels).to_kind(kind),
            running_var: draw(channels).to_kind(kind).exp(),
            dy: like_images(draw(&size)),
        }
    }

    trait ChannelsLast {
        fn channels_last(self) -> Tensor;
    }

    impl ChannelsLast for Tensor {
        fn channels_last(self) -> Tensor {
            self.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        }
    }

    /// y, the running statistics, and the gradients of (y dy).sum().
    fn results(numbers: &Numbers, y: Tensor, with_shortcut: bool) -> Vec<(&'static str, Tensor)> {
        (&y * &numbers.dy).sum(y.kind()).backward();
        let mut results = vec![
            ("y", y.detach()),
            ("running mean", numbers.running_mean.shallow_clone()),
            ("running variance", numbers.running_var.shallow_clone()),
            ("dx", numbers.x.grad()),
            ("dweight", numbers.weight.grad()),
            ("dbias", numbers.bias.grad()),
        ];
        if with_shortcut {
            results.push(("dshortcut", numbers.shortcut.grad()));
        }
        results
    }

    fn fused(numbers: &Numbers, with_shortcut: bool) -> Option<Tensor> {
        let Numbers { weight, bias, running_mean, running_var, .. } = numbers;
        let norm = Norm { weight, bias, running_mean, running_var, momentum: MOMENTUM, eps: EPS };
        norm.relu(&numbers.x, with_shortcut.then_some(&numbers.shortcut))
    }

    /// By libtorch's operations.
    fn separate(numbers: &Numbers, with_shortcut: bool) -> Tensor {
        let Numbers { x, weight, bias, running_mean, running_var, .. } = numbers;
        let (weight, bias) = (Some(weight), Some(bias));
        let y = x.batch_norm(weight, bias, Some(running_mean), Some(running_var), true, MOMENTUM, EPS, false);
        if with_shortcut { (y + &numbers.shortcut).relu() } else { y.relu() }
    }

    /// Whole rows in the lanes and rest, a row in several groups of lanes, more than a block, and a batch of one.
    const SIZES: [[i64; 4]; 7] =
        [[3, 16, 5, 7], [2, 32, 3, 3], [5, 64, 9, 8], [2, 128, 3, 5], [1, 1, 2, 1], [40, 16, 16, 16], [3, 2048, 2, 2]];

    #[test]
    fn values_statistics_and_gradients_are_those_of_the_separate_operations_in_f64() {
        for (size, with_shortcut) in SIZES.into_iter().flat_map(|size| [(size, false), (size, true)]) {
            let (ours, exact) = (numbers(size, Kind::Float), numbers(size, Kind::Double));
            let y = fused(&ours, with_shortcut).unwrap();
            let exact = results(&exact, separate(&exact, with_shortcut), with_shortcut);
            for ((name, found), (_, exact)) in results(&ours, y, with_shortcut).iter().zip(&exact) {
                let error = (found.to_kind(Kind::Double) - exact).norm() / exact.norm().clamp_min(1e-3);
                let error = f64::try_from(error).unwrap();
                assert!(error < 2e-5, "{name} of {size:?}, shortcut {with_shortcut}: {error}");
            }
        }
    }

    #[test]
    fn the_bits_are_the_same_for_any_number_of_threads() {
        let threads = tch::get_num_threads();
        let run = |threads| {
            tch::set_num_threads(threads);
            let numbers = numbers([40, 16, 16, 16], Kind::Float);
            let y = fused(&numbers, true).unwrap();
            results(&numbers, y, true)
        };
        let (one, three) = (run(1), run(3));
        tch::set_num_threads(threads);
        for ((name, one), (_, three)) in one.iter().zip(&three) {
            assert!(one.equal(three), "{name}");
        }
    }

    #[test]
    fn what_it_is_not_for_is_left_to_others() {
        let numbers = |size| numbers(size, Kind::Float);
        assert!(fused(&numbers([2, 48, 3, 3]), false).is_none(), "channels without lanes");
        assert!(fused(&numbers([1, 16, 1, 1]), false).is_none(), "one row has no variance");
        let mut planes = numbers([2, 16, 3, 3]);
        planes.x = planes.x.contiguous();
        assert!(fused(&planes, false).is_none(), "the layout of planes");
        assert!(fused(&super::tests::numbers([2, 16, 3, 3], Kind::Double), false).is_none(), "f64");
    }

    #[test]
    fn nan_stays_nan() {
        let mut numbers = numbers([2, 16, 3, 3], Kind::Float);
        numbers.x = tch::no_grad(|| {
            let x = numbers.x.copy();
            let _ = x.narrow(1, 3, 1).narrow(0, 0, 1).fill_(f64::NAN);
            x
        });
        let y = fused(&numbers, false).unwrap();
        let nan_channels = y.isnan().any_dim(0, false).any_dim(1, false).any_dim(1, false);
        assert_eq!(nan_channels.nonzero().flatten(0, -1), Tensor::from_slice(&[3i64]));
    }
}
