//! How far refill is held back so that others do not wait for the rtnl lock because of it. Pure: what was measured goes
//! in, a pace comes out.
//!
//! There are a few paces, each half as fast as the one before. Too many waits that are too long lead to the next slower
//! one, a while without to the next faster one. A faster one that was too fast is tried again after twice that while,
//! and so on: under steady pressure the pace hardly changes. The slowest one still fills the pool.

use std::time::Duration;

use pcpm_ebpf::locks::bucket;

use super::interval::Figures;

/// Paces beside the full one.
const SLOWEST: u32 = 6;
/// Pause before each step of the first of them; three steps of making a slot take the lock.
const SHORTEST_PAUSE: Duration = Duration::from_micros(500);
/// Slots destroyed in one go at full speed. The lock is held all that time, which no pause makes shorter.
const LARGEST_BATCH: usize = 64;
/// How long a pace is kept before a faster one is tried, at first and at most.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a slower pace is given to show, before an even slower one.
const EFFECT: Duration = Duration::from_millis(100);
/// Nobody cares who did not wait for this long.
const QUIET: Duration = Duration::from_secs(2);
/// A single wait that is too long may have other reasons.
const NO_ACCIDENT: u64 = 2;

/// How fast slots are made and destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Before each step that takes the lock.
    pub(crate) pause: Duration,
    /// Slots destroyed in one go, at most.
    pub(crate) batch: usize,
}

impl Pace {
    /// As fast as it goes.
    pub(crate) const FULL: Self = Self {
        pause: Duration::ZERO,
        batch: LARGEST_BATCH,
    };
}

/// Decides on the pace.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    /// What 99 of 100 waits should not be longer than.
    bound: Duration,
    level: u32,
    /// What was measured at this level, and for how long.
    seen: Figures,
    seen_for: Duration,
    patience: Duration,
    /// This level is a trial after a slower one.
    trying: bool,
}

impl Controller {
    pub(super) fn new(bound: Duration) -> Self {
        Self {
            bound,
            level: 0,
            seen: Figures::default(),
            seen_for: Duration::ZERO,
            patience: PATIENCE,
            trying: false,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        match self.level.checked_sub(1) {
            None => Pace::FULL,
            Some(doublings) => Pace {
                pause: SHORTEST_PAUSE * 2_u32.pow(doublings),
                batch: LARGEST_BATCH >> self.level,
            },
        }
    }

    /// Takes the waits of others for our workers in the last `elapsed`.
    pub(super) fn observe(&mut self, waits: &Figures, elapsed: Duration) {
        self.seen.add(waits);
        self.seen_for += elapsed;
        if self.is_too_much() {
            // What is counted began to wait at the pace before. The first answer does not wait.
            if self.level == 0 || self.seen_for >= EFFECT {
                self.slow_down();
            }
        } else if self.seen.count == 0 && self.seen_for >= QUIET {
            self.patience = PATIENCE;
            self.go_on_at(self.level / 2);
        } else if self.seen_for >= self.patience {
            self.trying = self.level > 0;
            self.go_on_at(self.level.saturating_sub(1));
        }
    }

    fn slow_down(&mut self) {
        if self.trying {
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
        }
        self.trying = false;
        self.go_on_at((self.level + 1).min(SLOWEST));
    }

    fn go_on_at(&mut self, level: u32) {
        self.level = level;
        self.seen = Figures::default();
        self.seen_for = Duration::ZERO;
    }

    /// Whether more than one of a hundred waits were longer than the bound.
    fn is_too_much(&self) -> bool {
        let bound = bucket(u64::try_from(self.bound.as_nanos()).unwrap_or(u64::MAX));
        let longer = self
            .seen
            .histogram
            .iter()
            .filter(|(b, _)| usize::from(*b) > bound);
        let longer: u64 = longer.map(|(_, waits)| u64::from(*waits)).sum();
        longer >= NO_ACCIDENT && longer * 100 > self.seen.count
    }
}

#[cfg(test)]
mod tests {
    use pcpm_ebpf::locks::BUCKETS;

    use super::super::interval::figures;
    use super::*;

    const LOOK: Duration = Duration::from_millis(100);
    const BOUND: Duration = Duration::from_millis(2);

    /// So many waits of that length.
    fn waits(count: u32, length: Duration) -> Figures {
        let ns = u64::try_from(length.as_nanos()).unwrap();
        let mut buckets = [0; BUCKETS];
        buckets[bucket(ns)] = count;
        figures(count.into(), ns * u64::from(count), ns, &buckets)
    }

