//! The last ten minutes, second by second, shared between the tracer's thread and the clients' tasks. Bounded, and
//! locked for moments only: whoever adds up intervals does so with references of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use pcpm_api::types::{self, Check, LockFrame, LocksReply};
use tokio::sync::watch;

use super::{
    interval::Interval,
    names,
    state::{self, Known, Rtnl, Unavailable},
    sum::Sum,
    totals::LockTotals,
};

/// Intervals kept.
const INTERVALS: usize = 600;
/// Long waits kept.
const LONG_WAITS: usize = 512;
/// Groups shown unless somebody asks for more.
const TOP: usize = 10;
/// Frames kept for followers that are late.
const FRAMES: usize = 10;
/// Locks in a frame.
const FRAME_LOCKS: usize = 16;
/// Locks, and groups of each kind, in a frame of the past.
const PAST_LOCKS: usize = 8;
const PAST_TOP: usize = 5;

/// What the tracer saw.
#[derive(Debug)]
pub(crate) struct LockHistory {
    kept: Mutex<Kept>,
    changed: watch::Sender<()>,
    known: OnceLock<Known>,
    unavailable: OnceLock<Unavailable>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the interval that comes next.
    next: u64,
    intervals: VecDeque<Arc<Interval>>,
    long_waits: VecDeque<types::LongWait>,
    /// The last intervals as those are told who follow; made once for all of them, and not by the thread that serves
    /// them.
    frames: VecDeque<Arc<LockFrame>>,
    totals: LockTotals,
}

impl LockHistory {
    pub(super) fn new() -> Self {
        Self {
            kept: Mutex::default(),
            changed: watch::Sender::new(()),
            known: OnceLock::new(),
            unavailable: OnceLock::new(),
        }
    }

    /// This much is known of the kernel.
    pub(super) fn knows(&self, known: Known) {
        self.known.get_or_init(|| known);
    }

    /// What there is to see, and how it was found; or why there is nothing, and what to do about it.
    pub(crate) fn check(&self) -> Check {
        state::check(self.known.get(), self.unavailable.get())
    }

    /// Why nobody knows who waits for the rtnl lock, if nobody does.
    pub(super) fn why_no_rtnl(&self) -> Option<String> {
        if let Some(reason) = self.why_unavailable() {
            return Some(format!("no lock insight: {reason}"));
        }
        let known = self.known.get()?;
        (known.rtnl == Rtnl::Callers).then(|| "the rtnl lock was not found".to_owned())
    }

    /// Nothing more is seen, for this reason.
    pub(super) fn end(&self, reason: Unavailable) {
        self.unavailable.get_or_init(|| reason);
        self.changed.send_modify(|()| ());
    }

    pub(super) fn push(&self, interval: Interval, long_waits: Vec<types::LongWait>) {
        let interval = interval.bounded();
        let mut frame = frame(&interval, FRAME_LOCKS, TOP);
        frame.long_waits = longest(long_waits.iter(), TOP);
        let mut kept = self.kept();
        frame.sequence = kept.next;
        kept.next += 1;
        kept.totals.add(&interval);
        append(&mut kept.intervals, [Arc::new(interval)], INTERVALS);
        append(&mut kept.frames, [Arc::new(frame)], FRAMES);
        append(&mut kept.long_waits, long_waits, LONG_WAITS);
        drop(kept);
        self.changed.send_modify(|()| ());
    }

    /// Waits since the beginning.
    pub(crate) fn totals(&self) -> LockTotals {
        self.kept().totals.clone()
    }

    /// Told whenever there is one more interval, and when there will be none.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Why there is nothing to see, if there never will be.
    pub(crate) fn why_unavailable(&self) -> Option<&str> {
        self.unavailable.get().map(|why| why.reason.as_str())
    }

