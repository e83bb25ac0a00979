//! A daemon that is killed at any moment, and the next one.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::*;
use crate::{
    found::{Found, FoundSlot},
    journal::{
        Known,
        fake::{Fault, Power},
    },
    net::Share,
};

impl Bench {
    /// The daemon is killed and another one starts. It finds the slots that are there, as they should be.
    fn killed(&self) -> Self {
        self.killed_and_found(self.there().into_iter().map(sound).collect())
    }

    pub(super) fn killed_and_found(&self, slots: Vec<FoundSlot>) -> Self {
        let counts = self.engine.borrow().status().slots;
        let datapath = FakeDatapath {
            power: Power::default(),
            ..self.datapath.clone()
        };
        let storage = self.storage.after_crash();
        let quotas = Quotas::default();
        let next = Self::over(counts.capacity, counts.target, quotas, datapath, storage);
        next.engine.borrow_mut().restore(Found { slots });
        drop(next.engine.borrow_mut().start());
        next
    }

    /// Slots of which something is there.
    pub(super) fn there(&self) -> BTreeSet<SlotIndex> {
        let engine = self.engine.borrow();
        let slots = 0..engine.status().slots.capacity;
        let is_there = |state| !matches!(state, SlotState::Vacant | SlotState::Creating);
        slots
            .filter(|&slot| is_there(engine.pool.state(slot)))
            .collect()
    }

    pub(super) fn owners(&self) -> Vec<String> {
        let engine = self.engine.borrow();
        engine
            .list(&types::ListRequest::default())
            .iter()
            .map(|held| shown(held).owner)
            .collect()
    }

    pub(super) fn show(&self, owner: &str) -> types::Attachment {
        let engine = self.engine.borrow();
        shown(&engine.get(owner, false, ROOT).unwrap().0.0)
    }

    pub(super) fn detach(&self, owner: &str) {
        self.engine.borrow_mut().detach(owner, None, ROOT).unwrap();
    }

    pub(super) fn state(&self, slot: SlotIndex) -> SlotState {
        self.engine.borrow().pool.state(slot)
    }

    pub(super) fn events(&self, kind: &str) -> Vec<String> {
        let (events, _) = self.engine.borrow().events.since(0);
        let of_kind = events.into_iter().filter(|event| event.kind == kind);
        of_kind.map(|event| event.message).collect()
    }
}

pub(super) fn sound(index: SlotIndex) -> FoundSlot {
    FoundSlot {
        index,
        netns: Some(File::open("/dev/null").unwrap().into()),
        share: Share::default(),
        doubt: None,
    }
}

pub(super) fn with_everything(owner: &str) -> types::AttachRequest {
    types::AttachRequest {
        tenant: Some("red".into()),
        labels: Some([("pod".into(), "web-1".into())].into()),
        publish: Some(vec!["8080:80".into()]),
        allow: Some(vec!["192.0.2.0/24".into(), "*.example.org".into()]),
        deny: Some(vec!["0.0.0.0/0".into()]),
        rate_up: Some(1_000_000),
        ..request(owner)
    }
}

#[test]
fn attachments_go_on_as_they_were() {
    let bench = Bench::filled(4);
    bench.datapath.counters.borrow_mut().sent_packets = 3;
    bench.attach(request("plain")).unwrap();
    bench.attach(with_everything("all")).unwrap();
    let before = [bench.show("plain"), bench.show("all")];
    let published = bench.datapath.published.borrow().clone();
    let settings = bench.datapath.settings.borrow().clone();
    let policies = bench.datapath.policies.borrow().clone();
    let names = bench.datapath.names.borrow().clone();

    let next = bench.killed();
    assert_eq!([next.show("plain"), next.show("all")], before);
    assert_eq!(
        *next.datapath.published.borrow(),
        published,
        "no word changed"
    );
    assert_eq!(*next.datapath.settings.borrow(), settings);
    assert_eq!(*next.datapath.policies.borrow(), policies);
    assert_eq!(*next.datapath.names.borrow(), names);
    assert_eq!(
        next.ports.bound.borrow().len(),
        1,
        "the port is reserved again"
    );
    let counts = next.engine.borrow().status().slots;
    assert_eq!((counts.attached, counts.ready), (2, 2));
    assert!(next.work.retire.borrow().is_empty() && next.work.create.borrow().is_empty());
}

