//! Watchers: each is owed the slots that changed and the events that came since it was last told.
//! What is owed is a set of slots, so a watcher that does not read costs no more than the pool is
//! large, whatever happens meanwhile.

use std::{cell::Cell, collections::BTreeSet, rc::Rc};

use pcpm_api::types::WatchFrame;
use tokio::sync::Notify;

use super::{Engine, Shared, unix_time_ms};
use crate::pool::SlotIndex;

#[derive(Debug, Default)]
pub(super) struct Watchers {
    all: Vec<Watcher>,
    next_id: u64,
    sequence: u64,
}

#[derive(Debug)]
struct Watcher {
    id: u64,
    owed: BTreeSet<SlotIndex>,
    changed: Rc<Notify>,
}

impl Watchers {
    /// Notes that slots changed, and events came if `next_sequence` grew.
    pub(super) fn touch(&mut self, slots: impl Iterator<Item = SlotIndex>, next_sequence: u64) {
        let mut touched = next_sequence != self.sequence;
        self.sequence = next_sequence;
        for slot in slots {
            touched = true;
            for watcher in &mut self.all {
                watcher.owed.insert(slot);
            }
        }
        if touched {
            self.all
                .iter()
                .for_each(|watcher| watcher.changed.notify_one());
        }
    }

    fn get(&mut self, id: u64) -> Option<&mut Watcher> {
        self.all.iter_mut().find(|watcher| watcher.id == id)
    }
}

/// A client's place among the watchers; dropping it gives the place up.
pub(crate) struct Subscription {
    engine: Shared,
    id: u64,
    changed: Rc<Notify>,
    next_event: Cell<u64>,
}

impl Subscription {
    /// Joins the watchers.
    pub(crate) fn new(engine: &Shared) -> Self {
        let mut borrowed = engine.borrow_mut();
        let next_event = Cell::new(borrowed.events.next_sequence());
        let watchers = &mut borrowed.watchers;
        let id = watchers.next_id;
        watchers.next_id += 1;
        let changed: Rc<Notify> = Rc::default();
        watchers.all.push(Watcher {
            id,
            owed: BTreeSet::new(),
            changed: changed.clone(),
        });
        drop(borrowed);
        Self {
            engine: engine.clone(),
            id,
            changed,
            next_event,
        }
    }

    /// Returns when something changed since the last frame.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Every slot that is not vacant.
    pub(crate) fn snapshot(&self) -> WatchFrame {
        let mut engine = self.engine.borrow_mut();
        if let Some(watcher) = engine.watchers.get(self.id) {
            watcher.owed.clear();
        }
        let slots = engine.slots_in_use().collect();
        engine.frame(true, slots, &self.next_event)
    }

    /// What changed since the last frame.
    pub(crate) fn delta(&self) -> WatchFrame {
        let mut engine = self.engine.borrow_mut();
        let owed = engine
            .watchers
            .get(self.id)
            .map(|watcher| std::mem::take(&mut watcher.owed));
        let slots = owed
            .into_iter()
            .flatten()
            .map(|slot| engine.slot(slot))
            .collect();
        engine.frame(false, slots, &self.next_event)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.engine
            .borrow_mut()
            .watchers
            .all
            .retain(|watcher| watcher.id != self.id);
    }
}

impl Engine {
    fn frame(
        &self,
        full: bool,
        slots: Vec<pcpm_api::types::Slot>,
        next_event: &Cell<u64>,
    ) -> WatchFrame {
        let (events, events_lost) = self.events.since(next_event.get());
        next_event.set(self.events.next_sequence());
        WatchFrame {
            full,
            time_ms: unix_time_ms(),
            counts: self.pool.counts(),
            slots,
            events,
            events_lost,
            locks: None,
            locks_unavailable: None,
        }
    }
}
