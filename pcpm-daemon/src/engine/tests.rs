//! The engine between a datapath that remembers and workers that are told when to finish.

mod classes;
mod faults;
mod figures;
mod findings;
mod names;
mod options;
mod recycle;
mod restart;
mod share;
mod terms;

use std::{cell::RefCell, fs::File, time::Duration};

use pcpm_api::types::{Lease, OnEmpty, SlotState, Source};
use pcpm_ebpf::{
    abi::{AttachmentWord, FlowTable, SlotFlows},
    quota,
};

use super::{workers::Report, *};
use crate::{
    api::{Caller, Role},
    bpf::fake::FakeDatapath,
    collector::FillChange,
    journal::fake::MemoryStorage,
    net::{self, RetiredSlot, SlotSpec},
    pool::{ClassSettings, Quota, Quotas, Recycle, Target},
    reservation::fake::FakePorts,
};

const ROOT: Caller = Caller {
    uid: 0,
    role: Role::Administrator,
    pid: None,
};

const ALICE: Caller = Caller {
    uid: 1000,
    role: Role::User,
    pid: None,
};

const BOB: Caller = Caller {
    uid: 1001,
    role: Role::User,
    pid: None,
};

fn settings(capacity: u32, ready: u32, recycle: Recycle) -> Settings {
    Settings {
        classes: vec![class("default", capacity, ready, recycle)],
        shared: capacity.max(8),
        creating: capacity,
        quotas: Quotas::default(),
        most_slots: u32::MAX,
    }
}

fn class(name: &str, capacity: u32, ready: u32, recycle: Recycle) -> ClassSpec {
    ClassSpec {
        name: name.to_owned(),
        mtu: None,
        share: net::Share::default(),
        addresses: "10.213.0.0/16".parse().unwrap(),
        reservations: Vec::new(),
        terms: None,
        pool: ClassSettings {
            capacity,
            target: Target::Fixed(ready),
            reserves: Vec::new(),
            indexes: None,
            recycle,
        },
    }
}

/// Work handed out and not done yet.
#[derive(Clone, Debug, Default)]
struct FakeWork {
    create: Rc<RefCell<Vec<SlotSpec>>>,
    retire: Rc<RefCell<Vec<SlotIndex>>>,
    mend: Rc<RefCell<Vec<SlotIndex>>>,
}

impl Work for FakeWork {
    fn create(&mut self, spec: SlotSpec) {
        self.create.borrow_mut().push(spec);
    }

    fn retire(&mut self, slot: RetiredSlot) {
        self.retire.borrow_mut().push(slot.index);
    }

    fn mend(&mut self, spec: SlotSpec, _: OwnedFd) {
        self.mend.borrow_mut().push(spec.index);
    }
}

struct Bench {
    engine: Shared,
    datapath: FakeDatapath,
    work: FakeWork,
    ports: FakePorts,
    storage: MemoryStorage,
}

impl Bench {
    fn new(capacity: u32, ready: u32) -> Self {
        Self::with_quotas(capacity, ready, Quotas::default())
    }

    fn with_quotas(capacity: u32, ready: u32, quotas: Quotas) -> Self {
        let (datapath, storage) = (FakeDatapath::default(), MemoryStorage::default());
        Self::over(capacity, ready, quotas, datapath, storage)
    }

    /// A daemon that starts where there is this datapath and this journal.
    fn over(
        capacity: u32,
        ready: u32,
        quotas: Quotas,
        datapath: FakeDatapath,
        storage: MemoryStorage,
    ) -> Self {
        let settings = Settings {
            quotas,
            ..settings(capacity, ready, Recycle::Verified)
        };
        Self::with_settings(settings, datapath, storage)
    }