#[test]
fn a_retry_after_the_restart_gets_the_same_attachment() {
    let bench = Bench::filled(2);
    bench.attach(with_everything("a")).unwrap();
    let before = bench.show("a");
    let next = bench.killed();
    let again = next.attach(with_everything("a")).unwrap();
    assert_eq!(shown(&again.0), before);
}

#[test]
fn traffic_is_counted_on() {
    let bench = Bench::filled(1);
    bench.attach(request("first")).unwrap();
    bench.datapath.counters.borrow_mut().sent_packets = 5;
    bench.detach("first");
    bench.work();
    bench.attach(request("second")).unwrap();
    bench.datapath.counters.borrow_mut().sent_packets = 7;
    let next = bench.killed();
    let (_, used) = next.engine.borrow().get("second", false, ROOT).unwrap();
    assert_eq!(used.traffic.sent_packets, 2);
}

#[test]
fn ids_tenants_and_rules_never_get_the_number_of_another() {
    let bench = Bench::filled(2);
    bench.attach(with_everything("a")).unwrap();
    let id = bench.show("a").id;
    let tenant = bench.last_word().1.tenant();
    let policy = bench.datapath.settings.borrow()[&0].policy;
    bench.detach("a");
    bench.work();
    let next = bench.killed();
    let other = types::AttachRequest {
        tenant: Some("blue".into()),
        allow: Some(vec!["198.51.100.0/24".into()]),
        ..request("b")
    };
    next.attach(other).unwrap();
    assert_ne!(next.show("b").id, id);
    assert_ne!(next.last_word().1.tenant(), tenant);
    let settings = next.datapath.settings.borrow();
    let policies: Vec<_> = settings.values().map(|settings| settings.policy).collect();
    assert!(policies.iter().any(|&now| now > policy), "{policies:?}");
}

#[test]
fn what_nobody_uses_any_more_is_removed_from_the_tables() {
    let bench = Bench::filled(2);
    bench.attach(with_everything("a")).unwrap();
    bench.detach("a");
    assert!(
        !bench.datapath.policies.borrow().is_empty(),
        "the rules rest"
    );
    let next = bench.killed();
    assert!(next.datapath.policies.borrow().is_empty());
    assert!(next.datapath.names.borrow().is_empty());
}

#[test]
fn a_slot_that_was_used_is_destroyed_however_far_that_had_come() {
    let bench = Bench::filled(2);
    bench.attach(request("a")).unwrap();
    bench.detach("a");
    let next = bench.killed();
    assert_eq!(*next.work.retire.borrow(), [0]);
    // Also by the one after, if this one does not get to it.
    let after = next.killed();
    assert_eq!(*after.work.retire.borrow(), [0]);
    after.work();
    assert_eq!(after.engine.borrow().status().slots.ready, 2);
}

#[test]
fn an_attach_cut_short_before_the_word_is_completed() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    let word = bench.datapath.published.borrow_mut().pop().unwrap();
    let next = bench.killed();
    assert_eq!(next.owners(), ["a"]);
    assert_eq!(next.last_word(), word);
}

#[test]
fn a_detach_cut_short_after_the_word_is_finished() {
    let bench = Bench::filled(1);
    bench.attach(with_everything("a")).unwrap();
    bench.datapath.publish(0, AttachmentWord::detached(1));
    let next = bench.killed();
    assert!(next.owners().is_empty());
    assert!(next.datapath.ports.borrow().is_empty());
    assert_eq!(*next.work.retire.borrow(), [0]);
}

impl FakeDatapath {
    fn publish(&self, slot: u32, word: AttachmentWord) {
        self.published.borrow_mut().push((slot, word));
    }
}

#[test]
fn a_slot_that_lets_packets_pass_for_nobody_is_cut_and_destroyed() {
    let bench = Bench::filled(2);
    bench.datapath.publish(1, AttachmentWord::attached(4, 9));
    let next = bench.killed();
    assert_eq!(next.last_word(), (1, AttachmentWord::detached(4)));
    assert_eq!(*next.work.retire.borrow(), [1]);
    next.work();
    next.attach(request("a")).unwrap();
    next.attach(request("b")).unwrap();
    assert_eq!(next.last_word().1.epoch(), 5, "epochs only grow");
}

