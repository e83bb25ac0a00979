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
//! Slots are of classes, each with its own size, queue and warm target; owners, quotas and the number of
//! slots in creation are those of all classes together.
//!
//! Slots, and with them addresses, are taken in the order in which they became free, so that an
//! address rests as long as possible before somebody else gets it.

mod attach;
mod backoff;
mod class;
mod contract;
mod demand;
mod kept;
mod queue;
mod quota;
mod reserve;
mod slot;
mod supply;
mod terms;
#[cfg(test)]
mod tests;
mod zone;

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use pcpm_api::types::SlotCounts;

use class::Class;
use quota::Usage;
use slot::{Slot, State};
use zone::Zone;

pub use contract::{
    AttachRequest, ClassSettings, Command, Event, Holder, Left, PoolSettings, Process, Recycle,
    Refusal, Restored, default_class, is_default_class,
};
pub use demand::{Adaptive, Decision, Target, Why};
pub use quota::{Exceeded, Quota, Quotas, Scope};
pub use reserve::{ReserveSettings, TenantPattern};
pub use terms::Terms;

/// Index of a slot.
pub type SlotIndex = u32;

/// Place of a class in the settings; classes that only an earlier life had come behind them.
pub type ClassIndex = usize;

/// Where the indexes come from of classes that have none of their own.
const SHARED: usize = 0;

/// Names one attach request while it waits; requests are served in the order of their ids.
pub type RequestId = u64;

/// Time since the daemon started.
pub type Now = Duration;

/// The pool. See the module's documentation.
#[derive(Debug)]
pub struct Pool {
    settings: PoolSettings,
    slots: Vec<Slot>,
    classes: Vec<Class>,
    /// The shared one, then those of classes with indexes of their own.
    zones: Vec<Zone>,
    owners: HashMap<String, SlotIndex>,
    usage: Usage,
    /// Failed slots by the time of their next attempt.
    failed: BTreeSet<(Now, SlotIndex)>,
    /// Whether it can be found out if used slots are clean.
    can_recycle: bool,
    next_request: RequestId,
    touched: Vec<SlotIndex>,
}

impl Pool {
    /// A pool of vacant slots. Nothing is made before the first event.
    pub fn new(settings: PoolSettings) -> Self {
        let (classes, zones) = classes_and_zones(&settings);
        let room = zones.iter().map(Zone::end).max().unwrap_or_default();
        let slots = (0..room)
            .map(|_| Slot {
                state: State::Vacant,
                class: 0,
                epoch: 0,
                failures: 0,
                begun_before: 0,
                used_by: None,
            })
            .collect();
        Self {
            slots,
            classes,
            zones,
            owners: HashMap::new(),
            usage: Usage::new(settings.quotas.clone()),
            failed: BTreeSet::new(),
            settings,
            can_recycle: false,
            next_request: 0,
            touched: Vec::new(),
        }
    }

    /// One more class, for slots of an earlier life whose class is not there any more. None is made.
    pub fn add_removed_class(&mut self) -> ClassIndex {
        let settings = ClassSettings {
            capacity: 0,
            target: Target::Fixed(0),
            reserves: Vec::new(),
            indexes: None,
            recycle: Recycle::Never,
        };
        self.classes.push(Class::new(settings, SHARED));
        self.classes.len() - 1
    }

    /// It can be found out whether used slots are clean: they may be used again from now on.
    pub fn recycle(&mut self) {
        self.can_recycle = true;
    }

    /// What becomes of used slots.
    fn recycling(&self, class: ClassIndex) -> Recycle {
        if self.can_recycle {
            self.classes[class].recycle
        } else {
            Recycle::Never
        }
    }

    /// Slots that can be handed out, the next one first, and those kept for one tenant.
    pub fn idle_slots(&self) -> impl Iterator<Item = SlotIndex> {
        let classes = self.classes.iter();
        classes.flat_map(|class| class.ready.iter().copied().chain(class.kept.slots()))
    }

    /// The ready slots of each class that are handed out next, if no tenant has slots of its own: at most `count`
    /// of a class.
    pub fn next_slots(&self, count: usize) -> impl Iterator<Item = SlotIndex> {
        let classes = self.classes.iter();
        classes.flat_map(move |class| class.ready.iter().copied().take(count))
    }

