//! Distributions of times, in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use pcpm_api::{times, types::Latency};

/// The longest time told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// How many times there were in each bucket of [`times`].
pub(super) type TimeCounts = [u64; times::BUCKETS];

/// Times from a microsecond to a minute, to two significant digits; and in buckets that can be subtracted, for
/// those who ask what came meanwhile.
#[derive(Debug)]
pub(super) struct LatencyHistogram {
    exact: Histogram<u32>,
    counts: TimeCounts,
    total: Duration,
}

impl Default for LatencyHistogram {
    fn default() -> Self {
        let exact = Histogram::new_with_bounds(1, LONGEST_US, 2);
        Self {
            exact: exact.expect("these bounds are valid"),
            counts: [0; times::BUCKETS],
            total: Duration::ZERO,
        }
    }
}

impl LatencyHistogram {
    pub(super) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US);
        self.exact.saturating_record(us.max(1));
        self.counts[times::bucket(us)] += 1;
        self.total = self.total.saturating_add(time);
    }

    /// All times together.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    pub(super) fn counts(&self) -> &TimeCounts {
        &self.counts
    }

    pub(super) fn summary(&self) -> Latency {
        if self.exact.is_empty() {
            // Each quantile is a walk over thousands of buckets.
            return Latency::default();
        }
        Latency {
            count: self.exact.len(),
            p50_us: self.exact.value_at_quantile(0.5),
            p90_us: self.exact.value_at_quantile(0.9),
            p99_us: self.exact.value_at_quantile(0.99),
            max_us: self.exact.max(),
        }
    }
}
