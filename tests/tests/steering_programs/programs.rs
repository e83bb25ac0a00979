//! The steering programs and their maps, loaded from the committed object as the daemon does it.
#![expect(
    unsafe_code,
    reason = "says which ABI types are plain memory, for aya's maps"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapError, PerCpuArray, PerCpuValues};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use pcpm_ebpf::STEER_OBJECT;
use pcpm_ebpf::abi::{
    AttachmentWord, Buckets, Config, Flow, FlowKey, FlowTable, PolicyKey, PolicyNode, PolicyRule,
    PortKey, PortTarget, SLOTS_PER_HUB, SealedFlow, Settings, SlotCounters, SlotFlows, Uplink,
    flow_kind, names,
};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;

/// Slots that the maps have room for: two hubs.
pub(crate) const CAPACITY: u32 = SLOTS_PER_HUB + 100;

const FLOWS: u32 = 1024;
pub(crate) const PROGRAMS: [&str; 6] = [
    names::FROM_SLOT,
    names::FROM_HOST,
    names::FROM_HUB,
    names::TO_HUB,
    names::FROM_UPLINK,
    names::COLLECT,
];

/// The loaded programs, with maps that nobody else has.
#[derive(Debug)]
pub(crate) struct Programs {
    ebpf: Ebpf,
    config: Config,
}

