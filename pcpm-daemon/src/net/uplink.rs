//! Which interfaces are the host's ways out.

use std::collections::BTreeSet;

use super::error::NetError;
use super::tables::{Link, Route, Tables};
use super::{FoundUplinks, Uplink, UplinkAddresses, UplinkChoice};

/// Finds the uplinks, and what would be one and cannot.
pub(super) fn find(tables: &Tables, choice: &UplinkChoice) -> FoundUplinks {
    let candidates: Vec<_> = match choice {
        UplinkChoice::Auto => by_route(tables).map(|link| check(tables, link)).collect(),
        UplinkChoice::Named(names) => names.iter().map(|name| named(tables, name)).collect(),
    };
    let mut found = FoundUplinks::default();
    for candidate in candidates {
        match candidate {
            Ok(uplink) => found.usable.push(uplink),
            Err(error) => found.refused.push(error),
        }
    }
    found
}

/// The links of all default routes, the best one first: of the main table before those that only
/// rules lead to, of IPv4 before IPv6, by metric.
fn by_route(tables: &Tables) -> impl Iterator<Item = &Link> {
    let mut routes: Vec<&Route> = tables.routes.iter().filter(|r| r.is_default()).collect();
    routes.sort_by_key(|route| {
        let is_ipv6 = route.destination.addr().is_ipv6();
        (!route.is_main(), is_ipv6, route.metric)
    });
    let mut seen = BTreeSet::new();
    routes
        .into_iter()
        .flat_map(|route| route.ifindexes.iter().copied())
        .filter(move |index| seen.insert(*index))
        .filter_map(|index| tables.link(index))
}

fn named(tables: &Tables, name: &str) -> Result<Uplink, NetError> {
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
    let addresses = UplinkAddresses {
        v4: address.map(|address| address.network.addr()),
        v6: tables.lasting_ipv6(link.index),
    };
    if addresses.v4.is_none() && addresses.v6.is_none() {
        return Err(refuse(&link.name, "it has no global address"));
    }
    Ok(Uplink {
        ifindex: link.index,
        name: link.name.clone(),
        addresses,
        mtu: link.mtu,
    })
}

fn refuse(name: &str, reason: &str) -> NetError {
    NetError::new(format!("use {name} as uplink"), reason)
}

#[cfg(test)]
mod tests {
    use super::super::tables::Address;
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

    fn route(destination: &str, ifindexes: &[u32], metric: u32) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            ifindexes: ifindexes.to_vec(),
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
                link(7, "six"),
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
                (7, "2001:db8:7::1".parse().unwrap()),
            ],
            routes: vec![route("0.0.0.0/0", &[3], 200), route("0.0.0.0/0", &[2], 100)],
        }
    }

    fn names(found: &FoundUplinks) -> Vec<&str> {
        let usable = found.usable.iter();
        usable.map(|uplink| uplink.name.as_str()).collect()
    }

    fn with_routes(routes: Vec<Route>) -> Tables {
        Tables { routes, ..host() }
    }

    #[test]
    fn every_default_route_leads_to_an_uplink_and_the_best_is_first() {
        let in_table = |table, route: Route| Route { table, ..route };
        let cases = [
            (host().routes, vec!["eth0", "eth1"]),
            (vec![route("0.0.0.0/0", &[3, 2], 0)], vec!["eth1", "eth0"]),
            (
                vec![route("::/0", &[7], 1), route("0.0.0.0/0", &[3], 100)],
                vec!["eth1", "six"],
            ),
            (
                vec![
                    in_table(100, route("0.0.0.0/0", &[3], 0)),
                    route("0.0.0.0/0", &[2], 50),
                ],
                vec!["eth0", "eth1"],
            ),
            (
                vec![route("0.0.0.0/1", &[2], 0), route("128.0.0.0/1", &[2], 0)],
                vec!["eth0"],
            ),
            (vec![route("10.0.0.0/8", &[2], 0)], vec![]),
            (vec![], vec![]),
        ];
        for (routes, expected) in cases {
            let tables = with_routes(routes);
            let found = find(&tables, &UplinkChoice::Auto);
            assert_eq!(names(&found), expected, "{:?}", tables.routes);
        }
    }

    #[test]
    fn its_first_lasting_global_addresses_are_those_to_translate_to() {
        let found = find(&host(), &UplinkChoice::Auto);
        let [uplink, _] = found.usable.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(uplink.addresses.v4.unwrap().to_string(), "192.0.2.10");
        assert_eq!(uplink.addresses.v6.unwrap().to_string(), "2001:db8:2::1");
        assert_eq!((uplink.ifindex, uplink.mtu), (2, 1400));
    }

    #[test]
    fn an_interface_with_ipv6_only_is_an_uplink_too() {
        let found = find(
            &with_routes(vec![route("::/0", &[7], 1024)]),
            &UplinkChoice::Auto,
        );
        assert_eq!(names(&found), ["six"]);
        assert_eq!(found.usable[0].addresses.v4, None);
    }

    #[test]
    fn named_interfaces_need_no_default_route_and_keep_their_order() {
        let choice = UplinkChoice::Named(vec!["eth1".to_owned(), "eth0".to_owned()]);
        assert_eq!(
            names(&find(&with_routes(vec![]), &choice)),
            ["eth1", "eth0"]
        );
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
            ("bare", "use bare as uplink: it has no global address"),
        ];
        let named = cases.map(|(name, _)| name.to_owned()).to_vec();
        let refused = find(&host(), &UplinkChoice::Named(named)).refused;
        let reasons: Vec<_> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(reasons, cases.map(|(_, reason)| reason));
    }
}
