//! The steering programs and their maps, loaded with aya from the object that the build carries.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::{fs::File, io, net::IpAddr};

use aya::{
    Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use pcpm_ebpf::{
    abi::{
        ABI_VERSION, AttachmentWord, Config, FlowTable, NameKey, PolicyKey, PolicyNode, PortKey,
        PortTarget, Settings, SlotCounters, SlotFlows, names,
    },
    address::Address,
};

use super::{
    BpfError, CompiledPolicy, Datapath, DatapathSetup, FlowHands, Object, PinDir, PolicyTable,
    Uplinks,
    control_group::SocketHooks,
    counters::{CounterTable, CounterWords, counters},
    load::{Loaded, Outgrown, forget_others, load},
    possible_cpus,
    programs::ProgramSet,
    words::{AttachmentWords, FlowCounts, SettingsTable},
};
use crate::net::{Program, Programs};

/// How many of what the maps hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) slots: u32,
    pub(crate) hubs: u32,
    pub(crate) flows: u32,
    pub(crate) ports: u32,
}

/// What stands behind the prefix length in the trie of policies.
type PolicyPrefix = [u32; 5];

/// A type of the ABI as aya reads and writes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: `repr(C)`, `Copy`, all padding is fields, and every bit pattern is valid.
unsafe impl Pod for Plain<Config> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PolicyNode> {}
// SAFETY: as above.
unsafe impl Pod for Plain<NameKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PortKey> {}
// SAFETY: as above.
unsafe impl Pod for Plain<PortTarget> {}

/// The loaded programs and maps.
pub(crate) struct Steering {
    programs: ProgramSet,
    outgrown: Vec<Outgrown>,
    is_new: bool,
    words: AttachmentWords,
    settings: SettingsTable,
    flow_counts: FlowCounts,
    /// Entries that FLOWS was made for.
    flows: u32,
    policy: LpmTrie<MapData, PolicyPrefix, Plain<PolicyNode>>,
    names: HashMap<MapData, Plain<NameKey>, u32>,
    ports: HashMap<MapData, Plain<PortKey>, Plain<PortTarget>>,
    config: Array<MapData, Plain<Config>>,
    slot_counters: PerCpuArray<MapData, CounterWords>,
    all_counters: CounterTable,
    drops: PerCpuArray<MapData, u64>,
}

impl Steering {
    /// Goes on with what is pinned under `pins`, or loads and pins it. Hooks of an earlier life go on
    /// with its programs until they are given ours.
    pub(crate) fn load(object: &Object, sizes: Sizes, pins: &PinDir) -> Result<Self, BpfError> {
        let Loaded {
            programs,
            outgrown,
            is_new,
        } = load(object, sizes, pins)?;
        let words = map_attachments(pins)?;
        let flow_counts = map_flow_counts(pins)?;
        let (_, flows) = open_array(pins, names::FLOWS)?;
        let (settings, slots) = open_array(pins, names::SETTINGS)?;
        let settings = SettingsTable::map(settings.fd(), slots)
            .map_err(|e| BpfError::new(format!("map {} into memory", names::SETTINGS), &e))?;
        Ok(Self {
            programs,
            outgrown,
            is_new,
            words,
            settings,
            flow_counts,
            flows,
            policy: use_map(pins, names::POLICY, Map::LpmTrie)?,
            names: use_map(pins, names::DOMAIN_NAMES, Map::HashMap)?,
            ports: use_map(pins, names::PORTS, Map::HashMap)?,
            config: use_map(pins, names::CONFIG, Map::Array)?,
            slot_counters: use_map(pins, names::SLOT_COUNTERS, Map::PerCpuArray)?,
            all_counters: CounterTable::open(pins)?,
            drops: use_map(pins, names::DROPS, Map::PerCpuArray)?,
        })
    }

    /// Whether programs were loaded, and not those of an earlier life found.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }

    /// The program on the uplinks and their table; for one owner.
    pub(crate) fn uplinks(&self, pins: &PinDir) -> Result<Uplinks, BpfError> {
        let table = use_map(pins, names::UPLINKS, Map::HashMap)?;
        Uplinks::new(&self.programs, table, pins)
    }

    /// Takes the connections of the host's own sockets to published ports to the slots. The programs
    /// stay, pinned, when the daemon is killed.
    pub(crate) fn attach_to_sockets(
        &self,
        group: File,
        pins: &PinDir,
    ) -> Result<SocketHooks, BpfError> {
        let hooks = SocketHooks::new(self.programs.clone(), group, pins);
        hooks.mend()?;
        Ok(hooks)
    }

