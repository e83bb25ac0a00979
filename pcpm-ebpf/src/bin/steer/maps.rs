//! The maps, and typed access to them. The loader sets the real sizes and pins them.
#![expect(unsafe_code, reason = "map values are reached through raw pointers")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use pcpm_ebpf::{
    abi::{
        AttachmentWord, Buckets, Config, DROP_EVENTS_BYTES, DeadFlow, DropKey, DropWindow, Flow,
        FlowKey, FlowTable, HostPeer, HostPeerKey, Learned, LearnedKey, NameKey, PolicyNode,
        PortKey, PortTarget, SealedFlow, Settings, SlotCounters, SlotFlows, Uplink, flow_kind,
    },
    address::Address,
    decision::hub_of,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::{Endpoint, PortSequence},
    packet::{Frame, IpHeader, Transport},
};

use crate::{flows::Receiver, host::Route, names::Reading, ports::Connection, skb::Skb};

const DEFAULT_SLOTS: usize = 1024;
const DEFAULT_HUBS: usize = 2;
const DEFAULT_FLOWS: usize = 65_536;
const UPLINKS_KNOWN: usize = 64;
/// Datagrams in fragments under way at one time.
const DATAGRAMS: usize = 8192;
/// Slots and reasons that drops are sampled for at one time.
const WINDOWS: usize = 4096;
const DEFAULT_PORTS: usize = 65_536;
/// Ways that each CPU remembers.
pub(crate) const ROUTES_REMEMBERED: usize = 256;
/// Addresses that the host may have. More are not known as its own.
const HOST_ADDRESSES_KNOWN: usize = 4096;
/// Prefixes of all policies together. A trie takes memory for what is in it only.
const POLICY_NODES: usize = 1 << 20;
/// Domain names of all policies together.
const NAMES_KNOWN: usize = 1 << 16;
/// Addresses that attachments have learned for names. The one that is not asked for longest gives way.
const ADDRESSES_LEARNED: usize = 32_768;
/// Connections of the host's own sockets to published ports that are known at one time.
const HOST_PEERS_KNOWN: usize = 16_384;

#[btf_map]
static ATTACHMENTS: Array<AttachmentWord, DEFAULT_SLOTS, { BPF_F_MMAPABLE as usize }> =
    Array::new();

#[btf_map]
static HUBS: Array<u32, DEFAULT_HUBS> = Array::new();

#[btf_map]
pub(crate) static FLOWS: LruHashMap<FlowKey, SealedFlow, DEFAULT_FLOWS> = LruHashMap::new();

#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FlowKey, SealedFlow, DATAGRAMS> = LruHashMap::new();

#[btf_map]
static SLOT_FLOWS: Array<SlotFlows, DEFAULT_SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static FLOW_TABLE: Array<FlowTable, 1, { BPF_F_MMAPABLE as usize }> = Array::new();

#[btf_map]
static SLOT_COUNTERS: PerCpuArray<SlotCounters, DEFAULT_SLOTS> = PerCpuArray::new();

#[btf_map]
static DROPS: PerCpuArray<u64, { DropReason::COUNT as usize }> = PerCpuArray::new();

/// Room for what would take much of the 512 bytes of stack. A CPU runs one of the programs at a
/// time, for one packet at a time.
#[btf_map]
static WORKSPACE: PerCpuArray<Workspace, 1> = PerCpuArray::new();

#[btf_map]
static ROUTES: PerCpuArray<Route, ROUTES_REMEMBERED> = PerCpuArray::new();

/// Of [`pcpm_ebpf::abi::DropRecord`]s. A ring has no type of values: with one, libbpf (and `bpftool` with it) would not
/// take the object.
#[btf_map]
pub(crate) static DROP_EVENTS: RingBuf<(), { DROP_EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map]
pub(crate) static DROP_WINDOWS: LruPerCpuHashMap<DropKey, DropWindow, WINDOWS> =
    LruPerCpuHashMap::new();

#[btf_map]
static SETTINGS: Array<Settings, DEFAULT_SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Behind the prefix length, the words of [`pcpm_ebpf::abi::PolicyKey`].
#[btf_map]
pub(crate) static POLICY: LpmTrie<[u32; 5], PolicyNode, POLICY_NODES> = LpmTrie::new();

/// Takes memory for what is in it only.
#[btf_map]
pub(crate) static DOMAIN_NAMES: HashMap<NameKey, u32, NAMES_KNOWN, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

#[btf_map]
pub(crate) static LEARNED: LruHashMap<LearnedKey, Learned, ADDRESSES_LEARNED> = LruHashMap::new();

#[btf_map]
static SCRATCH_NAME: PerCpuArray<NameKey, 1> = PerCpuArray::new();

#[btf_map]
static BUCKETS: Array<Buckets, DEFAULT_SLOTS> = Array::new();

#[btf_map]
static PORTS: HashMap<PortKey, PortTarget, DEFAULT_PORTS> = HashMap::new();

#[btf_map]
static HOST_ADDRESSES: HashMap<Address, u32, HOST_ADDRESSES_KNOWN> = HashMap::new();

