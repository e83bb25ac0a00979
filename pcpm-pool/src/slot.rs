//! One slot, and what is asked about it.

use std::rc::Rc;

use pcpm_api::types::SlotState;

use super::{ClassIndex, Holder, Now, Pool, Recycle, RequestId, SlotIndex};

/// State of one slot.
#[derive(Debug)]
pub(super) enum State {
    Vacant,
    Creating,
    Ready,
    /// For this tenant alone.
    Kept(Rc<str>),
    Attached(Rc<Holder>),
    Retiring,
    Failed(Box<FailedSlot>),
}

/// What a failed slot waits for.
#[derive(Debug)]
pub(super) struct FailedSlot {
    pub(super) reason: String,
    pub(super) retry_at: Now,
    /// Whether it has to be destroyed (again) before it can be made.
    pub(super) retire: bool,
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    /// What it was made as, if it is not vacant.
    pub(super) class: ClassIndex,
    pub(super) epoch: u32,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Requests with smaller ids came before the slot began to be made.
    pub(super) begun_before: RequestId,
    /// The tenant that had it since it was made, or since it was found to be as good as new.
    pub(super) used_by: Option<Rc<str>>,
}

impl Pool {
    /// Changes a slot's state and returns what it was.
    pub(super) fn set(&mut self, slot: SlotIndex, state: State) -> State {
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

    /// The count of its class that the slot is in. Nobody counts vacant slots.
    fn count_of(&mut self, slot: SlotIndex) -> Option<&mut u32> {
        let state = self.state(slot);
        let class = self.class_of(slot);
        let counts = &mut self.classes[class].states;
        match state {
            SlotState::Vacant => None,
            SlotState::Creating => Some(&mut counts.creating),
            SlotState::Ready => Some(&mut counts.ready),
            SlotState::Kept => Some(&mut counts.kept),
            SlotState::Attached => Some(&mut counts.attached),
            SlotState::Retiring => Some(&mut counts.retiring),
            SlotState::Failed => Some(&mut counts.failed),
        }
    }

    /// The class that a slot is of which is not vacant.
    pub fn class_of(&self, slot: SlotIndex) -> ClassIndex {
        self.slots[slot as usize].class
    }

    /// The slot's state, as shown to clients.
    pub fn state(&self, slot: SlotIndex) -> SlotState {
        match self.slots[slot as usize].state {
            State::Vacant => SlotState::Vacant,
            State::Creating => SlotState::Creating,
            State::Ready => SlotState::Ready,
            State::Kept(_) => SlotState::Kept,
            State::Attached(_) => SlotState::Attached,
            State::Retiring => SlotState::Retiring,
            State::Failed(_) => SlotState::Failed,
        }
    }

    /// Whether the slot waits for somebody, be it for one tenant alone.
    pub fn is_idle(&self, slot: SlotIndex) -> bool {
        let state = &self.slots[slot as usize].state;
        matches!(state, State::Ready | State::Kept(_))
    }

    /// The tenant that the slot waits for, if it does for one alone.
    pub fn kept_for(&self, slot: SlotIndex) -> Option<&Rc<str>> {
        match &self.slots[slot as usize].state {
            State::Kept(tenant) => Some(tenant),
            _ => None,
        }
    }

    /// The tenant that alone may have the slot again, if it is clean.
    pub fn to_be_kept_for(&self, slot: SlotIndex) -> Option<&Rc<str>> {
        let used_by = self.slots[slot as usize].used_by.as_ref();
        used_by.filter(|_| self.recycling(self.class_of(slot)) == Recycle::SameTenant)
    }

    /// The slot's attachment counter.
    pub fn epoch(&self, slot: SlotIndex) -> u32 {
        self.slots[slot as usize].epoch
    }

    /// Why the slot failed and when it is tried again.
    pub fn failure(&self, slot: SlotIndex) -> Option<(&str, Now)> {
        match &self.slots[slot as usize].state {
            State::Failed(failed) => Some((&failed.reason, failed.retry_at)),
            _ => None,
        }
    }

    /// Who holds the slot.
    pub fn holder(&self, slot: SlotIndex) -> Option<&Rc<Holder>> {
        match &self.slots[slot as usize].state {
            State::Attached(holder) => Some(holder),
            _ => None,
        }
    }

    /// The holder of an attached slot has other options from now on.
    pub fn change_holder(&mut self, slot: SlotIndex, holder: Rc<Holder>) {
        if let State::Attached(before) = &mut self.slots[slot as usize].state {
            debug_assert_eq!(before.owner, holder.owner);
            *before = holder;
            self.touched.push(slot);
        }
    }
}
