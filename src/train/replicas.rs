//! The rank's devices: one replica of the model on each. A batch is split over them, forward and backward run
//! concurrently, and every device adds up all gradients, so that each can update its own weights (as DistributedDataParallel
//! does). Replica 0 owns BatchNorm's statistics.

use std::sync::{Arc, Mutex};

use rayon::{ThreadPool, ThreadPoolBuilder};
use tch::{Device, Kind, Tensor, no_grad, no_grad_guard};

use crate::config::{self, Config, Precision};
use crate::data::{Batch, BatchImages, Dataset, Resident};
use crate::device::send;
use crate::error::Result;
use crate::loss::{Loss, Pull, batch_hard_triplet};
use crate::model::{Dropout, Model, Phase, TensorLayout, Weights};

use super::Normalisation;

pub struct Replicas {
    model: Arc<dyn Model>,
    loss: config::Loss,
    precision: Kind,
    seed: u64,
    replicas: Vec<Replica>,
    /// A thread for each replica but the first, which is the calling thread's. They live as long as the replicas: cuDNN
    /// plans a convolution anew on each thread that it meets.
    threads: Option<ThreadPool>,
}

/// Which training step it is.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Counts from 0 over the whole run.
    pub number: u64,
    /// Equal streams see equal random numbers.
    pub stream: u64,
}

struct Replica {
    weights: Weights,
    /// [P], the gradient of this replica's part of the batch.
    gradient: Tensor,
    loss: Option<Box<dyn Loss + Send>>,
    normalisation: Normalisation,
    /// [1, 1, 1, 3] each, on the device.
    mean: Tensor,
    inverse_deviation: Tensor,
    /// The training images, if they are kept on the device.
    resident: Option<Resident>,
}

