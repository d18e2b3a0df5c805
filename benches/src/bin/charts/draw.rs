// SPDX-License-Identifier: Apache-2.0

//! Draws a chart as SVG.
//!
//! No font is looked at: where a text might not fit, its width is taken from a generous mean of its letters.

use std::error::Error;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::chart::{Chart, Kind, Panel, number};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// The picture's width in pixels; GitHub shows pages about as wide.
const WIDTH: i32 = 860;
const MARGIN: i32 = 16;
/// Where the bars begin, after their labels.
const LEFT: i32 = 210;
/// The length of the longest bar; after it comes its value.
const LONGEST: i32 = 350;
/// Between a bar and what is written beside it.
const SPACE: i32 = 7;
/// The height of a bar, and from one to the next.
const BAR: i32 = 17;
const STEP: i32 = 23;
/// The heights of what separates panels, of a panel's heading, and of its scale.
const GAP: i32 = 10;
const HEADING: i32 = 26;
const SCALE: i32 = 22;
/// The heights of the title and of each line below it.
const TITLE: i32 = 26;
const LINE: i32 = 18;
/// How many numbers a scale has, about.
const TICKS: usize = 6;

const BACKGROUND: RGBColor = WHITE;
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
/// Dark enough on white for small letters.
const FAINT: RGBColor = RGBColor(0x59, 0x63, 0x6e);
const AXIS: RGBColor = RGBColor(0x9a, 0xa2, 0xab);
const WARNING: RGBColor = RGBColor(0xa4, 0x3a, 0x00);

/// What a chart of a short run says.
const SHORT_RUN: &str = "A short run (QUICK=1): these figures are rough.";

impl Kind {
    /// Colours of Okabe and Ito, which people with any colour vision can tell apart; grey for floors. In print without
    /// colour they differ in lightness, and each bar has its name beside it.
    fn colour(self) -> RGBColor {
        match self {
            Self::Ours => RGBColor(0x00, 0x72, 0xb2),
            Self::Floor => RGBColor(0xb4, 0xb9, 0xbf),
            Self::First => RGBColor(0xe6, 0x9f, 0x00),
            Self::Second => RGBColor(0x00, 0x9e, 0x73),
            Self::Stock => RGBColor(0xcc, 0x79, 0xa7),
        }
    }
}

/// How a text looks.
#[derive(Clone, Copy)]
struct Font {
    size: f64,
    colour: RGBColor,
    style: FontStyle,
}

const HEADLINE: Font = Font {
    size: 17.0,
    colour: INK,
    style: FontStyle::Bold,
};
const STRONG: Font = Font {
    size: 13.0,
    colour: INK,
    style: FontStyle::Bold,
};
const NORMAL: Font = Font {
    size: 13.0,
    colour: INK,
    style: FontStyle::Normal,
};
const FINE: Font = Font {
    size: 12.0,
    colour: FAINT,
    style: FontStyle::Normal,
};
const ABSENT: Font = Font {
    size: 12.0,
    colour: FAINT,
    style: FontStyle::Italic,
};
const ALARM: Font = Font {
    size: 12.0,
    colour: WARNING,
    style: FontStyle::Bold,
};

/// The library takes 1.24 times what it writes.
const LIBRARY_FONT: f64 = 1.24;

/// The mean width of a letter in a sentence, and of one in a bold value, as parts of the font's size. Fonts differ; these are
/// of a wide one.
const LETTER: f64 = 0.56;
const WIDE_LETTER: f64 = 0.66;

/// The chart as SVG.
///
/// # Errors
///
/// If the library refuses something.
pub fn draw(chart: &Chart) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height(chart)))
            .into_drawing_area();
        area.fill(&BACKGROUND)?;
        let mut y = head(chart, &area)?;
        let scale = largest(&chart.panels);
        for panel in &chart.panels {
            let own = largest(std::slice::from_ref(panel));
            let scale = if chart.has_one_scale { scale } else { own };
            y = draw_panel(panel, chart.unit, scale, y, &area)?;
        }
        area.present()?;
    }
    Ok(svg)
}

fn height(chart: &Chart) -> u32 {
    let lines = chart.about.len() + chart.origin.len() + usize::from(chart.is_quick);
    let panels = chart.panels.iter();
    let panels = panels.map(|panel| GAP + HEADING + STEP * length(panel.bars.len()) + SCALE);
    (2 * MARGIN + TITLE + LINE * length(lines) + panels.sum::<i32>()).unsigned_abs()
}

