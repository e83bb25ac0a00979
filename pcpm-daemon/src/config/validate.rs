//! Which values can be used. Every reason names the value and what was expected of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::limits;
use pcpm_api::options::Options;
use pcpm_api::types::{DefaultPolicy, TargetMode};
use pcpm_ebpf::abi::SLOTS_PER_HUB;

use super::classes;
use super::error::ConfigError;
use super::layer::{Given, Layer, PolicyLayer, QuotaLayer, RefillLayer};
use super::policy;
use super::{
    Access, AddressMode, Api, Config, Egress, Inner, Ipv6, Ipv6Egress, Locks, Log, LogFormat,
    LogLevel, Nat, OnExit, Policy, PoolV6, PortRange, Principal, Publish, Reaper, Refill,
    UplinkSetting,
};
use crate::net::HostMounts;
use crate::net::Share;
use crate::pool::{Quota, Quotas, Recycle};

/// Slots one daemon can number.
pub(super) const MOST_SLOTS: u32 = 65_536;
/// Longest path of a Unix socket: `sun_path` without the final zero.
const SOCKET_PATH_BYTES: usize = 107;
/// Longest name of an interface: `IFNAMSIZ` without the final zero.
const INTERFACE_NAME_BYTES: usize = 15;
/// Highest rate of attaches that can be set as a quota.
const MOST_ATTACHES: u32 = 1_000_000;
/// Longest name of a user or group (`LOGIN_NAME_MAX` without the final zero).
const PRINCIPAL_BYTES: usize = 255;
/// Ports below are the services'.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// Entries of the flow table unless said: 50 MB of memory.
const DEFAULT_FLOWS: u32 = 262_144;

/// Where no slot can live, and what the addresses are for.
const UNUSABLE: [(Ipv4Net, &str); 5] = [
    (network([0, 0, 0, 0], 8), "\"this network\""),
    (network([127, 0, 0, 0], 8), "loopback"),
    (
        network([169, 254, 0, 0], 16),
        "link-local, and holds the gateway of the slots",
    ),
    (network([224, 0, 0, 0], 4), "multicast"),
    (network([240, 0, 0, 0], 4), "reserved"),
];

/// Unique enough: nobody else routes to it, as it never leaves the host.
const POOL_PREFIX: Ipv6Net =
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x7063, 0x706d, 0, 0, 0, 0, 0), 64);
/// What slots have inside where all have the same: an address for use within one machine (RFC 7335), so nobody
/// else's in whatever network the host is, and a private one of IPv6.
pub(super) const DEFAULT_INNER: Inner = Inner {
    v4: Ipv4Addr::new(192, 0, 0, 2),
    v6: Ipv6Addr::new(0xfd00, 0x7063, 0x636c, 0, 0, 0, 0, 2),
};
/// What the internet routes.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Bits of an IPv6 address that number the slots.
const SLOT_BITS: u8 = 32;

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: "/run/pcpm/pcpm.sock".into(),
            state_dir: "/run/pcpm".into(),
            bpffs: "/sys/fs/bpf/pcpm".into(),
            on_exit: OnExit::Remove,
            host_mounts: None,
            capacity: 64,
            max_capacity: 512,
            ready: 64,
            pool_cidr: network([10, 213, 0, 0], 16),
            pool_cidr6: PoolV6 {
                prefix: Some(POOL_PREFIX),
                is_asked_for: false,
            },
            address_mode: AddressMode::Unique,
            egress: Egress::Ebpf,
            ipv6: Ipv6 {
                egress: Ipv6Egress::Nat,
            },
            uplink: UplinkSetting::Auto,
            workers: 2,
            max_rtnl_wait: None,
            mtu: None,
            share: Share::default(),
            classes: Vec::new(),
            reserves: Vec::new(),
            refill: Refill {
                target: TargetMode::Fixed,
                floor: 8,
                ceiling: 64,
                one_in: 1_000,
                window_s: 600,
                recycle: Recycle::Never,
            },
            nat: Nat {
                ports: PortRange {
                    first: 16_384,
                    last: 32_767,
                },
                flows: DEFAULT_FLOWS,
                flows_per_slot: default_flows_per_slot(DEFAULT_FLOWS),
            },
            publish: Publish { max_ports: 4_096 },
            policy: Policy {
                default: DefaultPolicy::Open,
                template: Options::default(),
            },
            api: Api { max_clients: 1_024 },
            access: Access::default(),
            locks: Locks {
                enabled: true,
                long_wait: Duration::from_millis(10),
            },
            quotas: Quotas::default(),
            reaper: Reaper {
                interval: Duration::from_secs(10),
            },
            metrics: None,
            log: Log {
                format: LogFormat::Auto,
                level: LogLevel::Info,
            },
        }
    }
}

