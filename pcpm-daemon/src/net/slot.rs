//! Making and destroying slots.

mod mend;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::address::AddressScope;
use nix::errno::Errno;
use pcpm_ebpf::abi::{GATEWAY_MAC, LINK_INDEX_BASE, SLOT_LINK_INDEX};

use crate::locks::operation::{self, Operation};

use super::error::NetError;
use super::host::Home;
use super::link::{self, End};
use super::namespace::{self, Away};
use super::netlink::{Batch, Netlink, Refused};
use super::sysctl::Sysctls;
use super::{
    CreateTimings, Hub, NewSlot, RetiredSlot, SlotKernel, SlotSpec, hub_of, routes, share,
    slot_name, tc,
};

/// How many links one request deletes. The kernel holds `rtnl_mutex` all that time: about 20 ms for
/// 64 links, 100 ms for 256, and one by one would take three times as long in all.
const DELETE_AT_ONCE: usize = 64;

const LOOPBACK_INDEX: u32 = 1;

/// The destination of a default route.
const ANYWHERE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);

/// As [`ANYWHERE`].
const ANYWHERE6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0);

/// The real hands on slots.
pub(super) struct SlotWorker {
    home: Arc<Home>,
    hubs: Arc<[Hub]>,
    doomed_group: u32,
    /// By hub number. Opening one is a visit to the hub.
    sockets: HashMap<u32, Netlink>,
    /// Opened by the worker's thread with its first slot.
    sysctls: Option<Sysctls>,
}

impl SlotKernel for SlotWorker {
    fn create_slot(&mut self, spec: &SlotSpec) -> Result<NewSlot, NetError> {
        let mut timings = CreateTimings::default();
        self.hub(hub_of(spec.index))?;
        let home = Arc::clone(&self.home);
        let mut watch = Stopwatch::start();
        operation::begin(Operation::Namespace);
        let _away = Away::from(&home.netns);
        let netns = self
            .enter_new_namespace(spec)
            .map_err(|error| error.of(&slot_name(spec.index)))?;
        timings.namespace = watch.lap();
        operation::begin(Operation::Mount);
        home.mounts.mount(&netns, spec.index)?;
        share::make(&home.state_dir, spec).map_err(|error| {
            let error = error.of(&slot_name(spec.index));
            error.and(home.mounts.remove(spec.index).err())
        })?;
        timings.mount = watch.lap();
        operation::begin(Operation::Link);
        self.furnish(spec, &netns, &mut timings, watch)
            .map_err(|error| error.and(home.unmount_slot(spec.index).err()))?;
        Ok(NewSlot { netns, timings })
    }

    fn destroy_slots(&mut self, slots: Vec<RetiredSlot>) -> Vec<(u32, Result<(), NetError>)> {
        let mut failed = BTreeMap::<u32, Vec<NetError>>::new();
        for (hub, indexes) in by_hub(&slots) {
            for some in indexes.chunks(DELETE_AT_ONCE) {
                for (index, error) in self.disconnect(hub, some) {
                    failed.entry(index).or_default().push(error);
                }
            }
        }
        let home = Arc::clone(&self.home);
        let release = |slot: RetiredSlot| {
            let unmounted = home.unmount_slot(slot.index);
            drop(slot.netns);
            let errors = failed.remove(&slot.index).unwrap_or_default();
            let outcome = NetError::collect(errors.into_iter().chain(unmounted.err()));
            (slot.index, outcome)
        };
        slots.into_iter().map(release).collect()
    }

    fn mend_slot(&mut self, spec: &SlotSpec, netns: &OwnedFd) -> Result<(), NetError> {
        self.mend(spec, netns)
            .map_err(|error| error.of(&slot_name(spec.index)))
    }
}

impl SlotWorker {
    pub(super) fn new(home: Arc<Home>, hubs: Arc<[Hub]>, number: u32) -> Self {
        Self {
            home,
            hubs,
            doomed_group: link::doomed_group(number),
            sockets: HashMap::new(),
            sysctls: None,
        }
    }

    /// The socket in a hub.
    fn hub(&mut self, number: u32) -> Result<&mut Netlink, NetError> {
        if !self.sockets.contains_key(&number) {
            let socket = self.open_in_hub(number)?;
            self.sockets.insert(number, socket);
        }
        Ok(self
            .sockets
            .get_mut(&number)
            .expect("it was just put there"))
    }

