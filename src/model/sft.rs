//! SFT, spectral feature transformation (Luo et al. 2019; LuckyDC/SFT_REID): in training each example's feature is also
//! replaced by a mean over the batch, weighted by similarity, and both are classified by the same head. The affinity is
//! that of one replica's part of the batch. The classifier is meant for the normalised head, s = 15.

use tch::{Kind, Tensor};

use super::layers::{BatchNorm, Linear, Prelu};
use super::resnet50::{self, ResNet50};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase, scaled};

const EMBEDDING: i64 = 512;
/// T of the affinity's softmax.
const TEMPERATURE: f64 = 0.1;

pub struct Sft {
    backbone: ResNet50,
    embedding: Linear,
    norm: BatchNorm,
    activation: Prelu,
    classifier: Parameter,
}

impl Sft {
    pub fn new(layout: &mut TensorLayout, width: f64, last_stride: i64, classes: usize) -> Sft {
        let (inputs, dimensions) = (resnet50::outputs(width), scaled(EMBEDDING, width));
        let shape = [classes as i64, dimensions];
        Sft {
            backbone: ResNet50::new(layout, "backbone.", width, last_stride),
            embedding: Linear::new(layout, "fc", inputs, dimensions, Init::Kaiming),
            norm: BatchNorm::with_eps(layout, "bn", dimensions, 2e-5),
            activation: Prelu::new(layout, "prelu", dimensions),
            classifier: layout.parameter("classifier.weight", &shape, Init::Kaiming, Role::Weight),
        }
    }
}

/// x [N, D] -> A x [N, D], where the rows of A [N, N] are softmax(cos(x_i, x_j) / T) over j.
fn transform(x: &Tensor) -> Tensor {
    let unit = x / x.norm_scalaropt_dim(2, [1i64].as_slice(), true).clamp_min(1e-12);
    (unit.mm(&unit.tr()) / TEMPERATURE).softmax(1, Kind::Float).mm(x)
}

impl Model for Sft {
    /// [2N, 512]: of the N features, then of the N transformed ones.
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
        let x = self.backbone.average(weights, images, phase);
        let x = Tensor::cat(&[&x, &transform(&x)], 0);
        let x = self.norm.forward(weights, &self.embedding.forward(weights, &x), phase);
        Features::of_one_branch(self.activation.forward(weights, &x))
    }

    fn classifiers(&self) -> &[Parameter] {
        std::slice::from_ref(&self.classifier)
    }

    /// [N, 2048]: the backbone's mean features.
    fn embed(&self, weights: &Weights, images: &Tensor) -> Tensor {
        self.backbone.average(weights, images, Phase::Test)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::{CLASSES, Row, assert_rows, fill, images, scattered};
    use super::*;
    use tch::Device;

    #[test]
    fn parameters_and_features_are_those_of_the_same_network_in_pytorch() {
        // tests/reference/reid_models.py
        let mut layout = TensorLayout::default();
        let model = Sft::new(&mut layout, 1.0, 1, CLASSES);
        assert_eq!(layout.parameter_count(), 24_942_656);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        fill(&layout, &weights);
        let images = images(4, 64, 32);
        let found = tch::no_grad(|| model.features(&weights, &images, Phase::Test)).softmax.swap_remove(0);
        assert_eq!((found.size(), model.embed(&weights, &images).size()), (vec![8, 512], vec![4, 2048]));
        let rows = found.index_select(0, &Tensor::from_slice(&[0i64, 3, 4, 7]));
        let expected: [Row; 4] = [
            (&[2.041657, -0.630409, 3.703442, -0.281714, -0.073866, 0.367052, -0.115098, -0.197774], 19.88431),
            (&[1.922672, -0.587089, 3.632618, -0.27547, -0.067424, 0.390018, -0.134185, -0.188411], 19.53609),
            (&[1.91892, -0.605048, 3.67392, -0.270365, -0.066556, 0.405344, -0.118516, -0.195876], 19.80499),
            (&[1.91792, -0.6047, 3.673369, -0.270311, -0.066502, 0.405543, -0.118666, -0.195804], 19.80236),
        ];
        assert_rows(&rows, 64, &expected);
    }

    #[test]
    fn the_transformation_averages_what_is_alike() {
        // tests/reference/reid_models.py
        let x = Tensor::from_slice(&scattered(30, 11)).to_kind(Kind::Float).view([6, 5]);
        let expected: [Row; 6] = [
            (&[0.284298, -0.487288, -0.280752, 0.223348, 0.327346], 0.7444),
            (&[0.452364, 0.010004, 0.19212, 0.416412, 0.085323], 0.64986),
            (&[0.008249, -0.141721, 0.318627, 0.12351, 0.295818], 0.47375),
            (&[0.40805, -0.012437, 0.247414, 0.334186, 0.078377], 0.58796),
            (&[-0.302099, 0.128445, -0.493709, -0.455071, -0.275181], 0.79645),
            (&[0.458508, -0.287757, 0.06745, -0.204182, 0.148981], 0.60122),
        ];
        assert_rows(&transform(&x), 1, &expected);
    }
}
