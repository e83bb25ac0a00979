//! Waits for the kernel's locks: a table of locks, who waited, who was waited for, and the longest waits.

use std::fmt::Write as _;

use pcpm_api::types::{LockBlocker, LockFrame, LockWaiter, LockWaits, LocksReply, LongWait};

use super::status::section;
use super::table::{Cell, render};
use super::{Hue, Look, escape, humanise};

const LOCK_TITLES: [&str; 9] = [
    "LOCK", "KIND", "WAITS", "TOTAL", "AVG", "P50", "P99", "MAX", "SHARE",
];

/// Everything that was seen.
pub(crate) fn screen(seen: &LocksReply, stacks: bool, look: Look) -> String {
    let observed = humanise::millis(seen.interval_ms);
    if seen.locks.is_empty() {
        return format!("nobody waited for a lock in {observed}\n");
    }
    let rows: Vec<_> = seen
        .locks
        .iter()
        .map(|lock| lock_row(lock, seen.interval_ms))
        .collect();
    let mut text = render(&LOCK_TITLES, &rows, look);
    text += &section("waiters", &waiters(&seen.waiters), look);
    text += &section("blockers", &blockers(&seen.blockers), look);
    text += &longest(&seen.long_waits, stacks, look);
    if look.aligned {
        let _ = write!(text, "\n{observed} observed");
        if seen.missed > 0 {
            let _ = write!(text, ", {} waits not told", humanise::count(seen.missed));
        }
        if seen.long_waits_untold > 0 {
            let untold = humanise::count(seen.long_waits_untold);
            let _ = write!(
                text,
                ", {untold} long waits counted, but not told one by one"
            );
        }
        text += "\n";
    }
    text
}

/// What one second brought: a line for each lock, and the long waits.
pub(crate) fn second(seen: &LocksReply, stacks: bool, look: Look) -> String {
    let rows: Vec<_> = seen
        .locks
        .iter()
        .map(|lock| lock_row(lock, seen.interval_ms))
        .collect();
    let mut text = render(&[], &rows, look);
    for wait in &seen.long_waits {
        text += &one_wait(wait, stacks, look);
    }
    text
}

/// Stacks of long waits with the microseconds waited, as flame graph tools read them.
pub(crate) fn folded(seen: &LocksReply) -> String {
    let mut text = String::new();
    for wait in &seen.long_waits {
        let frames = wait.stack.iter().rev().map(String::as_str);
        let line: Vec<_> = [wait.thread.as_str()].into_iter().chain(frames).collect();
        // A semicolon separates frames, and a space ends them.
        let line = line
            .iter()
            .map(|frame| escape::text(frame).replace([';', ' '], "_"));
        let line = line.collect::<Vec<_>>().join(";");
        let _ = writeln!(text, "{line} {}", wait.waited_us);
    }
    text
}

fn lock_row(lock: &LockWaits, interval_ms: u64) -> Vec<Cell> {
    // All waiters together, so it may be more than the time there was.
    let permille = lock.total_us / interval_ms.max(1);
    let us = |us| Cell::new(humanise::micros(us));
    vec![
        Cell::painted(Hue::Title, &lock.lock),
        Cell::painted(Hue::Faint, &lock.kind),
        Cell::new(humanise::count(lock.waits)),
        us(lock.total_us),
        us(lock.avg_us),
        us(lock.p50_us),
        us(lock.p99_us),
        us(lock.max_us),
        Cell::new(format!("{}.{}%", permille / 10, permille % 10)),
    ]
}

fn waiters(waiters: &[LockWaiter]) -> Vec<Vec<Cell>> {
    let row = |waiter: &LockWaiter| {
        vec![
            Cell::new(&waiter.thread),
            Cell::new(waiter.operation.as_deref().unwrap_or("-")),
            Cell::new(format!("for {}", waiter.lock)),
            Cell::painted(Hue::Faint, format!("in {}", waiter.caller)),
            Cell::new(times(waiter.waits)),
            Cell::new(humanise::micros(waiter.total_us)),
            Cell::painted(
                Hue::Faint,
                format!("max {}", humanise::micros(waiter.max_us)),
            ),
        ]
    };
    waiters.iter().map(row).collect()
}