    fn open_in_hub(&self, number: u32) -> Result<Netlink, NetError> {
        let hub = self
            .hubs
            .iter()
            .find(|hub| hub.number == number)
            .ok_or_else(|| NetError::new(format!("find hub {number}"), "it was never made"))?;
        let _away = Away::from(&self.home.netns);
        namespace::enter(&hub.netns)?;
        Netlink::open()
    }

    /// Moves the thread into a new namespace with the sysctls of a slot.
    fn enter_new_namespace(&mut self, spec: &SlotSpec) -> Result<OwnedFd, NetError> {
        let sysctls = match &mut self.sysctls {
            Some(sysctls) => sysctls,
            none => none.insert(Sysctls::open()?),
        };
        sysctls.begin_namespace()?;
        namespace::enter_new()?;
        if spec.address6.is_none() {
            sysctls.disable_ipv6()?;
        }
        sysctls.open_to_users()?;
        namespace::current()
    }

    /// Connects and configures the slot whose namespace the thread is in.
    fn furnish(
        &mut self,
        spec: &SlotSpec,
        netns: &OwnedFd,
        timings: &mut CreateTimings,
        mut watch: Stopwatch,
    ) -> Result<(), NetError> {
        self.connect(spec, netns)?;
        timings.link = watch.lap();
        operation::begin(Operation::Configure);
        configure(spec).map_err(|error| error.and(self.disconnect_one(spec.index)))?;
        timings.configure = watch.lap();
        Ok(())
    }

    /// Makes the slot's link and joins its hub end to the steering filter.
    fn connect(&mut self, spec: &SlotSpec, netns: &OwnedFd) -> Result<(), NetError> {
        let batch = connection(spec, netns);
        match self.hub(hub_of(spec.index))?.execute(batch) {
            Ok(refused) => match refused.into_iter().next() {
                None => Ok(()),
                // The link was not made: what has its name or index is not this slot's.
                Some(Refused {
                    position: 0, error, ..
                }) => Err(explain_pair(error)),
                Some(Refused { error, .. }) => Err(error.and(self.disconnect_one(spec.index))),
            },
            Err(error) => Err(error.and(self.disconnect_one(spec.index))),
        }
    }

    fn disconnect_one(&mut self, index: u32) -> Option<NetError> {
        let errors = self.disconnect(hub_of(index), &[index]);
        errors.into_iter().map(|(_, error)| error).next()
    }

    /// Deletes slots' links together; gone ones are fine. Returns the slots whose link is still there.
    fn disconnect(&mut self, hub: u32, indexes: &[u32]) -> Vec<(u32, NetError)> {
        let batch = disconnection(hub, indexes, self.doomed_group);
        let refused = match self.hub(hub).and_then(|socket| socket.execute(batch)) {
            Ok(refused) => refused,
            Err(error) => return indexes.iter().map(|i| (*i, error.clone())).collect(),
        };
        let real = refused
            .into_iter()
            .filter(|r| r.error.errno != Some(Errno::ENODEV));
        real.flat_map(|refused| match indexes.get(refused.position) {
            Some(index) => vec![(*index, refused.error)],
            None => indexes
                .iter()
                .map(|i| (*i, refused.error.clone()))
                .collect(),
        })
        .collect()
    }
}

/// The requests in the hub, the first of which makes the link.
fn connection(spec: &SlotSpec, netns: &OwnedFd) -> Batch {
    let name = slot_name(spec.index);
    let hub = hub_of(spec.index);
    let near = End {
        name: &name,
        index: LINK_INDEX_BASE + spec.index,
        mac: GATEWAY_MAC,
        mtu: spec.mtu,
        group: Some(link::SLOT_GROUP),
        single_queue: true,
    };
    let far = End {
        name: pcpm_api::SLOT_INTERFACE,
        index: SLOT_LINK_INDEX,
        mac: spec.mac,
        mtu: spec.mtu,
        group: None,
        single_queue: true,
    };
    let mut batch = Batch::default();
    batch.add(
        format!("create veth {name} in hub {hub}"),
        link::CREATE,
        link::create_pair(&near, &far, netns.as_fd()),
    );
    batch.add(
        format!("set up {name} in hub {hub}"),
        0,
        link::set_up(near.index),
    );
    batch.add(
        format!("join {name} in hub {hub} to the steering filter"),
        link::CREATE,
        tc::ingress_in_block(near.index, tc::SLOT_BLOCK),
    );
    batch
}

