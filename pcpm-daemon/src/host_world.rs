//! What there is around the pool before the first slot: programs and maps, hubs, routes, the uplinks'
//! program. What an earlier life left of it is gone on with where it can be, made where it is missing, and
//! replaced under traffic where it is not ours. Everything made here is removed here.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::types::{self, Check, DefaultPolicy};
use pcpm_ebpf::{
    abi::{self, SLOTS_PER_HUB},
    address::Address,
};

use crate::{
    adoption,
    bpf::{
        self, DatapathSetup as _, DropEvents, Earlier, FlowHands, HostAddresses, HubWays, Object,
        PinDir, Sizes, SocketHooks, Steering, control_group,
    },
    config::{self, Config, UplinkSetting},
    doctor::{self, NetworkFacts, UplinkFacts},
    engine::World,
    found::Found,
    net::{
        self, FoundUplinks, Host, HostEgress, HostKernel as _, Hub, HubSpec, HubState, Masquerade,
        Programs, RetiredSlot, SlotKernel, SlotNames, SlotRecycler, Swept, TamperWatch, Uplink,
        UplinkChoice, hub_of,
    },
    pin_note,
    reaper::Reaper,
    uplink::UplinkFollower,
};

/// The MTU of slots where there is no uplink to take it from.
const DEFAULT_MTU: u32 = 1500;

/// The longest that removing everything may take.
const REMOVE_WITHIN: Duration = Duration::from_mins(1);

/// The host around the pool.
pub(crate) struct HostWorld {
    host: Host,
    pins: Option<PinDir>,
    /// Whether it is known that there was nothing of an earlier life.
    is_first_life: bool,
}

/// What the pool runs on.
pub(crate) struct Built {
    pub(crate) world: World,
    pub(crate) steering: Steering,
    pub(crate) drop_events: DropEvents,
    pub(crate) flows: FlowHands,
    /// One for each refill worker.
    pub(crate) kernels: Vec<Box<dyn SlotKernel>>,
    /// For the thread that judges used slots, if it is wanted; or why there can be none.
    pub(crate) recycler: Option<Result<Recycling, String>>,
    pub(crate) uplinks: UplinkFollower,
    /// Slots of an earlier life.
    pub(crate) found: Found,
    pub(crate) reaper: Reaper,
    /// For the thread that shows slots.
    pub(crate) names: Box<dyn SlotNames>,
}

/// What judges used slots.
pub(crate) struct Recycling {
    pub(crate) kernel: Box<dyn SlotRecycler>,
    pub(crate) watch: Arc<TamperWatch>,
}

/// What was removed, and what could not be.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    pub(crate) links: usize,
    pub(crate) mounts: usize,
    pub(crate) pins: usize,
    pub(crate) errors: Vec<String>,
}

impl HostWorld {
    pub(crate) fn new(host: Host) -> Self {
        Self {
            host,
            pins: None,
            is_first_life: false,
        }
    }

