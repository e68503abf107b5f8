//! What is believed about each agent: the density of its chance of success, a row each.

use plotters::chart::ChartBuilder;
use plotters::element::{Circle, PathElement, Polygon};
use plotters::style::Color;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Axis, LETTER, Look, MARGIN, SCALE, cut, draw, message, px, stroke, text};

/// Agents that are drawn.
pub(super) const RIDGES_MAX: usize = 12;
const X_LABELS_HEIGHT: u32 = 26;

/// One agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Ridge {
    /// Its name.
    pub name: String,
    /// Which colour; that of others when `None`.
    pub colour: Option<usize>,
    /// Its expected success, `0..=1`.
    pub expected: f64,
    /// Central 90 % of the density.
    pub interval: Option<[f64; 2]>,
    /// Chances, which grow within `0..=1`, and their densities; empty without a distribution.
    pub density: Vec<(f64, f64)>,
}

/// Densities, the first on top, each as high as its row. Without any it says `nothing`.
pub fn ridges(
    look: Look,
    title: &str,
    description: &str,
    nothing: &str,
    ridges: &[Ridge],
) -> String {
    let ridges = &ridges[..ridges.len().min(RIDGES_MAX)];
    if ridges.is_empty() {
        return message(look, title, nothing);
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most a dozen")]
    let rows = ridges.len() as u32;
    draw(look, title, description, |area, theme| {
        let width = area.dim_in_pixel().0 / SCALE;
        let names_width = (width / 3).min(190);
        let x = Axis::shares();
        let y = Axis::new(0.0..f64::from(rows) + 0.1, Vec::new());
        let mut chart = ChartBuilder::on(area)
            .margin_right(px(f64::from(MARGIN) + 8.0))
            .x_label_area_size(px(f64::from(X_LABELS_HEIGHT)))
            .y_label_area_size(px(f64::from(names_width)))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .axis_style(stroke(theme.grid, 1.0))
            .bold_line_style(stroke(theme.grid, 1.0))
            .x_label_style(text(LETTER, theme.faint_ink, HPos::Center, VPos::Top))
            .x_label_formatter(&|chance| format!("{:.0} %", 100.0 * chance))
            .set_all_tick_mark_size(px(3.0))
            .draw()?;
        let style = text(LETTER, theme.ink, HPos::Right, VPos::Center);
        for (row, ridge) in (1..).zip(ridges) {
            let ground = f64::from(rows) - f64::from(row) + 0.2;
            let colour = theme.colour(ridge.colour);
            let peak = ridge.density.iter().map(|(_, density)| *density).fold(0.0, f64::max);
            if peak.is_finite() && peak > 0.0 {
                let at = |&(x, density): &(f64, f64)| (x, ground + 0.78 * density / peak);
                let top: Vec<(f64, f64)> = ridge.density.iter().map(at).collect();
                let ends = [ridge.density.first(), ridge.density.last()];
                let [first, last] = ends.map(|end| (end.map_or(0.0, |end| end.0), ground));
                let around: Vec<(f64, f64)> =
                    [first].into_iter().chain(top.iter().copied()).chain([last]).collect();
                chart.draw_series([Polygon::new(around, colour.mix(0.3).filled())])?;
                chart.draw_series([PathElement::new(top, stroke(colour, 1.5))])?;
            }
            if let Some([low, high]) = ridge.interval {
                let bar = [(low, ground), (high, ground)];
                chart.draw_series([PathElement::new(bar, stroke(colour, 4.0))])?;
            }
            let mean = (ridge.expected, ground);
            chart.draw_series([Circle::new(mean, px(4.0), theme.paper.filled())])?;
            chart.draw_series([Circle::new(mean, px(4.0), stroke(colour, 2.0))])?;
            let fits = f64::from(names_width - MARGIN - 6);
            let name = cut(&ridge.name, LETTER, fits);
            let (_, y) = chart.backend_coord(&(0.0, ground + 0.2));
            let origin = area.get_base_pixel();
            area.draw_text(&name, &style, (px(f64::from(names_width) - 10.0), y - origin.1))?;
        }
        Ok(())
    })
}
