//! Features of a re-ID query set or gallery, as other programs write them: HDF5 or NumPy files (docs/format.md).

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use hdf5::H5Type;
use hdf5::types::TypeDescriptor;
use tch::Tensor;

use super::npy::{self, Array};
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome, describe, write_column};

pub struct LabelledFeatures {
    /// [N, D] f32.
    pub features: Tensor,
    /// [N]: who it is; -1: junk, which is ignored.
    pub ids: Vec<i64>,
    /// [N].
    pub cameras: Vec<i64>,
}

impl LabelledFeatures {
    /// `path`.h5 has data sets `features`, `ids` and `cameras`; X.npy has the features, X.ids.npy and X.cameras.npy the rest.
    ///
    /// Errors: a file or data set that is missing or of another kind or shape; lengths that differ; a feature that is not
    /// finite, with its row.
    pub fn read(path: &Path) -> Result<LabelledFeatures> {
        let (features, ids, cameras) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("h5" | "hdf5") => read_hdf5(path).map_err(|Cause(why)| Error::file(path, why))?,
            Some("npy") => {
                let beside = |name: &str| path.with_extension(format!("{name}.npy"));
                let integers = |name: &str| read_npy(&beside(name), npy::read_integers);
                (read_npy(path, npy::read_floats)?, integers("ids")?, integers("cameras")?)
            }
            _ => return Err(Error::config(format!("{}: features must be in a file *.h5 or *.npy", path.display()))),
        };
        let [rows, dimensions] = features.shape[..] else {
            return Err(Error::file(path, format!("features of shape {:?} instead of [N, D]", features.shape)));
        };
        if ids.shape != [rows] || cameras.shape != [rows] {
            let why = format!("{rows} features, but ids of shape {:?} and cameras of {:?}", ids.shape, cameras.shape);
            return Err(Error::file(path, why));
        }
        if rows == 0 || dimensions == 0 {
            return Err(Error::file(path, format!("features of shape [{rows}, {dimensions}]: there are none")));
        }
        if let Some(index) = features.values.iter().position(|value| !value.is_finite()) {
            let (row, value) = (index / dimensions, features.values[index]);
            return Err(Error::file(path, format!("row {row} has a feature that is {value}")));
        }
        if let Some(row) = ids.values.iter().position(|&id| id < -1) {
            return Err(Error::file(
                path,
                format!("row {row} has the id {}; -1 is junk, others are 0 or more", ids.values[row]),
            ));
        }
        let features = Tensor::from_slice(&features.values).view([rows as i64, dimensions as i64]);
        Ok(LabelledFeatures { features, ids: ids.values, cameras: cameras.values })
    }

    /// The HDF5 form that `read` reads.
    pub fn write(&self, path: &Path) -> Result<()> {
        atomic_file::write(path, |temporary| self.write_hdf5(temporary)).map_err(|Cause(why)| Error::file(path, why))
    }

    fn write_hdf5(&self, path: &Path) -> Outcome<()> {
        let file = hdf5_file::create(path)?;
        let values = Vec::<f32>::try_from(self.features.to_device(tch::Device::Cpu).reshape(-1))
            .map_err(|why| Cause(why.to_string()))?;
        let shape: Vec<usize> = self.features.size().iter().map(|&side| side as usize).collect();
        let features =
            file.new_dataset_builder().obj_track_times(false).empty::<f32>().shape(shape).create("features")?;
        features.write_raw(&values)?;
        describe(&features, "1", "feature of each image")?;
        features.flush()?;
        write_column(&file, "ids", &self.ids, "1", "who it is")?;
        write_column(&file, "cameras", &self.cameras, "1", "the camera that took it")?;
        file.flush()?;
        file.close()?;
        Ok(())
    }
}

type Arrays = (Array<f32>, Array<i64>, Array<i64>);

