//! What lies in a tensor's memory, as slices.

use tch::{Device, Kind, Tensor};

/// What a tensor of some kind consists of: any bits of its size are a number.
pub trait Number: Copy {
    const KIND: Kind;
}

impl Number for f32 {
    const KIND: Kind = Kind::Float;
}

impl Number for i32 {
    const KIND: Kind = Kind::Int;
}

impl Number for u8 {
    const KIND: Kind = Kind::Uint8;
}

/// The numbers of a contiguous CPU tensor of T's kind. Panics if it is another.
pub fn numbers<T: Number>(tensor: &Tensor) -> &[T] {
    let start = start::<T>(tensor);
    // SAFETY: as checked, and any bits are a T; the slice does not outlive the tensor, and nobody writes to it meanwhile
    start.map_or(&[], |start| unsafe { std::slice::from_raw_parts(start, tensor.numel()) })
}

/// The same, to be written to.
///
/// # Safety
/// Nobody else looks at these numbers as long as the slice lives, through other handles of the tensor either.
#[expect(clippy::mut_from_ref, reason = "a tensor is a handle")]
pub unsafe fn numbers_mut<T: Number>(tensor: &Tensor) -> &mut [T] {
    // SAFETY: as in `numbers`, and as promised
    start::<T>(tensor).map_or(&mut [], |start| unsafe { std::slice::from_raw_parts_mut(start, tensor.numel()) })
}

/// Where they begin; `None`: there are none, and libtorch has a null pointer.
fn start<T: Number>(tensor: &Tensor) -> Option<*mut T> {
    assert!(tensor.device() == Device::Cpu && tensor.is_contiguous() && tensor.kind() == T::KIND);
    (tensor.numel() > 0).then(|| tensor.data_ptr().cast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_written_and_an_empty_tensor_has_none() {
        let tensor = Tensor::from_slice2(&[[1.0f32, 2.0], [3.0, 4.0]]);
        // SAFETY: the only handle
        unsafe { numbers_mut(&tensor)[2] = 5.0 };
        assert_eq!(numbers::<f32>(&tensor), [1.0, 2.0, 5.0, 4.0]);
        let empty = Tensor::empty([0, 7], (Kind::Float, Device::Cpu));
        assert!(numbers::<f32>(&empty).is_empty());
        // SAFETY: the only handle
        assert!(unsafe { numbers_mut::<f32>(&empty) }.is_empty());
    }

    #[test]
    #[should_panic]
    fn another_layout_has_no_slice() {
        let tensor = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu)).tr();
        numbers::<f32>(&tensor);
    }

    #[test]
    #[should_panic]
    fn another_kind_has_no_slice() {
        numbers::<f32>(&Tensor::zeros([2], (Kind::Int, Device::Cpu))); // of the same size
    }
}
