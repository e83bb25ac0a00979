//! The pool as a pure state machine: events and the time go in, commands come out. Nothing here
//! knows the kernel, the socket or the clock, so every schedule can be tested without root.
//!
//! ```text
//!            refill                 created              attach
//! vacant ------------> creating ----------> ready ----------------> attached
//!    ^                    | failed  ^                                  | detach
//!    |                    v         | after a pause                    v
//!    +---- retired ---- failed -----+                               retiring
//!    +--------------------------------- retired -----------------------+
//! ```
//!
//! Where slots may be used again, a retiring one may also become ready.
//!
//! Slots, and with them addresses, are taken in the order in which they became free, so that an
//! address rests as long as possible before somebody else gets it.

mod backoff;
mod demand;
mod queue;
mod quota;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use pcpm_api::{
    options::Options,
    types::{Lease, OnEmpty, SlotCounts, SlotState, Source},
};

use serde::{Deserialize, Serialize};

use crate::process::Process;

use backoff::Backoff;
use demand::Demand;
use queue::WaitingQueue;
use quota::Usage;

pub(crate) use demand::{Adaptive, Decision, Target, Why};
pub(crate) use quota::{Exceeded, Quota, Quotas, Scope};

/// Index of a slot, 0 to capacity - 1.
pub(crate) type SlotIndex = u32;

/// Names one attach request while it waits; requests are served in the order of their ids.
pub(crate) type RequestId = u64;

/// Time since the daemon started.
pub(crate) type Now = Duration;

/// How large the pool is and how it is filled.
#[derive(Clone, Debug)]
pub(crate) struct PoolSettings {
    /// Slots that may be in use; a resize changes it.
    pub(crate) capacity: u32,
    /// The most that a resize can make of it: slots there are addresses, maps and hubs for.
    pub(crate) room: u32,
    /// Ready slots aimed for.
    pub(crate) target: Target,
    /// Slots that may be in creation at once; more would only queue before the workers.
    pub(crate) creating: u32,
    /// How much of it one tenant or user may have.
    pub(crate) quotas: Quotas,
}

/// Who holds a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) owner: String,
    pub(crate) tenant: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) lease: Lease,
    /// What the lease `pid` is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<Process>,
    #[serde(default, skip_serializing_if = "Options::is_empty")]
    pub(crate) options: Options,
    /// The user that attached it, by number.
    pub(crate) uid: u32,
    /// Whether that user was an administrator then: no quota of users counts it.
    pub(crate) by_administrator: bool,
}

impl Holder {
    /// The first parameter in which two requests of one owner differ.
    fn difference(&self, other: &Self) -> Option<&'static str> {
        [
            ("tenant", self.tenant == other.tenant),
            ("labels", self.labels == other.labels),
            ("lease", self.lease == other.lease),
            ("lease_pid", self.process == other.process),
        ]
        .into_iter()
        .find_map(|(field, same)| (!same).then_some(field))
        .or_else(|| self.options.difference(&other.options))
    }
}

/// A request for a slot.
#[derive(Clone, Debug)]
pub(crate) struct AttachRequest {
    pub(crate) id: RequestId,
    pub(crate) holder: Rc<Holder>,
    /// Refuse it if the owner has an attachment, whatever its parameters.
    pub(crate) exclusive: bool,
    pub(crate) on_empty: OnEmpty,
    pub(crate) asked_at: Now,
    pub(crate) deadline: Now,
}

