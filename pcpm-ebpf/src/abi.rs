//! The kernel/user ABI: names and layouts of maps, the numbers both sides compute with.
//!
//! Every type is `#[repr(C)]` with explicit padding; sizes and offsets are asserted beside it.
//! No `bool` and no `Option` crosses the border.

use crate::address::Address;

mod domain_names;
mod drops;
mod policy;
mod ports;
mod quota;
mod settings;

pub use domain_names::{
    Learned, LearnedKey, LearnedName, NAME_BYTES, NAME_LABELS, NAMES_PER_ADDRESS, Name, NameKey,
    name_kind,
};
pub use drops::{DROP_EVENTS_BYTES, DropKey, DropRecord, DropWindow, Hop, NO_SLOT, known};
pub use policy::{PolicyKey, PolicyNode, PolicyRule, RULES_PER_NODE, verdict};
pub use ports::{HostPeer, HostPeerKey, PortKey, PortTarget};
pub use quota::{DEAD_FLOWS, DEAD_FLOWS_OFFSET, DeadFlow, FlowTable, SlotFlows};
pub use settings::{Bucket, Buckets, RateLimit, Settings, settings_flag};

/// The version of everything in this module that maps outlive a daemon with. Raised by a change that leaves
/// sizes as they are but not the meaning of what is in them: a daemon goes on with maps of its own version
/// only.
pub const ABI_VERSION: u32 = 1;

/// Slots that share one hub namespace. `peernet2id` (`net/core/net_namespace.c`) scans all namespace
/// ids a namespace knows for each link message, so the number is kept small.
pub const SLOTS_PER_HUB: u32 = 512;

/// The hub-side interface index of slot `i` is `LINK_INDEX_BASE + i`, in every hub. The index is
/// asked for when the link is created, so a program knows the slot from `ifindex` without a lookup,
/// and a packet cannot claim to come from another slot.
pub const LINK_INDEX_BASE: u32 = 1000;

/// Interface index of `up0` in every hub.
pub const HUB_UPLINK_INDEX: u32 = 2;

/// Interface index of `eth0` in every slot.
pub const SLOT_LINK_INDEX: u32 = 2;

/// The slots' gateway, an address of the host: 169.254.1.1 (host byte order).
pub const GATEWAY_V4: u32 = u32::from_be_bytes([169, 254, 1, 1]);

/// The slots' gateway for IPv6, an address of each hub's link in the host: `fe80::1`.
pub const GATEWAY_V6: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The hardware address of the gateway: all hub-side links of slots and `up0` carry it, so a packet
/// to the gateway is `PACKET_HOST` wherever it is redirected to.
pub const GATEWAY_MAC: [u8; 6] = [0x02, 0x50, 0x43, 0xff, 0xff, 0xff];

/// The hardware address of slot `index`: locally administered, derived from the slot.
pub const fn slot_mac(index: u32) -> [u8; 6] {
    let [_, high, mid, low] = index.to_be_bytes();
    [0x02, 0x50, 0x43, high, mid, low]
}

/// The hardware address of every slot where all have the same inner address. No slot has this number.
pub const CLONE_MAC: [u8; 6] = [0x02, 0x50, 0x43, 0xff, 0xff, 0xfe];

/// Who holds a slot, as one machine word so that a packet sees the old attachment or the new one
/// and never a mix: the epoch in the upper half, the tenant in the lower. Tenant 0 is nobody: the
/// slot passes nothing. Epochs start at 1 and only grow while the slot exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct AttachmentWord(pub u64);

impl AttachmentWord {
    /// An attachment of `tenant` (non-zero) in `epoch`.
    pub const fn attached(epoch: u32, tenant: u32) -> Self {
        Self(((epoch as u64) << 32) | tenant as u64)
    }

    /// Nobody holds the slot; `epoch` was its last attachment (0: none yet).
    pub const fn detached(epoch: u32) -> Self {
        Self((epoch as u64) << 32)
    }

    /// The attachment counter of the slot.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The tenant, 0 when nobody holds the slot.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is the tenant"
    )]
    pub const fn tenant(self) -> u32 {
        self.0 as u32
    }

    /// Whether somebody holds the slot.
    pub const fn is_attached(self) -> bool {
        self.tenant() != 0
    }
}

