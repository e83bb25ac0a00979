//! The flow table as the daemon sees it: what its flows take, and the hands of whoever collects the dead.
#![expect(unsafe_code, reason = "hands entries to the kernel as bytes")]

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    slice,
};

use aya::maps::MapData;
use pcpm_ebpf::abi::{
    AttachmentWord, DEAD_FLOWS, DEAD_FLOWS_OFFSET, DeadFlow, FlowTable, SlotFlows,
};

use super::{
    BpfError,
    batches::{self, Place},
    words::{AttachmentWords, FlowCounts},
};
use crate::collector::{Batch, FlowStore};

/// An Ethernet type that the kernel looks no further into.
const LINK_HEADER: [u8; DEAD_FLOWS_OFFSET as usize] = {
    let mut header = [0; DEAD_FLOWS_OFFSET as usize];
    header[12] = 0x88;
    header[13] = 0xb5;
    header
};

/// Reads and collects. It is used by one thread, of its own.
#[derive(Debug)]
pub(crate) struct FlowHands {
    flows: MapData,
    program: OwnedFd,
    holders: AttachmentWords,
    counts: FlowCounts,
    /// Where to read on; nowhere after the last entry.
    place: Option<Place>,
    packet: Vec<u8>,
}

impl FlowHands {
    pub(super) fn new(
        flows: MapData,
        program: OwnedFd,
        holders: AttachmentWords,
        counts: FlowCounts,
    ) -> Self {
        Self {
            flows,
            program,
            holders,
            counts,
            place: None,
            packet: Vec::new(),
        }
    }
}

impl FlowStore for FlowHands {
    fn begin(&mut self) {
        self.place = Some(Place::default());
    }

    fn read(&mut self, batch: &mut Batch) -> Result<bool, BpfError> {
        batch.filled = 0;
        let Some(place) = self.place else {
            return Ok(false);
        };
        let map = self.flows.fd().as_fd();
        let (filled, next) =
            batches::read_batch(map, place, &mut batch.keys, &mut batch.entries, 1)
                .map_err(|e| BpfError::new("read the flow table", &e))?;
        batch.filled = filled;
        self.place = next;
        Ok(next.is_some())
    }

    fn collect(&mut self, dead: &[DeadFlow]) -> Result<u32, BpfError> {
        debug_assert!(dead.len() <= DEAD_FLOWS as usize, "a bit for each");
        self.packet.clear();
        self.packet.extend_from_slice(&LINK_HEADER);
        self.packet.extend_from_slice(bytes(dead));
        batches::run(self.program.as_fd(), &self.packet)
            .map_err(|e: io::Error| BpfError::new("collect dead flows", &e))
    }

    fn holder(&self, slot: u32) -> Option<AttachmentWord> {
        self.holders.find(slot)
    }

    fn slots(&self) -> u32 {
        self.counts.slots()
    }

    fn slot(&self, slot: u32) -> SlotFlows {
        self.counts.slot(slot)
    }

    fn table(&self) -> FlowTable {
        self.counts.table()
    }

    fn kept(&mut self, now_ns: u64) {
        self.counts.kept(now_ns);
    }

    fn forget_of_slot(&mut self, slot: u32, epoch: u32, entries: u32) {
        self.counts.forget_of_slot(slot, epoch, entries);
    }

    fn forget(&mut self, entries: u32) {
        self.counts.forget(entries);
    }
}

fn bytes(dead: &[DeadFlow]) -> &[u8] {
    // SAFETY: `DeadFlow` consists of numbers without gaps.
    unsafe { slice::from_raw_parts(dead.as_ptr().cast(), size_of_val(dead)) }
}
