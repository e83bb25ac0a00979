//! The pool's behaviour, one sentence a test, and random schedules that check what must hold always.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    rc::Rc,
};

use pcpm_api::{
    options::Options,
    types::{Lease, OnEmpty, Source},
};
use proptest::prelude::*;

use super::*;

const SECOND: Now = Duration::from_secs(1);

/// A pool, its clock, and workers that do what they are told when they are told to.
struct Bench {
    pool: Pool,
    now: Now,
    to_create: VecDeque<SlotIndex>,
    to_retire: VecDeque<SlotIndex>,
    to_judge: VecDeque<SlotIndex>,
    /// The last tenant in each slot since it was made.
    used_by: HashMap<SlotIndex, String>,
    next_request: RequestId,
    passing: HashSet<SlotIndex>,
}

impl Bench {
    fn new(capacity: u32, ready: u32) -> Self {
        Self::recycling(capacity, ready, Recycle::Never)
    }

    fn recycling(capacity: u32, ready: u32, recycle: Recycle) -> Self {
        let mut bench = Self {
            pool: Pool::new(PoolSettings {
                classes: vec![class(capacity, ready, recycle)],
                shared: 16.max(capacity),
                creating: 4,
                quotas: Quotas::default(),
            }),
            now: Duration::ZERO,
            to_create: VecDeque::new(),
            to_retire: VecDeque::new(),
            to_judge: VecDeque::new(),
            used_by: HashMap::new(),
            next_request: 0,
            passing: HashSet::new(),
        };
        bench.pool.recycle();
        bench.event(Event::Tick);
        bench
    }

    fn filled(capacity: u32, ready: u32) -> Self {
        let mut bench = Self::new(capacity, ready);
        bench.work();
        bench
    }

    /// Feeds an event; keeps the work, returns the answers.
    fn event(&mut self, event: Event) -> Vec<Command> {
        let mut commands = Vec::new();
        self.pool.handle(event, self.now, &mut commands);
        commands.retain(|command| match command {
            Command::Create(slot) => {
                self.to_create.push_back(*slot);
                false
            }
            Command::Recycle(slot) | Command::Retire(slot) => {
                assert!(
                    !self.passing.contains(slot),
                    "{slot} is retired while traffic passes"
                );
                let is_used_again = matches!(command, Command::Recycle(_));
                let jobs = if is_used_again {
                    &mut self.to_judge
                } else {
                    &mut self.to_retire
                };
                jobs.push_back(*slot);
                false
            }
            Command::Revoke { slot, .. } => {
                assert!(self.passing.remove(slot), "{slot} was not attached");
                false
            }
            Command::Grant { slot, .. } => {
                assert!(self.passing.insert(*slot), "{slot} belongs to two owners");
                let tenant = &self.pool.holder(*slot).expect("it is granted").tenant;
                let before = self.used_by.insert(*slot, tenant.clone());
                assert!(
                    before.is_none_or(|before| before == *tenant)
                        || self.pool.recycling(0) == Recycle::Verified,
                    "{slot} was another tenant's"
                );
                true
            }
            Command::Existing { .. } | Command::Refuse { .. } => true,
        });
        commands
    }

    /// Lets the workers finish all there is to do; returns the answers given meanwhile.
    fn work(&mut self) -> Vec<Command> {
        let mut answers = Vec::new();
        loop {
            if let Some(slot) = self.to_create.pop_front() {
                answers.extend(self.created(slot));
            } else if let Some(slot) = self.to_judge.pop_front() {
                answers.extend(self.event(Event::Recycled(slot)));
            } else if let Some(slot) = self.to_retire.pop_front() {
                answers.extend(self.event(Event::Retired(slot)));
            } else {
                return answers;
            }
        }
    }

    fn created(&mut self, slot: SlotIndex) -> Vec<Command> {
        self.used_by.remove(&slot);
        self.event(Event::Created(slot))
    }

    fn resize(&mut self, capacity: u32, ready: u32) -> Vec<Command> {
        let target = Target::Fixed(ready);
        self.event(Event::Resize {
            class: 0,
            capacity,
            target,
        })
    }

    fn attach(&mut self, owner: &str, on_empty: OnEmpty) -> Vec<Command> {
        self.attach_as(holder(owner, "t"), on_empty)
    }

    fn attach_as(&mut self, holder: Holder, on_empty: OnEmpty) -> Vec<Command> {
        let id = self.next_request;
        self.next_request += 1;
        let deadline = self.now + SECOND;
        let holder = Rc::new(holder);
        self.event(Event::Attach(AttachRequest {
            id,
            class: 0,
            holder,
            exclusive: false,
            on_empty,
            asked_at: self.now,
            deadline,
        }))
    }

    fn attached(&mut self, owner: &str) -> SlotIndex {
        match self.attach(owner, OnEmpty::Fail)[..] {
            [Command::Grant { slot, .. }] => slot,
            ref other => panic!("{owner} was not attached: {other:?}"),
        }
    }
}

pub(super) fn class(capacity: u32, ready: u32, recycle: Recycle) -> ClassSettings {
    ClassSettings {
        capacity,
        target: Target::Fixed(ready),
        reserves: Vec::new(),
        indexes: None,
        recycle,
    }
}

