//! What the reaper finds, judged by who holds the slot: one that nobody holds is replaced, the others are
//! repaired, and told as broken until they are.

use std::{fmt, iter, os::fd::OwnedFd};

use super::{Engine, events::Happening};
use crate::{
    net::{Share, hub_of, slot_name},
    pool::{Event, SlotIndex},
    reaper::Finding,
};

/// What is wrong with a slot that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    doubt: String,
    /// Why it could not be repaired, if that was tried.
    not_repaired: Option<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doubt)?;
        match &self.not_repaired {
            Some(reason) => write!(f, ", and cannot be repaired: {reason}"),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Takes what the reaper found.
    pub(crate) fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Repaired { what } => self.note(Happening::Repaired { what }),
            Finding::Broken { reason } => self.note(Happening::Broken { reason }),
            Finding::Sound { slot } => self.sound(slot),
            Finding::Slots {
                hubs,
                there,
                looked_at_ms,
            } => {
                let held = self.pool.attached_slots().chain(self.pool.idle_slots());
                let held = held.filter(|slot| hubs.contains(&hub_of(*slot)));
                for slot in held.collect::<Vec<_>>() {
                    if let Some(doubt) = self.doubt_about(slot, there.get(&slot)) {
                        self.doubt(slot, doubt, looked_at_ms);
                    }
                }
            }
            Finding::Doubtful {
                slot,
                doubt,
                looked_at_ms,
            } => self.doubt(slot, doubt, looked_at_ms),
        }
    }

    /// What is wrong with a slot of which these namespaces are there beside the network one, or nothing.
    fn doubt_about(&self, slot: SlotIndex, there: Option<&Share>) -> Option<String> {
        let Some(there) = there else {
            return Some("nothing of it is there".to_owned());
        };
        let record = &self.records[slot as usize];
        let share = record.text.as_ref()?.share();
        let doubt = share.doubt(*there)?;
        // Whatever else is wrong with it is told first.
        let is_first = |broken: &Broken| broken.doubt == doubt;
        record.broken.as_ref().is_none_or(is_first).then_some(doubt)
    }

    fn doubt(&mut self, slot: SlotIndex, doubt: String, looked_at_ms: u64) {
        let record = &mut self.records[slot as usize];
        if self.pool.holder(slot).is_some() {
            let origin = record.origin.as_ref();
            let is_meant = origin.is_some_and(|origin| origin.attached_at_ms < looked_at_ms);
            if !is_meant || record.is_mending {
                return;
            }
            self.break_and_mend(slot, doubt);
        } else if self.pool.is_idle(slot) && record.ready_at_ms < looked_at_ms {
            let failed = Happening::Failed { reason: doubt };
            self.tell_of_slot(failed, slot);
            self.feed(Event::Spoiled(slot), None);
        }
    }

    /// Tells that a slot that somebody holds is broken, and has it repaired.
    pub(super) fn break_and_mend(&mut self, slot: SlotIndex, doubt: String) {
        let known = self.records[slot as usize].broken.take();
        let not_repaired = known.filter(|known| known.doubt == doubt);
        let is_news = not_repaired.is_none();
        let broken = not_repaired.unwrap_or(Broken {
            doubt,
            not_repaired: None,
        });
        self.is_broken(slot, broken, is_news);
        self.mend(slot);
    }

    /// Has a worker repair a slot.
    fn mend(&mut self, slot: SlotIndex) {
        let spec = self.slot_spec(slot);
        let record = &mut self.records[slot as usize];
        let netns = record.netns.as_ref();
        // Without a free descriptor it is tried again when it is found the next time.
        if let Some(Ok(netns)) = netns.map(OwnedFd::try_clone) {
            record.is_mending = true;
            self.work.mend(spec, netns);
        }
    }

    /// Takes what a repair came to.
    pub(super) fn mended(&mut self, slot: SlotIndex, outcome: Result<(), String>) {
        let record = &mut self.records[slot as usize];
        record.is_mending = false;
        if std::mem::take(&mut record.is_spent) {
            return self.retire(slot);
        }
        match (outcome, record.broken.take()) {
            (_, None) => {}
            (Ok(()), Some(broken)) => {
                record.broken = Some(broken);
                self.sound(slot);
            }
            (Err(reason), Some(broken)) => {
                let is_news = broken.not_repaired.as_ref() != Some(&reason);
                let broken = Broken {
                    not_repaired: Some(reason),
                    ..broken
                };
                self.is_broken(slot, broken, is_news);
            }
        }
    }

    fn is_broken(&mut self, slot: SlotIndex, broken: Broken, is_news: bool) {
        let reason = broken.to_string();
        self.records[slot as usize].broken = Some(broken);
        if is_news {
            self.note_health(slot, Happening::Broken { reason });
        }
    }

    /// The slot is as it should be.
    fn sound(&mut self, slot: SlotIndex) {
        let broken = self.records[slot as usize].broken.take();
        if let Some(Broken { doubt, .. }) = broken {
            let what = format!("was broken: {doubt}");
            self.note_health(slot, Happening::Repaired { what });
        }
    }

    fn note_health(&mut self, slot: SlotIndex, happening: Happening) {
        let holder = self.pool.holder(slot);
        self.events.push(happening, Some(slot), holder);
        let sequence = self.events.next_sequence();
        self.watchers.touch(iter::once(slot), sequence);
        self.after_change();
    }

    /// What is wrong with a slot that somebody holds.
    pub(super) fn broken(&self, slot: SlotIndex) -> Option<String> {
        let broken = self.records[slot as usize].broken.as_ref();
        broken.map(Broken::to_string)
    }

    /// What `Status` says about attached slots that are broken: the first of them, and how many there are.
    pub(super) fn broken_warning(&self) -> Option<String> {
        let attached = self.pool.attached_slots();
        let mut broken = attached.filter(|&slot| self.records[slot as usize].broken.is_some());
        let first = broken.next()?;
        let count = 1 + broken.count();
        let reason = self.broken(first).unwrap_or_default();
        Some(format!(
            "{count} attached slots are broken, {} among them: {reason}",
            slot_name(first)
        ))
    }
}
