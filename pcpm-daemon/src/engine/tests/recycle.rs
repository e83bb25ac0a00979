//! What becomes of used slots.

use super::*;
use crate::{
    found::{Found, FoundSlot},
    net::{FreshSlot, Recycled, Scrutiny, Tampered, Unclean, UsedSlot},
};

struct Recycling {
    bench: Bench,
    jobs: RecycleSender,
}

impl Recycling {
    /// A pool of one slot with a golden copy.
    fn new() -> Self {
        let recycling = Self::unseen();
        for fresh in recycling.jobs.take().0 {
            recycling.portray(fresh);
        }
        recycling
    }

    fn of(recycle: Recycle) -> Self {
        let recycling = Self::over(Bench::with_settings(
            settings(2, 1, recycle),
            FakeDatapath::default(),
            MemoryStorage::default(),
        ));
        for fresh in recycling.jobs.take().0 {
            recycling.portray(fresh);
        }
        recycling
    }

    /// One whose slot was not looked at yet.
    fn unseen() -> Self {
        Self::over(Bench::new(1, 1))
    }

    fn over(bench: Bench) -> Self {
        let jobs = RecycleSender::unattended();
        bench.engine.borrow_mut().recycle_with(jobs.clone());
        drop(bench.engine.borrow_mut().start());
        bench.work();
        Self { bench, jobs }
    }

    /// The next life of the daemon, which finds the slot as it should be.
    fn restarted(&self, recycle: Recycle) -> Bench {
        let (datapath, storage) = (
            self.bench.datapath.clone(),
            self.bench.storage.after_crash(),
        );
        let bench = Bench::with_settings(settings(2, 1, recycle), datapath, storage);
        let netns = File::open("/dev/null").unwrap().into();
        let found = FoundSlot {
            index: 0,
            netns: Some(netns),
            share: net::Share::default(),
            doubt: None,
        };
        let mut engine = bench.engine.borrow_mut();
        engine.recycle_with(RecycleSender::unattended());
        engine.restore(Found { slots: vec![found] });
        drop(engine);
        bench
    }

    fn report(&self, report: Report) {
        self.bench.engine.borrow_mut().report(report);
    }

    fn portray(&self, slot: FreshSlot) {
        let golden = Some(Golden::of_nothing());
        self.report(Report::Portrayed { slot, golden });
    }

    fn use_once(&self) {
        self.bench.attach(request("a")).unwrap();
        let mut engine = self.bench.engine.borrow_mut();
        engine.detach("a", None, ROOT).unwrap();
    }

    fn judge(&self, slot: UsedSlot, outcome: Result<(), Unclean>) {
        let recycled = Recycled { slot, outcome };
        let took = Duration::from_micros(9);
        self.report(Report::Judged { recycled, took });
    }

    fn is_destroyed(&self) -> bool {
        *self.bench.work.retire.borrow() == [0]
    }
}

#[test]
fn a_slot_that_is_as_good_as_new_is_handed_out_again_in_another_epoch() {
    let pool = Recycling::new();
    pool.use_once();
    assert!(!pool.is_destroyed());
    let used = pool.jobs.take().1.pop().unwrap();
    pool.judge(used, Ok(()));
    let attachment = shown(&pool.bench.attach(request("b")).unwrap().0);
    assert_eq!((attachment.slot.as_str(), attachment.epoch), ("s0000", 2));
    let totals = pool.bench.engine.borrow().status();
    assert_eq!((totals.recycle.recycled, totals.refill.created), (1, 1));
}

#[test]
fn a_recycled_slot_is_ready_for_the_next_life_and_a_used_one_is_not() {
    let pool = Recycling::new();
    pool.use_once();
    let ready = |pool: &Recycling| {
        let next = pool.restarted(Recycle::Verified);
        let counts = next.engine.borrow().status().slots;
        counts.ready
    };
    assert_eq!(ready(&pool), 0);
    let used = pool.jobs.take().1.pop().unwrap();
    pool.judge(used, Ok(()));
    assert_eq!(ready(&pool), 1);
}

#[test]
fn a_slot_goes_back_to_its_tenant_alone_in_this_life_and_in_the_next() {
    let pool = Recycling::of(Recycle::SameTenant);
    pool.use_once();
    let used = pool.jobs.take().1.pop().unwrap();
    assert_eq!(used.scrutiny, Scrutiny::Holders);
    pool.judge(used, Ok(()));
    let slots = pool.bench.engine.borrow().status().slots;
    assert_eq!(slots.kept, 1);

    let verified = pool.restarted(Recycle::Verified);
    assert_eq!(*verified.work.retire.borrow(), [0], "nobody may have it");

    let next = pool.restarted(Recycle::SameTenant);
    let stranger = types::AttachRequest {
        tenant: Some("stranger".into()),
        on_empty: Some(OnEmpty::Fail),
        ..request("s")
    };
    assert!(next.attach(stranger).is_err());
    let again = shown(&next.attach(request("b")).unwrap().0);
    assert_eq!((again.slot.as_str(), again.epoch), ("s0000", 2));
}

#[test]
fn a_slot_that_is_not_clean_is_destroyed_and_counted() {
    let pool = Recycling::new();
    pool.use_once();
    let used = pool.jobs.take().1.pop().unwrap();
    pool.judge(used, Err(Unclean::planned()));
    assert!(pool.is_destroyed());
    let totals = pool.bench.engine.borrow().status().recycle;
    assert_eq!((totals.recycled, totals.unclean[0].slots), (0, 1));
    assert_eq!(totals.unclean[0].what, "planned");
}

#[test]
fn a_slot_that_was_attached_before_anybody_looked_at_it_is_used_once() {
    let pool = Recycling::unseen();
    let late = pool.jobs.take().0.pop().unwrap();
    pool.bench.attach(request("a")).unwrap();
    pool.portray(late);
    pool.bench
        .engine
        .borrow_mut()
        .detach("a", None, ROOT)
        .unwrap();
    assert!(pool.is_destroyed());
    assert!(pool.jobs.take().1.is_empty());
}

#[test]
fn a_slot_that_its_tenant_changes_is_told_of_and_destroyed() {
    let pool = Recycling::new();
    pool.bench.attach(request("a")).unwrap();
    let how = "it changed a link".to_owned();
    pool.report(Report::Tampered(Tampered { slot: 0, how }));
    let engine = &pool.bench.engine;
    let (events, _) = engine.borrow().events.since(0);
    assert!(events.iter().any(|event| event.kind == "tampered"));
    engine.borrow_mut().detach("a", None, ROOT).unwrap();
    assert!(pool.is_destroyed());
}

#[test]
fn a_slot_that_comes_back_while_the_daemon_stops_is_destroyed() {
    let pool = Recycling::new();
    pool.use_once();
    let used = pool.jobs.take().1.pop().unwrap();
    let mut engine = pool.bench.engine.borrow_mut();
    engine.refuse_everybody();
    drop(engine);
    pool.judge(used, Ok(()));
    assert!(pool.is_destroyed());
}
