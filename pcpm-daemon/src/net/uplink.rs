//! Which interface is the host's way out.

use super::error::NetError;
use super::tables::{Link, Tables};
use super::{Uplink, UplinkChoice};

/// Finds the uplink; `Ok(None)` when it is left to us and the host has no default route.
pub(super) fn find(tables: &Tables, choice: &UplinkChoice) -> Result<Option<Uplink>, NetError> {
    match choice {
        UplinkChoice::Auto => find_by_route(tables),
        UplinkChoice::Named(name) => find_by_name(tables, name).map(Some),
    }
}

fn find_by_route(tables: &Tables) -> Result<Option<Uplink>, NetError> {
    let ways = tables.routes.iter().filter(|route| route.is_default_way());
    let best = ways
        .filter(|route| route.ifindex.is_some())
        .min_by_key(|route| route.metric);
    let link = best
        .and_then(|route| route.ifindex)
        .and_then(|index| tables.link(index));
    link.map(|link| check(tables, link)).transpose()
}

fn find_by_name(tables: &Tables, name: &str) -> Result<Uplink, NetError> {
    let link = tables.link_named(name);
    let link = link.ok_or_else(|| refuse(name, "there is no such interface"))?;
    check(tables, link)
}

fn check(tables: &Tables, link: &Link) -> Result<Uplink, NetError> {
    if link.is_ours {
        return Err(refuse(&link.name, "it is a link of the pool itself"));
    }
    if !link.is_ethernet {
        return Err(refuse(&link.name, "it is not an Ethernet interface"));
    }
    let mut addresses = tables.addresses.iter();
    let address = addresses.find(|a| a.ifindex == link.index && a.is_primary);
    let address = address.ok_or_else(|| refuse(&link.name, "it has no global IPv4 address"))?;
    Ok(Uplink {
        ifindex: link.index,
        name: link.name.clone(),
        address: address.network.addr(),
        address6: tables.lasting_ipv6(link.index),
        mtu: link.mtu,
    })
}

fn refuse(name: &str, reason: &str) -> NetError {
    NetError::new(format!("use {name} as uplink"), reason)
}

#[cfg(test)]
mod tests {
    use super::super::tables::{Address, Route};
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mtu: 1400,
            is_ethernet: true,
            is_ours: false,
        }
    }

    fn address(ifindex: u32, network: &str, is_primary: bool) -> Address {
        Address {
            ifindex,
            network: network.parse().unwrap(),
            is_primary,
        }
    }

    fn default_route(ifindex: u32, metric: u32) -> Route {
        Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            ifindex: Some(ifindex),
            metric,
            table: 254,
        }
    }

    fn host() -> Tables {
        let tunnel = Link {
            is_ethernet: false,
            ..link(4, "tun0")
        };
        let own = Link {
            is_ours: true,
            ..link(5, "pcpm0")
        };
        Tables {
            links: vec![
                link(2, "eth0"),
                link(3, "eth1"),
                tunnel,
                own,
                link(6, "bare"),
            ],
            addresses: vec![
                address(2, "198.51.100.7/32", false),
                address(2, "192.0.2.10/24", true),
                address(3, "203.0.113.5/24", true),
                address(4, "172.16.0.1/30", true),
            ],
            ipv6_addresses: vec![
                (3, "2001:db8:3::1".parse().unwrap()),
                (2, "2001:db8:2::1".parse().unwrap()),
                (2, "2001:db8:2::2".parse().unwrap()),
            ],
            routes: vec![default_route(3, 200), default_route(2, 100)],
        }
    }

    #[test]
    fn the_default_route_with_the_lowest_metric_is_the_way_out() {
        let uplink = find(&host(), &UplinkChoice::Auto).unwrap().unwrap();
        assert_eq!(
            (uplink.ifindex, uplink.name.as_str(), uplink.mtu),
            (2, "eth0", 1400)
        );
    }

    #[test]
    fn its_primary_global_address_is_the_one_to_translate_to() {
        let uplink = find(&host(), &UplinkChoice::Auto).unwrap().unwrap();
        assert_eq!(uplink.address.to_string(), "192.0.2.10");
        assert_eq!(uplink.address6.unwrap().to_string(), "2001:db8:2::1");
    }

    #[test]
    fn a_host_without_default_route_has_no_uplink() {
        let mut host = host();
        host.routes.clear();
        assert_eq!(find(&host, &UplinkChoice::Auto).unwrap(), None);
    }

    #[test]
    fn a_default_route_of_another_table_does_not_count() {
        let mut host = host();
        host.routes.iter_mut().for_each(|route| route.table = 100);
        assert_eq!(find(&host, &UplinkChoice::Auto).unwrap(), None);
    }

    #[test]
    fn a_named_interface_needs_no_default_route() {
        let uplink = find(&host(), &UplinkChoice::Named("eth1".to_owned()));
        assert_eq!(uplink.unwrap().unwrap().address.to_string(), "203.0.113.5");
    }

    #[test]
    fn an_interface_that_cannot_be_an_uplink_is_refused_with_the_reason() {
        let cases = [
            ("eth9", "use eth9 as uplink: there is no such interface"),
            (
                "tun0",
                "use tun0 as uplink: it is not an Ethernet interface",
            ),
            (
                "pcpm0",
                "use pcpm0 as uplink: it is a link of the pool itself",
            ),
            ("bare", "use bare as uplink: it has no global IPv4 address"),
        ];
        for (name, reason) in cases {
            let refused = find(&host(), &UplinkChoice::Named(name.to_owned()));
            assert_eq!(refused.unwrap_err().to_string(), reason);
        }
    }
}
