//! What TensorBoard shows of a run: OUT/tensorboard/events.out.tfevents.*, which follows from the history. Each process of the
//! run begins a file of its own with all epochs that there are, and removes those of the processes before it; so no epoch is
//! there twice after a kill, and nothing of epochs that were lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tch::{Device, Kind};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event_file::{EventFile, MARK, Point, Step};
use crate::figures::{Axis, Figure, Series, Shape};
use crate::loss::{Function, Loss, target_curve, value_and_weight_curves};
use crate::state::{Column, EPOCH_COLUMNS, EpochRecord};

const DIRECTORY: &str = "tensorboard";
/// Images of a curve in a run, about; TensorBoard shows ten.
const IMAGES: usize = 20;
/// Points of a curve.
const POINTS: usize = 201;
/// The lowest probability that tau is drawn at: its logarithm is taken.
const LOWEST_P: f64 = 1e-4;

pub struct TensorBoard {
    directory: PathBuf,
    function: Function,
    /// Names of theta's components, and theta of softmax.
    components: Vec<String>,
    identity: Vec<f64>,
    epochs: usize,
    begun: Option<Begun>,
}

/// This process' file.
struct Begun {
    file: EventFile,
    /// Unix time at which the run's first epoch would have begun, had there been no pauses.
    start: f64,
    /// Epochs that are in it.
    written: usize,
}

impl TensorBoard {
    /// Of the run in a directory, if its configuration wants it.
    pub fn new(run: &Path, config: &Config) -> Option<TensorBoard> {
        let space = config.space();
        config.run.tensorboard.unwrap_or(false).then(|| TensorBoard {
            directory: run.join(DIRECTORY),
            function: config.loss.function,
            components: space.names(),
            identity: space.identity(),
            epochs: config.train.epochs,
            begun: None,
        })
    }

    /// Adds the epochs that are not there yet, and `test` at the last one's step. Error: the file can't be written; the next
    /// call begins another one.
    pub fn write(&mut self, history: &[EpochRecord], test: &[(String, f64)]) -> Result<()> {
        let mut begun = match self.begun.take() {
            Some(begun) => begun,
            None => self.begin(history)?,
        };
        let mut steps: Vec<Step> = (begun.written..history.len())
            .map(|epoch| Step {
                step: epoch + 1,
                time: begun.start + seconds(&history[..=epoch]),
                points: self.points(history, epoch),
            })
            .collect();
        if !test.is_empty() {
            let points = test.iter().map(|(name, value)| Point::Scalar(format!("test/{name}"), *value)).collect();
            steps.push(Step { step: history.len(), time: begun.start + seconds(history), points });
        }
        begun.file.add(steps)?;
        begun.written = history.len();
        self.begun = Some(begun);
        Ok(())
    }