pub(super) fn config(layer: Layer) -> Result<Config, ConfigError> {
    let default = Config::default();
    let places = classes::Places::of(&layer);
    let ipv6 = Ipv6 {
        egress: ipv6_egress(layer.ipv6_egress, layer.pool_cidr6.as_ref())?,
    };
    let state_dir = state_dir(layer.state_dir, layer.socket.is_none())?;
    let capacity = set(
        "capacity",
        layer.capacity,
        default.capacity,
        number(1..=MOST_SLOTS),
    )?;
    let pool_cidr = set("pool_cidr", layer.pool_cidr, default.pool_cidr, |text| {
        pool_cidr(&text, capacity)
    })?;
    let pool_cidr6 = set("pool_cidr6", layer.pool_cidr6, default.pool_cidr6, |text| {
        pool_cidr6(&text, ipv6.egress)
    })?;
    let refill = refill("refill", layer.refill, capacity, default.refill)?;
    let policy = policy(layer.policy, &default.policy)?;
    let share = classes::share("share", layer.share, (Share::default(), None), refill)?;
    let otherwise = classes::Otherwise {
        refill,
        share,
        template: &policy.template,
    };
    let classes = classes::classes(layer.classes, otherwise)?;
    let sharing = classes::sharing(capacity, &classes);
    let most = whole_hubs(sharing, pool_cidr);
    let max_capacity = set("max_capacity", layer.max_capacity, most, |n| {
        max_capacity(n, sharing, pool_cidr)
    })?;
    let config = Config {
        socket: set("socket", layer.socket, socket_in(&state_dir), socket)?,
        state_dir,
        bpffs: set("bpffs", layer.bpffs, default.bpffs, absolute)?,
        on_exit: set("on_exit", layer.on_exit, default.on_exit, |text| {
            on_exit(&text)
        })?,
        host_mounts: set("host_mounts", layer.host_mounts, None, |text| {
            host_mounts(&text)
        })?,
        capacity,
        ready: set("ready", layer.ready, capacity, |n| ready(n, capacity))?,
        pool_cidr,
        max_capacity,
        pool_cidr6,
        address_mode: address_mode(
            layer.address_mode,
            layer.clone_inner,
            layer.clone_inner6,
            (pool_cidr, pool_cidr6),
        )?,
        egress: set("egress", layer.egress, default.egress, |text| egress(&text))?,
        ipv6,
        uplink: set("uplink", layer.uplink, default.uplink, uplink)?,
        workers: set(
            "refill.workers",
            layer.workers,
            default.workers,
            number(1..=16),
        )?,
        max_rtnl_wait: set(
            "refill.max_rtnl_wait",
            layer.max_rtnl_wait,
            default.max_rtnl_wait,
            |text| max_rtnl_wait(&text),
        )?,
        refill,
        nat: nat(
            layer.nat_ports,
            layer.nat_flows,
            layer.nat_flows_per_slot,
            default.nat,
        )?,
        publish: publish(layer.publish_max_ports, default.publish)?,
        policy,
        api: api(layer.api_max_clients, default.api)?,
        access: access(
            layer.access_group,
            layer.access_viewers,
            layer.access_users,
            layer.access_administrators,
        )?,
        locks: locks(layer.locks_enabled, layer.locks_long_wait_ms, default.locks)?,
        mtu: classes::optional("mtu", layer.mtu, classes::mtu)?,
        share,
        classes,
        reserves: classes::reserves(layer.reserves)?,
        quotas: Quotas {
            tenant: quota("quota.tenant", layer.quota_tenant)?,
            tenants: quotas(layer.quota_tenants)?,
            user: quota("quota.user", layer.quota_user)?,
        },
        reaper: reaper(layer.reaper_interval, default.reaper)?,
        metrics: classes::optional("metrics.listen", layer.metrics_listen, |text| text.parse())?,
        log: log(layer.log_format, layer.log_level, default.log)?,
    };
    classes::check_together(&config, &places)?;
    Ok(config)
}

