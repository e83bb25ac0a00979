//! The daemon's settings: built-in defaults, then the configuration file, then the command line.
//! [`Config`] is the checked result; nothing else in the daemon reads files or options. What needs
//! the host to be judged (routes, limits, the ephemeral port range) belongs to `doctor`.

mod args;
mod classes;
mod error;
mod layer;
mod log;
mod policy;
mod print;
mod validate;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::limits::DEFAULT_CLASS;
use pcpm_api::options::Options;
use pcpm_api::types::{DefaultPolicy, TargetMode};
use tracing_subscriber::filter::Targets;

pub(crate) use args::Args;
pub(crate) use error::{ConfigError, Origin};
pub(crate) use log::{Log, LogFormat, LogLevel};

use layer::Layer;

use crate::engine::ClassSpec;
use crate::metrics::Endpoint;
use crate::net::{HostMounts, Share};
use crate::pool::{
    Adaptive, ClassSettings, Quotas, Recycle, ReserveSettings, Target, TenantPattern, Terms,
};

/// Read when it exists and no other file is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/pcpm/pcpmd.toml";

/// Checked settings of one daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where the Varlink socket is made.
    pub(crate) socket: PathBuf,
    /// Directory of the lock file and the namespaces' mounts.
    pub(crate) state_dir: PathBuf,
    /// Where maps and programs are pinned; a bpf file system is mounted there if there is none.
    pub(crate) bpffs: PathBuf,
    /// What becomes of everything when the daemon is told to stop.
    pub(crate) on_exit: OnExit,
    /// Which slots are mounted in the host's mount namespace; `None`: as few as can be.
    pub(crate) host_mounts: Option<HostMounts>,
    /// All slots, whatever their state.
    pub(crate) capacity: u32,
    /// The most that a resize can make of it, with what other classes have that share its addresses.
    pub(crate) max_capacity: u32,
    /// How many of them are kept ready.
    pub(crate) ready: u32,
    /// Addresses of the slots: slot `i` has the `i`-th.
    pub(crate) pool_cidr: Ipv4Net,
    /// IPv6 addresses of the slots.
    pub(crate) pool_cidr6: PoolV6,
    /// What slots have inside.
    pub(crate) address_mode: AddressMode,
    /// Who sends slots' packets to the world.
    pub(crate) egress: Egress,
    /// How IPv6 packets leave.
    pub(crate) ipv6: Ipv6,
    /// The host's ways out.
    pub(crate) uplink: UplinkSetting,
    /// Threads that make and destroy slots.
    pub(crate) workers: u32,
    /// How long 99 of 100 waits of others for the rtnl lock may take because of refill; no matter if none.
    pub(crate) max_rtnl_wait: Option<Duration>,
    /// How slots are made.
    pub(crate) refill: Refill,
    /// MTU of slots' links in bytes, if it is not the uplink's.
    pub(crate) mtu: Option<u32>,
    /// Namespaces that slots have beside the network one.
    pub(crate) share: Share,
    /// Other classes of slots than the default one, which is what the settings here are about.
    pub(crate) classes: Vec<Class>,
    /// Ready slots held back for some tenants.
    pub(crate) reserves: Vec<Reserve>,
    /// How slots reach the world.
    pub(crate) nat: Nat,
    /// Ports of the host that lead to slots.
    pub(crate) publish: Publish,
    /// Whom slots reach unless their own rules say.
    pub(crate) policy: Policy,
    /// What clients may ask for.
    pub(crate) api: Api,
    /// Who they may be.
    pub(crate) access: Access,
    /// What is told of waits for the kernel's locks.
    pub(crate) locks: Locks,
    /// How much of the pool one tenant or user may have.
    pub(crate) quotas: Quotas,
    /// How what is there is compared with what is to be there.
    pub(crate) reaper: Reaper,
    /// Where monitoring asks, if anywhere.
    pub(crate) metrics: Option<Endpoint>,
    /// What is logged.
    pub(crate) log: Log,
}

/// What becomes of slots, attachments and traffic when the daemon is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnExit {
    /// All of it is removed.
    Remove,
    /// All of it goes on, for the next daemon.
    Keep,
}

/// IPv6 addresses of the slots: slot `i` has `i` in the last 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolV6 {
    /// Their prefix, at most 96 bits; `None`: slots have no IPv6.
    pub(crate) prefix: Option<Ipv6Net>,
    /// Whether somebody asked for it. If not, a host without IPv6 is no reason not to start.
    pub(crate) is_asked_for: bool,
}

