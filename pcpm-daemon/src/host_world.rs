//! What the daemon makes around the pool before the first slot: programs and maps, hubs, routes, the
//! uplink's program. Everything made here is removed here, also after a failure half way.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::types::{self, Check};
use pcpm_ebpf::{
    abi::{self, SLOTS_PER_HUB},
    address::Address,
};

use crate::{
    bpf::{Datapath as _, DatapathSetup as _, DropEvents, PinDir, Sizes, Steering, control_group},
    config::{self, Config},
    doctor::{self, NetworkFacts},
    engine::{self, World},
    found::Found,
    net::{Host, HostKernel as _, Hub, HubSpec, SlotKernel, Uplink, UplinkChoice},
    uplink::{self, UplinkSearch},
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
    pub(crate) uplink: UplinkSearch,
    /// Slots of an earlier life.
    pub(crate) found: Found,
}

impl HostWorld {
    pub(crate) fn new(host: Host) -> Self {
        Self { host, pins: None }
    }

    /// Makes everything but the slots.
    pub(crate) fn build(&mut self, config: &Config) -> anyhow::Result<Built> {
        let uplink = self.find_uplink(&config.uplink)?;
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
        self.host.prepare()?;
        let mtu = uplink.as_ref().map_or(DEFAULT_MTU, |uplink| uplink.mtu);
        let hubs = self.create_hubs(config, mtu, &mut steering)?;
        steering.follow_uplink(uplink.as_ref())?;
        let mut addresses = steering.host_addresses()?;
        uplink::follow_addresses(&mut self.host, &mut addresses);
        let kernels = (0..config.refill.workers)
            .map(|_| self.host.worker(hubs.clone()))
            .collect();
        let world = World {
            state_dir: config.state_dir.clone(),
            pool_cidr: config.pool_cidr,
            pool_prefix6: pool_prefix6(config),
            mtu,
            uplink: uplink.as_ref().map(shown),
            life: engine::unix_time_ms(),
        };
        let uplink = UplinkSearch {
            state_dir: config.state_dir.clone(),
            choice: uplink_choice(&config.uplink),
            found: uplink,
            addresses,
        };
        Ok(Built {
            world,
            drop_events: steering.drop_events()?,
            steering,
            kernels,
            uplink,
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

    /// A default route that cannot be used is no uplink; an interface that was asked for must work.
    fn find_uplink(&mut self, choice: &config::Uplink) -> anyhow::Result<Option<Uplink>> {
        match (self.host.find_uplink(&uplink_choice(choice)), choice) {
            (Err(error), config::Uplink::Auto) => {
                tracing::warn!("no uplink: {error}");
                Ok(None)
            }
            (found, _) => Ok(found?),
        }
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
    let uplink = host.find_uplink(&uplink_choice(&config.uplink));
    let conflict = host.conflict(config.pool_cidr);
    Ok(NetworkFacts {
        uplink: uplink
            .map(|found| found.as_ref().map(shown))
            .map_err(|e| e.to_string()),
        conflict: conflict
            .map(|found| found.map(|c| c.0))
            .map_err(|e| e.to_string()),
    })
}

fn uplink_choice(uplink: &config::Uplink) -> UplinkChoice {
    match uplink {
        config::Uplink::Auto => UplinkChoice::Auto,
        config::Uplink::Interface(name) => UplinkChoice::Named(name.clone()),
    }
}

/// The uplink as clients see it.
pub(crate) fn shown(uplink: &Uplink) -> types::Uplink {
    types::Uplink {
        interface: uplink.name.clone(),
        address: uplink.address.to_string(),
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
