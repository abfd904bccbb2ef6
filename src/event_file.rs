//! Files of events as TensorBoard reads them: records of TFRecord's framing (length, CRC-32C, bytes, CRC-32C), each a protocol
//! buffer (tensorflow/core/util/event.proto, framework/summary.proto; here only the fields that are written).

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use prost::Message;

use crate::atomic_file;
use crate::error::Result;

/// What names of such files have in them, by which TensorBoard knows them.
pub const MARK: &str = "tfevents";
/// The only version that readers know.
const VERSION: &str = "brain.Event:2";
const SESSION_STARTS: i32 = 1;
/// Bars of a histogram at most.
const BUCKETS: usize = 20;

/// A file that grows while it is read.
pub struct EventFile {
    path: PathBuf,
    file: File,
}

/// What is shown of a step below a tag, whose part before a slash is its group.
pub enum Point {
    Scalar(String, f64),
    /// Finite numbers.
    Histogram(String, Vec<f64>),
    /// A PNG.
    Image(String, Vec<u8>),
}

/// The points of a step. `time`: seconds of Unix time.
pub struct Step {
    pub step: usize,
    pub time: f64,
    pub points: Vec<Point>,
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// 3: RGB.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    count: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// Upper ends, growing.
    #[prost(double, repeated, tag = "6")]
    limits: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    counts: Vec<f64>,
}

impl EventFile {
    /// A new file, with its first records: what TensorBoard has read of another one's steps from `first` on is forgotten. Error:
    /// it can't be written.
    pub fn create(path: &Path, time: f64, first: usize) -> Result<EventFile> {
        let file = File::create(path).map_err(|why| atomic_file::cannot_write(path, why))?;
        let mut created = EventFile { path: path.into(), file };
        let version = Event { wall_time: time, file_version: Some(VERSION.into()), ..Event::default() };
        let start = SessionLog { status: SESSION_STARTS };
        let session = Event { wall_time: time, step: first as i64, session_log: Some(start), ..Event::default() };
        created.append(&[version, session])?;
        Ok(created)
    }

    /// Adds steps, all at once. Error: they can't be written; the file may end with a part of them.
    pub fn add(&mut self, steps: Vec<Step>) -> Result<()> {
        let event = |Step { step, time, points }: Step| {
            let summary = Summary { values: points.into_iter().map(value).collect() };
            Event { wall_time: time, step: step as i64, summary: Some(summary), ..Event::default() }
        };
        let events: Vec<Event> = steps.into_iter().map(event).collect();
        self.append(&events)
    }

    fn append(&mut self, events: &[Event]) -> Result<()> {
        let bytes: Vec<u8> = events.iter().flat_map(|event| framed(&event.encode_to_vec())).collect();
        self.file.write_all(&bytes).map_err(|why| atomic_file::cannot_write(&self.path, why))
    }
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), bytes, &masked(bytes)].concat()
}

/// TFRecord's checksum, which may stand within bytes that are checked themselves.
fn masked(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn value(point: Point) -> Value {
    match point {
        Point::Scalar(tag, number) => Value { tag, simple_value: Some(number as f32), ..Value::default() },
        Point::Histogram(tag, numbers) => Value { tag, histogram: Some(histogram(&numbers)), ..Value::default() },
        Point::Image(tag, encoded) => {
            // the first chunk of a PNG says how large it is
            let side = |at: usize| i32::from_be_bytes(encoded[at..at + 4].try_into().expect("four bytes"));
            let image = Image { height: side(20), width: side(16), colorspace: 3, encoded };
            Value { tag, image: Some(image), ..Value::default() }
        }
    }
}

/// Of bars of equal width between the smallest and the largest number.
fn histogram(numbers: &[f64]) -> Histogram {
    let (min, max) = numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &x| (a.min(x), b.max(x)));
    let buckets = if max > min { BUCKETS } else { 1 };
    let width = (max - min) / buckets as f64;
    let mut limits: Vec<f64> = (1..=buckets).map(|i| min + width * i as f64).collect();
    limits[buckets - 1] = max;
    let mut counts = vec![0.0; buckets];
    for &number in numbers {
        counts[limits.partition_point(|&limit| limit < number)] += 1.0;
    }
    let sum = |of: fn(f64) -> f64| numbers.iter().map(|&x| of(x)).sum();
    Histogram { min, max, count: numbers.len() as f64, sum: sum(|x| x), sum_squares: sum(|x| x * x), limits, counts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_does() {
        // of the empty record: 8 bytes of length 0, checksums of both
        let empty = [0, 0, 0, 0, 0, 0, 0, 0, 0x29, 0x03, 0x98, 0x07, 0xd8, 0xea, 0x82, 0xa2];
        assert_eq!(framed(&[]), empty);
    }

    #[test]
    fn every_number_is_in_one_bar() {
        let found = histogram(&[0.0, 0.5, 1.0, 1.0, 0.07]);
        assert_eq!((found.min, found.max, found.count, found.counts.len()), (0.0, 1.0, 5.0, BUCKETS));
        assert_eq!(found.counts.iter().sum::<f64>(), 5.0);
        assert_eq!((found.counts[0], found.counts[1], found.counts[9], found.counts[19]), (1.0, 1.0, 1.0, 2.0));
        let one = histogram(&[0.3, 0.3]);
        assert_eq!((one.limits, one.counts), (vec![0.3], vec![2.0]));
    }
}