fn publish(max_ports: Option<Given<i64>>, default: Publish) -> Result<Publish, ConfigError> {
    let most = number(1..=65_536);
    Ok(Publish {
        max_ports: set("publish.max_ports", max_ports, default.max_ports, most)?,
    })
}

fn api(max_clients: Option<Given<i64>>, default: Api) -> Result<Api, ConfigError> {
    let most = number(1..=65_536);
    Ok(Api {
        max_clients: set("api.max_clients", max_clients, default.max_clients, most)?,
    })
}

fn access(
    group: Option<Given<String>>,
    viewers: Option<Given<Vec<String>>>,
    users: Option<Given<Vec<String>>>,
    administrators: Option<Given<Vec<String>>>,
) -> Result<Access, ConfigError> {
    Ok(Access {
        group: group
            .map(|given| check("access.group", given, principal_name))
            .transpose()?,
        viewers: principals("access.viewers", viewers)?,
        users: principals("access.users", users)?,
        administrators: principals("access.administrators", administrators)?,
    })
}

fn reaper(given: Option<Given<String>>, default: Reaper) -> Result<Reaper, ConfigError> {
    Ok(Reaper {
        interval: set("reaper.interval", given, default.interval, |text| {
            interval(&text)
        })?,
    })
}

fn log(
    format: Option<Given<String>>,
    level: Option<Given<String>>,
    default: Log,
) -> Result<Log, ConfigError> {
    Ok(Log {
        format: set("log.format", format, default.format, |text| text.parse())?,
        level: set("log.level", level, default.level, |text| text.parse())?,
    })
}

fn policy(mut layer: PolicyLayer, default: &Policy) -> Result<Policy, ConfigError> {
    let given = policy::default("policy", layer.default.take())?;
    Ok(Policy {
        default: given.unwrap_or(default.default),
        template: policy::template("policy", layer, &default.template)?,
    })
}

fn locks(
    enabled: Option<Given<bool>>,
    long_wait_ms: Option<Given<i64>>,
    default: Locks,
) -> Result<Locks, ConfigError> {
    let milliseconds = |n| {
        let milliseconds = number(1..=60_000)(n)?;
        Ok(Duration::from_millis(milliseconds.into()))
    };
    Ok(Locks {
        enabled: enabled.map_or(default.enabled, |given| given.value),
        long_wait: set(
            "locks.long_wait_ms",
            long_wait_ms,
            default.long_wait,
            milliseconds,
        )?,
    })
}

/// How slots of a class are made: as `otherwise`, where nothing is said.
pub(super) fn refill(
    table: &str,
    layer: RefillLayer,
    capacity: u32,
    otherwise: Refill,
) -> Result<Refill, ConfigError> {
    let key = |name| format!("{table}.{name}");
    let ceiling = set(
        &key("ceiling"),
        layer.ceiling,
        capacity,
        number(0..=capacity),
    )?;
    let floor = otherwise.floor.min(ceiling);
    Ok(Refill {
        target: set(&key("target"), layer.target, otherwise.target, |text| {
            text.parse()
        })?,
        floor: set(&key("floor"), layer.floor, floor, number(0..=ceiling))?,
        ceiling,
        one_in: set(
            &key("one_in"),
            layer.one_in,
            otherwise.one_in,
            number(10..=1_000_000),
        )?,
        window_s: set(
            &key("window_s"),
            layer.window_s,
            otherwise.window_s,
            number(10..=86_400),
        )?,
        recycle: set(&key("recycle"), layer.recycle, otherwise.recycle, |text| {
            recycle(&text)
        })?,
    })
}

