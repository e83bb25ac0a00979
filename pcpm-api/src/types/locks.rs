//! What is told of waits for the kernel's locks.

use serde::{Deserialize, Serialize};

use super::TimeCount;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct LocksRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
pub struct LocksReply {
    pub interval_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    pub locks: Vec<LockWaits>,
    pub waiters: Vec<LockWaiter>,
    pub blockers: Vec<LockBlocker>,
    pub long_waits: Vec<LongWait>,
    pub missed: u64,
    #[serde(default)]
    pub long_waits_untold: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<LockFrame>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct LockFrame {
    pub sequence: u64,
    pub time_ms: u64,
    pub interval_ms: u64,
    pub locks: Vec<LockWaits>,
    pub waiters: Vec<LockWaiter>,
    pub blockers: Vec<LockBlocker>,
    pub long_waits: Vec<LongWait>,
    pub missed: u64,
    #[serde(default)]
    pub long_waits_untold: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct LockWaits {
    pub lock: String,
    pub kind: String,
    pub waits: u64,
    pub total_us: u64,
    pub avg_us: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
    #[serde(default)]
    pub times: Vec<TimeCount>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct LockWaiter {
    pub lock: String,
    pub caller: String,
    pub thread: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    pub waits: u64,
    pub total_us: u64,
    pub max_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct LockBlocker {
    pub lock: String,
    pub thread: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
    pub waits: u64,
    pub total_us: u64,
}

/// See `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct Pacing {
    pub max_rtnl_wait_us: u64,
    pub pause_us: u64,
    pub paused_ms: u64,
    pub foreign_waits: u64,
    pub p99_us: u64,
    pub slots_per_s: u64,
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct LongWait {
    pub time_ms: u64,
    pub lock: String,
    pub waited_us: u64,
    pub thread: String,
    pub pid: u32,
    pub tid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    pub caller: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_tid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_operation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder_caller: Option<String>,
    pub stack: Vec<String>,
}