    /// Goes on where an earlier life ended; before the first event. A slot that is not named is vacant
    /// and was never anything else.
    pub fn restore(
        &mut self,
        slots: impl IntoIterator<Item = Restored>,
        commands: &mut Vec<Command>,
    ) {
        for Restored {
            slot,
            class,
            epoch,
            now,
        } in slots
        {
            self.slots[slot as usize].epoch = epoch;
            self.slots[slot as usize].class = class;
            self.restore_slot(slot, class, now, commands);
            if !matches!(self.slots[slot as usize].state, State::Vacant) {
                self.zones.iter_mut().for_each(|zone| zone.occupy(slot));
            }
        }
        for class in 0..self.classes.len() {
            self.retire_beyond(class, commands);
            let served = self.classes[class].next_to_serve();
            debug_assert!(served.is_none(), "nobody waits before the first event");
        }
    }

    fn restore_slot(
        &mut self,
        slot: SlotIndex,
        class: ClassIndex,
        now: Left,
        commands: &mut Vec<Command>,
    ) {
        let has_index = self.zones[self.classes[class].zone].contains(slot);
        match now {
            Left::Nothing => {}
            Left::Attached(holder) => {
                self.usage.restore(&holder);
                self.owners.insert(holder.owner.clone(), slot);
                self.set(slot, State::Attached(holder));
            }
            Left::Ready if has_index => {
                self.set(slot, State::Ready);
                self.classes[class].ready.push_back(slot);
            }
            Left::Kept(tenant) if has_index && self.recycling(class) == Recycle::SameTenant => {
                self.slots[slot as usize].used_by = Some(tenant.clone());
                self.set(slot, State::Kept(tenant.clone()));
                self.classes[class].kept.push(tenant, slot);
            }
            Left::Spent | Left::Ready | Left::Kept(_) => self.retire(slot, commands),
        }
    }

    /// Takes an event and appends what has to be done to `commands`, in the order in which it has
    /// to be done.
    pub fn handle(&mut self, event: Event, now: Now, commands: &mut Vec<Command>) {
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
            Event::Drain(which) => self.drain(which, now, commands),
            Event::EndDrain(which) => self.chosen(which).for_each(|class| class.draining = false),
            Event::Resize {
                class,
                capacity,
                target,
            } => self.resize(class, capacity, target, now, commands),
        }
        for class in 0..self.classes.len() {
            self.refuse_late(class, now, commands);
            self.classes[class].demand.tick(now);
            self.retire_surplus(class, commands);
            self.make_room(class, commands);
        }
        self.retry_failed(now, commands);
        self.refill(now, commands);
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_deadline(&self) -> Option<Now> {
        let retry = self.failed.first().map(|&(at, _)| at);
        let of_classes = self.classes.iter().flat_map(|class| {
            let wanted = self.refill_wanted(class);
            let resume = wanted.then(|| class.refill_pause.until()).flatten();
            let demand = class.demand.next_tick().filter(|_| !class.draining);
            [class.waiting.next_deadline(), resume, demand]
        });
        of_classes.chain([retry]).flatten().min()
    }

    /// The warm target of a class and why it is that.
    pub fn decision(&self, class: ClassIndex) -> Decision {
        self.classes[class].demand.decision()
    }

    /// Other quotas, from the next request on.
    pub fn set_quotas(&mut self, quotas: Quotas) {
        self.usage.set_quotas(quotas);
    }

    /// Tenants that hold or wait for something under a limit: how much, and the limit.
    pub fn limited_tenants(&self) -> impl Iterator<Item = (&str, u32, u32)> {
        self.usage.limited_tenants()
    }

