//! Waits for the kernel's locks, second by second.

use std::collections::{BTreeMap, VecDeque};

use pcpm_api::types::{LockBlocker, LockFrame, LockWaiter, LockWaits, LongWait};

use super::{
    history::Range,
    times::{Spread, Times},
};

/// Seconds remembered.
const REMEMBERED: usize = 900;

/// The lock that this program is about.
pub(crate) const RTNL: &str = "rtnl_mutex";

/// Groups of each kind that are kept of one second.
const KEPT: usize = 16;

/// What was told of waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Locks {
    frames: VecDeque<LockFrame>,
    /// Why nothing is told, if nothing is.
    pub(crate) unavailable: Option<String>,
}

/// Waits of a span of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Waits {
    /// How long was observed.
    pub(crate) observed_ms: u64,
    pub(crate) locks: Vec<LockWaits>,
    pub(crate) waiters: Vec<LockWaiter>,
    pub(crate) blockers: Vec<LockBlocker>,
    pub(crate) long: Vec<LongWait>,
}

/// What one lock cost in a part of the time on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) observed_ms: u64,
    pub(crate) waits: u64,
    pub(crate) total_us: u64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) max_us: u64,
}

impl Cost {
    fn add(&mut self, waits: &LockWaits) {
        self.waits = self.waits.saturating_add(waits.waits);
        self.total_us = self.total_us.saturating_add(waits.total_us);
        self.p50_us = self.p50_us.max(waits.p50_us);
        self.p99_us = self.p99_us.max(waits.p99_us);
        self.max_us = self.max_us.max(waits.max_us);
    }
}

impl Locks {
    pub(crate) fn take(&mut self, frames: Vec<LockFrame>) {
        for mut frame in frames {
            if self
                .frames
                .back()
                .is_some_and(|last| last.time_ms >= frame.time_ms)
            {
                continue;
            }
            frame.locks.truncate(KEPT);
            frame.waiters.truncate(KEPT);
            frame.blockers.truncate(KEPT);
            frame.long_waits.truncate(KEPT);
            if self.frames.len() == REMEMBERED {
                self.frames.pop_front();
            }
            self.frames.push_back(frame);
        }
    }

    fn within(&self, range: Range) -> impl Iterator<Item = &LockFrame> {
        self.frames
            .iter()
            .filter(move |frame| range.contains(frame.time_ms))
    }

    /// All waits in the range, those that took longest together first.
    pub(crate) fn waits(&self, range: Range) -> Waits {
        let mut sums = Sums::default();
        self.within(range).for_each(|frame| sums.add(frame));
        sums.sorted()
    }

    /// How long waits in the range for a lock took, in `columns` parts.
    pub(crate) fn spreads(
        &self,
        is_it: impl Fn(&LockWaits) -> bool,
        range: Range,
        columns: usize,
    ) -> Vec<Spread> {
        let mut spreads = vec![Spread::default(); columns.max(1)];
        let count = spreads.len();
        for frame in self.within(range) {
            let column = column(frame, range, count);
            let waits = frame.locks.iter().filter(|waits| is_it(waits));
            waits.for_each(|waits| spreads[column].add(&Times::new(&waits.times)));
        }
        spreads
    }

    /// The waits for `lock` in the range, in `columns` parts; none where nothing was observed.
    pub(crate) fn columns(&self, lock: &str, range: Range, columns: usize) -> Vec<Option<Cost>> {
        let mut costs = vec![None; columns.max(1)];
        let count = costs.len();
        for frame in self.within(range) {
            let cost: &mut Cost = costs[column(frame, range, count)].get_or_insert_default();
            cost.observed_ms = cost.observed_ms.saturating_add(frame.interval_ms);
            let waits = frame.locks.iter().filter(|waits| waits.lock == lock);
            waits.for_each(|waits| cost.add(waits));
        }
        costs
    }
}

/// The part of the range that a frame in it is in.
fn column(frame: &LockFrame, range: Range, count: usize) -> usize {
    let past = u128::from(frame.time_ms - range.start_ms() - 1) * count as u128;
    let column = past / u128::from(range.span_ms.max(1));
    usize::try_from(column).unwrap_or(count).min(count - 1)
}

/// Waits being added up, each kind by what tells it apart.
#[derive(Default)]
struct Sums<'a> {
    observed_ms: u64,
    locks: BTreeMap<(&'a str, &'a str), LockWaits>,
    spreads: BTreeMap<(&'a str, &'a str), Spread>,
    waiters: BTreeMap<(&'a str, &'a str, &'a str, Option<&'a str>), LockWaiter>,
    blockers: BTreeMap<(&'a str, &'a str, Option<&'a str>), LockBlocker>,
    long: Vec<LongWait>,
}

