//! The last ten minutes, second by second, and what they add up to. Bounded: of each second the groups that
//! waited most are kept by name, the rest together.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use pcpm_api::types::{self, LocksReply};
use pcpm_ebpf::locks::{BUCKETS, bucket_end_ns};
use tokio::sync::watch;

use super::operation::Operation;

/// Intervals kept.
const INTERVALS: usize = 600;
/// Groups of waits, and of blockers, kept of one interval.
const GROUPS: usize = 64;
/// Long waits kept.
const LONG_WAITS: usize = 512;
/// Groups shown unless somebody asks for more.
const TOP: usize = 10;

/// Waits that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) lock: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) caller: Arc<str>,
    pub(super) thread: Arc<str>,
    pub(super) operation: Option<Operation>,
}

/// How many waits, and how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) count: u64,
    pub(super) total_ns: u64,
    pub(super) max_ns: u64,
    /// Buckets that are not empty, ascending.
    pub(super) histogram: Vec<(u8, u32)>,
}

/// A thread that held a lock while others waited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Blocker {
    pub(super) lock: Arc<str>,
    pub(super) thread: Arc<str>,
    pub(super) tid: u32,
    pub(super) caller: Option<Arc<str>>,
}

/// What happened in one interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub(super) length: Duration,
    pub(super) waits: Vec<(Group, Figures)>,
    /// Waits and nanoseconds.
    pub(super) blockers: Vec<(Blocker, (u64, u64))>,
    pub(super) missed: u64,
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.total_ns += other.total_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        for &(bucket, count) in &other.histogram {
            match self.histogram.binary_search_by_key(&bucket, |&(b, _)| b) {
                Ok(at) => self.histogram[at].1 = self.histogram[at].1.saturating_add(count),
                Err(at) => self.histogram.insert(at, (bucket, count)),
            }
        }
    }

    /// The end of the bucket that this share of all waits does not exceed.
    fn quantile_ns(&self, permille: u64) -> u64 {
        let wanted = (self.count * permille).div_ceil(1000);
        let mut seen = 0;
        let found = self.histogram.iter().find(|&&(_, count)| {
            seen += u64::from(count);
            seen >= wanted
        });
        let end = found.map_or(self.max_ns, |&(bucket, _)| bucket_end_ns(bucket.into()));
        end.min(self.max_ns)
    }
}

/// The figures of a kernel histogram.
pub(super) fn figures(count: u64, total_ns: u64, max_ns: u64, buckets: &[u32; BUCKETS]) -> Figures {
    let histogram = (0_u8..).zip(buckets).filter(|&(_, &count)| count > 0);
    Figures {
        count,
        total_ns,
        max_ns,
        histogram: histogram.map(|(bucket, &count)| (bucket, count)).collect(),
    }
}

impl Interval {
    /// Keeps the groups that waited most, and the sum of the others.
    fn bounded(mut self) -> Self {
        self.waits
            .sort_by_key(|(_, figures)| std::cmp::Reverse(figures.total_ns));
        if self.waits.len() > GROUPS {
            let mut rest = BTreeMap::<_, Figures>::new();
            for (group, figures) in self.waits.split_off(GROUPS) {
                let others = Group {
                    caller: "(others)".into(),
                    thread: "(others)".into(),
                    operation: None,
                    ..group
                };
                rest.entry(others).or_default().add(&figures);
            }
            // Locks are not bounded by this, but those of one second that are waited for are few.
            self.waits.extend(rest.into_iter().take(GROUPS));
        }
        self.blockers
            .sort_by_key(|(_, (_, total_ns))| std::cmp::Reverse(*total_ns));
        self.blockers.truncate(GROUPS);
        self
    }
}

/// What the tracer saw, shared between its thread and the clients' tasks.
#[derive(Debug)]
pub(crate) struct LockHistory {
    kept: Mutex<Kept>,
    /// Intervals so far.
    changed: watch::Sender<u64>,
    unavailable: OnceLock<String>,
}

#[derive(Debug, Default)]
struct Kept {
    intervals: VecDeque<Interval>,
    long_waits: VecDeque<types::LongWait>,
}

