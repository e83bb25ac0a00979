//! Has the names of attached slots be good without the daemon, too: shows them, see `net::mounts`. The ready slots that
//! are handed out next are shown beforehand, so an attach has nothing to do with it. That is a mount in the host, and
//! mounts make starts of containers slower: slots attached in a burst are shown when it is over, if they still are.

use std::{
    collections::VecDeque,
    rc::Rc,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::sync::Notify;

use super::{Engine, Shared};
use crate::{
    locks::operation::{self, Operation, Teller},
    net::{SlotNames, slot_name},
    pool::{Now, SlotIndex},
};

/// Ready slots of a class that are shown, and slots that are shown in a second without waiting.
const AT_ONCE: usize = 16;

/// An attached slot waits that long at most.
const LATEST: Duration = Duration::from_secs(1);

/// How long attached slots are left alone, because their containers start, and how often is looked for those that
/// wait.
const EVERY: Duration = Duration::from_millis(50);

/// The thread that shows slots.
#[derive(Debug)]
pub(crate) struct Names(JoinHandle<()>);

/// The engine's end.
pub(crate) type NameSender = Sender<Vec<SlotIndex>>;

impl Names {
    pub(crate) fn start(
        mut names: Box<dyn SlotNames>,
        teller: Teller,
    ) -> std::io::Result<(Self, NameSender)> {
        let (sender, slots) = mpsc::channel::<Vec<SlotIndex>>();
        let run = move || {
            teller.adopt();
            for slot in slots.iter().flatten() {
                operation::begin(Operation::Mount);
                if let Err(error) = names.show(slot) {
                    let slot = slot_name(slot);
                    tracing::warn!(slot, "its name is good only while the daemon runs: {error}");
                }
                operation::end();
            }
        };
        let thread = thread::Builder::new().name("pcpm-names".to_owned());
        Ok((Self(thread.spawn(run)?), sender))
    }

    /// Waits until all are shown that the engine, which is gone, has sent.
    pub(crate) fn finish(self) {
        if self.0.join().is_err() {
            tracing::error!("the thread that shows slots panicked");
        }
    }
}

/// Whether the name of a slot is good without the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    #[default]
    No,
    /// It is in the queue of those that are to be shown.
    Soon,
    Yes,
}

impl Shown {
    /// What it is when the slot has been made anew, or is as good as that.
    pub(super) fn in_another_slot(self) -> Self {
        match self {
            Self::Soon => Self::Soon,
            Self::No | Self::Yes => Self::No,
        }
    }
}

/// Slots that are to be shown.
#[derive(Debug, Default)]
pub(super) struct Showing {
    sender: Option<NameSender>,
    /// Attached slots, each once, and when they are shown at the latest, the first one first.
    waiting: VecDeque<(SlotIndex, Now)>,
    lately: Lately,
    attached: Rc<Notify>,
    ready: Rc<Notify>,
}

/// When slots were shown, the last [`AT_ONCE`] at most.
#[derive(Debug, Default)]
struct Lately(VecDeque<Now>);

impl Lately {
    /// Whether another slot may be shown now that could wait.
    fn allows(&mut self, now: Now) -> bool {
        while self.0.front().is_some_and(|at| *at + LATEST <= now) {
            self.0.pop_front();
        }
        let allowed = self.0.len() < AT_ONCE;
        if allowed {
            self.0.push_back(now);
        }
        allowed
    }
}

impl Engine {
    /// Has slots shown.
    pub(crate) fn show_with(&mut self, sender: NameSender) {
        self.showing.sender = Some(sender);
    }

    /// Looks whether slots are to be shown that are ready now.
    pub(super) fn show_ready(&self) {
        self.showing.ready.notify_one();
    }

    /// Has a slot shown that is attached now.
    pub(super) fn show_soon(&mut self, slot: SlotIndex) {
        self.show_until(slot, self.now() + LATEST);
    }

    /// Has those shown that an earlier life handed out: most of them are.
    pub(super) fn show_restored(&mut self) {
        let now = self.now();
        for slot in self.pool.attached_slots().collect::<Vec<_>>() {
            self.show_until(slot, now);
        }
        self.show_ready();
    }

    fn show_until(&mut self, slot: SlotIndex, latest: Now) {
        let record = &mut self.records[slot as usize];
        if record.shown == Shown::No {
            record.shown = Shown::Soon;
            self.showing.waiting.push_back((slot, latest));
        }
        self.showing.attached.notify_one();
    }

    /// Has all shown that wait, because the daemon ends.
    pub(crate) fn show_rest(&mut self) {
        let mut slots = Vec::new();
        while let Some((slot, _)) = self.showing.waiting.pop_front() {
            self.show_attached(slot, &mut slots);
        }
        self.show(slots);
    }

    /// Whether some are left for later.
    pub(super) fn show_due(&mut self) -> bool {
        let now = self.now();
        let mut slots = Vec::new();
        while let Some((slot, latest)) = self.showing.waiting.front().copied() {
            if now < latest && !self.showing.lately.allows(now) {
                break;
            }
            self.showing.waiting.pop_front();
            self.show_attached(slot, &mut slots);
        }
        let mut are_left = !self.showing.waiting.is_empty();
        for slot in self.pool.next_slots(AT_ONCE) {
            let record = &mut self.records[slot as usize];
            if record.shown != Shown::No || are_left {
                continue;
            }
            if self.showing.lately.allows(now) {
                record.shown = Shown::Yes;
                slots.push(slot);
            } else {
                are_left = true;
            }
        }
        self.show(slots);
        are_left
    }

    fn show_attached(&mut self, slot: SlotIndex, slots: &mut Vec<SlotIndex>) {
        let is_attached = self.pool.holder(slot).is_some();
        let record = &mut self.records[slot as usize];
        record.shown = if is_attached { Shown::Yes } else { Shown::No };
        slots.extend(is_attached.then_some(slot));
    }

    fn show(&self, slots: Vec<SlotIndex>) {
        if let Some(sender) = self.showing.sender.as_ref().filter(|_| !slots.is_empty()) {
            // The thread ends with its sender.
            let _unheard = sender.send(slots);
        }
    }

    /// Shows slots when it is time.
    pub(crate) async fn run_names(engine: Shared) {
        let attached = engine.borrow().showing.attached.clone();
        let ready = engine.borrow().showing.ready.clone();
        let after_an_attach = || async {
            attached.notified().await;
            tokio::time::sleep(EVERY).await;
        };
        loop {
            tokio::select! {
                () = ready.notified() => {}
                () = after_an_attach() => {}
            }
            while engine.borrow_mut().show_due() {
                tokio::time::sleep(EVERY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_do_not_wait() {
        let mut lately = Lately::default();
        let allowed = |lately: &mut Lately, now| (0..100).filter(|_| lately.allows(now)).count();
        let start = Duration::from_secs(100);
        assert_eq!(allowed(&mut lately, start), AT_ONCE);
        assert_eq!(allowed(&mut lately, start + LATEST / 2), 0);
        assert_eq!(allowed(&mut lately, start + LATEST), AT_ONCE);
    }
}
