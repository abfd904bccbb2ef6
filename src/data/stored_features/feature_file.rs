//! Named arrays in the files of other programs: HDF5, or NumPy's .npy and .npz (docs/format.md).

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use hdf5::H5Type;
use hdf5::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};
use npyz::npz::NpzArchive;

use super::npy::{self, Array};
use crate::data::name_list;
use crate::error::{Error, Result};
use crate::hdf5_file::{self, Cause, Outcome};

/// The array that a .npy file itself is; the others are in files beside it.
pub const FEATURES: &str = "features";

pub enum FeatureFile {
    /// *.h5: data sets.
    Hdf5(PathBuf, hdf5::File),
    /// *.npz: its arrays.
    Npz(PathBuf, Box<NpzArchive<BufReader<File>>>),
    /// X.npy has the features, X.ids.npy the ids, and so on.
    Npy(PathBuf),
}

impl FeatureFile {
    /// Errors: another ending; not there; not what its ending says.
    pub fn open(path: &Path) -> Result<FeatureFile> {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        match ending {
            "h5" | "hdf5" | "npy" | "npz" => {}
            "mat" => {
                return Err(Error::config(format!(
                    "{}: a Matlab file; this makes a .npz of it: python3 -c \"import numpy, scipy.io as s; m = \
                     s.loadmat('{}'); numpy.savez('{}', features=m['FEATURES'], ids=m['IDS'].ravel(), \
                     cameras=m['CAMERAS'].ravel())\", with its own names of the three",
                    path.display(),
                    path.display(),
                    path.with_extension("npz").display()
                )));
            }
            _ => {
                let why = "features must be in a file *.h5, *.npy or *.npz";
                return Err(Error::config(format!("{}: {why}", path.display())));
            }
        }
        // says better than the libraries what is wrong with a path
        let file = File::open(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
        match ending {
            "npy" => Ok(FeatureFile::Npy(path.to_owned())),
            "npz" => {
                let archive = NpzArchive::new(BufReader::new(file));
                let archive = archive.map_err(|why| Error::file(path, format!("not a .npz file: {why}")))?;
                Ok(FeatureFile::Npz(path.to_owned(), Box::new(archive)))
            }
            _ => {
                let opened = hdf5_file::open(path).map_err(|Cause(why)| Error::file(path, why))?;
                Ok(FeatureFile::Hdf5(path.to_owned(), opened))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            FeatureFile::Hdf5(path, _) | FeatureFile::Npz(path, _) | FeatureFile::Npy(path) => path,
        }
    }

    /// Error: no such array, or not of f16, f32 or f64.
    pub fn floats(&mut self, name: &str) -> Result<Array<f32>> {
        match self {
            FeatureFile::Hdf5(path, file) => {
                let is_float = |kind: &TypeDescriptor| matches!(kind, TypeDescriptor::Float(_));
                let array = numbers(file, name, is_float, "floating-point numbers (f16, f32 or f64)");
                array.map_err(|Cause(why)| Error::file(path, why))
            }
            FeatureFile::Npz(path, archive) => npy::floats(archived(path, archive, name)?)
                .map_err(|why| Error::file(path, format!("array {name}: {why}"))),
            FeatureFile::Npy(path) => read_npy(&beside(path, name), npy::read_floats),
        }
    }

    /// Error: no such array, or not of whole numbers.
    pub fn integers(&mut self, name: &str) -> Result<Array<i64>> {
        match self {
            FeatureFile::Hdf5(path, file) => {
                use TypeDescriptor::{Boolean, Integer, Unsigned};
                let is_whole = |kind: &TypeDescriptor| matches!(kind, Integer(_) | Unsigned(_) | Boolean);
                numbers(file, name, is_whole, "whole numbers").map_err(|Cause(why)| Error::file(path, why))
            }
            FeatureFile::Npz(path, archive) => npy::integers(archived(path, archive, name)?)
                .map_err(|why| Error::file(path, format!("array {name}: {why}"))),
            FeatureFile::Npy(path) => read_npy(&beside(path, name), npy::read_integers),
        }
    }

    /// One of each of `rows`: [N] or [N, 1]. Errors: those of `integers`; another shape.
    pub fn column(&mut self, name: &str, rows: usize) -> Result<Vec<i64>> {
        let Array { shape, values } = self.integers(name)?;
        match shape[..] {
            [count] | [count, 1] | [1, count] if count == rows => Ok(values),
            _ => Err(Error::file(self.path(), format!("{rows} features, but {name} of shape {shape:?}"))),
        }
    }

    /// The images' names: the data set `names` of HDF5, or X.npy.names.txt beside X.npy or X.npz (a name in each line, as
    /// 'amlfs export embeddings' writes it). Errors: there are none, or as many as `rows`.
    pub fn names(&self, rows: usize) -> Result<Vec<String>> {
        let names = match self {
            FeatureFile::Hdf5(path, file) => texts(file, "names").map_err(|Cause(why)| Error::file(path, why))?,
            FeatureFile::Npz(path, _) | FeatureFile::Npy(path) => {
                let list = crate::atomic_file::with_suffix(path, ".names.txt");
                let bytes = std::fs::read(&list)
                    .map_err(|why| Error::file(&list, format!("can't be read, and has the images' names: {why}")))?;
                let text = name_list::text(&bytes).map_err(|why| Error::file(&list, why))?;
                text.lines().map(str::to_owned).collect()
            }
        };
        if names.len() != rows {
            return Err(Error::file(self.path(), format!("{rows} features, but {} names", names.len())));
        }
        Ok(names)
    }
}

fn beside(path: &Path, name: &str) -> PathBuf {
    if name == FEATURES { path.to_owned() } else { path.with_extension(format!("{name}.npy")) }
}

fn read_npy<T>(
    path: &Path,
    read: impl FnOnce(BufReader<File>) -> std::result::Result<Array<T>, String>,
) -> Result<Array<T>> {
    let file = File::open(path).map_err(|why| Error::file(path, format!("can't be read: {why}")))?;
    read(BufReader::with_capacity(1 << 20, file)).map_err(|why| Error::file(path, why))
}

/// An array of a .npz, whose header has been read.
fn archived<'a>(
    path: &Path,
    archive: &'a mut NpzArchive<BufReader<File>>,
    name: &str,
) -> Result<npyz::NpyFile<npyz::zip::read::ZipFile<'a>>> {
    let found: Vec<String> = archive.array_names().map(str::to_owned).collect();
    let array = archive.by_name(name).map_err(|why| Error::file(path, format!("array {name}: {why}")))?;
    array.ok_or_else(|| Error::file(path, without(name, "array", &found)))
}