fn blockers(blockers: &[LockBlocker]) -> Vec<Vec<Cell>> {
    let row = |blocker: &LockBlocker| {
        let caller = blocker.caller.as_deref();
        vec![
            Cell::new(of_blocker(blocker)),
            Cell::new(format!("held {}", blocker.lock)),
            Cell::painted(
                Hue::Faint,
                caller.map_or_else(|| "-".into(), |caller| format!("in {caller}")),
            ),
            Cell::new(times(blocker.waits)),
            Cell::new(humanise::micros(blocker.total_us)),
        ]
    };
    blockers.iter().map(row).collect()
}

fn times(waits: u64) -> String {
    format!("{}x", humanise::count(waits))
}

fn longest(waits: &[LongWait], stacks: bool, look: Look) -> String {
    let rows: Vec<_> = waits.iter().map(wait_row).collect();
    if !stacks {
        return section("longest waits", &rows, look);
    }
    let mut text = section("longest waits", &rows[..rows.len().min(1)], look);
    text += &waits.first().map(stack).unwrap_or_default();
    for wait in waits.iter().skip(1) {
        text += &one_wait(wait, true, look);
    }
    text
}

fn one_wait(wait: &LongWait, stacks: bool, look: Look) -> String {
    let mut text = render(&[], &[wait_row(wait)], look);
    if stacks {
        text += &stack(wait);
    }
    text
}

/// What a second brought for one lock, in a line.
pub(super) fn lock_sentence(lock: &LockWaits, frame: &LockFrame) -> String {
    let mut text = format!(
        "{}: {} waits, {} in all, p99 {}, max {}",
        lock.lock,
        humanise::count(lock.waits),
        humanise::micros(lock.total_us),
        humanise::micros(lock.p99_us),
        humanise::micros(lock.max_us),
    );
    if let Some(waiter) = frame.waiters.iter().find(|w| w.lock == lock.lock) {
        let operation = waiter.operation.as_ref();
        let operation = operation.map_or_else(String::new, |name| format!(" ({name})"));
        let LockWaiter { thread, caller, .. } = waiter;
        let _ = write!(text, "; most by {thread}{operation} in {caller}");
    }
    if let Some(blocker) = frame.blockers.iter().find(|b| b.lock == lock.lock) {
        let _ = write!(text, "; held by {}", of_blocker(blocker));
        if let Some(caller) = &blocker.caller {
            let _ = write!(text, " in {caller}");
        }
    }
    text
}

/// `refill/link waited 3.2ms for rtnl_mutex in rtnl_setlink, held by systemd-networkd(412) in rtnl_newlink`
pub(super) fn wait_sentence(wait: &LongWait) -> String {
    let mut text = format!(
        "{} waited {} for {} in {}",
        who(wait),
        humanise::micros(wait.waited_us),
        wait.lock,
        wait.caller
    );
    let held = held_meanwhile(wait);
    if !held.is_empty() {
        let _ = write!(text, ", {held}");
    }
    text
}

fn who(wait: &LongWait) -> String {
    named(&wait.thread, Some(wait.pid), wait.operation.as_deref())
}

fn of_blocker(blocker: &LockBlocker) -> String {
    named(&blocker.thread, blocker.pid, blocker.operation.as_deref())
}

/// What a worker of ours does says more than its name.
fn named(thread: &str, pid: Option<u32>, operation: Option<&str>) -> String {
    match (operation, pid) {
        (Some(operation), _) => operation.to_owned(),
        (None, Some(pid)) => format!("{thread}({pid})"),
        (None, None) => thread.to_owned(),
    }
}

fn held_meanwhile(wait: &LongWait) -> String {
    let Some(holder) = &wait.holder else {
        return String::new();
    };
    let holder = named(holder, wait.holder_pid, wait.holder_operation.as_deref());
    match &wait.holder_caller {
        Some(caller) => format!("held by {holder} in {caller}"),
        None => format!("held by {holder}"),
    }
}

