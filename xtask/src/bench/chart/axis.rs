//! Scales: from values to shares of an axis, and the round numbers beside it.

/// Lines across a linear axis, beside that at the bottom.
const STEPS: u32 = 4;

#[derive(Debug)]
pub(super) enum Axis {
    /// From 0 to this.
    Linear(f64),
    /// Between two powers of ten.
    Logarithmic { from: i32, to: i32 },
}

impl Axis {
    /// From 0 to a round number that all `values` fit below.
    pub(super) fn linear(values: impl IntoIterator<Item = f64>) -> Self {
        Self::Linear(round_up(values.into_iter().fold(0.0, f64::max)))
    }

    /// Of whole decades that all positive `values` fit in.
    #[expect(clippy::cast_possible_truncation, reason = "exponents are small")]
    pub(super) fn logarithmic(values: impl IntoIterator<Item = f64>) -> Self {
        let exponents = values.into_iter().filter(|value| *value > 0.0);
        let exponents: Vec<f64> = exponents.map(f64::log10).collect();
        let from = exponents.iter().copied().fold(f64::INFINITY, f64::min);
        let to = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !from.is_finite() {
            return Self::Logarithmic { from: 0, to: 1 };
        }
        let from = (from + 1e-9).floor() as i32;
        Self::Logarithmic {
            from,
            to: ((to - 1e-9).ceil() as i32).max(from + 1),
        }
    }

    /// Where `value` is between the axis' ends, 0 and 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        let share = match self {
            Self::Linear(to) => value / to,
            Self::Logarithmic { from, to } => {
                (value.max(f64::MIN_POSITIVE).log10() - f64::from(*from)) / f64::from(to - from)
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// Values to mark, with what to write beside them.
    pub(super) fn steps(&self) -> Vec<(f64, String)> {
        let value = |step: f64| (step, number(step));
        match self {
            Self::Linear(to) => {
                let steps = (0..=STEPS).map(|step| to * f64::from(step) / f64::from(STEPS));
                steps.map(value).collect()
            }
            Self::Logarithmic { from, to } => (*from..=*to)
                .map(|exponent| value(10_f64.powi(exponent)))
                .collect(),
        }
    }
}

/// The next number that is easily divided by four.
fn round_up(value: f64) -> f64 {
    let magnitude = 10_f64.powf(value.max(1e-6).log10().floor());
    let steps = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 4.8, 6.0, 8.0, 10.0];
    let steps = steps.map(|step| step * magnitude);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

/// With as few digits as tell it.
pub(super) fn number(value: f64) -> String {
    match value {
        v if v >= 10_000.0 => {
            let thousands = v / 1000.0;
            format!("{}k", number(thousands))
        }
        v if v >= 10.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v => {
            let text = format!("{v:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_round_number_that_all_fits_below() {
        for (value, top) in [
            (0.7, 0.8),
            (4.1, 4.8),
            (11.0, 12.0),
            (81.0, 100.0),
            (100.0, 100.0),
        ] {
            assert!((round_up(value) - top).abs() < 1e-9, "{value}");
        }
    }

    #[test]
    fn decades_hold_all_values() {
        let axis = Axis::logarithmic([3.0, 1000.0, 0.0]);
        let marks: Vec<_> = axis.steps().into_iter().map(|(_, mark)| mark).collect();
        assert_eq!(marks, ["1", "10", "100", "1000"]);
        assert!((axis.share(100.0) - 2.0 / 3.0).abs() < 1e-9);
        assert!(axis.share(0.0).abs() < 1e-9);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.05, "0.05"),
            (2.5, "2.5"),
            (512.0, "512"),
            (20_000.0, "20k"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
