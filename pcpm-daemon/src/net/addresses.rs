//! The addresses at which the host can be reached: those of a published port.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::NetError;
use super::netlink::Netlink;

/// All global addresses in the socket's namespace, but for those of links with the alias `mark`.
pub(super) fn of_host(socket: &mut Netlink, mark: &str) -> Result<BTreeSet<IpAddr>, NetError> {
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let mut addresses = AddressMessage::default();
    addresses.header.family = AddressFamily::Unspec;
    let addresses = RouteNetlinkMessage::GetAddress(addresses);
    let links = socket.dump("list links", links, Some)?;
    let addresses = socket.dump("list addresses", addresses, Some)?;
    Ok(global(&addresses, &ours(&links, mark)))
}

fn ours(links: &[RouteNetlinkMessage], mark: &str) -> BTreeSet<u32> {
    let marked = links.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewLink(link) if has_alias(link, mark) => Some(link.header.index),
        _ => None,
    });
    marked.collect()
}

fn has_alias(link: &LinkMessage, mark: &str) -> bool {
    link.attributes
        .iter()
        .any(|attribute| matches!(attribute, LinkAttribute::IfAlias(alias) if alias == mark))
}

fn global(addresses: &[RouteNetlinkMessage], ours: &BTreeSet<u32>) -> BTreeSet<IpAddr> {
    let global = addresses.iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewAddress(address)
            if address.header.scope == AddressScope::Universe
                && !ours.contains(&address.header.index) =>
        {
            own(address)
        }
        _ => None,
    });
    global.collect()
}

/// Of a link to one peer, the address is the peer's; ours is said beside it.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(
        index: u32,
        scope: AddressScope,
        attributes: &[AddressAttribute],
    ) -> RouteNetlinkMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.scope = scope;
        message.attributes = attributes.to_vec();
        RouteNetlinkMessage::NewAddress(message)
    }

    #[test]
    fn only_global_addresses_of_the_hosts_own_links_count() {
        let address = |text: &str| AddressAttribute::Address(text.parse().unwrap());
        let local = |text: &str| AddressAttribute::Local(text.parse().unwrap());
        let (world, link) = (AddressScope::Universe, AddressScope::Link);
        let messages = [
            message(
                1,
                AddressScope::Host,
                &[address("127.0.0.1"), local("127.0.0.1")],
            ),
            message(2, world, &[address("192.0.2.2"), local("192.0.2.2")]),
            message(2, world, &[address("2001:db8::2")]),
            message(2, link, &[address("fe80::1")]),
            message(3, world, &[address("198.51.100.9"), local("198.51.100.8")]),
            message(4, world, &[address("2001:db8:1::1")]),
        ];
        let found: Vec<_> = global(&messages, &BTreeSet::from([4]))
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["192.0.2.2", "198.51.100.8", "2001:db8::2"]);
    }
}