pub(super) fn holder(owner: &str, tenant: &str) -> Holder {
    Holder {
        owner: owner.into(),
        tenant: tenant.into(),
        class: default_class(),
        labels: BTreeMap::new(),
        lease: Lease::Explicit,
        process: None,
        options: Options::default(),
        terms: None,
        uid: 1000,
        by_administrator: false,
    }
}

fn granted(commands: &[Command]) -> Vec<(RequestId, SlotIndex)> {
    commands
        .iter()
        .filter_map(|command| match *command {
            Command::Grant { request, slot, .. } => Some((request, slot)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_pool_fills_to_its_target_and_no_further() {
    let bench = Bench::filled(10, 6);
    let counts = bench.pool.counts();
    assert_eq!((counts.ready, counts.vacant, counts.creating), (6, 4, 0));
}

#[test]
fn creations_under_way_are_bounded() {
    let bench = Bench::new(100, 100);
    assert_eq!(bench.to_create.len(), 4);
}

#[test]
fn slots_are_taken_in_order_and_rest_longest_before_they_come_again() {
    let mut bench = Bench::filled(4, 2);
    let mut order = Vec::new();
    for round in 0..8 {
        let owner = format!("o{round}");
        let slot = bench.attached(&owner);
        order.push(slot);
        bench.event(Event::Detach(slot));
        bench.work();
    }
    assert_eq!(order, [0, 1, 2, 3, 0, 1, 2, 3]);
}

#[test]
fn the_epoch_grows_with_every_attachment() {
    let mut bench = Bench::filled(1, 1);
    for epoch in 1..=3 {
        let slot = bench.attached("a");
        assert_eq!(bench.pool.epoch(slot), epoch);
        bench.event(Event::Detach(slot));
        bench.work();
    }
}

#[test]
fn a_repeated_attach_gets_the_attachment_its_owner_has() {
    let mut bench = Bench::filled(2, 2);
    let slot = bench.attached("a");
    let answer = bench.attach("a", OnEmpty::Fail);
    assert_eq!(answer, [Command::Existing { request: 1, slot }]);
    assert_eq!(bench.pool.counts().attached, 1);
}

#[test]
fn a_repeated_attach_with_another_tenant_is_refused() {
    let mut bench = Bench::filled(2, 2);
    bench.attached("a");
    let answer = bench.attach_as(holder("a", "other"), OnEmpty::Fail);
    let refusal = Refusal::OwnerExists {
        slot: 0,
        field: "tenant",
    };
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal
        }]
    );
}

#[test]
fn an_empty_pool_refuses_those_who_do_not_wait() {
    let mut bench = Bench::filled(1, 1);
    bench.attached("a");
    let answer = bench.attach("b", OnEmpty::Fail);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal: Refusal::Exhausted(0)
        }]
    );
}

#[test]
fn those_who_wait_are_served_in_order_of_arrival() {
    let mut bench = Bench::new(8, 1);
    for owner in ["a", "b", "c"] {
        assert_eq!(bench.attach(owner, OnEmpty::Wait), []);
    }
    assert_eq!(bench.pool.counts().waiting, 3);
    let served: Vec<_> = granted(&bench.work())
        .into_iter()
        .map(|(request, _)| request)
        .collect();
    assert_eq!(served, [0, 1, 2]);
}

#[test]
fn a_request_for_a_new_slot_does_not_overtake_those_who_wait() {
    let mut bench = Bench::new(8, 0);
    bench.attach("first", OnEmpty::Wait);
    bench.attach("second", OnEmpty::Create);
    let answers = bench.work();
    assert!(
        matches!(
            answers[..],
            [
                Command::Grant { request: 0, .. },
                Command::Grant { request: 1, .. },
            ]
        ),
        "{answers:?}"
    );
}

fn sources(commands: &[Command]) -> Vec<Source> {
    commands
        .iter()
        .filter_map(|command| match *command {
            Command::Grant { source, .. } => Some(source),
            _ => None,
        })
        .collect()
}

#[test]
fn a_request_that_waited_is_warm_only_if_its_slot_was_in_the_making_before_it_came() {
    for (ready, source) in [(1, Source::Warm), (0, Source::Cold)] {
        let mut bench = Bench::new(8, ready);
        bench.attach("a", OnEmpty::Wait);
        assert_eq!(sources(&bench.work()), [source]);
    }
}

#[test]
fn a_request_for_a_new_slot_is_cold_unless_one_was_ready() {
    let mut bench = Bench::filled(8, 1);
    assert_eq!(sources(&bench.attach("a", OnEmpty::Create)), [Source::Warm]);
    bench.attach("b", OnEmpty::Create);
    assert_eq!(sources(&bench.work()), [Source::Cold]);
}

#[test]
fn a_request_may_wait_for_a_slot_that_somebody_has_to_give_back() {
    let mut bench = Bench::filled(1, 1);
    let slot = bench.attached("a");
    assert_eq!(bench.attach("b", OnEmpty::Wait), []);
    assert_eq!(bench.pool.waiting(0).count(), 1);
    bench.event(Event::Detach(slot));
    assert_eq!(sources(&bench.work()), [Source::Cold]);
    assert_eq!(bench.pool.waiting(0).count(), 0);
}

