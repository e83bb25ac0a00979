//! The median of rounds, and how far they lie apart.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::report::quartile;

/// Of figures in one unit.
#[derive(Clone, Copy, Debug, Serialize)]
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

    /// The median, and the quartiles, as cells of a table.
    pub(super) fn cells(&self) -> [String; 2] {
        let Self {
            median,
            first_quartile,
            third_quartile,
        } = self;
        [
            format!("{median:.2}"),
            format!("{first_quartile:.2}-{third_quartile:.2}"),
        ]
    }
}
