//! What is written down, one JSON object each.

use std::rc::Rc;

use pcpm_api::types::Source;
use pcpm_ebpf::abi::SlotCounters;
use serde::{Deserialize, Serialize};

use crate::{
    net::Share,
    policy::PolicyId,
    pool::{Holder, SlotIndex, default_class, is_default_class},
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// A daemon began its work, or the journal was compacted.
    Started(Started),
    /// A slot was made: it is clean and may be handed out.
    Ready(Ready),
    /// A used slot was found clean enough for the tenant that had it.
    Kept(Kept),
    /// A slot is somebody's.
    Attached(Attached),
    /// The holder of a slot has other options.
    Updated(Updated),
    /// A slot is nobody's any more. It is not clean.
    Detached { slot: SlotIndex, epoch: u32 },
    /// A slot is about to be destroyed.
    Retiring { slot: SlotIndex, epoch: u32 },
}

/// Numbers that must not be used again: those used until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Of the lives of the daemon.
    pub(crate) life: u64,
    /// Of rule sets.
    pub(crate) last_policy: PolicyId,
    /// Of tenants.
    pub(crate) last_tenant: u32,
    /// Of domain names.
    #[serde(default)]
    pub(crate) last_name: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) slot: SlotIndex,
    /// The slot's last attachment.
    pub(crate) epoch: u32,
    /// The class it was made for.
    #[serde(default = "default_class", skip_serializing_if = "is_default_class")]
    pub(crate) class: Rc<str>,
    /// The MTU that the slot was made with, in bytes.
    pub(crate) mtu: u32,
    /// The namespaces that it has beside the network one.
    #[serde(default, skip_serializing_if = "shares_nothing")]
    pub(crate) share: Share,
    /// What the slot's counters read when it was made.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) counters: Counters,
}

/// A slot that one tenant alone may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    #[serde(flatten)]
    pub(crate) slot: Ready,
    pub(crate) tenant: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_field_names, reason = "as the interface names it")]
pub(crate) struct Attached {
    pub(crate) slot: SlotIndex,
    pub(crate) epoch: u32,
    /// The life of the daemon that it began in.
    pub(crate) life: u64,
    /// The tenant's number.
    pub(crate) tenant: u32,
    /// The number of the rules.
    pub(crate) policy: PolicyId,
    /// The last number of a domain name, if there are rules about names.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) last_name: u32,
    pub(crate) source: Source,
    pub(crate) took_us: u64,
    pub(crate) attached_at_ms: u64,
    pub(crate) holder: Rc<Holder>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Updated {
    pub(crate) slot: SlotIndex,
    pub(crate) epoch: u32,
    pub(crate) policy: PolicyId,
    /// As in [`Attached`].
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) last_name: u32,
    pub(crate) holder: Rc<Holder>,
}

/// [`SlotCounters`] in the order of their fields.
pub(crate) type Counters = [u64; 5];

/// The counters as they are written.
pub(crate) fn counters(counters: SlotCounters) -> Counters {
    let SlotCounters {
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    } = counters;
    [
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    ]
}

/// The counters as they were before they were written.
pub(crate) fn slot_counters(counters: Counters) -> SlotCounters {
    let [
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    ] = counters;
    SlotCounters {
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_none(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn shares_nothing(share: &Share) -> bool {
    share.is_nothing()
}

fn is_zero(counters: &Counters) -> bool {
    *counters == Counters::default()
}