    fn with_settings(settings: Settings, datapath: FakeDatapath, storage: MemoryStorage) -> Self {
        let world = World {
            state_dir: "/run/pcpm".into(),
            pool_cidr: "10.213.0.0/16".parse().unwrap(),
            pool_prefix6: "fd00:7063:706d::/64".parse().ok(),
            inner: None,
            mtu: 1400,
            uplinks: Vec::new(),
        };
        let work = FakeWork::default();
        let ports = FakePorts {
            power: datapath.power.clone(),
            ..FakePorts::default()
        };
        let engine = Engine::new(
            world,
            settings,
            Box::new(datapath.clone()),
            Box::new(work.clone()),
            Reservations::new(Box::new(ports.clone()), 8),
            storage.open(),
            ProcessLeases::new().unwrap(),
        );
        Self {
            engine: Rc::new(RefCell::new(engine)),
            datapath,
            work,
            ports,
            storage,
        }
    }

    fn filled(slots: u32) -> Self {
        Self::filled_with(slots, Quotas::default())
    }

    fn filled_with(slots: u32, quotas: Quotas) -> Self {
        let bench = Self::with_quotas(slots, slots, quotas);
        let filled = bench.engine.borrow_mut().start();
        bench.work();
        drop(filled);
        bench
    }

    /// Lets the workers finish all there is to do.
    fn work(&self) {
        loop {
            let next = (!self.work.create.borrow().is_empty()).then_some(0);
            let create = next.map(|first| self.work.create.borrow_mut().remove(first));
            let retire = self.work.retire.borrow_mut().pop();
            let report = match (create, retire) {
                (Some(spec), retire) => {
                    self.work.retire.borrow_mut().extend(retire);
                    created(spec.index)
                }
                (None, Some(slot)) => Report::Retired {
                    slot,
                    took: Duration::from_millis(1),
                },
                (None, None) => return,
            };
            self.engine.borrow_mut().report(report);
        }
    }

    fn attach(&self, request: types::AttachRequest) -> Result<Attached, PoolError> {
        self.attach_by(request, ROOT)
    }

    fn attach_by(
        &self,
        request: types::AttachRequest,
        caller: Caller,
    ) -> Result<Attached, PoolError> {
        match self.engine.borrow_mut().attach(request, 1, caller) {
            Answer::Now(answer) => *answer,
            Answer::Later(..) => panic!("the request waits"),
        }
    }

    fn last_word(&self) -> (u32, AttachmentWord) {
        *self.datapath.published.borrow().last().unwrap()
    }
}

fn created(slot: u32) -> Report {
    let netns = File::open("/dev/null").unwrap().into();
    Report::Created {
        slot,
        netns,
        timings: net::CreateTimings::default(),
    }
}

/// The attachment as a client reads it; whatever is written, the interface must know.
fn shown(attachment: &Attachment) -> types::Attachment {
    let written = serde_json::to_value(attachment).unwrap();
    let read: types::Attachment = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(serde_json::to_value(&read).unwrap(), written);
    read
}

fn request(owner: &str) -> types::AttachRequest {
    types::AttachRequest {
        owner: owner.into(),
        on_empty: Some(OnEmpty::Fail),
        ..types::AttachRequest::default()
    }
}

#[test]
fn an_attach_opens_the_datapath_for_its_tenant_and_describes_the_slot() {
    let bench = Bench::filled(2);
    let attachment = shown(&bench.attach(request("a")).unwrap().0);
    let (slot, word) = bench.last_word();
    assert_eq!((slot, word.epoch(), word.is_attached()), (0, 1, true));
    assert_eq!(attachment.netns, "/run/pcpm/netns/s0000");
    assert_eq!(attachment.addresses, ["10.213.0.0", "fd00:7063:706d::"]);
    assert_eq!(attachment.inner_addresses, attachment.addresses);
    assert_eq!(attachment.gateways, ["169.254.1.1", "fe80::1"]);
    assert_eq!((attachment.mtu, attachment.source), (1400, Source::Warm));
}

#[test]
fn a_detach_closes_the_datapath_before_the_slot_is_destroyed() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    bench.engine.borrow_mut().detach("a", None, ROOT).unwrap();
    assert_eq!(bench.last_word(), (0, AttachmentWord::detached(1)));
    assert_eq!(*bench.work.retire.borrow(), [0]);
    let again = bench.engine.borrow_mut().detach("a", None, ROOT);
    assert_eq!(
        again,
        Err(PoolError::NoSuchAttachment { owner: "a".into() })
    );
}

