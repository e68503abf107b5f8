//! Plots as SVG: figures in, text out. The only folder that names plotters.
//!
//! Pure: what is drawn is passed in. A plot is bounded in size whatever it is given: names are cut,
//! lines thinned out, and there are no more of them than colours. All are of one height: a page of
//! elsewhere that shows one is told its size, and must learn nothing from that.
//!
//! Text is SVG text in the reader's font, so its width is a guess: no layout depends on more than
//! that. Colours are those of Okabe and Ito (2008), which people tell apart however they see colours.

use std::error::Error;
use std::ops::{Range, RangeInclusive};

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::{DrawingArea, IntoDrawingArea, RGBColor, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontFamily, FontStyle, IntoFont, ShapeStyle, TextStyle};

mod calibration;
mod ridges;
mod time;

pub use calibration::{Calibrated, calibration};
pub use ridges::{Ridge, ridges};
pub use time::{Line, Unit, lines, shares};

/// Widths of a plot in CSS pixels.
pub const WIDTHS: RangeInclusive<u32> = 280..=1_200;
/// Width unless said otherwise.
pub const WIDTH: u32 = 640;
/// Agents with a colour of their own.
pub const COLOURS: usize = 7;
/// Coordinates are whole numbers: with so many of them to a pixel, curves are smooth.
const SCALE: u32 = 4;
/// Height of a plot in CSS pixels.
pub const HEIGHT: u32 = 280;
const TITLE_HEIGHT: u32 = 30;
const LEGEND_ROW_HEIGHT: u32 = 20;
const MARGIN: u32 = 12;
/// Size of letters, in pixels.
const LETTER: f64 = 12.0;
const TITLE_LETTER: f64 = 14.0;
/// Widest name, in pixels.
const NAME_WIDTH_MAX: f64 = 200.0;
const FONT: &str = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif";

/// Why nothing could be drawn; it can't happen to what is drawn into memory.
type Drawn = Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// What a plot looks like.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Light on dark.
    pub is_dark: bool,
    /// In CSS pixels; brought into [`WIDTHS`].
    pub width: u32,
}

impl Look {
    fn width(self) -> u32 {
        self.width.clamp(*WIDTHS.start(), *WIDTHS.end())
    }
}

/// The colours of a theme.
struct Theme {
    paper: RGBColor,
    ink: RGBColor,
    /// Of what matters less.
    faint_ink: RGBColor,
    grid: RGBColor,
    series: [RGBColor; COLOURS],
    others: RGBColor,
}

const BLUE: RGBColor = RGBColor(0x00, 0x72, 0xb2);
const ORANGE: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const GREEN: RGBColor = RGBColor(0x00, 0x9e, 0x73);
const VERMILLION: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const PURPLE: RGBColor = RGBColor(0xcc, 0x79, 0xa7);
const SKY: RGBColor = RGBColor(0x56, 0xb4, 0xe9);
const YELLOW: RGBColor = RGBColor(0xf0, 0xe4, 0x42);
const BLACK: RGBColor = RGBColor(0x00, 0x00, 0x00);

const LIGHT: Theme = Theme {
    paper: RGBColor(0xff, 0xff, 0xff),
    ink: RGBColor(0x1b, 0x22, 0x2c),
    faint_ink: RGBColor(0x59, 0x63, 0x70),
    grid: RGBColor(0xe3, 0xe7, 0xec),
    series: [BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK],
    others: RGBColor(0x9a, 0xa3, 0xae),
};
// Black is not seen on dark paper, yellow not on light, blue less on dark than sky blue.
const DARK: Theme = Theme {
    paper: RGBColor(0x17, 0x1d, 0x26),
    ink: RGBColor(0xe8, 0xec, 0xf1),
    faint_ink: RGBColor(0x9d, 0xa9, 0xb7),
    grid: RGBColor(0x2d, 0x36, 0x42),
    series: [SKY, ORANGE, GREEN, YELLOW, PURPLE, VERMILLION, BLUE],
    others: RGBColor(0x6c, 0x77, 0x85),
};