#[test]
fn an_attachment_whose_slot_was_damaged_is_told_as_broken_and_repaired() {
    let bench = Bench::filled(2);
    bench.attach(with_everything("a")).unwrap();
    let damaged = || {
        let doubt = Some("its link is gone".to_owned());
        vec![FoundSlot { doubt, ..sound(0) }, sound(1)]
    };
    let next = bench.killed_and_found(damaged());
    assert_eq!(next.owners(), ["a"]);
    assert_eq!(next.events("broken"), ["its link is gone"]);
    assert_eq!(next.show("a").broken.as_deref(), Some("its link is gone"));
    assert_eq!(*next.work.mend.borrow(), [0]);
    let mended = |outcome| Report::Mended { slot: 0, outcome };
    let refused = Err("there is no room".to_owned());
    next.engine.borrow_mut().report(mended(refused));
    assert!(next.events("broken")[1].ends_with("cannot be repaired: there is no room"));
    next.engine.borrow_mut().report(mended(Ok(())));
    assert_eq!(next.events("repaired").len(), 1);
    assert_eq!(next.show("a").broken, None);
    // Given back before it is repaired it is destroyed like any other.
    let after = next.killed_and_found(damaged());
    after.detach("a");
    after.engine.borrow_mut().report(mended(Ok(())));
    assert_eq!(*after.work.retire.borrow(), [0]);
}

#[test]
fn an_attachment_whose_namespace_is_gone_is_lost_and_told() {
    let bench = Bench::filled(2);
    bench.attach(with_everything("a")).unwrap();
    let gone = FoundSlot {
        netns: None,
        doubt: Some("its namespace is not mounted".into()),
        ..sound(0)
    };
    let next = bench.killed_and_found(vec![gone, sound(1)]);
    assert!(next.owners().is_empty());
    assert_eq!(next.events("lost"), ["its namespace is not mounted"]);
    assert_eq!(next.last_word(), (0, AttachmentWord::detached(1)));
    assert!(next.datapath.ports.borrow().is_empty());
    assert_eq!(*next.work.retire.borrow(), [0]);
    assert!(next.killed().events("lost").is_empty(), "once");
}

#[test]
fn an_attachment_whose_slot_is_gone_is_lost_and_told() {
    let bench = Bench::filled(2);
    bench.attach(request("a")).unwrap();
    let next = bench.killed_and_found(vec![sound(1)]);
    assert_eq!(next.events("lost"), ["it is gone"]);
    assert_eq!(next.state(0), SlotState::Creating);
    assert_eq!(next.state(1), SlotState::Ready);
}

#[test]
fn a_port_that_somebody_took_meanwhile_is_told_and_taken_back_when_it_is_free() {
    let bench = Bench::filled(1);
    bench.attach(with_everything("a")).unwrap();
    let (datapath, storage) = (bench.datapath.clone(), bench.storage.after_crash());
    let next = Bench::over(1, 1, Quotas::default(), datapath, storage);
    next.ports
        .failures
        .borrow_mut()
        .push((8080, Errno::EADDRINUSE));
    let found = Found {
        slots: vec![sound(0)],
    };
    next.engine.borrow_mut().restore(found);
    assert_eq!(next.owners(), ["a"]);
    assert!(next.events("unreserved")[0].contains("taken on the host by another program"));
    assert!(next.engine.borrow().status().warnings[0].contains("1 published ports"));
    next.engine.borrow_mut().try_again();
    assert!(next.engine.borrow().has_failed());
    next.ports.failures.borrow_mut().clear();
    next.engine.borrow_mut().try_again();
    assert!(!next.engine.borrow().has_failed());
    assert_eq!(next.engine.borrow().status().published_ports, 1);
}

#[test]
fn what_is_leased_to_connections_ends_with_the_daemon() {
    let bench = Bench::filled(2);
    let leased = types::AttachRequest {
        lease: Some(Lease::Connection),
        ..request("a")
    };
    bench.attach(leased).unwrap();
    bench.attach(request("b")).unwrap();
    let next = bench.killed();
    assert_eq!(next.owners(), ["b"]);
    assert_eq!(next.last_word(), (0, AttachmentWord::detached(1)));
    assert_eq!(*next.work.retire.borrow(), [0]);
}

