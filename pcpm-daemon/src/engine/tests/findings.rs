//! What the reaper finds.

use super::*;
use crate::reaper::Finding;

/// Later than anything that a test did.
const LATER: u64 = u64::MAX;

impl Bench {
    fn doubt(&self, slot: SlotIndex, doubt: &str, looked_at_ms: u64) {
        self.engine.borrow_mut().found(Finding::Doubtful {
            slot,
            doubt: doubt.to_owned(),
            looked_at_ms,
        });
    }

    fn mended(&self, slot: SlotIndex, outcome: Result<(), &str>) {
        let outcome = outcome.map_err(str::to_owned);
        let report = Report::Mended { slot, outcome };
        self.engine.borrow_mut().report(report);
    }

    fn told(&self, kind: &str) -> Vec<String> {
        let (events, _) = self.engine.borrow().events.since(0);
        let of_kind = events.into_iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message).collect()
    }

    fn broken(&self, owner: &str) -> Option<String> {
        let engine = self.engine.borrow();
        shown(&engine.get(owner, false, ROOT).unwrap().0.0).broken
    }
}

#[test]
fn an_attached_slot_is_broken_until_it_is_repaired() {
    let bench = Bench::filled(2);
    bench.attach(request("web")).unwrap();
    bench.doubt(0, "its link is down", LATER);
    assert_eq!(*bench.work.mend.borrow(), [0]);
    assert_eq!(bench.broken("web").unwrap(), "its link is down");
    let status = bench.engine.borrow().status();
    assert!(
        status.warnings.iter().any(|w| w.contains("s0000")),
        "{:?}",
        status.warnings
    );
    bench.mended(0, Ok(()));
    assert_eq!(bench.broken("web"), None);
    assert_eq!(bench.told("broken"), ["its link is down"]);
    assert_eq!(bench.told("repaired"), ["was broken: its link is down"]);
}

#[test]
fn a_repair_that_fails_is_told_once_and_tried_with_each_look() {
    let bench = Bench::filled(1);
    bench.attach(request("web")).unwrap();
    for _ in 0..3 {
        bench.doubt(0, "its link is gone", LATER);
        bench.mended(0, Err("EEXIST"));
    }
    assert_eq!(bench.work.mend.borrow().len(), 3);
    let all = [
        "its link is gone",
        "its link is gone, and cannot be repaired: EEXIST",
    ];
    assert_eq!(bench.told("broken"), all);
    bench.engine.borrow_mut().found(Finding::Sound { slot: 0 });
    assert_eq!(bench.told("repaired"), ["was broken: its link is gone"]);
}

#[test]
fn what_was_seen_before_the_attach_is_not_meant() {
    let bench = Bench::filled(1);
    bench.attach(request("web")).unwrap();
    bench.doubt(0, "its link is gone", 1);
    assert_eq!(bench.broken("web"), None);
    assert!(bench.work.mend.borrow().is_empty());
}

#[test]
fn a_slot_is_destroyed_when_its_repair_is_over_and_its_next_holder_hears_nothing_of_it() {
    let bench = Bench::filled(1);
    bench.attach(request("web")).unwrap();
    bench.doubt(0, "its link is gone", LATER);
    bench.engine.borrow_mut().detach("web", None, ROOT).unwrap();
    assert!(bench.work.retire.borrow().is_empty(), "a worker is at it");
    bench.mended(0, Ok(()));
    assert_eq!(*bench.work.retire.borrow(), [0]);
    bench.work();
    bench.attach(request("next")).unwrap();
    assert_eq!(bench.broken("next"), None);
    assert!(bench.told("repaired").is_empty());
}

#[test]
fn slots_of_which_nothing_is_left_are_missed_where_the_reaper_looked() {
    let bench = Bench::filled(3);
    bench.attach(request("web")).unwrap();
    let look = |hubs: &[u32], there: &[SlotIndex]| {
        bench.engine.borrow_mut().found(Finding::Slots {
            hubs: hubs.iter().copied().collect(),
            there: there
                .iter()
                .map(|&slot| (slot, net::Share::default()))
                .collect(),
            looked_at_ms: LATER,
        });
    };
    look(&[], &[]);
    assert!(
        bench.work.mend.borrow().is_empty(),
        "nobody looked at the hub"
    );
    look(&[0], &[2]);
    assert_eq!(*bench.work.mend.borrow(), [0], "who holds it keeps it");
    assert_eq!(*bench.work.retire.borrow(), [1], "nobody holds it");
}
