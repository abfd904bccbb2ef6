//! metrics.csv: a row for each epoch that is saved.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::SystemTime;

use crate::atomic_file;
use crate::error::{Error, Result};
use crate::state::{EPOCH_COLUMNS, EpochRecord};

/// What the names of mu's components begin with.
pub const MU: &str = "mu_";
pub const NAME: &str = "metrics.csv";

/// The figures of an epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Those of `EPOCH_COLUMNS`, in their order; NaN for one that the file does not have.
    figures: Vec<f64>,
    /// [P]
    pub mu: Vec<f64>,
}

impl Metrics {
    pub fn of(record: &EpochRecord) -> Metrics {
        Metrics { figures: EPOCH_COLUMNS.iter().map(|column| column.number(record)).collect(), mu: record.mu.clone() }
    }

    /// A figure by its column's name. Panics if there is no such column.
    pub fn figure(&self, name: &str) -> f64 {
        self.figures[EPOCH_COLUMNS.iter().position(|column| column.name == name).expect("a column")]
    }
}

/// A row per epoch, `components` names those of mu. Written whole each time, so that it never disagrees with the checkpoint.
/// Error: it can't be written.
pub fn write_metrics(run: &Path, history: &[EpochRecord], components: &[String]) -> Result<()> {
    let path = run.join(NAME);
    let failed = |why: csv::Error| Error::file(&path, why);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mu = components.iter().map(|name| format!("{MU}{name}"));
    let names = EPOCH_COLUMNS.iter().map(|column| column.name.to_owned());
    let header = ["epoch".to_owned()].into_iter().chain(names).chain(mu);
    writer.write_record(header).map_err(failed)?;
    for (i, record) in history.iter().enumerate() {
        let figures = EPOCH_COLUMNS.iter().map(|column| column.text(record));
        let row = [(i + 1).to_string()].into_iter().chain(figures).chain(record.mu.iter().map(f64::to_string));
        writer.write_record(row).map_err(failed)?;
    }
    atomic_file::write_bytes(&path, &writer.into_inner().map_err(|why| Error::file(&path, why))?)
}

/// The epochs of a run; none where there is no file yet. It is replaced whole, so this never sees half of it. Errors: it
/// can't be read, or is no such file.
pub fn read_metrics(run: &Path) -> Result<Vec<Metrics>> {
    let path = run.join(NAME);
    let mut reader = match File::open(&path) {
        Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => csv::Reader::from_reader(file.map_err(|why| Error::file(&path, why))?),
    };
    let failed = |why: csv::Error| Error::file(&path, why);
    let names = reader.headers().map_err(failed)?.clone();
    let places: Vec<Option<usize>> =
        EPOCH_COLUMNS.iter().map(|column| names.iter().position(|name| name == column.name)).collect();
    let mu: Vec<usize> = (0..names.len()).filter(|&i| names[i].starts_with(MU)).collect();
    let row = |row: csv::Result<csv::StringRecord>| {
        let row = row.map_err(failed)?;
        let number = |place: usize| {
            let (text, name) = (&row[place], &names[place]);
            text.parse().map_err(|_| Error::file(&path, format!("{name} = '{text}' is no number")))
        };
        Ok(Metrics {
            figures: places.iter().map(|place| place.map_or(Ok(f64::NAN), number)).collect::<Result<_>>()?,
            mu: mu.iter().map(|&place| number(place)).collect::<Result<_>>()?,
        })
    };
    reader.records().map(row).collect()
}

/// When the run wrote them last.
pub fn metrics_written(run: &Path) -> Option<SystemTime> {
    fs::metadata(run.join(NAME)).and_then(|about| about.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{SampleRecord, Status};

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read_metrics(directory.path()).unwrap(), []);
        let sample = SampleRecord { reward: 0.1 + 0.2, status: Status::Ok, ..SampleRecord::default() };
        let record = EpochRecord { mu: vec![1.0 / 3.0, -1e-9], samples: vec![sample], ..EpochRecord::default() };
        let names = ["t_offset".to_owned(), "log_weight_1".to_owned()];
        write_metrics(directory.path(), &[record.clone(), record.clone()], &names).unwrap();
        let read = read_metrics(directory.path()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{:?}", [Metrics::of(&record), Metrics::of(&record)]));
        assert_eq!((read[0].figure("reward_max"), &read[0].mu), (0.1 + 0.2, &record.mu));

        // an older file, and a damaged one
        let write = |text: &str| fs::write(directory.path().join(NAME), text).unwrap();
        write("epoch,reward_max\n1,0.5\n");
        let old = read_metrics(directory.path()).unwrap().remove(0);
        assert!(old.figure("reward_max") == 0.5 && old.figure("seconds").is_nan() && old.mu.is_empty());
        write("epoch,reward_max\n1,high\n");
        let error = read_metrics(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("metrics.csv: reward_max = 'high' is no number"), "{error}");
    }
}