    /// What the intervals of the last `last` add up to, with the `top` of each kind, and with `history` each of them
    /// by itself. Takes a while where there are many.
    pub(crate) fn report(&self, last: Duration, top: Option<usize>, history: bool) -> LocksReply {
        let top = top.unwrap_or(TOP);
        let (intervals, first) = self.intervals(last);
        let sum = Sum::of(intervals.iter().map(AsRef::as_ref));
        LocksReply {
            interval_ms: sum.length_ms(),
            unavailable: self.why_unavailable().map(str::to_owned),
            locks: sum.locks(),
            waiters: sum.waiters(top),
            blockers: sum.blockers(top),
            long_waits: self.long_waits(sum.length_ms(), top),
            missed: sum.missed,
            long_waits_untold: sum.long_waits_untold,
            history: history.then(|| past(&intervals, first, top)),
        }
    }

    /// The intervals of the last `last`, oldest first, and the number of the first of them.
    fn intervals(&self, last: Duration) -> (Vec<Arc<Interval>>, u64) {
        let kept = self.kept();
        let mut length = Duration::ZERO;
        let recent = kept.intervals.iter().rev().take_while(|interval| {
            let wanted = length < last;
            length += interval.length;
            wanted
        });
        let mut recent: Vec<_> = recent.cloned().collect();
        recent.reverse();
        let first = kept.next - recent.len() as u64;
        (recent, first)
    }