    /// Makes everything but the slots, around those of an earlier life. Before it is clear that this can be
    /// done, nothing that an earlier life left is changed.
    pub(crate) fn build(&mut self, config: &Config, object: &Object) -> anyhow::Result<Built> {
        let found = self.find_uplinks(&config.uplink)?;
        pin_note::refuse_other(&config.state_dir, &config.bpffs)?;
        let pins = self.pins.insert(PinDir::open(&config.bpffs)?);
        let programs_config = abi::Config {
            host_netns: self.host.netns_cookie()?,
            ..programs_config(config)
        };
        let earlier = Earlier::look(pins)?;
        self.is_first_life = earlier.is_none() && !self.host.has_remains();
        let adopt = can_adopt(earlier.as_ref(), &programs_config)?;
        let mut steering = Steering::load(object, sizes(config), pins)?;
        if steering.is_new() {
            tracing::info!("loaded the kernel programs");
        } else {
            tracing::info!("the kernel programs of an earlier life are ours");
        }
        pin_note::write(&config.state_dir, &config.bpffs)?;
        let egress = begin_egress(config, &found)?;
        steering.configure(programs_config)?;
        if egress.is_none() {
            net::end_host_egress(&config.state_dir)?;
        }
        steering.limit_flows(config.nat.flows_per_slot);
        let drop_events = DropEvents::open(pins)?;
        let flows = steering.flow_hands(pins)?;
        let mut uplinks = UplinkFollower {
            state_dir: config.state_dir.clone(),
            choice: uplink_choice(&config.uplink),
            uplinks: steering.uplinks(pins)?,
            addresses: HostAddresses::open(pins)?,
            egress,
            followed: Vec::new(),
            interval: config.reaper.interval,
        };
        uplinks.follow_addresses(&mut self.host);
        let mtu = found.usable.first().map_or(DEFAULT_MTU, |best| best.mtu);
        let mut ways = HubWays::open(pins)?;
        let programs = steering.programs()?;
        let held = earlier
            .as_ref()
            .map_or(&[][..], |earlier| &earlier.attached);
        let numbers = hub_numbers(config, held);
        let (hubs, slots) = self.hubs(config, &numbers, mtu, adopt, &programs, &mut ways)?;
        uplinks.take(&found);
        let sockets = self.finish_replacement(&mut steering, object)?;
        let mut kernels: Vec<_> = (0..config.workers)
            .map(|_| self.host.worker(hubs.clone()))
            .collect();
        let reaper = Reaper {
            host: self.host.another()?,
            hubs: hubs
                .iter()
                .map(|hub| (hub.clone(), hub_spec(config, mtu, hub.number)))
                .collect(),
            programs,
            ways,
            sockets,
            interval: config.reaper.interval,
        };
        let slots = without_surplus(slots, config.room(), &mut *kernels[0]);
        let recycler = config.recycles().then(|| {
            self.recycling(config.room(), &hubs)
                .map_err(|e| format!("{e:#}"))
        });
        let world = World {
            state_dir: config.state_dir.clone(),
            pool_cidr: config.pool_cidr,
            pool_prefix6: pool_prefix6(config),
            inner: inner(config),
            mtu,
            uplinks: uplinks.followed.clone(),
        };
        Ok(Built {
            world,
            drop_events,
            flows,
            steering,
            kernels,
            recycler,
            uplinks,
            found: slots,
            reaper,
            names: self.host.names(),
        })
    }

    fn recycling(&mut self, slots: u32, hubs: &[Hub]) -> anyhow::Result<Recycling> {
        let witness = bpf::witness(slots)?;
        let watch = Arc::new(self.host.watch_slots(hubs)?);
        Ok(Recycling {
            kernel: self.host.recycler(witness, Arc::clone(&watch)),
            watch,
        })
    }

    /// Whether there was nothing of an earlier life. If there was, or nobody knows, a start that fails
    /// removes nothing: attachments go on.
    pub(crate) fn is_first_life(&self) -> bool {
        self.is_first_life
    }

    /// Keeps everything for the next life.
    pub(crate) fn keep(self) {
        if let Err(error) = self.host.leave() {
            tracing::warn!("{error}");
        }
    }

    /// Removes everything, slots included. Every step is tried.
    pub(crate) fn remove(mut self, config: &Config) -> Removed {
        let network = self.host.remove_everything(REMOVE_WITHIN);
        let (pins, failed) = self.pins.take().map(PinDir::remove).unwrap_or_default();
        let note = pin_note::remove(&config.state_dir);
        let errors = network.errors.iter().map(ToString::to_string);
        let errors = errors.chain(failed.iter().map(ToString::to_string));
        Removed {
            links: network.links,
            mounts: network.mounts,
            pins,
            errors: errors.chain(note.err().map(|e| format!("{e:#}"))).collect(),
        }
    }

    /// Removes what an earlier life left, pins in its directory too.
    pub(crate) fn clean_up(mut self, config: &Config) -> Removed {
        let noted = pin_note::read(&config.state_dir);
        let mut removed = Removed::default();
        for bpffs in noted.iter().filter(|noted| **noted != config.bpffs) {
            let (pins, errors) = remove_pins(bpffs);
            removed.pins += pins;
            removed.errors.extend(errors);
        }
        match PinDir::open_existing(&config.bpffs) {
            Ok(pins) => self.pins = pins,
            Err(error) => removed.errors.push(error.to_string()),
        }
        let rest = self.remove(config);
        Removed {
            links: rest.links,
            mounts: rest.mounts,
            pins: removed.pins + rest.pins,
            errors: removed.errors.into_iter().chain(rest.errors).collect(),
        }
    }

