//! Where slots come from and where they go: refill, failures, sizes.

use pcpm_api::types::SlotCounts;

use super::{
    Command, Now, Pool, Recycle, SlotIndex, Target, backoff,
    slot::{FailedSlot, State},
};

impl Pool {
    pub(super) fn created(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        self.slots[slot as usize].failures = 0;
        self.slots[slot as usize].used_by = None;
        self.refill_pause.reset();
        self.demand.made(now, self.refill_is_busy);
        self.refill_is_busy = self.counts.creating > 1;
        self.ready_for_anybody(slot, now, commands);
    }

    pub(super) fn ready_for_anybody(
        &mut self,
        slot: SlotIndex,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        if !self.may_keep(slot) {
            self.retire(slot, commands);
            return;
        }
        self.set(slot, State::Ready);
        self.ready.push_back(slot);
        self.serve_waiting(now, commands);
    }

    /// A used slot is clean enough. One that may be for anybody is as good as new.
    pub(super) fn recycled(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        match self.recycling() {
            Recycle::Never => self.retire(slot, commands),
            Recycle::SameTenant => self.ready_for_tenant(slot, now, commands),
            Recycle::Verified => {
                self.slots[slot as usize].used_by = None;
                self.ready_for_anybody(slot, now, commands);
            }
        }
    }

    /// The slot waits for the tenant that had it.
    pub(super) fn ready_for_tenant(
        &mut self,
        slot: SlotIndex,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        match self.slots[slot as usize].used_by.clone() {
            Some(tenant) if self.may_keep(slot) => self.serve_tenant(slot, tenant, now, commands),
            _ => self.retire(slot, commands),
        }
    }

    pub(super) fn may_keep(&self, slot: SlotIndex) -> bool {
        !self.draining && slot < self.settings.capacity
    }

    pub(super) fn create_failed(&mut self, slot: SlotIndex, reason: String, now: Now) {
        self.refill_pause.fail(now);
        self.fail(slot, reason, false, now);
    }

    pub(super) fn fail(&mut self, slot: SlotIndex, reason: String, retire: bool, now: Now) {
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

    /// Takes up failed slots whose pause is over. One that is left half destroyed is destroyed
    /// again; any other is vacant again and waits for its turn.
    pub(super) fn retry_failed(&mut self, now: Now, commands: &mut Vec<Command>) {
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

    pub(super) fn spoiled(&mut self, slot: SlotIndex, commands: &mut Vec<Command>) {
        if self.is_idle(slot) {
            self.ready.retain(|&ready| ready != slot);
            self.kept.extract(|kept| kept == slot);
            self.retire(slot, commands);
        }
    }

    pub(super) fn retire(&mut self, slot: SlotIndex, commands: &mut Vec<Command>) {
        self.set(slot, State::Retiring);
        commands.push(Command::Retire(slot));
    }

    pub(super) fn retired(&mut self, slot: SlotIndex) {
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

    pub(super) fn resize(&mut self, capacity: u32, target: Target, commands: &mut Vec<Command>) {
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

    /// Destroys idle slots that a smaller pool has no place for.
    pub(super) fn retire_beyond(&mut self, commands: &mut Vec<Command>) {
        let ready = std::mem::take(&mut self.ready);
        for slot in ready {
            if slot < self.settings.capacity {
                self.ready.push_back(slot);
            } else {
                self.retire(slot, commands);
            }
        }
        let capacity = self.settings.capacity;
        for slot in self.kept.extract(|slot| slot >= capacity) {
            self.retire(slot, commands);
        }
    }

    /// Ready slots aimed for.
    pub(super) fn target(&self) -> u32 {
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
        match self.recycling() {
            Recycle::Verified => target.saturating_mul(2),
            Recycle::Never | Recycle::SameTenant => target,
        }
    }

    /// Destroys ready slots beyond what is kept. While the pool drains they stay: it may be told to go on.
    pub(super) fn retire_surplus(&mut self, commands: &mut Vec<Command>) {
        while !self.draining && self.counts.ready > self.most_ready() {
            let Some(slot) = self.ready.pop_back() else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    /// Destroys kept slots, the oldest first, that others need more.
    pub(super) fn make_room(&mut self, commands: &mut Vec<Command>) {
        while !self.draining && (self.lacks_room() || self.counts.kept > self.most_kept()) {
            let Some(slot) = self.kept.take_oldest() else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    /// Whether more requests wait than there are places that are free, or about to be.
    fn lacks_room(&self) -> bool {
        let SlotCounts {
            ready,
            creating,
            vacant,
            retiring,
            ..
        } = self.counts;
        ready + creating + vacant + retiring < self.waiting.len()
    }

    /// Slots that are kept for single tenants: no more than are to be ready for anybody, and at most half of
    /// what nobody holds.
    fn most_kept(&self) -> u32 {
        let SlotCounts {
            attached,
            failed,
            capacity,
            ..
        } = self.counts;
        let free = capacity.saturating_sub(attached + failed);
        self.target().min(free / 2)
    }

    pub(super) fn refill(&mut self, now: Now, commands: &mut Vec<Command>) {
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

    pub(super) fn refill_wanted(&self) -> bool {
        let coming = self.counts.ready + self.counts.creating;
        !self.draining
            && !self.vacant.is_empty()
            && coming < self.target().saturating_add(self.waiting.len())
    }
}
