//! Which dropped packets are told of one by one. A flood costs the same as a trickle: at most
//! [`RECORDS_PER_SECOND`] records for each slot, reason and CPU; the packets in between are counted and
//! told by the next record. The windows of different slots have nothing in common, so that one slot's
//! flood hides nobody else's drops.

use crate::abi::DropWindow;

/// Records a second for one slot and reason on one CPU.
pub const RECORDS_PER_SECOND: u16 = 8;

const SECOND_NS: u64 = 1_000_000_000;

impl DropWindow {
    /// Counts a packet dropped at `now_ns`; whether a record should tell of it.
    #[inline(always)]
    pub const fn count(&mut self, now_ns: u64) -> bool {
        self.untold = self.untold.saturating_add(1);
        if now_ns.saturating_sub(self.begun_ns) >= SECOND_NS {
            self.begun_ns = now_ns;
            self.records = 0;
        }
        let told = self.records < RECORDS_PER_SECOND;
        if told {
            self.records += 1;
        }
        told
    }

    /// A record told of everything counted so far.
    #[inline(always)]
    pub const fn told(&mut self) {
        self.untold = 0;
        self.missed = 0;
    }

    /// There was no room for the record.
    #[inline(always)]
    pub const fn missed(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }
}