impl AttachRequest {
    fn refused(&self, refusal: Refusal) -> Command {
        Command::Refuse {
            request: self.id,
            refusal,
        }
    }
}

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time passed, see [`Pool::next_deadline`].
    Tick,
    /// Somebody asks for a slot.
    Attach(AttachRequest),
    /// A request that waits is no longer wanted.
    Cancel(RequestId),
    /// An attached slot is given back.
    Detach(SlotIndex),
    /// An attached slot could not be let out, and no packet passed it: its request is answered, the
    /// slot is as good as new.
    Unused(SlotIndex),
    /// A ready slot is no longer as it was made.
    Spoiled(SlotIndex),
    /// A [`Command::Create`] succeeded.
    Created(SlotIndex),
    /// A [`Command::Create`] failed and left nothing behind.
    CreateFailed(SlotIndex, String),
    /// A [`Command::Recycle`] found the slot as good as new. If not, the slot is destroyed, as by
    /// [`Command::Retire`].
    Recycled(SlotIndex),
    /// A [`Command::Retire`] succeeded.
    Retired(SlotIndex),
    /// A [`Command::Retire`] failed; something of the slot may be left.
    RetireFailed(SlotIndex, String),
    /// No attach is answered from now on, and nothing is made any more.
    Drain,
    /// The end of that.
    EndDrain,
    /// The pool has this capacity and target from now on. Slots beyond are destroyed as they become free.
    Resize { capacity: u32, target: Target },
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Make the slot.
    Create(SlotIndex),
    /// Destroy the slot.
    Retire(SlotIndex),
    /// See whether the slot can be used again, and destroy it if not.
    Recycle(SlotIndex),
    /// Let the slot's traffic pass, then answer the request.
    Grant {
        request: RequestId,
        slot: SlotIndex,
        source: Source,
    },
    /// Answer the request with the attachment its owner has already.
    Existing { request: RequestId, slot: SlotIndex },
    /// Answer the request with an error.
    Refuse {
        request: RequestId,
        refusal: Refusal,
    },
    /// Cut the slot's traffic; comes before its [`Command::Retire`]. Says who held it.
    Revoke { slot: SlotIndex, holder: Rc<Holder> },
}

/// Why an attach is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No slot, or none in time.
    Exhausted,
    /// The owner holds this slot, attached with another value of this parameter.
    OwnerExists {
        slot: SlotIndex,
        field: &'static str,
    },
    /// The owner's slot was attached by another user.
    Foreign { slot: SlotIndex },
    /// More than the tenant or the user may have.
    Quota(Exceeded),
    /// The pool is being drained.
    Draining,
}

/// A slot as an earlier life left it.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) slot: SlotIndex,
    /// Its last attachment.
    pub(crate) epoch: u32,
    pub(crate) now: Left,
}

/// What an earlier life left of a slot.
#[derive(Debug)]
pub(crate) enum Left {
    Nothing,
    /// It is clean.
    Ready,
    Attached(Rc<Holder>),
    /// Something that has to be destroyed.
    Spent,
}

/// State of one slot.
#[derive(Debug)]
enum State {
    Vacant,
    Creating,
    Ready,
    Attached(Rc<Holder>),
    Retiring,
    Failed(Box<FailedSlot>),
}

/// What a failed slot waits for.
#[derive(Debug)]
struct FailedSlot {
    reason: String,
    retry_at: Now,
    /// Whether it has to be destroyed (again) before it can be made.
    retire: bool,
}

#[derive(Debug)]
struct Slot {
    state: State,
    epoch: u32,
    /// Failures in a row.
    failures: u32,
    /// Requests with smaller ids came before the slot began to be made.
    begun_before: RequestId,
}

/// The pool. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: PoolSettings,
    slots: Vec<Slot>,
    vacant: VecDeque<SlotIndex>,
    ready: VecDeque<SlotIndex>,
    owners: HashMap<String, SlotIndex>,
    waiting: WaitingQueue,
    usage: Usage,
    /// Failed slots by the time of their next attempt.
    failed: BTreeSet<(Now, SlotIndex)>,
    /// Holds all refill back after a failure: what failed for one slot may fail for all.
    refill_pause: Backoff,
    demand: Demand,
    counts: SlotCounts,
    draining: bool,
    /// Whether used slots may be used again.
    recycles: bool,
    next_request: RequestId,
    /// Whether more slots were in creation when the last one was made.
    refill_is_busy: bool,
    touched: Vec<SlotIndex>,
}

