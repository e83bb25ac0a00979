//! What flows take of their table, and what they may take of it.

/// What the flows of one slot take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotFlows {
    /// Entries of FLOWS that the present attachment has: a tally of its epoch, see [`crate::quota`].
    pub in_use: u64,
    /// Entries ever made for the slot, whoever held it. Counted before they are.
    pub made: u64,
    /// Flows refused to the slot, whoever held it.
    pub refused: u64,
    /// Datagrams under way in fragments: a tally of the time.
    pub datagrams: u64,
    /// Addresses learned for names: a tally of attachment and time.
    pub learned: u64,
    /// `made` when the slot became ready for the one who holds it now. The daemon's.
    pub made_before: u64,
    /// `refused` then.
    pub refused_before: u64,
}

/// What all flows take, and what the daemon allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FlowTable {
    /// Entries of FLOWS ever made. Counted before they are.
    pub made: u64,
    /// Entries that are gone again.
    pub gone: u64,
    /// `bpf_ktime_get_ns` when the daemon last looked after the table. Nothing is refused if that is
    /// long ago: what is dead would be counted for ever.
    pub kept_at_ns: u64,
    /// Entries that may be in use; 0: as many as there is room for.
    pub usable: u32,
    /// Entries that one slot may have.
    pub per_slot: u32,
}

/// An entry that the daemon found dead, as the program that collects it is told in place of a packet:
/// behind a link header, at most [`DEAD_FLOWS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeadFlow {
    /// Its key.
    pub key: super::FlowKey,
    /// The first word of its seal.
    pub seal: u64,
    /// When it was last used. It is alive if this has changed.
    pub last_seen_ns: u64,
}

/// What stands before the first [`DeadFlow`].
pub const DEAD_FLOWS_OFFSET: u32 = 14;

/// Entries collected at a time: the bits of the program's result say which of them are gone.
pub const DEAD_FLOWS: u32 = u32::BITS;

const _: () = {
    assert!(size_of::<SlotFlows>() == 56);
    assert!(size_of::<FlowTable>() == 32);
    assert!(size_of::<DeadFlow>() == 56);
};
