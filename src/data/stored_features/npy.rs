//! Arrays of NumPy's .npy files.

use std::io::{self, Read};

use npyz::{Deserialize, NpyFile, Order};

/// Row-major numbers of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

/// f32 or f64. Errors: not a .npy file, other numbers, Fortran order, truncated.
pub fn read_floats(bytes: impl Read) -> Result<Array<f32>, String> {
    let file = match values::<f32, _>(open(bytes)?)? {
        Ok(found) => return Ok(found),
        Err(file) => file,
    };
    match values::<f64, _>(file)? {
        Ok(found) => Ok(found.map(|value| value as f32)),
        Err(file) => Err(other_kind(&file, "f4 or f8")),
    }
}

/// Signed whole numbers of up to 64 bits, or bytes. Errors: as `read_floats`.
pub fn read_integers(bytes: impl Read) -> Result<Array<i64>, String> {
    let file = match values::<i64, _>(open(bytes)?)? {
        Ok(found) => return Ok(found),
        Err(file) => file,
    };
    let file = match values::<i32, _>(file)? {
        Ok(found) => return Ok(found.map(i64::from)),
        Err(file) => file,
    };
    let file = match values::<i16, _>(file)? {
        Ok(found) => return Ok(found.map(i64::from)),
        Err(file) => file,
    };
    match values::<u8, _>(file)? {
        Ok(found) => Ok(found.map(i64::from)),
        Err(file) => Err(other_kind(&file, "i8, i4, i2 or u1")),
    }
}

impl<T> Array<T> {
    fn map<U>(self, convert: impl Fn(T) -> U) -> Array<U> {
        Array { shape: self.shape, values: self.values.into_iter().map(convert).collect() }
    }
}

fn open<R: Read>(bytes: R) -> Result<NpyFile<R>, String> {
    let file = NpyFile::new(bytes).map_err(|why| format!("not a .npy file: {why}"))?;
    if file.order() != Order::C && file.shape().len() > 1 {
        return Err("its array is in Fortran order; numpy.ascontiguousarray makes it C's".into());
    }
    Ok(file)
}

/// The file back if its numbers are no T.
fn values<T: Deserialize, R: Read>(file: NpyFile<R>) -> Result<Result<Array<T>, NpyFile<R>>, String> {
    let shape = file.shape().iter().map(|&side| side as usize).collect();
    match file.try_data::<T>() {
        Err(file) => Ok(Err(file)),
        Ok(data) => {
            // grows as it is read: the header may promise anything
            let mut values = Vec::new();
            for value in data {
                values.push(value.map_err(|why: io::Error| format!("truncated: {why}"))?);
            }
            Ok(Ok(Array { shape, values }))
        }
    }
}

fn other_kind<R: Read>(file: &NpyFile<R>, wanted: &str) -> String {
    format!("numbers of type {}; wanted is {wanted}", file.dtype().descr())
}
