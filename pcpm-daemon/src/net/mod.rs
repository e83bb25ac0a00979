//! The daemon's hands on the kernel's networking: namespaces, links, routes, tc, mounts, sysctls.
//!
//! Everything that changes the host's or a slot's network is behind the two traits of this file, so
//! that the rest of the daemon is tested without root (`fake` records what it would have done).
//! BPF maps and the uplink's program do not belong here, nor does any decision about the pool.
//!
//! All calls block (on `rtnl_mutex`, above all) and some change the calling thread's network
//! namespace for a moment: call them from threads of your own, never from a runtime's worker.
//!
//! ```text
//! let mut host = Host::open(state_dir)?;           // "the host" is the caller's namespace
//! host.prepare(which, share)?;                     // STATE_DIR/netns, STATE_DIR/hubs, and what is shared
//! let earlier = host.survey(&[0, 1]);              // what an earlier life left, to go on with
//! host.sweep(&adopted);                            // the rest of it
//! let found = host.find_uplinks(&UplinkChoice::Auto)?;
//! host.mend_hub(&mut hub, &hub_spec(0), &programs)?; // of those that were adopted
//! let hubs: Arc<[Hub]> = (1..n).map(|h| host.create_hub(&hub_spec(h), &programs)).collect()?;
//! let worker = host.worker(hubs.clone());          // one per refill thread, moved into it
//! let slot = worker.create_slot(&spec)?;           // slot.netns, slot.timings
//! worker.destroy_slots(vec![RetiredSlot { index, netns: Some(slot.netns) }]);
//! host.remove_everything(Duration::from_secs(15));
//! ```
//!
//! Invariants:
//! * A failing call undoes what it made; the error says what could not be undone.
//! * After `destroy_slots` an index without an error is free again (name, interface index, mount
//!   point), even if somebody still holds the old namespace open.
//! * No thread stays in a slot's namespace: it would keep a retired slot alive.
//! * Only what carries our mark is ever removed, see [`mark`].

mod addresses;
mod changes;
mod cookie;
mod egress;
mod error;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod faults;
mod golden;
mod host;
mod hub;
#[cfg(test)]
mod leak_tests;
mod link;
mod mounts;
mod namespace;
mod netlink;
mod raw;
mod recycle;
mod routes;
mod share;
mod slot;
mod survey;
mod sweep;
mod sysctl;
mod tables;
mod tamper;
mod tc;
#[cfg(test)]
mod tests;
mod uplink;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use pcpm_ebpf::abi::SLOTS_PER_HUB;
use pcpm_ebpf::witness::{LinkState, References};

use crate::found::FoundSlot;

pub(crate) use changes::HostChanges;
pub(crate) use egress::{
    EgressFacts, HostEgress, Masquerade, end as end_host_egress, facts as egress_facts,
};
pub(crate) use error::NetError;
pub(crate) use host::Host;
pub(crate) use mounts::{HostMountNamespace, HostMounts};
pub(crate) use namespace::is_shared;
pub(crate) use share::{Share, share_path};
pub(crate) use tamper::{TamperWatch, Tampered};

/// What the kernel needs to know to make one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotSpec {
    /// Slot index; its hub is `index / SLOTS_PER_HUB`.
    pub(crate) index: u32,
    /// The IPv4 address inside, a /32.
    pub(crate) address: Ipv4Addr,
    /// The IPv6 address inside, a /128, if the slot has IPv6 at all.
    pub(crate) address6: Option<Ipv6Addr>,
    /// The hardware address inside.
    pub(crate) mac: [u8; 6],
    /// MTU of the link in bytes.
    pub(crate) mtu: u32,
    /// Namespaces that it has beside the network one.
    pub(crate) share: Share,
}

/// A slot as it was made.
#[derive(Debug)]
pub(crate) struct NewSlot {
    /// The namespace, close-on-exec. It is also found at [`slot_path`].
    pub(crate) netns: OwnedFd,
    /// Where the time went.
    pub(crate) timings: CreateTimings,
}

