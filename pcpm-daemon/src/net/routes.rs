//! Address, route and neighbour messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pcpm_ebpf::abi::{GATEWAY_V4, GATEWAY_V6};

/// The gateway of all slots, an address of the host.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::from_bits(GATEWAY_V4);

/// What the host sends packets for slots to. Nobody has this address; its neighbour entry is
/// permanent, so the host never asks for it.
pub(super) const NEXT_HOP: Ipv4Addr = Ipv4Addr::from_bits(GATEWAY_V4 + 1);

/// The gateway of all slots for IPv6, an address of each hub's link in the host.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::from_octets(GATEWAY_V6);

/// As [`NEXT_HOP`].
pub(super) const NEXT_HOP6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// A /128 address that nobody is asked about (no duplicate address detection).
pub(super) fn ipv6_address(
    ifindex: u32,
    address: Ipv6Addr,
    scope: AddressScope,
) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.scope = scope;
    message.header.flags = AddressHeaderFlags::Nodad;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V6(address)),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

/// As [`route`], to or through link-local next hops.
pub(super) fn ipv6_route(
    destination: Ipv6Net,
    via: Ipv6Addr,
    ifindex: u32,
    source: Option<Ipv6Addr>,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet6,
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    if destination.prefix_len() > 0 {
        let network = RouteAddress::Inet6(destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(network));
    }
    let source = source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet6(source)));
    message
        .attributes
        .push(RouteAttribute::Gateway(RouteAddress::Inet6(via)));
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message.attributes.extend(source);
    RouteNetlinkMessage::NewRoute(message)
}

/// A /32 address.
pub(super) fn address(ifindex: u32, address: Ipv4Addr, scope: AddressScope) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = 32;
    message.header.scope = scope;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(IpAddr::V4(address)),
        AddressAttribute::Address(IpAddr::V4(address)),
    ];
    RouteNetlinkMessage::NewAddress(message)
}

/// Takes `::1` off a link.
pub(super) fn remove_ipv6_loopback(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(IpAddr::V6(Ipv6Addr::LOCALHOST))];
    RouteNetlinkMessage::DelAddress(message)
}

/// A route whose next hop is taken for reachable on the link without a look at its addresses.
pub(super) fn route(
    destination: Ipv4Net,
    via: Ipv4Addr,
    ifindex: u32,
    source: Option<Ipv4Addr>,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        flags: RouteFlags::Onlink,
        ..RouteHeader::default()
    };
    if destination.prefix_len() > 0 {
        let network = RouteAddress::Inet(destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(network));
    }
    let source = source.map(|source| RouteAttribute::PrefSource(RouteAddress::Inet(source)));
    message
        .attributes
        .push(RouteAttribute::Gateway(RouteAddress::Inet(via)));
    message.attributes.push(RouteAttribute::Oif(ifindex));
    message.attributes.extend(source);
    RouteNetlinkMessage::NewRoute(message)
}

/// A neighbour that is never asked for.
pub(super) fn neighbour(
    ifindex: u32,
    address: impl Into<IpAddr>,
    mac: [u8; 6],
) -> RouteNetlinkMessage {
    let (family, address) = match address.into() {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(address),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}
