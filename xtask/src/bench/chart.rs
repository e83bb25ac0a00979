//! Stacked columns as SVG, readable on light and on dark ground.

use std::fmt::Write as _;

/// A chart.
#[derive(Debug, Default)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What the columns are of.
    pub(super) x_title: String,
    pub(super) y_title: String,
    /// Names of the parts, the lowest first.
    pub(super) parts: Vec<String>,
    pub(super) columns: Vec<Column>,
}

#[derive(Debug, Default)]
pub(super) struct Column {
    pub(super) label: String,
    /// How large each part is.
    pub(super) parts: Vec<f64>,
    /// What stands above it.
    pub(super) note: String,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 60.0;
/// Lines across, beside that at the bottom.
const STEPS: u32 = 4;

/// Colours that tell parts apart for everybody (Okabe and Ito, 2008), then all others in grey.
const STYLE: &str = "\
svg{font:13px system-ui,sans-serif;background:#fff}text{fill:#222}.title{font-size:16px;font-weight:600}\
.grid{stroke:#ddd}.p0{fill:#0072b2}.p1{fill:#e69f00}.p2{fill:#009e73}.p3{fill:#cc79a7}.p4{fill:#56b4e9}.p5{fill:#999}\
@media(prefers-color-scheme:dark){svg{background:#16181d}text{fill:#ddd}.grid{stroke:#3a3d44}}";

impl Chart {
    /// The whole document.
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
             <title>{0}</title>\n<style>{STYLE}</style>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"26\">{0}</text>\n",
            escaped(&self.title)
        );
        let top = round_up(self.columns.iter().map(Column::height).fold(0.0, f64::max));
        self.grid(&mut svg, top);
        self.draw_columns(&mut svg, top);
        self.legend(&mut svg);
        svg += "</svg>\n";
        svg
    }

    fn grid(&self, svg: &mut String, top: f64) {
        for step in 0..=STEPS {
            let value = top * f64::from(step) / f64::from(STEPS);
            let y = y_of(value, top);
            let end = WIDTH - RIGHT;
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>"
            );
            let x = LEFT - 8.0;
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                y + 4.0,
                number(value)
            );
        }
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 16.0,
            escaped(&self.x_title)
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\">{}</text>",
            8.0,
            TOP - 8.0,
            escaped(&self.y_title)
        );
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of columns")]
    fn draw_columns(&self, svg: &mut String, top: f64) {
        let slot = (WIDTH - LEFT - RIGHT) / self.columns.len().max(1) as f64;
        for (index, column) in self.columns.iter().enumerate() {
            let (x, width) = (LEFT + slot * (index as f64 + 0.2), slot * 0.6);
            let mut below = 0.0;
            for (part, value) in column.parts.iter().enumerate() {
                let (y, height) = (
                    y_of(below + value, top),
                    y_of(below, top) - y_of(below + value, top),
                );
                let _ = writeln!(
                    svg,
                    "<rect class=\"p{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
                    part.min(5)
                );
                below += value;
            }
            let middle = x + width / 2.0;
            let label = |svg: &mut String, y: f64, text: &str| {
                let _ = writeln!(
                    svg,
                    "<text x=\"{middle:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>",
                    escaped(text)
                );
            };
            label(svg, HEIGHT - BOTTOM + 18.0, &column.label);
            label(svg, y_of(below, top) - 6.0, &column.note);
        }
    }

    fn legend(&self, svg: &mut String) {
        let x = WIDTH - RIGHT + 16.0;
        let mut y = TOP + 4.0;
        // From top to bottom, as they are stacked.
        for (part, name) in self.parts.iter().enumerate().rev() {
            let _ = writeln!(
                svg,
                "<rect class=\"p{}\" x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\"/>",
                part.min(5)
            );
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\">{}</text>",
                x + 18.0,
                y + 11.0,
                escaped(name)
            );
            y += 22.0;
        }
    }
}

impl Column {
    fn height(&self) -> f64 {
        self.parts.iter().sum()
    }
}

fn y_of(value: f64, top: f64) -> f64 {
    HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)
}

/// The next number that is easily divided by four.
fn round_up(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.max(1e-6).log10().floor());
    let steps = [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].map(|step| step * magnitude);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

fn number(value: f64) -> String {
    match value {
        v if v >= 10.0 || v == 0.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_stacked_from_the_ground_up_and_labelled() {
        let chart = Chart {
            title: "a < b".into(),
            parts: vec!["low".into(), "high".into()],
            columns: vec![Column {
                label: "10".into(),
                parts: vec![3.0, 1.0],
                note: "4 ms".into(),
            }],
            ..Chart::default()
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("prefers-color-scheme:dark"));
        let heights: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && !line.contains("height=\"12\""))
            .filter_map(|line| {
                line.split("height=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        assert_eq!(heights.len(), 2);
        assert!((heights[0] / heights[1] - 3.0).abs() < 0.01, "{heights:?}");
    }

    #[test]
    fn the_scale_ends_at_a_round_number_that_all_fits_below() {
        for (value, top) in [(0.7, 0.8), (4.1, 6.0), (81.0, 100.0), (100.0, 100.0)] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }
}
