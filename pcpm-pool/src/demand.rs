//! How many slots to keep ready, from what was asked for lately.
//!
//! Every attach is noted with its *depth*: how far attaches are ahead of the refill with it, that is,
//! how many slots would have had to be ready for it to find one. Attaches move ahead by one each, the
//! refill catches up at the rate it was measured at. Depths of the last while are kept in a histogram;
//! its percentile is the number of ready slots with which all but one attach in [`Adaptive::one_in`]
//! would have found one. The target is a third more.
//!
//! It is raised at once, while a burst is under way, and lowered slowly.

use std::{collections::VecDeque, time::Duration};

use hdrhistogram::Histogram;

use super::Now;

/// Parts that the window is forgotten in.
const SLICES: u32 = 10;

/// How often the target is thought over.
const DECIDE_EVERY: Duration = Duration::from_secs(1);

/// Part of the way down that the target goes each time.
const LOWER_BY: u32 = 64;

/// The time to make a slot until one was measured.
const FIRST_INTERVAL: Duration = Duration::from_millis(2);

/// Weight of one measurement of that time.
const SMOOTH: u32 = 16;

/// The most slots that depths are told apart for.
const DEEPEST: u64 = 65_536;

/// How the warm target is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This many.
    Fixed(u32),
    /// What demand asks for.
    Adaptive(Adaptive),
}

/// Bounds of a target that follows demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// The target before anything is known.
    pub first: u32,
    /// Never fewer.
    pub floor: u32,
    /// Never more.
    pub ceiling: u32,
    /// Of this many attaches one may find nothing ready.
    pub one_in: u32,
    /// How long an attach is remembered.
    pub window: Duration,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            first: 8,
            floor: 8,
            ceiling: 64,
            one_in: 1000,
            window: Duration::from_mins(10),
        }
    }
}

/// A target and what led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Ready slots aimed for.
    pub target: u32,
    /// The deepest that attaches were ahead of the refill, all but one in [`Adaptive::one_in`].
    pub burst: u32,
    /// What made it that many.
    pub why: Why,
}

/// Why the target is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is set.
    Fixed,
    /// What was asked for until now asks for fewer, but that may not be all.
    Unknown,
    /// The burst, and a third more.
    Burst,
    /// The burst asks for fewer.
    Floor,
    /// The burst asks for more.
    Ceiling,
    /// A burst of this depth is under way.
    UnderWay(u32),
    /// It was higher and goes down to this.
    Lowering(u32),
}

/// What is known of the demand.
#[derive(Debug)]
pub(super) struct Demand {
    setting: Target,
    decision: Decision,
    decided_at: Now,
    /// When the refill will have caught up with all attaches.
    caught_up: Now,
    refill: RefillRate,
    depths: Depths,
}

impl Demand {
    pub(super) fn new(setting: Target) -> Self {
        Self {
            setting,
            decision: first_decision(setting),
            decided_at: Now::ZERO,
            caught_up: Now::ZERO,
            refill: RefillRate::default(),
            depths: Depths::default(),
        }
    }

    pub(super) fn target(&self) -> u32 {
        self.decision.target
    }

    pub(super) fn decision(&self) -> Decision {
        self.decision
    }

    pub(super) fn setting(&self) -> Target {
        self.setting
    }

    /// Another way to find the target; what is known of the demand is kept.
    pub(super) fn set(&mut self, setting: Target) {
        if setting == self.setting {
            return;
        }
        let before = self.decision.target;
        self.setting = setting;
        self.decision = first_decision(setting);
        if let Target::Adaptive(bounds) = setting {
            self.decision.target = bounds.clamped(before);
        }
    }

    /// Slots a second that the refill was measured to make.
    pub(super) fn refill_per_s(&self) -> u32 {
        self.refill.per_s()
    }

    /// A request takes a slot, now or when one is ready.
    pub(super) fn taken(&mut self, now: Now) {
        self.caught_up = self.caught_up.max(now) + self.refill.interval;
        self.asked(self.depth(now), now);
    }

    /// A request was refused for want of a slot. One more would have been needed; that it may come again
    /// at once does not make a crowd of it.
    pub(super) fn missed(&mut self, now: Now) {
        self.asked(self.depth(now).saturating_add(1), now);
    }

    /// A slot was made, and `busy` says whether others had been in creation since the one before.
    pub(super) fn made(&mut self, now: Now, busy: bool) {
        self.refill.made(now, busy);
    }

    /// Thinks the target over if it is time.
    pub(super) fn tick(&mut self, now: Now) {
        if self.next_tick().is_none_or(|due| now < due) {
            return;
        }
        let Target::Adaptive(bounds) = self.setting else {
            return;
        };
        self.decided_at = now;
        self.depths.forget(bounds.slice(now));
        self.decision = self.thought_over(bounds, now);
    }

    /// When to think it over next; never while nothing would change.
    pub(super) fn next_tick(&self) -> Option<Now> {
        let Target::Adaptive(bounds) = self.setting else {
            return None;
        };
        let settled = self.depths.is_empty() && self.decision.target <= bounds.floor;
        (!settled).then_some(self.decided_at + DECIDE_EVERY)
    }