impl Replicas {
    /// Replicas of a network with initial weights. `config` is resolved.
    pub fn new(
        config: &Config,
        model: Arc<dyn Model>,
        layout: &TensorLayout,
        normalisation: Normalisation,
        devices: &[Device],
    ) -> Replicas {
        let Config { loss, train, run, .. } = config;
        let replicas = devices
            .iter()
            .map(|&device| {
                let weights = Weights::new(layout, run.seed, device);
                let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 1, 1, 3]).to_device(device);
                Replica {
                    gradient: weights.flat.zeros_like(),
                    weights,
                    loss: None,
                    normalisation,
                    mean: channels(normalisation.mean),
                    inverse_deviation: channels(normalisation.deviation.map(f32::recip)),
                    resident: None,
                }
            })
            .collect();
        let pool = |threads: usize| {
            let named = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("replica {}", i + 1));
            named.build().expect("a thread can be started")
        };
        let threads = (devices.len() > 1).then(|| pool(devices.len() - 1));
        let precision = match train.precision {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        Replicas { model, loss: *loss, precision, seed: run.seed, replicas, threads }
    }

    pub fn devices(&self) -> Vec<Device> {
        self.replicas.iter().map(|replica| replica.weights.device()).collect()
    }

    /// C: rows of the first softmax branch's class weights.
    pub fn classes(&self) -> usize {
        self.replicas[0].weights.parameter(self.model.classifiers()[0]).size()[0] as usize
    }

    /// The loss of the next steps, made anew on every device.
    pub fn set_loss(&mut self, build: impl Fn(Device) -> Box<dyn Loss + Send>) {
        for replica in &mut self.replicas {
            replica.loss = Some(build(replica.weights.device()));
        }
    }

    /// Replica 0's weights.
    pub fn first(&mut self) -> &mut Weights {
        &mut self.replicas[0].weights
    }

    /// Each replica's weights and the gradient [P] of the last `gradient` call, the same on all devices.
    pub fn gradients(&mut self) -> impl Iterator<Item = (&mut Weights, &mut Tensor)> {
        self.replicas.iter_mut().map(|replica| (&mut replica.weights, &mut replica.gradient))
    }

    /// Copies replica 0's weights and buffers to the others. In training weights stay equal without it; running statistics don't.
    pub fn synchronise(&mut self) {
        let (main, others) = self.replicas.split_at_mut(1);
        for other in others {
            other.weights.copy_from(&main[0].weights);
        }
    }

    /// Keeps the training images on every device (`Resident`).
    pub fn keep(&mut self, dataset: &Arc<Dataset>, fill: [u8; 3], loader_threads: usize) -> Result<()> {
        let residents = Resident::on(&self.devices(), dataset, fill, loader_threads)?;
        for (replica, resident) in self.replicas.iter_mut().zip(residents) {
            replica.resident = Some(resident);
        }
        Ok(())
    }

    /// Splits a batch over the devices and sends the parts there, without waiting: a GPU that still computes the step before
    /// has them when it is through. Fewer parts than replicas for a batch smaller than their number.
    fn stage(&self, batch: &Batch) -> Vec<Part> {
        let chunks = |tensor: &Tensor| tensor.chunk(self.replicas.len() as i64, 0);
        let mut first = 0;
        let numbers = match &batch.images {
            BatchImages::Pixels(pixels) => pixels,
            BatchImages::Picks(picks) => &picks.numbers,
        };
        let parts = self.replicas.iter().zip(chunks(numbers)).zip(chunks(&batch.labels));
        let staged = parts.map(|((replica, images), labels)| {
            let device = replica.weights.device();
            let images = send(&images, device);
            let images = match &batch.images {
                BatchImages::Pixels(_) => images,
                BatchImages::Picks(picks) => {
                    replica.resident.as_ref().expect("`keep` comes before picks").pick(&picks.with(images))
                }
            };
            let part = Part { images, labels: send(&labels, device), first };
            first += labels.size()[0];
            part
        });
        staged.collect()
    }

    /// Forward and backward of one batch. Leaves the gradient of the mean loss in every replica and returns that mean, a
    /// scalar on replica 0's device that nothing waits for. Softmax branches share `loss.softmax_weight`, triplet losses
    /// `loss.triplet_weight`; each replica mines triplets in its own part.
    pub fn gradient(&mut self, batch: &Batch, step: Step) -> Tensor {
        let (model, loss_config, precision) = (&*self.model, &self.loss, self.precision);
        let (size, staged) = (batch.labels.size()[0] as f64, self.stage(batch));
        let dropout = Dropout { seed: self.seed, step: step.number, stream: step.stream, first: 0 };
        let losses = each(&mut self.replicas, &self.threads, staged, |replica, part| {
            let weights = &replica.weights;
            let phase = Phase::Train(Dropout { first: part.first as u64, ..dropout });
            let features = model.features(weights, &replica.prepare(&part.images, precision), phase);
            let loss = replica.loss.as_deref().expect("set_loss comes before training");
            let labels = &part.labels;

            // d loss / d features reaches the network as the gradient of a product with the features: exact
            let (mut upstream, mut values, mut given) = (Vec::new(), Vec::new(), Vec::new());
            let share = loss_config.softmax_weight / features.softmax.len() as f64;
            for (features, &classifier) in features.softmax.iter().zip(model.classifiers()) {
                let copies = features.size()[0] / labels.size()[0];
                let labels = labels.repeat([copies]);
                let (class_weights, examples) = (weights.parameter(classifier), size * copies as f64 / share);
                let found =
                    loss_config.head.gradient(loss, &features.detach(), class_weights, &labels, examples, step.number);
                upstream.push((features * found.features).sum(Kind::Float));
                values.push(found.loss);
                given.push((classifier, found.weights));
            }
            if loss_config.triplet_weight > 0.0 {
                let share = loss_config.triplet_weight / features.triplet.len() as f64;
                for features in &features.triplet {
                    let triplet = batch_hard_triplet(features, labels, loss_config.triplet_margin, size / share);
                    values.push(triplet.detach());
                    upstream.push(triplet);
                }
            }
            weights.backward(&total(upstream), given, &replica.gradient);
            total(values)
        });
        let _guard = no_grad_guard();
        let devices = self.devices();
        if devices.len() > 1 {
            // in the same order everywhere: the same bits; both directions of a link at once
            let parts = &self.replicas[..losses.len()];
            let on = |&device: &Device| total(parts.iter().map(|part| send(&part.gradient, device)).collect());
            let sums: Vec<Tensor> = devices.iter().map(on).collect();
            for (replica, sum) in self.replicas.iter_mut().zip(sums) {
                replica.gradient = sum;
            }
        }
        total(losses.iter().map(|loss| send(loss, devices[0])).collect())
    }

    /// Test-time logits of a batch, of the first softmax branch: [N, C] f32 on replica 0's device.
    pub fn logits(&mut self, batch: &Batch) -> Tensor {
        let head = self.loss.head;
        self.infer(batch, |model, weights, images| {
            let features = model.features(weights, images, Phase::Test).softmax.swap_remove(0);
            head.logits(&features, weights.parameter(model.classifiers()[0]))
        })
    }

    /// How the losses pull at the targets of a batch's examples in the first softmax branch, with the features of test time.
    pub fn pull(&mut self, batch: &Batch, losses: &[&dyn Loss]) -> Pull {
        let features = self
            .infer(batch, |model, weights, images| model.features(weights, images, Phase::Test).softmax.swap_remove(0));
        let (head, classifier) = (self.loss.head, self.model.classifiers()[0]);
        let labels = batch.labels.repeat([features.size()[0] / batch.labels.size()[0]]);
        let to_cpu = |tensor: &Tensor| tensor.to_device(Device::Cpu);
        let weights = to_cpu(self.replicas[0].weights.parameter(classifier));
        no_grad(|| head.pull(losses, &to_cpu(&features), &weights, &to_cpu(&labels)))
    }

    /// Test-time embeddings of a batch: [N, D] f32 on replica 0's device. With `mirrored`, those of the images and of
    /// their mirror images are added.
    pub fn embed(&mut self, batch: &Batch, mirrored: bool) -> Tensor {
        self.infer(batch, |model, weights, images| {
            let embeddings = model.embed(weights, images);
            if mirrored { embeddings + model.embed(weights, &images.flip([3])) } else { embeddings }
        })
    }

    /// Runs `work` on the replicas' parts of a batch, without gradients; the results one after the other on replica 0's
    /// device.
    fn infer(&mut self, batch: &Batch, work: impl Fn(&dyn Model, &Weights, &Tensor) -> Tensor + Sync) -> Tensor {
        let (model, precision) = (&*self.model, self.precision);
        let staged = self.stage(batch);
        let parts = each(&mut self.replicas, &self.threads, staged, |replica, part| {
            no_grad(|| work(model, &replica.weights, &replica.prepare(&part.images, precision)))
        });
        let device = self.replicas[0].weights.device();
        Tensor::cat(&parts.iter().map(|part| send(part, device)).collect::<Vec<_>>(), 0)
    }
}

