//! The rank's devices: one replica of the model on each. A batch is split over them, forward and backward run
//! concurrently, gradients are added up in replica 0, which also owns BatchNorm's statistics (as DataParallel does).

use std::sync::Arc;

use tch::{Device, Kind, Tensor, no_grad, no_grad_guard};

use crate::config::Precision;
use crate::data::Batch;
use crate::loss::{Head, Loss};
use crate::model::{Layout, Model, Weights};

/// Per-channel mean and deviation of the training images, in units of 0..255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalisation {
    pub mean: [f32; 3],
    pub deviation: [f32; 3],
}

pub struct Replicas {
    model: Arc<dyn Model>,
    head: Head,
    precision: Kind,
    replicas: Vec<Replica>,
}

struct Replica {
    weights: Weights,
    /// [P], the gradient of this replica's part of the batch.
    gradient: Tensor,
    loss: Option<Box<dyn Loss + Send>>,
    /// [1, 1, 1, 3] each.
    mean: Tensor,
    inverse_deviation: Tensor,
}

impl Replicas {
    pub fn new(
        model: Arc<dyn Model>,
        layout: &Layout,
        head: Head,
        precision: Precision,
        normalisation: Normalisation,
        seed: u64,
        devices: &[Device],
    ) -> Replicas {
        let replicas = devices
            .iter()
            .map(|&device| {
                let weights = Weights::new(layout, seed, device);
                let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 1, 1, 3]).to_device(device);
                Replica {
                    gradient: weights.flat.zeros_like(),
                    weights,
                    loss: None,
                    mean: channels(normalisation.mean),
                    inverse_deviation: channels(normalisation.deviation.map(f32::recip)),
                }
            })
            .collect();
        let precision = match precision {
            Precision::F32 => Kind::Float,
            Precision::Bf16 => Kind::BFloat16,
        };
        Replicas { model, head, precision, replicas }
    }

    pub fn devices(&self) -> Vec<Device> {
        self.replicas.iter().map(|replica| replica.weights.device()).collect()
    }

    /// The loss of the next steps, made anew on every device.
    pub fn set_loss(&mut self, build: impl Fn(Device) -> Box<dyn Loss + Send>) {
        for replica in &mut self.replicas {
            replica.loss = Some(build(replica.weights.device()));
        }
    }

    /// Replica 0's weights and the gradient [P] of the last `gradient` call.
    pub fn main(&mut self) -> (&mut Weights, &mut Tensor) {
        let main = &mut self.replicas[0];
        (&mut main.weights, &mut main.gradient)
    }

    /// Copies replica 0's weights and buffers to the others.
    pub fn synchronise(&mut self) {
        let (main, others) = self.replicas.split_at_mut(1);
        for other in others {
            other.weights.copy_from(&main[0].weights);
        }
    }

    /// Forward and backward of one batch. Leaves the gradient of the mean loss in replica 0 and returns that mean, a
    /// scalar on replica 0's device that nothing waits for. `step` counts training steps from 0.
    pub fn gradient(&mut self, batch: &Batch, step: u64) -> Tensor {
        let (model, head, precision) = (&*self.model, self.head, self.precision);
        let size = batch.labels.size()[0];
        let losses = each(&mut self.replicas, batch, |replica, images, labels| {
            let weights = &replica.weights;
            let features = model.embed(weights, &replica.prepare(images, precision), true);
            let loss = replica.loss.as_deref().expect("set_loss comes before training");
            let labels = labels.to_device(weights.device());
            let found =
                head.gradient(loss, &features.detach(), weights.parameter(model.classifier()), &labels, size, step);
            // d loss / d features reaches the network as the gradient of this product: exact
            let upstream = (features * found.features).sum(Kind::Float);
            weights.backward(&upstream, (model.classifier(), found.weights), &replica.gradient);
            found.loss
        });
        let _guard = no_grad_guard();
        let (main, others) = self.replicas.split_at_mut(1);
        let device = main[0].weights.device();
        for other in &others[..losses.len() - 1] {
            main[0].gradient += other.gradient.to_device(device);
        }
        losses.into_iter().map(|loss| loss.to_device(device)).reduce(|a, b| a + b).expect("at least one part")
    }

    /// Test-time logits of a batch: [N, C] f32 on replica 0's device.
    pub fn logits(&mut self, batch: &Batch) -> Tensor {
        let head = self.head;
        self.infer(batch, |model, weights, images| {
            head.logits(&model.embed(weights, images, false), weights.parameter(model.classifier()))
        })
    }

    /// Test-time embeddings of a batch: [N, D] f32 on replica 0's device. With `mirrored`, those of the images and of
    /// their mirror images are added.
    pub fn embed(&mut self, batch: &Batch, mirrored: bool) -> Tensor {
        self.infer(batch, |model, weights, images| {
            let embeddings = model.embed(weights, images, false);
            if mirrored { embeddings + model.embed(weights, &images.flip([3]), false) } else { embeddings }
        })
    }

    /// Runs `work` on the replicas' parts of a batch, without gradients; the results one after the other on replica 0's
    /// device.
    fn infer(&mut self, batch: &Batch, work: impl Fn(&dyn Model, &Weights, &Tensor) -> Tensor + Sync) -> Tensor {
        let (model, precision) = (&*self.model, self.precision);
        let parts = each(&mut self.replicas, batch, |replica, images, _| {
            no_grad(|| work(model, &replica.weights, &replica.prepare(images, precision)))
        });
        let device = self.replicas[0].weights.device();
        Tensor::cat(&parts.into_iter().map(|part| part.to_device(device)).collect::<Vec<_>>(), 0)
    }
}