/// `off`, or a time with its unit.
fn max_rtnl_wait(text: &str) -> Result<Option<Duration>, String> {
    const LEAST: Duration = Duration::from_micros(50);
    const MOST: Duration = Duration::from_secs(10);
    if text == "off" {
        return Ok(None);
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        _ => {
            return Err(format!(
                "'{text}' is neither 'off' nor a time such as 2ms or 500us"
            ));
        }
    };
    let number: u32 = number.parse().map_err(|_| format!("'{text}' is no time"))?;
    match unit.checked_mul(number) {
        Some(wait) if (LEAST..=MOST).contains(&wait) => Ok(Some(wait)),
        _ => Err(format!("{text} is not between 50us and 10s")),
    }
}

fn quotas(
    layers: Vec<(Given<String>, QuotaLayer)>,
) -> Result<BTreeMap<String, Quota>, ConfigError> {
    let named = layers.into_iter().map(|(tenant, layer)| {
        let key = format!("quota.tenants.{}", tenant.value);
        let tenant = check(&key, tenant, |tenant| {
            limits::check_tenant(&tenant).map_err(|error| error.to_string())?;
            Ok(tenant)
        })?;
        Ok((tenant, quota(&key, layer)?))
    });
    named.collect()
}

/// A quota; 0 is no limit, as where nothing is said.
fn quota(key: &str, layer: QuotaLayer) -> Result<Quota, ConfigError> {
    let limit = |name: &str, given: Option<Given<i64>>, most| {
        let value = set(&format!("{key}.{name}"), given, 0, number(0..=most))?;
        Ok((value > 0).then_some(value))
    };
    Ok(Quota {
        attachments: limit("attachments", layer.attachments, MOST_SLOTS)?,
        attach_rate: limit("attach_rate", layer.attach_rate, MOST_ATTACHES)?,
    })
}

fn principals(key: &str, given: Option<Given<Vec<String>>>) -> Result<Vec<Principal>, ConfigError> {
    set(key, given, Vec::new(), |names| {
        names.into_iter().map(principal).collect()
    })
}

fn principal(text: String) -> Result<Principal, String> {
    match text.strip_prefix('@') {
        Some(group) => principal_name(group.to_owned()).map(Principal::Group),
        None => principal_name(text).map(Principal::User),
    }
}

/// A name of a user or a group, or its number. Whether there is one is for the host to say.
fn principal_name(text: String) -> Result<String, String> {
    let usable = |c: char| c.is_ascii_graphic() && !":,@/".contains(c);
    if (1..=PRINCIPAL_BYTES).contains(&text.len()) && text.chars().all(usable) {
        return Ok(text);
    }
    Err(format!(
        "{text:?} is not the name or number of a user, or of a group behind '@'"
    ))
}

fn nat(
    ports: Option<Given<String>>,
    flows: Option<Given<i64>>,
    flows_per_slot: Option<Given<i64>>,
    default: Nat,
) -> Result<Nat, ConfigError> {
    let flows = set(
        "nat.flows",
        flows,
        default.flows,
        number(1_024..=16_777_216),
    )?;
    Ok(Nat {
        ports: set("nat.ports", ports, default.ports, |text| port_range(&text))?,
        flows,
        flows_per_slot: set(
            "nat.flows_per_slot",
            flows_per_slot,
            default_flows_per_slot(flows),
            number(16..=flows),
        )?,
    })
}

/// A quarter: there is room for others beside a slot that uses all of it, and for many connections.
pub(super) const fn default_flows_per_slot(flows: u32) -> u32 {
    flows / 4
}