#[test]
fn a_request_for_a_new_slot_fails_at_once_when_none_can_be_made() {
    let mut bench = Bench::filled(1, 1);
    bench.attached("a");
    let answer = bench.attach("b", OnEmpty::Create);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal: Refusal::Exhausted(0)
        }]
    );
}

#[test]
fn a_request_that_waits_is_refused_at_its_deadline() {
    let mut bench = Bench::filled(1, 1);
    bench.attached("a");
    bench.attach("b", OnEmpty::Wait);
    assert_eq!(bench.pool.next_deadline(), Some(bench.now + SECOND));
    bench.now += SECOND;
    let answer = bench.event(Event::Tick);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal: Refusal::Exhausted(0)
        }]
    );
    assert_eq!(bench.pool.next_deadline(), None);
}

#[test]
fn a_cancelled_request_gets_no_slot() {
    let mut bench = Bench::new(2, 1);
    bench.attach("a", OnEmpty::Wait);
    bench.event(Event::Cancel(0));
    assert_eq!(bench.work(), []);
    assert_eq!(bench.pool.counts().attached, 0);
}

#[test]
fn two_requests_of_one_owner_that_both_waited_share_one_slot() {
    let mut bench = Bench::new(4, 1);
    bench.attach("a", OnEmpty::Wait);
    bench.attach("a", OnEmpty::Wait);
    let answers = bench.work();
    assert!(
        matches!(
            answers[..],
            [
                Command::Grant { slot: 0, .. },
                Command::Existing { slot: 0, .. }
            ]
        ),
        "{answers:?}"
    );
}

#[test]
fn a_failure_holds_refill_back_with_growing_pauses() {
    let mut bench = Bench::new(100, 100);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        while let Some(slot) = bench.to_create.pop_front() {
            bench.event(Event::CreateFailed(slot, "EMFILE".into()));
        }
        let resume = bench
            .pool
            .next_deadline()
            .expect("a failed pool tries again");
        assert!(resume > bench.now, "a hot loop");
        pauses.push(resume.saturating_sub(bench.now));
        bench.now = resume;
        bench.event(Event::Tick);
    }
    assert!(pauses.is_sorted(), "{pauses:?}");
    assert!(
        bench.pool.counts().failed < 20,
        "one failure after the other"
    );
}

#[test]
fn a_failed_slot_is_made_again_once_the_trouble_is_over() {
    let mut bench = Bench::new(1, 1);
    let slot = bench.to_create.pop_front().expect("asked for");
    bench.event(Event::CreateFailed(
        slot,
        "create veth s0000: EEXIST".into(),
    ));
    let (reason, retry_at) = bench.pool.failure(slot).expect("failed");
    assert_eq!(reason, "create veth s0000: EEXIST");
    bench.now = retry_at;
    bench.event(Event::Tick);
    bench.work();
    assert_eq!(bench.pool.counts().ready, 1);
}

#[test]
fn a_slot_that_could_not_be_destroyed_is_destroyed_before_it_is_used_again() {
    let mut bench = Bench::filled(1, 1);
    let slot = bench.attached("a");
    bench.event(Event::Detach(slot));
    bench.to_retire.clear();
    bench.event(Event::RetireFailed(slot, "umount: EBUSY".into()));
    bench.now = bench.pool.next_deadline().expect("tried again");
    bench.event(Event::Tick);
    assert_eq!((bench.to_retire.len(), bench.to_create.len()), (1, 0));
}

#[test]
fn a_draining_pool_refuses_everybody_and_makes_nothing() {
    let mut bench = Bench::filled(2, 1);
    bench.attached("a");
    bench.attach("b", OnEmpty::Wait);
    let answer = bench.event(Event::Drain(None));
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal: Refusal::Draining
        }]
    );
    let answer = bench.attach("c", OnEmpty::Wait);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 2,
            refusal: Refusal::Draining
        }]
    );
    let slot = bench.pool.slot_of("a").expect("still attached");
    bench.event(Event::Detach(slot));
    bench.work();
    assert_eq!(bench.pool.counts().creating, 0);
}

#[test]
fn a_drain_can_be_ended() {
    let mut bench = Bench::filled(2, 2);
    bench.event(Event::Drain(None));
    let answer = bench.attach("a", OnEmpty::Wait);
    assert!(matches!(answer[..], [Command::Refuse { .. }]), "{answer:?}");
    bench.event(Event::EndDrain(None));
    bench.attached("b");
}

#[test]
fn a_larger_pool_fills_to_its_new_target() {
    let mut bench = Bench::filled(4, 4);
    bench.resize(10, 8);
    bench.work();
    let counts = bench.pool.counts();
    assert_eq!((counts.ready, counts.vacant, counts.capacity), (8, 2, 10));
}