impl Theme {
    fn of(look: Look) -> &'static Self {
        if look.is_dark { &DARK } else { &LIGHT }
    }

    /// Of a series; of the others without a colour of their own.
    fn colour(&self, index: Option<usize>) -> RGBColor {
        index.and_then(|index| self.series.get(index)).copied().unwrap_or(self.others)
    }
}

/// An axis whose marks are given.
struct Axis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl Axis {
    fn new(range: Range<f64>, marks: Vec<f64>) -> Self {
        Self { range, marks }
    }

    /// Of shares.
    fn shares() -> Self {
        Self::new(0.0..1.0, vec![0.0, 0.25, 0.5, 0.75, 1.0])
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "within the limits, or near them")]
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = (value - self.range.start) / (self.range.end - self.range.start);
        first + (place * f64::from(last - first)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.marks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Pixels as coordinates.
#[expect(clippy::cast_possible_truncation, reason = "a plot has a few thousand")]
fn px(pixels: f64) -> i32 {
    (pixels * f64::from(SCALE)).round() as i32
}

/// A line's style.
fn stroke(colour: RGBColor, width: f64) -> ShapeStyle {
    ShapeStyle::from(&colour).stroke_width(px(width).unsigned_abs())
}

/// A text's style. The library's font sizes are 1.24 times those of SVG.
fn text(size: f64, colour: RGBColor, h_pos: HPos, v_pos: VPos) -> TextStyle<'static> {
    let size = size * f64::from(SCALE) * 1.24;
    TextStyle {
        font: (FontFamily::Name(FONT), size).into_font(),
        color: colour.to_backend_color(),
        pos: Pos::new(h_pos, v_pos),
    }
}

/// About how wide a text is, in pixels.
fn text_width(text: &str, size: f64) -> f64 {
    let ems = text.chars().map(|letter| match letter {
        'i' | 'j' | 'l' | 't' | 'f' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' => 0.36,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 0.95,
        'A'..='Z' | '0'..='9' => 0.68,
        ' '..='~' => 0.6,
        _ => 1.0,
    });
    size * ems.sum::<f64>()
}

/// A text in one line, cut to what fits, without what XML can't hold.
fn cut(text: &str, size: f64, width_max: f64) -> String {
    let clean = |letter: char| match letter {
        // Beside control characters: non-characters, and marks that turn the direction of what follows.
        '\u{0}'..='\u{1f}'
        | '\u{7f}'..='\u{9f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{fffe}'
        | '\u{ffff}' => '\u{fffd}',
        letter => letter,
    };
    let mut left = width_max;
    let mut result = String::new();
    let mut letters = text.chars().map(clean).peekable();
    while let Some(letter) = letters.next() {
        left -= text_width(letter.encode_utf8(&mut [0; 4]), size);
        if left < 0.0
            || (letters.peek().is_some() && left < size) && text_width(text, size) > width_max
        {
            result.push('\u{2026}');
            break;
        }
        result.push(letter);
    }
    result
}