/// What slots have inside, where they have addresses of `pools` outside.
fn address_mode(
    mode: Option<Given<String>>,
    inner: Option<Given<String>>,
    inner6: Option<Given<String>>,
    pools: (Ipv4Net, PoolV6),
) -> Result<AddressMode, ConfigError> {
    let is_clone = set("address_mode", mode, false, |text| match text.as_str() {
        "unique" => Ok(false),
        "clone" => Ok(true),
        _ => Err(format!("'{text}' is neither 'unique' nor 'clone'")),
    })?;
    if is_clone {
        return Ok(AddressMode::Clone(Inner {
            v4: set("clone.inner", inner, DEFAULT_INNER.v4, |text| {
                inner_address(&text, pools.0)
            })?,
            v6: set("clone.inner6", inner6, DEFAULT_INNER.v6, |text| {
                inner_address6(&text, pools.1)
            })?,
        }));
    }
    for (key, given) in [("clone.inner", inner), ("clone.inner6", inner6)] {
        set(key, given, (), |_| {
            Err("slots have it with address_mode = \"clone\" only".to_owned())
        })?;
    }
    Ok(AddressMode::Unique)
}

fn inner_address(text: &str, pool: Ipv4Net) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| {
        format!(
            "'{text}' is not an IPv4 address, such as {}",
            DEFAULT_INNER.v4
        )
    })?;
    if let Some((taken, purpose)) = UNUSABLE.iter().find(|(taken, _)| taken.contains(&address)) {
        return Err(format!("{address} is within {taken} ({purpose})"));
    }
    if pool.contains(&address) {
        return Err(format!(
            "{address} is within pool_cidr, {pool}, by whose addresses slots are known outside"
        ));
    }
    Ok(address)
}

fn inner_address6(text: &str, pool: PoolV6) -> Result<Ipv6Addr, String> {
    let address: Ipv6Addr = text.parse().map_err(|_| {
        format!(
            "'{text}' is not an IPv6 address, such as {}",
            DEFAULT_INNER.v6
        )
    })?;
    let Some(prefix) = pool.prefix else {
        return Err("slots have no IPv6: pool_cidr6 is off".to_owned());
    };
    if !address.is_unique_local() && !GLOBAL_UNICAST.contains(&address) {
        return Err(format!(
            "{address} is neither within fc00::/7, the private addresses of IPv6, nor within {GLOBAL_UNICAST}"
        ));
    }
    if prefix.contains(&address) {
        return Err(format!(
            "{address} is within pool_cidr6, {prefix}, by whose addresses slots are known outside"
        ));
    }
    Ok(address)
}

fn egress(text: &str) -> Result<Egress, String> {
    match text {
        "ebpf" => Ok(Egress::Ebpf),
        "host" => Ok(Egress::Host),
        _ => Err(format!("'{text}' is neither 'ebpf' nor 'host'")),
    }
}

/// Routed slots have the addresses of a prefix that the network routes here; there is no default for it.
fn ipv6_egress(
    given: Option<Given<String>>,
    pool: Option<&Given<String>>,
) -> Result<Ipv6Egress, ConfigError> {
    let has_pool = pool.is_some_and(|pool| pool.value != "off");
    set(
        "ipv6.egress",
        given,
        Config::default().ipv6.egress,
        |text| match text.as_str() {
            "nat" => Ok(Ipv6Egress::Nat),
            "routed" if has_pool => Ok(Ipv6Egress::Routed),
            "routed" => Err(
                "'routed' needs pool_cidr6, a prefix that the network routes to this host"
                    .to_owned(),
            ),
            _ => Err(format!("'{text}' is neither 'nat' nor 'routed'")),
        },
    )
}

/// A prefix of unique local addresses (RFC 4193), which is all that translated slots need, or of global
/// ones for routed slots.
fn pool_cidr6(text: &str, egress: Ipv6Egress) -> Result<PoolV6, String> {
    let is_asked_for = true;
    if text == "off" {
        return Ok(PoolV6 {
            prefix: None,
            is_asked_for,
        });
    }
    let prefix: Ipv6Net = text
        .parse()
        .map_err(|_| format!("must be an IPv6 network like {POOL_PREFIX}, or off, found {text}"))?;
    if prefix != prefix.trunc() {
        return Err(format!(
            "{prefix} has bits behind its prefix; the network is {}",
            prefix.trunc()
        ));
    }
    let is_routed = egress == Ipv6Egress::Routed && GLOBAL_UNICAST.contains(&prefix);
    if !prefix.network().is_unique_local() && !is_routed {
        return Err(format!(
            "{prefix} is not within fc00::/7, the private addresses of IPv6; ipv6.egress \"routed\" takes \
             those of {GLOBAL_UNICAST}, too"
        ));
    }
    if prefix.prefix_len() > 128 - SLOT_BITS {
        return Err(format!(
            "{prefix} is longer than 96 bits, the slots' numbers have no room"
        ));
    }
    Ok(PoolV6 {
        prefix: Some(prefix),
        is_asked_for,
    })
}

