//! What a part of the evaluation found: one value, whatever was measured. Others print, draw, write and compare it.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::chart::Chart;
use super::spread::Spread;
use crate::report::ratio;

/// Rows of a table, the first of which is the heading.
pub(super) type Rows = Vec<Vec<String>>;

#[derive(Debug)]
pub(super) struct Findings {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
    pub(super) ratios: Vec<Ratio>,
    /// All of it, raw.
    pub(super) figures: Value,
}

/// What a reader sees, from top to bottom.
#[derive(Debug)]
pub(super) enum Block {
    Text(String),
    Table(Rows),
    /// With the name of its file, without extension.
    Chart(&'static str, Box<Chart>),
}

/// How the product stands beside something else measured in the same rounds. Unlike times, ratios survive a change of machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Ratio {
    /// Its name, which is the part's own.
    pub(super) name: String,
    pub(super) what: String,
    pub(super) better: Better,
    #[serde(flatten)]
    pub(super) spread: Spread,
    /// The least, or the most, that is wanted.
    pub(super) aim: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Better {
    Higher,
    Lower,
}

impl Findings {
    /// # Errors
    /// When `figures` are no JSON.
    pub(super) fn new(title: &str, figures: &impl Serialize) -> Result<Self> {
        Ok(Self {
            title: title.to_owned(),
            blocks: Vec::new(),
            ratios: Vec::new(),
            figures: serde_json::to_value(figures)?,
        })
    }

    pub(super) fn text(mut self, text: impl Into<String>) -> Self {
        self.blocks.push(Block::Text(text.into()));
        self
    }

    pub(super) fn table(mut self, rows: Rows) -> Self {
        self.blocks.push(Block::Table(rows));
        self
    }

    pub(super) fn chart(mut self, file: &'static str, chart: impl Into<Chart>) -> Self {
        let chart = Box::new(chart.into());
        self.blocks.push(Block::Chart(file, chart));
        self
    }

    pub(super) fn ratio(mut self, ratio: Ratio) -> Self {
        self.ratios.push(ratio);
        self
    }

    pub(super) fn ratios(mut self, ratios: impl IntoIterator<Item = Ratio>) -> Self {
        self.ratios.extend(ratios);
        self
    }
}

impl Ratio {
    /// One that shall be high, of the rounds that measured it.
    ///
    /// # Errors
    /// When there were none.
    pub(super) fn higher(
        name: &str,
        what: &str,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Result<Self> {
        Self::of(Better::Higher, name, what, rounds)
    }

    /// One that shall be low, of the rounds that measured it.
    ///
    /// # Errors
    /// When there were none.
    pub(super) fn lower(
        name: &str,
        what: &str,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Result<Self> {
        Self::of(Better::Lower, name, what, rounds)
    }

    fn of(
        better: Better,
        name: &str,
        what: &str,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            what: what.to_owned(),
            better,
            spread: Spread::of(rounds)?,
            aim: None,
        })
    }

    /// What is wanted: so much at least, or at most.
    pub(super) fn aim(mut self, bound: f64) -> Self {
        self.aim = Some(bound);
        self
    }

    /// Whether what is wanted was reached; `None` when nothing is.
    pub(super) fn met(&self) -> Option<bool> {
        let aim = self.aim?;
        Some(match self.better {
            Better::Higher => self.spread.median >= aim,
            Better::Lower => self.spread.median <= aim,
        })
    }

    /// How much worse this is than `before`, as a share: 0.2 for a fifth. Negative if it is better.
    pub(super) fn worse_than(&self, before: f64) -> f64 {
        match self.better {
            Better::Higher => before / self.spread.median - 1.0,
            Better::Lower => self.spread.median / before - 1.0,
        }
    }

    /// As a row of a table, beside [`Ratio::HEADING`].
    pub(super) fn row(&self) -> Vec<String> {
        let Spread {
            median,
            first_quartile,
            third_quartile,
        } = self.spread;
        vec![
            self.what.clone(),
            ratio(median),
            format!("{} to {}", ratio(first_quartile), ratio(third_quartile)),
            self.aim_text(),
            match self.met() {
                Some(true) => "met".to_owned(),
                Some(false) => "**missed**".to_owned(),
                None => String::new(),
            },
            format!("`{}`", self.name),
        ]
    }

    pub(super) const HEADING: [&str; 6] = ["ratio", "median", "quartiles", "aim", "", "name"];

    fn aim_text(&self) -> String {
        match (self.aim, self.better) {
            (None, Better::Higher) => "the higher".to_owned(),
            (None, Better::Lower) => "the lower".to_owned(),
            (Some(aim), Better::Higher) => format!("at least {}", ratio(aim)),
            (Some(aim), Better::Lower) => format!("at most {}", ratio(aim)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_gets_worse_against_its_direction() {
        let high = Ratio::higher("a", "", [0.8]).unwrap();
        let low = Ratio::lower("b", "", [1.2]).unwrap();
        for (ratio, before, worse) in [(&high, 1.0, 0.25), (&low, 1.0, 0.2), (&low, 1.5, -0.2)] {
            let found = ratio.worse_than(before);
            assert!((found - worse).abs() < 1e-9, "{ratio:?} {found}");
        }
    }

    #[test]
    fn an_aim_is_a_least_or_a_most() {
        let met = |ratio: Result<Ratio>, aim| ratio.unwrap().aim(aim).met();
        assert_eq!(met(Ratio::higher("a", "", [2.0]), 1.5), Some(true));
        assert_eq!(met(Ratio::lower("a", "", [2.0]), 1.5), Some(false));
        assert_eq!(Ratio::lower("a", "", [2.0]).unwrap().met(), None);
    }
}