#[test]
fn a_smaller_pool_destroys_what_is_free_and_waits_for_what_is_attached() {
    let mut bench = Bench::filled(8, 8);
    let attached: Vec<_> = (0..8).map(|n| bench.attached(&format!("o{n}"))).collect();
    bench.event(Event::Detach(attached[6]));
    bench.resize(4, 4);
    bench.work();
    let counts = bench.pool.counts();
    assert_eq!((counts.attached, counts.beyond, counts.capacity), (7, 3, 4));
    for slot in attached {
        bench.event(Event::Detach(slot));
    }
    bench.work();
    let counts = bench.pool.counts();
    assert_eq!((counts.ready, counts.beyond, counts.vacant), (4, 0, 0));
}

#[test]
fn slots_beyond_the_target_are_destroyed() {
    let mut bench = Bench::filled(8, 8);
    bench.resize(8, 3);
    assert_eq!(bench.to_retire.len(), 5);
    bench.work();
    assert_eq!(bench.pool.counts().ready, 3);
}

#[test]
fn a_slot_that_was_not_used_goes_to_the_next_who_waits() {
    let mut bench = Bench::filled(1, 1);
    let slot = bench.attached("a");
    bench.attach("b", OnEmpty::Wait);
    bench.passing.remove(&slot);
    let answers = bench.event(Event::Unused(slot));
    assert_eq!(granted(&answers), [(1, slot)]);
    assert_eq!(bench.pool.slot_of("a"), None);
    assert_eq!(bench.pool.epoch(slot), 2);
}

#[test]
fn a_ready_slot_that_is_spoiled_is_replaced_and_an_attached_one_stays() {
    let mut bench = Bench::filled(2, 2);
    let held = bench.attached("a");
    let ready = 1 - held;
    bench.event(Event::Spoiled(held));
    assert_eq!(bench.pool.slot_of("a"), Some(held));
    bench.event(Event::Spoiled(ready));
    assert!(!bench.pool.is_idle(ready));
    bench.work();
    assert!(bench.pool.is_idle(ready));
}

#[test]
fn an_attachment_of_another_user_is_neither_given_nor_described() {
    let mut bench = Bench::filled(2, 2);
    let slot = bench.attached("a");
    let stranger = Holder {
        uid: 1001,
        ..holder("a", "t")
    };
    let refusal = Refusal::Foreign { slot };
    let answer = bench.attach_as(stranger.clone(), OnEmpty::Fail);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 1,
            refusal
        }]
    );
    let administrator = Holder {
        by_administrator: true,
        ..stranger
    };
    let answer = bench.attach_as(administrator, OnEmpty::Fail);
    assert_eq!(answer, [Command::Existing { request: 2, slot }]);
}

/// A pool whose only used slot is kept for tenant `a`.
fn keeping(capacity: u32, ready: u32) -> (Bench, SlotIndex) {
    let mut bench = Bench::recycling(capacity, ready, Recycle::SameTenant);
    bench.work();
    bench.attach_as(holder("first", "a"), OnEmpty::Fail);
    let slot = bench.pool.slot_of("first").expect("attached");
    bench.event(Event::Detach(slot));
    bench.work();
    (bench, slot)
}

#[test]
fn a_used_slot_is_kept_for_its_tenant_and_goes_to_no_other() {
    let (mut bench, slot) = keeping(3, 1);
    assert_eq!(bench.pool.counts().kept, 1);
    assert_ne!(bench.attached("stranger"), slot);
    assert_eq!(
        granted(&bench.attach_as(holder("second", "a"), OnEmpty::Fail)),
        [(2, slot)]
    );
    assert_eq!(bench.pool.epoch(slot), 2);
}

#[test]
fn a_used_slot_goes_to_the_first_of_its_tenant_who_waits() {
    let mut bench = Bench::recycling(1, 1, Recycle::SameTenant);
    bench.work();
    bench.attach_as(holder("first", "a"), OnEmpty::Fail);
    for (owner, tenant) in [("x", "b"), ("second", "a"), ("third", "a")] {
        bench.attach_as(holder(owner, tenant), OnEmpty::Wait);
    }
    bench.event(Event::Detach(0));
    assert_eq!(granted(&bench.work()), [(2, 0)]);
}

#[test]
fn the_slot_kept_longest_makes_room_for_the_next() {
    let (mut bench, oldest) = keeping(3, 2);
    bench.attach_as(holder("b1", "b"), OnEmpty::Fail);
    let newer = bench.pool.slot_of("b1").expect("attached");
    bench.event(Event::Detach(newer));
    bench.work();
    let counts = bench.pool.counts();
    assert_eq!((counts.ready, counts.kept), (2, 1));
    assert_eq!(bench.pool.kept_for(oldest), None);
    assert_eq!(
        bench.pool.kept_for(newer).map(|tenant| &**tenant),
        Some("b")
    );
}

#[test]
fn whoever_waits_gets_the_place_of_a_slot_that_is_kept_for_another() {
    let (mut bench, kept) = keeping(2, 1);
    bench.attached("x");
    assert_eq!(bench.attach("y", OnEmpty::Create), []);
    assert_eq!(granted(&bench.work()), [(2, kept)]);
}