impl Replica {
    /// images [N, H, W, 3] u8 -> normalised [N, 3, H, W] in channels_last order.
    fn prepare(&self, images: &Tensor, precision: Kind) -> Tensor {
        let normalised = if images.device() == Device::Cpu {
            self.normalisation.apply(images)
        } else {
            let mut images = images.to_kind(Kind::Float);
            images -= &self.mean;
            images *= &self.inverse_deviation;
            images
        };
        normalised.to_kind(precision).permute([0, 3, 1, 2])
    }
}

/// A replica's part of a batch, on its device.
struct Part {
    /// [n, H, W, 3] u8.
    images: Tensor,
    /// [n] i64.
    labels: Tensor,
    /// Place in the batch of the first example.
    first: i64,
}

/// Runs `work` on each replica's part of the batch, concurrently, and returns the results in order. With one replica nothing
/// leaves the calling thread.
fn each(
    replicas: &mut [Replica],
    threads: &Option<ThreadPool>,
    parts: Vec<Part>,
    work: impl Fn(&mut Replica, Part) -> Tensor + Sync,
) -> Vec<Tensor> {
    let mut jobs = replicas.iter_mut().zip(parts);
    let (main, part) = jobs.next().expect("at least one replica");
    let Some(threads) = threads else { return vec![work(main, part)] };
    let others: Vec<_> = jobs.map(|job| Mutex::new((Some(job), None))).collect();
    let mut results = threads.in_place_scope(|scope| {
        // each thread once, so a replica's is always the same
        scope.spawn_broadcast(|_, thread| {
            let Some(other) = others.get(thread.index()) else { return };
            let (job, result) = &mut *other.lock().expect("only this thread has it now");
            *result = job.take().map(|(replica, part)| work(replica, part));
        });
        vec![work(main, part)]
    });
    results.extend(others.into_iter().filter_map(|other| other.into_inner().expect("its thread is through").1));
    results
}