#[test]
fn an_attachment_that_is_gone_cannot_take_its_owners_next_one_with_it() {
    let bench = Bench::filled(2);
    let old = shown(&bench.attach(request("a")).unwrap().0).id;
    bench
        .engine
        .borrow_mut()
        .detach("a", Some(&old), ROOT)
        .unwrap();
    let new = shown(&bench.attach(request("a")).unwrap().0).id;
    let late = bench.engine.borrow_mut().detach("a", Some(&old), ROOT);
    assert_eq!(late, Err(PoolError::NoSuchAttachment { owner: "a".into() }));
    bench
        .engine
        .borrow_mut()
        .detach("a", Some(&new), ROOT)
        .unwrap();
}

#[test]
fn an_exclusive_request_is_refused_where_others_get_what_there_is() {
    let bench = Bench::filled(2);
    bench.attach(request("a")).unwrap();
    bench.attach(request("a")).unwrap();
    let exclusive = types::AttachRequest {
        exclusive: Some(true),
        ..request("a")
    };
    let refused = PoolError::OwnerExists {
        owner: "a".into(),
        field: "owner".into(),
    };
    assert_eq!(bench.attach(exclusive).unwrap_err(), refused);
}

#[test]
fn attachments_of_different_tenants_get_different_words() {
    let bench = Bench::filled(3);
    let tenant_of = |owner: &str, tenant: &str| {
        bench
            .attach(types::AttachRequest {
                tenant: Some(tenant.into()),
                ..request(owner)
            })
            .unwrap();
        bench.last_word().1.tenant()
    };
    let (a, b, c) = (
        tenant_of("a", "red"),
        tenant_of("b", "blue"),
        tenant_of("c", "red"),
    );
    assert!(a == c && a != b, "{a} {b} {c}");
}

