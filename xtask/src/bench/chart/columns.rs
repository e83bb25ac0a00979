//! Columns, each of parts that stand on each other.

use super::axis::Axis;
use super::{BOTTOM, Drawing, HEIGHT, LEFT, height_of};

#[derive(Debug, Default)]
pub(in crate::bench) struct Columns {
    pub(in crate::bench) title: String,
    /// What the columns are of.
    pub(in crate::bench) x_title: String,
    pub(in crate::bench) y_title: String,
    /// Names of the parts, the lowest first. One alone needs none.
    pub(in crate::bench) parts: Vec<String>,
    pub(in crate::bench) bars: Vec<Column>,
}

#[derive(Debug, Default)]
pub(in crate::bench) struct Column {
    pub(in crate::bench) label: String,
    /// How large each part is.
    pub(in crate::bench) parts: Vec<f64>,
    /// What stands above it.
    pub(in crate::bench) note: String,
}

impl Columns {
    pub(super) fn svg(&self) -> String {
        let mut drawing = Drawing::new(&self.title, !self.parts.is_empty());
        let axis = Axis::linear(self.bars.iter().map(Column::height));
        drawing.frame(&self.x_title, &self.y_title, &axis);
        self.draw(&mut drawing, &axis);
        // From top to bottom, as they are stacked.
        let parts = self.parts.iter().enumerate().rev();
        drawing.legend(parts.map(|(part, name)| (part, name.as_str())));
        drawing.finish()
    }

    #[expect(clippy::cast_precision_loss, reason = "a handful of columns")]
    fn draw(&self, drawing: &mut Drawing, axis: &Axis) {
        let room = (drawing.end - LEFT) / self.bars.len().max(1) as f64;
        for (index, column) in self.bars.iter().enumerate() {
            let (x, width) = (LEFT + room * (index as f64 + 0.2), room * 0.6);
            let mut below = 0.0;
            for (part, value) in column.parts.iter().enumerate() {
                let (bottom, top) = (axis.share(below), axis.share(below + value));
                let y = height_of(top);
                drawing.rect(part, [x, y, width, height_of(bottom) - y]);
                below += value;
            }
            let middle = x + width / 2.0;
            drawing.text(middle, HEIGHT - BOTTOM + 18.0, "middle", &column.label);
            let above = height_of(axis.share(below)) - 6.0;
            drawing.text(middle, above, "middle", &column.note);
        }
    }
}

impl Column {
    fn height(&self) -> f64 {
        self.parts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_stacked_from_the_ground_up_and_labelled() {
        let chart = Columns {
            title: "a < b".into(),
            parts: vec!["low".into(), "high".into()],
            bars: vec![Column {
                label: "10".into(),
                parts: vec![3.0, 1.0],
                note: "4 ms".into(),
            }],
            ..Columns::default()
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b") && svg.contains("prefers-color-scheme:dark"));
        let of_column =
            |line: &&str| line.starts_with("<rect class=\"p") && !line.contains("height=\"12.0\"");
        let height = |line: &str| {
            line.split("height=\"")
                .nth(1)?
                .split('"')
                .next()?
                .parse()
                .ok()
        };
        let heights: Vec<f64> = svg.lines().filter(of_column).filter_map(height).collect();
        assert_eq!(heights.len(), 2, "{svg}");
        assert!((heights[0] / heights[1] - 3.0).abs() < 0.02, "{heights:?}");
    }
}