impl LockHistory {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            changed: watch::Sender::new(0),
            unavailable: OnceLock::new(),
        }
    }

    /// Nothing more is seen, for this reason.
    pub(super) fn end(&self, reason: String) {
        self.unavailable.get_or_init(|| reason);
        self.changed.send_modify(|_| ());
    }

    pub(super) fn push(&self, interval: Interval, long_waits: Vec<types::LongWait>) {
        let mut kept = self.kept();
        if kept.intervals.len() == INTERVALS {
            kept.intervals.pop_front();
        }
        kept.intervals.push_back(interval.bounded());
        kept.long_waits.extend(long_waits);
        let excess = kept.long_waits.len().saturating_sub(LONG_WAITS);
        kept.long_waits.drain(..excess);
        drop(kept);
        self.changed.send_modify(|intervals| *intervals += 1);
    }

    /// Told with the number of intervals so far whenever there is one more, and when there will be none.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Why there is nothing to see, if there never will be.
    pub(crate) fn why_unavailable(&self) -> Option<&str> {
        self.unavailable.get().map(String::as_str)
    }

    /// What the intervals of the last `last` add up to, with the `top` of each kind.
    pub(crate) fn report(&self, last: Duration, top: Option<usize>) -> LocksReply {
        let kept = self.kept();
        let mut sum = Sum::default();
        for interval in kept.intervals.iter().rev() {
            if sum.length >= last {
                break;
            }
            sum.add(interval);
        }
        let top = top.unwrap_or(TOP);
        let since = super::now_ms().saturating_sub(milliseconds(sum.length));
        let recent = kept.long_waits.iter().filter(|wait| wait.time_ms >= since);
        let mut long_waits: Vec<_> = recent.cloned().collect();
        drop(kept);
        long_waits.sort_by_key(|wait| std::cmp::Reverse(wait.waited_us));
        long_waits.truncate(top);
        LocksReply {
            interval_ms: milliseconds(sum.length),
            unavailable: self.unavailable.get().cloned(),
            locks: sum.locks(),
            waiters: sum.waiters(top),
            blockers: sum.blockers(top),
            long_waits,
            missed: sum.missed,
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Intervals added up.
#[derive(Debug, Default)]
struct Sum {
    length: Duration,
    waits: BTreeMap<Group, Figures>,
    blockers: BTreeMap<Blocker, (u64, u64)>,
    missed: u64,
}

impl Sum {
    fn add(&mut self, interval: &Interval) {
        self.length += interval.length;
        self.missed += interval.missed;
        for (group, figures) in &interval.waits {
            match self.waits.get_mut(group) {
                Some(sum) => sum.add(figures),
                None => drop(self.waits.insert(group.clone(), figures.clone())),
            }
        }
        for (blocker, (count, total_ns)) in &interval.blockers {
            let sum = self.blockers.entry(blocker.clone()).or_default();
            sum.0 += count;
            sum.1 += total_ns;
        }
    }

    /// All locks, the one waited for longest first.
    fn locks(&self) -> Vec<types::LockWaits> {
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
            });
        shown.collect()
    }

    fn waiters(&self, top: usize) -> Vec<types::LockWaiter> {
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

    fn blockers(&self, top: usize) -> Vec<types::LockBlocker> {
        let mut blockers: Vec<_> = self.blockers.iter().collect();
        blockers.sort_by_key(|(_, (_, total_ns))| std::cmp::Reverse(*total_ns));
        let shown = blockers.into_iter().take(top);
        let shown = shown.map(|(blocker, (count, total_ns))| types::LockBlocker {
            lock: blocker.lock.to_string(),
            thread: blocker.thread.to_string(),
            tid: blocker.tid,
            caller: blocker.caller.as_ref().map(ToString::to_string),
            waits: *count,
            total_us: total_ns / 1000,
        });
        shown.collect()
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use pcpm_ebpf::locks::bucket;

    use super::*;

    const MS: u64 = 1_000_000;

    fn group(lock: &str, thread: &str) -> Group {
        Group {
            lock: lock.into(),
            kind: "mutex",
            caller: "rtnl_newlink".into(),
            thread: thread.into(),
            operation: None,
        }
    }

    fn waited(times_ns: &[u64]) -> Figures {
        let mut buckets = [0; BUCKETS];
        for &ns in times_ns {
            buckets[bucket(ns)] += 1;
        }
        let max = times_ns.iter().max().copied().unwrap_or_default();
        figures(times_ns.len() as u64, times_ns.iter().sum(), max, &buckets)
    }

    fn second(waits: Vec<(Group, Figures)>) -> Interval {
        Interval {
            length: Duration::from_secs(1),
            waits,
            ..Interval::default()
        }
    }

    #[test]
    fn the_last_seconds_add_up_lock_by_lock_and_older_ones_do_not_count() {
        let history = LockHistory::new();
        for thread in ["old", "ip", "runc"] {
            let waits = vec![
                (group("rtnl_mutex", thread), waited(&[2 * MS, 4 * MS])),
                (group("cgroup_mutex", thread), waited(&[MS])),
            ];
            history.push(second(waits), Vec::new());
        }
        let report = history.report(Duration::from_secs(2), None);
        assert_eq!(report.interval_ms, 2000);
        let rtnl = &report.locks[0];
        assert_eq!((rtnl.lock.as_str(), rtnl.waits), ("rtnl_mutex", 4));
        assert_eq!(
            (rtnl.total_us, rtnl.avg_us, rtnl.max_us),
            (12_000, 3_000, 4_000)
        );
        let threads: Vec<_> = report.waiters.iter().map(|w| w.thread.as_str()).collect();
        assert!(
            !threads.contains(&"old") && threads.contains(&"runc"),
            "{threads:?}"
        );
    }

    #[test]
    fn quantiles_are_right_within_a_quarter_of_a_power_of_two() {
        let times: Vec<_> = (1..=1000).map(|n| n * 10_000).collect();
        let figures = waited(&times);
        for (permille, exact) in [(500, 5_000_000_u64), (990, 9_900_000), (1000, 10_000_000)] {
            let found = figures.quantile_ns(permille);
            assert!(
                found >= exact && found <= exact + exact / 4,
                "{permille}: {found}"
            );
        }
    }

    #[test]
    fn a_second_with_many_waiters_keeps_the_sums_and_forgets_only_names() {
        let history = LockHistory::new();
        let waits = (0..1000).map(|n| (group("rtnl_mutex", &format!("t{n}")), waited(&[MS])));
        history.push(second(waits.collect()), Vec::new());
        let report = history.report(Duration::from_secs(1), Some(1000));
        assert_eq!(report.locks[0].waits, 1000);
        assert!(report.waiters.len() <= GROUPS + 1);
    }

    #[test]
    fn ten_minutes_are_kept_and_no_more() {
        let history = LockHistory::new();
        for _ in 0..INTERVALS + 5 {
            history.push(second(Vec::new()), Vec::new());
        }
        assert_eq!(history.report(Duration::MAX, None).interval_ms, 600_000);
    }
}
