//! What the host's network looks like now: links, addresses and routes, read in one go.
//!
//! Pure questions about them are answered here; nothing is changed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Conflict;
use super::error::NetError;
use super::netlink::Netlink;
use super::routes::GATEWAY;

const RT_TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    /// `ARPHRD_ETHER`.
    pub(super) is_ethernet: bool,
    /// Made by a daemon on our state directory.
    pub(super) is_ours: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) network: Ipv4Net,
    /// Of global scope, and not a secondary address.
    pub(super) is_primary: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    /// The links that it leads out of: several when it has several next hops.
    pub(super) ifindexes: Vec<u32>,
    pub(super) metric: u32,
    pub(super) table: u32,
}

/// A picture of the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) links: Vec<Link>,
    /// In the kernel's order.
    pub(super) addresses: Vec<Address>,
    /// Global IPv6 addresses that are to stay, with their interface, in the kernel's order.
    pub(super) ipv6_addresses: Vec<(u32, Ipv6Addr)>,
    /// Routes that a packet can take or die on; the kernel's own for local addresses are left out.
    pub(super) routes: Vec<Route>,
}

impl Tables {
    /// Reads the tables of the socket's namespace; links with the alias `mark` are ours.
    pub(super) fn read(socket: &mut Netlink, mark: &str) -> Result<Self, NetError> {
        let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let messages = [
            socket.dump("list links", links, Some)?,
            socket.dump("list addresses", addresses, Some)?,
            socket.dump("list routes", all_routes(AddressFamily::Inet), Some)?,
            socket.dump("list IPv6 routes", all_routes(AddressFamily::Inet6), Some)?,
        ];
        let mut tables = Self::default();
        for message in messages.into_iter().flatten() {
            tables.take(message, mark);
        }
        Ok(tables)
    }

    fn take(&mut self, message: RouteNetlinkMessage, mark: &str) {
        match message {
            RouteNetlinkMessage::NewLink(message) => self.links.push(read_link(&message, mark)),
            RouteNetlinkMessage::NewAddress(message) => {
                self.addresses.extend(read_address(&message));
                self.ipv6_addresses.extend(read_lasting_ipv6(&message));
            }
            RouteNetlinkMessage::NewRoute(message) => self.routes.extend(read_route(&message)),
            _ => {}
        }
    }

    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(super) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The first global IPv6 address of a link that is to stay.
    pub(super) fn lasting_ipv6(&self, index: u32) -> Option<Ipv6Addr> {
        let mut addresses = self.ipv6_addresses.iter();
        addresses
            .find(|(link, _)| *link == index)
            .map(|(_, address)| *address)
    }

    /// The first address or route, not ours, that overlaps `pool` or is the gateway. Of IPv6
    /// addresses their routes tell.
    pub(super) fn conflict(&self, pool: IpNet) -> Option<Conflict> {
        let address = self.addresses.iter().find(|address| {
            let network = address.network.into();
            let taken = address.network.addr() == GATEWAY || overlap(network, pool);
            taken && !self.is_ours(Some(address.ifindex))
        });
        let route = self.routes.iter().find(|route| {
            !route.is_default()
                && overlap(route.destination, pool)
                && !self.is_ours(route.ifindex())
        });
        let address =
            address.map(|address| self.describe("address", address.network, Some(address.ifindex)));
        let route =
            || route.map(|route| self.describe("route", route.destination, route.ifindex()));
        address.or_else(route)
    }

    fn is_ours(&self, ifindex: Option<u32>) -> bool {
        let link = ifindex.and_then(|index| self.link(index));
        link.is_some_and(|link| link.is_ours)
    }

    fn describe(&self, kind: &str, network: impl fmt::Display, ifindex: Option<u32>) -> Conflict {
        let link = ifindex.and_then(|index| self.link(index));
        Conflict(match link {
            Some(link) => format!("{kind} {network} on {}", link.name),
            None => format!("{kind} {network}"),
        })
    }
}

fn all_routes(family: AddressFamily) -> RouteNetlinkMessage {
    let mut routes = RouteMessage::default();
    routes.header.address_family = family;
    RouteNetlinkMessage::GetRoute(routes)
}

fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.trunc()) || other.contains(&one.trunc())
}

fn read_link(message: &LinkMessage, mark: &str) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => link.is_ours = alias == mark,
            _ => {}
        }
    }
    link
}

