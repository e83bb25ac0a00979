//! `--check`: ratios beside those of an earlier report. Times are never compared: they are the machine's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::evaluation::full_name;
use super::findings::Findings;
use crate::report::ratio;

/// How much worse a ratio may be than it was.
const ALLOWED: f64 = 0.2;

/// Ratios of an earlier `report.json`, or some of them.
#[derive(Debug, Deserialize)]
pub(super) struct Baseline {
    ratios: BTreeMap<String, Before>,
}

#[derive(Debug, Deserialize)]
struct Before {
    median: f64,
}

/// What became of one ratio.
#[derive(Debug)]
pub(super) struct Change {
    name: String,
    before: f64,
    /// The ratio now, and by which share that is worse; `None` when it was not measured.
    now: Option<(f64, f64)>,
}

impl Baseline {
    /// # Errors
    /// When the file is none of ratios.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let context = || format!("baseline {}", path.display());
        let text = fs::read_to_string(path).with_context(context)?;
        serde_json::from_str(&text).with_context(context)
    }

    /// Every ratio of `part` that the baseline has, beside what was found now.
    pub(super) fn compare(&self, part: &str, findings: &Findings) -> Vec<Change> {
        let of_part = |(name, _): &(&String, &Before)| {
            name.split_once('/').is_some_and(|(owner, _)| owner == part)
        };
        let ratios = self.ratios.iter().filter(of_part);
        let change = |(name, before): (&String, &Before)| {
            let mut ratios = findings.ratios.iter();
            let now = ratios.find(|ratio| full_name(part, ratio) == *name);
            Change {
                name: name.clone(),
                before: before.median,
                now: now.map(|ratio| (ratio.spread.median, ratio.worse_than(before.median))),
            }
        };
        ratios.map(change).collect()
    }
}

impl Change {
    /// Whether it is too much worse, or unknown.
    pub(super) fn is_bad(&self) -> bool {
        self.now
            .is_none_or(|(_, worse)| worse.is_nan() || worse >= ALLOWED)
    }

    /// For each of `first`, the better of it and what was measured `again`.
    pub(super) fn better_of(first: Vec<Self>, again: Vec<Self>) -> Vec<Self> {
        let pairs = first.into_iter().zip(again);
        let better = pairs.map(|(first, again)| match (first.now, again.now) {
            (Some((_, first_worse)), Some((_, again_worse))) if first_worse <= again_worse => first,
            (Some(_), None) => first,
            _ => again,
        });
        better.collect()
    }

    pub(super) fn line(&self) -> String {
        let Self { name, before, now } = self;
        let before = ratio(*before);
        match now {
            None => format!("{name}: was {before}, and is not measured any more"),
            Some((now, worse)) => {
                let by = (worse.abs() * 100.0).round();
                let how = if *worse > 0.0 { "worse" } else { "better" };
                format!("{name}: {}, was {before}: {by:.0} % {how}", ratio(*now))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::findings::Ratio;

    fn changes(now: f64) -> Vec<Change> {
        let baseline =
            json!({"ratios": {"fill/rate": {"median": 1.0}, "top/share": {"median": 1.0}}});
        let baseline: Baseline = serde_json::from_value(baseline).unwrap();
        let ratio = Ratio::higher("rate", "", [now]).unwrap();
        let findings = Findings::new("", &json!({})).unwrap().ratio(ratio);
        baseline.compare("fill", &findings)
    }

    #[test]
    fn a_fifth_worse_is_bad_and_better_is_not() {
        for (now, bad) in [(2.0, false), (0.9, false), (0.8, true), (f64::NAN, true)] {
            let changes = changes(now);
            assert_eq!(changes.len(), 1);
            assert_eq!(changes[0].is_bad(), bad, "{}", changes[0].line());
        }
    }

    #[test]
    fn what_is_not_measured_any_more_is_bad() {
        let baseline = json!({"ratios": {"fill/gone": {"median": 1.0}}});
        let baseline: Baseline = serde_json::from_value(baseline).unwrap();
        let nothing = Findings::new("", &json!({})).unwrap();
        let changes = baseline.compare("fill", &nothing);
        assert!(changes[0].is_bad());
    }

    #[test]
    fn measured_again_the_better_counts() {
        let better = Change::better_of(changes(0.5), changes(0.95));
        assert!(!better[0].is_bad(), "{}", better[0].line());
        let better = Change::better_of(changes(0.95), changes(0.5));
        assert!(!better[0].is_bad(), "{}", better[0].line());
    }
}