#[test]
fn what_is_leased_to_a_process_lives_on_with_it() {
    let bench = Bench::filled(3);
    let mut processes = [0; 2].map(|_| {
        let mut sleep = std::process::Command::new("sleep");
        sleep.arg("1000").spawn().unwrap()
    });
    let leased = |owner, process: &std::process::Child| types::AttachRequest {
        lease: Some(Lease::Pid),
        lease_pid: Some(process.id()),
        ..request(owner)
    };
    bench.attach(leased("a", &processes[0])).unwrap();
    bench.attach(leased("b", &processes[1])).unwrap();
    let mut end = |number: usize| {
        processes[number].kill().unwrap();
        processes[number].wait().unwrap();
    };
    end(0);
    let next = bench.killed();
    assert_eq!(next.owners(), ["b"]);
    end(1);
    next.engine.borrow_mut().processes_ended();
    assert!(next.owners().is_empty());
}

#[test]
fn an_update_is_there_after_the_restart() {
    let bench = Bench::filled(1);
    bench.attach(with_everything("a")).unwrap();
    let change = types::UpdateRequest {
        owner: "a".into(),
        publish: Some(vec!["9090:90".into()]),
        allow: Some(vec!["203.0.113.0/24".into()]),
        ..types::UpdateRequest::default()
    };
    bench.engine.borrow_mut().update(&change, ROOT).unwrap();
    let (before, settings) = (bench.show("a"), bench.datapath.settings.borrow()[&0]);
    let next = bench.killed();
    assert_eq!(next.show("a"), before);
    assert_eq!(next.datapath.settings.borrow()[&0], settings);
}

#[test]
fn an_attach_that_cannot_be_written_down_is_refused_and_leaves_nothing() {
    let bench = Bench::filled(1);
    bench.storage.full(true);
    let refused = bench.attach(with_everything("a")).unwrap_err();
    let PoolError::NotRecorded { reason } = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("the journal /memory/journal: ENOSPC"),
        "{reason}"
    );
    assert!(bench.datapath.published.borrow().is_empty());
    assert!(bench.datapath.ports.borrow().is_empty());
    let engine = bench.engine.borrow();
    assert_eq!(engine.status().published_ports, 0);
    assert_eq!(engine.status().slots.ready, 1);
    assert!(engine.status().warnings[0].contains("ENOSPC"));
    assert_eq!(engine.journal_check().status, types::CheckStatus::Failed);
    drop(engine);
    assert!(bench.events("journal")[0].contains("attachments are refused"));
    bench.storage.full(false);
    bench.engine.borrow_mut().try_again();
    assert_eq!(bench.events("journal").len(), 2);
    bench.attach(with_everything("a")).unwrap();
}

#[test]
fn an_update_that_cannot_be_written_down_leaves_everything_as_it_was() {
    let bench = Bench::filled(1);
    bench.attach(with_everything("a")).unwrap();
    let before = (bench.show("a"), bench.datapath.ports.borrow().clone());
    bench.storage.full(true);
    let change = types::UpdateRequest {
        owner: "a".into(),
        publish: Some(vec!["8080:8080".into(), "9090:90".into()]),
        ..types::UpdateRequest::default()
    };
    let refused = bench.engine.borrow_mut().update(&change, ROOT);
    assert!(
        matches!(refused, Err(PoolError::NotRecorded { .. })),
        "{refused:?}"
    );
    assert_eq!(
        (bench.show("a"), bench.datapath.ports.borrow().clone()),
        before
    );
    assert_eq!(bench.engine.borrow().status().published_ports, 1);
}

#[test]
fn a_detach_that_cannot_be_written_down_holds_also_after_a_crash() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    bench.storage.full(true);
    bench.detach("a");
    assert_eq!(bench.last_word(), (0, AttachmentWord::detached(1)));
    assert!(bench.killed().owners().is_empty());
    bench.storage.full(false);
    bench.engine.borrow_mut().try_again();
    assert_eq!(bench.storage.open().history.slots[&0].state, Known::Spent);
}

/// One thing that a client or a worker does.
fn step(bench: &Bench, owner: usize, choice: u8) -> Outcome {
    let owner = format!("o{owner}");
    match choice % 5 {
        0 | 1 => {
            let request = match choice & 16 {
                0 => request(&owner),
                _ => types::AttachRequest {
                    publish: Some(vec![format!("{}:80", 8000 + owner.len())]),
                    rate_up: Some(8_000),
                    ..request(&owner)
                },
            };
            bench
                .attach(request)
                .map_or(Outcome::Nothing, |_| Outcome::Attached(owner))
        }
        2 | 3 => {
            let gone = bench.engine.borrow_mut().detach(&owner, None, ROOT);
            gone.map_or(Outcome::Nothing, |()| Outcome::Detached(owner))
        }
        _ => {
            bench.work();
            Outcome::Nothing
        }
    }
}