impl Pool {
    /// A pool of vacant slots. Nothing is made before the first event.
    pub(crate) fn new(settings: PoolSettings) -> Self {
        let slots = (0..settings.room.max(settings.capacity))
            .map(|_| Slot {
                state: State::Vacant,
                epoch: 0,
                failures: 0,
                begun_before: 0,
            })
            .collect();
        let mut pool = Self {
            slots,
            vacant: (0..settings.capacity).collect(),
            ready: VecDeque::new(),
            owners: HashMap::new(),
            waiting: WaitingQueue::default(),
            usage: Usage::new(settings.quotas.clone()),
            failed: BTreeSet::new(),
            refill_pause: Backoff::default(),
            counts: SlotCounts {
                vacant: settings.capacity,
                capacity: settings.capacity,
                ..SlotCounts::default()
            },
            demand: Demand::new(settings.target),
            settings,
            draining: false,
            recycles: false,
            next_request: 0,
            refill_is_busy: false,
            touched: Vec::new(),
        };
        pool.note_counts();
        pool
    }

    /// Used slots may be used again from now on.
    pub(crate) fn recycle(&mut self) {
        self.recycles = true;
    }

    /// Slots that can be handed out, the next one first.
    pub(crate) fn ready_slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.ready.iter().copied()
    }

    /// Goes on where an earlier life ended; before the first event. A slot that is not named is vacant
    /// and was never anything else.
    pub(crate) fn restore(
        &mut self,
        slots: impl IntoIterator<Item = Restored>,
        commands: &mut Vec<Command>,
    ) {
        for Restored { slot, epoch, now } in slots {
            self.slots[slot as usize].epoch = epoch;
            match now {
                Left::Nothing => {}
                Left::Ready => {
                    self.set(slot, State::Ready);
                    self.ready.push_back(slot);
                }
                Left::Attached(holder) => {
                    self.usage.restore(&holder);
                    self.owners.insert(holder.owner.clone(), slot);
                    self.set(slot, State::Attached(holder));
                }
                Left::Spent => {
                    self.set(slot, State::Retiring);
                    commands.push(Command::Retire(slot));
                }
            }
        }
        let slots = &self.slots;
        let is_vacant = |slot: SlotIndex| matches!(slots[slot as usize].state, State::Vacant);
        self.vacant.retain(|&slot| is_vacant(slot));
        self.retire_beyond(commands);
    }

    /// Takes an event and appends what has to be done to `commands`, in the order in which it has
    /// to be done.
    pub(crate) fn handle(&mut self, event: Event, now: Now, commands: &mut Vec<Command>) {
        match event {
            Event::Tick => {}
            Event::Attach(request) => self.attach(request, now, commands),
            Event::Cancel(request) => self.cancel(request, now),
            Event::Detach(slot) => self.detach(slot, now, commands),
            Event::Unused(slot) => self.unused(slot, now, commands),
            Event::Spoiled(slot) => self.spoiled(slot, commands),
            Event::Created(slot) => self.created(slot, now, commands),
            Event::Recycled(slot) => self.ready_for_anybody(slot, now, commands),
            Event::CreateFailed(slot, reason) => self.create_failed(slot, reason, now),
            Event::Retired(slot) => self.retired(slot),
            Event::RetireFailed(slot, reason) => self.fail(slot, reason, true, now),
            Event::Drain => self.drain(now, commands),
            Event::EndDrain => self.draining = false,
            Event::Resize { capacity, target } => self.resize(capacity, target, commands),
        }
        self.refuse_late(now, commands);
        self.demand.tick(now);
        self.retire_surplus(commands);
        self.retry_failed(now, commands);
        self.refill(now, commands);
        self.note_counts();
    }

    /// When [`Event::Tick`] is due next.
    pub(crate) fn next_deadline(&self) -> Option<Now> {
        let retry = self
            .failed
            .first()
            .filter(|_| !self.draining)
            .map(|&(at, _)| at);
        let resume = self
            .refill_wanted()
            .then(|| self.refill_pause.until())
            .flatten();
        let demand = self.demand.next_tick().filter(|_| !self.draining);
        [self.waiting.next_deadline(), retry, resume, demand]
            .into_iter()
            .flatten()
            .min()
    }

    /// The warm target and why it is that.
    pub(crate) fn decision(&self) -> Decision {
        self.demand.decision()
    }

    /// Other quotas, from the next request on.
    pub(crate) fn set_quotas(&mut self, quotas: Quotas) {
        self.usage.set_quotas(quotas);
    }

    /// Slots there may ever be: indexes are below.
    pub(crate) fn room(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether the pool takes no attaches.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining
    }

    /// How the warm target is found.
    pub(crate) fn target_setting(&self) -> Target {
        self.demand.setting()
    }

    /// Slots a second that the refill was measured to make.
    pub(crate) fn refill_per_s(&self) -> u32 {
        self.demand.refill_per_s()
    }

    /// Slots by state.
    pub(crate) fn counts(&self) -> SlotCounts {
        self.counts
    }

    /// The slot that `owner` holds.
    pub(crate) fn slot_of(&self, owner: &str) -> Option<SlotIndex> {
        self.owners.get(owner).copied()
    }

    /// Who holds the slot.
    pub(crate) fn holder(&self, slot: SlotIndex) -> Option<&Rc<Holder>> {
        match &self.slots[slot as usize].state {
            State::Attached(holder) => Some(holder),
            _ => None,
        }
    }

    /// The holder of an attached slot has other options from now on.
    pub(crate) fn change_holder(&mut self, slot: SlotIndex, holder: Rc<Holder>) {
        if let State::Attached(before) = &mut self.slots[slot as usize].state {
            debug_assert_eq!(before.owner, holder.owner);
            *before = holder;
            self.touched.push(slot);
        }
    }

    /// The slot's attachment counter.
    pub(crate) fn epoch(&self, slot: SlotIndex) -> u32 {
        self.slots[slot as usize].epoch
    }

    /// Whether the slot waits for somebody.
    pub(crate) fn is_ready(&self, slot: SlotIndex) -> bool {
        matches!(self.slots[slot as usize].state, State::Ready)
    }

    /// The slot's state, as shown to clients.
    pub(crate) fn state(&self, slot: SlotIndex) -> SlotState {
        match self.slots[slot as usize].state {
            State::Vacant => SlotState::Vacant,
            State::Creating => SlotState::Creating,
            State::Ready => SlotState::Ready,
            State::Attached(_) => SlotState::Attached,
            State::Retiring => SlotState::Retiring,
            State::Failed(_) => SlotState::Failed,
        }
    }

    /// Why the slot failed and when it is tried again.
    pub(crate) fn failure(&self, slot: SlotIndex) -> Option<(&str, Now)> {
        match &self.slots[slot as usize].state {
            State::Failed(failed) => Some((&failed.reason, failed.retry_at)),
            _ => None,
        }
    }

    /// Failed slots, the next one to be tried first.
    pub(crate) fn failed_slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.failed.iter().map(|&(_, slot)| slot)
    }

    /// Requests that wait for a slot, in the order in which they will be served.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &AttachRequest> {
        self.waiting.iter()
    }

    /// Attached slots in ascending order.
    pub(crate) fn attached_slots(&self) -> impl Iterator<Item = SlotIndex> {
        (0..self.room()).filter(|&slot| self.holder(slot).is_some())
    }

    /// Slots whose state changed since the last call; a slot may be named twice.
    pub(crate) fn take_touched(&mut self) -> std::vec::Drain<'_, SlotIndex> {
        self.touched.drain(..)
    }

    fn attach(&mut self, request: AttachRequest, now: Now, commands: &mut Vec<Command>) {
        self.next_request = request.id + 1;
        if self.draining {
            commands.push(request.refused(Refusal::Draining));
        } else if let Some(answer) = self.answer_of_owner(&request) {
            commands.push(answer);
        } else if !self.may_be_granted_now() && !self.may_wait(request.on_empty) {
            self.demand.missed(now);
            commands.push(request.refused(Refusal::Exhausted));
        } else if let Err(exceeded) = self.usage.admit(&request.holder, now) {
            commands.push(request.refused(Refusal::Quota(exceeded)));
        } else if self.may_be_granted_now() {
            self.demand.taken(now);
            self.grant(request, Source::Warm, commands);
        } else {
            self.demand.taken(now);
            self.waiting.push(request);
        }
    }

    /// Whether a slot is ready that nobody else waits for.
    fn may_be_granted_now(&self) -> bool {
        self.waiting.is_empty() && !self.ready.is_empty()
    }

    fn cancel(&mut self, request: RequestId, now: Now) {
        if let Some(request) = self.waiting.remove(request) {
            self.usage.release(&request.holder, now);
        }
    }

    /// What a request gets whose owner has an attachment already.
    fn answer_of_owner(&self, request: &AttachRequest) -> Option<Command> {
        let slot = self.slot_of(&request.holder.owner)?;
        let holder = self.holder(slot).expect("owners names attached slots only");
        if request.holder.uid != holder.uid && !request.holder.by_administrator {
            return Some(request.refused(Refusal::Foreign { slot }));
        }
        let differs = request.exclusive.then_some("owner");
        Some(
            match differs.or_else(|| holder.difference(&request.holder)) {
                None => Command::Existing {
                    request: request.id,
                    slot,
                },
                Some(field) => request.refused(Refusal::OwnerExists { slot, field }),
            },
        )
    }

    /// Whether a request that finds no ready slot is queued. One that has a slot made needs one that
    /// is, or is about to be, vacant. One that waits may do so even when nothing is coming: a slot that
    /// is attached can be given back before the deadline.
    fn may_wait(&self, on_empty: OnEmpty) -> bool {
        let coming = self.counts.vacant + self.counts.creating + self.counts.retiring;
        match on_empty {
            OnEmpty::Wait => true,
            OnEmpty::Create => coming > self.waiting.len(),
            OnEmpty::Fail => false,
        }
    }

    fn grant(&mut self, request: AttachRequest, source: Source, commands: &mut Vec<Command>) {
        let slot = self
            .ready
            .pop_front()
            .expect("callers made sure that a slot is ready");
        self.owners.insert(request.holder.owner.clone(), slot);
        self.slots[slot as usize].epoch += 1;
        self.set(slot, State::Attached(request.holder));
        commands.push(Command::Grant {
            request: request.id,
            slot,
            source,
        });
    }

    fn detach(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        if self.holder(slot).is_none() {
            return;
        }
        if let State::Attached(holder) = self.set(slot, State::Retiring) {
            self.owners.remove(&holder.owner);
            self.usage.release(&holder, now);
            let end = if self.recycles && !self.draining {
                Command::Recycle(slot)
            } else {
                Command::Retire(slot)
            };
            commands.extend([Command::Revoke { slot, holder }, end]);
        }
    }

    fn unused(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        if self.holder(slot).is_none() {
            return;
        }
        if let State::Attached(holder) = self.set(slot, State::Ready) {
            self.owners.remove(&holder.owner);
            self.usage.release(&holder, now);
            if slot < self.settings.capacity {
                self.ready.push_front(slot);
                self.serve_waiting(now, commands);
            } else {
                self.retire(slot, commands);
            }
        }
    }

    fn spoiled(&mut self, slot: SlotIndex, commands: &mut Vec<Command>) {
        if self.is_ready(slot) {
            self.ready.retain(|&ready| ready != slot);
            self.set(slot, State::Retiring);
            commands.push(Command::Retire(slot));
        }
    }

    fn created(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        self.slots[slot as usize].failures = 0;
        self.refill_pause.reset();
        self.demand.made(now, self.refill_is_busy);
        self.refill_is_busy = self.counts.creating > 1;
        self.ready_for_anybody(slot, now, commands);
    }

    fn ready_for_anybody(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        if self.draining || slot >= self.settings.capacity {
            self.retire(slot, commands);
            return;
        }
        self.set(slot, State::Ready);
        self.ready.push_back(slot);
        self.serve_waiting(now, commands);
    }

    /// Gives ready slots to those who wait, in the order in which they came.
    fn serve_waiting(&mut self, now: Now, commands: &mut Vec<Command>) {
        while !self.ready.is_empty() {
            let Some(request) = self.waiting.pop() else {
                return;
            };
            if let Some(answer) = self.answer_of_owner(&request) {
                self.usage.release(&request.holder, now);
                commands.push(answer);
                continue;
            }
            let source = self.source_for(&request);
            self.grant(request, source, commands);
        }
    }

    /// Where the next ready slot comes from for a request that waited. It was made for the request if the
    /// request asked for that, or was there before the slot began to be made.
    fn source_for(&self, request: &AttachRequest) -> Source {
        let begun_later = self
            .ready
            .front()
            .is_some_and(|&slot| request.id < self.slots[slot as usize].begun_before);
        if request.on_empty == OnEmpty::Create || begun_later {
            Source::Cold
        } else {
            Source::Warm
        }
    }

    fn create_failed(&mut self, slot: SlotIndex, reason: String, now: Now) {
        self.refill_pause.fail(now);
        self.fail(slot, reason, false, now);
    }

    fn retired(&mut self, slot: SlotIndex) {
        self.slots[slot as usize].failures = 0;
        self.vacate(slot);
    }

    /// The slot is vacant, and can be made again if the pool is still that large.
    fn vacate(&mut self, slot: SlotIndex) {
        self.set(slot, State::Vacant);
        if slot < self.settings.capacity {
            self.vacant.push_back(slot);
        }
    }

    fn retire(&mut self, slot: SlotIndex, commands: &mut Vec<Command>) {
        self.set(slot, State::Retiring);
        commands.push(Command::Retire(slot));
    }

    fn fail(&mut self, slot: SlotIndex, reason: String, retire: bool, now: Now) {
        let failures = self.slots[slot as usize].failures + 1;
        self.slots[slot as usize].failures = failures;
        let retry_at = now + backoff::pause(failures);
        self.failed.insert((retry_at, slot));
        self.set(
            slot,
            State::Failed(Box::new(FailedSlot {
                reason,
                retry_at,
                retire,
            })),
        );
    }

    fn drain(&mut self, now: Now, commands: &mut Vec<Command>) {
        self.draining = true;
        while let Some(request) = self.waiting.pop() {
            self.usage.release(&request.holder, now);
            commands.push(request.refused(Refusal::Draining));
        }
    }

    fn refuse_late(&mut self, now: Now, commands: &mut Vec<Command>) {
        while let Some(request) = self.waiting.pop_late(now) {
            self.usage.release(&request.holder, now);
            commands.push(request.refused(Refusal::Exhausted));
        }
    }

    /// Takes up failed slots whose pause is over. One that is left half destroyed is destroyed
    /// again; any other is vacant again and waits for its turn.
    fn retry_failed(&mut self, now: Now, commands: &mut Vec<Command>) {
        while let Some(&(at, slot)) = self.failed.first() {
            if at > now || self.draining {
                return;
            }
            self.failed.pop_first();
            let State::Failed(failed) = &self.slots[slot as usize].state else {
                continue;
            };
            if failed.retire {
                self.set(slot, State::Retiring);
                commands.push(Command::Retire(slot));
            } else {
                self.vacate(slot);
            }
        }
    }

    fn resize(&mut self, capacity: u32, target: Target, commands: &mut Vec<Command>) {
        let capacity = capacity.min(self.room());
        let before = std::mem::replace(&mut self.settings.capacity, capacity);
        self.counts.capacity = capacity;
        self.demand.set(target);
        self.vacant.retain(|&slot| slot < capacity);
        let slots = &self.slots;
        let is_vacant = |slot: &SlotIndex| matches!(slots[*slot as usize].state, State::Vacant);
        self.vacant.extend((before..capacity).filter(is_vacant));
        self.counts.vacant = u32::try_from(self.vacant.len()).unwrap_or(u32::MAX);
        self.retire_beyond(commands);
    }

    /// Destroys ready slots that a smaller pool has no place for.
    fn retire_beyond(&mut self, commands: &mut Vec<Command>) {
        let ready = std::mem::take(&mut self.ready);
        for slot in ready {
            if slot < self.settings.capacity {
                self.ready.push_back(slot);
            } else {
                self.retire(slot, commands);
            }
        }
    }

    /// Ready slots aimed for.
    fn target(&self) -> u32 {
        if self.draining {
            0
        } else {
            self.demand.target().min(self.settings.capacity)
        }
    }

    /// Ready slots that are kept. Where used slots come back the next attaches are better served by
    /// them than by new ones, so up to as many again are not destroyed.
    fn most_ready(&self) -> u32 {
        let target = self.target();
        if self.recycles {
            target.saturating_mul(2)
        } else {
            target
        }
    }

    /// Destroys ready slots beyond what is kept. While the pool drains they stay: it may be told to go on.
    fn retire_surplus(&mut self, commands: &mut Vec<Command>) {
        while !self.draining && self.counts.ready > self.most_ready() {
            let Some(slot) = self.ready.pop_back() else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    fn refill(&mut self, now: Now, commands: &mut Vec<Command>) {
        if self.refill_pause.holds(now) {
            return;
        }
        self.refill_pause.end();
        while self.refill_wanted() && self.counts.creating < self.settings.creating {
            let slot = self
                .vacant
                .pop_front()
                .expect("refill is wanted only with a vacant slot");
            self.slots[slot as usize].begun_before = self.next_request;
            self.set(slot, State::Creating);
            commands.push(Command::Create(slot));
        }
    }

    fn refill_wanted(&self) -> bool {
        let coming = self.counts.ready + self.counts.creating;
        !self.draining
            && !self.vacant.is_empty()
            && coming < self.target().saturating_add(self.waiting.len())
    }

    fn note_counts(&mut self) {
        let SlotCounts {
            ready,
            attached,
            creating,
            retiring,
            failed,
            vacant,
            capacity,
            ..
        } = self.counts;
        let all = ready + attached + creating + retiring + failed + vacant;
        self.counts.beyond = all.saturating_sub(capacity);
        self.counts.waiting = self.waiting.len();
        self.counts.target = self.target();
    }

    /// Changes a slot's state and returns what it was.
    fn set(&mut self, slot: SlotIndex, state: State) -> State {
        if let Some(count) = self.count_of(slot) {
            *count -= 1;
        }
        let before = std::mem::replace(&mut self.slots[slot as usize].state, state);
        if let Some(count) = self.count_of(slot) {
            *count += 1;
        }
        self.touched.push(slot);
        before
    }

    /// The count that the slot is in. Nobody counts vacant slots that a smaller pool has no place for.
    fn count_of(&mut self, slot: SlotIndex) -> Option<&mut u32> {
        match self.state(slot) {
            SlotState::Vacant if slot >= self.settings.capacity => None,
            SlotState::Vacant => Some(&mut self.counts.vacant),
            SlotState::Creating => Some(&mut self.counts.creating),
            SlotState::Ready => Some(&mut self.counts.ready),
            SlotState::Attached => Some(&mut self.counts.attached),
            SlotState::Retiring => Some(&mut self.counts.retiring),
            SlotState::Failed => Some(&mut self.counts.failed),
        }
    }
}
