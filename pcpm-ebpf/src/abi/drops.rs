//! What the programs tell of the packets they drop: the ring of samples, and what bounds it.

use crate::address::Address;

/// The slot of a packet that belongs to none, as far as is known.
pub const NO_SLOT: u32 = u32::MAX;

/// Bytes of the ring of [`DropRecord`]s: a few thousand of them.
pub const DROP_EVENTS_BYTES: u32 = 256 * 1024;

/// Where a packet was dropped: the program that saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Hop {
    /// The slot's link in its hub.
    FromSlot,
    /// `up0` in the hub.
    FromHost,
    /// The hub's link in the host, coming from the hub.
    FromHub,
    /// The hub's link in the host, going to the hub.
    ToHub,
    /// The host's uplink.
    FromUplink,
}

impl Hop {
    /// Every hop, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::FromSlot,
        Self::FromHost,
        Self::FromHub,
        Self::ToHub,
        Self::FromUplink,
    ];

    /// The stable name for command line and API: the program's, in kebab-case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromSlot => "from-slot",
            Self::FromHost => "from-host",
            Self::FromHub => "from-hub",
            Self::ToHub => "to-hub",
            Self::FromUplink => "from-uplink",
        }
    }
}

/// What is known of the packet of a [`DropRecord`], `DropRecord::known`.
pub mod known {
    /// The addresses and the protocol.
    pub const ADDRESSES: u8 = 1;
    /// The ports; the identifier of an ICMP echo is the port of the side that asked.
    pub const PORTS: u8 = 2;
}

/// A sample of the packets that were dropped for one reason and slot, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropRecord {
    /// `bpf_ktime_get_ns` of the packet.
    pub time_ns: u64,
    /// The slot, or [`NO_SLOT`].
    pub slot: u32,
    /// The slot's epoch at that time.
    pub epoch: u32,
    /// The reason's number.
    pub reason: u32,
    /// Packets dropped for this slot, epoch and reason by this CPU since its last record, this one
    /// included.
    pub packets: u32,
    /// Where it came from.
    pub source: Address,
    /// Where it was going.
    pub destination: Address,
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// Records of this slot, epoch and reason that found the ring full since the last one. Their
    /// packets are in `packets`.
    pub missed: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`Hop`].
    pub hop: u8,
    /// Which of the fields above are known, see [`known`].
    pub known: u8,
    /// Zero.
    pub padding: [u8; 7],
}

/// Key of the windows that bound the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct DropKey {
    /// The slot, or [`NO_SLOT`].
    pub slot: u32,
    /// Its epoch: nobody is told of another's packets.
    pub epoch: u32,
    /// The reason's number.
    pub reason: u32,
}

/// What happened to packets of one [`DropKey`] on one CPU lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DropWindow {
    /// When this second began.
    pub begun_ns: u64,
    /// Packets that no record has told of yet.
    pub untold: u32,
    /// Records written in this second.
    pub records: u16,
    /// Records that found the ring full and were not told of yet.
    pub missed: u16,
}

const _: () = {
    assert!(size_of::<DropRecord>() == 72);
    assert!(size_of::<DropKey>() == 12);
    assert!(size_of::<DropWindow>() == 16);
};