#[test]
fn a_kept_slot_of_an_earlier_life_is_destroyed_where_slots_are_not_kept_any_more() {
    for (recycle, kept) in [
        (Recycle::SameTenant, 1),
        (Recycle::Verified, 0),
        (Recycle::Never, 0),
    ] {
        let mut pool = Bench::recycling(2, 1, recycle).pool;
        let left = Restored {
            slot: 1,
            class: 0,
            epoch: 4,
            now: Left::Kept("a".into()),
        };
        let mut commands = Vec::new();
        pool.restore([left], &mut commands);
        assert_eq!(
            (pool.counts().kept, commands.len()),
            (kept, 1 - kept as usize)
        );
    }
}

#[test]
fn a_request_beyond_the_quota_is_refused_also_while_others_wait() {
    let mut bench = Bench::filled(1, 1);
    bench.pool.usage = Usage::new(Quotas {
        tenant: Quota {
            attachments: Some(2),
            attach_rate: None,
        },
        ..Quotas::default()
    });
    bench.attached("a");
    assert_eq!(bench.attach("b", OnEmpty::Wait), []);
    let exceeded = Exceeded::Attachments {
        scope: Scope::Tenant,
        limit: 2,
    };
    let refusal = Refusal::Quota(exceeded);
    let answer = bench.attach("c", OnEmpty::Wait);
    assert_eq!(
        answer,
        [Command::Refuse {
            request: 2,
            refusal
        }]
    );
    bench.event(Event::Cancel(1));
    assert_eq!(bench.attach("c", OnEmpty::Wait), []);
}

/// Whom the owners of a random schedule belong to.
const TENANTS: [&str; 3] = ["a", "b", "c"];