/// Names of maps and programs, as they stand in the object and in the pin directory.
pub mod names {
    /// `BPF_MAP_TYPE_ARRAY` (mmapable) of [`super::AttachmentWord`] by slot index.
    pub const ATTACHMENTS: &str = "ATTACHMENTS";
    /// `BPF_MAP_TYPE_ARRAY` of `u32` by hub number: the host-side interface index of the hub's link.
    pub const HUBS: &str = "HUBS";
    /// `BPF_MAP_TYPE_LRU_HASH`: [`super::FlowKey`] to [`super::SealedFlow`].
    pub const FLOWS: &str = "FLOWS";
    /// `BPF_MAP_TYPE_LRU_HASH`: [`super::FlowKey`] of datagrams under way in fragments to
    /// [`super::SealedFlow`].
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// `BPF_MAP_TYPE_ARRAY` (mmapable) of [`super::SlotFlows`] by slot index.
    pub const SLOT_FLOWS: &str = "SLOT_FLOWS";
    /// `BPF_MAP_TYPE_ARRAY` (mmapable) with one [`super::FlowTable`].
    pub const FLOW_TABLE: &str = "FLOW_TABLE";
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` of [`super::SlotCounters`] by slot index.
    pub const SLOT_COUNTERS: &str = "SLOT_COUNTERS";
    /// `BPF_MAP_TYPE_PERCPU_ARRAY` of `u64` packets by [`crate::drop_reason::DropReason`].
    pub const DROPS: &str = "DROPS";
    /// `BPF_MAP_TYPE_RINGBUF` of [`super::DropRecord`].
    pub const DROP_EVENTS: &str = "DROP_EVENTS";
    /// `BPF_MAP_TYPE_LRU_PERCPU_HASH`: [`super::DropKey`] to [`super::DropWindow`].
    pub const DROP_WINDOWS: &str = "DROP_WINDOWS";
    /// `BPF_MAP_TYPE_ARRAY` (mmapable) of [`super::Settings`] by slot index.
    pub const SETTINGS: &str = "SETTINGS";
    /// `BPF_MAP_TYPE_LPM_TRIE`: [`super::PolicyKey`] to [`super::PolicyNode`].
    pub const POLICY: &str = "POLICY";
    /// `BPF_MAP_TYPE_HASH`: [`super::PortKey`] to [`super::PortTarget`].
    pub const PORTS: &str = "PORTS";
    /// `BPF_MAP_TYPE_HASH`: [`crate::address::Address`] of the host to `u32` 1.
    pub const HOST_ADDRESSES: &str = "HOST_ADDRESSES";
    /// `BPF_MAP_TYPE_LRU_HASH`: [`super::HostPeerKey`] to [`super::HostPeer`].
    pub const HOST_PEERS: &str = "HOST_PEERS";
    /// `BPF_MAP_TYPE_HASH`: [`super::NameKey`] to the name's number.
    pub const DOMAIN_NAMES: &str = "DOMAIN_NAMES";
    /// `BPF_MAP_TYPE_LRU_HASH`: [`super::LearnedKey`] to [`super::Learned`].
    pub const LEARNED: &str = "LEARNED";
    /// `BPF_MAP_TYPE_ARRAY` of [`super::Buckets`] by slot index.
    pub const BUCKETS: &str = "BUCKETS";
    /// `BPF_MAP_TYPE_HASH`: `u32` interface index in the host to [`super::Uplink`].
    pub const UPLINKS: &str = "UPLINKS";
    /// `BPF_MAP_TYPE_ARRAY` with one [`super::Config`].
    pub const CONFIG: &str = "CONFIG";

    /// tc ingress of every slot's hub-side link, one shared block a hub.
    pub const FROM_SLOT: &str = "from_slot";
    /// tc ingress of `up0` in every hub.
    pub const FROM_HOST: &str = "from_host";
    /// tc ingress of the hub links in the host.
    pub const FROM_HUB: &str = "from_hub";
    /// tc egress of the hub links in the host: what the host's own stack sends to slots.
    pub const TO_HUB: &str = "to_hub";
    /// tc ingress of the uplink.
    pub const FROM_UPLINK: &str = "from_uplink";
    /// Run by the daemon: removes the [`super::DeadFlow`]s that it is told.
    pub const COLLECT: &str = "collect";

    /// The root control group: what the host's own sockets ask for, and what they are told.
    pub const SOCKET_PROGRAMS: [&str; 8] = [
        "connect4",
        "connect6",
        "sendmsg4",
        "sendmsg6",
        "recvmsg4",
        "recvmsg6",
        "getpeername4",
        "getpeername6",
    ];
}

/// What the programs need to know of the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Config {
    /// [`ABI_VERSION`] of the daemon that wrote it. Stays the first word, whatever else changes.
    pub abi_version: u32,
    /// First address of the pool, in host byte order: slot `i` has `pool_base + i`.
    pub pool_base: u32,
    /// Netmask of the pool CIDR.
    pub pool_mask: u32,
    /// Number of slots.
    pub capacity: u32,
    /// First IPv6 address of the pool: slot `i` has the one with `i` in its last word. Any: slots
    /// have no IPv6.
    pub pool6: Address,
    /// Netmask of the IPv6 prefix, at least the last word of which is 0.
    pub pool6_mask: Address,
    /// First port (or ICMP echo identifier) used for translation.
    pub nat_port_first: u16,
    /// Last port used for translation, inclusive.
    pub nat_port_last: u16,
    /// 1 if slots reach nothing of the world but what their rules open, else 0.
    pub world_is_closed: u32,
    /// 1 if slots' IPv6 packets leave for the world as they are, 0 if they are translated.
    pub ipv6_is_routed: u32,
    /// 1 if all slots have the same inner addresses, 0 if each has its own address inside.
    pub slots_are_clones: u32,
    /// 1 if what slots send to the world goes through the host's own stack, 0 if the programs send it.
    pub host_forwards: u32,
    /// Zero.
    pub padding: u32,
    /// The inner IPv4 address; any where slots are no clones.
    pub inner: Address,
    /// The inner IPv6 address; any where slots are no clones or have no IPv6.
    pub inner6: Address,
    /// The cookie of the host's network namespace; 0: nothing is done for the host's own sockets.
    pub host_netns: u64,
}

/// What the packets of slots that leave through one interface are translated to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Uplink {
    /// Its IPv4 address; any for none.
    pub v4: Address,
    /// Its IPv6 address; any for none.
    pub v6: Address,
}

/// Which way a [`FlowKey`] is looked up.
pub mod flow_kind {
    /// A slot's packets to the world: local = slot, remote = peer in the world.
    pub const EGRESS: u8 = 1;
    /// The world's answers: local = uplink address and translated port, remote = peer.
    pub const INGRESS: u8 = 2;
    /// A connection that the host opened to a slot: local = slot, remote = host.
    pub const HOST: u8 = 3;
    /// A datagram in fragments, in a table of its own: local = slot, or the uplink's address in its
    /// place, and the datagram's identification as its port.
    pub const FRAGMENT: u8 = 4;
    /// As [`FRAGMENT`], of a datagram that comes to a slot: where slots are routed, both ways have the same
    /// addresses.
    pub const ARRIVING_FRAGMENT: u8 = 5;
}

/// Key of the flow table. Ports are in host byte order; for ICMP echo the identifier stands in the
/// port of the side that asked, and the other port is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C, align(8))]
pub struct FlowKey {
    /// The slot's address, or the uplink's in its place.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// Port or echo identifier on the local side.
    pub local_port: u16,
    /// Port of the peer.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`flow_kind`].
    pub kind: u8,
    /// Zero.
    pub padding: u16,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    /// `bpf_ktime_get_ns` of the last packet, at most a second old while packets pass.
    pub last_seen_ns: u64,
    /// Slot the flow belongs to.
    pub slot: u32,
    /// The slot's epoch when the flow was made; a flow of another epoch does not exist.
    pub epoch: u32,
    /// EGRESS, and FRAGMENT of a slot: what `local` of the key is shown as to the world. Any in
    /// the others: a slot's own address follows from its number.
    pub translated_address: Address,
    /// What `local_port` of the key is rewritten to.
    pub translated_port: u16,
    /// Tracking state, see the packet logic.
    pub state: u8,
    /// Bits of [`flow_flag`].
    pub flags: u8,
    /// The policy that allowed it, see [`Settings::policy`].
    pub policy: u32,
}

/// An entry of the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SealedFlow {
    /// What it says.
    pub flow: Flow,
    /// Ties slot, epoch, flags and translation to the entry's key, see the packet logic.
    pub seal: [u64; 5],
}

/// Bits of [`Flow::flags`].
pub mod flow_flag {
    /// Opened from outside, through a published port.
    pub const INBOUND: u8 = 1;
}

/// Traffic of one slot, seen from the slot: sent is what it sends. Counted since the slot's index
/// was first used; whoever shows them subtracts what they were at attach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SlotCounters {
    /// Packets (segments of a GSO packet counted one by one) the slot sent and we passed on.
    pub sent_packets: u64,
    /// Bytes of those, with link header.
    pub sent_bytes: u64,
    /// Packets delivered to the slot.
    pub received_packets: u64,
    /// Bytes of those, with link header.
    pub received_bytes: u64,
    /// Packets from or for the slot that were dropped.
    pub dropped_packets: u64,
}

const _: () = {
    assert!(size_of::<AttachmentWord>() == 8);
    assert!(size_of::<Config>() == 112);
    assert!(core::mem::offset_of!(Config, abi_version) == 0);
    assert!(size_of::<Uplink>() == 32);
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<Flow>() == 40);
    assert!(size_of::<SealedFlow>() == 80);
    assert!(size_of::<SlotCounters>() == 40);
};