/// Which addresses slots have inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressMode {
    /// Each its own.
    Unique,
    /// All the same ones. Its own address of the pool is what everybody else knows a slot by.
    Clone(Inner),
}

/// The addresses that all slots have inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inner {
    pub(crate) v4: Ipv4Addr,
    /// Where slots have IPv6.
    pub(crate) v6: Ipv6Addr,
}

/// Who sends slots' packets to the world, and translates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Egress {
    /// The kernel programs.
    Ebpf,
    /// The host's own stack, where its firewall sees them.
    Host,
}

/// How IPv6 packets of slots leave for the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ipv6 {
    /// Under which addresses.
    pub(crate) egress: Ipv6Egress,
}

/// Under which addresses IPv6 packets leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6Egress {
    /// Translated to the uplink's.
    Nat,
    /// The slots' own.
    Routed,
}

/// Which interfaces of the host lead to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UplinkSetting {
    /// Those that a default route leads out of.
    Auto,
    /// Those with these names, at least one.
    Interfaces(Vec<String>),
}

/// How slots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refill {
    /// How many slots are kept ready.
    pub(crate) target: TargetMode,
    /// What a target that follows demand is never below.
    pub(crate) floor: u32,
    /// And never above.
    pub(crate) ceiling: u32,
    /// Of this many attaches one may find nothing ready.
    pub(crate) one_in: u32,
    /// How long demand is remembered, in seconds.
    pub(crate) window_s: u32,
    /// What becomes of used slots.
    pub(crate) recycle: Recycle,
}

/// Slots that are made alike, and differ from those of other classes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    /// What it is asked for by.
    pub(crate) name: String,
    /// As [`Config::capacity`].
    pub(crate) capacity: u32,
    /// As [`Config::ready`].
    pub(crate) ready: u32,
    /// A part of [`Config::pool_cidr`] that only its slots have addresses in.
    pub(crate) addresses: Option<Ipv4Net>,
    /// As [`Config::mtu`].
    pub(crate) mtu: Option<u32>,
    /// As [`Config::share`].
    pub(crate) share: Share,
    /// As [`Config::refill`].
    pub(crate) refill: Refill,
    /// Whether its slots reach the world where no rule says, if that is not as at top level.
    pub(crate) default: Option<DefaultPolicy>,
    /// As [`Policy::template`].
    pub(crate) template: Options,
}

/// Ready slots of a class that are held back for some tenants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reserve {
    /// For people.
    pub(crate) name: String,
    /// The class.
    pub(crate) class: String,
    /// Whom they are for.
    pub(crate) tenants: Vec<TenantPattern>,
    /// How many.
    pub(crate) warm: u32,
}

/// How slots reach the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nat {
    /// Ports and echo identifiers of translated packets.
    pub(crate) ports: PortRange,
    /// Entries of the flow table; a connection to the world takes two.
    pub(crate) flows: u32,
    /// Entries that one slot may have of them.
    pub(crate) flows_per_slot: u32,
}

/// Ports of the host that lead to slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Ports published at once, of all attachments together.
    pub(crate) max_ports: u32,
}

/// Whom slots reach unless their own rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    /// What counts for the world.
    pub(crate) default: DefaultPolicy,
    /// Rules and limits that attachments have beside their own; no ports.
    pub(crate) template: Options,
}

/// What clients may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Api {
    /// Connections at once.
    pub(crate) max_clients: u32,
}

/// What is told of waits for the kernel's locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Locks {
    /// Whether they are watched at all.
    pub(crate) enabled: bool,
    /// Waits at least as long are told one by one.
    pub(crate) long_wait: Duration,
}

/// How what is there is compared with what is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reaper {
    /// How often.
    pub(crate) interval: Duration,
}

/// Who may do what, by name or number. Root may do everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// The group that may connect to the socket; root's if none.
    pub(crate) group: Option<String>,
    /// Who may see everything.
    pub(crate) viewers: Vec<Principal>,
    /// Who may attach, and change what they attached themselves.
    pub(crate) users: Vec<Principal>,
    /// Who may do everything.
    pub(crate) administrators: Vec<Principal>,
}

/// Somebody, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// A user.
    User(String),
    /// The members of a group.
    Group(String),
}

/// A range of ports, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortRange {
    /// Lowest port.
    pub(crate) first: u16,
    /// Highest port.
    pub(crate) last: u16,
}

impl Config {
    /// The settings that `args` ask for.
    ///
    /// # Errors
    /// The first thing wrong, with the file and line or the option it came from.
    pub(crate) fn load(args: &Args) -> Result<Self, ConfigError> {
        let file = match &args.config {
            Some(path) => Layer::read(path)?,
            None => Layer::read_if_present(Path::new(DEFAULT_FILE))?,
        };
        Self::from_layer(file.overridden_by(args.layer()))
    }

