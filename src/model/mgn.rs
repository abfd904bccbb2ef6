//! MGN (Wang et al. 2018), as seathiefwang/MGN-pytorch has it: ResNet-50 up to the third stage's first block, then three
//! branches with their own copies of the rest. Branch 1 sees the whole body, branch 2 also its halves, branch 3 also its
//! thirds: eight features of 256 dimensions, each with a softmax branch of its own (without bias: AM-LFS equation 2). The
//! three whole-body features also go to the triplet loss.

use tch::{Kind, Tensor};

use super::layers::{BatchNorm, Convolution, NormalisedConvolution};
use super::resnet50::{self, Stage, Stem};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase, scaled};

const EMBEDDING: i64 = 256;
/// (last stage's stride, parts) of each branch.
const BRANCHES: [(i64, i64); 3] = [(2, 0), (1, 2), (1, 3)];
/// Names of the class weights of the eight features: whole body of branches 1, 2, 3; halves; thirds.
pub const CLASSIFIERS: [&str; 8] = [
    "fc_id_2048_0.weight",
    "fc_id_2048_1.weight",
    "fc_id_2048_2.weight",
    "fc_id_256_1_0.weight",
    "fc_id_256_1_1.weight",
    "fc_id_256_2_0.weight",
    "fc_id_256_2_1.weight",
    "fc_id_256_2_2.weight",
];

pub struct Mgn {
    stem: Stem,
    /// Stages 1 and 2, and the first block of stage 3.
    common: [Stage; 3],
    /// The rest of stage 3, and stage 4.
    branches: Vec<[Stage; 2]>,
    /// 1 x 1, of each feature.
    reductions: Vec<NormalisedConvolution>,
    classifiers: Vec<Parameter>,
}

impl Mgn {
    pub fn new(layout: &mut TensorLayout, width: f64, classes: usize) -> Mgn {
        let (inputs, dimensions) = (resnet50::outputs(width), scaled(EMBEDDING, width));
        let stem = Stem::new(layout, "backbone.", width);
        let common = [
            Stage::whole(layout, "backbone.", 1, width, 1),
            Stage::whole(layout, "backbone.", 2, width, 2),
            Stage::new(layout, "backbone.", 3, 0..1, width, 2),
        ];
        let branches = BRANCHES.iter().enumerate().map(|(i, &(stride, _))| {
            let prefix = format!("p{}.", i + 1);
            [Stage::rest(layout, &prefix, 3, width), Stage::whole(layout, &prefix, 4, width, stride)]
        });
        let branches = branches.collect();
        let reduction = |i: usize| {
            let (convolution, norm) = (format!("reduction_{i}.0"), format!("reduction_{i}.1"));
            let shape = [dimensions, inputs, 1, 1];
            let convolution = Convolution::with_init(layout, &convolution, shape, 1, Init::Kaiming);
            NormalisedConvolution { convolution, norm: BatchNorm::new(layout, &norm, dimensions) }
        };
        let reductions = (0..CLASSIFIERS.len()).map(reduction).collect();
        // Kaiming by fan out
        let init = Init::Gaussian((2.0 / classes as f64).sqrt());
        let classifiers =
            CLASSIFIERS.map(|name| layout.parameter(name, &[classes as i64, dimensions], init, Role::Weight)).to_vec();
        Mgn { stem, common, branches, reductions, classifiers }
    }

    /// The eight features [N, 256] f32.
    fn reduced(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Vec<Tensor> {
        let x = self.stem.forward(weights, images, phase);
        let x = self.common.iter().fold(x, |x, stage| stage.forward(weights, &x, phase));
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        for ([third, fourth], (_, count)) in self.branches.iter().zip(BRANCHES) {
            let x = fourth.forward(weights, &third.forward(weights, &x, phase), phase).to_kind(Kind::Float);
            whole.push(x.adaptive_max_pool2d([1, 1]).0);
            if count > 0 {
                parts.extend(x.adaptive_max_pool2d([count, 1]).0.split(1, 2));
            }
        }
        let pooled = whole.into_iter().chain(parts);
        let reduced =
            |(pooled, layer): (Tensor, &NormalisedConvolution)| layer.relu(weights, &pooled, phase).flatten(1, -1);
        pooled.zip(&self.reductions).map(reduced).collect()
    }
}

impl Model for Mgn {
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
        let softmax = self.reduced(weights, images, phase);
        let triplet = softmax[..BRANCHES.len()].iter().map(Tensor::shallow_clone).collect();
        Features { softmax, triplet }
    }

    fn classifiers(&self) -> &[Parameter] {
        &self.classifiers
    }

    /// [N, 2048]: the eight features, one after the other.
    fn embed(&self, weights: &Weights, images: &Tensor) -> Tensor {
        Tensor::cat(&self.reduced(weights, images, Phase::Test), 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::{CLASSES, assert_rows, fill, images};
    use super::*;
    use tch::Device;

    #[test]
    fn parameters_and_embeddings_are_those_of_the_same_network_in_pytorch() {
        // tests/reference/reid_models.py, after seathiefwang/MGN-pytorch
        let mut layout = TensorLayout::default();
        let model = Mgn::new(&mut layout, 1.0, CLASSES);
        assert_eq!(layout.parameter_count(), 70_345_792);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        fill(&layout, &weights);
        let expected: [(usize, usize, &[f32], f64); 2] = [
            (
                384,
                128,
                &[
                    0.0, 0.0, 0.719202, 0.0, 2.407879, 2.369544, 0.0, 0.0, 0.0, 1.706055, 4.407167, 1.614332, 0.0, 0.0,
                    0.559705, 1.467191, 0.0, 0.0, 0.0, 0.0, 0.0,
                ],
                92.58824,
            ),
            (
                96,
                32,
                &[
                    0.0, 0.0, 0.0, 0.469695, 0.827479, 1.549197, 0.0, 0.0, 0.0, 1.358946, 2.578124, 1.048925, 0.0, 0.0,
                    0.0, 0.0, 0.384852, 0.0, 0.0, 0.0, 0.041138,
                ],
                58.49055,
            ),
        ];
        for (height, width, components, norm) in expected {
            let found = tch::no_grad(|| model.embed(&weights, &images(1, height, width)));
            assert_rows(&found, 100, &[(components, norm)]);
        }
    }

    #[test]
    fn the_triplet_loss_sees_the_three_whole_body_features() {
        let mut layout = TensorLayout::default();
        let model = Mgn::new(&mut layout, 0.125, 5);
        let weights = Weights::new(&layout, 1, Device::Cpu);
        let images = images(2, 96, 32);
        let Features { softmax, triplet } = model.features(&weights, &images, Phase::Test);
        assert_eq!((softmax.len(), triplet.len(), model.classifiers().len()), (8, 3, 8));
        assert!(softmax.iter().all(|feature| feature.size() == [2, 32]));
        assert!(triplet.iter().zip(&softmax).all(|(a, b)| a.equal(b)));
        assert!(Tensor::cat(&softmax, 1).equal(&model.embed(&weights, &images)));
    }
}