#[test]
fn bad_names_are_refused_before_anything_happens() {
    let bench = Bench::filled(1);
    for (request, field) in [
        (request("no spaces"), "owner"),
        (
            types::AttachRequest {
                tenant: Some(String::new()),
                ..request("a")
            },
            "tenant",
        ),
        (
            types::AttachRequest {
                timeout_ms: Some(u64::MAX),
                ..request("a")
            },
            "timeout_ms",
        ),
    ] {
        match bench.attach(request) {
            Err(PoolError::InvalidArgument { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    assert_eq!(bench.engine.borrow().status().attach.refused, 3);
    assert!(bench.datapath.published.borrow().is_empty());
}

#[test]
fn an_exhausted_pool_says_how_deep_it_is_and_when_to_come_back() {
    let bench = Bench::filled(1);
    bench.attach(request("a")).unwrap();
    match bench.attach(request("b")) {
        Err(PoolError::PoolExhausted {
            depth: 0,
            capacity: 1,
            waiting: 0,
            retry_after_ms,
        }) => {
            assert!(retry_after_ms > 0);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_waits_gets_the_next_slot() {
    let bench = Bench::new(1, 1);
    let waiting = types::AttachRequest {
        on_empty: Some(OnEmpty::Wait),
        ..request("a")
    };
    let answer = bench.engine.borrow_mut().attach(waiting, 1, ROOT);
    let Answer::Later(_, mut receiver) = answer else {
        panic!("{answer:?}")
    };
    bench.work();
    assert_eq!(shown(&receiver.try_recv().unwrap().unwrap().0).owner, "a");
}

#[test]
fn what_is_leased_to_a_connection_ends_with_it_and_nothing_else() {
    let bench = Bench::filled(3);
    bench.engine.borrow_mut().client_came();
    bench
        .attach(types::AttachRequest {
            lease: Some(Lease::Connection),
            ..request("a")
        })
        .unwrap();
    bench.attach(request("b")).unwrap();
    bench.engine.borrow_mut().client_left(1);
    let owners: Vec<_> = bench
        .engine
        .borrow()
        .list(&types::ListRequest::default())
        .iter()
        .map(|attachment| shown(attachment).owner)
        .collect();
    assert_eq!(owners, ["b"]);
}

#[test]
fn the_list_of_one_slot_is_what_holds_it() {
    let bench = Bench::filled(3);
    bench.attach(request("a")).unwrap();
    let held = shown(&bench.attach(request("b")).unwrap().0);
    let owners = |slot: &str| -> Vec<_> {
        let slot = Some(slot.to_owned());
        let list = bench.engine.borrow().list(&types::ListRequest { slot });
        list.iter().map(|held| shown(held).owner).collect()
    };
    assert_eq!(owners(&held.slot), ["b"]);
    let free = (0..3).map(|slot| format!("s{slot:04}"));
    assert_eq!(free.filter(|slot| owners(slot).is_empty()).count(), 1);
    for other in ["s9999", "s1", "0001", "", "s4294967296"] {
        assert_eq!(owners(other), [""; 0], "{other:?}");
    }
}

#[test]
fn what_is_leased_to_a_process_ends_with_it() {
    let bench = Bench::filled(2);
    let mut process = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let leased = |owner| types::AttachRequest {
        lease: Some(Lease::Pid),
        lease_pid: Some(process.id()),
        ..request(owner)
    };
    let attachment = shown(&bench.attach(leased("a")).unwrap().0);
    assert_eq!(attachment.lease_pid, Some(process.id()));
    bench.attach(leased("b")).unwrap();
    bench.engine.borrow_mut().detach("b", None, ROOT).unwrap();
    bench.engine.borrow_mut().processes_ended();
    assert_eq!(
        bench
            .engine
            .borrow()
            .list(&types::ListRequest::default())
            .len(),
        1
    );
    process.kill().unwrap();
    process.wait().unwrap();
    bench.engine.borrow_mut().processes_ended();
    assert!(
        bench
            .engine
            .borrow()
            .list(&types::ListRequest::default())
            .is_empty()
    );
}

#[test]
fn a_lease_names_a_process_that_lives_or_none() {
    let bench = Bench::filled(1);
    for (lease, pid, reason) in [
        (
            Lease::Pid,
            None,
            "the caller's process is not visible here; name one, or lease by connection",
        ),
        (
            Lease::Explicit,
            Some(1),
            "goes with the lease pid, not explicit",
        ),
        (Lease::Pid, Some(0), "there is no process 0"),
    ] {
        let leased = types::AttachRequest {
            lease: Some(lease),
            lease_pid: pid,
            ..request("a")
        };
        let refused = PoolError::invalid("lease_pid", reason);
        assert_eq!(bench.attach(leased).unwrap_err(), refused);
    }
}

#[test]
fn traffic_of_an_earlier_holder_is_not_counted() {
    let bench = Bench::filled(1);
    bench.attach(request("first")).unwrap();
    bench.datapath.counters.borrow_mut().sent_packets = 5;
    bench
        .engine
        .borrow_mut()
        .detach("first", None, ROOT)
        .unwrap();
    bench.work();
    bench.attach(request("second")).unwrap();
    bench.datapath.counters.borrow_mut().sent_packets = 7;
    let (_, used) = bench.engine.borrow().get("second", false, ROOT).unwrap();
    assert_eq!(used.traffic.sent_packets, 2);
}

#[test]
fn a_ready_slot_is_retired_and_made_anew_and_no_other_is() {
    let bench = Bench::filled(2);
    bench.attach(request("a")).unwrap();
    let retire = |slot: &str| bench.engine.borrow_mut().retire_ready(slot);
    for refused in ["s0000", "s0009", "web"] {
        let error = retire(refused).unwrap_err().to_string();
        assert!(error.contains("is not ready"), "{error}");
    }
    retire("s0001").unwrap();
    assert_eq!(bench.engine.borrow().status().slots.ready, 0);
    bench.work();
    let counts = bench.engine.borrow().status().slots;
    assert_eq!((counts.ready, counts.attached), (1, 1));
}

#[test]
fn a_watcher_gets_a_snapshot_and_then_what_changed() {
    let bench = Bench::filled(2);
    let subscription = Subscription::new(&bench.engine, &types::WatchRequest::default());
    let snapshot = subscription.snapshot();
    assert_eq!((snapshot.full, snapshot.slots.len()), (true, 2));
    bench.attach(request("a")).unwrap();
    let delta = subscription.delta();
    assert_eq!((delta.full, delta.slots.len()), (false, 1));
    assert_eq!(delta.slots[0].state, SlotState::Attached);
    assert_eq!(delta.slots[0].owner.as_deref(), Some("a"));
    assert_eq!(
        delta.events.last().map(|event| event.kind.as_str()),
        Some("attached")
    );
    assert!(subscription.delta().slots.is_empty());
}

#[test]
fn status_names_failed_slots_with_reason_and_pause() {
    let bench = Bench::new(1, 1);
    drop(bench.engine.borrow_mut().start());
    let reason = "create veth s0000 in hub 0: EEXIST".to_owned();
    bench
        .engine
        .borrow_mut()
        .report(Report::CreateFailed { slot: 0, reason });
    let status = bench.engine.borrow().status();
    assert_eq!(status.slots.failed, 1);
    assert_eq!(status.failures[0].slot, "s0000");
    assert!(status.failures[0].reason.contains("EEXIST"));
    assert!(status.failures[0].retry_in_ms > 0);
}

#[test]
fn what_a_user_attached_only_that_user_and_administrators_touch() {
    let bench = Bench::filled(2);
    let (attachment, _) = bench.attach_by(request("a"), ALICE).unwrap();
    assert_eq!(shown(&attachment).uid, ALICE.uid);
    let denied = |result: Result<(), PoolError>| {
        let denied = matches!(&result, Err(PoolError::PermissionDenied { .. }));
        assert!(denied, "{result:?}");
    };
    denied(bench.attach_by(request("a"), BOB).map(drop));
    let mut engine = bench.engine.borrow_mut();
    denied(engine.detach("a", None, BOB));
    denied(engine.get("a", true, BOB).map(drop));
    let change = types::UpdateRequest {
        owner: "a".into(),
        ..types::UpdateRequest::default()
    };
    denied(engine.update(&change, BOB).map(drop));
    engine.get("a", false, BOB).unwrap();
    engine.get("a", true, ALICE).unwrap();
    engine.update(&change, ALICE).unwrap();
    engine.detach("a", None, ROOT).unwrap();
}

#[test]
fn a_quota_that_is_used_up_is_told_with_its_limit() {
    let quotas = Quotas {
        tenant: Quota {
            attachments: None,
            attach_rate: Some(2),
        },
        user: Quota {
            attachments: Some(1),
            attach_rate: None,
        },
        ..Quotas::default()
    };
    let bench = Bench::filled_with(4, quotas);
    let refused = |owner, caller| bench.attach_by(request(owner), caller).unwrap_err();
    bench.attach_by(request("a"), ALICE).unwrap();
    let text = refused("b", ALICE).to_string();
    assert_eq!(text, "user's quota of 1 attachments is used up");
    bench.attach_by(request("c"), BOB).unwrap();
    let text = refused("d", ROOT).to_string();
    let expected = "tenant's quota of 2 attaches a second is used up; try again in ";
    assert!(text.starts_with(expected), "{text}");
}

fn waits(
    bench: &Bench,
    owner: &str,
    on_empty: OnEmpty,
) -> (RequestId, oneshot::Receiver<AttachAnswer>) {
    let request = types::AttachRequest {
        on_empty: Some(on_empty),
        ..request(owner)
    };
    match bench.engine.borrow_mut().attach(request, 1, ROOT) {
        Answer::Later(id, receiver) => (id, receiver),
        Answer::Now(answer) => panic!("{answer:?}"),
    }
}

#[test]
fn who_waits_is_named_in_the_order_of_the_queue() {
    let bench = Bench::new(1, 0);
    let _a = waits(&bench, "a", OnEmpty::Wait);
    let _b = waits(&bench, "b", OnEmpty::Wait);
    let waiting = bench.engine.borrow().status().waiting;
    let owners: Vec<_> = waiting
        .iter()
        .map(|request| request.owner.as_str())
        .collect();
    assert_eq!(owners, ["a", "b"]);
    assert!(waiting[0].remaining_ms <= 5000 && waiting[0].waited_ms < 5000);
}

#[test]
fn a_long_queue_is_counted_and_its_beginning_named() {
    let bench = Bench::new(1, 0);
    let queue: Vec<_> = (0..30)
        .map(|n| waits(&bench, &format!("o{n}"), OnEmpty::Wait))
        .collect();
    let status = bench.engine.borrow().status();
    assert_eq!(
        (status.slots.waiting as usize, status.waiting.len()),
        (queue.len(), 20)
    );
}

#[test]
fn watchers_see_who_waits_gives_up_and_is_refused() {
    let bench = Bench::new(1, 0);
    let subscription = Subscription::new(&bench.engine, &types::WatchRequest::default());
    let (id, _receiver) = waits(&bench, "a", OnEmpty::Wait);
    bench.engine.borrow_mut().cancel(id);
    let hasty = types::AttachRequest {
        on_empty: Some(OnEmpty::Fail),
        ..request("b")
    };
    bench.attach(hasty).unwrap_err();
    let events = subscription.delta().events;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.kind.as_str(), event.owner.as_deref().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("waiting", "a"), ("cancelled", "a"), ("exhausted", "b")]
    );
}

#[test]
fn flows_in_use_are_those_of_this_attachment_and_totals_count_from_its_beginning() {
    let bench = Bench::filled(1);
    *bench.datapath.flow_table.borrow_mut() = FlowTable {
        made: 500,
        gone: 100,
        usable: 1000,
        per_slot: 250,
        ..FlowTable::default()
    };
    let flows = |in_use, made, refused| SlotFlows {
        in_use,
        made,
        refused,
        ..SlotFlows::default()
    };
    bench.attach(request("first")).unwrap();
    *bench.datapath.flows.borrow_mut() = flows(quota::with(0, 1, 20), 30, 4);
    let of = |owner| {
        bench
            .engine
            .borrow()
            .get(owner, false, ROOT)
            .unwrap()
            .1
            .flows
    };
    let first = types::Flows {
        used: 20,
        limit: 250,
        opened: 30,
        refused: 4,
    };
    assert_eq!(of("first"), first);
    let detached = bench.engine.borrow_mut().detach("first", None, ROOT);
    detached.unwrap();
    bench.work();
    bench.attach(request("second")).unwrap();
    let second = types::Flows {
        used: 0,
        opened: 0,
        refused: 0,
        ..first
    };
    assert_eq!(of("second"), second);
}

#[test]
fn a_flow_table_that_becomes_nearly_full_is_an_event_and_a_warning() {
    let bench = Bench::filled(1);
    let set = |made| {
        *bench.datapath.flow_table.borrow_mut() = FlowTable {
            made,
            usable: 1000,
            per_slot: 250,
            ..FlowTable::default()
        };
    };
    set(899);
    assert_eq!(bench.engine.borrow().status().warnings, [""; 0]);
    set(910);
    let mut engine = bench.engine.borrow_mut();
    engine.fill_changed(FillChange {
        used: 910,
        usable: 1000,
        is_high: true,
    });
    assert_eq!(
        engine.status().warnings,
        ["the flow table is 91 % full: raise nat.flows"]
    );
    let (events, _) = engine.events.since(0);
    let last = events.last().unwrap();
    assert_eq!(
        (last.kind.as_str(), last.message.as_str()),
        ("flows", "910 of 1000 entries in use")
    );
}
