//! What the daemon makes around the pool before the first slot: programs and maps, hubs, routes, the
//! uplinks' program. Everything made here is removed here, also after a failure half way.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::types::{self, Check};
use pcpm_ebpf::{
    abi::{self, SLOTS_PER_HUB},
    address::Address,
};

use crate::{
    bpf::{DatapathSetup as _, DropEvents, PinDir, Sizes, Steering, control_group},
    config::{self, Config, UplinkSetting},
    doctor::{self, NetworkFacts, UplinkFacts},
    engine::World,
    found::Found,
    net::{FoundUplinks, Host, HostKernel as _, Hub, HubSpec, SlotKernel, Uplink, UplinkChoice},
    uplink::UplinkFollower,
};

/// The MTU of slots where there is no uplink to take it from.
const DEFAULT_MTU: u32 = 1500;

/// The longest that removing everything may take.
const REMOVE_WITHIN: Duration = Duration::from_secs(15);

/// What there is to remove in the end.
pub(crate) struct HostWorld {
    host: Host,
    pins: Option<PinDir>,
}

/// What the pool runs on.
pub(crate) struct Built {
    pub(crate) world: World,
    pub(crate) steering: Steering,
    pub(crate) drop_events: DropEvents,
    /// One for each refill worker.
    pub(crate) kernels: Vec<Box<dyn SlotKernel>>,
    pub(crate) uplinks: UplinkFollower,
    /// Slots of an earlier life.
    pub(crate) found: Found,
}

impl HostWorld {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, pins: None }
    }

    /// Makes everything but the slots.
    pub(crate) fn build(&mut self, config: &Config) -> anyhow::Result<Built> {
        let found = self.find_uplinks(&config.uplink)?;
        let pins = self.pins.insert(PinDir::create(&config.bpffs)?);
        let mut steering = Steering::load(sizes(config), pins)?;
        steering.configure(abi::Config {
            host_netns: self.host.netns_cookie()?,
            ..programs_config(config)
        })?;
        if let Some(root) = control_group::root()? {
            steering.attach_to_sockets(&control_group::open(&root)?, pins)?;
        } else {
            tracing::warn!("no cgroup2: the host's own programs do not reach published ports");
        }
        let (program, addresses) = (steering.uplinks(pins)?, steering.host_addresses()?);
        self.host.prepare()?;
        let mtu = found.usable.first().map_or(DEFAULT_MTU, |best| best.mtu);
        let hubs = self.create_hubs(config, mtu, &mut steering)?;
        let mut uplinks = UplinkFollower {
            state_dir: config.state_dir.clone(),
            choice: uplink_choice(&config.uplink),
            uplinks: program,
            addresses,
            followed: Vec::new(),
        };
        uplinks.take(&found);
        uplinks.follow_addresses(&mut self.host);
        let kernels = (0..config.refill.workers)
            .map(|_| self.host.worker(hubs.clone()))
            .collect();
        let world = World {
            state_dir: config.state_dir.clone(),
            pool_cidr: config.pool_cidr,
            pool_prefix6: pool_prefix6(config),
            mtu,
            uplinks: uplinks.followed.clone(),
        };
        Ok(Built {
            world,
            drop_events: steering.drop_events()?,
            steering,
            kernels,
            uplinks,
            found: Found::default(),
        })
    }

    /// Removes everything, slots included. Every step is tried; what failed is returned.
    pub(crate) fn remove(mut self) -> Vec<String> {
        let network = self.host.remove_everything(REMOVE_WITHIN);
        let pins = self.pins.take().map(PinDir::remove).unwrap_or_default();
        let network = network.iter().map(ToString::to_string);
        network
            .chain(pins.iter().map(ToString::to_string))
            .collect()
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

    fn create_hubs(
        &mut self,
        config: &Config,
        mtu: u32,
        steering: &mut Steering,
    ) -> anyhow::Result<Arc<[Hub]>> {
        let programs = steering.programs()?;
        let hubs = (0..hub_count(config)).map(|number| {
            let share = share_of(config.pool_cidr, number);
            let share6 = pool_prefix6(config).map(|prefix| share6_of(prefix, number));
            let spec = HubSpec {
                number,
                mtu,
                share,
                share6,
            };
            let hub = self.host.create_hub(&spec, &programs)?;
            steering.set_hub(number, hub.host_ifindex)?;
            Ok(hub)
        });
        hubs.collect()
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
    Ok(NetworkFacts {
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
        slots: config.capacity,
        hubs: hub_count(config),
        flows: config.nat.flows,
        ports: config.publish.max_ports,
    }
}

fn hub_count(config: &Config) -> u32 {
    config.capacity.div_ceil(SLOTS_PER_HUB)
}

fn programs_config(config: &Config) -> abi::Config {
    let pool6 = pool_prefix6(config);
    abi::Config {
        pool_base: config.pool_cidr.network().into(),
        pool_mask: config.pool_cidr.netmask().into(),
        pool6: pool6.map_or(Address::ANY, |prefix| prefix.network().into()),
        pool6_mask: pool6.map_or(Address::ANY, |prefix| prefix.netmask().into()),
        capacity: config.capacity,
        nat_port_first: config.nat.ports.first,
        nat_port_last: config.nat.ports.last,
        ipv6_is_routed: (config.ipv6.egress == config::Ipv6Egress::Routed).into(),
        world_is_closed: (config.policy.default == config::DefaultPolicy::Closed).into(),
        ..abi::Config::default()
    }
}

/// The prefix of slots' IPv6 addresses: what is set, where there is IPv6.
fn pool_prefix6(config: &Config) -> Option<Ipv6Net> {
    config.pool_cidr6.prefix.filter(|_| doctor::has_ipv6())
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
    use super::*;

    #[test]
    fn hubs_share_the_pool_cidr_without_overlap() {
        let pool: Ipv4Net = "10.213.0.0/16".parse().unwrap();
        assert_eq!(share_of(pool, 0).to_string(), "10.213.0.0/23");
        assert_eq!(share_of(pool, 1).to_string(), "10.213.2.0/23");
        assert_eq!(share_of(pool, 127).to_string(), "10.213.254.0/23");
    }

    #[test]
    fn one_hub_has_all_of_a_small_pool_cidr() {
        let pool: Ipv4Net = "192.168.7.64/26".parse().unwrap();
        assert_eq!(share_of(pool, 0), pool);
    }
}
