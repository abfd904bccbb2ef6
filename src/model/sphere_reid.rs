//! SphereReID (Fan et al. 2019): ResNet-50, then its network D: BatchNorm, dropout, fully connected, BatchNorm. The
//! classifier is meant for the normalised head, s = 14. RECIPES and deviations: docs/reid.md.

use tch::Tensor;

use super::layers::{BatchNorm, Linear};
use super::resnet50::{self, ResNet50};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase, scaled};

const EMBEDDING: i64 = 1024;

pub struct SphereReid {
    backbone: ResNet50,
    before: BatchNorm,
    embedding: Linear,
    after: BatchNorm,
    classifier: Parameter,
}

impl SphereReid {
    pub fn new(layout: &mut TensorLayout, width: f64, last_stride: i64, classes: usize) -> SphereReid {
        let (inputs, dimensions) = (resnet50::outputs(width), scaled(EMBEDDING, width));
        // Kaiming for a linear activation; Xavier
        let embedding = Init::Gaussian((1.0 / inputs as f64).sqrt());
        let classifier = Init::Gaussian((2.0 / (classes as i64 + dimensions) as f64).sqrt());
        SphereReid {
            backbone: ResNet50::new(layout, "backbone.", width, last_stride),
            before: BatchNorm::new(layout, "bn1", inputs),
            embedding: Linear::with_bias(layout, "fc1", inputs, dimensions, embedding, Role::NormOrBias),
            after: BatchNorm::new(layout, "bn2", dimensions),
            classifier: layout.parameter("classifier.weight", &[classes as i64, dimensions], classifier, Role::Weight),
        }
    }
}

impl Model for SphereReid {
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
        let average = self.backbone.average(weights, images, phase);
        let mut x = self.before.forward(weights, &average, phase);
        if let Phase::Train(dropout) = phase {
            x = dropout.drop_half(&x);
        }
        let x = self.embedding.forward(weights, &x);
        Features::of_one_branch(self.after.forward(weights, &x, phase))
    }

    fn classifiers(&self) -> &[Parameter] {
        std::slice::from_ref(&self.classifier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::{CLASSES, Row, assert_rows, fill, images};
    use super::super::{Dropout, Phase};
    use super::*;
    use tch::Device;

    #[test]
    fn parameters_and_embeddings_are_those_of_the_same_network_in_pytorch() {
        // tests/reference/reid_models.py
        let mut layout = TensorLayout::default();
        let model = SphereReid::new(&mut layout, 1.0, 1, CLASSES);
        assert_eq!(layout.parameter_count(), 26_381_376);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        fill(&layout, &weights);
        let found = tch::no_grad(|| model.embed(&weights, &images(2, 64, 32)));
        let expected: [Row; 2] = [
            (&[2.390961, 0.362418, -0.920751, -1.05284, 2.385301, -1.972649, 0.322671, -1.336684], 40.46099),
            (&[2.464923, 0.272238, -0.866542, -0.976843, 2.468036, -1.928013, 0.348704, -1.245692], 40.19233),
        ];
        assert_rows(&found, 128, &expected);
    }

    #[test]
    fn dropout_is_part_of_training_alone() {
        let mut layout = TensorLayout::default();
        let model = SphereReid::new(&mut layout, 0.0625, 1, 5);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        let images = images(4, 32, 16);
        let features = |step| {
            let dropout = Dropout { seed: 1, step, stream: 0, first: 0 };
            model.features(&weights, &images, Phase::Train(dropout)).softmax.swap_remove(0)
        };
        assert!(features(1).equal(&features(1)) && !features(1).equal(&features(2)));
        assert!(model.embed(&weights, &images).equal(&model.embed(&weights, &images)));
    }
}
