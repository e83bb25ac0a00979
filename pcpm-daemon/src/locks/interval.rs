//! What happened in one interval, and its bound: the groups that waited most are kept by name, the rest together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use pcpm_api::{times, types::TimeCount};
use pcpm_ebpf::locks::{BUCKETS, bucket_begin_ns, bucket_end_ns};

use super::operation::Operation;

/// Groups of waits, and of blockers, kept of one interval.
pub(super) const GROUPS: usize = 128;

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

/// Threads of one name that held a lock while others waited. Programs that live for a moment only are many, and matter
/// together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Blocker {
    pub(super) lock: Arc<str>,
    pub(super) thread: Arc<str>,
    pub(super) operation: Option<Operation>,
    pub(super) caller: Option<Arc<str>>,
}

/// How long they were waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocked {
    /// The process, if it was one.
    pub(super) pid: Option<u32>,
    /// The thread, if it was one.
    pub(super) tid: Option<u32>,
    pub(super) count: u64,
    pub(super) total_ns: u64,
}

impl Blocked {
    fn add(&mut self, other: &Self) {
        self.pid = self.pid.filter(|_| self.pid == other.pid);
        self.tid = self.tid.filter(|_| self.tid == other.tid);
        self.count += other.count;
        self.total_ns += other.total_ns;
    }
}

/// Adds to the sum of one blocker.
pub(super) fn add_blocked(sums: &mut BTreeMap<Blocker, Blocked>, by: Blocker, more: &Blocked) {
    sums.entry(by)
        .and_modify(|sum| sum.add(more))
        .or_insert(*more);
}

/// What happened in one interval.
#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    /// When it ended, in milliseconds since the Unix epoch.
    pub(super) ended_ms: u64,
    pub(super) length: Duration,
    pub(super) waits: Vec<(Group, Figures)>,
    pub(super) blockers: Vec<(Blocker, Blocked)>,
    pub(super) missed: u64,
    pub(super) long_waits_untold: u64,
}

impl Figures {
    pub(super) fn add(&mut self, other: &Self) {
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

    /// How many waits took how long, by the buckets that clients know. Those of the kernel begin 2.4 % later.
    pub(super) fn times(&self) -> Vec<TimeCount> {
        let mut times = Vec::<TimeCount>::with_capacity(self.histogram.len());
        for &(bucket, count) in &self.histogram {
            let from_us = times::from_us(times::bucket(bucket_begin_ns(bucket.into()) / 1000));
            match times.last_mut() {
                Some(last) if last.from_us == from_us => last.count += u64::from(count),
                _ => times.push(TimeCount {
                    from_us,
                    count: count.into(),
                }),
            }
        }
        times
    }

    /// The end of the bucket that this share of all waits does not exceed.
    pub(super) fn quantile_ns(&self, permille: u64) -> u64 {
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
    pub(super) fn bounded(mut self) -> Self {
        let mut waits = BTreeMap::<_, Figures>::new();
        for (group, figures) in self.waits.drain(..) {
            waits.entry(group).or_default().add(&figures);
        }
        self.waits.extend(waits);
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
        let mut blockers = BTreeMap::new();
        for (blocker, blocked) in self.blockers.drain(..) {
            add_blocked(&mut blockers, blocker, &blocked);
        }
        self.blockers.extend(blockers);
        self.blockers
            .sort_by_key(|(_, blocked)| std::cmp::Reverse(blocked.total_ns));
        self.blockers.truncate(GROUPS);
        self
    }
}