pub(super) fn set<G, T>(
    key: &str,
    given: Option<Given<G>>,
    default: T,
    check: impl FnOnce(G) -> Result<T, String>,
) -> Result<T, ConfigError> {
    given.map_or(Ok(default), |given| self::check(key, given, check))
}

pub(super) fn check<G, T>(
    key: &str,
    Given { value, origin }: Given<G>,
    check: impl FnOnce(G) -> Result<T, String>,
) -> Result<T, ConfigError> {
    check(value).map_err(|reason| ConfigError::Invalid {
        origin,
        key: key.to_owned(),
        reason,
    })
}

pub(super) fn number(range: RangeInclusive<u32>) -> impl FnOnce(i64) -> Result<u32, String> {
    move |n| match u32::try_from(n) {
        Ok(fits) if range.contains(&fits) => Ok(fits),
        _ => Err(format!(
            "{n} is not between {} and {}",
            range.start(),
            range.end()
        )),
    }
}

pub(super) fn ready(n: i64, capacity: u32) -> Result<u32, String> {
    match u32::try_from(n) {
        Ok(fits) if fits <= capacity => Ok(fits),
        Ok(more) => Err(format!("{more} is more than the capacity, {capacity}")),
        Err(_) => Err(format!("{n} is not between 0 and the capacity, {capacity}")),
    }
}

/// The state directory; it also has to have room for the socket where that stands in it.
fn state_dir(given: Option<Given<String>>, holds_socket: bool) -> Result<PathBuf, ConfigError> {
    set("state_dir", given, Config::default().state_dir, |text| {
        let path = absolute(text)?;
        if holds_socket {
            fits_a_socket(&socket_in(&path))?;
        }
        Ok(path)
    })
}

pub(super) fn socket_in(state_dir: &Path) -> PathBuf {
    state_dir.join("pcpm.sock")
}

fn socket(text: String) -> Result<PathBuf, String> {
    let path = absolute(text)?;
    fits_a_socket(&path)?;
    Ok(path)
}

fn fits_a_socket(path: &Path) -> Result<(), String> {
    match path.as_os_str().len() {
        0..=SOCKET_PATH_BYTES => Ok(()),
        length => Err(format!(
            "the socket {} would have {length} bytes, a socket's path has at most {SOCKET_PATH_BYTES}",
            path.display()
        )),
    }
}

fn absolute(text: String) -> Result<PathBuf, String> {
    if let Some(bad) = text.chars().find(|c| c.is_control()) {
        return Err(format!("character {bad:?} in a path"));
    }
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err(format!("'{}' must be an absolute path", path.display()));
    }
    if path.parent().is_none() {
        return Err("the root directory cannot be used".to_owned());
    }
    Ok(path)
}

fn pool_cidr(text: &str, capacity: u32) -> Result<Ipv4Net, String> {
    let cidr: Ipv4Net = text.parse().map_err(|_| {
        format!("'{text}' is not an IPv4 network in CIDR notation, such as 10.213.0.0/16")
    })?;
    if cidr != cidr.trunc() {
        return Err(format!(
            "{cidr} is an address in a network, the network is {}",
            cidr.trunc()
        ));
    }
    if !(8..=30).contains(&cidr.prefix_len()) {
        return Err(format!("{cidr}: the prefix length is not between 8 and 30"));
    }
    if let Some((taken, purpose)) = UNUSABLE.iter().find(|(taken, _)| overlap(*taken, cidr)) {
        return Err(format!("{cidr} overlaps {taken} ({purpose})"));
    }
    let addresses = 1_u64 << (32 - cidr.prefix_len());
    if u64::from(capacity) > addresses {
        return Err(format!(
            "{cidr} has {addresses} addresses, too few for a capacity of {capacity}"
        ));
    }
    Ok(cidr)
}

