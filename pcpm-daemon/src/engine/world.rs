//! What is fixed while the daemon runs, and what follows from it about each slot.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use pcpm_api::types;
use pcpm_ebpf::abi::{CLONE_MAC, GATEWAY_V4, GATEWAY_V6, slot_mac};

use crate::{
    config::Inner,
    net::{Share, SlotSpec},
    pool::SlotIndex,
};

/// What is fixed while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state_dir: PathBuf,
    pub(crate) pool_cidr: ipnet::Ipv4Net,
    /// Prefix of the slots' IPv6 addresses, if they have some.
    pub(crate) pool_prefix6: Option<ipnet::Ipv6Net>,
    /// What all slots have inside, if it is the same.
    pub(crate) inner: Option<Inner>,
    pub(crate) mtu: u32,
    pub(crate) uplinks: Vec<types::Uplink>,
}

impl World {
    /// The networks that slots have their addresses in.
    pub(super) fn ranges(&self) -> impl Iterator<Item = IpNet> + use<> {
        let networks = [
            Some(self.pool_cidr.into()),
            self.pool_prefix6.map(IpNet::V6),
        ];
        networks.into_iter().flatten()
    }

    /// The address of a slot.
    pub(crate) fn address(&self, slot: SlotIndex) -> Ipv4Addr {
        (u32::from(self.pool_cidr.network()) + slot).into()
    }

    /// The IPv6 address of a slot, if slots have some.
    pub(crate) fn address6(&self, slot: SlotIndex) -> Option<Ipv6Addr> {
        let prefix = self.pool_prefix6?;
        Some((u128::from(prefix.network()) | u128::from(slot)).into())
    }

    /// What it takes to make a slot.
    pub(super) fn spec(&self, slot: SlotIndex) -> SlotSpec {
        SlotSpec {
            index: slot,
            address: self.inner_address(slot),
            address6: self.inner_address6(slot),
            mac: self.mac(slot),
            mtu: self.mtu,
            share: Share::default(),
        }
    }

    /// All addresses that others know a slot by, IPv4 first, as text.
    pub(super) fn addresses(&self, slot: SlotIndex) -> Vec<String> {
        texts(self.address(slot), self.address6(slot))
    }

    /// All addresses that a slot has inside, in the same order.
    pub(super) fn inner_addresses(&self, slot: SlotIndex) -> Vec<String> {
        texts(self.inner_address(slot), self.inner_address6(slot))
    }

    /// The hardware address of a slot.
    pub(super) fn mac(&self, slot: SlotIndex) -> [u8; 6] {
        match self.inner {
            Some(_) => CLONE_MAC,
            None => slot_mac(slot),
        }
    }

    fn inner_address(&self, slot: SlotIndex) -> Ipv4Addr {
        self.inner
            .map_or_else(|| self.address(slot), |inner| inner.v4)
    }

    fn inner_address6(&self, slot: SlotIndex) -> Option<Ipv6Addr> {
        let own = self.address6(slot)?;
        Some(self.inner.map_or(own, |inner| inner.v6))
    }

    /// The gateways of a slot, in the order of its addresses, as text.
    pub(crate) fn gateways(&self) -> Vec<String> {
        let mut gateways = vec![Ipv4Addr::from(GATEWAY_V4).to_string()];
        gateways.extend(
            self.pool_prefix6
                .map(|_| Ipv6Addr::from(GATEWAY_V6).to_string()),
        );
        gateways
    }
}

fn texts(v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Vec<String> {
    let addresses = [Some(v4.to_string()), v6.map(|address| address.to_string())];
    addresses.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(inner: Option<Inner>, pool_prefix6: Option<&str>) -> World {
        World {
            state_dir: "/run/pcpm".into(),
            pool_cidr: "10.213.0.0/16".parse().unwrap(),
            pool_prefix6: pool_prefix6.map(|prefix| prefix.parse().unwrap()),
            inner,
            mtu: 1500,
            uplinks: Vec::new(),
        }
    }

    const PREFIX6: Option<&str> = Some("fd00:7063:706d::/64");

    #[test]
    fn a_slot_has_inside_what_it_is_known_by() {
        let world = world(None, PREFIX6);
        assert_eq!(world.addresses(7), ["10.213.0.7", "fd00:7063:706d::7"]);
        assert_eq!(world.inner_addresses(7), world.addresses(7));
        assert_eq!(world.spec(7).mac, [2, 0x50, 0x43, 0, 0, 7]);
    }

    #[test]
    fn or_what_all_slots_have() {
        let inner = Inner {
            v4: [10, 0, 0, 2].into(),
            v6: "fd00:1::2".parse().unwrap(),
        };
        let both = world(Some(inner), PREFIX6);
        assert_eq!(both.addresses(7), ["10.213.0.7", "fd00:7063:706d::7"]);
        assert_eq!(both.inner_addresses(7), ["10.0.0.2", "fd00:1::2"]);
        let (one, other) = (both.spec(7), both.spec(8));
        assert_eq!((one.address, one.address6), (inner.v4, Some(inner.v6)));
        assert_eq!((one.mac, one.address6), (other.mac, other.address6));
        let only4 = world(Some(inner), None);
        assert_eq!(only4.inner_addresses(7), ["10.0.0.2"]);
        assert_eq!(only4.spec(7).address6, None);
    }
}
