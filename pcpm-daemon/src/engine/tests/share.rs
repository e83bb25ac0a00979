//! Slots with namespaces beside the network one, from the request to the next life of the daemon.

use pcpm_api::types::SharedNamespace;

use super::*;
use crate::{
    found::{Found, FoundSlot},
    net::Share,
    reaper::Finding,
};

const LATER: u64 = u64::MAX;

fn both() -> Share {
    SharedNamespace::ALL.iter().copied().collect()
}

fn sharing(share: Share) -> Settings {
    let plain = settings(2, 2, Recycle::Never);
    let [class] = <[ClassSpec; 1]>::try_from(plain.classes).unwrap();
    Settings {
        classes: vec![ClassSpec { share, ..class }],
        ..settings(2, 2, Recycle::Never)
    }
}

fn filled(share: Share) -> Bench {
    let settings = sharing(share);
    let bench = Bench::with_settings(settings, FakeDatapath::default(), MemoryStorage::default());
    drop(bench.engine.borrow_mut().start());
    for spec in bench.work.create.borrow().iter() {
        assert_eq!(spec.share, share);
    }
    bench.work();
    bench
}

/// The next life of the daemon, whose slots are to share `share` and which finds `there` of both.
fn next_life(bench: &Bench, share: Share, there: Share) -> Bench {
    let (datapath, storage) = (bench.datapath.clone(), bench.storage.after_crash());
    let next = Bench::with_settings(sharing(share), datapath, storage);
    let slots = (0..2).map(|index| FoundSlot {
        share: there,
        ..restart::sound(index)
    });
    let slots = slots.collect();
    next.engine.borrow_mut().restore(Found { slots });
    next
}

fn look(bench: &Bench, there: Share) {
    bench.engine.borrow_mut().found(Finding::Slots {
        hubs: [0].into(),
        there: [(0, there), (1, there)].into(),
        looked_at_ms: LATER,
    });
}

#[test]
fn an_attachment_says_where_its_namespaces_are() {
    let bench = filled(both());
    let held = shown(&bench.attach(request("a")).unwrap().0);
    assert_eq!(held.ipc.as_deref(), Some("/run/pcpm/ipc/s0000"));
    assert_eq!(held.uts.as_deref(), Some("/run/pcpm/uts/s0000"));
    let status = bench.engine.borrow().status();
    assert_eq!(status.classes[0].share, SharedNamespace::ALL);
    let plain = filled(Share::default());
    let held = shown(&plain.attach(request("a")).unwrap().0);
    assert_eq!((held.ipc, held.uts), (None, None));
}

#[test]
fn a_restart_goes_on_with_them() {
    let bench = filled(both());
    bench.attach(request("a")).unwrap();
    let before = bench.show("a");
    let next = next_life(&bench, both(), both());
    assert_eq!(next.show("a"), before);
    assert!(next.work.retire.borrow().is_empty());
}

#[test]
fn a_restart_destroys_ready_slots_that_lack_one_and_tells_of_held_ones() {
    let bench = filled(both());
    bench.attach(request("a")).unwrap();
    let next = next_life(&bench, both(), [SharedNamespace::Ipc].into_iter().collect());
    let broken = next.show("a").broken;
    assert_eq!(broken.as_deref(), Some("its uts namespace is not mounted"));
    assert_eq!(*next.work.retire.borrow(), [1]);
}

#[test]
fn slots_that_are_made_otherwise_now_are_replaced_and_held_ones_stay() {
    let bench = filled(both());
    bench.attach(request("a")).unwrap();
    let before = bench.show("a");
    let next = next_life(&bench, Share::default(), both());
    assert_eq!(next.show("a"), before);
    assert_eq!(*next.work.retire.borrow(), [1]);
    // It goes whatever its class says of used slots now.
    next.detach("a");
    assert_eq!(*next.work.retire.borrow(), [1, 0]);
}

#[test]
fn one_that_is_gone_is_noticed() {
    let bench = filled(both());
    bench.attach(request("a")).unwrap();
    look(&bench, both());
    assert!(bench.show("a").broken.is_none());
    let only_uts = [SharedNamespace::Uts].into_iter().collect();
    look(&bench, only_uts);
    let broken = bench.show("a").broken.unwrap();
    assert_eq!(broken, "its ipc namespace is not mounted");
    assert_eq!(*bench.work.mend.borrow(), [0]);
    assert_eq!(*bench.work.retire.borrow(), [1], "nobody held it");
}
