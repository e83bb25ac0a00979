//! A datapath that remembers what it was told, for tests of the engine.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use pcpm_ebpf::abi::{
    AttachmentWord, PolicyKey, PolicyNode, PortKey, PortTarget, Settings, SlotCounters,
};

use super::{BpfError, Datapath};
use crate::net::Uplink;

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
    /// Ports that it has room for; as many as one likes if not set.
    pub(crate) room_for_ports: Rc<RefCell<Option<usize>>>,
    /// Every uplink it was told to follow, in order.
    pub(crate) uplinks: Rc<RefCell<Vec<Option<Uplink>>>>,
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

    fn add_policy(&mut self, nodes: &[(PolicyKey, PolicyNode)]) -> Result<(), BpfError> {
        self.policies.borrow_mut().extend(nodes.iter().copied());
        Ok(())
    }

    fn remove_policy(&mut self, keys: &[PolicyKey]) -> Result<(), BpfError> {
        let mut policies = self.policies.borrow_mut();
        policies.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    fn slot_counters(&self, _slot: u32) -> Result<SlotCounters, BpfError> {
        Ok(*self.counters.borrow())
    }

    fn follow_uplink(&mut self, uplink: Option<&Uplink>) -> Result<(), BpfError> {
        self.uplinks.borrow_mut().push(uplink.cloned());
        Ok(())
    }

    fn drops(&self) -> Result<Vec<u64>, BpfError> {
        Ok(Vec::new())
    }
}
