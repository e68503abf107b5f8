//! What was expected against what came.

use plotters::chart::ChartBuilder;
use plotters::element::{Circle, PathElement};
use plotters::series::DashedLineSeries;
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Axis, LETTER, Look, MARGIN, draw, message, px, stroke, text};
use crate::stats::normal::Z_95;

const X_LABELS_HEIGHT: u32 = 44;
const Y_LABELS_WIDTH: u32 = 66;

/// Forecasts that expected about the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibrated {
    /// How many.
    pub count: u64,
    /// Their mean expectation, `0..=1`.
    pub expected: f64,
    /// Their mean reward, `0..=1`.
    pub reward: f64,
}

impl Calibrated {
    /// 90 % score interval of the mean reward (Wilson 1927).
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn interval(&self) -> [f64; 2] {
        let (n, p, square) = (self.count.max(1) as f64, self.reward, Z_95 * Z_95);
        let centre = (p + square / (2.0 * n)) / (1.0 + square / n);
        let reach = Z_95 / (1.0 + square / n)
            * (p * (1.0 - p) / n + square / (4.0 * n * n)).max(0.0).sqrt();
        [(centre - reach).max(0.0), (centre + reach).min(1.0)]
    }
}

/// Mean reward over mean expectation, the size of a point by how many it stands for. Without any it
/// says `nothing`.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub fn calibration(
    look: Look,
    title: &str,
    description: &str,
    nothing: &str,
    bins: &[Calibrated],
) -> String {
    let bins: Vec<&Calibrated> = bins.iter().filter(|bin| bin.count > 0).collect();
    let Some(most) = bins.iter().map(|bin| bin.count).max() else {
        return message(look, title, nothing);
    };
    draw(look, title, description, |area, theme| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(px(8.0))
            .margin_left(px(10.0))
            .margin_right(px(f64::from(MARGIN) + 8.0))
            .x_label_area_size(px(f64::from(X_LABELS_HEIGHT)))
            .y_label_area_size(px(f64::from(Y_LABELS_WIDTH)))
            .build_cartesian_2d(Axis::shares(), Axis::shares())?;
        let label = |value: &f64| format!("{:.0} %", 100.0 * value);
        chart
            .configure_mesh()
            .axis_style(stroke(theme.grid, 1.0))
            .bold_line_style(stroke(theme.grid, 1.0))
            .x_label_style(text(LETTER, theme.faint_ink, HPos::Center, VPos::Top))
            .y_label_style(text(LETTER, theme.faint_ink, HPos::Right, VPos::Center))
            .axis_desc_style(text(LETTER, theme.faint_ink, HPos::Center, VPos::Center))
            .x_desc("expected success")
            .y_desc("success")
            .x_label_formatter(&label)
            .y_label_formatter(&label)
            .set_all_tick_mark_size(px(3.0))
            .draw()?;
        let diagonal = [(0.0, 0.0), (1.0, 1.0)];
        let dashes = (px(5.0), px(4.0));
        let style = stroke(theme.faint_ink, 1.0);
        chart.draw_series(DashedLineSeries::new(diagonal, dashes.0, dashes.1, style))?;
        let colour = theme.colour(Some(0));
        let points: Vec<(f64, f64)> = bins.iter().map(|bin| (bin.expected, bin.reward)).collect();
        for bin in &bins {
            let whisker = bin.interval().map(|reward| (bin.expected, reward));
            chart.draw_series([PathElement::new(whisker, stroke(colour, 1.5))])?;
        }
        chart.draw_series([PathElement::new(points, stroke(colour, 2.0))])?;
        for bin in &bins {
            let radius = 3.0 + 5.0 * (bin.count as f64 / most as f64).sqrt();
            let at = (bin.expected, bin.reward);
            chart.draw_series([Circle::new(at, px(radius), colour.filled())])?;
            chart.draw_series([Circle::new(at, px(radius), stroke(theme.paper, 1.5))])?;
        }
        Ok(())
    })
}
