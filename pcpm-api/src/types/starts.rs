//! How long containers take to start, as those tell who start them.

use serde::{Deserialize, Serialize};

use super::{Latency, StartPhase};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
#[serde(deny_unknown_fields)]
pub struct PhaseTime {
    pub phase: StartPhase,
    pub took_us: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct ContainerStarts {
    pub total: Latency,
    pub attach: Latency,
    pub bundle: Latency,
    pub create: Latency,
    pub engine: Latency,
    pub start: Latency,
    pub add: Latency,
    pub mount: Latency,
}

/// Parameters of `ReportStart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::Type))]
#[serde(deny_unknown_fields)]
pub struct ReportStartRequest {
    pub owner: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub phases: Vec<PhaseTime>,
}
