//! What intervals add up to, as clients are told.

use std::{collections::BTreeMap, time::Duration};

use pcpm_api::types;

use super::interval::{Blocked, Blocker, Figures, Group, Interval, add_blocked};

/// Intervals added up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    length: Duration,
    waits: BTreeMap<Group, Figures>,
    blockers: BTreeMap<Blocker, Blocked>,
    pub(super) missed: u64,
    pub(super) long_waits_untold: u64,
}

impl Sum {
    /// What `intervals` add up to.
    pub(super) fn of<'a>(intervals: impl IntoIterator<Item = &'a Interval>) -> Self {
        let mut sum = Self::default();
        intervals.into_iter().for_each(|interval| sum.add(interval));
        sum
    }

    /// How long was observed.
    pub(super) fn length_ms(&self) -> u64 {
        u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX)
    }

    fn add(&mut self, interval: &Interval) {
        self.length += interval.length;
        self.missed += interval.missed;
        self.long_waits_untold += interval.long_waits_untold;
        for (group, figures) in &interval.waits {
            match self.waits.get_mut(group) {
                Some(sum) => sum.add(figures),
                None => drop(self.waits.insert(group.clone(), figures.clone())),
            }
        }
        for (blocker, blocked) in &interval.blockers {
            add_blocked(&mut self.blockers, blocker.clone(), blocked);
        }
    }

    /// All locks, the one waited for longest first.
    pub(super) fn locks(&self) -> Vec<types::LockWaits> {
        let mut locks = BTreeMap::<(&str, &str), Figures>::new();
        for (group, figures) in &self.waits {
            locks
                .entry((&group.lock, group.kind))
                .or_default()
                .add(figures);
        }
        let mut locks: Vec<_> = locks.into_iter().collect();
        locks.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.total_ns));
        let shown = locks
            .into_iter()
            .map(|((lock, kind), figures)| types::LockWaits {
                lock: lock.to_owned(),
                kind: kind.to_owned(),
                waits: figures.count,
                total_us: figures.total_ns / 1000,
                avg_us: figures.total_ns / figures.count.max(1) / 1000,
                p50_us: figures.quantile_ns(500) / 1000,
                p99_us: figures.quantile_ns(990) / 1000,
                max_us: figures.max_ns / 1000,
                times: figures.times(),
            });
        shown.collect()
    }

    pub(super) fn waiters(&self, top: usize) -> Vec<types::LockWaiter> {
        let mut waits: Vec<_> = self.waits.iter().collect();
        waits.sort_by_key(|(_, figures)| std::cmp::Reverse(figures.total_ns));
        let shown = waits
            .into_iter()
            .take(top)
            .map(|(group, figures)| types::LockWaiter {
                lock: group.lock.to_string(),
                caller: group.caller.to_string(),
                thread: group.thread.to_string(),
                operation: group.operation.map(|op| op.name().to_owned()),
                waits: figures.count,
                total_us: figures.total_ns / 1000,
                max_us: figures.max_ns / 1000,
            });
        shown.collect()
    }

    pub(super) fn blockers(&self, top: usize) -> Vec<types::LockBlocker> {
        let mut blockers: Vec<_> = self.blockers.iter().collect();
        blockers.sort_by_key(|(_, blocked)| std::cmp::Reverse(blocked.total_ns));
        let shown = blockers.into_iter().take(top);
        let shown = shown.map(|(blocker, blocked)| types::LockBlocker {
            lock: blocker.lock.to_string(),
            thread: blocker.thread.to_string(),
            pid: blocked.pid,
            tid: blocked.tid,
            operation: blocker.operation.map(|op| op.name().to_owned()),
            caller: blocker.caller.as_ref().map(ToString::to_string),
            waits: blocked.count,
            total_us: blocked.total_ns / 1000,
        });
        shown.collect()
    }
}