#[btf_map]
static HOST_PEERS: LruHashMap<HostPeerKey, HostPeer, HOST_PEERS_KNOWN> = LruHashMap::new();

#[btf_map]
static UPLINKS: HashMap<u32, Uplink, UPLINKS_KNOWN> = HashMap::new();

#[btf_map]
static CONFIG: Array<Config, 1> = Array::new();

/// What a program works with. What it did for the last packet is still there.
#[repr(C)]
struct Workspace {
    frame: Frame,
    transport: Transport,
    quote: Quote,
    quoted_header: IpHeader,
    connection: Connection,
    receiver: Receiver,
    draft: Draft,
    reading: Reading,
    pair: Pair,
    dead: DeadFlow,
    /// By kind.
    found: [Flow; flow_kind::ARRIVING_FRAGMENT as usize + 1],
}

/// An entry of the flow table that is being made.
#[repr(C)]
pub(crate) struct Draft {
    pub(crate) key: FlowKey,
    pub(crate) entry: SealedFlow,
    /// Where a port is looked for.
    pub(crate) ports: PortSequence,
}

/// What a connection's two entries are made from.
#[repr(C)]
pub(crate) struct Pair {
    pub(crate) ingress: FlowKey,
    pub(crate) egress: FlowKey,
    /// What its local side is shown as.
    pub(crate) shown: Endpoint,
}

#[inline(always)]
fn workspace() -> Result<*mut Workspace, DropReason> {
    WORKSPACE.get_ptr_mut(0).ok_or(DropReason::NotConfigured)
}

/// Where to keep the headers of the packet at hand.
#[inline(always)]
pub(crate) fn frame() -> Result<&'static mut Frame, DropReason> {
    // SAFETY: the element is this CPU's own, and a program asks for this part of it once a packet.
    Ok(unsafe { &mut (*workspace()?).frame })
}

/// Where to keep the transport header of the packet at hand.
#[inline(always)]
pub(crate) fn transport() -> Result<&'static mut Transport, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).transport })
}

/// Where to keep what the error at hand quotes.
#[inline(always)]
pub(crate) fn quote() -> Result<&'static mut Quote, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).quote })
}

/// Where to keep the IP header that the error at hand quotes.
#[inline(always)]
pub(crate) fn quoted_header() -> Result<&'static mut IpHeader, DropReason> {
    // SAFETY: as in `frame`; nothing of it is used after it was read again.
    Ok(unsafe { &mut (*workspace()?).quoted_header })
}

/// Where to keep a route, of as many as an index can tell.
#[inline(always)]
pub(crate) fn route(index: u32) -> Result<&'static mut Route, DropReason> {
    let place = ROUTES.get_ptr_mut(index).ok_or(DropReason::NotConfigured)?;
    // SAFETY: the element is this CPU's own, and nothing of it is used after it was asked for again.
    Ok(unsafe { &mut *place })
}

/// Where to keep the connection that the packet at hand belongs to.
#[inline(always)]
pub(crate) fn connection() -> Result<&'static mut Connection, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).connection })
}

/// Where to keep whom the packet at hand is for.
#[inline(always)]
pub(crate) fn receiver() -> Result<&'static mut Receiver, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).receiver })
}

/// Where to make an entry.
#[inline(always)]
pub(crate) fn draft() -> Result<&'static mut Draft, DropReason> {
    // SAFETY: as in `frame`; a fragment is noted when the connection's entries are made.
    Ok(unsafe { &mut (*workspace()?).draft })
}

/// Where to keep the DNS answer at hand.
#[inline(always)]
pub(crate) fn reading() -> Result<&'static mut Reading, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).reading })
}

/// Where to keep the keys of a connection that is opened from outside.
#[inline(always)]
pub(crate) fn pair() -> Result<&'static mut Pair, DropReason> {
    // SAFETY: as in `frame`.
    Ok(unsafe { &mut (*workspace()?).pair })
}

/// Where to keep a flow that is to be collected.
#[inline(always)]
pub(crate) fn dead_flow() -> Result<&'static mut DeadFlow, DropReason> {
    // SAFETY: as in `frame`; there is one of them at a time.
    Ok(unsafe { &mut (*workspace()?).dead })
}

/// Where to read a flow of `kind` to.
#[inline(always)]
pub(crate) fn room_for_flow(kind: u8) -> Option<&'static mut Flow> {
    // SAFETY: as in `frame`; a program looks at one flow of each kind at a time.
    unsafe { (*workspace().ok()?).found.get_mut(usize::from(kind)) }
}

/// The configuration; all zero until the daemon has written it, which makes every slot unknown.
#[inline(always)]
pub(crate) fn config() -> Result<&'static Config, DropReason> {
    CONFIG.get(0).ok_or(DropReason::NotConfigured)
}

/// Who holds `slot` now, read once: the word may change under the program's feet.
#[inline(always)]
pub(crate) fn attachment(slot: u32) -> Result<AttachmentWord, DropReason> {
    let word = ATTACHMENTS.get_ptr(slot).ok_or(DropReason::NotASlot)?;
    // SAFETY: array elements are aligned, live as long as the map, and are written as whole words.
    Ok(unsafe { word.read_volatile() })
}

