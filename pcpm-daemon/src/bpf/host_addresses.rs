//! The table of the host's own addresses, at which published ports answer.

use std::{collections::BTreeSet, net::IpAddr};

use aya::maps::{HashMap, Map, MapData};
use pcpm_ebpf::{abi::names, address::Address};

use super::{BpfError, PinDir, steering::use_map};

/// The table, and what stands in it. It is written by whoever follows the host's network.
#[derive(Debug)]
pub(crate) struct HostAddresses {
    table: HashMap<MapData, [u32; 4], u32>,
    known: BTreeSet<IpAddr>,
}

impl HostAddresses {
    /// Opens the table, with what an earlier life left in it; for one writer.
    pub(crate) fn open(pins: &PinDir) -> Result<Self, BpfError> {
        let table: HashMap<MapData, [u32; 4], u32> =
            use_map(pins, names::HOST_ADDRESSES, Map::HashMap)?;
        let known = table
            .keys()
            .map(|key| key.map(|words| Address(words).into()));
        let known = known.collect::<Result<_, _>>();
        let known = known.map_err(|e| BpfError::new("read the host's addresses", &e))?;
        Ok(Self { table, known })
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
