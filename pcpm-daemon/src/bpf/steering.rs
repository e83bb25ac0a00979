//! The steering programs and their maps, loaded with aya from the object that the build carries.
#![expect(unsafe_code, reason = "says which ABI types are plain memory")]

use std::{fs::File, io, net::IpAddr};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{Program, SchedClassifier},
};
use pcpm_ebpf::{
    STEER_OBJECT,
    abi::{
        AttachmentWord, Config, NameKey, PolicyKey, PolicyNode, PortKey, PortTarget, Settings,
        SlotCounters, names,
    },
    address::Address,
};

use super::{
    BpfError, CompiledPolicy, Datapath, DatapathSetup, DropEvents, HostAddresses, PinDir,
    PolicyTable, Uplinks, control_group,
    pins::is_pinned,
    words::{AttachmentWords, SettingsTable},
};
use crate::net::Programs;

/// How many of what the maps hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) slots: u32,
    pub(crate) hubs: u32,
    pub(crate) flows: u32,
    pub(crate) ports: u32,
}

/// Words of [`SlotCounters`], which aya reads as an array: it knows those to be plain memory.
type CounterWords = [u64; size_of::<SlotCounters>() / 8];

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
    ebpf: Ebpf,
    words: AttachmentWords,
    settings: SettingsTable,
    policy: LpmTrie<MapData, PolicyPrefix, Plain<PolicyNode>>,
    names: HashMap<MapData, Plain<NameKey>, u32>,
    ports: HashMap<MapData, Plain<PortKey>, Plain<PortTarget>>,
    config: Array<MapData, Plain<Config>>,
    hubs: Array<MapData, u32>,
    slot_counters: PerCpuArray<MapData, CounterWords>,
    drops: PerCpuArray<MapData, u64>,
}

impl Steering {
    /// Loads the programs and pins every map under `pins`.
    pub(crate) fn load(sizes: Sizes, pins: &PinDir) -> Result<Self, BpfError> {
        let mut ebpf = EbpfLoader::new()
            // The programs use no relocation against the kernel's types, whose table is megabytes.
            .btf(None)
            .map_max_entries(names::ATTACHMENTS, sizes.slots)
            .map_max_entries(names::SLOT_COUNTERS, sizes.slots)
            .map_max_entries(names::SETTINGS, sizes.slots)
            .map_max_entries(names::BUCKETS, sizes.slots)
            .map_max_entries(names::PORTS, sizes.ports)
            .map_max_entries(names::HUBS, sizes.hubs)
            .map_max_entries(names::FLOWS, sizes.flows)
            .load(STEER_OBJECT)
            .map_err(|e| BpfError::new("load the steering object", &e))?;
        for (name, map) in ebpf.maps().filter(|(name, _)| is_pinned(name)) {
            pin(map, pins, name)?;
        }
        load_programs(&mut ebpf)?;
        let attachments = take_map_data(&mut ebpf, names::ATTACHMENTS)?;
        let words = AttachmentWords::map(attachments.fd(), sizes.slots)
            .map_err(|e| BpfError::new(format!("map {} into memory", names::ATTACHMENTS), &e))?;
        let settings = take_map_data(&mut ebpf, names::SETTINGS)?;
        let settings = SettingsTable::map(settings.fd(), sizes.slots)
            .map_err(|e| BpfError::new(format!("map {} into memory", names::SETTINGS), &e))?;
        Ok(Self {
            words,
            settings,
            policy: take_map(&mut ebpf, names::POLICY)?,
            names: take_map(&mut ebpf, names::DOMAIN_NAMES)?,
            ports: take_map(&mut ebpf, names::PORTS)?,
            config: take_map(&mut ebpf, names::CONFIG)?,
            hubs: take_map(&mut ebpf, names::HUBS)?,
            slot_counters: take_map(&mut ebpf, names::SLOT_COUNTERS)?,
            drops: take_map(&mut ebpf, names::DROPS)?,
            ebpf,
        })
    }

