//! The daemon's hands on BPF: loading the steering programs, their maps, their pins, and the
//! program on the uplinks. Network namespaces, links and the hubs' filters belong to `net`.
//!
//! An attach or a detach is one [`Datapath::publish`]: an atomic store into a map that is mapped
//! into the daemon's memory, without a system call.

mod batches;
pub(crate) mod control_group;
mod counters;
mod drop_events;
mod earlier;
#[cfg(test)]
pub(crate) mod fake;
mod flows;
mod host_addresses;
mod hub_ways;
mod kernel_types;
mod layout;
mod links;
mod load;
mod lock_tracer;
mod object;
mod per_cpu_table;
mod pins;
mod programs;
mod steering;
mod sys;
mod uplinks;
mod verified;
mod witness;
mod words;

use pcpm_ebpf::abi::{
    AttachmentWord, Config, FlowTable, NameKey, PolicyKey, PolicyNode, PortKey, PortTarget,
    Settings, SlotCounters, SlotFlows,
};

use crate::net::Programs;

pub(crate) use control_group::SocketHooks;
pub(crate) use drop_events::DropEvents;
pub(crate) use earlier::Earlier;
pub(crate) use flows::FlowHands;
pub(crate) use host_addresses::HostAddresses;
pub(crate) use hub_ways::HubWays;
pub(crate) use kernel_types::{TaskLayout, task_layout};
pub(crate) use lock_tracer::{Counted, LockTracer, WorkerMarks, WorkerPlace};
pub(crate) use object::Object;
pub(crate) use pins::PinDir;
pub(crate) use steering::{Sizes, Steering};
pub(crate) use uplinks::Uplinks;
pub(crate) use verified::to_the_end;
pub(crate) use witness::witness;

/// A failed operation on programs, maps or pins, with what was operated on.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub(crate) struct BpfError {
    what: String,
    cause: String,
}

impl BpfError {
    pub(crate) fn new(what: impl Into<String>, cause: &dyn std::error::Error) -> Self {
        Self {
            what: what.into(),
            cause: whole_cause(cause),
        }
    }
}

/// An error with everything that caused it; loaders bury the kernel's reason several levels deep.
fn whole_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Processors that may run programs.
pub(crate) fn possible_cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| u32::try_from(cpus).unwrap_or(u32::MAX))
}

/// The rules of a policy as the programs look them up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CompiledPolicy {
    /// For ranges of addresses.
    pub(crate) nodes: Vec<(PolicyKey, PolicyNode)>,
    /// The names that addresses are learned for, and their numbers.
    pub(crate) names: Vec<(NameKey, u32)>,
}

/// The keys of all policies, and the numbers of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyTable {
    pub(crate) nodes: Vec<PolicyKey>,
    pub(crate) names: Vec<(NameKey, u32)>,
}

/// What the running daemon asks of the datapath.
pub(crate) trait Datapath {
    /// Says who holds the slot. Every packet from now on sees this, and none sees half of it.
    fn publish(&mut self, slot: u32, word: AttachmentWord);

    /// What was said last of who holds the slot, by this daemon or an earlier one.
    fn word(&self, slot: u32) -> AttachmentWord;

    /// Says what the attachment that the settings name may do. Without a system call, like
    /// [`publish`](Self::publish).
    fn set_settings(&mut self, slot: u32, settings: &Settings);

    /// Leads a port of the host to a slot, in place of where it led before.
    fn publish_port(&mut self, key: PortKey, target: PortTarget) -> Result<(), BpfError>;

    /// All ports of the host that lead to slots.
    fn published_ports(&self) -> Result<Vec<(PortKey, PortTarget)>, BpfError>;

    /// A port of the host is the host's again. One that was not published stays as it is.
    fn withdraw_port(&mut self, key: PortKey) -> Result<(), BpfError>;

    /// What there is of policies.
    fn policies(&self) -> Result<PolicyTable, BpfError>;

    /// Writes a policy that no settings name yet; on failure nothing of it is there.
    fn add_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError>;

    /// Removes a policy that no settings name any more. All of it is tried; the first failure is
    /// returned.
    fn remove_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError>;

    /// The slot's traffic since its index was first used, summed over the CPUs.
    fn slot_counters(&self, slot: u32) -> Result<SlotCounters, BpfError>;

    /// The same of all slots by index, in a few system calls.
    fn all_slot_counters(&self) -> Result<Vec<SlotCounters>, BpfError>;

    /// What the slot's flows take of the table. Without a system call.
    fn slot_flows(&self, slot: u32) -> SlotFlows;

    /// The slot is ready for somebody else: totals of its flows count from here.
    fn begin_flows(&mut self, slot: u32);

    /// What all flows take, and may take. Without a system call.
    fn flow_table(&self) -> FlowTable;

    /// Packets dropped since the programs were loaded, by drop reason, summed over the CPUs.
    fn drops(&self) -> Result<Vec<u64>, BpfError>;
}

/// What the daemon sets up before any slot exists.
pub(crate) trait DatapathSetup: Datapath {
    /// Tells the programs of the pool.
    fn configure(&mut self, config: Config) -> Result<(), BpfError>;

    /// Tells the programs how many entries of the flow table one slot may have.
    fn limit_flows(&mut self, per_slot: u32);

    /// Programs to be attached to the hubs.
    fn programs(&self) -> Result<Programs, BpfError>;
}
