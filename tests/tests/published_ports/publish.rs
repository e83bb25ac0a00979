//! Slots with published ports, and what serves there.
#![expect(
    unsafe_code,
    reason = "says which ABI types are plain memory, for aya's maps"
)]

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, Map, MapData};
use pcpm_api::types::AttachReply;
use pcpm_ebpf::abi::{PortKey, PortTarget, names};
use pcpm_ebpf::address::Address;
use pcpm_tests::{Daemon, Place, World};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) struct Slot {
    pub(crate) place: Place,
    pub(crate) epoch: u32,
    pub(crate) index: u32,
}

pub(crate) fn attach(daemon: &Daemon, owner: &str, tenant: &str) -> Result<Slot> {
    let reply: AttachReply = daemon.attach(owner, tenant)?;
    Ok(Slot {
        place: daemon.place(&reply),
        epoch: reply.attachment.epoch,
        index: reply.attachment.slot[1..].parse()?,
    })
}

/// Publishes `port` of `slot` as `host_port` on `address`.
pub(crate) fn publish(
    world: &World,
    slot: &Slot,
    protocol: u8,
    address: Option<&str>,
    host_port: u16,
    port: u16,
) -> Result<()> {
    let address = match address {
        Some(address) => address.parse::<IpAddr>()?.into(),
        None => Address::ANY,
    };
    let key = PortKey {
        address,
        port: host_port,
        protocol,
        padding: 0,
    };
    let target = PortTarget {
        slot: slot.index,
        epoch: slot.epoch,
        port,
        padding: [0; 6],
    };
    let mut ports: HashMap<_, Plain<PortKey>, Plain<PortTarget>> = map(world, names::PORTS)?;
    ports.insert(Plain(key), Plain(target), 0)?;
    Ok(())
}

/// Withdraws everything.
pub(crate) fn withdraw_all(world: &World) -> Result<()> {
    let mut ports: HashMap<_, Plain<PortKey>, Plain<PortTarget>> = map(world, names::PORTS)?;
    for key in ports.keys().collect::<Result<Vec<_>, _>>()? {
        ports.remove(&key)?;
    }
    Ok(())
}

fn map<K: Pod, V: Pod>(world: &World, name: &str) -> Result<HashMap<MapData, K, V>> {
    let path = format!("/sys/fs/bpf/pcpm/{name}");
    let data = world
        .host()
        .within(|| Ok(MapData::from_pin(&path)?))
        .with_context(|| format!("open {path}"))?;
    Ok(HashMap::try_from(Map::HashMap(data))?)
}

/// ABI types as aya's maps want them.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, `Copy`, no padding, every bit pattern is valid.
unsafe impl Pod for Plain<PortKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PortTarget> {}