    fn begin(&self, history: &[EpochRecord]) -> Result<Begun> {
        let directory = &self.directory;
        let failed = |why: std::io::Error| Error::file(directory, format!("can't be made anew: {why}"));
        fs::create_dir_all(directory).map_err(failed)?;
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.to_string_lossy().contains(MARK) {
                fs::remove_file(path).map_err(failed)?;
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        // readers go from one file to the next in the order of their names
        let name = format!("events.out.{MARK}.{:020}.{}", (now * 1e6) as u64, std::process::id());
        let start = now - seconds(history);
        Ok(Begun { file: EventFile::create(&directory.join(name), start, 1)?, start, written: 0 })
    }

    fn points(&self, history: &[EpochRecord], epoch: usize) -> Vec<Point> {
        let record = &history[epoch];
        let mut points: Vec<Point> = EPOCH_COLUMNS.iter().filter_map(|column| scalar(column, record)).collect();
        if record.best < 0 || self.components.is_empty() {
            return points;
        }
        for (i, name) in self.components.iter().enumerate() {
            points.push(Point::Scalar(format!("mu/{name}"), record.mu[i]));
            let thetas =
                record.samples.iter().map(|sample| sample.theta[i]).filter(|value| value.is_finite()).collect();
            points.push(Point::Histogram(format!("theta/{name}"), thetas));
        }
        if self.is_drawn(history, epoch) {
            points.extend(
                self.curves(record, epoch).map(|figure| Point::Image(format!("curves/{}", figure.name), figure.png())),
            );
        }
        points
    }

    /// The first round's end of each part of the run, and the last.
    fn is_drawn(&self, history: &[EpochRecord], epoch: usize) -> bool {
        let part = |epoch: usize| epoch / self.epochs.div_ceil(IMAGES);
        let before = history[..epoch].iter().rposition(|record| record.best >= 0);
        epoch + 1 == self.epochs || before.is_none_or(|before| part(before) < part(epoch))
    }

    /// t and tau of softmax, of the mean, and of the sample that went on.
    fn curves(&self, record: &EpochRecord, epoch: usize) -> [Figure; 2] {
        let cosines = evenly(-1.0, 1.0);
        let p = evenly(LOWEST_P, 1.0);
        let chosen = &record.samples[record.best as usize].theta;
        let losses = [("softmax", 6, &self.identity), ("mean", 0, &record.mu), ("sample that went on", 1, chosen)];
        let series = |x: &[f64], of: fn(&dyn Loss, &[f64]) -> Vec<f64>| -> Vec<Series> {
            let line = |&(label, colour, theta): &(&str, usize, &Vec<f64>)| {
                let values = of(&*self.function.build(theta, &[], Device::Cpu, Kind::Double), x);
                let shape = if colour == 6 { Shape::Dashed } else { Shape::Line };
                let points = x.iter().zip(values).map(|(&x, y)| [x, y]).collect();
                Series { label: label.into(), colour, shape, points, ..Series::default() }
            };
            losses.iter().map(line).collect()
        };
        let figure = |name: &str, x: &str, y: &str, series| Figure {
            name: name.into(),
            title: format!("{y} in epoch {}", epoch + 1),
            x: Axis::linear(x),
            y: Axis::linear(y),
            series,
            ..Figure::default()
        };
        [
            figure("t", "target cosine c", "t(c)", series(&cosines, target_curve)),
            figure("tau", "probability p of the label", "tau(p)", series(&p, tau)),
        ]
    }
}

/// Reward, learning rate and so on; what only a round's end has, at its end. Not finite: not there.
fn scalar(column: &Column<EpochRecord>, record: &EpochRecord) -> Option<Point> {
    let group = match (column.name, column.units) {
        ("best", _) => return None, // an index
        (name, _) if name.starts_with("reward_") => "reward",
        (name, _) if name.ends_with("_norm") || name.ends_with("_sigmas") => "steps_of_mu",
        (_, "s") => "time",
        _ => "training",
    };
    let value = column.number(record);
    let due = value.is_finite() && (group != "steps_of_mu" || record.best >= 0);
    due.then(|| Point::Scalar(format!("{group}/{}", column.name), value))
}

fn seconds(history: &[EpochRecord]) -> f64 {
    history.iter().map(|record| record.seconds + record.checkpoint_seconds).filter(|time| time.is_finite()).sum()
}

fn evenly(from: f64, to: f64) -> Vec<f64> {
    (0..POINTS).map(|i| from + (to - from) * i as f64 / (POINTS - 1) as f64).collect()
}

fn tau(loss: &dyn Loss, p: &[f64]) -> Vec<f64> {
    value_and_weight_curves(loss, p).0.into_iter().map(|value| (-value).exp()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Layers;

    fn board(run: &Path, settings: &[&str]) -> Option<TensorBoard> {
        let mut layers = Layers::new(Some("demo"), None, None).unwrap();
        settings.iter().for_each(|setting| layers.set_text(setting).unwrap());
        TensorBoard::new(run, &layers.resolve().unwrap())
    }

    fn files(run: &Path) -> Vec<PathBuf> {
        fs::read_dir(run.join(DIRECTORY)).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn it_is_there_on_request_alone_and_every_process_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        assert!(board(directory.path(), &[]).is_none());
        let mut first = board(directory.path(), &["run.tensorboard=true"]).unwrap();
        // no reward: no curves
        let history = vec![EpochRecord { best: -1, seconds: 1.0, ..EpochRecord::default() }; 3];
        first.write(&history[..1], &[]).unwrap();
        first.write(&history[..2], &[]).unwrap();
        let [kept] = &files(directory.path())[..] else { panic!("one file") };
        let two = fs::metadata(kept).unwrap().len();
        let mut second = board(directory.path(), &["run.tensorboard=true"]).unwrap();
        second.write(&history[..2], &[]).unwrap();
        let [anew] = &files(directory.path())[..] else { panic!("one file") };
        assert!(anew > kept && fs::metadata(anew).unwrap().len() == two);
        second.write(&history, &[("top1".into(), 0.5)]).unwrap();
        assert!(fs::metadata(anew).unwrap().len() > two);
    }

    #[test]
    fn after_a_failure_the_next_write_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut board = board(directory.path(), &["run.tensorboard=true"]).unwrap();
        fs::write(directory.path().join(DIRECTORY), "in the way").unwrap();
        let history = vec![EpochRecord { best: -1, ..EpochRecord::default() }; 3];
        let error = board.write(&history[..2], &[]).unwrap_err().to_string();
        assert!(error.contains("tensorboard: can't be made anew: "), "{error}");
        fs::remove_file(directory.path().join(DIRECTORY)).unwrap();
        board.write(&history, &[]).unwrap();
        assert_eq!((files(directory.path()).len(), board.begun.unwrap().written), (1, 3));
    }

    #[test]
    fn curves_are_drawn_some_twenty_times_and_at_the_end() {
        let board = board(Path::new(""), &["run.tensorboard=true", "train.epochs=200", "train.milestones=[]"]).unwrap();
        let history: Vec<EpochRecord> =
            (1..=200).map(|epoch| EpochRecord { best: epoch % 4 - 1, ..EpochRecord::default() }).collect();
        let drawn: Vec<usize> = (0..200)
            .filter(|&epoch| history[epoch].best >= 0 && board.is_drawn(&history, epoch))
            .map(|epoch| epoch + 1)
            .collect();
        assert_eq!(drawn[..4], [1, 11, 21, 31]);
        assert!(drawn.len() == 20, "{drawn:?}");
    }
}
