//! All that can be measured of the pool, as monitoring takes it: totals since start, and what is now.

use std::{cmp::Reverse, time::Duration};

use pcpm_api::{times, types::Status};

use super::{Engine, latency::LatencyHistogram};

/// The most tenants that are told by name: a label for each is a series for each.
const TENANTS: usize = 100;

/// What monitoring is told.
#[derive(Debug)]
pub(crate) struct Measurements {
    pub(crate) status: Status,
    /// How long each step took.
    pub(crate) steps: Vec<(&'static str, Times)>,
    /// The tenants with the most attachments.
    pub(crate) tenants: Vec<(String, u32)>,
    /// Attachments of all others together.
    pub(crate) other_tenants: u32,
    /// Whether what happens can be written down.
    pub(crate) journal_works: bool,
}

/// Times since start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) count: u64,
    pub(crate) total: Duration,
    /// How many there were of less than each of these powers of two, in microseconds, and not less than the one
    /// before.
    pub(crate) below_us: Vec<(u64, u64)>,
}

/// The shortest and the longest power of two that are told apart: 16 us and 33 s.
const OCTAVES: std::ops::RangeInclusive<u32> = 4..=25;

impl Times {
    fn of(histogram: &LatencyHistogram) -> Self {
        let mut below_us: Vec<_> = OCTAVES.map(|octave| (1 << octave, 0)).collect();
        let mut count = 0;
        for (bucket, times) in histogram.counts().iter().enumerate() {
            count += times;
            let from = times::from_us(bucket);
            if let Some((_, below)) = below_us.iter_mut().find(|(bound, _)| from < *bound) {
                *below += times;
            }
        }
        Self {
            count,
            total: histogram.total(),
            below_us,
        }
    }
}

impl Engine {
    /// What monitoring is told.
    pub(crate) fn measurements(&self) -> Measurements {
        let mut tenants: Vec<_> = self.tenants.attachments().collect();
        let shown = tenants.len().min(TENANTS);
        if shown < tenants.len() {
            tenants.select_nth_unstable_by_key(shown, |(_, attachments)| Reverse(*attachments));
        }
        let (told, others) = tenants.split_at(shown);
        let mut told: Vec<_> = told
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect();
        told.sort_unstable();
        let steps = self.steps().into_iter();
        Measurements {
            status: self.status(),
            steps: steps
                .map(|(step, times)| (step, Times::of(times)))
                .collect(),
            tenants: told,
            other_tenants: others.iter().map(|(_, attachments)| attachments).sum(),
            journal_works: self.journal.trouble().is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_counted_below_the_next_power_of_two() {
        let mut histogram = LatencyHistogram::default();
        for us in [0, 15, 16, 31, 1000, 40_000_000] {
            histogram.record(Duration::from_micros(us));
        }
        let times = Times::of(&histogram);
        let counted: Vec<_> = times.below_us.iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [&(16, 2), &(32, 2), &(1024, 1)]);
        assert_eq!(times.count, 6, "the longest is above all of them");
        assert_eq!(times.total, Duration::from_micros(40_001_062));
    }
}
