//! Drawing, with plotters.

use std::ops::Range;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::{Axis, Figure, Series, Shape};

/// Text, axes: the colour that a page replaces on a dark ground.
pub const INK: RGBColor = RGBColor(0x1b, 0x1f, 0x24);
const GRID: RGBColor = RGBColor(0xd8, 0xde, 0xe4);
/// Okabe and Ito (2008): can be told apart by people who see few colours. The first is for what a figure is about.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x6e, 0x77, 0x81),
];
/// About what a phone and a column of a page are wide.
const WIDTH: u32 = 480;
const HEIGHT: u32 = 330;
const ROW_HEIGHT: u32 = 24;
/// Coordinates are whole numbers: so many are a unit, or slopes become stairs.
const SVG_SCALE: u32 = 4;
const FONT: &str = "sans-serif";
const TEXT: f64 = 13.0;
const TITLE: f64 = 15.0;
const MARGIN: i32 = 10;
const LINE_HEIGHT: i32 = 19;
/// Numbers in cells must be readable: how dark a cell is at most, and how narrow.
const DARKEST_CELL: f64 = 0.7;
const MOST_COLUMNS_WITH_NUMBERS: usize = 12;
/// Of a band over its ground.
const OPACITY: f64 = 0.2;

type Area<'a, B> = DrawingArea<B, Shift>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

pub(super) fn on_svg(figure: &Figure) -> String {
    with_font();
    let (width, height) = size(figure);
    let (wide, high) = (width * SVG_SCALE, height * SVG_SCALE);
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (wide, high)).into_drawing_area();
    draw(figure, &area, f64::from(SVG_SCALE)).expect("text in memory");
    drop(area);
    text.replacen(&format!("width=\"{wide}\" height=\"{high}\""), &format!("width=\"{width}\" height=\"{height}\""), 1)
}

/// RGB, row by row, and width and height.
pub(super) fn on_pixels(figure: &Figure, scale: u32) -> (Vec<u8>, (u32, u32)) {
    with_font();
    let (width, height) = size(figure);
    let (width, height) = (width * scale, height * scale);
    let mut pixels = vec![0xff; (width * height * 3) as usize];
    let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
    draw(figure, &area, f64::from(scale)).expect("pixels in memory");
    drop(area);
    (pixels, (width, height))
}

/// Machines that compute have no fonts.
fn with_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let font = include_bytes!("DejaVuSans-subset.ttf");
        assert!(register_font(FONT, FontStyle::Normal, font).is_ok(), "a font");
    });
}

fn size(figure: &Figure) -> (u32, u32) {
    let legend = legend_rows(figure) as u32 * LINE_HEIGHT as u32;
    match figure.rows.len() as u32 {
        0 => (WIDTH, HEIGHT + legend),
        rows => (WIDTH, 100 + rows * ROW_HEIGHT + legend),
    }
}

/// Of the last one of these to the first, over the middle.
const SHADES: [RGBColor; 3] = [RGBColor(0x3b, 0x6f, 0xc9), RGBColor(0xb5, 0x4f, 0x92), RGBColor(0xe0, 0x8a, 0x1e)];

fn colour(figure: &Figure, series: &Series) -> RGBColor {
    if !figure.ordered || series.shape == Shape::Marks {
        return COLOURS[series.colour % COLOURS.len()];
    }
    let last = figure.series.iter().filter(|series| series.shape != Shape::Marks).count().saturating_sub(1).max(1);
    let place = 2.0 * series.colour as f64 / last as f64;
    let (from, to) = if place < 1.0 { (SHADES[0], SHADES[1]) } else { (SHADES[1], SHADES[2]) };
    let mix = |from: u8, to: u8| {
        (f64::from(from) + (place - place.floor().min(1.0)) * (f64::from(to) - f64::from(from))) as u8
    };
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

fn text(size: f64) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// Estimated by the font's own widths, so that SVG and PNG agree.
fn width(label: &str) -> i32 {
    let (width, _) = text(TEXT).font.box_size(label).map_or((0, 0), |size| size);
    width as i32
}

/// Places of the legend's entries: row, and x of its mark.
fn legend(figure: &Figure) -> Vec<(&Series, usize, i32)> {
    let (mut row, mut x) = (0, MARGIN);
    let mut places = Vec::new();
    for series in figure.series.iter().filter(|series| !series.label.is_empty()) {
        let wide = 30 + width(&series.label) + 14;
        if x > MARGIN && x + wide > WIDTH as i32 - MARGIN {
            (row, x) = (row + 1, MARGIN);
        }
        places.push((series, row, x));
        x += wide;
    }
    places
}

fn legend_rows(figure: &Figure) -> usize {
    legend(figure).last().map_or(0, |&(_, row, _)| row + 1)
}

/// What the axis shows of a value.
fn on_axis(axis: &Axis, value: f64) -> f64 {
    match axis.log {
        true if value > 0.0 => value.log10(),
        true => f64::NAN,
        false => value,
    }
}

/// A tick's label; what arithmetic leaves of steps such as 0.1 is rounded away.
fn tick(axis: &Axis, range: &Range<f64>, value: f64) -> String {
    let shown = if value.abs() < 1e-6 * (range.end - range.start).abs() { 0.0 } else { value };
    let shown = if axis.log { 10f64.powf(shown) } else { shown };
    match shown.abs() {
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{shown:.0e}"),
        _ => format!("{}", (shown * 1e4).round() / 1e4),
    }
}

/// The range of finite values, with some room.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match low <= high {
        false => 0.0..1.0,
        true if high - low < 1e-9 * (1.0 + high.abs()) => low - 0.5..high + 0.5,
        true => low - 0.04 * (high - low)..high + 0.04 * (high - low),
    }
}

