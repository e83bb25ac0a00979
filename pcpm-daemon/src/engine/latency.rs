//! Distributions of times, in bounded memory.

use std::time::Duration;

use hdrhistogram::Histogram;
use pcpm_api::types::Latency;

/// The longest time told apart, in microseconds.
const LONGEST_US: u64 = 60_000_000;

/// Times from a microsecond to a minute, to two significant digits.
#[derive(Debug)]
pub(super) struct LatencyHistogram(Histogram<u32>);

impl Default for LatencyHistogram {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, 2).expect("these bounds are valid"))
    }
}

impl LatencyHistogram {
    pub(super) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US);
        self.0.saturating_record(us.max(1));
    }

    pub(super) fn summary(&self) -> Latency {
        Latency {
            count: self.0.len(),
            p50_us: self.0.value_at_quantile(0.5),
            p90_us: self.0.value_at_quantile(0.9),
            p99_us: self.0.value_at_quantile(0.99),
            max_us: self.0.max(),
        }
    }
}