fn read_address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        })?;
    Some(Address {
        ifindex: header.index,
        network: Ipv4Net::new(local, header.prefix_len).ok()?,
        is_primary: header.scope == AddressScope::Universe
            && !header.flags.contains(AddressHeaderFlags::Secondary),
    })
}

/// Neither one that is still checked for duplicates, nor one that is temporary (RFC 8981) or on its
/// way out.
fn read_lasting_ipv6(message: &AddressMessage) -> Option<(u32, Ipv6Addr)> {
    let passing = AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed
        | AddressHeaderFlags::Deprecated
        | AddressHeaderFlags::Secondary;
    let header = &message.header;
    if header.scope != AddressScope::Universe || header.flags.intersects(passing) {
        return None;
    }
    let address = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
            _ => None,
        })?;
    Some((header.index, address))
}

fn read_route(message: &RouteMessage) -> Option<Route> {
    let kind = message.header.kind;
    if matches!(
        kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast
    ) {
        return None;
    }
    // Whoever has an IPv6 prefix routes the rest of it to nowhere.
    let nowhere = [
        RouteType::BlackHole,
        RouteType::Unreachable,
        RouteType::Prohibit,
    ];
    if message.header.address_family == AddressFamily::Inet6 && nowhere.contains(&kind) {
        return None;
    }
    let mut address = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut route = Route {
        destination: address.into(),
        ifindexes: Vec::new(),
        metric: 0,
        table: u32::from(message.header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(network)) => address = (*network).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(network)) => {
                address = (*network).into();
            }
            RouteAttribute::Oif(index) => route.ifindexes = vec![*index],
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::MultiPath(hops) => {
                route.ifindexes = hops.iter().map(|hop| hop.interface_index).collect();
            }
            _ => {}
        }
    }
    route.destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    Some(route)
}

impl Route {
    /// VPNs write the default route as two halves to win over the host's own.
    pub(super) fn is_default(&self) -> bool {
        self.destination.prefix_len() <= 1
    }

    /// Whether it is of the table that packets take without a rule for them.
    pub(super) fn is_main(&self) -> bool {
        self.table == RT_TABLE_MAIN
    }

    fn ifindex(&self) -> Option<u32> {
        self.ifindexes.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn tables() -> Tables {
        let link = |index, name: &str, is_ours| Link {
            index,
            name: name.to_owned(),
            is_ours,
            ..Link::default()
        };
        Tables {
            links: vec![link(2, "eth0", false), link(3, "pcpm0", true)],
            ..Tables::default()
        }
    }

    fn with_route(destination: &str, ifindex: u32) -> Tables {
        let mut tables = tables();
        tables.routes.push(Route {
            destination: net(destination),
            ifindexes: vec![ifindex],
            metric: 0,
            table: RT_TABLE_MAIN,
        });
        tables
    }

    fn with_address(network: &str, ifindex: u32) -> Tables {
        let mut tables = tables();
        tables.addresses.push(Address {
            ifindex,
            network: network.parse().unwrap(),
            is_primary: true,
        });
        tables
    }

    #[test]
    fn finds_who_is_in_the_way_of_a_pool() {
        let route = |destination| with_route(destination, 2);
        let address = |network| with_address(network, 2);
        let cases = [
            (route("10.0.0.0/8"), Some("route 10.0.0.0/8 on eth0")),
            (route("10.213.7.0/24"), Some("route 10.213.7.0/24 on eth0")),
            (route("10.214.0.0/16"), None),
            (route("0.0.0.0/0"), None),
            (route("0.0.0.0/1"), None),
            (with_route("10.213.0.0/23", 3), None),
            (
                address("10.213.0.9/32"),
                Some("address 10.213.0.9/32 on eth0"),
            ),
            (address("10.1.2.3/8"), Some("address 10.1.2.3/8 on eth0")),
            (
                address("169.254.1.1/16"),
                Some("address 169.254.1.1/16 on eth0"),
            ),
            (address("169.254.9.9/16"), None),
            (with_address("169.254.1.1/32", 3), None),
        ];
        for (tables, expected) in cases {
            let found = tables.conflict(net("10.213.0.0/16"));
            let found = found.as_ref().map(|conflict| conflict.0.as_str());
            assert_eq!(found, expected, "{tables:?}");
        }
    }
}
