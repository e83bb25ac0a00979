//! The table of the ways to the hubs: the host's interface for each.

use aya::maps::{Array, Map, MapData};
use pcpm_ebpf::abi::names;

use super::{BpfError, PinDir, steering::use_map};

/// The table, for whoever makes hubs' links.
pub(crate) struct HubWays(Array<MapData, u32>);

impl HubWays {
    /// Opens the table.
    pub(crate) fn open(pins: &PinDir) -> Result<Self, BpfError> {
        use_map(pins, names::HUBS, Map::Array).map(Self)
    }

    /// Packets reach a hub through this interface of the host from now on.
    pub(crate) fn set(&mut self, hub: u32, host_ifindex: u32) -> Result<(), BpfError> {
        self.0
            .set(hub, host_ifindex, 0)
            .map_err(|e| BpfError::new(format!("write the interface of hub {hub}"), &e))
    }
}
