//! Where slots come from and where they go: refill, failures, sizes.

use pcpm_api::types::SlotState;

use super::{
    ClassIndex, Command, Now, Pool, Recycle, SlotIndex, Target, backoff,
    class::Class,
    slot::{FailedSlot, State},
};

impl Pool {
    pub(super) fn created(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        self.slots[slot as usize].failures = 0;
        self.slots[slot as usize].used_by = None;
        let class = self.class_of(slot);
        let class = &mut self.classes[class];
        class.refill_pause.reset();
        class.demand.made(now, class.refill_is_busy);
        class.refill_is_busy = class.states.creating > 1;
        self.ready_for_anybody(slot, now, commands);
    }

    pub(super) fn ready_for_anybody(
        &mut self,
        slot: SlotIndex,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        let class = self.class_of(slot);
        if self.classes[class].draining || !self.has_place(slot) {
            self.retire(slot, commands);
            return;
        }
        self.set(slot, State::Ready);
        self.classes[class].ready.push_back(slot);
        self.serve_waiting(class, now, commands);
    }

    /// A used slot is clean enough. One that may be for anybody is as good as new.
    pub(super) fn recycled(&mut self, slot: SlotIndex, now: Now, commands: &mut Vec<Command>) {
        match self.recycling(self.class_of(slot)) {
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
        let draining = self.classes[self.class_of(slot)].draining;
        match self.slots[slot as usize].used_by.clone() {
            Some(tenant) if !draining && self.has_place(slot) => {
                self.serve_tenant(slot, tenant, now, commands);
            }
            _ => self.retire(slot, commands),
        }
    }

    /// Whether a slot that could be used may stay: its class is not smaller than it was, and has its index.
    pub(super) fn has_place(&self, slot: SlotIndex) -> bool {
        let class = &self.classes[self.class_of(slot)];
        let is_counted = self.state(slot) != SlotState::Retiring;
        let with_it = class.lasting() + u32::from(!is_counted);
        with_it <= class.capacity && self.zones[class.zone].contains(slot)
    }

    pub(super) fn create_failed(&mut self, slot: SlotIndex, reason: String, now: Now) {
        let class = self.class_of(slot);
        self.classes[class].refill_pause.fail(now);
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
            if at > now {
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
            let class = self.class_of(slot);
            let class = &mut self.classes[class];
            class.ready.retain(|&ready| ready != slot);
            class.kept.extract(|kept| kept == slot);
            self.retire(slot, commands);
        }
    }

    /// Has a slot destroyed that nobody holds.
    pub(super) fn retire(&mut self, slot: SlotIndex, commands: &mut Vec<Command>) {
        self.set(slot, State::Retiring);
        commands.push(Command::Retire(slot));
        let class = self.class_of(slot);
        self.classes[class].limit_reserves();
    }

    pub(super) fn retired(&mut self, slot: SlotIndex) {
        self.slots[slot as usize].failures = 0;
        self.vacate(slot);
    }

    /// The slot is vacant, and its index can be used again.
    fn vacate(&mut self, slot: SlotIndex) {
        self.set(slot, State::Vacant);
        // An index that no class has any more is not used again.
        if let Some(zone) = self.zones.iter_mut().find(|zone| zone.contains(slot)) {
            zone.give_back(slot);
        }
    }

    pub(super) fn resize(
        &mut self,
        class: ClassIndex,
        capacity: u32,
        target: Target,
        now: Now,
        commands: &mut Vec<Command>,
    ) {
        self.classes[class].capacity = capacity;
        self.classes[class].demand.set(target);
        self.classes[class].limit_reserves();
        self.want_indexes(self.classes[class].zone);
        self.retire_beyond(class, commands);
        // Fewer may be held back than before.
        self.serve_waiting(class, now, commands);
    }

    /// As many indexes of a zone are in turn as its classes may have slots.
    fn want_indexes(&mut self, zone: usize) {
        let sharing = self.classes.iter().filter(|class| class.zone == zone);
        let wanted = sharing.map(|class| class.capacity).sum();
        self.zones[zone].want(wanted);
    }

    /// Destroys idle slots that a smaller class has no place for.
    pub(super) fn retire_beyond(&mut self, class: ClassIndex, commands: &mut Vec<Command>) {
        while self.classes[class].lasting() > self.classes[class].capacity {
            let class = &mut self.classes[class];
            let Some(slot) = class.kept.take_oldest().or_else(|| class.ready.pop_back()) else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    /// Destroys ready slots beyond what is kept. While the class drains they stay: it may be told to go on.
    pub(super) fn retire_surplus(&mut self, class: ClassIndex, commands: &mut Vec<Command>) {
        let most = self.classes[class].most_ready(self.recycling(class));
        while !self.classes[class].draining && self.classes[class].states.ready > most {
            let Some(slot) = self.classes[class].ready.pop_back() else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    /// Destroys kept slots, the oldest first, that others need more.
    pub(super) fn make_room(&mut self, class: ClassIndex, commands: &mut Vec<Command>) {
        loop {
            let class = &mut self.classes[class];
            let too_many = class.states.kept > class.most_kept();
            if class.draining || !(too_many || class.lacks_room()) {
                return;
            }
            let Some(slot) = class.kept.take_oldest() else {
                return;
            };
            self.retire(slot, commands);
        }
    }

    /// Has slots made, of the class first that is provided worst.
    pub(super) fn refill(&mut self, now: Now, commands: &mut Vec<Command>) {
        for class in &mut self.classes {
            if !class.refill_pause.holds(now) {
                class.refill_pause.end();
            }
        }
        while self.counts().creating < self.settings.creating
            && let Some(class) = self.next_to_refill()
        {
            let zone = &mut self.zones[self.classes[class].zone];
            let slot = zone
                .take()
                .expect("refill is wanted only with a vacant index");
            self.slots[slot as usize].class = class;
            self.slots[slot as usize].begun_before = self.next_request;
            self.set(slot, State::Creating);
            commands.push(Command::Create(slot));
        }
    }

    fn next_to_refill(&self) -> Option<ClassIndex> {
        let all = self.classes.iter().enumerate();
        let wanting = all
            .filter(|(_, class)| class.refill_pause.until().is_none() && self.refill_wanted(class));
        let worst = wanting.min_by_key(|(_, class)| class.provision())?;
        Some(worst.0)
    }

    pub(super) fn refill_wanted(&self, class: &Class) -> bool {
        class.wants_refill() && self.zones[class.zone].has_vacant()
    }
}
