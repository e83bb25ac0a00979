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
//! Where slots may be used again, a retiring one may also become ready, or be kept for the tenant that
//! had it.
//!
//! Slots, and with them addresses, are taken in the order in which they became free, so that an
//! address rests as long as possible before somebody else gets it.

mod attach;
mod backoff;
mod contract;
mod demand;
mod kept;
mod queue;
mod quota;
mod slot;
mod supply;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use pcpm_api::types::SlotCounts;

use backoff::Backoff;
use demand::Demand;
use kept::Kept;
use queue::WaitingQueue;
use quota::Usage;
use slot::{Slot, State};

pub(crate) use contract::{
    AttachRequest, Command, Event, Holder, Left, PoolSettings, Recycle, Refusal, Restored,
};
pub(crate) use demand::{Adaptive, Decision, Target, Why};
pub(crate) use quota::{Exceeded, Quota, Quotas, Scope};

/// Index of a slot, 0 to capacity - 1.
pub(crate) type SlotIndex = u32;

/// Names one attach request while it waits; requests are served in the order of their ids.
pub(crate) type RequestId = u64;

/// Time since the daemon started.
pub(crate) type Now = Duration;

/// The pool. See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: PoolSettings,
    slots: Vec<Slot>,
    vacant: VecDeque<SlotIndex>,
    ready: VecDeque<SlotIndex>,
    kept: Kept,
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
    /// Whether it can be found out if used slots are clean.
    can_recycle: bool,
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
                used_by: None,
            })
            .collect();
        let mut pool = Self {
            slots,
            vacant: (0..settings.capacity).collect(),
            ready: VecDeque::new(),
            kept: Kept::default(),
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
            can_recycle: false,
            next_request: 0,
            refill_is_busy: false,
            touched: Vec::new(),
        };
        pool.note_counts();
        pool
    }

    /// It can be found out whether used slots are clean: they may be used again from now on.
    pub(crate) fn recycle(&mut self) {
        self.can_recycle = true;
    }

    /// What becomes of used slots.
    fn recycling(&self) -> Recycle {
        if self.can_recycle {
            self.settings.recycle
        } else {
            Recycle::Never
        }
    }

    /// Slots that can be handed out, the next one first, and those kept for one tenant.
    pub(crate) fn idle_slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.ready.iter().copied().chain(self.kept.slots())
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
                Left::Kept(tenant) if self.recycling() == Recycle::SameTenant => {
                    self.slots[slot as usize].used_by = Some(tenant.clone());
                    self.set(slot, State::Kept(tenant.clone()));
                    self.kept.push(tenant, slot);
                }
                Left::Attached(holder) => {
                    self.usage.restore(&holder);
                    self.owners.insert(holder.owner.clone(), slot);
                    self.set(slot, State::Attached(holder));
                }
                Left::Spent | Left::Kept(_) => {
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
            Event::Recycled(slot) => self.recycled(slot, now, commands),
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
        self.make_room(commands);
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

    /// Tenants that hold or wait for something under a limit: how much, and the limit.
    pub(crate) fn limited_tenants(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.usage.limited_tenants()
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

    fn drain(&mut self, now: Now, commands: &mut Vec<Command>) {
        self.draining = true;
        while let Some(request) = self.waiting.pop() {
            self.usage.release(&request.holder, now);
            commands.push(request.refused(Refusal::Draining));
        }
    }
}