/// The interface in the host that leads to the hub of `slot`.
#[inline(always)]
pub(crate) fn hub_link(slot: u32) -> Result<u32, DropReason> {
    match HUBS.get(hub_of(slot)) {
        Some(&ifindex) if ifindex != 0 => Ok(ifindex),
        _ => Err(DropReason::NotConfigured),
    }
}

/// Where a port of the host leads to: what is published on this address, or else on all. `key` is
/// changed for the latter: there is little stack.
#[inline(always)]
pub(crate) fn published(key: &mut PortKey) -> Option<PortTarget> {
    let found = port_entry(key)?;
    // SAFETY: the element is valid until the program ends; `published` says what it may become.
    let target = unsafe { found.read_volatile() };
    target
        .is_current(attachment(target.slot).ok()?)
        .then_some(target)
}

/// Whether a port of the host is published, for whomever. `key` is changed as by [`published`].
#[inline(always)]
pub(crate) fn is_published(key: &mut PortKey) -> bool {
    port_entry(key).is_some()
}

#[inline(always)]
fn port_entry(key: &mut PortKey) -> Option<*const PortTarget> {
    PORTS.get_ptr(&*key).or_else(|| {
        key.address = Address::ANY;
        PORTS.get_ptr(&*key)
    })
}

/// Whether `address` is one of the host's own, loopback aside.
#[inline(always)]
pub(crate) fn is_host_address(address: &Address) -> bool {
    HOST_ADDRESSES.get_ptr(address).is_some()
}

/// What a socket of the host asked for when it speaks to a slot in a published port's place.
#[inline(always)]
pub(crate) fn host_peer(key: &HostPeerKey) -> Option<HostPeer> {
    let found = HOST_PEERS.get_ptr(key)?;
    // SAFETY: as in `published`.
    Some(unsafe { found.read_volatile() })
}

/// Remembers what a socket of the host asked for.
#[inline(always)]
pub(crate) fn remember_host_peer(key: &HostPeerKey, peer: &HostPeer) -> bool {
    HOST_PEERS.insert(key, peer, 0).is_ok()
}

/// What the holder of `slot` may do, whoever that is.
#[inline(always)]
pub(crate) fn settings(slot: u32) -> Option<*const Settings> {
    SETTINGS.get_ptr(slot)
}

/// The buckets of the rate limits of `slot`.
#[inline(always)]
pub(crate) fn buckets(slot: u32) -> Option<*mut Buckets> {
    BUCKETS.get_ptr_mut(slot)
}

/// Room for a name that is looked up, for which the stack has none.
#[inline(always)]
pub(crate) fn scratch_name() -> Option<*mut NameKey> {
    SCRATCH_NAME.get_ptr_mut(0)
}

/// What packets that leave through this interface of the host are translated to, if it is one that
/// leads to the world.
#[inline(always)]
pub(crate) fn uplink(ifindex: u32) -> Option<&'static Uplink> {
    let uplink = UPLINKS.get_ptr(ifindex)?;
    // SAFETY: the entry may change while it is read; a mixture is an address that nobody answers.
    Some(unsafe { &*uplink })
}

/// What the flows of `slot` take of their table.
#[inline(always)]
pub(crate) fn slot_flows(slot: u32) -> Option<*mut SlotFlows> {
    SLOT_FLOWS.get_ptr_mut(slot)
}

/// What all flows take.
#[inline(always)]
pub(crate) fn flow_table() -> Option<*mut FlowTable> {
    FLOW_TABLE.get_ptr_mut(0)
}

/// Counts one packet that is dropped for the reason with this number.
#[inline(always)]
pub(crate) fn count_reason(reason: u32) {
    if let Some(packets) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the element is this CPU's own, and a tc program is not preempted by another.
        unsafe { *packets += 1 };
    }
}

/// Counts a packet that `slot` sent and that was passed on.
#[inline(always)]
pub(crate) fn count_sent(slot: u32, skb: &Skb) {
    if let Some(counters) = SLOT_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `count_reason`.
        unsafe {
            (*counters).sent_packets += skb.segments();
            (*counters).sent_bytes += u64::from(skb.len());
        }
    }
}

/// Counts a packet that is delivered to `slot`.
#[inline(always)]
pub(crate) fn count_received(slot: u32, skb: &Skb) {
    if let Some(counters) = SLOT_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `count_reason`.
        unsafe {
            (*counters).received_packets += skb.segments();
            (*counters).received_bytes += u64::from(skb.len());
        }
    }
}

/// Counts a packet from or for `slot` that is dropped, if there is such a slot.
#[inline(always)]
pub(crate) fn count_dropped(slot: u32) {
    if let Some(counters) = SLOT_COUNTERS.get_ptr_mut(slot) {
        // SAFETY: as in `count_reason`.
        unsafe { (*counters).dropped_packets += 1 };
    }
}