impl Programs {
    /// Loads all programs, with `config`.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub(crate) fn load(config: Config) -> Result<Self> {
        let mut programs = Self {
            ebpf: load()?,
            config,
        };
        programs.configure(|_| ())?;
        Ok(programs)
    }

    /// Forgets all that was written to the maps, by tests and by programs, and configures anew.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn reset(&mut self, config: Config) -> Result<()> {
        self.empty::<Plain<FlowKey>, Plain<SealedFlow>>(names::FLOWS)?;
        self.empty::<Plain<FlowKey>, Plain<SealedFlow>>(names::FRAGMENTS)?;
        self.empty::<Plain<PortKey>, Plain<PortTarget>>(names::PORTS)?;
        self.empty::<[u32; 4], u32>(names::HOST_ADDRESSES)?;
        self.empty::<u32, Plain<Uplink>>(names::UPLINKS)?;
        self.empty_policy()?;
        self.zero::<u64>(names::ATTACHMENTS)?;
        self.zero::<Plain<Settings>>(names::SETTINGS)?;
        self.zero::<Plain<Buckets>>(names::BUCKETS)?;
        self.zero::<Plain<SlotFlows>>(names::SLOT_FLOWS)?;
        self.zero::<Plain<FlowTable>>(names::FLOW_TABLE)?;
        self.zero_counters()?;
        self.config = config;
        self.configure(|_| ())
    }

    fn empty<K: Pod, V: Pod>(&mut self, name: &str) -> Result<()> {
        let mut map: HashMap<_, K, V> = HashMap::try_from(self.map_mut(name)?)?;
        let keys = map.keys().collect::<Result<Vec<_>, MapError>>()?;
        for key in keys {
            map.remove(&key)?;
        }
        Ok(())
    }

    fn empty_policy(&mut self) -> Result<()> {
        let map = self.map_mut(names::POLICY)?;
        let mut policy: LpmTrie<_, [u32; 5], Plain<PolicyNode>> = LpmTrie::try_from(map)?;
        let keys = policy.keys().collect::<Result<Vec<_>, MapError>>()?;
        for key in keys {
            policy.remove(&key)?;
        }
        Ok(())
    }

    fn zero<V: Pod + Default>(&mut self, name: &str) -> Result<()> {
        let mut array: Array<_, V> = Array::try_from(self.map_mut(name)?)?;
        for index in 0..array.len() {
            array.set(index, V::default(), 0)?;
        }
        Ok(())
    }

    fn zero_counters(&mut self) -> Result<()> {
        let map = self.map_mut(names::SLOT_COUNTERS)?;
        let mut counters: PerCpuArray<_, [u64; 5]> = PerCpuArray::try_from(map)?;
        for slot in 0..counters.len() {
            let nothing = vec![[0; 5]; nr_cpus().map_err(|(_, error)| error)?];
            counters.set(slot, PerCpuValues::try_from(nothing)?, 0)?;
        }
        Ok(())
    }

    /// Pins every program under its name in `directory`.
    ///
    /// # Errors
    /// When it cannot be pinned.
    pub(crate) fn pin(&mut self, directory: &Path) -> Result<()> {
        for name in PROGRAMS {
            let program = self.program(name)?;
            program
                .pin(directory.join(name))
                .with_context(|| format!("pin {name}"))?;
        }
        Ok(())
    }

    /// The program `name`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        classifier(&mut self.ebpf, name)
    }

    /// Says which interface of the host leads to `hub`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn set_hub(&mut self, hub: u32, ifindex: u32) -> Result<()> {
        let mut hubs: Array<_, u32> = Array::try_from(self.map_mut(names::HUBS)?)?;
        Ok(hubs.set(hub, ifindex, 0)?)
    }

    /// Says that the interface `ifindex` leads to the world, with these addresses of the host.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn set_uplink(&mut self, ifindex: u32, addresses: &Uplink) -> Result<()> {
        let map = self.map_mut(names::UPLINKS)?;
        let mut uplinks: HashMap<_, u32, Plain<Uplink>> = HashMap::try_from(map)?;
        uplinks.insert(ifindex, Plain(*addresses), 0)?;
        [addresses.v4, addresses.v6]
            .into_iter()
            .filter(|address| *address != Address::ANY)
            .try_for_each(|address| self.add_host_address(address))
    }

    /// Says that the interface `ifindex` does not lead to the world.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn remove_uplink(&mut self, ifindex: u32) -> Result<()> {
        let map = self.map_mut(names::UPLINKS)?;
        let mut uplinks: HashMap<_, u32, Plain<Uplink>> = HashMap::try_from(map)?;
        Ok(uplinks.remove(&ifindex)?)
    }

    /// Changes the configuration.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        let value = Plain(self.config);
        let mut map: Array<_, Plain<Config>> = Array::try_from(self.map_mut(names::CONFIG)?)?;
        Ok(map.set(0, value, 0)?)
    }

    /// Says who holds `slot`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn publish(&mut self, slot: u32, word: AttachmentWord) -> Result<()> {
        let mut words: Array<_, u64> = Array::try_from(self.map_mut(names::ATTACHMENTS)?)?;
        Ok(words.set(slot, word.0, 0)?)
    }

    /// Says what the holder of `slot` may do.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn set_settings(&mut self, slot: u32, settings: Settings) -> Result<()> {
        let map = self.map_mut(names::SETTINGS)?;
        let mut table: Array<_, Plain<Settings>> = Array::try_from(map)?;
        Ok(table.set(slot, Plain(settings), 0)?)
    }

    /// Has `policy` say `rules` about all addresses with the first `bits` bits of `address`.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn add_rules(
        &mut self,
        policy: u32,
        (address, bits): (Address, u32),
        rules: &[PolicyRule],
    ) -> Result<()> {
        let PolicyKey {
            prefix_length,
            policy,
            address: Address([a, b, c, d]),
        } = PolicyKey::range(policy, address, bits);
        let mut node = PolicyNode {
            count: u32::try_from(rules.len())?,
            ..PolicyNode::default()
        };
        node.rules[..rules.len()].copy_from_slice(rules);
        let map = self.map_mut(names::POLICY)?;
        let mut trie: LpmTrie<_, [u32; 5], Plain<PolicyNode>> = LpmTrie::try_from(map)?;
        Ok(trie.insert(
            &Key::new(prefix_length, [policy, a, b, c, d]),
            Plain(node),
            0,
        )?)
    }

    /// Publishes a port of the host.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub(crate) fn publish_port(&mut self, key: PortKey, target: PortTarget) -> Result<()> {
        let map = self.map_mut(names::PORTS)?;
        let mut ports: HashMap<_, Plain<PortKey>, Plain<PortTarget>> = HashMap::try_from(map)?;
        Ok(ports.insert(Plain(key), Plain(target), 0)?)
    }

    /// Withdraws a published port.
    ///
    /// # Errors
    /// When it was not published.
    pub(crate) fn withdraw_port(&mut self, key: PortKey) -> Result<()> {
        let map = self.map_mut(names::PORTS)?;
        let mut ports: HashMap<_, Plain<PortKey>, Plain<PortTarget>> = HashMap::try_from(map)?;
        Ok(ports.remove(&Plain(key))?)
    }

    /// Makes `address` one of the host's.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn add_host_address(&mut self, address: Address) -> Result<()> {
        let map = self.map_mut(names::HOST_ADDRESSES)?;
        let mut addresses: HashMap<_, [u32; 4], u32> = HashMap::try_from(map)?;
        Ok(addresses.insert(address.0, 1, 0)?)
    }

    /// Packets dropped so far, by reason.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn drops(&self) -> Result<Vec<u64>> {
        let drops: PerCpuArray<_, u64> = PerCpuArray::try_from(self.map(names::DROPS)?)?;
        let sum = |index| Ok(drops.get(&index, 0)?.iter().sum());
        (0..DropReason::COUNT).map(sum).collect()
    }

    /// The traffic of `slot` so far.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn counters(&self, slot: u32) -> Result<SlotCounters> {
        let map = self.map(names::SLOT_COUNTERS)?;
        let counters: PerCpuArray<_, [u64; 5]> = PerCpuArray::try_from(map)?;
        let per_cpu = counters.get(&slot, 0)?;
        let sum = |field: usize| per_cpu.iter().map(|cpu| cpu[field]).sum();
        Ok(SlotCounters {
            sent_packets: sum(0),
            sent_bytes: sum(1),
            received_packets: sum(2),
            received_bytes: sum(3),
            dropped_packets: sum(4),
        })
    }

    /// What the flows of `slot` take of their table.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn slot_flows(&self, slot: u32) -> Result<SlotFlows> {
        let map = self.map(names::SLOT_FLOWS)?;
        let flows: Array<_, Plain<SlotFlows>> = Array::try_from(map)?;
        Ok(flows.get(&slot, 0)?.0)
    }

    /// What all flows take.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn flow_table(&self) -> Result<FlowTable> {
        let map = self.map(names::FLOW_TABLE)?;
        let table: Array<_, Plain<FlowTable>> = Array::try_from(map)?;
        Ok(table.get(&0, 0)?.0)
    }

    /// Says what may be taken of the table.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn set_flow_table(&mut self, table: FlowTable) -> Result<()> {
        let map = self.map_mut(names::FLOW_TABLE)?;
        let mut array: Array<_, Plain<FlowTable>> = Array::try_from(map)?;
        Ok(array.set(0, Plain(table), 0)?)
    }

    /// The entries of the table as they stand there.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn entries(&self) -> Result<Vec<(FlowKey, SealedFlow)>> {
        let map: HashMap<_, Plain<FlowKey>, Plain<SealedFlow>> =
            HashMap::try_from(self.map(names::FLOWS)?)?;
        let entries = map.iter().collect::<Result<Vec<_>, MapError>>()?;
        Ok(entries
            .into_iter()
            .map(|(key, entry)| (key.0, entry.0))
            .collect())
    }

    /// All flows of `kind`.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn flows(&self, kind: u8) -> Result<BTreeMap<Order, (FlowKey, Flow)>> {
        let map: HashMap<_, Plain<FlowKey>, Plain<SealedFlow>> =
            HashMap::try_from(self.map(names::FLOWS)?)?;
        let entries = map.iter().collect::<Result<Vec<_>, MapError>>()?;
        let chosen = entries.into_iter().filter(|(key, _)| key.0.kind == kind);
        Ok(chosen
            .map(|(Plain(key), Plain(entry))| (order(&key), (key, entry.flow)))
            .collect())
    }

    /// All flows, of every kind.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub(crate) fn all_flows(&self) -> Result<Vec<(FlowKey, Flow)>> {
        let kinds = [flow_kind::EGRESS, flow_kind::INGRESS, flow_kind::HOST];
        let flows = kinds.map(|kind| self.flows(kind)).into_iter();
        let flows = flows.collect::<Result<Vec<_>>>()?;
        Ok(flows.into_iter().flat_map(BTreeMap::into_values).collect())
    }

    /// Changes all flows, as time or the table's limits would.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub(crate) fn change_flows(
        &mut self,
        change: impl Fn(&FlowKey, Flow) -> Option<Flow>,
    ) -> Result<()> {
        let mut map: HashMap<_, Plain<FlowKey>, Plain<SealedFlow>> =
            HashMap::try_from(self.map_mut(names::FLOWS)?)?;
        let entries = map.iter().collect::<Result<Vec<_>, MapError>>()?;
        for (key, Plain(entry)) in entries {
            match change(&key.0, entry.flow) {
                Some(flow) => map.insert(key, Plain(SealedFlow { flow, ..entry }), 0)?,
                None => map.remove(&key)?,
            }
        }
        Ok(())
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).ok_or_else(|| anyhow!("no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf
            .map_mut(name)
            .ok_or_else(|| anyhow!("no map {name}"))
    }
}

