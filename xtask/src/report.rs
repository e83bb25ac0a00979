//! Figures: distributions and tables.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

/// A distribution of times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) samples: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl Spread {
    /// Of times in nanoseconds.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn of_nanos(times: impl IntoIterator<Item = u64>) -> Result<Self> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for time in times {
            histogram.record(time)?;
        }
        anyhow::ensure!(!histogram.is_empty(), "nothing was measured");
        Ok(Self {
            samples: histogram.len(),
            p50_us: in_micros(histogram.value_at_quantile(0.5)),
            p99_us: in_micros(histogram.value_at_quantile(0.99)),
            max_us: in_micros(histogram.max()),
        })
    }

    /// Of times in microseconds.
    ///
    /// # Errors
    /// When there are none.
    pub(crate) fn of_micros(times: &[u64]) -> Result<Self> {
        Self::of_nanos(times.iter().map(|time| time * 1000))
    }

    pub(crate) fn p50(&self) -> f64 {
        self.p50_us
    }

    pub(crate) fn p99(&self) -> f64 {
        self.p99_us
    }

    pub(crate) fn max(&self) -> f64 {
        self.max_us
    }

    /// p50, p99 and max as cells of a table.
    pub(crate) fn cells(&self) -> [String; 3] {
        [self.p50_us, self.p99_us, self.max_us].map(time)
    }
}

#[expect(clippy::cast_precision_loss, reason = "times are far below 2^53 ns")]
fn in_micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

/// A time with three digits and the unit that suits it.
pub(crate) fn time(micros: f64) -> String {
    match micros.abs() {
        us if us < 1000.0 => digits(micros, "us"),
        us if us < 1_000_000.0 => digits(micros / 1000.0, "ms"),
        _ => digits(micros / 1_000_000.0, "s"),
    }
}

fn digits(value: f64, unit: &str) -> String {
    let decimals = match value.abs() {
        v if v < 10.0 => 2,
        v if v < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A quotient with the digits that carry meaning.
pub(crate) fn ratio(value: f64) -> String {
    digits(value, "x").replace(' ', "")
}

/// The median, which one odd round does not move.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<_> = values.into_iter().collect();
    quartile(&values, 2).unwrap_or(f64::NAN)
}

/// The value that `quarter` quarters of all values lie below, between two of them if need be; `None` without values.
pub(crate) fn quartile(values: &[f64], quarter: usize) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    let quarters = values.len().checked_sub(1)? * quarter;
    let below = values[quarters / 4];
    let above = values[quarters.div_ceil(4)];
    let share = [0.0, 0.25, 0.5, 0.75][quarters % 4];
    Some(below + (above - below) * share)
}

/// Prints rows as a table: the first column to the left, the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
    };
    let widths: Vec<_> = (0..columns)
        .map(|column| width(column).unwrap_or_default())
        .collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<_> = cells
            .map(|(column, (cell, width))| match column {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_three_digits_and_a_fitting_unit() {
        for (micros, text) in [
            (0.5, "0.50 us"),
            (14.54, "14.5 us"),
            (999.0, "999 us"),
            (1234.0, "1.23 ms"),
            (14_400_000.0, "14.4 s"),
            (-1234.0, "-1.23 ms"),
        ] {
            assert_eq!(time(micros), text);
        }
    }

    #[test]
    fn a_spread_knows_its_median_and_its_worst() {
        let spread = Spread::of_micros(&[1, 2, 3, 4, 100]).unwrap();
        assert!((spread.p50_us - 3.0).abs() < 0.01, "{spread:?}");
        assert!((spread.max_us - 100.0).abs() < 0.1, "{spread:?}");
    }

    #[test]
    fn nothing_measured_is_an_error() {
        assert!(Spread::of_micros(&[]).is_err());
    }

    #[test]
    fn quartiles_are_of_the_values_in_order() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        let found = [1, 2, 3].map(|quarter| quartile(&values, quarter));
        assert_eq!(found, [Some(2.0), Some(3.0), Some(4.0)]);
        assert_eq!(quartile(&[7.0], 3), Some(7.0));
        assert_eq!(quartile(&[1.0, 2.0, 3.0], 3), Some(2.5));
        assert_eq!(quartile(&[], 2), None);
    }

    #[test]
    fn one_odd_round_does_not_move_the_median() {
        assert!((median([1.0, 1000.0, 2.0]) - 2.0).abs() < f64::EPSILON);
    }
}