    /// Slots there may ever be: indexes are below.
    pub fn room(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// Whether no class takes attaches.
    pub fn is_draining(&self) -> bool {
        self.classes.iter().all(|class| class.draining)
    }

    /// Whether every class has what it is to have ready, or somebody has it.
    pub fn is_filled(&self) -> bool {
        self.classes.iter().all(|class| {
            let states = &class.states;
            states.ready + states.kept + states.attached >= class.target()
        })
    }

    /// Whether the class takes no attaches.
    pub fn drains(&self, class: ClassIndex) -> bool {
        self.classes[class].draining
    }

    /// How many slots the class can be made to have by a resize, as the others are now.
    pub fn room_for(&self, class: ClassIndex) -> u32 {
        let zone = self.classes[class].zone;
        let others = self.classes.iter().enumerate();
        let others = others.filter(|(other, of)| *other != class && of.zone == zone);
        let taken: u32 = others.map(|(_, class)| class.capacity).sum();
        self.zones[zone].len().saturating_sub(taken)
    }

    /// Whether only slots of this class have its indexes.
    pub fn has_own_indexes(&self, class: ClassIndex) -> bool {
        self.classes[class].zone != SHARED
    }

    /// How the warm target of a class is found.
    pub fn target_setting(&self, class: ClassIndex) -> Target {
        self.classes[class].demand.setting()
    }

    /// Slots of the class a second that the refill was measured to make.
    pub fn refill_per_s(&self, class: ClassIndex) -> u32 {
        self.classes[class].demand.refill_per_s()
    }

    /// Slots of all classes by state.
    pub fn counts(&self) -> SlotCounts {
        let classes = self.classes.iter().map(Class::counts);
        classes.fold(SlotCounts::default(), sum)
    }

    /// Slots of a class by state.
    pub fn counts_of(&self, class: ClassIndex) -> SlotCounts {
        self.classes[class].counts()
    }

    /// Ready slots that the reservations of a class hold back, and how many they are to.
    pub fn reserved(&self, class: ClassIndex) -> impl Iterator<Item = (u32, u32)> {
        self.classes[class].reserves.figures()
    }

    /// The slot that `owner` holds.
    pub fn slot_of(&self, owner: &str) -> Option<SlotIndex> {
        self.owners.get(owner).copied()
    }

    /// Failed slots, the next one to be tried first.
    pub fn failed_slots(&self) -> impl Iterator<Item = SlotIndex> {
        self.failed.iter().map(|&(_, slot)| slot)
    }

    /// Requests that wait for a slot of the class, in the order in which they came.
    pub fn waiting(&self, class: ClassIndex) -> impl Iterator<Item = &AttachRequest> {
        self.classes[class].waiting.iter()
    }

    /// Attached slots in ascending order.
    pub fn attached_slots(&self) -> impl Iterator<Item = SlotIndex> {
        (0..self.room()).filter(|&slot| self.holder(slot).is_some())
    }

    /// Slots whose state changed since the last call; a slot may be named twice.
    pub fn take_touched(&mut self) -> std::vec::Drain<'_, SlotIndex> {
        self.touched.drain(..)
    }

    fn drain(&mut self, which: Option<ClassIndex>, now: Now, commands: &mut Vec<Command>) {
        let usage = &mut self.usage;
        for class in chosen(&mut self.classes, which) {
            class.draining = true;
            while let Some(request) = class.waiting.pop() {
                usage.release(&request.holder, now);
                commands.push(request.refused(Refusal::Draining));
            }
        }
    }

    fn chosen(&mut self, which: Option<ClassIndex>) -> impl Iterator<Item = &mut Class> {
        chosen(&mut self.classes, which)
    }
}

/// One class, or all.
fn chosen(classes: &mut [Class], which: Option<ClassIndex>) -> impl Iterator<Item = &mut Class> {
    let all = classes.iter_mut().enumerate();
    all.filter_map(move |(index, class)| which.is_none_or(|one| one == index).then_some(class))
}

fn classes_and_zones(settings: &PoolSettings) -> (Vec<Class>, Vec<Zone>) {
    let sharing = settings
        .classes
        .iter()
        .filter(|class| class.indexes.is_none());
    let wanted = sharing.map(|class| class.capacity).sum();
    let mut zones = vec![Zone::new(0..settings.shared, wanted)];
    let classes = settings.classes.iter().map(|class| {
        let zone = match &class.indexes {
            None => SHARED,
            Some(own) => {
                zones.push(Zone::new(own.clone(), class.capacity));
                zones.len() - 1
            }
        };
        Class::new(class.clone(), zone)
    });
    let classes = classes.collect();
    (classes, zones)
}

fn sum(a: SlotCounts, b: SlotCounts) -> SlotCounts {
    SlotCounts {
        ready: a.ready + b.ready,
        attached: a.attached + b.attached,
        creating: a.creating + b.creating,
        retiring: a.retiring + b.retiring,
        failed: a.failed + b.failed,
        vacant: a.vacant + b.vacant,
        capacity: a.capacity + b.capacity,
        target: a.target + b.target,
        waiting: a.waiting + b.waiting,
        beyond: a.beyond + b.beyond,
        kept: a.kept + b.kept,
        reserved: a.reserved + b.reserved,
    }
}