fn read_hdf5(path: &Path) -> Outcome<Arrays> {
    File::open(path)?; // says better what is wrong with a path
    let file = hdf5_file::open(path)?;
    let is_float = |kind: &TypeDescriptor| matches!(kind, TypeDescriptor::Float(_));
    let is_integer = |kind: &TypeDescriptor| matches!(kind, TypeDescriptor::Integer(_) | TypeDescriptor::Unsigned(_));
    let integers = |name| array(&file, name, is_integer, "whole numbers");
    Ok((array(&file, "features", is_float, "floating-point numbers")?, integers("ids")?, integers("cameras")?))
}

/// HDF5 converts numbers of all sizes to T; the kind must be right, or it would also round.
fn array<T: H5Type>(
    file: &hdf5::File,
    name: &str,
    is_right: impl Fn(&TypeDescriptor) -> bool,
    kind: &str,
) -> Outcome<Array<T>> {
    let wanted = "wanted are features [N, D], ids [N] and cameras [N]";
    let dataset = file.dataset(name).map_err(|_| format!("it has no data set {name}; {wanted}"))?;
    let found = dataset.dtype()?.to_descriptor()?;
    if !is_right(&found) {
        return Err(format!("data set {name} has {found}; wanted are {kind}").into());
    }
    Ok(Array { shape: dataset.shape(), values: dataset.read_raw()? })
}

fn read_npy<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> std::result::Result<Array<T>, String>,
) -> Result<Array<T>> {
    let file = File::open(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    read(BufReader::new(file)).map_err(|why| Error::file(path, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: [f64; 6] = [1.0, 2.0, 3.0, -4.0, 5.5, 6.0];

    /// A file as h5py writes it, of other kinds of numbers than ours.
    fn foreign(path: &Path, write: impl FnOnce(&hdf5::File)) {
        let file = hdf5::File::create(path).unwrap();
        write(&file);
        file.close().unwrap();
    }

    fn data_set<T: H5Type>(file: &hdf5::File, name: &str, shape: &[usize], values: &[T]) {
        file.new_dataset::<T>().shape(shape).create(name).unwrap().write_raw(values).unwrap();
    }

    #[test]
    fn hdf5_files_of_f64_and_i32_are_read_and_ours_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("query.h5");
        foreign(&path, |file| {
            data_set(file, "features", &[3, 2], &FEATURES);
            data_set(file, "ids", &[3], &[-1i32, 0, 7]);
            data_set(file, "cameras", &[3], &[1u8, 2, 255]);
        });
        let found = LabelledFeatures::read(&path).unwrap();
        assert_eq!((&found.ids[..], &found.cameras[..]), (&[-1, 0, 7][..], &[1, 2, 255][..]));
        assert_eq!(found.features.size(), [3, 2]);
        let ours = directory.path().join("ours.h5");
        found.write(&ours).unwrap();
        let again = LabelledFeatures::read(&ours).unwrap();
        assert_eq!((again.features, again.ids, again.cameras), (found.features, found.ids, found.cameras));
    }

    #[test]
    fn hdf5_files_of_something_else_are_errors_that_say_what() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("query.h5");
        let error = |write: &dyn Fn(&hdf5::File)| {
            foreign(&path, write);
            LabelledFeatures::read(&path).err().unwrap().to_string()
        };
        let without = error(&|file| data_set(file, "features", &[3, 2], &FEATURES));
        assert!(without.ends_with("no data set ids; wanted are features [N, D], ids [N] and cameras [N]"), "{without}");
        let flat = error(&|file| {
            data_set(file, "features", &[6], &FEATURES);
            data_set(file, "ids", &[6], &[1; 6]);
            data_set(file, "cameras", &[6], &[1; 6]);
        });
        assert!(flat.ends_with("query.h5: features of shape [6] instead of [N, D]"), "{flat}");
        let fractions = error(&|file| {
            data_set(file, "features", &[3, 2], &FEATURES);
            data_set(file, "ids", &[3], &[1.5, 2.0, 3.0]);
        });
        assert!(fractions.ends_with("data set ids has float64; wanted are whole numbers"), "{fractions}");
    }
}
