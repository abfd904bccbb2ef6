//! Features of a re-ID query set or gallery, as other programs write them.

use std::path::Path;

use tch::Tensor;

use super::feature_file::{FEATURES, FeatureFile};
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
    /// `features`, `ids` and `cameras` of a `FeatureFile`.
    ///
    /// Errors: those of `read_features`; ids or cameras that are missing, of another kind or of another number.
    pub fn read(path: &Path) -> Result<LabelledFeatures> {
        let mut file = FeatureFile::open(path)?;
        let features = read_features(&mut file, path)?;
        let rows = features.size()[0] as usize;
        let (ids, cameras) = (file.column("ids", rows)?, file.column("cameras", rows)?);
        if let Some(row) = ids.iter().position(|&id| id < -1) {
            let why = format!("row {row} has the id {}; -1 is junk, others are 0 or more", ids[row]);
            return Err(Error::file(path, why));
        }
        Ok(LabelledFeatures { features, ids, cameras })
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

/// The features [N, D] f32 of a file at `path`. Errors: no such array, or of another kind or shape; none; a feature that is
/// not finite, with its row.
pub fn read_features(file: &mut FeatureFile, path: &Path) -> Result<Tensor> {
    let features = file.floats(FEATURES)?;
    let [rows, dimensions] = features.shape[..] else {
        return Err(Error::file(path, format!("features of shape {:?} instead of [N, D]", features.shape)));
    };
    if rows == 0 || dimensions == 0 {
        return Err(Error::file(path, format!("features of shape [{rows}, {dimensions}]: there are none")));
    }
    if let Some(index) = features.values.iter().position(|value| !value.is_finite()) {
        let (row, value) = (index / dimensions, features.values[index]);
        return Err(Error::file(path, format!("row {row} has a feature that is {value}")));
    }
    Ok(Tensor::from_slice(&features.values).view([rows as i64, dimensions as i64]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use hdf5::H5Type;
    use npyz::npz::NpzWriter;
    use npyz::{Order, WriterBuilder};

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
        assert!(
            without
                .ends_with("no data set ids, but features; wanted are features [N, D], ids [N], for re-ID cameras [N]"),
            "{without}"
        );
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

    #[test]
    fn half_precision_columns_of_one_and_every_whole_type_are_read_from_hdf5_and_npz() {
        let directory = tempfile::tempdir().unwrap();
        let same = |found: LabelledFeatures| {
            let features = Vec::<f64>::try_from(found.features.view(-1)).unwrap();
            assert_eq!((&features[..], found.features.size()), (&FEATURES[..], vec![3, 2]));
            assert_eq!((&found.ids[..], &found.cameras[..]), (&[0, 1, 7][..], &[1, 2, 255][..]));
        };
        let path = directory.path().join("query.h5");
        foreign(&path, |file| {
            data_set(file, "features", &[3, 2], &FEATURES.map(f16::from_f64));
            data_set(file, "ids", &[3, 1], &[0u64, 1, 7]);
            data_set(file, "cameras", &[1, 3], &[1u16, 2, 255]);
        });
        same(LabelledFeatures::read(&path).unwrap());

        let columns: Vec<f16> = [1.0, 3.0, 5.5, 2.0, -4.0, 6.0].map(f16::from_f64).into();
        let path = directory.path().join("query.npz");
        let mut archive = NpzWriter::create(&path).unwrap();
        let options = |compressed: bool| {
            let method = if compressed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
            zip::write::FileOptions::default().compression_method(method)
        };
        let writer = archive.array("features", options(true)).unwrap().default_dtype().shape(&[3, 2]);
        let mut writer = writer.order(Order::Fortran).begin_nd().unwrap();
        writer.extend(columns).unwrap();
        writer.finish().unwrap();
        let mut writer =
            archive.array("ids", options(false)).unwrap().default_dtype().shape(&[3, 1]).begin_nd().unwrap();
        writer.extend([0u32, 1, 7]).unwrap();
        writer.finish().unwrap();
        let mut writer =
            archive.array("cameras", options(true)).unwrap().default_dtype().shape(&[3]).begin_nd().unwrap();
        writer.extend([1i16, 2, 255]).unwrap();
        writer.finish().unwrap();
        drop(archive);
        same(LabelledFeatures::read(&path).unwrap());
    }

    #[test]
    fn what_can_not_be_read_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let error = |name: &str, write: &dyn Fn(&Path)| {
            let path = directory.path().join(name);
            write(&path);
            LabelledFeatures::read(&path).err().unwrap().to_string()
        };
        let matlab = error("market.mat", &|_| {});
        assert!(matlab.contains("market.mat: a Matlab file; this makes a .npz of it: python3 -c"), "{matlab}");
        let csv = error("market.csv", &|_| {});
        assert!(csv.ends_with("market.csv: features must be in a file *.h5, *.npy or *.npz"), "{csv}");
        let text = error("text.npz", &|path| std::fs::write(path, "text").unwrap());
        assert!(text.contains("text.npz: not a .npz file: "), "{text}");
        let large = error("large.h5", &|path| {
            foreign(path, |file| {
                data_set(file, "features", &[3, 2], &FEATURES);
                data_set(file, "ids", &[2], &[1u64, 2]);
            });
        });
        assert!(large.ends_with("large.h5: 3 features, but ids of shape [2]"), "{large}");
    }

    #[test]
    fn a_filter_that_the_library_has_not_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("query.h5");
        foreign(&path, |file| {
            let dataset = file.new_dataset::<f64>().shape([3, 2]).chunk([3, 2]).deflate(4).create("features").unwrap();
            dataset.write_raw(&FEATURES).unwrap();
        });
        // of gzip (1) becomes an unknown filter's number, which stands 8 bytes before its name
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(8).position(|window| window == b"deflate\0").unwrap();
        assert_eq!(bytes[at - 8..at - 6], [1, 0]);
        bytes[at - 8..at - 6].copy_from_slice(&32_123u16.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let error = LabelledFeatures::read(&path).err().unwrap().to_string();
        assert!(error.contains("query.h5: data set features is compressed with [User(32123"), "{error}");
        assert!(error.contains("write it again without compression, or with gzip"), "{error}");
    }
}
