//! Classes of slots, from the request to the next life of the daemon.

use super::*;
use crate::{
    found::{Found, FoundSlot},
    net::Share,
    pool::ReserveSettings,
};

/// The class default with two slots and one with two of another MTU, at addresses of its own.
fn two_classes() -> Settings {
    let big = class("big", 2, 2, Recycle::Never);
    Settings {
        classes: vec![
            class("default", 2, 2, Recycle::Never),
            ClassSpec {
                mtu: Some(9000),
                addresses: "10.213.0.16/28".parse().unwrap(),
                pool: ClassSettings {
                    indexes: Some(16..32),
                    ..big.pool.clone()
                },
                ..big
            },
        ],
        ..settings(2, 2, Recycle::Never)
    }
}

fn filled(settings: Settings) -> Bench {
    let bench = Bench::with_settings(settings, FakeDatapath::default(), MemoryStorage::default());
    drop(bench.engine.borrow_mut().start());
    bench.work();
    bench
}

/// The next life of the daemon, with other settings, which finds these slots as they should be.
fn next_life(bench: &Bench, settings: Settings, slots: &[SlotIndex]) -> Bench {
    let (datapath, storage) = (bench.datapath.clone(), bench.storage.after_crash());
    let next = Bench::with_settings(settings, datapath, storage);
    let found = slots.iter().map(|&index| FoundSlot {
        index,
        netns: Some(File::open("/dev/null").unwrap().into()),
        share: Share::default(),
        doubt: None,
    });
    let found = Found {
        slots: found.collect(),
    };
    next.engine.borrow_mut().restore(found);
    next
}

fn of_class(class: &str, owner: &str) -> types::AttachRequest {
    types::AttachRequest {
        class: Some(class.into()),
        on_empty: Some(OnEmpty::Fail),
        ..request(owner)
    }
}

#[test]
fn an_attach_gets_a_slot_of_the_class_it_names() {
    let bench = filled(two_classes());
    let big = shown(&bench.attach(of_class("big", "a")).unwrap().0);
    assert_eq!((big.class.as_str(), big.mtu), ("big", 9000));
    assert_eq!(big.addresses[0], "10.213.0.16");
    let plain = shown(&bench.attach(request("b")).unwrap().0);
    assert_eq!((plain.class.as_str(), plain.mtu), ("default", 1400));
    let (events, _) = bench.engine.borrow().events.since(0);
    let mut attached = events.iter().filter(|event| event.kind == "attached");
    assert_eq!(attached.next().unwrap().class.as_deref(), Some("big"));
}

#[test]
fn a_class_that_is_not_there_is_refused_by_its_name() {
    let bench = filled(two_classes());
    let refused = bench.attach(of_class("huge", "a")).unwrap_err();
    let expected = "there is no class 'huge' (there are: default, big)";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn an_empty_class_says_what_it_has_and_the_others_go_on() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    bench.attach(of_class("big", "b")).unwrap();
    let refused = bench.attach(of_class("big", "c")).unwrap_err();
    assert!(
        matches!(
            refused,
            PoolError::PoolExhausted {
                depth: 0,
                capacity: 2,
                ..
            }
        ),
        "{refused:?}"
    );
    bench.attach(request("d")).unwrap();
}

#[test]
fn an_owner_has_one_attachment_whatever_the_class() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    let refused = bench.attach(of_class("default", "a")).unwrap_err();
    assert!(matches!(refused, PoolError::OwnerExists { ref field, .. } if field == "class"));
}

#[test]
fn the_figures_of_each_class_add_up() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    let status = bench.engine.borrow().status();
    let classes: Vec<_> = status
        .classes
        .iter()
        .map(|class| {
            (
                class.name.as_str(),
                class.slots.ready,
                class.slots.attached,
                class.mtu,
            )
        })
        .collect();
    assert_eq!(classes, [("default", 2, 0, 1400), ("big", 1, 1, 9000)]);
    assert_eq!(
        (
            status.slots.ready,
            status.slots.attached,
            status.slots.capacity
        ),
        (3, 1, 4)
    );
}

