//! The median of rounds, and how far they lie apart.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::report::{quartile, time};

/// Of figures in one unit.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) first_quartile: f64,
    pub(super) third_quartile: f64,
}

impl Spread {
    /// # Errors
    /// When there are none.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Result<Self> {
        let values: Vec<_> = values.into_iter().collect();
        let at = |quarter| quartile(&values, quarter).context("nothing was measured");
        Ok(Self {
            median: at(2)?,
            first_quartile: at(1)?,
            third_quartile: at(3)?,
        })
    }

    /// Of one value alone.
    pub(super) fn exactly(value: f64) -> Self {
        Self {
            median: value,
            first_quartile: value,
            third_quartile: value,
        }
    }

    /// The median and the quartiles as cells of a table, of large numbers.
    pub(super) fn whole_cells(&self) -> [String; 2] {
        [
            format!("{:.0}", self.median),
            format!("{:.0}-{:.0}", self.first_quartile, self.third_quartile),
        ]
    }

    /// The same of times in microseconds.
    pub(super) fn time_cells(&self) -> [String; 2] {
        [
            time(self.median),
            format!(
                "{} to {}",
                time(self.first_quartile),
                time(self.third_quartile)
            ),
        ]
    }
}