/// What a slot looked like when nobody had been in it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Golden {
    /// The number by which kernel programs know the namespace.
    cookie: u64,
    picture: Arc<golden::Picture>,
    /// What keeps the memory of the namespace, see [`References`].
    passive: u32,
}

#[cfg(test)]
impl Golden {
    /// One that stands for any.
    pub(crate) fn of_nothing() -> Self {
        Self {
            cookie: 0,
            picture: Arc::default(),
            passive: 0,
        }
    }
}

/// A slot that nobody has been in. The file is another one than that which is kept.
#[derive(Debug)]
pub(crate) struct FreshSlot {
    pub(crate) index: u32,
    /// Its last attachment, for whoever asked.
    pub(crate) epoch: u32,
    pub(crate) netns: OwnedFd,
}

/// A slot that was used, to be used again if it is clean.
#[derive(Debug)]
pub(crate) struct UsedSlot {
    pub(crate) index: u32,
    /// The only file of the namespace that may be open.
    pub(crate) netns: OwnedFd,
    pub(crate) golden: Golden,
    pub(crate) scrutiny: Scrutiny,
}

/// How closely a used slot is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scrutiny {
    /// Nobody may be in it or reach it, and nothing of what makes it work may have been changed.
    Holders,
    /// And nothing in it may differ from how it was made.
    Everything,
}

/// A judged slot.
#[derive(Debug)]
pub(crate) struct Recycled {
    pub(crate) slot: UsedSlot,
    pub(crate) outcome: Result<(), Unclean>,
}

/// What the links of a namespace are like.
#[derive(Clone, Debug)]
pub(crate) struct LinkStates {
    pub(crate) links: Vec<LinkState>,
    /// Whether the kernel has a list of each link's neighbours; where it has not, none are told.
    pub(crate) knows_neighbours: bool,
}

/// Why a slot is not used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unclean {
    /// What was not clean: one of few words, to count by.
    pub(crate) what: &'static str,
    /// In full.
    pub(crate) why: String,
    /// Whether it may pass by itself in a moment.
    may_pass: bool,
}

#[cfg(test)]
impl Unclean {
    pub(crate) fn planned() -> Self {
        Self {
            what: "planned",
            why: "planned by a test".to_owned(),
            may_pass: false,
        }
    }
}

/// How long the steps of one `create_slot` took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CreateTimings {
    /// The empty namespace and its sysctls.
    pub(crate) namespace: Duration,
    /// Its bind mount, and the namespaces it has beside it.
    pub(crate) mount: Duration,
    /// The link pair and the steering filter, made from the hub.
    pub(crate) link: Duration,
    /// Addresses, routes and the neighbour inside the slot.
    pub(crate) configure: Duration,
}

/// A slot to be destroyed. The file descriptor is closed with it; there is none when an earlier
/// attempt closed it and failed later.
#[derive(Debug)]
pub(crate) struct RetiredSlot {
    pub(crate) index: u32,
    pub(crate) netns: Option<OwnedFd>,
}

/// What the kernel needs to know to make one hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HubSpec {
    /// Hub number; hub 0 carries the gateway's address and is made first.
    pub(crate) number: u32,
    /// MTU of the hub's link to the host in bytes.
    pub(crate) mtu: u32,
    /// The hub's share of the pool CIDR, routed through it.
    pub(crate) share: Ipv4Net,
    /// The hub's share of the IPv6 prefix, if slots have IPv6.
    pub(crate) share6: Option<Ipv6Net>,
}

/// A hub as it was made. Clones share the namespace's file descriptor.
#[derive(Clone, Debug)]
pub(crate) struct Hub {
    pub(crate) number: u32,
    /// Interface index of `pcpm<number>` in the host.
    pub(crate) host_ifindex: u32,
    pub(crate) netns: Arc<OwnedFd>,
}

