//! One class: slots that are made alike, how many of them there may be, and who waits for one.

use std::collections::VecDeque;

use pcpm_api::types::{OnEmpty, SlotCounts};

use super::{
    AttachRequest, ClassSettings, Recycle, SlotIndex, backoff::Backoff, demand::Demand, kept::Kept,
    queue::WaitingQueue, reserve::Reserves,
};

#[derive(Debug)]
pub(super) struct Class {
    pub(super) capacity: u32,
    pub(super) recycle: Recycle,
    /// Where its indexes come from.
    pub(super) zone: usize,
    /// The one that was ready first comes first.
    pub(super) ready: VecDeque<SlotIndex>,
    pub(super) reserves: Reserves,
    pub(super) kept: Kept,
    pub(super) waiting: WaitingQueue,
    pub(super) demand: Demand,
    /// Holds refill back after a failure: what failed for one slot may fail for all.
    pub(super) refill_pause: Backoff,
    /// Whether more slots were in creation when the last one was made.
    pub(super) refill_is_busy: bool,
    /// Whether it takes no attaches.
    pub(super) draining: bool,
    /// Those that follow from slots' states; the others are derived from them.
    pub(super) states: SlotCounts,
}

impl Class {
    pub(super) fn new(settings: ClassSettings, zone: usize) -> Self {
        Self {
            capacity: settings.capacity,
            recycle: settings.recycle,
            zone,
            ready: VecDeque::new(),
            reserves: Reserves::new(settings.reserves),
            kept: Kept::default(),
            waiting: WaitingQueue::default(),
            demand: Demand::new(settings.target),
            refill_pause: Backoff::default(),
            refill_is_busy: false,
            draining: false,
            states: SlotCounts::default(),
        }
    }

    pub(super) fn counts(&self) -> SlotCounts {
        SlotCounts {
            vacant: self.vacant(),
            capacity: self.capacity,
            target: self.target(),
            waiting: self.waiting.len(),
            beyond: self.in_use().saturating_sub(self.capacity),
            reserved: self.reserves.held(),
            ..self.states
        }
    }

    fn in_use(&self) -> u32 {
        self.lasting() + self.states.retiring
    }

    /// Slots that are not about to be vacant.
    pub(super) fn lasting(&self) -> u32 {
        let SlotCounts {
            ready,
            kept,
            attached,
            creating,
            failed,
            ..
        } = self.states;
        ready + kept + attached + creating + failed
    }

    fn vacant(&self) -> u32 {
        self.capacity.saturating_sub(self.in_use())
    }

    /// Ready slots aimed for, those held back for reservations among them.
    pub(super) fn target(&self) -> u32 {
        if self.draining {
            return 0;
        }
        let target = match self.to_hold_back() {
            0 => self.demand.target(),
            // One is left for all others.
            reserved => self.demand.target().max(reserved + 1),
        };
        target.min(self.capacity)
    }

    /// Ready slots that are to be held back. One is for everybody, however small the class was made.
    fn to_hold_back(&self) -> u32 {
        let most = self.capacity.saturating_sub(1);
        self.reserves.wanted().min(most)
    }

    /// No more are held back than there are, and than are to be.
    pub(super) fn limit_reserves(&mut self) {
        self.reserves
            .limit(self.states.ready.min(self.to_hold_back()));
    }

    /// Ready slots that are kept. Where used slots come back the next attaches are better served by
    /// them than by new ones, so up to as many again are not destroyed.
    pub(super) fn most_ready(&self, recycling: Recycle) -> u32 {
        match recycling {
            Recycle::Verified => self.target().saturating_mul(2),
            Recycle::Never | Recycle::SameTenant => self.target(),
        }
    }

    /// Slots that are kept for single tenants: no more than are to be ready for anybody, and at most half of
    /// what nobody holds.
    pub(super) fn most_kept(&self) -> u32 {
        let SlotCounts {
            attached, failed, ..
        } = self.states;
        let free = self.capacity.saturating_sub(attached + failed);
        self.target().min(free / 2)
    }

    /// Whether somebody waits for whom there is no place that is free, or about to be, as reservations get
    /// theirs in turn.
    pub(super) fn lacks_room(&self) -> bool {
        let SlotCounts {
            creating, retiring, ..
        } = self.states;
        let places = self.for_anybody() + creating + self.vacant() + retiring;
        let lacking = self.to_hold_back().saturating_sub(self.reserves.held());
        !self.waiting.is_empty() && places < self.waiting.len() + lacking
    }

    /// Whether it should have more ready slots and may have more slots.
    pub(super) fn wants_refill(&self) -> bool {
        let coming = self.states.ready + self.states.creating;
        !self.draining
            && self.vacant() > 0
            && coming < self.target().saturating_add(self.waiting.len())
    }

    /// How well it is provided, to be compared with other classes: those where somebody waits come first,
    /// then those with the smallest part of what they should have ready.
    pub(super) fn provision(&self) -> (bool, u64) {
        let coming = self.states.ready + self.states.creating;
        let nobody_waits = self.waiting.len() <= self.states.creating;
        let target = u64::from(self.target().max(1));
        (nobody_waits, u64::from(coming) * 1_000_000 / target)
    }

    /// Whether a request that finds no slot is queued. One that has a slot made needs one that
    /// is, or is about to be, vacant. One that waits may do so even when nothing is coming: a slot that
    /// is attached can be given back before the deadline.
    pub(super) fn may_wait(&self, on_empty: OnEmpty) -> bool {
        let SlotCounts {
            creating,
            retiring,
            kept,
            ..
        } = self.states;
        let coming = self.vacant() + creating + retiring + kept;
        match on_empty {
            OnEmpty::Wait => true,
            OnEmpty::Create => coming > self.waiting.len(),
            OnEmpty::Fail => false,
        }
    }

    /// Whether a slot is there for the request that nobody waits for who came before.
    pub(super) fn has_slot_for(&self, request: &AttachRequest) -> bool {
        let tenant = &request.holder.tenant;
        let held_back = || {
            self.reserves
                .of(tenant)
                .is_some_and(|r| self.reserves.has(r))
        };
        self.kept.has(tenant) || self.for_anybody() > 0 || held_back()
    }

    /// Takes the ready slot that the request may have, if there is one: one that is anybody's, or one that
    /// is held back for its tenant. While somebody waits none is anybody's.
    pub(super) fn take_ready(&mut self, tenant: &str) -> Option<SlotIndex> {
        if self.for_anybody() == 0 {
            let reserve = self.reserves.of(tenant).filter(|&r| self.reserves.has(r))?;
            self.reserves.take(reserve);
        }
        self.ready.pop_front()
    }

    /// Ready slots that are not held back.
    pub(super) fn for_anybody(&self) -> u32 {
        self.states.ready.saturating_sub(self.reserves.held())
    }

    /// The next of those who wait to be served, if there is a slot for any. Those are held back first that
    /// it is a reservation's turn for.
    pub(super) fn next_to_serve(&mut self) -> Option<AttachRequest> {
        while self.for_anybody() > 0 {
            let is_lacking = self.reserves.held() < self.to_hold_back();
            let restocked = is_lacking.then(|| self.reserves.restock(!self.waiting.is_empty()));
            let Some(reserve) = restocked.flatten() else {
                return self.waiting.pop();
            };
            let reserves = &self.reserves;
            let has_it =
                |request: &AttachRequest| reserves.of(&request.holder.tenant) == Some(reserve);
            if let Some(request) = self.waiting.pop_first_where(has_it) {
                self.reserves.take(reserve);
                return Some(request);
            }
        }
        None
    }
}