    /// The hubs, those of an earlier life and new ones, with the slots that were found in them. All of
    /// them run our programs when this returns. What else an earlier life left is removed.
    fn hubs(
        &mut self,
        config: &Config,
        numbers: &[u32],
        mtu: u32,
        adopt: bool,
        programs: &Programs,
        ways: &mut HubWays,
    ) -> anyhow::Result<(Arc<[Hub]>, Found)> {
        self.host.prepare(config.host_mounts, config.shares())?;
        let (kept, found) = sound(numbers, self.host.survey(numbers), adopt);
        let left: Vec<Hub> = kept.values().cloned().collect();
        log_swept(self.host.sweep(&left));
        // The programs look here for the way to a hub as soon as they run.
        for hub in &left {
            ways.set(hub.number, hub.host_ifindex)?;
        }
        let hubs = numbers.iter().map(|number| {
            let spec = hub_spec(config, mtu, *number);
            let hub = if let Some(hub) = kept.get(number) {
                let mut hub = hub.clone();
                for missing in self.host.mend_hub(&mut hub, &spec, programs)? {
                    tracing::warn!(hub = number, "repaired: {missing}");
                }
                hub
            } else {
                self.host.create_hub(&spec, programs)?
            };
            ways.set(*number, hub.host_ifindex)?;
            Ok(hub)
        });
        let hubs = hubs.collect::<anyhow::Result<_>>()?;
        Ok((hubs, found))
    }

    fn finish_replacement(
        &mut self,
        steering: &mut Steering,
        object: &Object,
    ) -> anyhow::Result<Option<SocketHooks>> {
        let pins = self.pins.as_ref().context("find the pins")?;
        let root = control_group::root()?;
        if root.is_none() {
            tracing::warn!("no cgroup2: the host's own programs do not reach published ports");
        }
        let hooks = root
            .map(|root| steering.attach_to_sockets(control_group::open(&root)?, pins))
            .transpose()?;
        steering.finish_replacement(object, pins)?;
        Ok(hooks)
    }

    /// A default route that cannot be used is no uplink; of interfaces that were asked for one must
    /// work.
    fn find_uplinks(&mut self, setting: &UplinkSetting) -> anyhow::Result<FoundUplinks> {
        let found = self.host.find_uplinks(&uplink_choice(setting))?;
        if *setting != UplinkSetting::Auto && found.usable.is_empty() {
            let reasons: Vec<_> = found.refused.iter().map(ToString::to_string).collect();
            bail!("no uplink: {}", reasons.join("; "));
        }
        for error in &found.refused {
            tracing::warn!("{error}");
        }
        Ok(found)
    }
}

/// Has the host's own stack ready for slots' packets before the programs hand it any.
fn begin_egress(config: &Config, found: &FoundUplinks) -> anyhow::Result<Option<HostEgress>> {
    let Some(masquerade) = masquerade(config) else {
        return Ok(None);
    };
    let mut egress = HostEgress::begin(&config.state_dir, masquerade)?;
    egress.follow(&found.usable)?;
    Ok(Some(egress))
}

/// Whether what the pins hold can be gone on with; an error if it can neither be nor go.
fn can_adopt(earlier: Option<&Earlier>, now: &abi::Config) -> anyhow::Result<bool> {
    let Some(earlier) = earlier else {
        return Ok(false);
    };
    let left = adoption::Left {
        config: earlier.config,
        attached: &earlier.attached,
    };
    adoption::can_adopt(left, now).map_err(anyhow::Error::msg)
}

/// The hubs that can be used, and their slots.
fn sound(numbers: &[u32], states: Vec<HubState>, adopt: bool) -> (BTreeMap<u32, Hub>, Found) {
    let mut kept = BTreeMap::new();
    let mut slots = Vec::new();
    for (number, state) in numbers.iter().zip(states) {
        match state {
            HubState::Missing => {}
            HubState::Broken(reason) => {
                tracing::warn!(hub = number, "made anew, with its slots: {reason}");
            }
            HubState::Sound(_) if !adopt => {}
            HubState::Sound(found) => {
                kept.insert(found.hub.number, found.hub);
                slots.extend(found.slots);
            }
        }
    }
    (kept, Found { slots })
}

fn log_swept(swept: Swept) {
    if swept.links + swept.mounts > 0 {
        let (links, mounts) = (swept.links, swept.mounts);
        tracing::info!(links, mounts, "removed what an earlier life left");
    }
    for error in swept.errors {
        tracing::warn!("remove what an earlier life left: {error}");
    }
}