/// One step of a random schedule.
#[derive(Clone, Debug)]
enum Step {
    Attach { owner: u8, on_empty: OnEmpty },
    Detach { owner: u8 },
    Unused { owner: u8 },
    Cancel { back: u8 },
    CreateDone { ok: bool },
    RetireDone { ok: bool },
    Judged { ok: bool },
    Spoiled { slot: u8 },
    Wait { ms: u16 },
    Resize { capacity: u8, ready: u8 },
    Drain { on: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let on_empty = prop::sample::select(OnEmpty::ALL);
    prop_oneof![
        4 => (0..12_u8, on_empty).prop_map(|(owner, on_empty)| Step::Attach { owner, on_empty }),
        3 => (0..12_u8).prop_map(|owner| Step::Detach { owner }),
        1 => (0..12_u8).prop_map(|owner| Step::Unused { owner }),
        1 => any::<u8>().prop_map(|back| Step::Cancel { back }),
        4 => prop::bool::weighted(0.9).prop_map(|ok| Step::CreateDone { ok }),
        4 => prop::bool::weighted(0.9).prop_map(|ok| Step::RetireDone { ok }),
        3 => prop::bool::weighted(0.8).prop_map(|ok| Step::Judged { ok }),
        1 => (0..16_u8).prop_map(|slot| Step::Spoiled { slot }),
        2 => (0..2000_u16).prop_map(|ms| Step::Wait { ms }),
        1 => (1..16_u8, 0..16_u8).prop_map(|(capacity, ready)| Step::Resize { capacity, ready }),
        1 => any::<bool>().prop_map(|on| Step::Drain { on }),
    ]
}

impl Bench {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Attach { owner, on_empty } => {
                let tenant = TENANTS[usize::from(owner) % TENANTS.len()];
                self.attach_as(holder(&format!("o{owner}"), tenant), on_empty);
            }
            Step::Detach { owner } => {
                if let Some(slot) = self.pool.slot_of(&format!("o{owner}")) {
                    self.event(Event::Detach(slot));
                }
            }
            Step::Unused { owner } => {
                if let Some(slot) = self.pool.slot_of(&format!("o{owner}")) {
                    self.passing.remove(&slot);
                    if self.pool.slots[slot as usize].used_by.is_none() {
                        self.used_by.remove(&slot);
                    }
                    self.event(Event::Unused(slot));
                }
            }
            Step::Cancel { back } => {
                let request = self.next_request.saturating_sub(u64::from(back));
                self.event(Event::Cancel(request));
            }
            Step::CreateDone { ok } => {
                let Some(slot) = self.to_create.pop_front() else {
                    return;
                };
                if ok {
                    self.created(slot);
                } else {
                    self.event(Event::CreateFailed(slot, "no".into()));
                }
            }
            Step::Judged { ok } => {
                let Some(slot) = self.to_judge.pop_front() else {
                    return;
                };
                if ok {
                    self.event(Event::Recycled(slot));
                } else {
                    self.to_retire.push_back(slot);
                }
            }
            Step::Spoiled { slot } => drop(self.event(Event::Spoiled(slot.into()))),
            Step::RetireDone { ok } => {
                let Some(slot) = self.to_retire.pop_front() else {
                    return;
                };
                self.event(if ok {
                    Event::Retired(slot)
                } else {
                    Event::RetireFailed(slot, "no".into())
                });
            }
            Step::Resize { capacity, ready } => drop(self.resize(capacity.into(), ready.into())),
            Step::Drain { on } => drop(self.event(if on {
                Event::Drain(None)
            } else {
                Event::EndDrain(None)
            })),
            Step::Wait { ms } => {
                self.now += Duration::from_millis(ms.into());
                self.event(Event::Tick);
            }
        }
    }

    /// What holds after every event, whatever happened.
    fn check(&self) {
        let pool = &self.pool;
        let counts = pool.counts();
        let all = counts.ready
            + counts.kept
            + counts.attached
            + counts.creating
            + counts.retiring
            + counts.failed
            + counts.vacant;
        assert_eq!(
            all,
            counts.capacity + counts.beyond,
            "every slot is in one state"
        );
        assert_eq!(
            self.passing,
            pool.attached_slots().collect(),
            "traffic passes if attached"
        );
        assert_eq!(u32::try_from(pool.owners.len()), Ok(counts.attached));
        let used = TENANTS.map(|tenant| pool.usage.of_tenant(tenant));
        assert_eq!(
            used.iter().sum::<u32>(),
            counts.attached + counts.waiting,
            "every attachment and request is counted once"
        );
        assert_eq!(pool.classes[0].kept.slots().count(), counts.kept as usize);
        let others = counts.ready + counts.creating + counts.retiring + counts.vacant;
        assert!(
            pool.drains(0) || counts.kept <= counts.target.min(others),
            "no more are kept than are there for others"
        );
        assert!(
            pool.drains(0) || counts.kept == 0 || others >= counts.waiting,
            "nobody waits for the place of a kept slot"
        );
        for (owner, &slot) in &pool.owners {
            assert_eq!(pool.holder(slot).map(|holder| &holder.owner), Some(owner));
        }
        assert!(
            counts.creating <= pool.settings.creating,
            "creations are bounded"
        );
        assert!(
            counts.waiting == 0 || counts.ready == 0,
            "nobody waits beside a ready slot"
        );
        if let Some(deadline) = pool.next_deadline() {
            assert!(deadline > self.now, "due at once: a hot loop");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_schedule_keeps_the_invariants_and_ends_in_a_full_pool(
        capacity in 1..10_u32,
        ready in 0..10_u32,
        recycle in prop::sample::select(&[Recycle::Never, Recycle::SameTenant, Recycle::Verified][..]),
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut bench = Bench::recycling(capacity, ready.min(capacity), recycle);
        for step in &steps {
            bench.step(step);
            bench.check();
        }
        bench.resize(capacity, ready.min(capacity));
        bench.event(Event::EndDrain(None));
        for slot in 0..16 {
            bench.event(Event::Detach(slot));
        }
        for _ in 0..64 {
            bench.work();
            bench.now += Duration::from_secs(20);
            bench.event(Event::Tick);
        }
        for slot in 0..16 {
            bench.event(Event::Detach(slot));
        }
        bench.work();
        let counts = bench.pool.counts();
        prop_assert!(counts.ready + counts.kept >= ready.min(capacity), "{counts:?}");
        prop_assert_eq!((counts.attached, counts.failed, counts.waiting), (0, 0, 0));
        prop_assert_eq!(counts.beyond, 0);
    }
}

/// Tenants of a schedule with reservations: the first two have one.
const RESERVED: [&str; 4] = ["shop-1", "shop-2", "x", "y"];

/// A class where slots are held back, one of its own indexes, and one that shares them.
fn three_classes(sizes: [(u32, u32); 3], warm: u32) -> Pool {
    let [default, far, third] =
        sizes.map(|(capacity, ready)| class(capacity, ready.min(capacity), Recycle::SameTenant));
    let reserve = ReserveSettings {
        tenants: vec!["shop-*".parse().unwrap()],
        warm: warm.min(default.capacity.saturating_sub(1)),
    };
    Pool::new(PoolSettings {
        classes: vec![
            ClassSettings {
                reserves: vec![reserve],
                ..default
            },
            ClassSettings {
                indexes: Some(32..48),
                ..far
            },
            third,
        ],
        shared: 24,
        creating: 3,
        quotas: Quotas::default(),
    })
}

/// One step of a random schedule over classes.
#[derive(Clone, Debug)]
enum ClassStep {
    Attach {
        owner: u8,
        class: ClassIndex,
        on_empty: OnEmpty,
    },
    Detach {
        owner: u8,
    },
    Work {
        jobs: u8,
    },
    Wait {
        ms: u16,
    },
    Resize {
        class: ClassIndex,
        capacity: u8,
        ready: u8,
    },
    Drain {
        class: Option<ClassIndex>,
        on: bool,
    },
}

fn class_step() -> impl Strategy<Value = ClassStep> {
    let on_empty = prop::sample::select(OnEmpty::ALL);
    let which = prop::option::of(0..3_usize);
    prop_oneof![
        6 => (0..20_u8, 0..3_usize, on_empty).prop_map(|(owner, class, on_empty)| ClassStep::Attach {
            owner,
            class,
            on_empty,
        }),
        5 => (0..20_u8).prop_map(|owner| ClassStep::Detach { owner }),
        6 => (1..5_u8).prop_map(|jobs| ClassStep::Work { jobs }),
        2 => (0..900_u16).prop_map(|ms| ClassStep::Wait { ms }),
        1 => (0..3_usize, 1..8_u8, 0..8_u8).prop_map(|(class, capacity, ready)| ClassStep::Resize {
            class,
            capacity,
            ready,
        }),
        1 => (which, prop::bool::weighted(0.3)).prop_map(|(class, on)| ClassStep::Drain { class, on }),
    ]
}

impl Bench {
    fn over(pool: Pool) -> Self {
        let mut bench = Self::new(1, 0);
        bench.pool = pool;
        bench.pool.recycle();
        bench.to_create.clear();
        bench.event(Event::Tick);
        bench
    }

    fn class_step(&mut self, step: &ClassStep) {
        match *step {
            ClassStep::Attach {
                owner,
                class,
                on_empty,
            } => self.attach_of_class(owner, class, on_empty),
            ClassStep::Detach { owner } => {
                if let Some(slot) = self.pool.slot_of(&format!("o{owner}")) {
                    self.event(Event::Detach(slot));
                }
            }
            ClassStep::Work { jobs } => {
                for _ in 0..jobs {
                    self.one_job();
                }
            }
            ClassStep::Wait { ms } => {
                self.now += Duration::from_millis(ms.into());
                self.event(Event::Tick);
            }
            ClassStep::Resize {
                class,
                capacity,
                ready,
            } => {
                let capacity = u32::from(capacity).min(self.pool.room_for(class));
                let target = Target::Fixed(u32::from(ready).min(capacity));
                self.event(Event::Resize {
                    class,
                    capacity,
                    target,
                });
            }
            ClassStep::Drain { class, on: true } => drop(self.event(Event::Drain(class))),
            ClassStep::Drain { class, on: false } => drop(self.event(Event::EndDrain(class))),
        }
    }

    fn one_job(&mut self) {
        if let Some(slot) = self.to_create.pop_front() {
            self.created(slot);
        } else if let Some(slot) = self.to_judge.pop_front() {
            self.event(Event::Recycled(slot));
        } else if let Some(slot) = self.to_retire.pop_front() {
            self.event(Event::Retired(slot));
        }
    }

    /// Attaches, and checks what a reservation promises.
    fn attach_of_class(&mut self, owner: u8, class: ClassIndex, on_empty: OnEmpty) {
        let name = format!("o{owner}");
        let tenant = RESERVED[usize::from(owner) % RESERVED.len()];
        let is_new = self.pool.slot_of(&name).is_none();
        let held_before = self.pool.counts_of(class).reserved;
        let has_reserve = class == 0 && tenant.starts_with("shop-");
        let id = self.next_request;
        self.next_request += 1;
        let answers = self.event(Event::Attach(AttachRequest {
            id,
            class,
            holder: Rc::new(holder(&name, tenant)),
            exclusive: false,
            on_empty,
            asked_at: self.now,
            deadline: self.now + SECOND,
        }));
        if has_reserve && is_new && held_before > 0 && !self.pool.drains(class) {
            assert!(
                matches!(answers[..], [Command::Grant { request, .. }, ..] if request == id),
                "{tenant} was promised a slot: {answers:?}"
            );
        }
        if !has_reserve {
            let held = self.pool.counts_of(class).reserved;
            assert!(held >= held_before, "{tenant} took what was held back");
        }
    }

    fn check_classes(&self) {
        let pool = &self.pool;
        for class in 0..pool.classes.len() {
            let counts = pool.counts_of(class);
            let in_use = counts.ready
                + counts.kept
                + counts.attached
                + counts.creating
                + counts.retiring
                + counts.failed;
            assert_eq!(in_use + counts.vacant, counts.capacity + counts.beyond);
            assert!(counts.reserved <= counts.ready);
            assert_eq!(counts.ready as usize, pool.classes[class].ready.len());
            let waits_beside = counts.waiting > 0 && counts.ready > counts.reserved;
            assert!(
                !waits_beside,
                "somebody waits beside a slot for anybody: {counts:?}"
            );
        }
        let held = pool.attached_slots().collect::<HashSet<_>>();
        assert_eq!(self.passing, held);
        for slot in held.into_iter().chain(pool.idle_slots()) {
            let own = pool.class_of(slot) == 1;
            assert_eq!(own, (32..48).contains(&slot), "{slot} is another class's");
        }
        assert!(pool.counts().creating <= pool.settings.creating);
        if let Some(deadline) = pool.next_deadline() {
            assert!(deadline > self.now, "due at once: a hot loop");
        }
    }
}

proptest! {
    // About 100,000 steps.
    #![proptest_config(ProptestConfig::with_cases(700))]

    #[test]
    fn classes_keep_to_themselves_and_reservations_hold_whatever_happens(
        sizes in prop::array::uniform3((1..8_u32, 0..8_u32)),
        warm in 0..5_u32,
        steps in prop::collection::vec(class_step(), 1..300),
    ) {
        let mut bench = Bench::over(three_classes(sizes, warm));
        for step in &steps {
            bench.class_step(step);
            bench.check_classes();
        }
        bench.event(Event::EndDrain(None));
        // Nobody starves: whoever waits is served once slots are given back.
        for slot in 0..48 {
            bench.event(Event::Detach(slot));
        }
        for _ in 0..64 {
            bench.work();
            for slot in bench.pool.attached_slots().collect::<Vec<_>>() {
                bench.event(Event::Detach(slot));
            }
        }
        prop_assert_eq!(bench.pool.counts().waiting, 0);
        prop_assert_eq!(bench.pool.counts().beyond, 0);
        prop_assert!(bench.pool.is_filled(), "{:?}", bench.pool.counts());
        let wanted = bench.pool.classes[0].reserves.wanted();
        let first = bench.pool.counts_of(0);
        let free = (first.capacity - 1).min(first.capacity - first.kept);
        prop_assert!(first.reserved >= wanted.min(free), "{first:?}");
    }
}

/// A pool of eight slots, three of which are held back for shops.
fn reserving() -> Bench {
    let mut bench = Bench::over(three_classes([(8, 8), (1, 1), (1, 1)], 3));
    bench.pool.classes[0].recycle = Recycle::Never;
    bench.work();
    bench
}

#[test]
fn a_burst_of_others_leaves_what_is_held_back() {
    let mut bench = reserving();
    let crowd = (0..20).map(|n| granted(&bench.attach(&format!("x{n}"), OnEmpty::Fail)).len());
    assert_eq!(crowd.sum::<usize>(), 5);
    assert_eq!(bench.pool.counts_of(0).reserved, 3);
    for shop in ["shop-1", "shop-2", "shop-1"] {
        let owner = format!("{shop}-{}", bench.next_request);
        assert_eq!(
            granted(&bench.attach_as(holder(&owner, shop), OnEmpty::Fail)).len(),
            1
        );
    }
    let refused = bench.attach_as(holder("late", "shop-1"), OnEmpty::Fail);
    assert!(
        matches!(refused[..], [Command::Refuse { .. }]),
        "{refused:?}"
    );
}

#[test]
fn those_with_a_reservation_take_what_is_anybodys_first() {
    let mut bench = reserving();
    for n in 0..5 {
        bench.attach_as(holder(&format!("s{n}"), "shop-1"), OnEmpty::Fail);
        assert_eq!(bench.pool.counts_of(0).reserved, 3);
    }
}

#[test]
fn whoever_waits_and_what_is_held_back_get_slots_in_turn() {
    let mut bench = reserving();
    let mut held = Vec::new();
    for n in 0..8 {
        let tenant = if n < 5 { "x" } else { "shop-1" };
        let owner = format!("o{n}");
        bench.attach_as(holder(&owner, tenant), OnEmpty::Fail);
        held.extend(bench.pool.slot_of(&owner));
    }
    for n in 0..6 {
        bench.attach(&format!("w{n}"), OnEmpty::Wait);
    }
    let mut course = Vec::new();
    for slot in held.into_iter().take(4) {
        bench.event(Event::Detach(slot));
        bench.work();
        let counts = bench.pool.counts_of(0);
        course.push((counts.reserved, counts.waiting));
    }
    assert_eq!(course, [(1, 6), (1, 5), (2, 5), (2, 4)]);
}

#[test]
fn a_burst_in_one_class_leaves_the_others_alone() {
    let mut bench = Bench::over(three_classes([(8, 4), (4, 4), (4, 2)], 0));
    bench.work();
    for n in 0..12 {
        bench.attach(&format!("x{n}"), OnEmpty::Wait);
    }
    let others = [1, 2].map(|class| bench.pool.counts_of(class).ready);
    assert_eq!(others, [4, 2]);
    bench.work();
    let counts = bench.pool.counts_of(0);
    assert_eq!((counts.attached, counts.waiting), (8, 4));
}

#[test]
fn the_class_that_is_provided_worst_is_refilled_first() {
    let mut bench = Bench::over(three_classes([(8, 8), (1, 1), (8, 0)], 0));
    assert_eq!(bench.to_create, [0, 32, 1]);
    bench.attach_of_class(2, 2, OnEmpty::Wait);
    bench.one_job();
    assert_eq!(
        bench.pool.class_of(bench.to_create[2]),
        2,
        "somebody waits there"
    );
}

#[test]
fn a_slot_of_a_class_that_is_gone_is_destroyed_when_it_is_given_back() {
    let mut bench = Bench::over(three_classes([(4, 0), (1, 0), (1, 0)], 0));
    let class = bench.pool.add_removed_class();
    let left = Restored {
        slot: 2,
        class,
        epoch: 7,
        now: Left::Attached(Rc::new(holder("old", "x"))),
    };
    let mut commands = Vec::new();
    bench.pool.restore([left], &mut commands);
    bench.passing.insert(2);
    assert_eq!((bench.pool.counts_of(class).beyond, commands.len()), (1, 0));
    bench.event(Event::Detach(2));
    assert_eq!(bench.to_retire, [2]);
    bench.work();
    assert_eq!(bench.pool.counts_of(class).beyond, 0);
}
