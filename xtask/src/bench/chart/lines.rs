//! Lines through medians, with what lies between the quartiles.

use std::fmt::Write as _;

use super::axis::{Axis, number};
use super::{BOTTOM, COLOURS, Drawing, HEIGHT, TOP, distance_of, height_of};
use crate::bench::spread::Spread;

#[derive(Debug, Default)]
pub(in crate::bench) struct Lines {
    pub(in crate::bench) title: String,
    pub(in crate::bench) x_title: String,
    pub(in crate::bench) y_title: String,
    /// Whether the axis across goes by decades.
    pub(in crate::bench) x_logarithmic: bool,
    /// Whether the axis up does.
    pub(in crate::bench) y_logarithmic: bool,
    /// Of a course over time: where the axis across ends. Single points are not shown then.
    pub(in crate::bench) course_until: Option<f64>,
    pub(in crate::bench) series: Vec<Line>,
}

#[derive(Debug, Default)]
pub(in crate::bench) struct Line {
    pub(in crate::bench) name: String,
    /// From left to right.
    pub(in crate::bench) points: Vec<Point>,
}

#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Point {
    pub(in crate::bench) x: f64,
    pub(in crate::bench) y: Spread,
}

impl Lines {
    pub(super) fn svg(&self) -> String {
        let mut drawing = Drawing::new(&self.title, true);
        let points = || self.series.iter().flat_map(|line| &line.points);
        let ends = |point: &Point| [point.y.first_quartile, point.y.third_quartile];
        let up = axis(self.y_logarithmic, points().flat_map(ends));
        let across = match self.course_until {
            Some(end) => Axis::Linear(end),
            None => axis(self.x_logarithmic, points().map(|point| point.x)),
        };
        drawing.frame(&self.x_title, &self.y_title, &up);
        self.marks(&mut drawing, &across);
        for (series, line) in self.series.iter().enumerate() {
            let series = series.min(COLOURS);
            line.draw(&mut drawing, series, &across, &up);
            if self.course_until.is_none() {
                line.draw_points(&mut drawing, series, &across, &up);
            }
        }
        let names = self.series.iter().enumerate();
        drawing.legend(names.map(|(series, line)| (series, line.name.as_str())));
        drawing.finish()
    }

    /// The values that were measured, as far as their labels do not run into each other; of a course, even steps.
    fn marks(&self, drawing: &mut Drawing, across: &Axis) {
        const APART: f64 = 34.0;
        let points = self.series.iter().flat_map(|line| &line.points);
        let measured = || points.map(|point| (point.x, number(point.x))).collect();
        let mut values: Vec<_> = match self.course_until {
            Some(_) => across.steps(),
            None => measured(),
        };
        values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut last = f64::NEG_INFINITY;
        for (value, label) in values {
            let x = distance_of(across.share(value));
            if x - last < APART {
                continue;
            }
            drawing.line("grid", [x, TOP], [x, HEIGHT - BOTTOM + 4.0]);
            drawing.text(x, HEIGHT - BOTTOM + 18.0, "middle", &label);
            last = x;
        }
    }
}

fn axis(logarithmic: bool, values: impl Iterator<Item = f64>) -> Axis {
    if logarithmic {
        Axis::logarithmic(values)
    } else {
        Axis::linear(values)
    }
}

impl Line {
    fn draw(&self, drawing: &mut Drawing, series: usize, across: &Axis, up: &Axis) {
        let mut path = String::new();
        for Point { x, y } in &self.points {
            let (x, y) = (distance_of(across.share(*x)), height_of(up.share(y.median)));
            let _ = write!(path, " {x:.1},{y:.1}");
        }
        let path = path.trim_start();
        drawing.add(&format!(
            "<polyline class=\"line s{series}\" points=\"{path}\"/>"
        ));
    }

    /// Each value, and how far its rounds lie apart.
    fn draw_points(&self, drawing: &mut Drawing, series: usize, across: &Axis, up: &Axis) {
        for Point { x, y } in &self.points {
            let x = distance_of(across.share(*x));
            let [low, middle, high] = [y.first_quartile, y.median, y.third_quartile]
                .map(|value| height_of(up.share(value)));
            drawing.add(&format!(
                "<circle class=\"p{series}\" cx=\"{x:.1}\" cy=\"{middle:.1}\" r=\"3.5\"/>"
            ));
            drawing.line(&format!("spread s{series}"), [x, low], [x, high]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_on_a_logarithmic_axis_is_one_decade_lower() {
        let point = |x: f64, y: f64| Point {
            x,
            y: Spread::of([y]).unwrap(),
        };
        let chart = Lines {
            x_logarithmic: true,
            y_logarithmic: true,
            series: vec![Line {
                name: "pcpm".into(),
                points: vec![point(1.0, 10.0), point(10.0, 100.0), point(100.0, 1000.0)],
            }],
            ..Lines::default()
        };
        let svg = chart.svg();
        let path = svg.lines().find(|line| line.contains("polyline")).unwrap();
        let path = path.split("points=\"").nth(1).unwrap();
        let heights: Vec<f64> = path
            .trim_end_matches("\"/>")
            .split(' ')
            .map(|point| point.split(',').nth(1).unwrap().parse().unwrap())
            .collect();
        let [low, middle, high] = heights[..] else {
            panic!("{path}");
        };
        assert!((low - middle - (middle - high)).abs() < 0.2, "{path}");
        assert!(svg.contains(">pcpm</text>"), "{svg}");
    }

    #[test]
    fn a_course_has_even_steps_and_no_single_points() {
        let point = |x: f64| Point {
            x,
            y: Spread::exactly(x),
        };
        let chart = Lines {
            course_until: Some(24.0),
            series: vec![Line {
                name: "target".into(),
                points: vec![point(0.3), point(7.7), point(23.9)],
            }],
            ..Lines::default()
        };
        let svg = chart.svg();
        for hour in ["0", "6", "12", "18", "24"] {
            assert!(svg.contains(&format!("\"middle\">{hour}</text>")), "{svg}");
        }
        assert!(!svg.contains("circle"), "{svg}");
    }
}