    /// Others whose waits take `at_full_speed` when nobody holds us back, and half of that at each slower pace.
    fn others(controller: &Controller, at_full_speed: Duration) -> Figures {
        waits(20, at_full_speed / 2_u32.pow(controller.level))
    }

    /// The levels of so many seconds.
    fn run(
        controller: &mut Controller,
        seconds: u32,
        load: impl Fn(&Controller) -> Figures,
    ) -> Vec<u32> {
        let looks = 0..seconds * 10;
        looks
            .map(|_| {
                let seen = load(controller);
                controller.observe(&seen, LOOK);
                controller.level
            })
            .collect()
    }

    #[test]
    fn nobody_is_held_back_whom_nobody_waits_for() {
        let mut controller = Controller::new(BOUND);
        for load in [waits(0, BOUND), waits(50, BOUND / 2)] {
            let levels = run(&mut controller, 60, |_| load.clone());
            assert!(levels.iter().all(|&level| level == 0));
        }
        assert_eq!(controller.pace(), Pace::FULL);
    }

    #[test]
    fn pressure_is_answered_within_a_second_and_no_more_than_needed() {
        let mut controller = Controller::new(BOUND);
        let levels = run(&mut controller, 1, |c| others(c, BOUND * 6));
        assert_eq!(levels.last(), Some(&3), "{levels:?}");
    }

    #[test]
    fn the_first_answer_is_at_once_and_each_further_one_waits_for_the_effect() {
        let mut controller = Controller::new(BOUND);
        let levels: Vec<_> = (0..10)
            .map(|_| {
                controller.observe(&waits(20, BOUND * 100), LOOK / 4);
                controller.level
            })
            .collect();
        assert_eq!(levels, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn steady_pressure_keeps_the_pace_steady() {
        let mut controller = Controller::new(BOUND);
        run(&mut controller, 60, |c| others(c, BOUND * 6));
        let levels = run(&mut controller, 300, |c| others(c, BOUND * 6));
        let changes = levels.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!(changes <= 20, "{changes} in 300 s: {levels:?}");
        assert!(
            levels.iter().all(|level| [2, 3].contains(level)),
            "{levels:?}"
        );
        let slow = levels.iter().filter(|&&level| level == 3).count();
        assert!(slow * 100 > levels.len() * 95, "{slow} of {}", levels.len());
    }

    #[test]
    fn the_pool_fills_even_if_nothing_helps() {
        let mut controller = Controller::new(BOUND);
        run(&mut controller, 60, |_| waits(50, BOUND * 100));
        let Pace { pause, batch } = controller.pace();
        assert!(
            pause <= Duration::from_millis(16) && batch >= 1,
            "{pause:?} {batch}"
        );
    }

    #[test]
    fn full_speed_comes_back_soon_when_nobody_waits_any_more() {
        let mut controller = Controller::new(BOUND);
        run(&mut controller, 300, |c| others(c, BOUND * 6));
        let levels = run(&mut controller, 10, |_| Figures::default());
        assert_eq!(levels.last(), Some(&0), "{levels:?}");
    }

    #[test]
    fn one_long_wait_is_an_accident_and_more_than_one_in_a_hundred_are_not() {
        for (longer, level) in [(1, 0), (2, 1)] {
            let mut controller = Controller::new(BOUND);
            let mut seen = waits(100, BOUND / 4);
            seen.add(&waits(longer, BOUND * 10));
            controller.observe(&seen, LOOK);
            assert_eq!(controller.level, level, "{longer} of 100");
        }
        let mut controller = Controller::new(BOUND);
        let mut seen = waits(1000, BOUND / 4);
        seen.add(&waits(5, BOUND * 10));
        controller.observe(&seen, LOOK);
        assert_eq!(
            controller.level, 0,
            "five in a thousand are within the bound"
        );
    }

    #[test]
    fn slower_paces_destroy_fewer_slots_in_one_go() {
        let mut controller = Controller::new(BOUND);
        let mut batches = vec![controller.pace().batch];
        for _ in 0..SLOWEST {
            controller.observe(&waits(10, BOUND * 10), LOOK);
            batches.push(controller.pace().batch);
        }
        assert_eq!(batches, [64, 32, 16, 8, 4, 2, 1]);
    }
}
