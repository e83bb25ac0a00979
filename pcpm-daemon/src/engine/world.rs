//! What is fixed while the daemon runs, and what follows from it about each slot.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::IpNet;
use pcpm_api::types;
use pcpm_ebpf::abi::{GATEWAY_V4, GATEWAY_V6};

use crate::pool::SlotIndex;

/// What is fixed while the daemon runs.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) state_dir: PathBuf,
    pub(crate) pool_cidr: ipnet::Ipv4Net,
    /// Prefix of the slots' IPv6 addresses, if they have some.
    pub(crate) pool_prefix6: Option<ipnet::Ipv6Net>,
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

    /// All addresses of a slot, IPv4 first, as text.
    pub(crate) fn addresses(&self, slot: SlotIndex) -> Vec<String> {
        let addresses = [
            Some(self.address(slot).into()),
            self.address6(slot).map(IpAddr::V6),
        ];
        addresses
            .into_iter()
            .flatten()
            .map(|address: IpAddr| address.to_string())
            .collect()
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