/// Destroys slots that the maps have no room for; nobody holds one. What is beyond the capacity only is the
/// pool's business, as when it is made smaller while it runs.
fn without_surplus(mut found: Found, room: u32, worker: &mut dyn SlotKernel) -> Found {
    let surplus = found.slots.extract_if(.., |slot| slot.index >= room);
    let surplus = surplus.map(|slot| RetiredSlot {
        index: slot.index,
        netns: slot.netns,
    });
    let surplus: Vec<_> = surplus.collect();
    for (slot, outcome) in worker.destroy_slots(surplus) {
        if let Err(error) = outcome {
            tracing::warn!("remove slot {slot}, beyond max_capacity: {error}");
        }
    }
    found
}

fn remove_pins(bpffs: &Path) -> (usize, Vec<String>) {
    match PinDir::open_existing(bpffs) {
        Ok(None) => (0, Vec::new()),
        Ok(Some(pins)) => {
            let (removed, errors) = pins.remove();
            (removed, errors.iter().map(ToString::to_string).collect())
        }
        Err(error) => (0, vec![error.to_string()]),
    }
}

fn hub_spec(config: &Config, mtu: u32, number: u32) -> HubSpec {
    HubSpec {
        number,
        mtu,
        share: share_of(config.pool_cidr, number),
        share6: pool_prefix6(config).map(|prefix| share6_of(prefix, number)),
    }
}

/// Checks the host as it is now. May block.
pub(crate) fn checks(config: &Config) -> anyhow::Result<Vec<Check>> {
    let facts = network_facts(config, &config.state_dir)?;
    Ok(doctor::checks(config, &doctor::Host::new(facts)))
}

fn network_facts(config: &Config, state_dir: &Path) -> anyhow::Result<NetworkFacts> {
    let mut host = Host::open(state_dir).context("look at the host's network")?;
    let uplinks = host.find_uplinks(&uplink_choice(&config.uplink));
    let conflict = host.conflict(config.pool_cidr.into());
    let conflict6 = match config.pool_cidr6.prefix {
        Some(prefix) => host.conflict(prefix.into()),
        None => Ok(None),
    };
    let egress = masquerade(config).map(|masquerade| net::egress_facts(state_dir, masquerade));
    Ok(NetworkFacts {
        egress,
        uplinks: uplinks
            .as_ref()
            .map(uplink_facts)
            .map_err(ToString::to_string),
        conflict6: conflict6
            .map(|found| found.map(|c| c.0))
            .map_err(|e| e.to_string()),
        conflict: conflict
            .map(|found| found.map(|c| c.0))
            .map_err(|e| e.to_string()),
    })
}

fn uplink_choice(setting: &UplinkSetting) -> UplinkChoice {
    match setting {
        UplinkSetting::Auto => UplinkChoice::Auto,
        UplinkSetting::Interfaces(names) => UplinkChoice::Named(names.clone()),
    }
}

fn uplink_facts(found: &FoundUplinks) -> UplinkFacts {
    UplinkFacts {
        usable: found.usable.iter().map(shown).collect(),
        refused: found.refused.iter().map(ToString::to_string).collect(),
    }
}

/// An uplink as clients see it.
pub(crate) fn shown(uplink: &Uplink) -> types::Uplink {
    let v4 = uplink.addresses.v4.map(|address| address.to_string());
    let v6 = uplink.addresses.v6.map(|address| address.to_string());
    types::Uplink {
        interface: uplink.name.clone(),
        address: v4.or_else(|| v6.clone()).unwrap_or_default(),
        address6: v6,
        mtu: uplink.mtu,
    }
}

fn sizes(config: &Config) -> Sizes {
    Sizes {
        slots: config.room(),
        hubs: hub_count(config),
        flows: config.nat.flows,
        ports: config.publish.max_ports,
    }
}

fn hub_count(config: &Config) -> u32 {
    config.room().div_ceil(SLOTS_PER_HUB)
}

/// The hubs that classes have slots in, and those of slots that somebody holds.
fn hub_numbers(config: &Config, held: &[u32]) -> Vec<u32> {
    let of_classes = config
        .index_ranges()
        .flat_map(|range| hub_of(range.start)..range.end.div_ceil(SLOTS_PER_HUB));
    let of_held = held.iter().map(|slot| hub_of(*slot));
    let all: BTreeSet<u32> = of_classes.chain(of_held).collect();
    all.into_iter().collect()
}

