//! How attachments and slots are described to clients.

use std::net::Ipv4Addr;

use nix::errno::Errno;
use pcpm_api::{
    error::PoolError,
    types::{Attachment, Slot, SlotState, Source, Traffic},
};
use pcpm_ebpf::abi::{GATEWAY_V4, SlotCounters, slot_mac};

use super::{Attached, Engine};
use crate::{
    net::{slot_name, slot_path},
    pool::SlotIndex,
};

/// The interface in every slot.
const INTERFACE: &str = "eth0";

impl Engine {
    /// The attachment of an attached slot.
    pub(super) fn attachment(&self, slot: SlotIndex) -> Option<Attachment> {
        let holder = self.pool.holder(slot)?;
        let record = &self.records[slot as usize];
        let name = slot_name(slot);
        let epoch = self.pool.epoch(slot);
        Some(Attachment {
            id: format!("{name}-{epoch}"),
            owner: holder.owner.clone(),
            tenant: holder.tenant.clone(),
            slot: name,
            epoch,
            netns: slot_path(&self.world.state_dir, slot).display().to_string(),
            interface: INTERFACE.to_owned(),
            addresses: vec![self.world.address(slot).to_string()],
            gateways: vec![Ipv4Addr::from(GATEWAY_V4).to_string()],
            mac: mac_text(slot_mac(slot)),
            mtu: self.world.mtu,
            publish: Vec::new(),
            labels: holder.labels.clone(),
            lease: holder.lease,
            source: if record.cold {
                Source::Cold
            } else {
                Source::Warm
            },
            took_us: record.took_us,
            attached_at_ms: record.attached_at_ms,
        })
    }

    /// The attachment of an attached slot, with a file descriptor of its namespace if asked for.
    pub(super) fn attached(&self, slot: SlotIndex, pass_fd: bool) -> Result<Attached, PoolError> {
        let attachment = self
            .attachment(slot)
            .ok_or_else(|| failed(format!("slot {} is not attached", slot_name(slot))))?;
        let netns = match &self.records[slot as usize].netns {
            Some(netns) if pass_fd => Some(netns.try_clone().map_err(|error| {
                let errno = error
                    .raw_os_error()
                    .map_or(Errno::UnknownErrno, Errno::from_raw);
                failed(format!(
                    "duplicate the namespace of {}: {errno}",
                    slot_name(slot)
                ))
            })?),
            _ => None,
        };
        Ok(Attached { attachment, netns })
    }

    /// The slot's traffic since it was attached.
    pub(super) fn traffic(&self, slot: SlotIndex) -> Result<Traffic, PoolError> {
        let now = self
            .datapath
            .slot_counters(slot)
            .map_err(|e| failed(e.to_string()))?;
        Ok(traffic_since(self.records[slot as usize].baseline, now))
    }

    /// A slot as watchers see it.
    pub(super) fn slot(&self, slot: SlotIndex) -> Slot {
        let holder = self.pool.holder(slot);
        Slot {
            slot: slot_name(slot),
            state: self.pool.state(slot),
            epoch: self.pool.epoch(slot),
            owner: holder.map(|holder| holder.owner.clone()),
            tenant: holder.map(|holder| holder.tenant.clone()),
            addresses: vec![self.world.address(slot).to_string()],
            reason: self.pool.failure(slot).map(|(reason, _)| reason.to_owned()),
        }
    }

    /// All slots that are not vacant.
    pub(super) fn slots_in_use(&self) -> impl Iterator<Item = Slot> {
        (0..self.pool.counts().capacity)
            .filter(|&slot| self.pool.state(slot) != SlotState::Vacant)
            .map(|slot| self.slot(slot))
    }
}

fn failed(reason: String) -> PoolError {
    PoolError::Failed { reason }
}

fn traffic_since(baseline: SlotCounters, now: SlotCounters) -> Traffic {
    Traffic {
        sent_packets: now.sent_packets.saturating_sub(baseline.sent_packets),
        sent_bytes: now.sent_bytes.saturating_sub(baseline.sent_bytes),
        received_packets: now
            .received_packets
            .saturating_sub(baseline.received_packets),
        received_bytes: now.received_bytes.saturating_sub(baseline.received_bytes),
        dropped_packets: now.dropped_packets.saturating_sub(baseline.dropped_packets),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
