//! What the reaper finds, judged by who holds the slot.

use super::{Engine, events::Happening};
use crate::{
    pool::{Event, SlotIndex},
    reaper::Finding,
};

impl Engine {
    /// Takes what the reaper found.
    pub(crate) fn found(&mut self, finding: Finding) {
        match finding {
            Finding::Repaired { hub, what } => {
                let what = format!("hub {hub}: {what}");
                self.events.push(Happening::Repaired { what }, None, None);
            }
            Finding::BrokenHub { hub, reason } => {
                let reason = format!("hub {hub}: {reason}");
                self.events.push(Happening::Broken { reason }, None, None);
            }
            Finding::Doubtful {
                slot,
                doubt,
                looked_at_ms,
            } => self.doubt(slot, doubt, looked_at_ms),
        }
        self.after_change();
    }

    fn doubt(&mut self, slot: SlotIndex, doubt: String, looked_at_ms: u64) {
        if let Some(holder) = self.pool.holder(slot).cloned() {
            let epoch = self.pool.epoch(slot);
            let record = &mut self.records[slot as usize];
            let origin = record.origin.as_ref();
            let is_meant = origin.is_some_and(|origin| origin.attached_at_ms < looked_at_ms);
            if !is_meant || record.told_broken_in.replace(epoch) == Some(epoch) {
                return;
            }
            let broken = Happening::Broken { reason: doubt };
            self.events.push(broken, Some(slot), Some(&holder));
        } else if self.pool.is_idle(slot) {
            let failed = Happening::Failed { reason: doubt };
            self.events.push(failed, Some(slot), None);
            self.feed(Event::Spoiled(slot), None);
        }
    }
}
