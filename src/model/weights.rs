//! All parameters of a model in one contiguous f32 tensor, all buffers in a second one (docs/architecture.md).
//! An optimiser step is then a few kernels for the whole network, a broadcast or a copy between devices one transfer.

use rand::RngExt;
use rand_distr::{Distribution, Normal};
use tch::{Device, Tensor, no_grad};

use crate::rng::{Purpose, rng};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    Constant(f64),
    /// Normal(0, sqrt(2 / fan_in)) (He et al. 2015), fan_in = all dimensions but the first.
    Kaiming,
    /// Uniform within +-sqrt(3 / fan_in), as Caffe's filler of this name has it.
    Xavier,
    /// Normal(0, this).
    Gaussian(f64),
}

/// How the optimiser treats a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Weight,
    /// BatchNorm's parameters and biases, which recipes may exclude from weight decay.
    NormOrBias,
    /// A bias as Caffe's models have it: twice the learning rate, no weight decay.
    FastBias,
}

/// A parameter's or buffer's place in `Weights`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter(usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer(usize);

#[derive(Clone, Debug)]
pub struct Entry {
    /// PyTorch's state-dict name.
    pub name: String,
    pub shape: Vec<i64>,
    pub init: Init,
    pub role: Role,
    /// First element in the flat tensor; set by `TensorLayout::places`.
    pub offset: usize,
}

impl Entry {
    pub fn count(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Convolution weights lie in memory as [O, H, W, I], which is what channels_last convolutions want.
    pub fn channels_last(&self) -> bool {
        self.shape.len() == 4
    }

    /// The view of `flat` [P] that is this tensor.
    fn view(&self, flat: &Tensor) -> Tensor {
        let part = flat.narrow(0, self.offset as i64, self.count() as i64);
        match self.shape[..] {
            [o, i, h, w] => part.view([o, h, w, i]).permute([0, 3, 1, 2]),
            _ => part.view(self.shape.as_slice()),
        }
    }
}

/// The tensors that a model wants: written by its constructor, in any order.
#[derive(Clone, Debug, Default)]
pub struct TensorLayout {
    parameters: Vec<Entry>,
    buffers: Vec<Entry>,
}

impl TensorLayout {
    pub fn parameter(&mut self, name: &str, shape: &[i64], init: Init, role: Role) -> Parameter {
        self.parameters.push(Entry { name: name.into(), shape: shape.into(), init, role, offset: 0 });
        Parameter(self.parameters.len() - 1)
    }

    pub fn buffer(&mut self, name: &str, shape: &[i64], value: f64) -> Buffer {
        let init = Init::Constant(value);
        self.buffers.push(Entry { name: name.into(), shape: shape.into(), init, role: Role::Weight, offset: 0 });
        Buffer(self.buffers.len() - 1)
    }

    /// Gives every tensor its place, in the order of the names: the same for every process and every version of a
    /// constructor. Returns the entries in the order of creation.
    pub fn entries(&self) -> (Vec<Entry>, Vec<Entry>) {
        let place = |entries: &[Entry]| {
            let mut entries = entries.to_vec();
            let mut order: Vec<usize> = (0..entries.len()).collect();
            order.sort_by(|&a, &b| entries[a].name.cmp(&entries[b].name));
            let mut offset = 0;
            for i in order {
                entries[i].offset = offset;
                offset += entries[i].count();
            }
            entries
        };
        (place(&self.parameters), place(&self.buffers))
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Entry::count).sum()
    }
}

/// One replica's numbers.
pub struct Weights {
    /// [P] f32: every parameter.
    pub flat: Tensor,
    /// [Q] f32: every buffer (BatchNorm's running statistics).
    pub flat_buffers: Tensor,
    /// Leaves that share memory with `flat` and collect gradients, in the order of creation.
    parameters: Vec<Tensor>,
    buffers: Vec<Tensor>,
    /// Indices into `parameters` in the order of `flat`.
    order: Vec<usize>,
}