/// What became of a hub since an earlier life.
#[derive(Debug)]
pub(crate) enum HubState {
    /// There is none.
    Missing,
    /// Something is there that cannot be used, for this reason.
    Broken(String),
    /// It can be gone on with. What it needs may be missing, see [`HostKernel::mend_hub`].
    Sound(FoundHub),
}

/// A hub of an earlier life.
#[derive(Debug)]
pub(crate) struct FoundHub {
    pub(crate) hub: Hub,
    /// All of which something is left.
    pub(crate) slots: Vec<FoundSlot>,
}

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) fd: OwnedFd,
    /// The number by which the kernel knows it.
    pub(crate) id: u32,
}

/// The steering programs that every hub carries.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) from_slot: Program,
    pub(crate) from_host: Program,
    pub(crate) from_hub: Program,
    pub(crate) to_hub: Program,
}

/// How the operator chooses the host's ways out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkChoice {
    /// The interfaces that default routes lead out of.
    Auto,
    /// These interfaces.
    Named(Vec<String>),
}

/// One of the host's ways out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Uplink {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    pub(crate) addresses: UplinkAddresses,
    /// In bytes.
    pub(crate) mtu: u32,
}

/// What slots' packets that leave through an uplink are translated to; at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UplinkAddresses {
    /// Its first global address.
    pub(crate) v4: Option<Ipv4Addr>,
    /// Its first global IPv6 address that is to stay.
    pub(crate) v6: Option<Ipv6Addr>,
}

/// What a look for uplinks comes to.
#[derive(Debug, Default)]
pub(crate) struct FoundUplinks {
    /// As they were named, or the best default route first.
    pub(crate) usable: Vec<Uplink>,
    /// Interfaces that would be uplinks, and why they cannot be.
    pub(crate) refused: Vec<NetError>,
}

/// Somebody else's address or route that the pool would collide with; displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conflict(pub(crate) String);

/// What a sweep found and removed.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    pub(crate) links: usize,
    pub(crate) mounts: usize,
    /// What could not be removed.
    pub(crate) errors: Vec<NetError>,
}

/// One worker's hands on slots. Lives in one dedicated thread.
pub(crate) trait SlotKernel: Send {
    /// Makes a slot: namespace, mount, link with steering, configuration.
    fn create_slot(&mut self, spec: &SlotSpec) -> Result<NewSlot, NetError>;

    /// Destroys slots, of any hubs; best handed over many at a time, the kernel then waits once
    /// for all. Every step runs for every slot; the result is one entry per slot, in order.
    fn destroy_slots(&mut self, slots: Vec<RetiredSlot>) -> Vec<(u32, Result<(), NetError>)>;

    /// Gives a slot that somebody holds what it lost of its mount and its link. What is inside stays as its
    /// holder made it; an interface that was made anew is configured.
    fn mend_slot(&mut self, spec: &SlotSpec, netns: &OwnedFd) -> Result<(), NetError>;
}

/// The hands on the names of slots. Lives in a thread of its own.
pub(crate) trait SlotNames: Send {
    /// Has the name of a slot that somebody holds be good without the daemon, too. Fine if the slot is gone.
    fn show(&mut self, index: u32) -> Result<(), NetError>;
}

/// The hands on slots that are to be used again. Lives in a thread of its own.
pub(crate) trait SlotRecycler: Send {
    /// Takes the golden copy of a slot that nobody has been in, and begins to watch it.
    fn portray(&mut self, slot: &FreshSlot) -> Result<Golden, NetError>;

    /// Cleans used slots and says which are as good as new. Best handed over many at a time.
    fn recycle(&mut self, slots: Vec<UsedSlot>) -> Vec<Recycled>;
}

/// What the kernel knows of a namespace and tells nobody otherwise; behind it are programs of `bpf`.
pub(crate) trait Witness: Send {
    /// Who holds the namespace that the thread is in.
    fn references(&self) -> Result<References, NetError>;

