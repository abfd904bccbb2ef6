//! Arrays of NumPy's .npy files.

use std::io::{self, Read};

use half::f16;
use npyz::{DType, Deserialize, NpyFile, Order, TypeChar};

/// Row-major numbers of a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    pub shape: Vec<usize>,
    pub values: Vec<T>,
}

/// f16, f32 or f64. Errors: not a .npy file, other numbers, truncated.
pub fn read_floats(bytes: impl Read) -> Result<Array<f32>, String> {
    floats(open(bytes)?)
}

/// Whole numbers of any width, or truth values. Errors: as `read_floats`; a number above i64's.
pub fn read_integers(bytes: impl Read) -> Result<Array<i64>, String> {
    integers(open(bytes)?)
}

/// What `read_floats` returns, of a file whose header has been read.
pub fn floats<R: Read>(file: NpyFile<R>) -> Result<Array<f32>, String> {
    match kind(&file) {
        Some((TypeChar::Float, 2)) => values(file, |value: f16| Ok(value.to_f32())),
        Some((TypeChar::Float, 4)) => values(file, Ok::<f32, String>),
        Some((TypeChar::Float, 8)) => values(file, |value: f64| Ok(value as f32)),
        _ => Err(other_kind(&file, "f2, f4 or f8")),
    }
}

/// What `read_integers` returns, of a file whose header has been read.
pub fn integers<R: Read>(file: NpyFile<R>) -> Result<Array<i64>, String> {
    let large = |value: u64| i64::try_from(value).map_err(|_| format!("the number {value} is larger than i64's"));
    match kind(&file) {
        Some((TypeChar::Int, 1)) => values(file, |value: i8| Ok(value.into())),
        Some((TypeChar::Int, 2)) => values(file, |value: i16| Ok(value.into())),
        Some((TypeChar::Int, 4)) => values(file, |value: i32| Ok(value.into())),
        Some((TypeChar::Int, 8)) => values(file, Ok::<i64, String>),
        Some((TypeChar::Uint, 1)) => values(file, |value: u8| Ok(value.into())),
        Some((TypeChar::Uint, 2)) => values(file, |value: u16| Ok(value.into())),
        Some((TypeChar::Uint, 4)) => values(file, |value: u32| Ok(value.into())),
        Some((TypeChar::Uint, 8)) => values(file, large),
        Some((TypeChar::Bool, _)) => values(file, |value: bool| Ok(value.into())),
        _ => Err(other_kind(&file, "whole numbers (i1 to i8, u1 to u8)")),
    }
}

fn open<R: Read>(bytes: R) -> Result<NpyFile<R>, String> {
    NpyFile::new(bytes).map_err(|why| format!("not a .npy file: {why}"))
}

/// Kind and bytes of its numbers; `None` for records.
fn kind<R: Read>(file: &NpyFile<R>) -> Option<(TypeChar, u64)> {
    match file.dtype() {
        DType::Plain(kind) => Some((kind.type_char(), kind.size_field())),
        _ => None,
    }
}

fn values<T: Deserialize, U: Copy, R: Read>(
    file: NpyFile<R>,
    convert: impl Fn(T) -> Result<U, String>,
) -> Result<Array<U>, String> {
    let shape: Vec<usize> = file.shape().iter().map(|&side| side as usize).collect();
    let by_columns = file.order() != Order::C;
    let Ok(data) = file.try_data::<T>() else { return Err("numbers of a kind that is not known".into()) };
    // grows as it is read: the header may promise anything
    let mut values = Vec::new();
    for value in data {
        values.push(convert(value.map_err(|why: io::Error| format!("truncated: {why}"))?)?);
    }
    match shape[..] {
        [rows, columns] if by_columns => {
            let row = |row: usize| (0..columns).map(move |column| row + column * rows);
            let values = (0..rows).flat_map(row).map(|at| values[at]).collect();
            Ok(Array { shape, values })
        }
        _ if by_columns && shape.len() > 2 => Err(format!("an array of shape {shape:?} in Fortran order")),
        _ => Ok(Array { shape, values }),
    }
}

fn other_kind<R: Read>(file: &NpyFile<R>, wanted: &str) -> String {
    format!("numbers of type {}; wanted is {wanted}", file.dtype().descr())
}