/// As many slots as the hubs of `capacity` slots hold, and the pool has addresses for.
pub(super) fn whole_hubs(capacity: u32, pool: Ipv4Net) -> u32 {
    let whole = capacity.div_ceil(SLOTS_PER_HUB) * SLOTS_PER_HUB;
    whole.min(addresses(pool)).min(MOST_SLOTS)
}

fn max_capacity(n: i64, capacity: u32, pool: Ipv4Net) -> Result<u32, String> {
    number(capacity..=addresses(pool).min(MOST_SLOTS))(n)
}

pub(super) fn addresses(network: Ipv4Net) -> u32 {
    1_u32
        .checked_shl(u32::from(32 - network.prefix_len()))
        .unwrap_or(u32::MAX)
}

pub(super) fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn uplink(names: Vec<String>) -> Result<UplinkSetting, String> {
    match names.as_slice() {
        [] => Err("the list names no interface".to_owned()),
        [name] if name == "auto" => Ok(UplinkSetting::Auto),
        names if names.iter().any(|name| name == "auto") => {
            Err("'auto' stands alone, not beside names".to_owned())
        }
        _ => names
            .iter()
            .try_for_each(|name| interface_name(name))
            .map(|()| {
                let mut seen = BTreeSet::new();
                let once = names.into_iter().filter(|name| seen.insert(name.clone()));
                UplinkSetting::Interfaces(once.collect())
            }),
    }
}

fn interface_name(text: &str) -> Result<(), String> {
    let usable = |c: char| !c.is_whitespace() && !c.is_control() && c != '/' && c != ':';
    let dots = text == "." || text == "..";
    if (1..=INTERFACE_NAME_BYTES).contains(&text.len()) && text.chars().all(usable) && !dots {
        return Ok(());
    }
    Err(format!(
        "{text:?} is neither 'auto' nor the name of an interface (1 to {INTERFACE_NAME_BYTES} bytes)"
    ))
}

fn port_range(text: &str) -> Result<PortRange, String> {
    let numbers = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = numbers else {
        return Err(format!(
            "'{text}' is not a range of ports, such as 16384-32767"
        ));
    };
    if first > last {
        return Err(format!("{first}-{last} ends before it begins"));
    }
    if first < FIRST_UNPRIVILEGED_PORT {
        return Err(format!(
            "{first}-{last} begins below {FIRST_UNPRIVILEGED_PORT}"
        ));
    }
    Ok(PortRange { first, last })
}

fn recycle(text: &str) -> Result<Recycle, String> {
    match text {
        "never" => Ok(Recycle::Never),
        "same-tenant" => Ok(Recycle::SameTenant),
        "verified" => Ok(Recycle::Verified),
        _ => Err(format!(
            "'{text}' is not one of 'never', 'same-tenant' and 'verified'"
        )),
    }
}

/// A whole number of seconds, minutes or hours.
fn interval(text: &str) -> Result<Duration, String> {
    let units = [("s", 1), ("m", 60), ("h", 3600)];
    let seconds = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    match seconds {
        Some(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        Some(_) => Err(format!("{text} is not between 1s and 1h")),
        None => Err(format!("'{text}' is not a time, such as 10s, 5m or 1h")),
    }
}

fn on_exit(text: &str) -> Result<OnExit, String> {
    match text {
        "remove" => Ok(OnExit::Remove),
        "keep" => Ok(OnExit::Keep),
        _ => Err(format!("'{text}' is neither 'remove' nor 'keep'")),
    }
}

fn host_mounts(text: &str) -> Result<Option<HostMounts>, String> {
    match text {
        "auto" => Ok(None),
        "attached" => Ok(Some(HostMounts::Attached)),
        "all" => Ok(Some(HostMounts::All)),
        _ => Err(format!("'{text}' is not 'auto', 'attached' or 'all'")),
    }
}

const fn network(address: [u8; 4], prefix: u8) -> Ipv4Net {
    let [a, b, c, d] = address;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}