    /// What the links of that namespace are like; an error where not all could be seen.
    fn links(&self) -> Result<LinkStates, NetError>;

    /// Counts writes to the sysctls of a namespace from now on, whoever writes.
    fn watch_sysctls(&mut self, cookie: u64) -> Result<(), NetError>;

    /// How many there were; `None` when they were not counted all the time.
    fn sysctl_writes(&self, cookie: u64) -> Option<u64>;
}

/// The host: hubs, routes, uplinks.
pub(crate) trait HostKernel: Send {
    /// Whether an earlier daemon on the same state directory left hubs or slots.
    fn has_remains(&self) -> bool;

    /// Looks at the hubs with these numbers, and at their slots, and returns them in that order. Comes after
    /// [`prepare`](Self::prepare).
    fn survey(&mut self, hubs: &[u32]) -> Vec<HubState>;

    /// Removes what an earlier daemon on the same state directory left behind, but for `kept` and their
    /// slots.
    fn sweep(&mut self, kept: &[Hub]) -> Swept;

    /// Makes the directories that namespaces are mounted in, those that some slots share among them.
    fn prepare(&mut self, which: Option<HostMounts>, share: Share) -> Result<(), NetError>;

    /// Makes a hub, its link to the host, its filters and its route.
    fn create_hub(&mut self, spec: &HubSpec, programs: &Programs) -> Result<Hub, NetError>;

    /// Gives a hub all that it is to have, these programs too, under the traffic of its slots. Returns what
    /// was missing; its link to the host may be another one then.
    fn mend_hub(
        &mut self,
        hub: &mut Hub,
        spec: &HubSpec,
        programs: &Programs,
    ) -> Result<Vec<String>, NetError>;

    /// Gives what slots are mounted in the mount in the host that keeps it. Returns what was missing.
    fn mend_mounts(&mut self) -> Result<Vec<String>, NetError>;

    /// Hands for one more worker thread. `hubs` by number.
    fn worker(&mut self, hubs: Arc<[Hub]>) -> Box<dyn SlotKernel>;

    /// Hands for the thread that shows slots.
    fn names(&mut self) -> Box<dyn SlotNames>;

    /// Listens for what tenants change in slots, from now on.
    fn watch_slots(&mut self, hubs: &[Hub]) -> Result<TamperWatch, NetError>;

    /// Hands for the thread that judges used slots.
    fn recycler(
        &mut self,
        witness: Box<dyn Witness>,
        watch: Arc<TamperWatch>,
    ) -> Box<dyn SlotRecycler>;

    /// Finds the host's ways out.
    fn find_uplinks(&mut self, choice: &UplinkChoice) -> Result<FoundUplinks, NetError>;

    /// The global addresses of the host's own links, of both families.
    fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, NetError>;

    /// The first address or route of the host, not ours, that overlaps `pool` or the gateway.
    fn conflict(&mut self, pool: IpNet) -> Result<Option<Conflict>, NetError>;

    /// The number by which kernel programs know the calling thread's network namespace.
    fn netns_cookie(&mut self) -> Result<u64, NetError>;

    /// Removes all slots, hubs, links, mounts and directories; what is not done `within` that time
    /// is an error. Namespaces held by file descriptors live on, empty.
    fn remove_everything(&mut self, within: Duration) -> Swept;
}

/// The name of a slot and of its link in the hub.
pub(crate) fn slot_name(index: u32) -> String {
    format!("s{index:04}")
}

/// The hub that a slot belongs to.
pub(crate) fn hub_of(index: u32) -> u32 {
    index / SLOTS_PER_HUB
}

/// The name of a slot's namespace.
pub(crate) fn slot_path(state_dir: &Path, index: u32) -> PathBuf {
    state_dir.join("netns").join(slot_name(index))
}

/// The alias that the links we make in the host carry.
pub(crate) fn mark(state_dir: &Path) -> String {
    format!("pcpm {}", state_dir.display())
}