fn programs_config(config: &Config) -> abi::Config {
    let pool6 = pool_prefix6(config);
    let inner = inner(config);
    let inner6 = inner.filter(|_| pool6.is_some());
    abi::Config {
        pool_base: config.pool_cidr.network().into(),
        pool_mask: config.pool_cidr.netmask().into(),
        pool6: pool6.map_or(Address::ANY, |prefix| prefix.network().into()),
        pool6_mask: pool6.map_or(Address::ANY, |prefix| prefix.netmask().into()),
        slots_are_clones: inner.is_some().into(),
        inner: inner.map_or(Address::ANY, |inner| inner.v4.into()),
        inner6: inner6.map_or(Address::ANY, |inner| inner.v6.into()),
        capacity: config.room(),
        nat_port_first: config.nat.ports.first,
        nat_port_last: config.nat.ports.last,
        host_forwards: (config.egress == config::Egress::Host).into(),
        ipv6_is_routed: (config.ipv6.egress == config::Ipv6Egress::Routed).into(),
        world_is_closed: (config.policy.default == DefaultPolicy::Closed).into(),
        ..abi::Config::default()
    }
}

/// How the host's own stack is to translate what slots send, if it is to.
fn masquerade(config: &Config) -> Option<Masquerade> {
    let has_ipv6 = pool_prefix6(config).is_some();
    (config.egress == config::Egress::Host).then_some(Masquerade {
        first_port: config.nat.ports.first,
        last_port: config.nat.ports.last,
        has_ipv6,
        translates_ipv6: config.ipv6.egress == config::Ipv6Egress::Nat,
    })
}

/// The prefix of slots' IPv6 addresses: what is set, where there is IPv6.
fn pool_prefix6(config: &Config) -> Option<Ipv6Net> {
    config.pool_cidr6.prefix.filter(|_| doctor::has_ipv6())
}

/// What all slots have inside, if it is the same.
fn inner(config: &Config) -> Option<config::Inner> {
    match config.address_mode {
        config::AddressMode::Unique => None,
        config::AddressMode::Clone(inner) => Some(inner),
    }
}

/// The hub's part of the IPv6 prefix.
fn share6_of(prefix: Ipv6Net, hub: u32) -> Ipv6Net {
    const SHARE_PREFIX: u8 = 119;
    const { assert!(1 << (128 - SHARE_PREFIX) == SLOTS_PER_HUB) };
    let base = u128::from(prefix.network()) | u128::from(hub * SLOTS_PER_HUB);
    Ipv6Net::new_assert(base.into(), SHARE_PREFIX)
}

/// The hub's part of the pool CIDR: all of it if one hub is enough for it.
fn share_of(pool: Ipv4Net, hub: u32) -> Ipv4Net {
    /// A hub's slots take this many bits of an address.
    const SHARE_PREFIX: u8 = 23;
    const { assert!(1 << (32 - SHARE_PREFIX) == SLOTS_PER_HUB) };
    let prefix = pool.prefix_len().max(SHARE_PREFIX);
    let base = u32::from(pool.network()) + hub * SLOTS_PER_HUB;
    Ipv4Net::new_assert(base.into(), prefix)
}

#[cfg(test)]
mod tests {
    use pcpm_api::options::Options;

    use super::*;

    #[test]
    fn hubs_share_the_pool_cidr_without_overlap() {
        let pool: Ipv4Net = "10.213.0.0/16".parse().unwrap();
        assert_eq!(share_of(pool, 0).to_string(), "10.213.0.0/23");
        assert_eq!(share_of(pool, 1).to_string(), "10.213.2.0/23");
        assert_eq!(share_of(pool, 127).to_string(), "10.213.254.0/23");
    }

    #[test]
    fn there_are_hubs_for_the_addresses_of_classes_and_for_what_is_held() {
        let class = config::Class {
            name: "far".to_owned(),
            capacity: 8,
            ready: 8,
            addresses: Some("10.213.16.0/22".parse().unwrap()),
            mtu: None,
            refill: Config::default().refill,
            share: net::Share::default(),
            default: None,
            template: Options::default(),
        };
        let config = Config {
            classes: vec![class],
            ..Config::default()
        };
        assert_eq!(hub_numbers(&config, &[]), [0, 8, 9]);
        assert_eq!(hub_numbers(&config, &[512 * 3 + 7]), [0, 3, 8, 9]);
    }

    #[test]
    fn one_hub_has_all_of_a_small_pool_cidr() {
        let pool: Ipv4Net = "192.168.7.64/26".parse().unwrap();
        assert_eq!(share_of(pool, 0), pool);
    }
}