    /// The table of the host's addresses; once.
    pub(crate) fn host_addresses(&mut self) -> Result<HostAddresses, BpfError> {
        take_map(&mut self.ebpf, names::HOST_ADDRESSES).map(HostAddresses::new)
    }

    /// The program on the uplinks and their table; once.
    pub(crate) fn uplinks(&mut self, pins: &PinDir) -> Result<Uplinks, BpfError> {
        let table = take_map(&mut self.ebpf, names::UPLINKS)?;
        Uplinks::new(self.program(names::FROM_UPLINK)?, table, pins)
    }

    /// Takes the connections of the host's own sockets to published ports to the slots. The programs
    /// stay, pinned, when the daemon is killed.
    pub(crate) fn attach_to_sockets(
        &mut self,
        group: &File,
        pins: &PinDir,
    ) -> Result<(), BpfError> {
        names::SOCKET_PROGRAMS
            .iter()
            .try_for_each(|name| control_group::attach(&mut self.ebpf, name, group, pins))
    }

    /// The programs' samples of dropped packets; there is one reader.
    pub(crate) fn drop_events(&mut self) -> Result<DropEvents, BpfError> {
        take_map(&mut self.ebpf, names::DROP_EVENTS).map(DropEvents::new)
    }

    fn program(&self, name: &str) -> Result<&SchedClassifier, BpfError> {
        let program = self
            .ebpf
            .program(name)
            .ok_or_else(|| missing("program", name))?;
        program
            .try_into()
            .map_err(|e| BpfError::new(format!("use program {name}"), &e))
    }

    fn program_fd(&self, name: &str) -> Result<std::os::fd::OwnedFd, BpfError> {
        use std::os::fd::AsFd as _;
        let what = || format!("take the file descriptor of program {name}");
        let fd = self
            .program(name)?
            .fd()
            .map_err(|e| BpfError::new(what(), &e))?;
        fd.as_fd()
            .try_clone_to_owned()
            .map_err(|e| BpfError::new(what(), &e))
    }
}

impl Steering {
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
        let mut sum = CounterWords::default();
        for cpu in per_cpu.iter() {
            for (total, value) in sum.iter_mut().zip(cpu) {
                *total += value;
            }
        }
        Ok(counters(sum))
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
        self.config
            .set(0, Plain(config), 0)
            .map_err(|e| BpfError::new("write the programs' configuration", &e))
    }

    fn set_hub(&mut self, hub: u32, host_ifindex: u32) -> Result<(), BpfError> {
        self.hubs
            .set(hub, host_ifindex, 0)
            .map_err(|e| BpfError::new(format!("write the interface of hub {hub}"), &e))
    }

    fn programs(&self) -> Result<Programs, BpfError> {
        Ok(Programs {
            from_slot: self.program_fd(names::FROM_SLOT)?,
            from_host: self.program_fd(names::FROM_HOST)?,
            from_hub: self.program_fd(names::FROM_HUB)?,
            to_hub: self.program_fd(names::TO_HUB)?,
        })
    }
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => return Err(missing("a known type for program", name)),
        };
        loaded.map_err(|e| BpfError::new(format!("load program {name}"), &e))?;
    }
    Ok(())
}

fn pin(map: &Map, pins: &PinDir, name: &str) -> Result<(), BpfError> {
    let path = pins.path(name);
    map.pin(&path)
        .map_err(|e| BpfError::new(format!("pin map {}", path.display()), &e))
}

pub(super) fn take_map<T>(ebpf: &mut Ebpf, name: &str) -> Result<T, BpfError>
where
    T: TryFrom<Map>,
    T::Error: std::error::Error + 'static,
{
    let map = ebpf.take_map(name).ok_or_else(|| missing("map", name))?;
    map.try_into()
        .map_err(|e: T::Error| BpfError::new(format!("use map {name}"), &e))
}

pub(super) fn take_map_data(ebpf: &mut Ebpf, name: &str) -> Result<MapData, BpfError> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        _ => Err(missing("array map", name)),
    }
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

fn counters(words: CounterWords) -> SlotCounters {
    let [
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    ] = words;
    SlotCounters {
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        dropped_packets,
    }
}
