//! ResNet-18, 34 and 50 for classification (He et al. 2016) under torchvision's names. The classifier has no bias (AM-LFS
//! equation 2: f_j = W_j^T x), all else is torchvision's.

use tch::{Kind, Tensor};

use super::layers::NormalisedConvolution;
use super::resnet50::{self, ResNet50, Stem, layer};
use super::weights::{Init, Parameter, Role, TensorLayout, Weights};
use super::{Features, Model, Phase, scaled};

pub struct ResNet {
    trunk: Trunk,
    classifier: Parameter,
}

enum Trunk {
    Basic { stem: Stem, blocks: Vec<BasicBlock> },
    Bottleneck(ResNet50),
}

struct BasicBlock {
    /// 3 x 3 each.
    layers: [NormalisedConvolution; 2],
    shortcut: Option<NormalisedConvolution>,
}

impl ResNet {
    /// `depth` is 18, 34 or 50. `width` scales all channels; 1 is the published network.
    pub fn new(layout: &mut TensorLayout, depth: usize, width: f64, classes: usize) -> ResNet {
        let (trunk, outputs) = match depth {
            18 => Trunk::basic(layout, [2, 2, 2, 2], width),
            34 => Trunk::basic(layout, [3, 4, 6, 3], width),
            _ => (Trunk::Bottleneck(ResNet50::new(layout, "", width, 2)), resnet50::outputs(width)),
        };
        let deviation = (1.0 / (3.0 * outputs as f64)).sqrt(); // that of PyTorch's uniform draws
        let init = Init::Gaussian(deviation);
        let classifier = layout.parameter("fc.weight", &[classes as i64, outputs], init, Role::Weight);
        ResNet { trunk, classifier }
    }
}

impl Trunk {
    /// Also the number of channels that come out.
    fn basic(layout: &mut TensorLayout, blocks: [usize; 4], width: f64) -> (Trunk, i64) {
        let stem = Stem::new(layout, "", width);
        let (mut inputs, mut built) = (scaled(64, width), Vec::new());
        for (stage, count) in blocks.into_iter().enumerate() {
            let channels = scaled(64 << stage, width);
            for block in 0..count {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let name = format!("layer{}.{block}.", stage + 1);
                built.push(BasicBlock::new(layout, &name, inputs, channels, stride));
                inputs = channels;
            }
        }
        (Trunk::Basic { stem, blocks: built }, inputs)
    }

    /// images [N, 3, H, W] -> [N, D] f32.
    fn average(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Tensor {
        match self {
            Trunk::Bottleneck(network) => network.average(weights, images, phase),
            Trunk::Basic { stem, blocks } => {
                let x = stem.forward(weights, images, phase);
                let x = blocks.iter().fold(x, |x, block| block.forward(weights, &x, phase));
                x.mean_dim([2i64, 3].as_slice(), false, Kind::Float)
            }
        }
    }
}

impl BasicBlock {
    fn new(layout: &mut TensorLayout, name: &str, inputs: i64, channels: i64, stride: i64) -> BasicBlock {
        let layers = [
            layer(layout, [name, "conv1"], [name, "bn1"], [channels, inputs, 3, 3], stride),
            layer(layout, [name, "conv2"], [name, "bn2"], [channels, channels, 3, 3], 1),
        ];
        let shape = [channels, inputs, 1, 1];
        let shortcut = (stride != 1 || inputs != channels)
            .then(|| layer(layout, [name, "downsample.0"], [name, "downsample.1"], shape, stride));
        BasicBlock { layers, shortcut }
    }

    fn forward(&self, weights: &Weights, x: &Tensor, phase: Phase) -> Tensor {
        let [first, second] = &self.layers;
        let shortcut = self.shortcut.as_ref().map(|layer| layer.forward(weights, x, phase));
        let y = first.relu(weights, x, phase);
        second.add_relu(weights, &y, shortcut.as_ref().unwrap_or(x), phase)
    }
}

impl Model for ResNet {
    fn features(&self, weights: &Weights, images: &Tensor, phase: Phase) -> Features {
        Features::of_one_branch(self.trunk.average(weights, images, phase))
    }

    fn classifiers(&self) -> &[Parameter] {
        std::slice::from_ref(&self.classifier)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_numbers::{Row, assert_rows, fill, images};
    use super::*;
    use tch::Device;

    #[test]
    fn parameters_and_outputs_are_torchvisions() {
        // tests/reference/resnet.py
        let cases: [(usize, usize, [Row; 2]); 3] = [
            (
                18,
                11_180_096,
                [
                    (&[0.176426, 1.844225, 0.184169, 0.073742, 0.207226, 0.182583, 2.523887, 0.117729], 18.77967),
                    (&[0.185537, 2.032548, 0.132924, 0.081683, 0.204785, 0.201593, 2.524503, 0.107074], 18.73025),
                ],
            ),
            (
                34,
                21_288_256,
                [
                    (&[0.914133, 0.314602, 0.362612, 1.103096, 1.362757, 1.168609, 3.376088, 3.950795], 52.80672),
                    (&[0.823685, 0.193051, 0.419337, 1.105104, 1.166947, 1.128516, 3.83514, 4.210763], 52.97437),
                ],
            ),
            (
                50,
                23_522_368,
                [
                    (&[0.907852, 0.001966, 0.9588, 1.121798, 0.35361, 4.35704, 0.289842, 3.980222], 54.7524),
                    (&[1.097072, 0.041554, 0.961715, 0.982841, 0.299983, 3.876117, 0.402043, 3.883527], 55.25541),
                ],
            ),
        ];
        for (depth, parameters, expected) in cases {
            let mut layout = TensorLayout::default();
            let network = ResNet::new(&mut layout, depth, 1.0, 7);
            assert_eq!(layout.parameter_count(), parameters, "ResNet-{depth}");
            let weights = Weights::new(&layout, 1, Device::Cpu);
            fill(&layout, &weights);
            let found = tch::no_grad(|| network.embed(&weights, &images(2, 67, 50)));
            assert_rows(&found, found.size()[1] / 8, &expected);
        }
    }

    #[test]
    fn the_published_networks_have_so_many_parameters_with_the_classifiers_bias() {
        for (depth, published) in [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)] {
            let mut layout = TensorLayout::default();
            ResNet::new(&mut layout, depth, 1.0, 1000);
            assert_eq!(layout.parameter_count() + 1000, published);
        }
    }
}