impl<'a> Sums<'a> {
    fn add(&mut self, frame: &'a LockFrame) {
        self.observed_ms = self.observed_ms.saturating_add(frame.interval_ms);
        for more in &frame.locks {
            let key = (more.lock.as_str(), more.kind.as_str());
            let times = Times::new(&more.times);
            self.spreads.entry(key).or_default().add(&times);
            add_or_insert(&mut self.locks, key, more, |sum| {
                sum.waits = sum.waits.saturating_add(more.waits);
                sum.total_us = sum.total_us.saturating_add(more.total_us);
                sum.avg_us = sum.total_us / sum.waits.max(1);
                sum.max_us = sum.max_us.max(more.max_us);
                sum.p50_us = sum.p50_us.max(more.p50_us);
                sum.p99_us = sum.p99_us.max(more.p99_us);
            });
        }
        for more in &frame.waiters {
            let (lock, caller, thread) = (&more.lock, &more.caller, &more.thread);
            let key = (
                lock.as_str(),
                caller.as_str(),
                thread.as_str(),
                more.operation.as_deref(),
            );
            add_or_insert(&mut self.waiters, key, more, |sum| {
                sum.waits = sum.waits.saturating_add(more.waits);
                sum.total_us = sum.total_us.saturating_add(more.total_us);
                sum.max_us = sum.max_us.max(more.max_us);
            });
        }
        for more in &frame.blockers {
            // Threads that do the same work are one.
            let who = more.operation.as_ref().unwrap_or(&more.thread);
            let key = (more.lock.as_str(), who.as_str(), more.caller.as_deref());
            add_or_insert(&mut self.blockers, key, more, |sum| {
                sum.waits = sum.waits.saturating_add(more.waits);
                sum.total_us = sum.total_us.saturating_add(more.total_us);
            });
        }
        self.long.extend(frame.long_waits.iter().cloned());
    }

    fn sorted(mut self) -> Waits {
        for (key, lock) in &mut self.locks {
            // Seconds of the past have no times but of the lock that matters most.
            let spread = self.spreads.get(key);
            let spread = spread.filter(|spread| spread.total() == lock.waits);
            let percentile = |percent| spread?.percentile(percent);
            lock.p50_us = percentile(50).unwrap_or(lock.p50_us).min(lock.max_us);
            lock.p99_us = percentile(99).unwrap_or(lock.p99_us).min(lock.max_us);
            lock.times.clear();
        }
        let mut waits = Waits {
            observed_ms: self.observed_ms,
            locks: self.locks.into_values().collect(),
            waiters: self.waiters.into_values().collect(),
            blockers: self.blockers.into_values().collect(),
            long: self.long,
        };
        waits
            .locks
            .sort_by_key(|sum| std::cmp::Reverse(sum.total_us));
        waits
            .waiters
            .sort_by_key(|sum| std::cmp::Reverse(sum.total_us));
        waits
            .blockers
            .sort_by_key(|sum| std::cmp::Reverse(sum.total_us));
        waits
            .long
            .sort_by_key(|wait| std::cmp::Reverse(wait.waited_us));
        waits
    }
}

fn add_or_insert<K: Ord, V: Clone>(
    sums: &mut BTreeMap<K, V>,
    key: K,
    first: &V,
    add: impl FnOnce(&mut V),
) {
    match sums.get_mut(&key) {
        Some(sum) => add(sum),
        None => drop(sums.insert(key, first.clone())),
    }
}

#[cfg(test)]
mod tests {
    use pcpm_api::types::TimeCount;

    use super::*;

    fn frame(time_ms: u64, waits: u64, max_us: u64) -> LockFrame {
        LockFrame {
            time_ms,
            interval_ms: 1000,
            locks: vec![LockWaits {
                lock: RTNL.into(),
                kind: "mutex".into(),
                waits,
                total_us: waits * 100,
                avg_us: 100,
                p50_us: 90,
                p99_us: max_us,
                max_us,
                times: vec![TimeCount {
                    from_us: 80,
                    count: waits,
                }],
            }],
            ..LockFrame::default()
        }
    }

    fn two_seconds() -> Locks {
        let mut locks = Locks::default();
        locks.take(vec![frame(1000, 3, 500), frame(2000, 5, 200)]);
        locks
    }

    #[test]
    fn waits_of_several_seconds_are_added_up() {
        let waits = two_seconds().waits(Range {
            end_ms: 2000,
            span_ms: 2000,
        });
        assert_eq!(waits.observed_ms, 2000);
        let rtnl = &waits.locks[0];
        assert_eq!(
            (rtnl.waits, rtnl.total_us, rtnl.avg_us, rtnl.max_us),
            (8, 800, 100, 500)
        );
    }

    #[test]
    fn only_what_lies_in_the_range_counts_and_nothing_twice() {
        let mut locks = two_seconds();
        locks.take(vec![frame(2000, 5, 200)]);
        let waits = locks.waits(Range {
            end_ms: 2500,
            span_ms: 1000,
        });
        assert_eq!(waits.locks[0].waits, 5);
    }

    #[test]
    fn columns_that_nobody_observed_are_gaps() {
        let columns = two_seconds().columns(
            RTNL,
            Range {
                end_ms: 4000,
                span_ms: 4000,
            },
            4,
        );
        let waits: Vec<_> = columns.iter().map(|c| c.map(|cost| cost.waits)).collect();
        assert_eq!(waits, [Some(3), Some(5), None, None]);
    }

    #[test]
    fn threads_that_did_the_same_work_block_as_one() {
        let blocker = |thread: &str, operation: Option<&str>| LockBlocker {
            lock: RTNL.into(),
            thread: thread.into(),
            pid: None,
            tid: None,
            operation: operation.map(str::to_owned),
            caller: None,
            waits: 1,
            total_us: 10,
        };
        let mut second = frame(1000, 4, 500);
        second.blockers = vec![
            blocker("pcpm-refill-0", Some("retire")),
            blocker("pcpm-refill-1", Some("retire")),
            blocker("ip", None),
            blocker("tc", None),
        ];
        let mut locks = Locks::default();
        locks.take(vec![second]);
        let range = Range {
            end_ms: 1000,
            span_ms: 1000,
        };
        let found = locks.waits(range).blockers;
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!((found[0].waits, found[0].total_us), (2, 20));
    }
}
