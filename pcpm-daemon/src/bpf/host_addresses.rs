//! The table of the host's own addresses, at which published ports answer.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{HashMap, MapData};
use pcpm_ebpf::address::Address;

use super::BpfError;

/// The table, and what stands in it. It is written by whoever follows the host's network.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    table: HashMap<MapData, [u32; 4], u32>,
    known: BTreeSet<IpAddr>,
}

impl HostAddresses {
    pub(super) fn new(table: HashMap<MapData, [u32; 4], u32>) -> Self {
        Self {
            table,
            known: BTreeSet::new(),
        }
    }

    /// Makes the table say `now`. All changes are tried; the first failure is returned, and what
    /// failed is tried again next time.
    pub(crate) fn follow(&mut self, now: &BTreeSet<IpAddr>) -> Result<(), BpfError> {
        let gone: Vec<_> = self.known.difference(now).copied().collect();
        let new: Vec<_> = now.difference(&self.known).copied().collect();
        let removed = gone.into_iter().map(|address| self.remove(address));
        let removed: Vec<_> = removed.collect();
        let added: Vec<_> = new.into_iter().map(|address| self.add(address)).collect();
        removed.into_iter().chain(added).collect()
    }

    fn add(&mut self, address: IpAddr) -> Result<(), BpfError> {
        self.table
            .insert(Address::from(address).0, 1, 0)
            .map_err(|e| BpfError::new(format!("note the host's address {address}"), &e))?;
        self.known.insert(address);
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