    /// To be called when all hooks run our programs: takes the last of what larger maps took the place
    /// of, and forgets the programs of earlier lives.
    pub(crate) fn finish_replacement(
        &mut self,
        object: &Object,
        pins: &PinDir,
    ) -> Result<(), BpfError> {
        self.outgrown.drain(..).try_for_each(Outgrown::finish)?;
        forget_others(pins, object)
    }

    /// The flow table for whoever collects what is dead.
    pub(crate) fn flow_hands(&self, pins: &PinDir) -> Result<FlowHands, BpfError> {
        let (flows, _) = open_array(pins, names::FLOWS)?;
        Ok(FlowHands::new(
            flows,
            self.programs.fd(names::COLLECT)?,
            map_attachments(pins)?,
            map_flow_counts(pins)?,
        ))
    }

    fn program(&self, name: &str) -> Result<Program, BpfError> {
        Ok(Program {
            fd: self.programs.fd(name)?,
            id: self.programs.id(name)?,
        })
    }

    fn write_policy(&mut self, policy: &CompiledPolicy) -> Result<(), MapError> {
        for (key, node) in &policy.nodes {
            self.policy.insert(&trie_key(key), Plain(*node), 0)?;
        }
        for (key, number) in &policy.names {
            self.names.insert(Plain(*key), number, 0)?;
        }
        Ok(())
    }
}

impl Datapath for Steering {
    fn publish(&mut self, slot: u32, word: AttachmentWord) {
        self.words.store(slot, word);
    }

    fn word(&self, slot: u32) -> AttachmentWord {
        self.words.load(slot)
    }

    fn set_settings(&mut self, slot: u32, settings: &Settings) {
        self.settings.store(slot, settings);
    }

    fn published_ports(&self) -> Result<Vec<(PortKey, PortTarget)>, BpfError> {
        let ports = self.ports.iter();
        let ports = ports.map(|entry| entry.map(|(key, target)| (key.0, target.0)));
        ports
            .collect::<Result<_, _>>()
            .map_err(|e| BpfError::new("read the published ports", &e))
    }

    fn policies(&self) -> Result<PolicyTable, BpfError> {
        let nodes = self
            .policy
            .keys()
            .map(|key| key.map(|key| policy_key(&key)));
        let names = self.names.iter();
        let names = names.map(|entry| entry.map(|(key, number)| (key.0, number)));
        let read = || {
            Ok(PolicyTable {
                nodes: nodes.collect::<Result<_, MapError>>()?,
                names: names.collect::<Result<_, MapError>>()?,
            })
        };
        read().map_err(|e: MapError| BpfError::new("read the policies", &e))
    }

    fn publish_port(&mut self, key: PortKey, target: PortTarget) -> Result<(), BpfError> {
        self.ports
            .insert(Plain(key), Plain(target), 0)
            .map_err(|e| BpfError::new(format!("publish port {}", shown(&key)), &e))
    }

    fn withdraw_port(&mut self, key: PortKey) -> Result<(), BpfError> {
        ignore_missing(self.ports.remove(&Plain(key)))
            .map_err(|e| BpfError::new(format!("withdraw port {}", shown(&key)), &e))
    }

    fn add_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        let Err(error) = self.write_policy(policy) else {
            return Ok(());
        };
        let error = BpfError::new("write a policy", &error);
        match self.remove_policy(policy) {
            Ok(()) => Err(error),
            Err(left) => Err(BpfError {
                cause: format!("{}; {left}", error.cause),
                ..error
            }),
        }
    }

    fn remove_policy(&mut self, policy: &CompiledPolicy) -> Result<(), BpfError> {
        let mut outcome = Ok(());
        for (key, _) in &policy.names {
            outcome = outcome.and(ignore_missing(self.names.remove(&Plain(*key))));
        }
        for (key, _) in &policy.nodes {
            outcome = outcome.and(ignore_missing(self.policy.remove(&trie_key(key))));
        }
        outcome.map_err(|e| BpfError::new("remove a policy", &e))
    }

    fn slot_counters(&self, slot: u32) -> Result<SlotCounters, BpfError> {
        let per_cpu = self
            .slot_counters
            .get(&slot, 0)
            .map_err(|e| BpfError::new(format!("read the counters of slot {slot}"), &e))?;
        Ok(counters(per_cpu.iter()))
    }

    fn all_slot_counters(&self) -> Result<Vec<SlotCounters>, BpfError> {
        self.all_counters.read()
    }

    fn slot_flows(&self, slot: u32) -> SlotFlows {
        self.flow_counts.slot(slot)
    }

    fn begin_flows(&mut self, slot: u32) {
        self.flow_counts.begin(slot);
    }

    fn flow_table(&self) -> FlowTable {
        self.flow_counts.table()
    }

    fn drops(&self) -> Result<Vec<u64>, BpfError> {
        let sums = self
            .drops
            .iter()
            .map(|per_cpu| per_cpu.map(|values| values.iter().sum()));
        sums.collect::<Result<_, _>>()
            .map_err(|e| BpfError::new("read the drop counters", &e))
    }
}