/// ABI types as aya's maps want them.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, `Copy`, no padding, every bit pattern is valid.
unsafe impl Pod for Plain<Config> {}
// SAFETY: as above.
unsafe impl Pod for Plain<FlowKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Uplink> {}
// SAFETY: as above.
unsafe impl Pod for Plain<SealedFlow> {}
// SAFETY: as above.
unsafe impl Pod for Plain<SlotFlows> {}
// SAFETY: as above.
unsafe impl Pod for Plain<FlowTable> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Settings> {}
// SAFETY: as above.
unsafe impl Pod for Plain<Buckets> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PolicyNode> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PortKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PortTarget> {}

/// Loads the committed object as the daemon does, without pins.
fn load() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .map_max_entries(names::ATTACHMENTS, CAPACITY)
        .map_max_entries(names::SLOT_COUNTERS, CAPACITY)
        .map_max_entries(names::SETTINGS, CAPACITY)
        .map_max_entries(names::BUCKETS, CAPACITY)
        .map_max_entries(names::SLOT_FLOWS, CAPACITY)
        .map_max_entries(names::HUBS, 2)
        .map_max_entries(names::FLOWS, FLOWS)
        .load(STEER_OBJECT)
        .context("create the maps of the steering programs")?;
    for program in PROGRAMS {
        classifier(&mut ebpf, program)?
            .load()
            .with_context(|| format!("load {program}"))?;
    }
    Ok(ebpf)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?;
    program
        .try_into()
        .with_context(|| format!("{name} is no tc program"))
}

/// What flows are sorted by.
pub(crate) type Order = (IpAddr, u16, IpAddr, u16);

fn order(key: &FlowKey) -> Order {
    (
        key.local.into(),
        key.local_port,
        key.remote.into(),
        key.remote_port,
    )
}