fn wait_row(wait: &LongWait) -> Vec<Cell> {
    let held = held_meanwhile(wait);
    vec![
        Cell::painted(Hue::Faint, humanise::moment(wait.time_ms)),
        Cell::new(who(wait)),
        Cell::painted(
            Hue::Warning,
            format!("waited {}", humanise::micros(wait.waited_us)),
        ),
        Cell::new(format!("for {}", wait.lock)),
        Cell::painted(Hue::Faint, format!("in {}", wait.caller)),
        Cell::new(if held.is_empty() { "-" } else { &held }),
    ]
}

fn stack(wait: &LongWait) -> String {
    let frames = wait.stack.iter();
    frames.fold(String::new(), |text, frame| {
        text + "        " + &escape::text(frame) + "\n"
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::{PIPE, PLAIN};
    use super::*;

    /// The same as the frame of one second.
    pub(crate) fn frame() -> LockFrame {
        let seen = seen();
        LockFrame {
            sequence: 7,
            time_ms: 1_000,
            interval_ms: 1_000,
            locks: seen.locks,
            waiters: seen.waiters,
            blockers: seen.blockers,
            long_waits: seen.long_waits,
            missed: 0,
            long_waits_untold: 0,
        }
    }

    fn seen() -> LocksReply {
        LocksReply {
            interval_ms: 10_000,
            locks: vec![LockWaits {
                lock: "rtnl_mutex".into(),
                kind: "mutex".into(),
                waits: 20_000,
                total_us: 2_500_000,
                avg_us: 125,
                p50_us: 90,
                p99_us: 2_000,
                max_us: 31_000,
                times: Vec::new(),
            }],
            waiters: vec![LockWaiter {
                lock: "rtnl_mutex".into(),
                caller: "rtnl_newlink".into(),
                thread: "pcpm-refill-0".into(),
                operation: Some("refill/link".into()),
                waits: 3,
                total_us: 9_600,
                max_us: 3_200,
            }],
            blockers: vec![LockBlocker {
                lock: "rtnl_mutex".into(),
                thread: "ev\u{1b}il".into(),
                pid: Some(412),
                tid: Some(412),
                operation: None,
                caller: Some("rtnl_dellink".into()),
                waits: 3,
                total_us: 9_600,
            }],
            long_waits: vec![LongWait {
                time_ms: 0,
                lock: "rtnl_mutex".into(),
                waited_us: 3_200,
                thread: "pcpm-refill-0".into(),
                pid: 1,
                tid: 2,
                operation: Some("refill/link".into()),
                caller: "rtnl_newlink".into(),
                holder: Some("networkd".into()),
                holder_pid: Some(412),
                holder_tid: Some(412),
                holder_operation: None,
                holder_caller: Some("rtnl_dellink".into()),
                stack: vec!["__mutex_lock".into(), "rtnl_newlink".into()],
            }],
            ..LocksReply::default()
        }
    }

    #[test]
    fn a_wait_reads_as_a_sentence() {
        let text = screen(&seen(), false, PLAIN);
        for words in [
            "rtnl_mutex  mutex  20.0k  2.5s   125µs  90µs  2.0ms  31.0ms  25.0%",
            "refill/link  waited 3.2ms  for rtnl_mutex  in rtnl_newlink  held by networkd(412) in rtnl_dellink",
            "10.0s observed",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn stacks_are_shown_innermost_first_and_folded_outermost_first() {
        let text = screen(&seen(), true, PLAIN);
        assert!(
            text.contains("        __mutex_lock\n        rtnl_newlink\n"),
            "{text}"
        );
        let line = "pcpm-refill-0;rtnl_newlink;__mutex_lock 3200\n";
        assert_eq!(folded(&seen()), line);
    }

    #[test]
    fn a_pipe_gets_one_record_a_line() {
        let text = second(&seen(), false, PIPE);
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("rtnl_mutex\tmutex\t"), "{text}");
    }

    #[test]
    fn that_nobody_waited_is_said() {
        let text = screen(
            &LocksReply {
                interval_ms: 10_000,
                ..LocksReply::default()
            },
            false,
            PLAIN,
        );
        assert_eq!(text, "nobody waited for a lock in 10.0s\n");
    }
}
