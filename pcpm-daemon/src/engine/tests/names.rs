//! Which slots are shown, and when.

use std::sync::mpsc::{self, Receiver};

use super::*;

/// As many as are shown without waiting.
const AT_ONCE: usize = 16;

struct Names {
    bench: Bench,
    shown: Receiver<Vec<SlotIndex>>,
}

impl Names {
    fn over(bench: Bench) -> Self {
        let (sender, shown) = mpsc::channel();
        bench.engine.borrow_mut().show_with(sender);
        Self { bench, shown }
    }

    /// The slots that are shown now, and whether others wait.
    fn due(&self) -> (Vec<SlotIndex>, bool) {
        let are_left = self.bench.engine.borrow_mut().show_due();
        (self.shown.try_iter().flatten().collect(), are_left)
    }

    fn attach(&self, owners: std::ops::Range<u32>) {
        for owner in owners {
            self.bench.attach(request(&owner.to_string())).unwrap();
        }
    }

    /// As if the daemon had run for so much longer.
    fn later(&self, by: Duration) {
        self.bench.engine.borrow_mut().started -= by;
    }
}

#[test]
fn slots_that_are_next_are_shown_before_and_their_attaches_wait_for_nothing() {
    let names = Names::over(Bench::filled(40));
    assert_eq!(names.due(), ((0..16).collect(), false));
    names.attach(0..1);
    names.later(Duration::from_secs(2));
    assert_eq!(names.due(), (vec![16], false));
}

#[test]
fn a_burst_is_shown_when_it_is_over_but_for_who_is_gone() {
    let names = Names::over(Bench::filled(100));
    assert_eq!(names.due().0.len(), AT_ONCE);
    names.attach(0..100);
    assert_eq!(names.due(), (vec![], true));
    for owner in ["20", "21"] {
        let mut engine = names.bench.engine.borrow_mut();
        engine.detach(owner, None, ROOT).unwrap();
    }
    names.later(Duration::from_secs(1));
    let (shown, are_left) = names.due();
    let expected: Vec<_> = (16..100).filter(|slot| ![20, 21].contains(slot)).collect();
    assert_eq!((shown, are_left), (expected, false));
}

#[test]
fn a_slot_that_was_made_anew_is_shown_again() {
    let names = Names::over(Bench::filled(1));
    assert_eq!(names.due().0, [0]);
    names.attach(0..1);
    assert_eq!(names.due().0, [0; 0]);
    let mut engine = names.bench.engine.borrow_mut();
    engine.detach("0", None, ROOT).unwrap();
    drop(engine);
    names.bench.work();
    assert_eq!(names.due().0, [0]);
}

#[test]
fn nothing_waits_when_the_daemon_ends_and_keeps_what_there_is() {
    let names = Names::over(Bench::filled(100));
    names.due();
    names.attach(0..100);
    names.bench.engine.borrow_mut().show_rest();
    assert_eq!(names.shown.try_iter().flatten().count(), 100 - AT_ONCE);
    assert_eq!(names.due(), (vec![], false));
}