    fn long_waits(&self, last_ms: u64, top: usize) -> Vec<types::LongWait> {
        let since = super::now_ms().saturating_sub(last_ms);
        let kept = self.kept();
        longest(
            kept.long_waits.iter().filter(|wait| wait.time_ms >= since),
            top,
        )
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who is told of each interval.
pub(crate) struct LockFollower {
    history: Arc<LockHistory>,
    changes: watch::Receiver<()>,
    /// The number of the first interval not told yet.
    next: u64,
}

impl LockFollower {
    /// One who is told of the last interval first.
    pub(crate) fn new(history: &Arc<LockHistory>) -> Self {
        Self {
            history: history.clone(),
            changes: history.changes(),
            next: history.kept().next.saturating_sub(1),
        }
    }

    /// Returns when there is something to tell.
    pub(crate) async fn changed(&mut self) {
        // The history, and so the sender, lives as long as this.
        let _changed = self.changes.changed().await;
    }

    /// The intervals not told yet, those that are remembered.
    pub(crate) fn frames(&mut self) -> Vec<LockFrame> {
        let kept = self.history.kept();
        let untold = kept.frames.iter().filter(|f| f.sequence >= self.next);
        let untold: Vec<_> = untold.cloned().collect();
        self.next = kept.next;
        drop(kept);
        untold.into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Why there are none, if there never will be.
    pub(crate) fn why_unavailable(&self) -> Option<String> {
        self.history.why_unavailable().map(str::to_owned)
    }
}

/// Appends, and forgets what is older than the last `most`.
fn append<T>(queue: &mut VecDeque<T>, items: impl IntoIterator<Item = T>, most: usize) {
    queue.extend(items);
    queue.drain(..queue.len().saturating_sub(most));
}

fn longest<'a>(
    waits: impl Iterator<Item = &'a types::LongWait>,
    top: usize,
) -> Vec<types::LongWait> {
    let mut waits: Vec<_> = waits.collect();
    waits.sort_by_key(|wait| std::cmp::Reverse(wait.waited_us));
    waits.into_iter().take(top).cloned().collect()
}

/// An interval by itself, without its number and its long waits.
fn frame(interval: &Interval, locks: usize, top: usize) -> LockFrame {
    let sum = Sum::of([interval]);
    LockFrame {
        time_ms: interval.ended_ms,
        interval_ms: sum.length_ms(),
        locks: sum.locks().into_iter().take(locks).collect(),
        waiters: sum.waiters(top),
        blockers: sum.blockers(top),
        missed: sum.missed,
        long_waits_untold: sum.long_waits_untold,
        ..LockFrame::default()
    }
}

fn past(intervals: &[Arc<Interval>], first: u64, top: usize) -> Vec<LockFrame> {
    let numbered = (first..).zip(intervals);
    let frames = numbered.map(|(sequence, interval)| {
        let mut frame = frame(interval, PAST_LOCKS, top.min(PAST_TOP));
        frame.sequence = sequence;
        // Ten minutes of all locks would be megabytes.
        let others = frame.locks.iter_mut().filter(|l| l.lock != names::RTNL);
        others.for_each(|lock| lock.times.clear());
        frame
    });
    frames.collect()
}

#[cfg(test)]
mod tests {
    use pcpm_ebpf::locks::{BUCKETS, bucket};

    use super::*;
    use crate::locks::interval::{Figures, GROUPS, Group, figures};

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
        let report = history.report(Duration::from_secs(2), None, false);
        assert_eq!(report.interval_ms, 2000);
        let rtnl = &report.locks[0];
        assert_eq!((rtnl.lock.as_str(), rtnl.waits), ("rtnl_mutex", 4));
        assert_eq!(
            (rtnl.total_us, rtnl.avg_us, rtnl.max_us),
            (12_000, 3_000, 4_000)
        );
        let times: Vec<_> = rtnl.times.iter().map(|t| (t.from_us, t.count)).collect();
        assert_eq!(times, [(1792, 2), (3584, 2)]);
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
        let report = history.report(Duration::from_secs(1), Some(1000), false);
        assert_eq!(report.locks[0].waits, 1000);
        assert!(report.waiters.len() <= GROUPS + 1);
    }

    #[test]
    fn ten_minutes_are_kept_and_no_more() {
        let history = LockHistory::new();
        for _ in 0..INTERVALS + 5 {
            history.push(second(Vec::new()), Vec::new());
        }
        assert_eq!(
            history.report(Duration::MAX, None, false).interval_ms,
            600_000
        );
    }

    fn long_wait(waited_us: u64) -> types::LongWait {
        types::LongWait {
            time_ms: crate::locks::now_ms(),
            waited_us,
            ..types::LongWait::default()
        }
    }

    #[test]
    fn a_follower_is_told_each_interval_once_and_what_it_missed_shows_in_the_numbers() {
        let history = Arc::new(LockHistory::new());
        let push = |thread| {
            let waits = vec![(group("rtnl_mutex", thread), waited(&[MS]))];
            history.push(second(waits), vec![long_wait(10), long_wait(30)]);
        };
        push("before");
        let mut follower = LockFollower::new(&history);
        let told = |follower: &mut LockFollower| -> Vec<_> {
            follower
                .frames()
                .iter()
                .map(|frame| frame.sequence)
                .collect()
        };
        assert_eq!(told(&mut follower), [0]);
        assert!(told(&mut follower).is_empty());
        push("ip");
        let frames = follower.frames();
        assert_eq!((frames[0].sequence, frames[0].locks[0].waits), (1, 1));
        assert_eq!(frames[0].waiters[0].thread, "ip");
        assert_eq!(frames[0].long_waits[0].waited_us, 30);
        (0..2 * FRAMES).for_each(|_| push("ip"));
        let late = told(&mut follower);
        assert_eq!((late.len(), late[0]), (FRAMES, 2 + FRAMES as u64));
    }

    #[test]
    fn a_frame_is_bounded_whatever_happened() {
        let history = Arc::new(LockHistory::new());
        let waits = (0..1000).map(|n| (group(&format!("lock{n}"), "t"), waited(&[n * MS])));
        history.push(second(waits.collect()), (0..1000).map(long_wait).collect());
        let frame = LockFollower::new(&history).frames().remove(0);
        assert_eq!(
            (
                frame.locks.len(),
                frame.waiters.len(),
                frame.long_waits.len()
            ),
            (FRAME_LOCKS, TOP, TOP)
        );
        assert_eq!(frame.locks[0].lock, "lock999");
        assert_eq!(frame.long_waits[0].waited_us, 999);
    }

    #[test]
    fn history_has_the_same_numbers_as_the_frames() {
        let history = Arc::new(LockHistory::new());
        for thread in ["a", "b", "c"] {
            let waits = vec![(group("rtnl_mutex", thread), waited(&[MS]))];
            history.push(second(waits), Vec::new());
        }
        let report = history.report(Duration::from_secs(2), None, true);
        let past = report.history.unwrap();
        let told: Vec<_> = past
            .iter()
            .map(|f| (f.sequence, f.waiters[0].thread.as_str()))
            .collect();
        assert_eq!(told, [(1, "b"), (2, "c")]);
        assert_eq!(LockFollower::new(&history).frames()[0].sequence, 2);
        assert_eq!(history.report(Duration::MAX, None, false).history, None);
    }
}
