//! A datapath that remembers what it was told, for tests of the engine.

use std::{cell::RefCell, rc::Rc};

use pcpm_ebpf::abi::{AttachmentWord, SlotCounters};

use super::{BpfError, Datapath};
use crate::net::Uplink;

/// Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDatapath {
    /// Every word published, in order.
    pub(crate) published: Rc<RefCell<Vec<(u32, AttachmentWord)>>>,
    /// Every uplink it was told to follow, in order.
    pub(crate) uplinks: Rc<RefCell<Vec<Option<Uplink>>>>,
    /// What every slot's counters read.
    pub(crate) counters: Rc<RefCell<SlotCounters>>,
}

impl Datapath for FakeDatapath {
    fn publish(&mut self, slot: u32, word: AttachmentWord) {
        self.published.borrow_mut().push((slot, word));
    }

    fn slot_counters(&self, _slot: u32) -> Result<SlotCounters, BpfError> {
        Ok(*self.counters.borrow())
    }

    fn follow_uplink(&mut self, uplink: Option<&Uplink>) -> Result<(), BpfError> {
        self.uplinks.borrow_mut().push(uplink.cloned());
        Ok(())
    }

    fn drops(&self) -> Result<Vec<u64>, BpfError> {
        Ok(Vec::new())
    }
}
