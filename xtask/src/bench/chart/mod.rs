//! Plots as SVG, all of one style, readable on light and on dark ground.

mod axis;
mod columns;
mod lines;

use std::fmt::Write as _;

use self::axis::Axis;
pub(super) use self::columns::{Column, Columns};
pub(super) use self::lines::{Line, Lines, Point};

/// A plot of any kind.
#[derive(Debug)]
pub(super) enum Chart {
    Columns(Columns),
    Lines(Lines),
}

impl From<Columns> for Chart {
    fn from(columns: Columns) -> Self {
        Self::Columns(columns)
    }
}

impl From<Lines> for Chart {
    fn from(lines: Lines) -> Self {
        Self::Lines(lines)
    }
}

impl Chart {
    pub(super) fn title(&self) -> &str {
        match self {
            Self::Columns(columns) => &columns.title,
            Self::Lines(lines) => &lines.title,
        }
    }

    /// The whole document.
    pub(super) fn svg(&self) -> String {
        match self {
            Self::Columns(columns) => columns.svg(),
            Self::Lines(lines) => lines.svg(),
        }
    }
}

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 76.0;
/// To the right of the plot, with a legend and without.
const RIGHT: f64 = 236.0;
const MARGIN: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 60.0;
/// Series with a colour of their own; all others are grey.
const COLOURS: usize = 6;

/// Colours that tell series apart for everybody (Okabe and Ito, 2008). The ground is drawn: not every viewer honours a
/// background.
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif}.ground{fill:#fff}text{fill:#222}.title{font-size:16px;font-weight:600}\
.grid{stroke:#ddd}.line{fill:none;stroke-width:2.5;stroke-linejoin:round}.spread{stroke-width:1.5}\
.p0{fill:#0072b2}.p1{fill:#e69f00}.p2{fill:#009e73}.p3{fill:#cc79a7}.p4{fill:#56b4e9}.p5{fill:#d55e00}.p6{fill:#999}\
.s0{stroke:#0072b2}.s1{stroke:#e69f00}.s2{stroke:#009e73}.s3{stroke:#cc79a7}.s4{stroke:#56b4e9}.s5{stroke:#d55e00}.s6{stroke:#999}\
@media(prefers-color-scheme:dark){.ground{fill:#16181d}text{fill:#ddd}.grid{stroke:#3a3d44}}";

/// A document under way.
struct Drawing {
    text: String,
    /// Where the plot ends to the right.
    end: f64,
}

impl Drawing {
    /// With room for a legend on the right, or without.
    fn new(title: &str, legend: bool) -> Self {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
             <title>{}</title>\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
            escaped(title)
        );
        let right = if legend { RIGHT } else { MARGIN };
        let end = WIDTH - right;
        let mut drawing = Self { text, end };
        drawing.labelled("title", LEFT, 24.0, "start", title);
        drawing
    }

    /// Lines across at the axis' steps, with their values, and what both axes are of.
    fn frame(&mut self, across: &str, up: &str, axis: &Axis) {
        for (value, label) in axis.steps() {
            let y = height_of(axis.share(value));
            self.line("grid", [LEFT, y], [self.end, y]);
            self.text(LEFT - 8.0, y + 4.0, "end", &label);
        }
        self.text(
            f64::midpoint(LEFT, self.end),
            HEIGHT - 16.0,
            "middle",
            across,
        );
        self.text(8.0, TOP - 12.0, "start", up);
    }

    /// Names beside their colours, from top to bottom.
    fn legend<'a>(&mut self, entries: impl IntoIterator<Item = (usize, &'a str)>) {
        let x = self.end + 16.0;
        for (row, (series, name)) in (0..).zip(entries) {
            let y = TOP + 4.0 + 22.0 * f64::from(row);
            self.rect(series, [x, y, 12.0, 12.0]);
            self.text(x + 18.0, y + 11.0, "start", name);
        }
    }

    fn rect(&mut self, series: usize, [x, y, width, height]: [f64; 4]) {
        self.add(&format!(
            "<rect class=\"p{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
            series.min(COLOURS)
        ));
    }

    fn line(&mut self, class: &str, [x, y]: [f64; 2], [to_x, to_y]: [f64; 2]) {
        self.add(&format!(
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{to_x:.1}\" y1=\"{y:.1}\" y2=\"{to_y:.1}\"/>"
        ));
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.labelled("label", x, y, anchor, text);
    }

    fn labelled(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        self.add(&format!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn add(&mut self, element: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{element}");
    }

    fn finish(self) -> String {
        self.text + "</svg>\n"
    }
}

/// Where a share of the axis is, from the top of the drawing.
fn height_of(share: f64) -> f64 {
    HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
}

/// Where a share of the axis is, from the left of the drawing.
fn distance_of(share: f64) -> f64 {
    LEFT + share * (WIDTH - LEFT - RIGHT)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
