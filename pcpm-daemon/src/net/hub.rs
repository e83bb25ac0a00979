//! Making hubs: the namespace, its filters, its link to the host, and the host's side of that link.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use ipnet::Ipv6Net;
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use nix::errno::Errno;
use pcpm_ebpf::abi::{GATEWAY_MAC, HUB_UPLINK_INDEX, names};

use super::error::NetError;
use super::host::Home;
use super::link::{self, End};
use super::netlink::{Batch, Netlink};
use super::sysctl::Sysctls;
use super::tc::{self, Hook};
use super::{Hub, HubSpec, Program, Programs, namespace, routes, survey};

const LOOPBACK_INDEX: u32 = 1;

/// Makes a hub. `host` is a socket in the host's namespace.
pub(super) fn create(
    home: &Home,
    host: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<Hub, NetError> {
    namespace::in_thread(|| build(home, host, spec, programs))
        .map_err(|error| error.of(&format!("hub {}", spec.number)))
}

/// The name of a hub's link in the host.
pub(super) fn link_name(number: u32) -> String {
    format!("pcpm{number}")
}

fn build(
    home: &Home,
    host: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<Hub, NetError> {
    namespace::enter_new()?;
    Sysctls::open()?.disable_ipv6()?;
    let netns = namespace::current()?;
    let path = home.hub(spec.number);
    namespace::mount_current(&path)?;
    let host_ifindex = connect(home, host, spec, programs)
        .map_err(|error| error.and(namespace::unmount(&path).err()))?;
    Ok(Hub {
        number: spec.number,
        host_ifindex,
        netns: Arc::new(netns),
    })
}

/// Furnishes the hub that the thread is in and the host's side of it. Returns the interface index
/// of the hub's link in the host.
fn connect(
    home: &Home,
    host: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<u32, NetError> {
    let mut hub = Netlink::open()?;
    hub.run(slot_filter(&programs.from_slot))?;
    connect_to_host(home, host, &mut hub, spec, programs)
}

/// Makes the link between a hub and the host, with all that belongs to it.
fn connect_to_host(
    home: &Home,
    host: &mut Netlink,
    hub: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<u32, NetError> {
    hub.run(link_pair(spec, &home.netns))
        .map_err(explain_pair)?;
    furnish(home, host, hub, spec, programs).map_err(|error| error.and(remove_link(hub).err()))
}

fn furnish(
    home: &Home,
    host: &mut Netlink,
    hub: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<u32, NetError> {
    hub.run(hub_side(&programs.from_host))?;
    hub.run(set_up_hub_side())?;
    let host_ifindex = peer_of_uplink(hub)?;
    namespace::enter(&home.netns)?;
    let sysctls = Sysctls::open()?;
    for (name, value) in link_sysctls(spec) {
        sysctls.ensure(&name, value)?;
    }
    host.run(host_side(spec, host_ifindex, &home.mark(), programs))?;
    Ok(host_ifindex)
}

/// What the host's end of the link needs. `force_forwarding` (6.17) has the host answer what has no hops
/// left as long as it forwards IPv6 nowhere else.
fn link_sysctls(spec: &HubSpec) -> Vec<(String, &'static str)> {
    let name = link_name(spec.number);
    let ipv6: &[_] = match spec.share6 {
        None => &[("disable_ipv6", "1")],
        Some(_) => &[
            ("disable_ipv6", "0"),
            ("accept_ra", "0"),
            ("forwarding", "1"),
            ("force_forwarding", "1"),
        ],
    };
    let ipv6 = ipv6
        .iter()
        .map(|(key, value)| (format!("ipv6/conf/{name}/{key}"), *value));
    // bpf_fib_lookup refuses to look for packets from an interface that does not forward.
    let forwarding = (format!("ipv4/conf/{name}/forwarding"), "1");
    ipv6.chain([forwarding]).collect()
}

/// Gives a hub that is there what it is to have, and returns what was missing. `host` is a socket in the
/// host's namespace. All is made as if nothing was there, and only where it is not: an address, a route
/// or a filter is never taken away, not for a moment. A link that does not lead to the host any more is
/// replaced.
pub(super) fn mend(
    home: &Home,
    host: &mut Netlink,
    hub: &mut Hub,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<Vec<String>, NetError> {
    namespace::in_thread(|| {
        namespace::enter(&hub.netns)?;
        let mut inside = Netlink::open()?;
        let mut missing = inside.ensure(slot_filter(&programs.from_slot))?;
        if namespace::ensure_mounted(&hub.netns, &home.hub(spec.number))? {
            missing.push("mount its namespace".to_owned());
        }
        if !leads_to_host(&mut inside, host, hub.host_ifindex)? {
            hub.host_ifindex = reconnect(home, host, &mut inside, hub, spec, programs)?;
            missing.push("make its link to the host".to_owned());
        }
        missing.extend(mend_hub_side(&mut inside, spec, programs)?);
        namespace::enter(&home.netns)?;
        missing.extend(mend_host_side(home, host, hub, spec, programs)?);
        Ok(missing)
    })
    .map_err(|error: NetError| error.of(&format!("hub {}", spec.number)))
}

/// Whether `up0` and the host's link with this index are the ends of one pair.
fn leads_to_host(
    inside: &mut Netlink,
    host: &mut Netlink,
    host_ifindex: u32,
) -> Result<bool, NetError> {
    let near = survey::link(inside, HUB_UPLINK_INDEX)?;
    let far = survey::link(host, host_ifindex)?;
    Ok(near.is_some_and(|near| near.leads_to(host_ifindex))
        && far.is_some_and(|far| far.leads_to(HUB_UPLINK_INDEX)))
}

/// Makes the link to the host anew; what is left of the old one goes. Returns its interface index in the host.
fn reconnect(
    home: &Home,
    host: &mut Netlink,
    inside: &mut Netlink,
    hub: &Hub,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<u32, NetError> {
    remove_link(inside)?;
    let is_ours = |link: &survey::Link| link.alias.as_ref() == Some(&home.mark());
    if survey::link(host, hub.host_ifindex)?.is_some_and(|link| is_ours(&link)) {
        let mut batch = Batch::default();
        let what = format!("delete {}", link_name(spec.number));
        batch.add(what, 0, link::delete(hub.host_ifindex));
        host.run(batch)?;
    }
    connect_to_host(home, host, inside, spec, programs)
}

fn mend_hub_side(
    inside: &mut Netlink,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<Vec<String>, NetError> {
    let mut missing = inside.ensure(hub_side(&programs.from_host))?;
    let wanted = Wanted {
        name: "up0",
        mac: GATEWAY_MAC,
        mtu: spec.mtu,
        alias: None,
    };
    missing.extend(mend_link(inside, HUB_UPLINK_INDEX, &wanted)?);
    let slots = Hook::Block(tc::SLOT_BLOCK);
    let from_host = Hook::Ingress(HUB_UPLINK_INDEX);
    replace_filter(inside, slots, &programs.from_slot, names::FROM_SLOT)?;
    replace_filter(inside, from_host, &programs.from_host, names::FROM_HOST)?;
    Ok(missing)
}

fn mend_host_side(
    home: &Home,
    host: &mut Netlink,
    hub: &Hub,
    spec: &HubSpec,
    programs: &Programs,
) -> Result<Vec<String>, NetError> {
    let ifindex = hub.host_ifindex;
    let (name, mark) = (link_name(spec.number), home.mark());
    let wanted = Wanted {
        name: &name,
        mac: host_mac(spec.number),
        mtu: spec.mtu,
        alias: Some(&mark),
    };
    let mut missing = mend_link(host, ifindex, &wanted)?;
    let sysctls = Sysctls::open()?;
    for (name, value) in link_sysctls(spec) {
        if sysctls.ensure(&name, value)? {
            missing.push(format!("set sysctl net/{name}"));
        }
    }
    missing.extend(host.ensure(host_filters(spec, ifindex, programs))?);
    let (ingress, egress) = (Hook::Ingress(ifindex), Hook::Egress(ifindex));
    replace_filter(host, ingress, &programs.from_hub, names::FROM_HUB)?;
    replace_filter(host, egress, &programs.to_hub, names::TO_HUB)?;
    missing.extend(host.ensure(way_to_slots(spec, ifindex))?);
    Ok(missing)
}

/// What a link of the hub's is to be.
struct Wanted<'a> {
    name: &'a str,
    mac: [u8; 6],
    mtu: u32,
    alias: Option<&'a str>,
}

/// Makes a link what it is to be, sets it up if it is down, and says what it did.
fn mend_link(
    socket: &mut Netlink,
    ifindex: u32,
    wanted: &Wanted<'_>,
) -> Result<Vec<String>, NetError> {
    let Some(link) = survey::link(socket, ifindex)? else {
        return Ok(Vec::new());
    };
    let name = wanted.name;
    let mut done = Vec::new();
    let mut batch = Batch::default();
    let mut add = |what: String, message| {
        batch.add(what.as_str(), 0, message);
        done.push(what);
    };
    if link.name != name {
        let what = format!("rename {} to {name}", link.name);
        add(what, link::set_name(ifindex, name));
    }
    if link.mac != wanted.mac {
        let what = format!("set the hardware address of {name}");
        add(what, link::set_mac(ifindex, wanted.mac));
    }
    if let Some(alias) = wanted
        .alias
        .filter(|alias| link.alias.as_deref() != Some(alias))
    {
        add(format!("mark {name}"), link::set_alias(ifindex, alias));
    }
    if link.mtu != wanted.mtu {
        let what = format!("set the MTU of {name} to {}", wanted.mtu);
        add(what, link::set_mtu(ifindex, wanted.mtu));
    }
    if !link.is_up {
        add(format!("set up {name}"), link::set_up(ifindex));
    }
    socket.run(batch)?;
    Ok(done)
}

/// Has a filter run `program`, if it runs another.
fn replace_filter(
    socket: &mut Netlink,
    hook: Hook,
    program: &Program,
    name: &str,
) -> Result<(), NetError> {
    let what = format!("replace the program of the filter {name}");
    let filters = socket.dump(&what, tc::filters(hook), Some)?;
    if filters
        .iter()
        .any(|filter| tc::program_of(filter) == Some(program.id))
    {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.add(
        what,
        NLM_F_CREATE,
        tc::filter(hook, program.fd.as_fd(), name),
    );
    socket.run(batch)
}

/// Deletes the link between a hub and the host, from the hub; fine if there is none.
pub(super) fn remove_link(hub: &mut Netlink) -> Result<(), NetError> {
    let mut batch = Batch::default();
    batch.add("delete up0", 0, link::delete(HUB_UPLINK_INDEX));
    match hub.run(batch) {
        Err(error) if error.errno == Some(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// `lo` never carries a packet: it holds the slots' block while the hub has no slot.
fn slot_filter(from_slot: &Program) -> Batch {
    let mut batch = Batch::default();
    batch.add(
        "make the slots' filter block",
        link::CREATE,
        tc::ingress_in_block(LOOPBACK_INDEX, tc::SLOT_BLOCK),
    );
    add_filter(
        &mut batch,
        Hook::Block(tc::SLOT_BLOCK),
        from_slot,
        names::FROM_SLOT,
    );
    batch
}

fn add_filter(batch: &mut Batch, hook: Hook, program: &Program, name: &str) {
    batch.add(
        format!("add the filter {name}"),
        link::CREATE,
        tc::filter(hook, program.fd.as_fd(), name),
    );
}

fn link_pair(spec: &HubSpec, host: &OwnedFd) -> Batch {
    let name = link_name(spec.number);
    let near = End {
        name: "up0",
        index: HUB_UPLINK_INDEX,
        mac: GATEWAY_MAC,
        mtu: spec.mtu,
        ..End::default()
    };
    let far = End {
        name: &name,
        mac: host_mac(spec.number),
        mtu: spec.mtu,
        ..End::default()
    };
    let mut batch = Batch::default();
    batch.add(
        format!("create link {name} in the host"),
        link::CREATE,
        link::create_pair(&near, &far, host.as_fd()),
    );
    batch
}

fn explain_pair(error: NetError) -> NetError {
    match error.errno {
        Some(Errno::EEXIST) => error.hint("a link of that name is there and not ours"),
        Some(Errno::EBUSY) => error.hint(link::INDEX_TAKEN),
        _ => error,
    }
}

/// An address we choose ourselves, or udev would replace the kernel's random one while we use it.
fn host_mac(number: u32) -> [u8; 6] {
    let [.., high, low] = number.to_be_bytes();
    [0x02, 0x50, 0x43, 0xfe, high, low]
}

/// The filter comes before the link is up, see [`host_side`].
fn hub_side(from_host: &Program) -> Batch {
    let mut batch = Batch::default();
    batch.add(
        "add a qdisc to up0",
        link::CREATE,
        tc::ingress(HUB_UPLINK_INDEX),
    );
    let hook = Hook::Ingress(HUB_UPLINK_INDEX);
    add_filter(&mut batch, hook, from_host, names::FROM_HOST);
    batch
}

fn set_up_hub_side() -> Batch {
    let mut batch = Batch::default();
    batch.add("set up up0", 0, link::set_up(HUB_UPLINK_INDEX));
    batch
}

/// The filters come before the link is up: nothing passes unfiltered.
fn host_side(spec: &HubSpec, ifindex: u32, mark: &str, programs: &Programs) -> Batch {
    let name = link_name(spec.number);
    let mut batch = Batch::default();
    batch.add(format!("mark {name}"), 0, link::set_alias(ifindex, mark));
    add_host_filters(&mut batch, spec, ifindex, programs);
    if spec.share6.is_some() {
        let what = format!("keep {name} from making addresses");
        batch.add(what, 0, link::without_link_local(ifindex));
    }
    batch.add(format!("set up {name}"), 0, link::set_up(ifindex));
    add_way_to_slots(&mut batch, spec, ifindex);
    batch
}

fn host_filters(spec: &HubSpec, ifindex: u32, programs: &Programs) -> Batch {
    let mut batch = Batch::default();
    add_host_filters(&mut batch, spec, ifindex, programs);
    batch
}

fn way_to_slots(spec: &HubSpec, ifindex: u32) -> Batch {
    let mut batch = Batch::default();
    add_way_to_slots(&mut batch, spec, ifindex);
    batch
}

fn add_host_filters(batch: &mut Batch, spec: &HubSpec, ifindex: u32, programs: &Programs) {
    batch.add(
        format!("add a qdisc to {}", link_name(spec.number)),
        link::CREATE,
        tc::clsact(ifindex),
    );
    let (ingress, egress) = (Hook::Ingress(ifindex), Hook::Egress(ifindex));
    add_filter(batch, ingress, &programs.from_hub, names::FROM_HUB);
    add_filter(batch, egress, &programs.to_hub, names::TO_HUB);
}

fn add_way_to_slots(batch: &mut Batch, spec: &HubSpec, ifindex: u32) {
    let name = link_name(spec.number);
    if spec.number == 0 {
        // Of link scope: the host must not choose it for packets to anybody else.
        batch.add(
            format!("add the gateway's address to {name}"),
            link::CREATE,
            routes::address(ifindex, routes::GATEWAY, AddressScope::Link),
        );
    }
    batch.add(
        format!("add a neighbour entry to {name}"),
        link::CREATE,
        routes::neighbour(ifindex, routes::NEXT_HOP, GATEWAY_MAC),
    );
    batch.add(
        format!("add route {} via {name}", spec.share),
        link::CREATE,
        routes::route(spec.share, routes::NEXT_HOP, ifindex, Some(routes::GATEWAY)),
    );
    if let Some(share) = spec.share6 {
        add_ipv6_way_to_slots(batch, &name, share, ifindex);
    }
}

/// Each hub's link has the gateway's address: it is link-local, and counts on one link alone.
fn add_ipv6_way_to_slots(batch: &mut Batch, name: &str, share: Ipv6Net, ifindex: u32) {
    batch.add(
        format!("add the IPv6 gateway's address to {name}"),
        link::CREATE,
        routes::ipv6_address(ifindex, routes::GATEWAY6, AddressScope::Link),
    );
    batch.add(
        format!("add an IPv6 neighbour entry to {name}"),
        link::CREATE,
        routes::neighbour(ifindex, routes::NEXT_HOP6, GATEWAY_MAC),
    );
    batch.add(
        format!("add route {share} via {name}"),
        link::CREATE,
        routes::ipv6_route(share, routes::NEXT_HOP6, ifindex, Some(routes::GATEWAY6)),
    );
}

/// The interface index of the other end of `up0`, in the host.
fn peer_of_uplink(hub: &mut Netlink) -> Result<u32, NetError> {
    let what = "find the other end of up0";
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let peers = hub.dump(what, links, |message| match message {
        RouteNetlinkMessage::NewLink(link) if link.header.index == HUB_UPLINK_INDEX => {
            peer_of(&link)
        }
        _ => None,
    })?;
    peers
        .first()
        .copied()
        .ok_or_else(|| NetError::new(what, "the kernel does not say"))
}

fn peer_of(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })
}