fn draw<B: DrawingBackend>(figure: &Figure, area: &Area<B>, scale: f64) -> Drawn<B> {
    let px = |units: i32| (f64::from(units) * scale) as i32;
    let style = |size: f64| text(size * scale);
    area.draw(&Text::new(figure.title.clone(), (px(MARGIN), px(MARGIN)), style(TITLE)))?;
    let top = MARGIN + 24;
    for (series, row, x) in legend(figure) {
        let y = top + row as i32 * LINE_HEIGHT + 8;
        sample(series, colour(figure, series), area, (px(x), px(y)), scale)?;
        let anchored = style(TEXT).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(series.label.clone(), (px(x + 28), px(y)), anchored))?;
    }

    let drawn = |series: &Series| series.shape != Shape::Marks;
    let curves = || figure.series.iter().filter(|series| drawn(series));
    let rows = !figure.rows.is_empty();
    let spread =
        |along_x: bool| curves().filter(move |_| along_x == rows).flat_map(|series| series.spread.iter().flatten());
    let x = range(
        curves()
            .flat_map(|s| s.points.iter().map(|p| p[0]))
            .chain(spread(true).copied())
            .map(|v| on_axis(&figure.x, v)),
    );
    let columns = figure.columns.len() as f64;
    let x = if columns > 0.0 { -0.5..columns - 0.5 } else { x };
    let y = match rows {
        true if columns > 0.0 => figure.rows.len() as f64 - 0.5..-0.5,
        true => figure.rows.len() as f64 - 0.4..-0.6,
        false => {
            let points = curves().flat_map(|series| series.points.iter().map(|point| point[1]));
            range(points.chain(spread(false).copied()).map(|value| on_axis(&figure.y, value)))
        }
    };
    let label_width = match rows {
        true => figure.rows.iter().map(|label| width(label)).max().unwrap_or(0) + 14,
        false => 62,
    };
    let mut chart = ChartBuilder::on(area)
        .margin_top(px(top + legend_rows(figure) as i32 * LINE_HEIGHT + 6))
        .margin_right(px(MARGIN + 6))
        .margin_bottom(px(4))
        .margin_left(px(4))
        .x_label_area_size(px(44))
        .y_label_area_size(px(label_width))
        .build_cartesian_2d(x.clone(), y.clone())?;
    let mut mesh = chart.configure_mesh();
    mesh.axis_style(INK.stroke_width(px(1) as u32))
        .bold_line_style(GRID.stroke_width(px(1) as u32))
        .set_all_tick_mark_size(px(5))
        .light_line_style(TRANSPARENT)
        .x_desc(&*figure.x.label)
        .x_labels(7)
        .label_style(style(TEXT))
        .axis_desc_style(style(TEXT));
    let (x_tick, y_tick) = (|value: &f64| tick(&figure.x, &x, *value), |value: &f64| tick(&figure.y, &y, *value));
    mesh.x_label_formatter(&x_tick);
    match rows {
        true => mesh.y_labels(0).disable_y_mesh(),
        false => mesh.y_desc(&*figure.y.label).y_labels(6).y_label_formatter(&y_tick),
    };
    if columns > 0.0 {
        mesh.x_labels(0).disable_x_mesh();
    }
    mesh.draw()?;

    let place = |[x, y]: [f64; 2]| (on_axis(&figure.x, x), if rows { y } else { on_axis(&figure.y, y) });
    let finite = |&(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
    if rows {
        let right = style(TEXT).pos(Pos::new(HPos::Right, VPos::Center));
        for (row, label) in figure.rows.iter().enumerate() {
            let (left, middle) = chart.backend_coord(&(x.start, row as f64));
            area.draw(&Text::new(label.clone(), (left - px(8), middle), right.clone()))?;
        }
    }
    let centred = style(TEXT).pos(Pos::new(HPos::Center, VPos::Center));
    for (column, label) in figure.columns.iter().enumerate() {
        let (middle, bottom) = chart.backend_coord(&(column as f64, y.start));
        area.draw(&Text::new(label.clone(), (middle, bottom + px(12)), centred.clone()))?;
    }
    for series in &figure.series {
        let colour = colour(figure, series);
        let (line, band) = (colour.stroke_width(px(2) as u32), colour.mix(OPACITY).filled());
        let places: Vec<(f64, f64)> = series.points.iter().map(|&point| place(point)).collect();
        match series.shape {
            Shape::Marks => {
                for (x, _) in places.into_iter().filter(|(x, _)| x.is_finite()) {
                    let ends = [(x, y.start), (x, y.end)];
                    chart.draw_series(DashedLineSeries::new(
                        ends,
                        px(3) as u32,
                        px(4) as u32,
                        colour.stroke_width(px(1) as u32),
                    ))?;
                }
            }
            Shape::Bars => {
                let next = places.iter().skip(1).map(|place| place.0);
                let bars = places.iter().zip(next).zip(&series.spread);
                let bars = bars.map(|((&(left, high), right), &[low, _])| {
                    Rectangle::new([(left, place([0.0, low]).1), (right, high)], band)
                });
                chart.draw_series(bars)?;
            }
            Shape::Cells => {
                let shares = || series.points.iter().zip(&series.spread).map(|(point, spread)| (*point, spread[0]));
                chart.draw_series(shares().map(|([x, y], share)| {
                    let corners = [(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)];
                    Rectangle::new(corners, colour.mix(DARKEST_CELL * share).filled())
                }))?;
                if figure.columns.len() <= MOST_COLUMNS_WITH_NUMBERS {
                    for ([x, y], share) in shares().filter(|(_, share)| *share >= 0.005) {
                        let number = format!("{:.0}", 100.0 * share);
                        area.draw(&Text::new(number, chart.backend_coord(&(x, y)), centred.clone()))?;
                    }
                }
            }
            Shape::Points => {
                if rows {
                    let bars = series.points.iter().zip(&series.spread);
                    let ends = |row: f64, [low, high]: [f64; 2]| vec![place([low, row]), place([high, row])];
                    let bars = bars.map(|(&[_, row], &spread)| PathElement::new(ends(row, spread), line));
                    chart.draw_series(bars)?;
                }
                chart.draw_series(
                    places.into_iter().filter(finite).map(|place| Circle::new(place, px(4), colour.filled())),
                )?;
            }
            Shape::Line | Shape::Dashed => {
                // a band from its lower edge forth and its upper edge back
                let edge = |side: usize| {
                    series.points.iter().zip(&series.spread).map(move |(&[x, _], spread)| [x, spread[side]])
                };
                let outline: Vec<_> = edge(0).chain(edge(1).rev()).map(place).filter(finite).collect();
                if !outline.is_empty() {
                    chart.draw_series([Polygon::new(outline, band)])?;
                }
                for part in places.split(|place| !finite(place)).filter(|part| !part.is_empty()) {
                    if series.shape == Shape::Dashed {
                        chart.draw_series(DashedLineSeries::new(part.to_vec(), px(6) as u32, px(4) as u32, line))?;
                    } else {
                        chart.draw_series(LineSeries::new(part.to_vec(), line))?;
                    }
                }
            }
        }
    }
    area.present()
}