/// Draws into the area below the title.
fn draw(
    look: Look,
    title: &str,
    description: &str,
    fill: impl FnOnce(&Area<'_>, &Theme) -> Drawn,
) -> String {
    let width = look.width();
    let theme = Theme::of(look);
    let mut svg = String::with_capacity(32 * 1_024);
    {
        let root =
            SVGBackend::with_string(&mut svg, (width * SCALE, HEIGHT * SCALE)).into_drawing_area();
        let drawn = (|| -> Drawn {
            root.fill(&theme.paper)?;
            let style = text(TITLE_LETTER, theme.ink, HPos::Left, VPos::Center);
            let style = TextStyle { font: style.font.style(FontStyle::Bold), ..style };
            let (x, y) = (px(f64::from(MARGIN)), px(f64::from(TITLE_HEIGHT) / 2.0 + 2.0));
            let fits = f64::from(width - 2 * MARGIN);
            root.draw_text(&cut(title, TITLE_LETTER * 1.06, fits), &style, (x, y))?;
            let (_, below) = root.split_vertically(TITLE_HEIGHT * SCALE);
            fill(&below, theme)?;
            root.present()?;
            Ok(())
        })();
        if let Err(error) = drawn {
            log::error!("plot=failed title={title:?} error=\"{error}\"");
        }
    }
    // What is drawn is finer than what is shown, and has a name for those who can't see it.
    let label = escaped(&cut(description, 1.0, 400.0));
    let head = format!(
        "<svg width=\"{width}\" height=\"{HEIGHT}\" role=\"img\" aria-label=\"{label}\" \
         stroke-linejoin=\"round\""
    );
    let rest = svg.find(" viewBox").unwrap_or(0);
    svg.replace_range(..rest, &head);
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A plot of nothing, which says why.
pub fn message(look: Look, title: &str, why: &str) -> String {
    draw(look, title, why, |area, theme| {
        let style = text(LETTER, theme.faint_ink, HPos::Center, VPos::Center);
        let fits = f64::from(look.width() - 2 * MARGIN);
        let (width, height) = area.dim_in_pixel();
        let centre = (width.cast_signed() / 2, height.cast_signed() / 2);
        let lines = wrapped(why, fits);
        let mut y = centre.1 - px(9.0) * i32::try_from(lines.len() - 1)?;
        for line in &lines {
            area.draw_text(line, &style, (centre.0, y))?;
            y += px(18.0);
        }
        Ok(())
    })
}

/// A sentence in lines that fit.
fn wrapped(sentence: &str, width_max: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in sentence.split(' ') {
        match lines.last_mut() {
            Some(line)
                if text_width(line, LETTER) + text_width(word, LETTER) + 4.0 <= width_max =>
            {
                line.push(' ');
                line.push_str(&cut(word, LETTER, width_max));
            }
            _ => lines.push(cut(word, LETTER, width_max)),
        }
    }
    lines
}

/// The entries of a legend, each with its place in pixels from the upper left.
struct Legend {
    entries: Vec<(f64, f64, String, RGBColor)>,
    height: u32,
}

impl Legend {
    const SWATCH: f64 = 12.0;
    const GAP: f64 = 16.0;

    /// `value` stands after a name and is never cut.
    fn of(width: u32, entries: impl IntoIterator<Item = (String, String, RGBColor)>) -> Self {
        let width_max = f64::from(width - 2 * MARGIN);
        let (mut x, mut row) = (0.0, 0_u32);
        let mut placed = Vec::new();
        for (name, value, colour) in entries {
            let name = cut(&name, LETTER, NAME_WIDTH_MAX);
            let label = if value.is_empty() { name } else { format!("{name} {value}") };
            let taken = Self::SWATCH + 6.0 + text_width(&label, LETTER);
            if x > 0.0 && x + taken > width_max {
                (x, row) = (0.0, row + 1);
            }
            let y = f64::from(row * LEGEND_ROW_HEIGHT) + f64::from(LEGEND_ROW_HEIGHT) / 2.0;
            placed.push((x + f64::from(MARGIN), y, label, colour));
            x += taken + Self::GAP;
        }
        let rows = if placed.is_empty() { 0 } else { row + 1 };
        Self { entries: placed, height: rows * LEGEND_ROW_HEIGHT }
    }

    fn draw(&self, area: &Area<'_>, theme: &Theme) -> Drawn {
        use plotters::element::Rectangle;
        let style = text(LETTER, theme.ink, HPos::Left, VPos::Center);
        for (x, y, label, colour) in &self.entries {
            let corner = |dx: f64, dy: f64| (px(x + dx), px(y + dy));
            let swatch = [corner(0.0, -4.0), corner(Self::SWATCH, 4.0)];
            area.draw(&Rectangle::new(swatch, colour.filled()))?;
            area.draw_text(label, &style, corner(Self::SWATCH + 6.0, 0.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