fn without(name: &str, kind: &str, found: &[String]) -> String {
    format!(
        "it has no {kind} {name}, but {}; wanted are features [N, D], ids [N], for re-ID cameras [N]",
        found.join(", ")
    )
}

fn dataset(file: &hdf5::File, name: &str) -> Outcome<hdf5::Dataset> {
    file.dataset(name).map_err(|_| Cause(without(name, "data set", &file.member_names().unwrap_or_default())))
}

/// HDF5 converts numbers of all sizes to T; the kind must be right, or it would also round.
fn numbers<T: H5Type>(
    file: &hdf5::File,
    name: &str,
    is_right: impl Fn(&TypeDescriptor) -> bool,
    kind: &str,
) -> Outcome<Array<T>> {
    let dataset = dataset(file, name)?;
    match dataset.dtype()?.to_descriptor() {
        Ok(found) if is_right(&found) => {}
        Ok(found) => return Err(format!("data set {name} has {found}; wanted are {kind}").into()),
        Err(_) => {
            return Err(format!("data set {name} has numbers of a kind that is not known; wanted are {kind}").into());
        }
    }
    let values = dataset.read_raw().map_err(|why| unreadable(&dataset, name, why))?;
    Ok(Array { shape: dataset.shape(), values })
}

/// Why a data set's numbers can't be read; most often a filter that this HDF5 library has not.
fn unreadable(dataset: &hdf5::Dataset, name: &str, why: hdf5::Error) -> Cause {
    let Cause(why) = why.into();
    let filters = dataset.filters();
    if filters.is_empty() {
        return Cause(format!("data set {name} can't be read: {why}"));
    }
    Cause(format!(
        "data set {name} is compressed with {filters:?}, which this HDF5 library can't undo ({why}); write it again without \
         compression, or with gzip (in h5py compression=\"gzip\")"
    ))
}

