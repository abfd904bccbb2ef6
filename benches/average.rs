//! The average of the weights against a training step of ResNet-20, batch 128. cargo bench --bench average; threads:
//! AMLFS_BENCH_THREADS (default 1).

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use tch::{Device, Kind, Tensor};

use amlfs::config::Layers;
use amlfs::data::{Batch, BatchImages};
use amlfs::loss::FixedLoss;
use amlfs::model;
use amlfs::train::{Average, Normalisation, Optimizer, Replicas, Step};

fn steps(criterion: &mut Criterion) {
    let threads = std::env::var("AMLFS_BENCH_THREADS").map_or(1, |text| text.parse().expect("a number"));
    tch::set_num_threads(threads);
    let mut layers = Layers::new(Some("cifar10"), None, None).expect("a preset");
    layers.set_text("data.path=unused").expect("a key");
    let config = layers.resolve().expect("a configuration");
    let (model, layout) = model::build(&config.model, (32, 32), 10);
    let normalisation = Normalisation { mean: [120.0; 3], deviation: [60.0; 3] };
    let mut replicas = Replicas::new(&config, model.into(), &layout, normalisation, &[Device::Cpu]);
    replicas.set_loss(|_| Box::new(FixedLoss::Softmax));
    let mut optimizer = Optimizer::new(&config.train, &layout, &replicas.first().flat);
    let mut average = Average::new(1.0, replicas.first());
    tch::manual_seed(1);
    let images = Tensor::randint(256, [128, 32, 32, 3], (Kind::Uint8, Device::Cpu));
    let batch =
        Batch { images: BatchImages::Pixels(images), labels: Tensor::randint(10, [128], (Kind::Int64, Device::Cpu)) };

    let mut group = criterion.benchmark_group(format!("ResNet-20, {threads} thread(s)"));
    group.sample_size(10).measurement_time(Duration::from_secs(6));
    group.bench_function("training step", |bencher| {
        bencher.iter(|| {
            let _ = replicas.gradient(&batch, Step { number: 0, stream: 0 });
            let (weights, gradient) = replicas.gradients().next().expect("one replica");
            optimizer.step(&mut weights.flat, gradient, 1e-6, 0);
        });
    });
    group.bench_function("average", |bencher| bencher.iter(|| average.follow(replicas.first(), 351)));
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