/// What the legend shows of a series, at the middle of its left edge.
fn sample<B: DrawingBackend>(
    series: &Series,
    colour: RGBColor,
    area: &Area<B>,
    (x, y): (i32, i32),
    scale: f64,
) -> Drawn<B> {
    let px = |units: i32| (f64::from(units) * scale) as i32;
    let line = colour.stroke_width(px(2) as u32);
    let strokes = |parts: &[(i32, i32)]| -> Drawn<B> {
        parts
            .iter()
            .try_for_each(|&(from, to)| area.draw(&PathElement::new(vec![(x + px(from), y), (x + px(to), y)], line)))
    };
    match series.shape {
        Shape::Line => strokes(&[(0, 22)])?,
        Shape::Dashed => strokes(&[(0, 6), (9, 15), (18, 22)])?,
        Shape::Points => area.draw(&Circle::new((x + px(11), y), px(4), colour.filled()))?,
        Shape::Cells => {}
        Shape::Bars => {
            area.draw(&Rectangle::new([(x, y - px(5)), (x + px(22), y + px(5))], colour.mix(OPACITY).filled()))?
        }
        Shape::Marks => {
            let dash =
                |from: i32| PathElement::new(vec![(x + px(11), y + px(from)), (x + px(11), y + px(from + 4))], line);
            [-8, -2, 4].into_iter().try_for_each(|from| area.draw(&dash(from)))?
        }
    }
    if !series.spread.is_empty() && matches!(series.shape, Shape::Line | Shape::Dashed) {
        area.draw(&Rectangle::new([(x, y - px(5)), (x + px(22), y + px(5))], colour.mix(OPACITY).filled()))?;
    }
    Ok(())
}