/// A number of things that are drawn; there are never many.
fn length(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The largest value; 1 if there is none, so that there is a scale.
fn largest(panels: &[Panel]) -> f64 {
    let bars = panels.iter().flat_map(|panel| &panel.bars);
    let values = bars.filter_map(|bar| bar.value.as_ref().ok().copied());
    let largest = values.fold(0.0, f64::max);
    if largest > 0.0 { largest } else { 1.0 }
}

/// Draws the title and the lines below it; returns where they end.
fn head(chart: &Chart, area: &Area<'_>) -> Result<i32, Box<dyn Error>> {
    let mut y = MARGIN + TITLE / 2;
    write(area, chart.title, HEADLINE, HPos::Left, (MARGIN, y))?;
    y += TITLE;
    for line in chart.about.iter().chain(&chart.origin) {
        write(area, line, FINE, HPos::Left, (MARGIN, y))?;
        y += LINE;
    }
    if chart.is_quick {
        write(area, SHORT_RUN, ALARM, HPos::Left, (MARGIN, y))?;
        y += LINE;
    }
    Ok(y - LINE / 2)
}

/// Draws a panel from `y` on; returns where it ends.
fn draw_panel(
    panel: &Panel,
    unit: &str,
    scale: f64,
    y: i32,
    area: &Area<'_>,
) -> Result<i32, Box<dyn Error>> {
    let top = y + GAP + HEADING;
    let middle = top - HEADING / 2;
    write(area, &panel.heading, STRONG, HPos::Left, (MARGIN, middle))?;
    let bottom = top + STEP * length(panel.bars.len());
    let plot = area
        .clone()
        .shrink((LEFT, top), (LONGEST, bottom + SCALE - top));
    let count = panel.bars.len() as f64;
    let mut chart = ChartBuilder::on(&plot)
        .x_label_area_size(SCALE)
        // The first bar is at the top.
        .build_cartesian_2d(0.0..scale, count..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(TICKS)
        .x_label_formatter(&|value| short(*value))
        .x_label_style(FINE.text(HPos::Center, VPos::Top))
        // Lines would cross what is written beside the bars, and the values are written.
        .bold_line_style(TRANSPARENT)
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS)
        .draw()?;
    let half = f64::from(BAR) / f64::from(STEP) / 2.0;
    for (at, bar) in panel.bars.iter().enumerate() {
        let center = at as f64 + 0.5;
        let y = top + STEP * length(at) + STEP / 2;
        let font = if bar.kind == Kind::Ours {
            STRONG
        } else {
            NORMAL
        };
        write(area, &bar.label, font, HPos::Right, (LEFT - SPACE, y))?;
        match &bar.value {
            Ok(value) => {
                // What is not 0 is seen.
                let seen = if *value > 0.0 {
                    value.max(scale / f64::from(LONGEST))
                } else {
                    0.0
                };
                let corners = [(0.0, center - half), (seen, center + half)];
                chart.draw_series([Rectangle::new(corners, bar.kind.colour().filled())])?;
                let x = chart.backend_coord(&(seen, center)).0 + SPACE;
                let text = format!("{} {unit}", number(*value));
                write(area, &text, font, HPos::Left, (x, y))?;
                if !bar.note.is_empty() {
                    let x = x + width(&text, font) + SPACE;
                    write(area, &bar.note, FINE, HPos::Left, (x, y))?;
                }
            }
            Err(reason) => write(area, reason, ABSENT, HPos::Left, (LEFT + SPACE, y))?,
        }
    }
    Ok(bottom + SCALE)
}

/// A number of a scale, without zeros that say nothing.
fn short(value: f64) -> String {
    let text = number(value);
    match text.contains('.') && !text.contains('e') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Writes a text with its vertical middle at this place, and no more of it than fits into the picture.
fn write(area: &Area<'_>, text: &str, font: Font, side: HPos, (x, y): (i32, i32)) -> Drawn {
    let room = match side {
        HPos::Right => x - MARGIN,
        _ => WIDTH - MARGIN - x,
    };
    let fits = (f64::from(room) / (font.size * LETTER)) as usize;
    // Control characters are not allowed in XML.
    let mut letters: Vec<char> = text.chars().filter(|c| !c.is_control()).collect();
    if letters.len() > fits {
        letters.truncate(fits.saturating_sub(1));
        letters.push('…');
    }
    let text: String = letters.into_iter().collect();
    area.draw_text(&text, &font.text(side, VPos::Center), (x, y))?;
    Ok(())
}

/// About how much room a value takes at most.
fn width(text: &str, font: Font) -> i32 {
    (text.chars().count() as f64 * font.size * WIDE_LETTER).ceil() as i32
}

impl Font {
    fn text(self, side: HPos, height: VPos) -> TextStyle<'static> {
        let size = self.size * LIBRARY_FONT;
        let font = FontDesc::new(FontFamily::SansSerif, size, self.style);
        font.color(&self.colour).pos(Pos::new(side, height))
    }
}
