//! What a watcher is told once a second beside what changed.

use serde::{Deserialize, Serialize};

use super::{Flows, Traffic};

#[derive(Clone, Debug, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct TimeCount {
    pub from_us: u64,
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct StepTimes {
    pub step: String,
    pub times: Vec<TimeCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct SlotUsage {
    pub slot: String,
    pub epoch: u32,
    pub traffic: Traffic,
    pub flows: Flows,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "async", derive(zlink::introspect::CustomType))]
pub struct TenantQuota {
    pub tenant: String,
    pub attachments: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
