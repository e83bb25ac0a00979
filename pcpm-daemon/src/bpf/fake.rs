//! A datapath that remembers what it was told, for tests of the engine.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use pcpm_ebpf::abi::{
    AttachmentWord, FlowTable, NameKey, PolicyKey, PolicyNode, PortKey, PortTarget, Settings,
    SlotCounters, SlotFlows,
};

use super::{BpfError, CompiledPolicy, Datapath, PolicyTable};
use crate::journal::fake::Power;

/// Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDatapath {
    /// Every word published, in order.
    pub(crate) published: Rc<RefCell<Vec<(u32, AttachmentWord)>>>,
    /// The settings of every slot that ever had any.
    pub(crate) settings: Rc<RefCell<HashMap<u32, Settings>>>,
    /// Where published ports lead.
    pub(crate) ports: Rc<RefCell<HashMap<PortKey, PortTarget>>>,
    /// The nodes of policies.
    pub(crate) policies: Rc<RefCell<HashMap<PolicyKey, PolicyNode>>>,
    /// The names of policies.
    pub(crate) names: Rc<RefCell<HashMap<NameKey, u32>>>,
    /// Nodes that it has room for; as many as one likes if not set.
    pub(crate) room_for_nodes: Rc<RefCell<Option<usize>>>,
    /// Ports that it has room for; as many as one likes if not set.
    pub(crate) room_for_ports: Rc<RefCell<Option<usize>>>,
    /// What every slot's counters read.
    pub(crate) counters: Rc<RefCell<SlotCounters>>,
    /// Without it nothing changes any more.
    pub(crate) power: Power,
    /// What every slot's flows take.
    pub(crate) flows: Rc<RefCell<SlotFlows>>,
    /// What all flows take.
    pub(crate) flow_table: Rc<RefCell<FlowTable>>,
}

impl FakeDatapath {
    /// Whether an operation that can fail does.
    fn refuse(&self, what: &str) -> Result<(), BpfError> {
        if self.power.fails() {
            let planned = std::io::Error::other("planned");
            return Err(BpfError::new(what, &planned));
        }
        Ok(())
    }
}

impl Datapath for FakeDatapath {
    fn publish(&mut self, slot: u32, word: AttachmentWord) {
        if self.power.suffices() {
            self.published.borrow_mut().push((slot, word));
        }
    }

    fn word(&self, slot: u32) -> AttachmentWord {
        let published = self.published.borrow();
        let last = published.iter().rev().find(|(of, _)| *of == slot);
        last.map_or(AttachmentWord::default(), |(_, word)| *word)
    }

    fn set_settings(&mut self, slot: u32, settings: &Settings) {
        if self.power.suffices() {
            self.settings.borrow_mut().insert(slot, *settings);
        }
    }

    fn publish_port(&mut self, key: PortKey, target: PortTarget) -> Result<(), BpfError> {
        self.refuse("publish a port")?;
        let mut ports = self.ports.borrow_mut();
        let room = self.room_for_ports.borrow().unwrap_or(usize::MAX);
        if ports.len() >= room && !ports.contains_key(&key) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(BpfError::new(format!("publish port {}", key.port), &full));
        }
        if self.power.suffices() {
            ports.insert(key, target);
        }
        Ok(())
    }

    fn published_ports(&self) -> Result<Vec<(PortKey, PortTarget)>, BpfError> {
        let ports = self.ports.borrow();
        Ok(ports.iter().map(|(&key, &target)| (key, target)).collect())
    }

    fn withdraw_port(&mut self, key: PortKey) -> Result<(), BpfError> {
        self.refuse("withdraw a port")?;
        if self.power.suffices() {
            self.ports.borrow_mut().remove(&key);
        }
        Ok(())
    }

    fn policies(&self) -> Result<PolicyTable, BpfError> {
        let (nodes, names) = (self.policies.borrow(), self.names.borrow());
        Ok(PolicyTable {
            nodes: nodes.keys().copied().collect(),
            names: names.iter().map(|(&key, &number)| (key, number)).collect(),
        })
    }

    fn add_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        self.refuse("add a policy")?;
        let mut policies = self.policies.borrow_mut();
        let room = self.room_for_nodes.borrow().unwrap_or(usize::MAX);
        if policies.len() + policy.nodes.len() > room {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(BpfError::new("write a policy", &full));
        }
        if !self.power.suffices() {
            return Ok(());
        }
        policies.extend(policy.nodes.iter().copied());
        self.names.borrow_mut().extend(policy.names.iter().copied());
        Ok(())
    }

    fn remove_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        self.refuse("remove a policy")?;
        if !self.power.suffices() {
            return Ok(());
        }
        for (key, _) in &policy.nodes {
            self.policies.borrow_mut().remove(key);
        }
        for (key, _) in &policy.names {
            self.names.borrow_mut().remove(key);
        }
        Ok(())
    }

    fn slot_counters(&self, _slot: u32) -> Result<SlotCounters, BpfError> {
        self.refuse("read counters")?;
        Ok(*self.counters.borrow())
    }

    fn all_slot_counters(&self) -> Result<Vec<SlotCounters>, BpfError> {
        const SLOTS: usize = 64;
        Ok(vec![*self.counters.borrow(); SLOTS])
    }

    fn slot_flows(&self, _slot: u32) -> SlotFlows {
        *self.flows.borrow()
    }

    fn begin_flows(&mut self, _slot: u32) {
        let mut flows = self.flows.borrow_mut();
        flows.made_before = flows.made;
        flows.refused_before = flows.refused;
    }

    fn flow_table(&self) -> FlowTable {
        *self.flow_table.borrow()
    }

    fn drops(&self) -> Result<Vec<u64>, BpfError> {
        Ok(Vec::new())
    }
}