/// The requests in the hub that delete links together, one for each link and one for all.
fn disconnection(hub: u32, indexes: &[u32], group: u32) -> Batch {
    let mut batch = Batch::default();
    for index in indexes {
        batch.add(
            format!("doom veth {} in hub {hub}", slot_name(*index)),
            0,
            link::set_group(LINK_INDEX_BASE + index, group),
        );
    }
    let what = format!("delete doomed veths in hub {hub}");
    batch.add(what, 0, link::delete_group(group));
    batch
}

/// Configures the inside of the slot whose namespace the thread is in.
fn configure(spec: &SlotSpec) -> Result<(), NetError> {
    try_configure(spec, |_| false).map_err(|error| error.of(&slot_name(spec.index)))
}

/// `is_fine` says which refusals are no error.
fn try_configure(spec: &SlotSpec, is_fine: impl Fn(&Refused) -> bool) -> Result<(), NetError> {
    let refused = Netlink::open()?.execute(configuration(spec))?;
    let none_wanted = spec.address6.is_none();
    let mut refused = refused.into_iter();
    let first = refused.find(|refused| !(none_wanted && has_no_ipv6(refused) || is_fine(refused)));
    first.map_or(Ok(()), |refused| Err(refused.error))
}

/// Whether a request was refused because there was no IPv6 to take away.
fn has_no_ipv6(refused: &Refused) -> bool {
    let absent = [Errno::EADDRNOTAVAIL, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT];
    let errno = refused.error.errno;
    refused.position == REMOVE_IPV6_LOOPBACK && errno.is_some_and(|errno| absent.contains(&errno))
}

/// Its position in [`configuration`].
const REMOVE_IPV6_LOOPBACK: usize = 1;

fn configuration(spec: &SlotSpec) -> Batch {
    let mut batch = Batch::default();
    batch.add("set up lo", 0, link::set_up(LOOPBACK_INDEX));
    if spec.address6.is_none() {
        batch.add(
            "take ::1 off lo",
            0,
            routes::remove_ipv6_loopback(LOOPBACK_INDEX),
        );
    } else {
        batch.add(
            "keep eth0 from making addresses",
            0,
            link::without_link_local(SLOT_LINK_INDEX),
        );
    }
    batch.add("set up eth0", 0, link::set_up(SLOT_LINK_INDEX));
    batch.add(
        format!("add address {}", spec.address),
        link::CREATE,
        routes::address(SLOT_LINK_INDEX, spec.address, AddressScope::Universe),
    );
    batch.add(
        "add the gateway's neighbour entry",
        link::CREATE,
        routes::neighbour(SLOT_LINK_INDEX, routes::GATEWAY, GATEWAY_MAC),
    );
    batch.add(
        "add the default route",
        link::CREATE,
        routes::route(ANYWHERE, routes::GATEWAY, SLOT_LINK_INDEX, None),
    );
    if let Some(address) = spec.address6 {
        add_ipv6(&mut batch, address);
    }
    batch
}

fn add_ipv6(batch: &mut Batch, address: Ipv6Addr) {
    batch.add(
        format!("add address {address}"),
        link::CREATE,
        routes::ipv6_address(SLOT_LINK_INDEX, address, AddressScope::Universe),
    );
    batch.add(
        "add the gateway's IPv6 neighbour entry",
        link::CREATE,
        routes::neighbour(SLOT_LINK_INDEX, routes::GATEWAY6, GATEWAY_MAC),
    );
    batch.add(
        "add the IPv6 default route",
        link::CREATE,
        routes::ipv6_route(ANYWHERE6, routes::GATEWAY6, SLOT_LINK_INDEX, None),
    );
}

fn explain_pair(error: NetError) -> NetError {
    match error.errno {
        Some(Errno::EBUSY) => error.hint(link::INDEX_TAKEN),
        _ => error,
    }
}

fn by_hub(slots: &[RetiredSlot]) -> BTreeMap<u32, Vec<u32>> {
    let mut hubs = BTreeMap::<u32, Vec<u32>>::new();
    for slot in slots {
        hubs.entry(hub_of(slot.index)).or_default().push(slot.index);
    }
    hubs
}

struct Stopwatch(Instant);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the last lap.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.0, now)
    }
}