#[test]
fn one_class_is_resized_and_drained_without_the_other() {
    let bench = filled(two_classes());
    let mut engine = bench.engine.borrow_mut();
    let resize = |class: &str, capacity| types::ResizeRequest {
        capacity: Some(capacity),
        class: Some(class.into()),
        ..types::ResizeRequest::default()
    };
    assert_eq!(engine.resize(&resize("big", 5)).unwrap().slots.capacity, 5);
    assert!(
        engine.resize(&resize("big", 17)).is_err(),
        "it has 16 addresses"
    );
    assert!(engine.resize(&resize("huge", 1)).is_err());
    let drain = types::DrainRequest {
        class: Some("big".into()),
        ..types::DrainRequest::default()
    };
    engine.drain(&drain).unwrap();
    let draining: Vec<_> = engine
        .status()
        .classes
        .iter()
        .map(|class| class.draining)
        .collect();
    assert_eq!(draining, [false, true]);
    drop(engine);
    assert!(bench.attach(of_class("big", "a")).is_err());
    bench.attach(request("b")).unwrap();
}

#[test]
fn a_class_is_not_made_larger_than_there_are_file_descriptors_for() {
    let mut settings = two_classes();
    settings.most_slots = 6;
    let bench = filled(settings);
    let mut engine = bench.engine.borrow_mut();
    let mut resize = |capacity| {
        engine.resize(&types::ResizeRequest {
            capacity: Some(capacity),
            ..types::ResizeRequest::default()
        })
    };
    let refused = resize(5).unwrap_err().to_string();
    assert_eq!(
        refused,
        "capacity: 5 is not from 1 to 4 (the limit on open files)"
    );
    assert_eq!(resize(4).unwrap().slots.capacity, 4);
}

#[test]
fn a_restart_keeps_who_is_attached_and_what_is_ready_in_its_class() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    let next = next_life(&bench, two_classes(), &[0, 1, 16, 17]);
    let status = next.engine.borrow().status();
    let counts: Vec<_> = status
        .classes
        .iter()
        .map(|class| (class.slots.ready, class.slots.attached))
        .collect();
    assert_eq!(counts, [(2, 0), (1, 1)]);
    assert!(next.work.retire.borrow().is_empty());
}

#[test]
fn slots_that_their_class_would_make_otherwise_now_are_replaced_unless_they_are_held() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    let mut smaller = two_classes();
    smaller.classes[1].mtu = Some(4000);
    let next = next_life(&bench, smaller, &[0, 1, 16, 17]);
    assert_eq!(*next.work.retire.borrow(), [17]);
    let held = shown(&next.engine.borrow().get("a", false, ROOT).unwrap().0.0);
    assert_eq!(held.mtu, 9000);
}

#[test]
fn an_attachment_outlives_its_class_and_its_slot_does_not_outlive_it() {
    let bench = filled(two_classes());
    bench.attach(of_class("big", "a")).unwrap();
    let mut without = two_classes();
    without.classes.pop();
    without.shared = 32;
    let next = next_life(&bench, without, &[0, 1, 16, 17]);
    assert_eq!(*next.work.retire.borrow(), [17], "nobody held it");
    let held = shown(&next.engine.borrow().get("a", false, ROOT).unwrap().0.0);
    assert_eq!(held.class, "big");
    assert!(
        next.attach(of_class("big", "b")).is_err(),
        "there is no such class now"
    );
    let beyond = |bench: &Bench| {
        let status = bench.engine.borrow().status();
        status
            .classes
            .iter()
            .map(|class| class.slots.beyond)
            .collect::<Vec<_>>()
    };
    assert_eq!(beyond(&next), [0, 2]);
    next.engine.borrow_mut().detach("a", None, ROOT).unwrap();
    next.work();
    assert_eq!(beyond(&next), [0], "it is not told of any more");
}

#[test]
fn slots_held_back_are_told_of() {
    let mut settings = settings(4, 4, Recycle::Never);
    settings.classes[0].reservations = vec!["shops".into()];
    settings.classes[0].pool.reserves = vec![ReserveSettings {
        tenants: vec!["shop-*".parse().unwrap()],
        warm: 3,
    }];
    let bench = filled(settings);
    bench.attach(of_class("default", "x")).unwrap();
    assert!(bench.attach(of_class("default", "y")).is_err());
    let shop = types::AttachRequest {
        tenant: Some("shop-eu".into()),
        ..of_class("default", "s")
    };
    bench.attach(shop).unwrap();
    let status = bench.engine.borrow().status();
    let reservation = &status.classes[0].reservations[0];
    assert_eq!(
        (
            reservation.name.as_str(),
            reservation.warm,
            reservation.ready
        ),
        ("shops", 3, 2)
    );
    assert_eq!(reservation.tenants, ["shop-*"]);
    assert_eq!(status.slots.reserved, 2);
}
