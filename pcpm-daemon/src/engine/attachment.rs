//! How attachments and slots are described to clients.

use std::{collections::BTreeMap, os::fd::OwnedFd, rc::Rc};

use nix::errno::Errno;
use pcpm_api::{
    error::PoolError,
    rules::Rule,
    types::{Flows, Lease, PublishedPort, SharedNamespace, Slot, SlotState, Source, Traffic},
};
use pcpm_ebpf::abi::SlotCounters;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::{Engine, World};
use crate::{
    net::{Share, share_path, slot_name, slot_path},
    pool::{Holder, SlotIndex},
};

/// The interface in every slot.
const INTERFACE: &str = "eth0";

/// What never changes about a slot, as text, lists as JSON: written when the slot is made, so that an attach
/// formats nothing.
#[derive(Debug)]
pub(super) struct SlotText {
    name: String,
    netns: String,
    addresses: Box<RawValue>,
    inner_addresses: Box<RawValue>,
    gateways: Box<RawValue>,
    mac: String,
    mtu: u32,
    share: Share,
    ipc: Option<String>,
    uts: Option<String>,
}

impl SlotText {
    /// Of the slot's link, in bytes.
    pub(super) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// The namespaces that it has beside the network one.
    pub(super) fn share(&self) -> Share {
        self.share
    }

    pub(super) fn new(world: &World, slot: SlotIndex, mtu: u32, share: Share) -> Self {
        let path = |kind| {
            let path = share
                .has(kind)
                .then(|| share_path(&world.state_dir, kind, slot));
            path.map(|path| path.display().to_string())
        };
        Self {
            mtu,
            share,
            ipc: path(SharedNamespace::Ipc),
            uts: path(SharedNamespace::Uts),
            name: slot_name(slot),
            netns: slot_path(&world.state_dir, slot).display().to_string(),
            addresses: json(&world.addresses(slot)),
            inner_addresses: json(&world.inner_addresses(slot)),
            gateways: json(&world.gateways()),
            mac: mac_text(world.mac(slot)),
        }
    }
}

/// How an attachment came about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) source: Source,
    pub(super) took_us: u64,
    pub(super) attached_at_ms: u64,
    /// The life of the daemon that it began in.
    pub(super) life: u64,
}

/// An attachment, cheap to hand to a client's task. It is written as `types::Attachment`.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    holder: Rc<Holder>,
    text: Rc<SlotText>,
    epoch: u32,
    origin: Origin,
    broken: Option<String>,
}

impl Attachment {
    /// Names this attachment and no other, ever, also where epochs begin anew.
    pub(super) fn id(&self) -> String {
        format!("{}-{}-{:x}", self.text.name, self.epoch, self.origin.life)
    }
}

/// What an attachment has used so far: fields of `types::GetReply`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) traffic: Traffic,
    pub(crate) flows: Flows,
}

/// An attachment and what else is said about it. It is written as `types::AttachReply`, and with what was used as
/// `types::GetReply`.
#[derive(Debug)]
pub(crate) struct AttachReply {
    pub(crate) attachment: Attachment,
    pub(crate) usage: Option<Used>,
    pub(crate) netns_fd: Option<u32>,
}

/// The fields of `types::Attachment`, borrowed, and those that replies have beside them. Together, because what serde
/// flattens it writes as a map, which takes longer.
#[derive(Serialize)]
struct Fields<'a> {
    id: String,
    owner: &'a str,
    tenant: &'a str,
    class: &'a str,
    slot: &'a str,
    epoch: u32,
    netns: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipc: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uts: Option<&'a str>,
    interface: &'a str,
    addresses: &'a RawValue,
    inner_addresses: &'a RawValue,
    gateways: &'a RawValue,
    mac: &'a str,
    mtu: u32,
    publish: Vec<PublishedPort>,
    allow: Vec<String>,
    deny: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_down: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_up_packets: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_down_packets: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    lease: Lease,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_pid: Option<u32>,
    source: Source,
    took_us: u64,
    attached_at_ms: u64,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    broken: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traffic: Option<Traffic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flows: Option<Flows>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns_fd: Option<u32>,
}

impl Serialize for Attachment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields(None, None).serialize(serializer)
    }
}

impl Serialize for AttachReply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.attachment.fields(self.usage, self.netns_fd);
        fields.serialize(serializer)
    }
}

