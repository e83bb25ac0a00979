//! Pauses after failures: they double from [`FIRST`] to [`LONGEST`], so that nothing ever retries in
//! a hot loop and nothing waits much longer than the trouble lasts.

use std::time::Duration;

use super::Now;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// The pause after `failures` (at least 1) in a row.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = failures.saturating_sub(1).min(16);
    (FIRST * (1 << doubled)).min(LONGEST)
}

/// Holds something back after failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    until: Option<Now>,
}

impl Backoff {
    /// Something failed. Failures during a pause belong to what was under way when it began and do
    /// not lengthen it.
    pub(super) fn fail(&mut self, now: Now) {
        if !self.holds(now) {
            self.failures += 1;
            self.until = Some(now + pause(self.failures));
        }
    }

    /// Something succeeded.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether the pause is not over.
    pub(super) fn holds(&self, now: Now) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// The pause is over; another failure makes the next one longer.
    pub(super) fn end(&mut self) {
        self.until = None;
    }

    /// When the pause ends.
    pub(super) fn until(&self) -> Option<Now> {
        self.until
    }
}
