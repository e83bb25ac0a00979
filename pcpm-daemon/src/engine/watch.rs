//! Watchers: each is owed the slots that changed and the events that came since it was last told.
//! What is owed is a set of slots, so a watcher that does not read costs no more than the pool is
//! large, whatever happens meanwhile.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    rc::Rc,
    time::Instant,
};

use pcpm_api::types::{Slot, WatchFrame, WatchRequest};
use tokio::sync::Notify;

use super::{Engine, Shared, figures::Ticker, unix_time_ms};
use crate::pool::SlotIndex;

/// Events before it came that a watcher gets who wants some.
const PAST_EVENTS: u64 = 256;

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
    ticker: RefCell<Ticker>,
}

impl Subscription {
    /// Joins the watchers.
    pub(crate) fn new(engine: &Shared, request: &WatchRequest) -> Self {
        let ticker = Ticker::new(request);
        let mut borrowed = engine.borrow_mut();
        let past = if ticker.wants_past() { PAST_EVENTS } else { 0 };
        let next_event = Cell::new(borrowed.events.last(past));
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
            ticker: RefCell::new(ticker),
        }
    }

    /// Returns when something changed since the last frame.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// When a frame is due though nothing changed, if ever.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.ticker.borrow().due()
    }

    /// Every slot that is not vacant.
    pub(crate) fn snapshot(&self) -> WatchFrame {
        let mut engine = self.engine.borrow_mut();
        if let Some(watcher) = engine.watchers.get(self.id) {
            watcher.owed.clear();
        }
        let slots = engine.slots_in_use().collect();
        self.frame(&engine, true, slots)
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
        self.frame(&engine, false, slots)
    }

    fn frame(&self, engine: &Engine, full: bool, slots: Vec<Slot>) -> WatchFrame {
        let mut frame = engine.frame(full, slots, &self.next_event);
        let now = Instant::now();
        self.ticker.borrow_mut().add(engine, &mut frame, now);
        frame
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
    fn frame(&self, full: bool, slots: Vec<Slot>, next_event: &Cell<u64>) -> WatchFrame {
        let (events, events_lost) = self.events.since(next_event.get());
        next_event.set(self.events.next_sequence());
        WatchFrame {
            full,
            time_ms: unix_time_ms(),
            counts: self.pool.counts(),
            slots,
            events,
            events_lost,
            ..WatchFrame::default()
        }
    }
}
