//! Types of the interface, field for field as in `io.pcpm.Pool.varlink`, where they are described.
//! Times are milliseconds since the Unix epoch (`_ms`) or durations in the unit of the name.
#![expect(
    missing_docs,
    reason = "the interface definition describes every field once"
)]

mod drops;
mod figures;
mod locks;
mod starts;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits::DEFAULT_CLASS;

pub use drops::{DroppedPackets, DropsReply, DropsRequest};
pub use figures::{SlotUsage, StepTimes, TenantQuota, TimeCount};
pub use locks::{
    LockBlocker, LockFrame, LockWaiter, LockWaits, LocksReply, LocksRequest, LongWait, Pacing,
};
pub use starts::{ContainerStarts, PhaseTime, ReportStartRequest};

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "async", derive(zlink::introspect::CustomType), zlink(rename_all = "lowercase"))]
        #[serde(rename_all = "lowercase")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// The word used on the wire and on the command line.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// All values.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text).ok_or_else(|| {
                    let words: Vec<_> = Self::ALL.iter().map(|v| v.as_str()).collect();
                    format!("'{text}' is not one of {}", words.join(", "))
                })
            }
        }
    };
}

words!(OnEmpty { Wait = "wait", Create = "create", Fail = "fail" });
words!(Lease { Explicit = "explicit", Connection = "connection", Pid = "pid" });
words!(TargetMode { Fixed = "fixed", Adaptive = "adaptive" });
words!(DefaultPolicy { Open = "open", Closed = "closed" });
words!(SharedNamespace { Ipc = "ipc", Uts = "uts" });
words!(Source { Warm = "warm", Cold = "cold" });
words!(StartPhase {
    Attach = "attach",
    Bundle = "bundle",
    Create = "create",
    Start = "start",
    Mount = "mount",
    Add = "add",
});
words!(SlotState {
    Vacant = "vacant",
    Creating = "creating",
    Ready = "ready",
    Kept = "kept",
    Attached = "attached",
    Retiring = "retiring",
    Failed = "failed",
});
words!(CheckStatus { Ok = "ok", Warning = "warning", Failed = "failed" });

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct PublishedPort {
    pub protocol: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<String>,
    pub host_port: u16,
    pub port: u16,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Traffic {
    pub sent_packets: u64,
    pub sent_bytes: u64,
    pub received_packets: u64,
    pub received_bytes: u64,
    pub dropped_packets: u64,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Flows {
    pub used: u32,
    pub limit: u32,
    pub opened: u64,
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Attachment {
    pub id: String,
    pub owner: String,
    pub tenant: String,
    #[serde(default = "default_class")]
    pub class: String,
    pub slot: String,
    pub epoch: u32,
    pub netns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipc: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uts: Option<String>,
    pub interface: String,
    pub addresses: Vec<String>,
    #[serde(default)]
    pub inner_addresses: Vec<String>,
    pub gateways: Vec<String>,
    pub mac: String,
    pub mtu: u32,
    pub publish: Vec<PublishedPort>,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down_packets: Option<u64>,
    pub labels: BTreeMap<String, String>,
    pub lease: Lease,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_pid: Option<u32>,
    pub source: Source,
    pub took_us: u64,
    pub attached_at_ms: u64,
    /// The user that attached it, by number.
    pub uid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Slot {
    pub slot: String,
    pub state: SlotState,
    pub epoch: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    pub addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_at_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct SlotCounts {
    pub ready: u32,
    pub attached: u32,
    pub creating: u32,
    pub retiring: u32,
    pub failed: u32,
    pub vacant: u32,
    pub capacity: u32,
    pub target: u32,
    pub waiting: u32,
    #[serde(default)]
    pub beyond: u32,
    #[serde(default)]
    pub kept: u32,
    #[serde(default)]
    pub reserved: u32,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct AttachTotals {
    pub warm: u64,
    pub cold: u64,
    pub detached: u64,
    pub exhausted: u64,
    pub refused: u64,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct RefillTotals {
    pub created: u64,
    pub retired: u64,
    pub failed: u64,
    pub create: Latency,
    pub namespace: Latency,
    pub mount: Latency,
    pub link: Latency,
    pub configure: Latency,
}

/// Used slots of one kind that were not clean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct UncleanCount {
    pub what: String,
    pub slots: u64,
}

/// What became of used slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct RecycleTotals {
    pub enabled: bool,
    pub portrayed: u32,
    pub recycled: u64,
    pub unclean: Vec<UncleanCount>,
    pub took: Latency,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Memory {
    pub daemon_rss_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_slab_bytes_per_slot: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_percpu_bytes_per_slot: Option<u64>,
}

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct FlowTable {
    pub capacity: u32,
    pub used: u32,
    pub per_slot: u32,
    pub opened: u64,
    pub collected: u64,
    pub pass_us: u64,
    pub refused_limit: u64,
    pub refused_full: u64,
    pub refused_ports: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Uplink {
    pub interface: String,
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<String>,
    pub mtu: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct DropCount {
    pub reason: String,
    pub description: String,
    pub packets: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct WarmTarget {
    pub mode: TargetMode,
    pub target: u32,
    pub floor: u32,
    pub ceiling: u32,
    pub burst: u32,
    pub refill_per_s: u32,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct WaitingRequest {
    pub owner: String,
    pub tenant: String,
    #[serde(default = "default_class")]
    pub class: String,
    pub on_empty: OnEmpty,
    pub waited_ms: u64,
    pub remaining_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Failure {
    pub slot: String,
    pub reason: String,
    pub retry_in_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Event {
    pub sequence: u64,
    pub time_ms: u64,
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Check {
    pub name: String,
    pub status: CheckStatus,
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Parameters of `Attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_ports: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_empty: Option<OnEmpty>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_fd: Option<bool>,
}

/// Parameters of `Detach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Parameters of `Update`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct UpdateRequest {
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deny: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down_packets: Option<u64>,
}

/// Parameters of `Drain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// Reply of `Drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct DrainReply {
    pub draining: bool,
    pub attached: u32,
}

/// Parameters of `Resize`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// Parameters of `Retire`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct RetireRequest {
    pub slot: String,
}

/// Reply of `Resize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct ResizeReply {
    pub slots: SlotCounts,
    pub target: WarmTarget,
}

/// Reply of `Reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct ReloadReply {
    pub changed: Vec<String>,
    pub restart_needed: Vec<String>,
    #[serde(default)]
    pub updated: u32,
}

/// Parameters of `Get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct GetRequest {
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_fd: Option<bool>,
}

/// Parameters of `Watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<bool>,
}

/// Reply of `Attach`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    #[serde(flatten)]
    pub attachment: Attachment,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_fd: Option<u32>,
}

/// Reply of `Get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetReply {
    #[serde(flatten)]
    pub attachment: Attachment,
    pub traffic: Traffic,
    pub flows: Flows,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_fd: Option<u32>,
}

/// Parameters of `List`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct ListRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
}

/// Reply of `List`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct ListReply {
    pub attachments: Vec<Attachment>,
}

/// A class of slots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct ClassStatus {
    pub name: String,
    pub slots: SlotCounts,
    pub target: WarmTarget,
    pub draining: bool,
    pub mtu: u32,
    pub addresses: String,
    pub recycle: String,
    #[serde(default)]
    pub share: Vec<SharedNamespace>,
    #[serde(default)]
    pub policy: ClassPolicy,
    pub reservations: Vec<Reservation>,
}

impl Attachment {
    /// The path of its namespace of this kind, if its class has such namespaces.
    pub fn shared(&self, kind: SharedNamespace) -> Option<&str> {
        match kind {
            SharedNamespace::Ipc => self.ipc.as_deref(),
            SharedNamespace::Uts => self.uts.as_deref(),
        }
    }
}

/// Rules and limits that all attachments of a class have beside their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct ClassPolicy {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultPolicy>,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_up_packets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_down_packets: Option<u64>,
}

/// Ready slots held back for some tenants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Reservation {
    pub name: String,
    pub tenants: Vec<String>,
    pub warm: u32,
    pub ready: u32,
}

fn default_class() -> String {
    DEFAULT_CLASS.to_owned()
}

/// Reply of `Status`, and what a watcher who asks for figures gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(
    feature = "async",
    derive(zlink::introspect::CustomType),
    zlink(rename = "Figures")
)]
pub struct Status {
    pub version: String,
    pub uptime_s: u64,
    pub draining: bool,
    pub pool_cidr: String,
    pub slots: SlotCounts,
    pub target: WarmTarget,
    #[serde(default)]
    pub classes: Vec<ClassStatus>,
    pub attach: AttachTotals,
    pub waiting: Vec<WaitingRequest>,
    pub attach_latency: Latency,
    pub refill: RefillTotals,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pacing: Option<Pacing>,
    #[serde(default)]
    pub recycle: RecycleTotals,
    #[serde(default)]
    pub starts: ContainerStarts,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<Uplink>,
    #[serde(default)]
    pub uplinks: Vec<Uplink>,
    pub published_ports: u32,
    pub flows: FlowTable,
    pub clients: u32,
    pub memory: Memory,
    pub drops: Vec<DropCount>,
    pub failures: Vec<Failure>,
    pub warnings: Vec<String>,
}

/// Reply of `Watch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct WatchFrame {
    pub full: bool,
    pub time_ms: u64,
    pub counts: SlotCounts,
    pub slots: Vec<Slot>,
    pub events: Vec<Event>,
    pub events_lost: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks: Option<Vec<LockFrame>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locks_unavailable: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Status>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepTimes>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<Vec<TenantQuota>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Vec<SlotUsage>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<Vec<DroppedPackets>>,
}

/// Reply of `Doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct DoctorReply {
    pub checks: Vec<Check>,
}
