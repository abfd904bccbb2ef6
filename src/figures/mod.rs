//! Figures as data: what they show, as SVG, PNG and CSV. Knows nothing of runs.

mod draw;

use std::path::Path;

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

use crate::atomic_file;
use crate::error::{Error, Result};

pub use draw::INK;

/// Points of a line that are drawn at most: a page is no wider.
const MOST_POINTS: usize = 400;
/// PNG pixels per unit of an SVG.
const PNG_SCALE: u32 = 2;

/// One figure: curves over x, or a row for each of some things.
#[derive(Clone, Debug, Default)]
pub struct Figure {
    /// The name of its files, without an ending: unique on a page.
    pub name: String,
    pub title: String,
    pub x: Axis,
    /// Ignored if there are `rows`.
    pub y: Axis,
    /// Labels of the rows from above, at y = 0, 1, ...: then y is no quantity.
    pub rows: Vec<String>,
    /// With rows, labels of the columns from the left, at x = 0, 1, ...: a table of cells.
    pub columns: Vec<String>,
    /// Series are neighbours in their order: their colours are shades from one to another.
    pub ordered: bool,
    pub series: Vec<Series>,
}

#[derive(Clone, Debug, Default)]
pub struct Axis {
    pub label: String,
    pub log: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Series {
    /// In the legend; empty: not there.
    pub label: String,
    /// Series of one colour belong together.
    pub colour: usize,
    pub shape: Shape,
    /// x, y; gaps are NaN.
    pub points: Vec<[f64; 2]>,
    /// Low and high of each point's band or bar; empty: none. Those of bars begin at low.
    pub spread: Vec<[f64; 2]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    #[default]
    Line,
    Dashed,
    /// With the spread as a horizontal bar where there are rows.
    Points,
    /// Bars of a histogram: each reaches to the next point's x.
    Bars,
    /// A line at each point's x from below to above.
    Marks,
    /// A cell of a table at each point, as dark as its spread's low says, 0 to 1.
    Cells,
}

impl Axis {
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), log: false }
    }

    pub fn log(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), log: true }
    }
}

impl Figure {
    /// Whether anything is to be seen.
    pub fn is_empty(&self) -> bool {
        let finite = |series: &Series| series.points.iter().any(|point| point.iter().all(|value| value.is_finite()));
        !self.series.iter().any(|series| series.shape != Shape::Marks && finite(series))
    }

    /// A whole SVG document; colours are as on white, `INK` that of text and axes.
    pub fn svg(&self) -> String {
        draw::on_svg(&self.thinned())
    }

    pub fn png(&self) -> Vec<u8> {
        let (pixels, (width, height)) = draw::on_pixels(&self.thinned(), PNG_SCALE);
        let mut bytes = Vec::new();
        let encoded = PngEncoder::new(&mut bytes).write_image(&pixels, width, height, ExtendedColorType::Rgb8);
        encoded.expect("an image in memory");
        bytes
    }

    /// The numbers of all series: a row for each point; of a cell, the column is named and low is its share.
    pub fn csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let y = if self.rows.is_empty() { &self.y.label } else { "row" };
        writer.write_record(["series", &self.x.label, y, "low", "high"]).expect("in memory");
        for series in &self.series {
            for (i, &[x, y]) in series.points.iter().enumerate() {
                let spread =
                    series.spread.get(i).map(|spread| spread.map(|value| value.to_string())).unwrap_or_default();
                let y = self.rows.get(y as usize).cloned().unwrap_or_else(|| y.to_string());
                let x = self.columns.get(x as usize).cloned().unwrap_or_else(|| x.to_string());
                writer.write_record([&series.label, &x, &y, &spread[0], &spread[1]]).expect("in memory");
            }
        }
        String::from_utf8(writer.into_inner().expect("in memory")).expect("text")
    }

    /// NAME.svg, NAME.png and NAME.csv. Errors: they can't be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir_all(directory).map_err(|why| Error::file(directory, format!("can't be created: {why}")))?;
        let file = |ending: &str| directory.join(format!("{}.{ending}", self.name));
        atomic_file::write_bytes(&file("svg"), self.svg().as_bytes())?;
        atomic_file::write_bytes(&file("png"), &self.png())?;
        atomic_file::write_bytes(&file("csv"), self.csv().as_bytes())
    }

    /// Lines with no more points than can be seen: every k-th, and the last.
    fn thinned(&self) -> Figure {
        let thin = |series: &Series| {
            let step = series.points.len().div_ceil(MOST_POINTS);
            if step <= 1 || !matches!(series.shape, Shape::Line | Shape::Dashed) {
                return series.clone();
            }
            let last = series.points.len() - 1;
            let kept = || (0..=last).filter(|&i| i % step == 0 || i == last);
            let spread = kept().filter_map(|i| series.spread.get(i).copied()).collect();
            Series { points: kept().map(|i| series.points[i]).collect(), spread, ..series.clone() }
        };
        Figure { series: self.series.iter().map(thin).collect(), ..self.clone() }
    }
}