/// Texts of any of HDF5's four kinds.
fn texts(file: &hdf5::File, name: &str) -> Outcome<Vec<String>> {
    const LONGEST: usize = 1024;
    let dataset = dataset(file, name)?;
    fn owned<T: H5Type + AsRef<str>>(dataset: &hdf5::Dataset) -> Outcome<Vec<String>> {
        Ok(dataset.read_raw::<T>()?.iter().map(|text| text.as_ref().to_owned()).collect())
    }
    match dataset.dtype()?.to_descriptor()? {
        TypeDescriptor::VarLenUnicode => owned::<VarLenUnicode>(&dataset),
        TypeDescriptor::VarLenAscii => owned::<VarLenAscii>(&dataset),
        TypeDescriptor::FixedUnicode(length) if length <= LONGEST => owned::<FixedUnicode<LONGEST>>(&dataset),
        TypeDescriptor::FixedAscii(length) if length <= LONGEST => owned::<FixedAscii<LONGEST>>(&dataset),
        found => Err(format!("data set {name} has {found}; wanted are texts").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by NumPy: tests/reference/feature_files.py.
    fn written_by_numpy(name: &str) -> FeatureFile {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference");
        FeatureFile::open(&directory.join(name)).unwrap()
    }

    fn features() -> Array<f32> {
        Array { shape: vec![5, 3], values: (0..15).map(|i| i as f32 / 4.0 - 1.0).collect() }
    }

    const IDS: [i64; 5] = [0, 1, 7, 100, 127];

    #[test]
    fn what_numpy_writes_is_read_in_every_type_and_order() {
        let mut file = written_by_numpy("numpy.npz");
        for kind in ["f2", "f4", "f8", "big_f4", "big_f8"] {
            assert_eq!(file.floats(kind).unwrap(), features(), "{kind}");
            assert_eq!(file.floats(&format!("{kind}_fortran")).unwrap(), features(), "{kind} in Fortran order");
        }
        assert_eq!(file.floats("slice").unwrap(), features());
        assert_eq!(file.floats("transposed").unwrap(), features());
        for kind in ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "big_i4", "big_u2"] {
            assert_eq!(file.column(kind, 5).unwrap(), IDS, "{kind}");
            assert_eq!(file.column(&format!("{kind}_column"), 5).unwrap(), IDS, "{kind} as [N, 1]");
        }
        assert_eq!(file.column("bool", 5).unwrap(), [0, 1, 1, 1, 1]);
        assert_eq!(file.column("large", 2).unwrap(), [-1, 1 << 62]);
        let mut error = |name: &str| file.integers(name).unwrap_err().to_string();
        assert!(error("too_large").ends_with("array too_large: the number 9223372036854775808 is larger than i64's"));
        assert!(
            error("text").contains("array text: numbers of type '<U4'; wanted is whole numbers"),
            "{}",
            error("text")
        );
        assert!(error("f4").contains("array f4: numbers of type '<f4'; wanted is whole numbers"));
        assert!(file.floats("complex").unwrap_err().to_string().ends_with("of type '<c8'; wanted is f2, f4 or f8"));
        assert!(file.floats("i4").is_err());
        let shape = file.column("i4_column", 4).unwrap_err().to_string();
        assert!(shape.ends_with("numpy.npz: 4 features, but i4_column of shape [5, 1]"), "{shape}");
    }

    #[test]
    fn a_compressed_npz_and_npy_files_side_by_side_hold_the_same() {
        for name in ["numpy_compressed.npz", "numpy.npy"] {
            let mut file = written_by_numpy(name);
            assert_eq!(file.floats(FEATURES).unwrap(), features(), "{name}");
            assert_eq!((file.column("ids", 5).unwrap(), file.column("cameras", 5).unwrap()), (IDS.into(), IDS.into()));
        }
    }
}