    /// All classes as the engine takes them, the default one first.
    pub(crate) fn class_specs(&self) -> Vec<ClassSpec> {
        let default = Class {
            name: DEFAULT_CLASS.to_owned(),
            capacity: self.capacity,
            ready: self.ready,
            addresses: None,
            mtu: self.mtu,
            share: self.share,
            refill: self.refill,
            default: None,
            template: self.policy.template.clone(),
        };
        let all = std::iter::once(&default).chain(&self.classes);
        all.map(|class| self.spec(class)).collect()
    }

    fn spec(&self, class: &Class) -> ClassSpec {
        let reserves = self.reserves.iter().filter(|of| of.class == class.name);
        let (reservations, reserves) = reserves
            .map(|reserve| {
                let settings = ReserveSettings {
                    tenants: reserve.tenants.clone(),
                    warm: reserve.warm,
                };
                (reserve.name.clone(), settings)
            })
            .unzip();
        ClassSpec {
            name: class.name.clone(),
            mtu: class.mtu,
            share: class.share,
            addresses: class.addresses.unwrap_or(self.pool_cidr),
            terms: Terms::of_class(class.template.clone(), class.default),
            reservations,
            pool: ClassSettings {
                capacity: class.capacity,
                target: class.refill.target(class.ready),
                reserves,
                indexes: class.addresses.map(|own| self.indexes(own)),
                recycle: class.refill.recycle,
            },
        }
    }

    /// Slots with addresses in a part of the pool's.
    fn indexes(&self, part: Ipv4Net) -> Range<u32> {
        let first = u32::from(part.network()) - u32::from(self.pool_cidr.network());
        first..first + validate::addresses(part)
    }

    /// Slots of all classes.
    pub(crate) fn slots(&self) -> u32 {
        let others = self.classes.iter().map(|class| class.capacity);
        self.capacity + others.sum::<u32>()
    }

    /// Ranges of indexes that slots may have: the one that classes share, and those of single classes.
    pub(crate) fn index_ranges(&self) -> impl Iterator<Item = Range<u32>> {
        let own = self.classes.iter().filter_map(|class| class.addresses);
        let own = own.map(|part| self.indexes(part));
        std::iter::once(0..self.max_capacity).chain(own)
    }

    /// Slots there are maps for: all indexes are below.
    pub(crate) fn room(&self) -> u32 {
        let ends = self.index_ranges().map(|range| range.end);
        ends.max().unwrap_or_default()
    }

    /// Namespaces that slots of any class have beside the network one.
    pub(crate) fn shares(&self) -> Share {
        let others = self.classes.iter().map(|class| class.share);
        let all = std::iter::once(self.share).chain(others);
        all.flat_map(Share::kinds).collect()
    }

    /// Whether slots of any class are used again.
    pub(crate) fn recycles(&self) -> bool {
        let others = self.classes.iter().map(|class| class.refill.recycle);
        let mut all = std::iter::once(self.refill.recycle).chain(others);
        all.any(|recycle| recycle != Recycle::Never)
    }

    /// What of the log is written: what the option says, else `RUST_LOG`, else the configuration file.
    ///
    /// # Errors
    /// What `RUST_LOG` has that is no filter.
    pub(crate) fn log_filter(
        &self,
        args: &Args,
        rust_log: Option<String>,
    ) -> Result<Targets, String> {
        let environment = rust_log.filter(|text| args.log_level.is_none() && !text.is_empty());
        let filter = environment.unwrap_or_else(|| self.log.level.to_string());
        let parts = filter.split(',').map(str::trim);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        let parsed = parts.join(",").parse();
        parsed.map_err(|error| format!("RUST_LOG: '{filter}': {error}"))
    }

    /// The settings as a commented configuration file. Reading it back gives the same settings.
    pub(crate) fn to_toml(&self) -> String {
        print::to_toml(self)
    }

    fn from_layer(layer: Layer) -> Result<Self, ConfigError> {
        validate::config(layer)
    }
}

impl Refill {
    /// How many slots are kept ready, where so many are asked for.
    fn target(&self, ready: u32) -> Target {
        match self.target {
            TargetMode::Fixed => Target::Fixed(ready),
            TargetMode::Adaptive => Target::Adaptive(Adaptive {
                first: ready,
                floor: self.floor,
                ceiling: self.ceiling,
                one_in: self.one_in,
                window: Duration::from_secs(self.window_s.into()),
            }),
        }
    }
}
