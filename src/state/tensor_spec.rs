//! Named tensors in a task's state vector.

use std::borrow::Cow;

/// Where one named tensor lies in a task's state vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Path in the checkpoint: `model/layer1.0.conv1.weight`, `optimizer/layer1.0.conv1.weight/momentum`.
    pub path: String,
    /// Logical shape, as PyTorch's state dict has it.
    pub shape: Vec<usize>,
    /// First element in the state vector.
    pub offset: usize,
    /// 4-D weights lie in memory as [O, H, W, I] (channels_last); files hold [O, I, H, W].
    pub channels_last: bool,
}

impl TensorSpec {
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tensor's values in a state vector, row-major in the order of `shape`; copied only where the memory has another
    /// order. Panics if it reaches beyond `state`.
    pub fn read<'a>(&self, state: &'a [f32]) -> Cow<'a, [f32]> {
        let memory = &state[self.offset..self.offset + self.len()];
        match self.channels_last_sizes() {
            None => Cow::Borrowed(memory),
            Some((_, inputs, pixels)) if inputs == 1 || pixels == 1 => Cow::Borrowed(memory),
            Some((outputs, inputs, pixels)) => {
                let mut values = Vec::with_capacity(memory.len());
                for output in 0..outputs {
                    for input in 0..inputs {
                        values.extend((0..pixels).map(|pixel| memory[(output * pixels + pixel) * inputs + input]));
                    }
                }
                Cow::Owned(values)
            }
        }
    }

    /// The inverse of `read`. Panics also if `values` are more or fewer than the tensor has.
    pub fn write(&self, values: &[f32], state: &mut [f32]) {
        let memory = &mut state[self.offset..self.offset + self.len()];
        match self.channels_last_sizes() {
            None => memory.copy_from_slice(values),
            Some((outputs, inputs, pixels)) => {
                assert_eq!(values.len(), memory.len());
                let mut values = values.iter();
                for output in 0..outputs {
                    for input in 0..inputs {
                        for (pixel, &value) in values.by_ref().take(pixels).enumerate() {
                            memory[(output * pixels + pixel) * inputs + input] = value;
                        }
                    }
                }
            }
        }
    }

    /// Output channels, input channels and H * W of a tensor whose memory is [O, H, W, I]; `None` for all others.
    fn channels_last_sizes(&self) -> Option<(usize, usize, usize)> {
        match self.shape[..] {
            [outputs, inputs, height, width] if self.channels_last => Some((outputs, inputs, height * width)),
            _ => None,
        }
    }
}