/// The sum of tensors, from the first to the last.
fn total(tensors: Vec<Tensor>) -> Tensor {
    tensors.into_iter().reduce(|a, b| a + b).expect("at least one")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread::ThreadId;

    use super::*;
    use crate::config::Layers;
    use crate::loss::{FixedLoss, Head, HeadKind};
    use crate::model::{Convolution, Features, Init, Parameter, Role};

    const STEP: Step = Step { number: 0, stream: 0 };

    /// A network without BatchNorm, so that a split batch has the same gradient.
    struct Plain {
        first: Convolution,
        second: Convolution,
        classifier: Parameter,
        /// Which thread ran which part, by its place in the batch.
        threads: Mutex<HashSet<(u64, ThreadId)>>,
    }

    impl Model for Plain {
        fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
            if let Phase::Train(Dropout { first, .. }) = phase {
                self.threads.lock().unwrap().insert((first, std::thread::current().id()));
            }
            let x = self.second.forward(weights, &self.first.forward(weights, images).relu());
            Features::of_one_branch(x.mean_dim([2i64, 3].as_slice(), false, Kind::Float))
        }
        fn classifiers(&self) -> &[Parameter] {
            std::slice::from_ref(&self.classifier)
        }
    }

    fn plain() -> (Plain, TensorLayout) {
        let mut layout = TensorLayout::default();
        let first = Convolution::new(&mut layout, "first", 3, 8, 3, 1);
        let second = Convolution::new(&mut layout, "second", 8, 16, 3, 2);
        let classifier = layout.parameter("linear.weight", &[5, 16], Init::Kaiming, Role::Weight);
        (Plain { first, second, classifier, threads: Mutex::default() }, layout)
    }

    fn replicas(count: usize) -> Replicas {
        replicas_and_model(count).0
    }

    fn replicas_and_model(count: usize) -> (Replicas, Arc<Plain>) {
        let (model, layout) = plain();
        let model = Arc::new(model);
        let mut config = Layers::new(Some("demo"), None, None).unwrap().resolve().unwrap();
        (config.loss.head, config.run.seed) = (Head { kind: HeadKind::Normalised, scale: 8.0 }, 3);
        let normalisation = Normalisation { mean: [128.0; 3], deviation: [64.0; 3] };
        let mut replicas = Replicas::new(&config, model.clone(), &layout, normalisation, &vec![Device::Cpu; count]);
        replicas.set_loss(|_| Box::new(FixedLoss::ArcFace { m: 0.3 }));
        (replicas, model)
    }

    fn batch(size: i64) -> Batch {
        tch::manual_seed(size);
        let images = Tensor::randint(256, [size, 8, 8, 3], (Kind::Uint8, Device::Cpu));
        Batch { images: BatchImages::Pixels(images), labels: Tensor::randint(5, [size], (Kind::Int64, Device::Cpu)) }
    }

    #[test]
    fn two_replicas_have_the_gradient_loss_and_logits_of_one() {
        let (mut one, mut two) = (replicas(1), replicas(2));
        for size in [16, 7, 1] {
            let batch = batch(size);
            let (a, b) = (one.gradient(&batch, STEP), two.gradient(&batch, STEP));
            assert!((f64::try_from(&a).unwrap() - f64::try_from(&b).unwrap()).abs() < 1e-5);
            let expected = one.gradients().next().unwrap().1.copy();
            let found: Vec<Tensor> = two.gradients().map(|(_, gradient)| gradient.copy()).collect();
            let error = f64::try_from((&expected - &found[0]).norm() / expected.norm()).unwrap();
            assert!(error < 1e-5, "{size} examples: relative error {error}");
            assert!(found[0].equal(&found[1]), "each device has the whole gradient");
            assert!(one.logits(&batch).allclose(&two.logits(&batch), 1e-5, 1e-5, false));
        }
    }

    #[test]
    fn each_replica_stays_on_one_thread_from_step_to_step() {
        let (mut three, model) = replicas_and_model(3);
        for _ in 0..20 {
            let _ = three.gradient(&batch(6), STEP);
        }
        let found = model.threads.lock().unwrap();
        assert_eq!(found.len(), 3, "one thread for each part of a batch: {found:?}");
        let threads: HashSet<ThreadId> = found.iter().map(|&(_, thread)| thread).collect();
        assert_eq!(threads.len(), 3);
        assert!(found.contains(&(0, std::thread::current().id())), "the first part stays here");
    }

    #[test]
    fn synchronise_copies_replica_0_to_the_others() {
        let mut two = replicas(2);
        let batch = batch(8);
        let before = two.logits(&batch);
        no_grad(|| two.first().flat *= 1.5);
        two.synchronise();
        let mut one = replicas(1);
        assert!(one.logits(&batch).allclose(&before, 1e-6, 1e-6, false));
        no_grad(|| one.first().flat *= 1.5);
        assert!(one.logits(&batch).allclose(&two.logits(&batch), 1e-5, 1e-5, false));
    }

    #[test]
    fn the_flat_gradient_is_autograds() {
        let (model, layout) = plain();
        let mut ours = replicas(1);
        let batch = batch(6);
        let _ = ours.gradient(&batch, STEP);
        // the same loss, ArcFace by its formula, through autograd alone
        let weights = Weights::new(&layout, 3, Device::Cpu);
        let images = ((batch.images.pixels().to_kind(Kind::Float) - 128.0) / 64.0).permute([0, 3, 1, 2]);
        let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2, [1i64].as_slice(), true);
        let cosine = unit(&model.embed(&weights, &images)).mm(&unit(weights.parameter(model.classifiers()[0])).tr());
        let margin = (cosine.acos() + 0.3).cos();
        let target = batch.labels.one_hot(5).to_kind(Kind::Bool);
        let loss = (margin.where_self(&target, &cosine) * 8.0).cross_entropy_loss::<Tensor>(
            &batch.labels,
            None,
            tch::Reduction::Mean,
            -100,
            0.0,
        );
        loss.backward();
        for (entry, parameter) in layout.entries().0.iter().zip(weights.parameters()) {
            let gradient = ours.gradients().next().unwrap().1;
            let found = gradient.narrow(0, entry.offset as i64, entry.count() as i64);
            let gradient = parameter.grad();
            let gradient = if gradient.dim() == 4 { gradient.permute([0, 2, 3, 1]) } else { gradient };
            assert!(found.allclose(&gradient.reshape(-1), 1e-4, 1e-6, false), "{}", entry.name);
        }
    }
}
