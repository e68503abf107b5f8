//! Lines and shares over time.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::element::{Circle, Polygon};
use plotters::prelude::{Cartesian2d, SVGBackend};
use plotters::series::LineSeries;
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::{
    Area, Axis, LETTER, Legend, Look, MARGIN, SCALE, Theme, draw, message, px, stroke, text,
};

/// Points of a line that are drawn.
const POINTS_MAX: u16 = 300;
const X_LABELS_HEIGHT: u32 = 26;
const Y_LABELS_WIDTH: u32 = 58;
/// Room for a label of the time axis, in pixels.
const X_LABEL_WIDTH: u32 = 84;
/// Shortest span of a time axis, seconds.
const SPAN_MIN_S: i64 = 2;
/// Steps of a time axis, seconds.
const STEPS_S: [i64; 20] = [
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1_800,
    3_600,
    7_200,
    10_800,
    21_600,
    43_200,
    86_400,
    2 * 86_400,
    7 * 86_400,
];
const DAY_S: i64 = 86_400;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// `0..=1`, shown as per cent.
    Share,
    /// Milliseconds, from 0.
    Milliseconds,
}

/// A line over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Which colour; that of others when `None`.
    pub colour: Option<usize>,
    /// Times (Unix, ms), which grow, and values.
    pub points: Vec<(i64, f64)>,
}

impl Unit {
    fn of(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.0} %", 100.0 * value),
            Self::Milliseconds if value >= 1_000.0 => format!("{} s", rounded(value / 1_000.0)),
            Self::Milliseconds => format!("{} ms", rounded(value)),
        }
    }

    /// Marks of an axis that ends with the last.
    fn marks(self, highest: f64) -> Vec<f64> {
        match self {
            Self::Share => vec![0.0, 0.25, 0.5, 0.75, 1.0],
            Self::Milliseconds => {
                let rough = highest.clamp(0.01, 1e12) / 4.0;
                let power = 10.0_f64.powf(rough.log10().floor());
                let nice = [1.0, 2.0, 2.5, 5.0, 10.0].map(|digit| digit * power);
                let step = nice.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * power);
                (0..=4).map(|mark| f64::from(mark) * step).collect()
            }
        }
    }
}

