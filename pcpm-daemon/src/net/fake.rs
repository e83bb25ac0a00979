//! A kernel that only records: for tests of whoever uses this module.
//!
//! Clones share one record, so a test keeps one while the code under test has another.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnet::IpNet;

use super::{
    Conflict, CreateTimings, FoundUplinks, FreshSlot, Golden, HostKernel, HostMounts, Hub, HubSpec,
    HubState, NetError, NewSlot, Programs, Recycled, RetiredSlot, Share, SlotKernel, SlotNames,
    SlotRecycler, SlotSpec, Swept, TamperWatch, UplinkChoice, UsedSlot, Witness,
};

/// What was asked of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Sweep,
    Prepare,
    CreateHub(HubSpec),
    CreateSlot(SlotSpec),
    DestroySlots(Vec<u32>),
    MendSlot(u32),
    ShowSlot(u32),
    Portray(u32),
    RecycleSlots(Vec<u32>),
    RemoveEverything,
}

/// A host and its workers in one.
#[derive(Clone, Default)]
pub(crate) struct FakeKernel {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    /// How often the next creations and destructions of a slot fail.
    failing_creations: BTreeMap<u32, u32>,
    failing_destructions: BTreeMap<u32, u32>,
}

impl FakeKernel {
    /// Everything asked so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Lets the next `times` creations of a slot fail.
    pub(crate) fn fail_creations(&self, index: u32, times: u32) {
        self.state().failing_creations.insert(index, times);
    }

    /// Lets the next `times` destructions of a slot fail.
    pub(crate) fn fail_destructions(&self, index: u32, times: u32) {
        self.state().failing_destructions.insert(index, times);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds it")
    }

    fn record(&self, call: Call) {
        self.state().calls.push(call);
    }
}

/// Counts a failure down; true while there is one left.
fn fails(planned: &mut BTreeMap<u32, u32>, index: u32) -> bool {
    let left = planned.get_mut(&index).filter(|left| **left > 0);
    left.map(|left| *left -= 1).is_some()
}

fn outcome<T>(fails: bool, what: &str, index: u32, value: T) -> Result<T, NetError> {
    if fails {
        return Err(NetError::new(format!("{what} slot {index}"), "planned"));
    }
    Ok(value)
}

/// A file descriptor that stands for a namespace.
fn some_netns() -> OwnedFd {
    File::open("/dev/null")
        .expect("there is a /dev/null")
        .into()
}

impl SlotKernel for FakeKernel {
    fn create_slot(&mut self, spec: &SlotSpec) -> Result<NewSlot, NetError> {
        self.record(Call::CreateSlot(spec.clone()));
        let slot = NewSlot {
            netns: some_netns(),
            timings: CreateTimings::default(),
        };
        let failed = fails(&mut self.state().failing_creations, spec.index);
        outcome(failed, "create", spec.index, slot)
    }

    fn destroy_slots(&mut self, slots: Vec<RetiredSlot>) -> Vec<(u32, Result<(), NetError>)> {
        let indexes: Vec<u32> = slots.iter().map(|slot| slot.index).collect();
        self.record(Call::DestroySlots(indexes.clone()));
        let mut state = self.state();
        let destroy = |index| {
            let failed = fails(&mut state.failing_destructions, index);
            (index, outcome(failed, "destroy", index, ()))
        };
        indexes.into_iter().map(destroy).collect()
    }

    fn mend_slot(&mut self, spec: &SlotSpec, _: &OwnedFd) -> Result<(), NetError> {
        self.record(Call::MendSlot(spec.index));
        Ok(())
    }
}

impl SlotNames for FakeKernel {
    fn show(&mut self, index: u32) -> Result<(), NetError> {
        self.record(Call::ShowSlot(index));
        Ok(())
    }
}

impl SlotRecycler for FakeKernel {
    fn portray(&mut self, slot: &FreshSlot) -> Result<Golden, NetError> {
        self.record(Call::Portray(slot.index));
        Ok(Golden::of_nothing())
    }

    fn recycle(&mut self, slots: Vec<UsedSlot>) -> Vec<Recycled> {
        let indexes = slots.iter().map(|slot| slot.index).collect();
        self.record(Call::RecycleSlots(indexes));
        let judge = |slot| Recycled {
            slot,
            outcome: Ok(()),
        };
        slots.into_iter().map(judge).collect()
    }
}

impl HostKernel for FakeKernel {
    fn has_remains(&self) -> bool {
        false
    }

    fn survey(&mut self, hubs: &[u32]) -> Vec<HubState> {
        hubs.iter().map(|_| HubState::Missing).collect()
    }

    fn sweep(&mut self, _: &[Hub]) -> Swept {
        self.record(Call::Sweep);
        Swept::default()
    }

    fn prepare(&mut self, _: Option<HostMounts>, _: Share) -> Result<(), NetError> {
        self.record(Call::Prepare);
        Ok(())
    }

    fn create_hub(&mut self, spec: &HubSpec, _: &Programs) -> Result<Hub, NetError> {
        self.record(Call::CreateHub(spec.clone()));
        Ok(Hub {
            number: spec.number,
            host_ifindex: 100 + spec.number,
            netns: Arc::new(some_netns()),
        })
    }

    fn mend_hub(
        &mut self,
        _: &mut Hub,
        _: &HubSpec,
        _: &Programs,
    ) -> Result<Vec<String>, NetError> {
        Ok(Vec::new())
    }

    fn mend_mounts(&mut self) -> Result<Vec<String>, NetError> {
        Ok(Vec::new())
    }

    fn worker(&mut self, _: Arc<[Hub]>) -> Box<dyn SlotKernel> {
        Box::new(self.clone())
    }

    fn names(&mut self) -> Box<dyn SlotNames> {
        Box::new(self.clone())
    }

    fn watch_slots(&mut self, _: &[Hub]) -> Result<TamperWatch, NetError> {
        TamperWatch::listen(&[])
    }

    fn recycler(&mut self, _: Box<dyn Witness>, _: Arc<TamperWatch>) -> Box<dyn SlotRecycler> {
        Box::new(self.clone())
    }

    fn find_uplinks(&mut self, _: &UplinkChoice) -> Result<FoundUplinks, NetError> {
        Ok(FoundUplinks::default())
    }

    fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, NetError> {
        Ok(BTreeSet::new())
    }

    fn conflict(&mut self, _: IpNet) -> Result<Option<Conflict>, NetError> {
        Ok(None)
    }

    fn netns_cookie(&mut self) -> Result<u64, NetError> {
        Ok(1)
    }

    fn remove_everything(&mut self, _: Duration) -> Swept {
        self.record(Call::RemoveEverything);
        Swept::default()
    }
}

#[test]
fn a_planned_failure_happens_as_often_as_planned() {
    let kernel = FakeKernel::default();
    kernel.fail_creations(7, 1);
    kernel.fail_destructions(7, 1);
    let mut worker = kernel.clone();
    let spec = SlotSpec {
        index: 7,
        address: [10, 213, 0, 7].into(),
        address6: None,
        mac: pcpm_ebpf::abi::slot_mac(0),
        mtu: 1500,
        share: Share::default(),
    };
    let created = [(); 2].map(|()| worker.create_slot(&spec).is_ok());
    let destroyed = [(); 2].map(|()| {
        let slot = RetiredSlot {
            index: 7,
            netns: None,
        };
        worker.destroy_slots(vec![slot])[0].1.is_ok()
    });
    assert_eq!((created, destroyed), ([false, true], [false, true]));
    assert_eq!(kernel.calls().len(), 4);
}