impl Weights {
    /// Initial weights: a function of the seed and the names alone.
    pub fn new(layout: &TensorLayout, seed: u64, device: Device) -> Weights {
        let (parameters, buffers) = layout.entries();
        let fill = |entries: &[Entry]| {
            let mut values = vec![0f32; entries.iter().map(Entry::count).sum()];
            for entry in entries {
                let part = &mut values[entry.offset..entry.offset + entry.count()];
                let mut rng = rng(seed, Purpose::Weights, &[entry.offset as u64]);
                let fan_in = entry.count() as f64 / entry.shape[0] as f64;
                let mut normal = |deviation: f64| {
                    let normal = Normal::new(0.0, deviation).expect("a positive deviation");
                    part.fill_with(|| normal.sample(&mut rng) as f32);
                };
                match entry.init {
                    Init::Constant(value) => part.fill(value as f32),
                    Init::Kaiming => normal((2.0 / fan_in).sqrt()),
                    Init::Gaussian(deviation) => normal(deviation),
                    Init::Xavier => {
                        let limit = (3.0 / fan_in).sqrt();
                        part.fill_with(|| rng.random_range(-limit..limit) as f32);
                    }
                }
            }
            Tensor::from_slice(&values).to_device(device)
        };
        let (flat, flat_buffers) = (fill(&parameters), fill(&buffers));
        let mut order: Vec<usize> = (0..parameters.len()).collect();
        order.sort_by_key(|&i| parameters[i].offset);
        Weights {
            parameters: parameters.iter().map(|entry| entry.view(&flat).detach().set_requires_grad(true)).collect(),
            buffers: buffers.iter().map(|entry| entry.view(&flat_buffers)).collect(),
            flat,
            flat_buffers,
            order,
        }
    }

    pub fn parameter(&self, parameter: Parameter) -> &Tensor {
        &self.parameters[parameter.0]
    }

    /// Every parameter, in the order of creation.
    #[cfg(test)]
    pub fn parameters(&self) -> &[Tensor] {
        &self.parameters
    }

    /// Every buffer, in the order of creation.
    #[cfg(test)]
    pub fn buffers(&self) -> &[Tensor] {
        &self.buffers
    }

    pub fn buffer(&self, buffer: Buffer) -> &Tensor {
        &self.buffers[buffer.0]
    }

    pub fn device(&self) -> Device {
        self.flat.device()
    }

    /// Gradients of the scalar `loss` by every parameter but those of `given`, whose gradients are passed in, written to
    /// `gradient` [P] in the order of `flat`.
    pub fn backward(&self, loss: &Tensor, given: Vec<(Parameter, Tensor)>, gradient: &Tensor) {
        let mut known: Vec<Option<Tensor>> = self.parameters.iter().map(|_| None).collect();
        for (parameter, gradient) in given {
            known[parameter.0] = Some(gradient);
        }
        let inputs: Vec<&Tensor> =
            self.order.iter().filter(|&&i| known[i].is_none()).map(|&i| &self.parameters[i]).collect();
        let mut computed = Tensor::run_backward(&[loss], &inputs, false, false).into_iter();
        no_grad(|| {
            let pieces: Vec<Tensor> = self
                .order
                .iter()
                .map(|&i| {
                    let piece = known[i].take().or_else(|| computed.next()).expect("one gradient for each parameter");
                    if piece.dim() == 4 { piece.permute([0, 2, 3, 1]).reshape(-1) } else { piece.reshape(-1) }
                })
                .collect();
            let _ = Tensor::cat_out(gradient, &pieces, 0);
        });
    }

    /// Takes over another replica's numbers.
    pub fn copy_from(&mut self, other: &Weights) {
        no_grad(|| {
            self.flat.copy_(&other.flat);
            self.flat_buffers.copy_(&other.flat_buffers);
        });
    }
}
