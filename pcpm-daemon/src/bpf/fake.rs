//! A datapath that remembers what it was told, for tests of the engine.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use pcpm_ebpf::abi::{
    AttachmentWord, NameKey, PolicyKey, PolicyNode, PortKey, PortTarget, Settings, SlotCounters,
};

use super::{BpfError, CompiledPolicy, Datapath};

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
}

impl Datapath for FakeDatapath {
    fn publish(&mut self, slot: u32, word: AttachmentWord) {
        self.published.borrow_mut().push((slot, word));
    }

    fn set_settings(&mut self, slot: u32, settings: &Settings) {
        self.settings.borrow_mut().insert(slot, *settings);
    }

    fn publish_port(&mut self, key: PortKey, target: PortTarget) -> Result<(), BpfError> {
        let mut ports = self.ports.borrow_mut();
        let room = self.room_for_ports.borrow().unwrap_or(usize::MAX);
        if ports.len() >= room && !ports.contains_key(&key) {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(BpfError::new(format!("publish port {}", key.port), &full));
        }
        ports.insert(key, target);
        Ok(())
    }

    fn withdraw_port(&mut self, key: PortKey) -> Result<(), BpfError> {
        self.ports.borrow_mut().remove(&key);
        Ok(())
    }

    fn add_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        let mut policies = self.policies.borrow_mut();
        let room = self.room_for_nodes.borrow().unwrap_or(usize::MAX);
        if policies.len() + policy.nodes.len() > room {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(BpfError::new("write a policy", &full));
        }
        policies.extend(policy.nodes.iter().copied());
        self.names.borrow_mut().extend(policy.names.iter().copied());
        Ok(())
    }

    fn remove_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        for (key, _) in &policy.nodes {
            self.policies.borrow_mut().remove(key);
        }
        for (key, _) in &policy.names {
            self.names.borrow_mut().remove(key);
        }
        Ok(())
    }

    fn slot_counters(&self, _slot: u32) -> Result<SlotCounters, BpfError> {
        Ok(*self.counters.borrow())
    }

    fn drops(&self) -> Result<Vec<u64>, BpfError> {
        Ok(Vec::new())
    }
}
