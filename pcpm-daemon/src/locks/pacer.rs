//! Holds the workers back: looks now and then how long others had to wait for them, and has them pause before steps that
//! take the rtnl lock. Nothing runs while no worker has anything to do.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use pcpm_api::types::Pacing as Figures;
use pcpm_ebpf::locks::Waiters;

use super::{
    LockHistory,
    interval::{self, figures},
    operation::Operation,
    pacing::{Controller, Pace},
};
use crate::bpf::WorkerMarks;

/// How often the workers look at what others waited.
const LOOK: Duration = Duration::from_millis(25);
/// What is told of is of the last one or two of these.
const TOLD: Duration = Duration::from_secs(2);

/// What a worker asks before it takes the rtnl lock.
pub(crate) trait Pacing: Send + Sync {
    /// Returns when the calling thread may begin `operation`.
    fn wait_for_turn(&self, operation: Operation);

    /// How many slots may be destroyed in one go.
    fn batch(&self) -> usize;
}

/// Keeps what others wait for the workers within a bound.
pub(crate) struct Pacer {
    bound: Duration,
    marks: Arc<OnceLock<WorkerMarks>>,
    history: Arc<LockHistory>,
    state: Mutex<State>,
}

struct State {
    controller: Controller,
    looked: Instant,
    /// All waits until then.
    known: Waiters,
    paused: Duration,
    now: Window,
    before: Window,
}

/// What is told of.
#[derive(Clone)]
struct Window {
    begun: Instant,
    waits: interval::Figures,
    slots: u32,
}

impl Window {
    fn begin(now: Instant) -> Self {
        Self {
            begun: now,
            waits: interval::Figures::default(),
            slots: 0,
        }
    }
}

impl Pacer {
    /// One that keeps 99 of 100 waits of others within `bound`, as soon as `marks` are there.
    pub(crate) fn new(
        bound: Duration,
        marks: Arc<OnceLock<WorkerMarks>>,
        history: Arc<LockHistory>,
    ) -> Self {
        let now = Instant::now();
        Self {
            bound,
            marks,
            history,
            state: Mutex::new(State {
                controller: Controller::new(bound),
                looked: now,
                known: Waiters::ZERO,
                paused: Duration::ZERO,
                now: Window::begin(now),
                before: Window::begin(now),
            }),
        }
    }

