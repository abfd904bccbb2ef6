use amlfs::data::stored_features::npy;
use half::f16;
use npyz::WriterBuilder;
use proptest::collection::vec;
use proptest::prelude::*;

use super::{bytes, fuzz};

fn file<T: npyz::AutoSerialize>(shape: &[u64], values: Vec<T>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut bytes).begin_nd().unwrap();
    writer.extend(values).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn arrays() {
    let single = vec(any::<f32>(), 6).prop_map(|values| file(&[2, 3], values));
    let double = vec(any::<f64>(), 6).prop_map(|values| file(&[3, 2], values));
    let small = vec(any::<i16>(), 0..9).prop_map(|values| file(&[values.len() as u64], values));
    let large = vec(any::<i64>(), 0..9).prop_map(|values| file(&[values.len() as u64], values));
    let unsigned = vec(any::<u64>(), 0..9).prop_map(|values| file(&[values.len() as u64, 1], values));
    let half = vec(any::<u16>(), 6).prop_map(|values| {
        let values: Vec<f16> = values.into_iter().map(f16::from_bits).collect();
        let mut bytes = Vec::new();
        let options = npyz::WriteOptions::new().default_dtype().shape(&[3, 2]).order(npyz::Order::Fortran);
        let mut writer = options.writer(&mut bytes).begin_nd().unwrap();
        writer.extend(values).unwrap();
        writer.finish().unwrap();
        bytes
    });
    fuzz("npy", bytes(prop_oneof![single, double, small, large, unsigned, half]), |bytes| {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let floats = npy::read_floats(&bytes[..]);
        if let Ok(array) = &floats {
            assert_eq!(array.values.len(), count(&array.shape));
        }
        let integers = npy::read_integers(&bytes[..]);
        if let Ok(array) = &integers {
            assert_eq!(array.values.len(), count(&array.shape));
        }
        assert!(floats.is_err() || integers.is_err(), "numbers of two kinds");
        floats.is_ok() || integers.is_ok()
    });
}