impl Attachment {
    fn fields(&self, usage: Option<Used>, netns_fd: Option<u32>) -> Fields<'_> {
        let Self {
            holder,
            text,
            origin,
            broken,
            ..
        } = self;
        let publish = &holder.options.publish;
        let options = holder.in_force();
        Fields {
            id: self.id(),
            owner: &holder.owner,
            tenant: &holder.tenant,
            class: &holder.class,
            slot: &text.name,
            epoch: self.epoch,
            netns: &text.netns,
            ipc: text.ipc.as_deref(),
            uts: text.uts.as_deref(),
            interface: INTERFACE,
            addresses: &text.addresses,
            inner_addresses: &text.inner_addresses,
            gateways: &text.gateways,
            mac: &text.mac,
            mtu: text.mtu,
            publish: publish.iter().map(|&port| port.into()).collect(),
            allow: texts(options.rules.allow()),
            deny: texts(options.rules.deny()),
            rate_up: options.up.bits,
            rate_down: options.down.bits,
            rate_up_packets: options.up.packets,
            rate_down_packets: options.down.packets,
            labels: &holder.labels,
            lease: holder.lease,
            lease_pid: holder.process.map(|process| process.pid),
            source: origin.source,
            took_us: origin.took_us,
            attached_at_ms: origin.attached_at_ms,
            uid: holder.uid,
            broken: broken.as_deref(),
            traffic: usage.map(|used| used.traffic),
            flows: usage.map(|used| used.flows),
            netns_fd,
        }
    }
}

impl Engine {
    /// The attachment of an attached slot.
    pub(super) fn attachment(&self, slot: SlotIndex) -> Option<Attachment> {
        let record = &self.records[slot as usize];
        Some(Attachment {
            holder: self.pool.holder(slot)?.clone(),
            text: record.text.clone()?,
            epoch: self.pool.epoch(slot),
            origin: record.origin?,
            broken: self.broken(slot),
        })
    }

    /// The attachment of an attached slot, with a file descriptor of its namespace if asked for.
    pub(super) fn attached(
        &self,
        slot: SlotIndex,
        pass_fd: bool,
    ) -> Result<(Attachment, Option<OwnedFd>), PoolError> {
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
        Ok((attachment, netns))
    }

    /// What the slot's attachment has used so far.
    pub(super) fn usage(&self, slot: SlotIndex) -> Result<Used, PoolError> {
        Ok(Used {
            traffic: self.traffic(slot)?,
            flows: self.flows(slot),
        })
    }

    /// The slot's traffic since it was attached.
    fn traffic(&self, slot: SlotIndex) -> Result<Traffic, PoolError> {
        let now = self
            .datapath
            .slot_counters(slot)
            .map_err(|e| failed(e.to_string()))?;
        Ok(self.traffic_until(slot, now))
    }

    /// The same, where its counters read `now`.
    pub(super) fn traffic_until(&self, slot: SlotIndex, now: SlotCounters) -> Traffic {
        traffic_since(self.records[slot as usize].baseline, now)
    }

    /// A slot as watchers see it.
    pub(super) fn slot(&self, slot: SlotIndex) -> Slot {
        let holder = self.pool.holder(slot);
        let state = self.pool.state(slot);
        let origin = holder.and(self.records[slot as usize].origin);
        let failure = self.pool.failure(slot).map(|(reason, _)| reason.to_owned());
        Slot {
            slot: slot_name(slot),
            state,
            epoch: self.pool.epoch(slot),
            owner: holder.map(|holder| holder.owner.clone()),
            tenant: self.tenant_of(slot),
            class: (state != SlotState::Vacant).then(|| self.class_name(slot).to_string()),
            addresses: self.world.addresses(slot),
            attached_at_ms: origin.map(|origin| origin.attached_at_ms),
            took_us: origin.map(|origin| origin.took_us),
            source: origin.map(|origin| origin.source),
            reason: failure.or_else(|| self.broken(slot)),
        }
    }

    /// Whom the slot belongs to, or waits for alone.
    fn tenant_of(&self, slot: SlotIndex) -> Option<String> {
        let holder = self.pool.holder(slot);
        let held = holder.map(|holder| holder.tenant.clone());
        held.or_else(|| self.pool.kept_for(slot).map(ToString::to_string))
    }

    /// All slots that are not vacant.
    pub(super) fn slots_in_use(&self) -> impl Iterator<Item = Slot> {
        (0..self.pool.room())
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

pub(super) fn texts(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::to_string).collect()
}

fn json(texts: &[String]) -> Box<RawValue> {
    to_raw_value(texts).expect("texts have nothing that JSON has not")
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