    /// What it does, and why.
    pub(crate) fn figures(&self) -> Figures {
        let state = self.state();
        let Pace { pause, .. } = state.controller.pace();
        let (waits, slots_per_s) = state.lately(Instant::now());
        let figures = Figures {
            max_rtnl_wait_us: micros(self.bound),
            pause_us: micros(pause),
            paused_ms: u64::try_from(state.paused.as_millis()).unwrap_or(u64::MAX),
            foreign_waits: state.known.count,
            p99_us: waits.quantile_ns(990) / 1000,
            slots_per_s,
            reason: String::new(),
        };
        let reason = match self.history.why_no_rtnl() {
            Some(why) => format!("no effect: {why}"),
            None => explain(&figures),
        };
        Figures { reason, ..figures }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacing for Pacer {
    fn wait_for_turn(&self, operation: Operation) {
        let mut state = self.state();
        let now = Instant::now();
        if now.duration_since(state.looked) >= LOOK
            && let Some(seen) = self.marks.get().and_then(|marks| marks.pressure().ok())
        {
            state.look(&seen, now);
        }
        if operation == Operation::Configure {
            state.now.slots += 1;
        }
        let Pace { pause, .. } = state.controller.pace();
        if pause.is_zero() || !operation.takes_rtnl() {
            return;
        }
        state.paused += pause;
        drop(state);
        thread::sleep(pause);
    }

    fn batch(&self) -> usize {
        self.state().controller.pace().batch
    }
}

impl State {
    /// Takes all waits so far.
    fn look(&mut self, all: &Waiters, now: Instant) {
        let waits = all.since(&self.known);
        let waits = figures(waits.count, waits.total_ns, waits.max_ns, &waits.histogram);
        self.known = *all;
        self.controller
            .observe(&waits, now.duration_since(self.looked));
        self.looked = now;
        if now.duration_since(self.now.begun) >= TOLD {
            self.before = std::mem::replace(&mut self.now, Window::begin(now));
        }
        self.now.waits.add(&waits);
    }

    /// The waits of the last seconds, and how many slots were made in one.
    fn lately(&self, now: Instant) -> (interval::Figures, u64) {
        let mut waits = interval::Figures::default();
        let mut slots = 0;
        let mut since = now;
        for window in [&self.now, &self.before] {
            if now.duration_since(window.begun) <= 2 * TOLD {
                waits.add(&window.waits);
                slots += u64::from(window.slots);
                since = window.begun;
            }
        }
        let length_ms = now.duration_since(since).as_millis().max(1);
        let slots_per_s = slots * 1000 / u64::try_from(length_ms).unwrap_or(u64::MAX);
        (waits, slots_per_s)
    }
}

fn explain(figures: &Figures) -> String {
    let Figures {
        max_rtnl_wait_us,
        pause_us,
        p99_us,
        slots_per_s,
        ..
    } = figures;
    let bound = time(*max_rtnl_wait_us);
    let waits = match p99_us {
        0 => format!("nobody waited for it lately, bound {bound}"),
        _ => format!("foreign rtnl waits p99 {}, bound {bound}", time(*p99_us)),
    };
    match (pause_us, slots_per_s) {
        (_, 0) => format!("idle: {waits}"),
        (0, _) => format!("full speed: {waits}, {slots_per_s}/s"),
        _ => format!("held back: {waits}, {slots_per_s}/s"),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn time(us: u64) -> String {
    match us {
        ..1000 => format!("{us} us"),
        _ => format!("{}.{} ms", us / 1000, us % 1000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use pcpm_ebpf::locks::bucket;

    use super::*;

    const MS: u64 = 1_000_000;

    fn pacer(bound_ms: u64) -> Pacer {
        let history = Arc::new(LockHistory::new());
        Pacer::new(Duration::from_millis(bound_ms), Arc::default(), history)
    }

    /// Adds waits of that length to those so far.
    fn wait(all: &mut Waiters, waits: u32, ns: u64) {
        all.count += u64::from(waits);
        all.total_ns += u64::from(waits) * ns;
        all.max_ns = all.max_ns.max(ns);
        all.histogram[bucket(ns)] += waits;
    }

    #[test]
    fn what_it_does_is_explained_by_what_was_measured() {
        let pacer = pacer(2);
        assert_eq!(
            pacer.figures().reason,
            "idle: nobody waited for it lately, bound 2.0 ms"
        );
        let mut all = Waiters::ZERO;
        wait(&mut all, 10, 3 * MS);
        let mut state = pacer.state();
        let now = state.looked + LOOK;
        state.look(&all, now);
        state.now.slots = 14;
        drop(state);
        let figures = pacer.figures();
        assert!(
            figures
                .reason
                .starts_with("held back: foreign rtnl waits p99 3."),
            "{figures:?}"
        );
        assert!(figures.reason.contains("bound 2.0 ms, "), "{figures:?}");
        assert_eq!((figures.foreign_waits, figures.pause_us), (10, 500));
    }

    #[test]
    fn only_what_is_new_counts_at_each_look() {
        let pacer = pacer(2);
        let mut all = Waiters::ZERO;
        wait(&mut all, 10, 3 * MS);
        let mut state = pacer.state();
        for looks in 1..=5 {
            let now = state.looked + LOOK;
            state.look(&all, now);
            assert_eq!(state.controller.pace().batch, 32, "after {looks}");
        }
    }

    #[test]
    fn steps_that_take_no_rtnl_lock_are_not_held_back() {
        let pacer = pacer(2);
        let mut state = pacer.state();
        let mut all = Waiters::ZERO;
        wait(&mut all, 10, 3 * MS);
        let now = state.looked + LOOK;
        state.look(&all, now);
        drop(state);
        pacer.wait_for_turn(Operation::Mount);
        assert_eq!(pacer.figures().paused_ms, 0);
        pacer.wait_for_turn(Operation::Link);
        pacer.wait_for_turn(Operation::Configure);
        assert_eq!(pacer.figures().paused_ms, 1);
    }
}