    /// How many slots attaches are ahead of the refill.
    fn depth(&self, now: Now) -> u32 {
        let ahead = self.caught_up.saturating_sub(now).as_nanos();
        let depth = ahead.div_ceil(self.refill.interval.as_nanos());
        u32::try_from(depth).unwrap_or(u32::MAX)
    }

    fn asked(&mut self, depth: u32, now: Now) {
        let Target::Adaptive(bounds) = self.setting else {
            return;
        };
        if self.depths.is_empty() {
            // It may have been settled, and then nobody was ticking.
            self.decided_at = now;
        }
        self.depths.note(depth, bounds.slice(now));
        let wanted = bounds.wanted(depth);
        if wanted > self.decision.target {
            self.decision.target = wanted;
            self.decision.why = Why::UnderWay(depth);
        }
    }

    /// The decision from what is remembered: a higher target at once, a lower one step by step, and not
    /// before the window has passed once: what is not known is not known to be little.
    fn thought_over(&self, bounds: Adaptive, now: Now) -> Decision {
        let burst = self.depths.all_but_one_in(bounds.one_in);
        let wanted = bounds.wanted(burst);
        let before = self.decision.target;
        let (target, why) = if wanted < before && now < bounds.window {
            (before, Why::Unknown)
        } else if wanted < before {
            let step = (before - wanted).div_ceil(LOWER_BY);
            (before - step, Why::Lowering(wanted))
        } else if wanted == bounds.ceiling {
            (wanted, Why::Ceiling)
        } else if wanted == bounds.floor {
            (wanted, Why::Floor)
        } else {
            (wanted, Why::Burst)
        };
        Decision { target, burst, why }
    }
}

fn first_decision(setting: Target) -> Decision {
    let (target, why) = match setting {
        Target::Fixed(target) => (target, Why::Fixed),
        Target::Adaptive(bounds) => (bounds.clamped(bounds.first), Why::Unknown),
    };
    let burst = 0;
    Decision { target, burst, why }
}

impl Adaptive {
    /// The target for a burst.
    fn wanted(&self, burst: u32) -> u32 {
        self.clamped(burst.saturating_add(burst.div_ceil(3)))
    }

    fn clamped(&self, target: u32) -> u32 {
        target.max(self.floor).min(self.ceiling)
    }

    /// The number of the slice that `now` is in.
    fn slice(&self, now: Now) -> u64 {
        let slice = (self.window / SLICES).max(Duration::from_millis(1));
        u64::try_from(now.as_nanos() / slice.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// How fast slots are made, while there is more than one to make.
#[derive(Debug)]
struct RefillRate {
    /// Between two slots, smoothed.
    interval: Duration,
    last: Option<Now>,
}

impl Default for RefillRate {
    fn default() -> Self {
        Self {
            interval: FIRST_INTERVAL,
            last: None,
        }
    }
}

impl RefillRate {
    fn made(&mut self, now: Now, busy: bool) {
        if let Some(last) = self.last.filter(|_| busy) {
            let measured = now.saturating_sub(last);
            let smoothed = (self.interval * (SMOOTH - 1) + measured) / SMOOTH;
            self.interval = smoothed.max(Duration::from_micros(1));
        }
        self.last = Some(now);
    }

    fn per_s(&self) -> u32 {
        let per_s = Duration::from_secs(1).as_nanos() / self.interval.as_nanos();
        u32::try_from(per_s).unwrap_or(u32::MAX)
    }
}

/// Depths of the attaches of the last window, forgotten a slice at a time.
#[derive(Debug)]
struct Depths {
    all: Histogram<u32>,
    slices: VecDeque<(u64, Histogram<u32>)>,
}

impl Default for Depths {
    fn default() -> Self {
        Self {
            all: histogram(),
            slices: VecDeque::new(),
        }
    }
}

impl Depths {
    fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    fn note(&mut self, depth: u32, slice: u64) {
        if self.slices.back().is_none_or(|&(last, _)| last != slice) {
            self.slices.push_back((slice, histogram()));
            self.forget(slice);
        }
        let depth = u64::from(depth);
        self.all.saturating_record(depth);
        if let Some((_, histogram)) = self.slices.back_mut() {
            histogram.saturating_record(depth);
        }
    }

    /// Forgets what is older than the window that ends with slice `now`.
    fn forget(&mut self, now: u64) {
        let oldest = now.saturating_sub(u64::from(SLICES));
        while self
            .slices
            .front()
            .is_some_and(|&(slice, _)| slice < oldest)
        {
            if let Some((_, old)) = self.slices.pop_front() {
                self.all
                    .subtract(old)
                    .expect("what is forgotten was counted in both");
            }
        }
    }

    /// The depth that at most one in `one_in` attaches exceeded; 0 if there were none.
    fn all_but_one_in(&self, one_in: u32) -> u32 {
        if self.all.is_empty() {
            return 0;
        }
        let depth = self
            .all
            .value_at_quantile(1.0 - 1.0 / f64::from(one_in.max(1)));
        u32::try_from(self.all.lowest_equivalent(depth)).unwrap_or(u32::MAX)
    }
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, DEEPEST, 2).expect("these bounds are valid")
}

#[cfg(test)]
mod tests;