/// Three digits or so, none where they are zeros.
fn rounded(value: f64) -> String {
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// Lines over time, each with its last value in the legend. Without any point it says `nothing`.
pub fn lines(
    look: Look,
    title: &str,
    description: &str,
    nothing: &str,
    unit: Unit,
    lines: &[Line],
) -> String {
    let is_drawn = |point: &&(i64, f64)| point.1.is_finite();
    let points = || lines.iter().flat_map(|line| line.points.iter().filter(is_drawn));
    let Some(times) = Times::of(points().map(|(time, _)| *time)) else {
        return message(look, title, nothing);
    };
    let theme = Theme::of(look);
    let entries = lines.iter().map(|line| {
        let last = line.points.iter().rfind(is_drawn).map(|(_, value)| unit.of(*value));
        (line.name.clone(), last.unwrap_or_default(), theme.colour(line.colour))
    });
    let legend = Legend::of(look.width(), entries);
    let marks = unit.marks(points().map(|(_, value)| *value).fold(0.0, f64::max));
    draw(look, title, description, |area, theme| {
        let mut chart = chart(area, theme, &legend, &times, unit, marks)?;
        for line in lines.iter().rev() {
            let points = line.points.iter().filter(is_drawn).copied();
            let points = thinned(points.collect(), &times);
            let style = stroke(theme.colour(line.colour), 2.0);
            let points = points.into_iter().map(|(time, value)| (times.at(time), value));
            let last = points.clone().next_back();
            chart.draw_series(LineSeries::new(points, style))?;
            let dot = |at| Circle::new(at, px(3.0), theme.colour(line.colour).filled());
            chart.draw_series(last.map(dot))?;
        }
        Ok(())
    })
}

/// Shares of a whole over time, one on top of the other; each row has a time (Unix, ms) and the share
/// of each part, `0..=1`. What is missing to 1 stays empty.
pub fn shares(
    look: Look,
    title: &str,
    description: &str,
    nothing: &str,
    parts: &[(String, Option<usize>)],
    rows: &[(i64, Vec<f64>)],
) -> String {
    let Some(times) = Times::of(rows.iter().map(|(time, _)| *time)) else {
        return message(look, title, nothing);
    };
    // A single one holds for the whole.
    let single = [rows[0].clone(), (1_000 * (times.from_s + times.span_s), rows[0].1.clone())];
    let rows = if rows.len() == 1 { &single } else { rows };
    let theme = Theme::of(look);
    let last = rows.last().map(|(_, shares)| shares.as_slice()).unwrap_or_default();
    let entries = parts.iter().enumerate().map(|(index, (name, colour))| {
        let last = last.get(index).map(|share| Unit::Share.of(*share)).unwrap_or_default();
        (name.clone(), last, theme.colour(*colour))
    });
    let legend = Legend::of(look.width(), entries);
    draw(look, title, description, |area, theme| {
        let mut chart = chart(area, theme, &legend, &times, Unit::Share, Unit::Share.marks(1.0))?;
        let mut below = vec![0.0; rows.len()];
        for (index, (_, colour)) in parts.iter().enumerate() {
            let lower: Vec<(f64, f64)> =
                rows.iter().zip(&below).map(|((time, _), y)| (times.at(*time), *y)).collect();
            for ((_, shares), y) in rows.iter().zip(&mut below) {
                *y = (*y + shares.get(index).copied().unwrap_or(0.0).max(0.0)).min(1.0);
            }
            let upper: Vec<(f64, f64)> =
                rows.iter().zip(&below).map(|((time, _), y)| (times.at(*time), *y)).collect();
            let around: Vec<(f64, f64)> =
                lower.into_iter().chain(upper.iter().rev().copied()).collect();
            let colour = theme.colour(*colour);
            chart.draw_series([Polygon::new(around, colour.mix(0.8).filled())])?;
            // A gap tells neighbours apart for whoever sees no difference of colour.
            chart.draw_series(LineSeries::new(upper, stroke(theme.paper, 1.0)))?;
        }
        Ok(())
    })
}

/// A span of time.
struct Times {
    /// Unix time, seconds.
    from_s: i64,
    span_s: i64,
}

impl Times {
    fn of(times_ms: impl Iterator<Item = i64> + Clone) -> Option<Self> {
        let from_s = times_ms.clone().min()?.div_euclid(1_000);
        let end_s = times_ms.max()?.div_euclid(1_000) + 1;
        Some(Self { from_s, span_s: (end_s - from_s).max(SPAN_MIN_S) })
    }

    /// Seconds since the begin.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of some years")]
    fn at(&self, time_ms: i64) -> f64 {
        (time_ms - 1_000 * self.from_s) as f64 / 1_000.0
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of some years")]
    fn span(&self) -> f64 {
        self.span_s as f64
    }

    /// Round times for at most `count` labels.
    fn marks(&self, count: i64) -> Vec<i64> {
        let fits = |step: &i64| self.span_s / step <= count.max(1);
        let weeks = 1 + self.span_s / (7 * DAY_S) / count.max(1);
        let step = STEPS_S.into_iter().find(fits).unwrap_or(weeks * 7 * DAY_S);
        let first = self.from_s.div_euclid(step) * step;
        let all = (0..).map(|index| first + index * step);
        all.skip_while(|mark| *mark < self.from_s)
            .take_while(|mark| *mark <= self.from_s + self.span_s)
            .collect()
    }

    fn label(&self, time_s: i64) -> String {
        let Ok(time) = Timestamp::from_second(time_s) else { return String::new() };
        let time = time.to_zoned(TimeZone::UTC);
        let format = match self.span_s {
            _ if time_s % DAY_S == 0 => "%b %-d",
            ..600 => "%H:%M:%S",
            _ => "%H:%M",
        };
        time.strftime(format).to_string()
    }
}

/// At most [`POINTS_MAX`] points, the last of each stretch of time, and the first.
fn thinned(points: Vec<(i64, f64)>, times: &Times) -> Vec<(i64, f64)> {
    if points.len() <= usize::from(POINTS_MAX) {
        return points;
    }
    let stretch_ms = (1_000 * times.span_s / (i64::from(POINTS_MAX) - 1)).max(1);
    let place = |time_ms: i64| (time_ms - 1_000 * times.from_s) / stretch_ms;
    let mut kept = vec![points[0]];
    for pair in points.windows(2) {
        if place(pair[0].0) != place(pair[1].0) {
            kept.push(pair[0]);
        }
    }
    kept.extend(points.last());
    kept.dedup();
    kept
}

type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;

/// Legend, axes and grid.
fn chart<'a>(
    area: &Area<'a>,
    theme: &Theme,
    legend: &Legend,
    times: &Times,
    unit: Unit,
    marks: Vec<f64>,
) -> Result<Chart<'a>, Box<dyn std::error::Error>> {
    legend.draw(area, theme)?;
    let (width, _) = area.dim_in_pixel();
    let (_, below) = area.split_vertically(legend.height * SCALE);
    let labels = (width / SCALE - Y_LABELS_WIDTH - 2 * MARGIN) / X_LABEL_WIDTH;
    let time_marks = times.marks(i64::from(labels));
    let top = marks.last().copied().unwrap_or(1.0);
    let time_marks = time_marks.iter().map(|mark| times.at(1_000 * mark)).collect();
    let (x, y) = (Axis::new(0.0..times.span(), time_marks), Axis::new(0.0..top, marks));
    let mut chart = ChartBuilder::on(&below)
        .margin_top(px(6.0))
        .margin_right(px(f64::from(MARGIN) + 14.0))
        .x_label_area_size(px(f64::from(X_LABELS_HEIGHT)))
        .y_label_area_size(px(f64::from(Y_LABELS_WIDTH)))
        .build_cartesian_2d(x, y)?;
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds")]
    let time_label = |since: &f64| times.label(times.from_s + since.round() as i64);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .axis_style(stroke(theme.grid, 1.0))
        .bold_line_style(stroke(theme.grid, 1.0))
        .x_label_style(text(LETTER, theme.faint_ink, HPos::Center, VPos::Top))
        .y_label_style(text(LETTER, theme.faint_ink, HPos::Right, VPos::Center))
        .x_label_formatter(&time_label)
        .y_label_formatter(&|value| unit.of(*value))
        .set_all_tick_mark_size(px(3.0))
        .draw()?;
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_time_are_round_and_few() {
        let of = |from_s: i64, span_s: i64| {
            let times = Times { from_s, span_s };
            let marks = times.marks(6).into_iter().map(|mark| times.label(mark));
            marks.collect::<Vec<_>>().join(" ")
        };
        // 1,790,000,000 is 2026-09-21, 14:13:20.
        assert_eq!(of(1_790_000_000, 10), "14:13:20 14:13:22 14:13:24 14:13:26 14:13:28 14:13:30");
        assert_eq!(of(1_790_000_000, 3_600), "14:20 14:30 14:40 14:50 15:00 15:10");
        assert_eq!(of(1_790_000_000, 86_400), "18:00 Sep 22 06:00 12:00");
        assert_eq!(of(1_790_000_000, 14 * 86_400), "Sep 24 Oct 1");
        for span_s in (0..40).map(|power| 1_i64 << power) {
            let marks = Times { from_s: 1_790_000_000, span_s }.marks(6);
            assert!(marks.len() <= 7, "{span_s}: {marks:?}");
        }
    }

    #[test]
    fn marks_of_a_duration_are_round_and_hold_the_highest() {
        for highest in [0.0, 0.3, 1.0, 7.0, 99.0, 101.0, 950.0, 12_345.0, 1e9] {
            let marks = Unit::Milliseconds.marks(highest);
            assert_eq!((marks.len(), marks[0]), (5, 0.0));
            assert!(
                marks[4] >= highest && marks[4] <= (4.0 * highest).max(0.1),
                "{highest}: {marks:?}"
            );
        }
        let labels = |highest| {
            Unit::Milliseconds
                .marks(highest)
                .iter()
                .map(|v| Unit::Milliseconds.of(*v))
                .collect::<Vec<_>>()
        };
        assert_eq!(labels(3_100.0), ["0 ms", "1 s", "2 s", "3 s", "4 s"]);
        assert_eq!(labels(0.9), ["0 ms", "0.25 ms", "0.5 ms", "0.75 ms", "1 ms"]);
    }

    #[test]
    fn thinning_keeps_the_ends_and_every_stretch() {
        let points: Vec<(i64, f64)> = (0..5_000).map(|i| (i * 1_000, 0.0)).collect();
        let times = Times::of(points.iter().map(|(time, _)| *time)).unwrap();
        let kept = thinned(points.clone(), &times);
        assert!(kept.len() <= usize::from(POINTS_MAX) + 2, "{}", kept.len());
        assert_eq!((kept[0], kept[kept.len() - 1]), (points[0], points[4_999]));
        assert!(kept.windows(2).all(|pair| pair[1].0 - pair[0].0 <= 20_000));
    }
}
