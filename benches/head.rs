//! The head with the unified loss against autograd's normalised linear + cross-entropy: normalise, product, loss and
//! both gradients. cargo bench --bench head; threads: AMLFS_BENCH_THREADS (default 2).

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tch::{Device, Kind, Reduction, Tensor};

use amlfs::loss::{Head, HeadKind, Space, SpaceKind, TauWeights, Unified};

const SCALE: f64 = 30.0;

fn autograd(features: &Tensor, weights: &Tensor, labels: &Tensor) -> Vec<Tensor> {
    let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2, [1i64].as_slice(), true).clamp_min(1e-12);
    let logits = unit(features).mm(&unit(weights).tr()) * SCALE;
    let loss = logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    Tensor::run_backward(&[loss], &[features, weights], false, false)
}

fn heads(criterion: &mut Criterion) {
    let threads = std::env::var("AMLFS_BENCH_THREADS").map_or(2, |text| text.parse().expect("a number"));
    tch::set_num_threads(threads);
    for (examples, dimensions, classes) in [(512, 512, 10_575), (128, 64, 10)] {
        tch::manual_seed(1);
        let random = |size: [i64; 2]| Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (features, weights) = (random([examples, dimensions]), random([classes, dimensions]));
        let labels = Tensor::randint(classes, [examples], (Kind::Int64, Device::Cpu));
        let mut theta = Space { kind: SpaceKind::Lines, intervals: 6 }.identity();
        theta.iter_mut().enumerate().for_each(|(i, x)| *x += 0.01 * i as f64);
        let loss = Unified::lines(&theta, 4.0, TauWeights::Raw, Device::Cpu, Kind::Float);
        let head = Head { kind: HeadKind::Normalised, scale: SCALE };

        let mut group = criterion.benchmark_group(format!("{examples} x {dimensions} x {classes}, {threads} threads"));
        group.sample_size(20).measurement_time(Duration::from_secs(6));
        group.bench_function(BenchmarkId::from_parameter("autograd cross-entropy"), |bencher| {
            bencher.iter(|| black_box(autograd(&features, &weights, &labels)));
        });
        group.bench_function(BenchmarkId::from_parameter("unified head"), |bencher| {
            bencher.iter(|| black_box(head.gradient(&loss, &features, &weights, &labels, examples as f64, 0)));
        });
        group.finish();
    }
}

criterion_group!(benches, heads);
criterion_main!(benches);