impl Replica {
    /// images [N, H, W, 3] u8 -> normalised [N, 3, H, W] in channels_last order on this replica's device.
    fn prepare(&self, images: &Tensor, precision: Kind) -> Tensor {
        let mut images = images.to_device(self.weights.device()).to_kind(Kind::Float);
        images -= &self.mean;
        images *= &self.inverse_deviation;
        images.to_kind(precision).permute([0, 3, 1, 2])
    }
}

/// Runs `work` on each replica's part of the batch, concurrently, and returns the results in order; fewer results
/// than replicas for a batch smaller than their number. With one replica nothing leaves the calling thread.
fn each(
    replicas: &mut [Replica],
    batch: &Batch,
    work: impl Fn(&mut Replica, &Tensor, &Tensor) -> Tensor + Sync,
) -> Vec<Tensor> {
    let parts =
        batch.images.chunk(replicas.len() as i64, 0).into_iter().zip(batch.labels.chunk(replicas.len() as i64, 0));
    let work = &work;
    std::thread::scope(|scope| {
        let mut jobs = replicas.iter_mut().zip(parts);
        let (main, (images, labels)) = jobs.next().expect("at least one replica");
        let others: Vec<_> =
            jobs.map(|(replica, (images, labels))| scope.spawn(move || work(replica, &images, &labels))).collect();
        let mut results = vec![work(main, &images, &labels)];
        results.extend(others.into_iter().map(|other| other.join().expect("a replica's thread panicked")));
        results
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HeadKind;
    use crate::loss::Fixed;
    use crate::model::{Convolution, Init, Parameter, Role};

    /// A network without BatchNorm, so that a split batch has the same gradient.
    struct Plain {
        first: Convolution,
        second: Convolution,
        classifier: Parameter,
    }

    impl Model for Plain {
        fn embed(&self, weights: &Weights, images: &Tensor, _train: bool) -> Tensor {
            let x = self.second.forward(weights, &self.first.forward(weights, images).relu());
            x.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
        }
        fn classifier(&self) -> Parameter {
            self.classifier
        }
    }

    fn plain() -> (Arc<dyn Model>, Layout) {
        let mut layout = Layout::default();
        let first = Convolution::new(&mut layout, "first", 3, 8, 3, 1);
        let second = Convolution::new(&mut layout, "second", 8, 16, 3, 2);
        let classifier = layout.parameter("linear.weight", &[5, 16], Init::Kaiming, Role::Weight);
        (Arc::new(Plain { first, second, classifier }), layout)
    }

    fn replicas(count: usize) -> Replicas {
        let (model, layout) = plain();
        let head = Head { kind: HeadKind::Normalised, scale: 8.0 };
        let normalisation = Normalisation { mean: [128.0; 3], deviation: [64.0; 3] };
        let mut replicas =
            Replicas::new(model, &layout, head, Precision::F32, normalisation, 3, &vec![Device::Cpu; count]);
        replicas.set_loss(|_| Box::new(Fixed::ArcFace { m: 0.3 }));
        replicas
    }

    fn batch(size: i64) -> Batch {
        tch::manual_seed(size);
        let images = Tensor::randint(256, [size, 8, 8, 3], (Kind::Uint8, Device::Cpu));
        Batch { images, labels: Tensor::randint(5, [size], (Kind::Int64, Device::Cpu)) }
    }

    #[test]
    fn two_replicas_have_the_gradient_loss_and_logits_of_one() {
        let (mut one, mut two) = (replicas(1), replicas(2));
        for size in [16, 7, 1] {
            let batch = batch(size);
            let (a, b) = (one.gradient(&batch, 0), two.gradient(&batch, 0));
            assert!((f64::try_from(&a).unwrap() - f64::try_from(&b).unwrap()).abs() < 1e-5);
            let (expected, found) = (one.main().1.copy(), two.main().1.copy());
            let error = f64::try_from((&expected - &found).norm() / expected.norm()).unwrap();
            assert!(error < 1e-5, "{size} examples: relative error {error}");
            assert!(one.logits(&batch).allclose(&two.logits(&batch), 1e-5, 1e-5, false));
        }
    }

    #[test]
    fn synchronise_copies_replica_0_to_the_others() {
        let mut two = replicas(2);
        let batch = batch(8);
        let before = two.logits(&batch);
        no_grad(|| two.main().0.flat *= 1.5);
        two.synchronise();
        let mut one = replicas(1);
        assert!(one.logits(&batch).allclose(&before, 1e-6, 1e-6, false));
        no_grad(|| one.main().0.flat *= 1.5);
        assert!(one.logits(&batch).allclose(&two.logits(&batch), 1e-5, 1e-5, false));
    }

    #[test]
    fn the_flat_gradient_is_autograds() {
        let (model, layout) = plain();
        let mut ours = replicas(1);
        let batch = batch(6);
        let _ = ours.gradient(&batch, 0);
        // the same loss, ArcFace by its formula, through autograd alone
        let weights = Weights::new(&layout, 3, Device::Cpu);
        let images = ((batch.images.to_kind(Kind::Float) - 128.0) / 64.0).permute([0, 3, 1, 2]);
        let unit = |x: &Tensor| x / x.norm_scalaropt_dim(2, [1i64].as_slice(), true);
        let cosine = unit(&model.embed(&weights, &images, true)).mm(&unit(weights.parameter(model.classifier())).tr());
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
        for (entry, parameter) in layout.places().0.iter().zip(weights.parameters()) {
            let found = ours.main().1.narrow(0, entry.offset as i64, entry.count() as i64);
            let gradient = parameter.grad();
            let gradient = if gradient.dim() == 4 { gradient.permute([0, 2, 3, 1]) } else { gradient };
            assert!(found.allclose(&gradient.reshape(-1), 1e-4, 1e-6, false), "{}", entry.name);
        }
    }
}
