//! The table of the host's own addresses, at which published ports answer.

use std::{collections::BTreeMap, net::IpAddr};

use aya::maps::{HashMap, MapData};
use pcpm_ebpf::address::Address;

use super::BpfError;

/// The table, and what stands in it. It is written by whoever follows the host's network.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    table: HashMap<MapData, [u32; 4], u32>,
    known: BTreeMap<IpAddr, u32>,
}

impl HostAddresses {
    pub(super) fn new(table: HashMap<MapData, [u32; 4], u32>) -> Self {
        Self {
            table,
            known: BTreeMap::new(),
        }
    }

    /// Makes the table say `now`: addresses and their links. All changes are tried; the first failure is returned, and what
    /// failed is tried again next time.
    pub(crate) fn follow(&mut self, now: &BTreeMap<IpAddr, u32>) -> Result<(), BpfError> {
        let known = self.known.keys().copied();
        let gone: Vec<_> = known.filter(|address| !now.contains_key(address)).collect();
        let removed = gone.into_iter().map(|address| self.remove(address));
        let removed: Vec<_> = removed.collect();
        let added = now.iter().map(|(address, link)| self.add(*address, *link));
        let added: Vec<_> = added.collect();
        removed.into_iter().chain(added).collect()
    }

    fn add(&mut self, address: IpAddr, link: u32) -> Result<(), BpfError> {
        if self.known.get(&address) == Some(&link) {
            return Ok(());
        }
        self.table
            .insert(Address::from(address).0, link, 0)
            .map_err(|e| BpfError::new(format!("note the host's address {address}"), &e))?;
        self.known.insert(address, link);
        Ok(())
    }

    fn remove(&mut self, address: IpAddr) -> Result<(), BpfError> {
        self.table
            .remove(&Address::from(address).0)
            .map_err(|e| BpfError::new(format!("forget the host's address {address}"), &e))?;
        self.known.remove(&address);
        Ok(())
    }
}
