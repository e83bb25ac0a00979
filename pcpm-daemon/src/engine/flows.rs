//! What flows take of their table: for `Get` and `Status`, and what is said when it is nearly full.

use pcpm_api::types::{FlowTable, Flows};
use pcpm_ebpf::{drop_reason::DropReason, quota};

use super::{Engine, events::Happening};
use crate::{
    collector::{Collected, FillChange},
    pool::SlotIndex,
};

impl Engine {
    /// Where the collector says what it did.
    pub(crate) fn collected(&self) -> Collected {
        self.collected.clone()
    }

    /// The flow table is nearly full now, or not any more.
    pub(crate) fn fill_changed(&mut self, change: FillChange) {
        self.note(Happening::Flows(change));
    }

    /// What the flows of the slot's attachment take.
    pub(super) fn flows(&self, slot: SlotIndex) -> Flows {
        let now = self.datapath.slot_flows(slot);
        Flows {
            used: quota::tallied(now.in_use, self.pool.epoch(slot)),
            limit: self.datapath.flow_table().allowance(),
            opened: now.made.saturating_sub(now.made_before),
            refused: now.refused.saturating_sub(now.refused_before),
        }
    }

    pub(super) fn flow_table(&self, drops: &[u64]) -> FlowTable {
        let table = self.datapath.flow_table();
        let refused = |reason: DropReason| drops.get(reason as usize).copied().unwrap_or_default();
        FlowTable {
            capacity: table.usable,
            used: table.in_use(),
            per_slot: table.per_slot,
            opened: table.made,
            collected: self.collected.entries(),
            pass_us: self.collected.pass_us(),
            refused_limit: refused(DropReason::FlowLimit),
            refused_full: refused(DropReason::FlowTableFull),
            refused_ports: refused(DropReason::NoFreePort),
        }
    }

    /// What an operator should know of the table, if anything.
    pub(super) fn flow_warning(&self) -> Option<String> {
        let table = self.datapath.flow_table();
        let (used, usable) = (u64::from(table.in_use()), u64::from(table.usable));
        (usable > 0 && used * 10 >= usable * 9).then(|| {
            format!(
                "the flow table is {} % full: raise nat.flows",
                used * 100 / usable
            )
        })
    }
}
