//! The head's memory, as the kernel counts it.

use tch::{Device, Kind, Tensor};

mod support;

use amlfs::loss::{Head, HeadKind, Space, SpaceKind, TauWeights, Unified};
use support::{reset_peak, resident};

#[test]
fn the_head_holds_one_n_by_c_tensor() {
    const N: i64 = 512;
    const C: i64 = 60_000;
    const D: i64 = 32;
    let whole = (N * C * 4) as f64; // one [N, C] f32: 123 MB
    let mut theta = Space { kind: SpaceKind::Lines, intervals: 6 }.identity();
    theta.iter_mut().for_each(|x| *x += 0.01);
    let loss = Unified::lines(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Float);
    for kind in [HeadKind::Plain, HeadKind::Weights, HeadKind::Normalised] {
        let features = Tensor::randn([N, D], (Kind::Float, Device::Cpu));
        let weights = Tensor::randn([C, D], (Kind::Float, Device::Cpu));
        let labels = Tensor::randint(C, [N], (Kind::Int64, Device::Cpu));
        let head = Head { kind, scale: 30.0 };
        // once for what libtorch allocates for good
        let few = |tensor: &Tensor| tensor.narrow(0, 0, 8);
        drop(head.gradient(&loss, &few(&features), &weights, &few(&labels), 8.0, 0));
        reset_peak();
        let (_, before) = resident();
        let gradient = head.gradient(&loss, &features, &weights, &labels, N as f64, 0);
        let gradients = (gradient.features.numel() + gradient.weights.numel()) as f64 * 4.0;
        let held = (resident().0 - before - gradients) / whole;
        println!("{kind:?}: {held:.3} [N, C] tensors at the peak");
        assert!((0.9..1.3).contains(&held), "{kind:?}: {held} [N, C] tensors at the peak");
    }
}