enum Outcome {
    Nothing,
    Attached(String),
    Detached(String),
}

/// Whatever happened, these hold after a restart.
pub(super) fn check(bench: &Bench, answered: &BTreeSet<String>, doubtful: Option<&String>) {
    let owners: BTreeSet<_> = bench.owners().into_iter().collect();
    assert_eq!(owners.len(), bench.owners().len(), "an owner has two slots");
    let told = |owners: &BTreeSet<String>| -> BTreeSet<_> {
        owners
            .iter()
            .filter(|&owner| Some(owner) != doubtful)
            .cloned()
            .collect()
    };
    let (owners, expected) = (told(&owners), told(answered));
    assert_eq!(owners, expected, "what was answered is what there is");
    let engine = bench.engine.borrow();
    for slot in 0..engine.status().slots.capacity {
        let word = bench.datapath.word(slot);
        let attached = engine.pool.state(slot) == SlotState::Attached;
        assert_eq!(word.is_attached(), attached, "slot {slot}");
        assert!(
            !attached || word.epoch() == engine.pool.epoch(slot),
            "slot {slot}"
        );
        assert!(word.epoch() <= engine.pool.epoch(slot), "slot {slot}");
    }
    let all = bench.datapath.ports.borrow();
    // Of those that could not be withdrawn the engine knows.
    let led = all
        .iter()
        .filter(|(key, _)| !engine.not_withdrawn.contains(key));
    for (key, target) in led.clone() {
        assert_eq!(
            engine.pool.state(target.slot),
            SlotState::Attached,
            "port {}",
            key.port
        );
        assert_eq!(engine.pool.epoch(target.slot), target.epoch);
    }
    let ports: usize = engine
        .pool
        .attached_slots()
        .map(|slot| engine.pool.holder(slot).unwrap().options.publish.len())
        .sum();
    assert_eq!(led.count(), ports);
    assert_eq!(engine.status().published_ports as usize, ports);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(100))]

    /// Random schedules; the journal fails or the daemon dies in any of its operations, also while it is
    /// compacted. About 100,000 steps.
    #[test]
    fn a_daemon_that_dies_anywhere_loses_nothing_and_doubles_nothing(
        lives in proptest::collection::vec(
            (
                proptest::collection::vec((0..5_usize, proptest::prelude::any::<u8>()), 1..500),
                proptest::option::of((0..700_i64, 0..400_usize, proptest::prelude::any::<bool>())),
            ),
            1..8,
        ),
    ) {
        let mut bench = Bench::filled(4);
        let mut answered = BTreeSet::new();
        for (steps, fault) in lives {
            let last_bytes = fault.map_or(0, |(_, bytes, _)| bytes);
            bench.storage.live_on(&bench.datapath.power, last_bytes);
            match fault {
                Some((operations, _, true)) => bench.datapath.power.last_for(operations),
                Some((operation, _, false)) => {
                    let operation = bench.storage.operations() + usize::try_from(operation).unwrap();
                    bench.storage.plan(operation, Fault::Fails(Errno::ENOSPC));
                }
                None => {}
            }
            let mut doubtful = None;
            for (number, (owner, choice)) in steps.into_iter().enumerate() {
                if number % 37 == 36 {
                    let compaction = bench.engine.borrow_mut().journal.begin_compaction();
                    bench.engine.borrow_mut().end_compaction(compaction.run());
                }
                let outcome = step(&bench, owner, choice);
                if bench.datapath.power.is_off() {
                    // Nobody got this answer.
                    doubtful = Some(format!("o{owner}"));
                    break;
                }
                match outcome {
                    Outcome::Attached(owner) => drop(answered.insert(owner)),
                    Outcome::Detached(owner) => drop(answered.remove(&owner)),
                    Outcome::Nothing => {}
                }
            }
            bench = bench.killed();
            check(&bench, &answered, doubtful.as_ref());
            // Whoever got no answer asks now.
            answered = bench.owners().into_iter().collect();
        }
    }
}