impl DatapathSetup for Steering {
    fn configure(&mut self, config: Config) -> Result<(), BpfError> {
        let config = Config {
            abi_version: ABI_VERSION,
            ..config
        };
        self.config
            .set(0, Plain(config), 0)
            .map_err(|e| BpfError::new("write the programs' configuration", &e))
    }

    fn limit_flows(&mut self, per_slot: u32) {
        let usable = usable(self.flows, possible_cpus());
        self.flow_counts.set_limits(usable, per_slot);
    }

    fn programs(&self) -> Result<Programs, BpfError> {
        Ok(Programs {
            from_slot: self.program(names::FROM_SLOT)?,
            from_host: self.program(names::FROM_HOST)?,
            from_hub: self.program(names::FROM_HUB)?,
            to_hub: self.program(names::TO_HUB)?,
        })
    }
}

/// The map that is pinned under `name`.
pub(super) fn open_map(pins: &PinDir, name: &str) -> Result<MapData, BpfError> {
    MapData::from_pin(pins.path(name)).map_err(|e| BpfError::new(format!("open map {name}"), &e))
}

/// The array that is pinned under `name`, and its length.
pub(super) fn open_array(pins: &PinDir, name: &str) -> Result<(MapData, u32), BpfError> {
    let array = open_map(pins, name)?;
    let info = array.info();
    let info = info.map_err(|e| BpfError::new(format!("look at map {name}"), &e))?;
    Ok((array, info.max_entries()))
}

/// The same as what `kind` says that it is.
pub(super) fn use_map<T>(pins: &PinDir, name: &str, kind: fn(MapData) -> Map) -> Result<T, BpfError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error + 'static,
{
    kind(open_map(pins, name)?)
        .try_into()
        .map_err(|e: T::Error| BpfError::new(format!("use map {name}"), &e))
}

/// The configuration in the bytes of a map's value, if they are one.
pub(super) fn plain_config(bytes: &[u8]) -> Option<Config> {
    let bytes: &[u8; size_of::<Config>()] = bytes.try_into().ok()?;
    // SAFETY: there are enough bytes, and every bit pattern is a configuration.
    Some(unsafe { bytes.as_ptr().cast::<Config>().read_unaligned() })
}

fn map_attachments(pins: &PinDir) -> Result<AttachmentWords, BpfError> {
    let (attachments, slots) = open_array(pins, names::ATTACHMENTS)?;
    AttachmentWords::map(attachments.fd(), slots)
        .map_err(|e| BpfError::new(format!("map {} into memory", names::ATTACHMENTS), &e))
}

fn map_flow_counts(pins: &PinDir) -> Result<FlowCounts, BpfError> {
    let (of_slots, slots) = open_array(pins, names::SLOT_FLOWS)?;
    let (table, _) = open_array(pins, names::FLOW_TABLE)?;
    FlowCounts::map(of_slots.fd(), table.fd(), slots)
        .map_err(|e| BpfError::new(format!("map {} into memory", names::SLOT_FLOWS), &e))
}

/// Entries of a table made for `flows` that may be in use. The kernel keeps up to 128 free ones at hand
/// for each processor, and evicts entries as soon as there are fewer than that beside those
/// (`kernel/bpf/bpf_lru_list.c`, `LOCAL_FREE_TARGET`).
fn usable(flows: u32, cpus: u32) -> u32 {
    const AT_HAND: u32 = 128;
    let free = cpus.saturating_add(1).saturating_mul(AT_HAND);
    flows - free.min(flows / 4)
}

fn trie_key(key: &PolicyKey) -> Key<PolicyPrefix> {
    let [a, b, c, d] = key.address.0;
    Key::new(key.prefix_length, [key.policy, a, b, c, d])
}

fn policy_key(key: &Key<PolicyPrefix>) -> PolicyKey {
    let [policy, a, b, c, d] = key.data();
    PolicyKey {
        prefix_length: key.prefix_len(),
        policy,
        address: Address([a, b, c, d]),
    }
}

pub(super) fn ignore_missing(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        other => other,
    }
}

fn shown(key: &PortKey) -> String {
    let address = IpAddr::from(key.address);
    if address.is_unspecified() {
        return key.port.to_string();
    }
    format!("{} of {address}", key.port)
}

pub(super) fn missing(kind: &str, name: &str) -> BpfError {
    BpfError {
        what: format!("find {kind} {name}"),
        cause: "not in the steering object".into(),
    }
}
