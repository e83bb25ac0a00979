//! Which classes of slots and reservations can be used, each by itself and all together.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use pcpm_api::limits::{self, DEFAULT_CLASS};
use pcpm_api::options::Options;

use super::error::{ConfigError, Origin};
use super::layer::{ClassLayer, Given, Layer, PolicyLayer, ReserveLayer};
use super::policy;
use super::validate::{MOST_SLOTS, addresses, check, number, overlap, ready, refill, set};
use super::{Class, Config, Refill, Reserve};
use crate::net::Share;
use crate::pool::Recycle;

/// Classes there may be beside the default one.
const MOST_CLASSES: usize = 63;
/// Reservations there may be.
const MOST_RESERVES: usize = 64;
/// Tenants and beginnings of their names that a reservation may have.
const MOST_TENANTS: usize = 256;

/// IPv6 needs this (RFC 8200, section 5).
const SMALLEST_MTU: u32 = 1280;
/// The table of rules and limits of the class default.
const POLICY: &str = "policy";
/// What a veth takes.
const LARGEST_MTU: u32 = 65_535;

/// Where settings stand that can only be judged together.
pub(super) struct Places(BTreeMap<String, Origin>);

impl Places {
    pub(super) fn of(layer: &Layer) -> Self {
        let classes = layer.classes.iter().flat_map(|(name, class)| {
            let addresses = class.addresses.as_ref();
            let addresses = addresses.map(|given| (addresses_key(&name.value), &given.origin));
            let policy = rules_of(&class.policy).unwrap_or(&name.origin);
            [
                (class_key(&name.value), &name.origin),
                (policy_key(&name.value), policy),
            ]
            .into_iter()
            .chain(addresses)
        });
        let policy = rules_of(&layer.policy);
        let policy = policy.map(|origin| (POLICY.to_owned(), origin));
        let reserves = layer.reserves.iter();
        let reserves = reserves.map(|(name, _)| (reserve_key(&name.value), &name.origin));
        let all = classes.chain(reserves).chain(policy);
        Self(all.map(|(key, origin)| (key, origin.clone())).collect())
    }

    fn refuse(&self, key: String, reason: String) -> ConfigError {
        match self.0.get(&key) {
            Some(origin) => ConfigError::Invalid {
                origin: origin.clone(),
                key,
                reason,
            },
            None => unreachable!("{key} was read from somewhere"),
        }
    }
}

/// Where the rules stand.
fn rules_of(layer: &PolicyLayer) -> Option<&Origin> {
    let rules = layer.allow.as_ref().or(layer.deny.as_ref());
    rules.map(|given| &given.origin)
}

fn class_key(name: &str) -> String {
    format!("class.{name}")
}

fn addresses_key(name: &str) -> String {
    format!("class.{name}.addresses")
}

fn policy_key(name: &str) -> String {
    format!("class.{name}.policy")
}

fn reserve_key(name: &str) -> String {
    format!("reserve.{name}")
}

/// What is said at top level.
#[derive(Clone, Copy)]
pub(super) struct Otherwise<'a> {
    pub(super) refill: Refill,
    pub(super) share: Share,
    pub(super) template: &'a Options,
}

/// The classes; what one does not say is as at top level.
pub(super) fn classes(
    layers: Vec<(Given<String>, ClassLayer)>,
    otherwise: Otherwise<'_>,
) -> Result<Vec<Class>, ConfigError> {
    let classes = layers.into_iter().enumerate();
    let classes = classes.map(|(index, (name, layer))| {
        let key = class_key(&name.value);
        let origin = name.origin.clone();
        let name = check(&key, name, |name| class_name(name, index))?;
        class(&key, origin, name, layer, otherwise)
    });
    classes.collect()
}

fn class(
    table: &str,
    origin: Origin,
    name: String,
    mut layer: ClassLayer,
    otherwise: Otherwise<'_>,
) -> Result<Class, ConfigError> {
    let key = |name| format!("{table}.{name}");
    let place = origin.clone();
    let capacity = layer.capacity.ok_or_else(|| ConfigError::Invalid {
        origin,
        key: key("capacity"),
        reason: "must be given: how many slots the class has".to_owned(),
    })?;
    let capacity = check(&key("capacity"), capacity, number(1..=MOST_SLOTS))?;
    let refill = refill(&key("refill"), layer.refill, capacity, otherwise.refill)?;
    let policy = key("policy");
    Ok(Class {
        default: policy::default(&policy, layer.policy.default.take())?,
        template: policy::template(&policy, layer.policy, otherwise.template)?,
        capacity,
        ready: set(&key("ready"), layer.ready, capacity, |n| ready(n, capacity))?,
        addresses: optional(&key("addresses"), layer.addresses, |text| network(&text))?,
        mtu: optional(&key("mtu"), layer.mtu, mtu)?,
        share: share(
            &key("share"),
            layer.share,
            (otherwise.share, Some(place)),
            refill,
        )?,
        refill,
        name,
    })
}

/// The reservations.
pub(super) fn reserves(
    layers: Vec<(Given<String>, ReserveLayer)>,
) -> Result<Vec<Reserve>, ConfigError> {
    let reserves = layers.into_iter().enumerate();
    let reserves = reserves.map(|(index, (name, layer))| {
        let table = reserve_key(&name.value);
        let key = |name| format!("{table}.{name}");
        let missing = |what: &str, reason: &str| ConfigError::Invalid {
            origin: name.origin.clone(),
            key: format!("{table}.{what}"),
            reason: reason.to_owned(),
        };
        let tenants = layer.tenants;
        let tenants = tenants.ok_or_else(|| missing("tenants", "must be given: whom it is for"))?;
        let warm = layer.warm;
        let warm = warm.ok_or_else(|| missing("warm", "must be given: how many slots"))?;
        let default = DEFAULT_CLASS.to_owned();
        Ok(Reserve {
            tenants: check(&key("tenants"), tenants, |texts| {
                if texts.is_empty() || texts.len() > MOST_TENANTS {
                    return Err(format!(
                        "{} are named, not 1 to {MOST_TENANTS}",
                        texts.len()
                    ));
                }
                texts.iter().map(|text| text.parse()).collect()
            })?,
            warm: check(&key("warm"), warm, number(1..=MOST_SLOTS))?,
            class: set(&key("class"), layer.class, default, Ok)?,
            name: check(&table, name.clone(), |name| reserve_name(name, index))?,
        })
    });
    reserves.collect()
}

/// What cannot be said of one of them alone.
pub(super) fn check_together(config: &Config, places: &Places) -> Result<(), ConfigError> {
    policy::check_rules(config, &config.policy.template)
        .map_err(|reason| places.refuse(POLICY.to_owned(), reason))?;
    for (index, class) in config.classes.iter().enumerate() {
        policy::check_rules(config, &class.template)
            .map_err(|reason| places.refuse(policy_key(&class.name), reason))?;
        if let Some(own) = class.addresses {
            check_addresses(config, class, own, &config.classes[..index])
                .map_err(|reason| places.refuse(addresses_key(&class.name), reason))?;
        }
    }
    for reserve in &config.reserves {
        check_reserve(config, reserve)
            .map_err(|reason| places.refuse(reserve_key(&reserve.name), reason))?;
    }
    Ok(())
}

/// A range must be of the pool's, behind what classes share, and nobody else's.
fn check_addresses(
    config: &Config,
    class: &Class,
    own: Ipv4Net,
    others: &[Class],
) -> Result<(), String> {
    let pool = config.pool_cidr;
    if !pool.contains(&own) {
        return Err(format!("{own} is not a part of pool_cidr, {pool}"));
    }
    let size = addresses(own);
    if class.capacity > size {
        return Err(format!(
            "{own} has {size} addresses, too few for a capacity of {}",
            class.capacity
        ));
    }
    let indexes = config.indexes(own);
    if indexes.start < config.max_capacity {
        return Err(format!(
            "{own} overlaps the first {shared} addresses of pool_cidr (max_capacity), which classes without \
             addresses of their own share",
            shared = config.max_capacity
        ));
    }
    if indexes.end > MOST_SLOTS {
        return Err(format!(
            "{own} is not among the first {MOST_SLOTS} addresses of pool_cidr"
        ));
    }
    match others
        .iter()
        .find(|other| other.addresses.is_some_and(|other| overlap(own, other)))
    {
        Some(other) => Err(format!("{own} overlaps that of class {}", other.name)),
        None => Ok(()),
    }
}

fn check_reserve(config: &Config, reserve: &Reserve) -> Result<(), String> {
    let mut specs = config.class_specs().into_iter();
    let Some(class) = specs.find(|class| class.name == reserve.class) else {
        return Err(format!("there is no class '{}'", reserve.class));
    };
    let (all, capacity): (u32, u32) = (
        class.pool.reserves.iter().map(|reserve| reserve.warm).sum(),
        class.pool.capacity,
    );
    if all >= capacity {
        return Err(format!(
            "reservations of class {} hold {all} slots back of {capacity}: none would be left for others",
            class.name
        ));
    }
    let same = config
        .reserves
        .iter()
        .filter(|other| other.class == reserve.class);
    let before = same.take_while(|other| other.name != reserve.name);
    for other in before {
        if let Some(pattern) = reserve.tenants.iter().find(|p| other.tenants.contains(p)) {
            return Err(format!("{pattern} has reservation {} already", other.name));
        }
    }
    Ok(())
}

/// Slots of all classes that share their addresses.
pub(super) fn sharing(default: u32, classes: &[Class]) -> u32 {
    let others = classes.iter().filter(|class| class.addresses.is_none());
    others.fold(default, |all, class| all.saturating_add(class.capacity))
}

/// Namespaces that slots have beside the network one. Nobody sees whether those are clean, so such slots are not
/// used again.
pub(super) fn share(
    key: &str,
    given: Option<Given<Vec<String>>>,
    (otherwise, place): (Share, Option<Origin>),
    refill: Refill,
) -> Result<Share, ConfigError> {
    let origin = given.as_ref().map(|given| given.origin.clone()).or(place);
    let share = set(key, given, otherwise, |words| {
        words.iter().map(|word| word.parse()).collect()
    })?;
    if share.is_nothing() || refill.recycle == Recycle::Never {
        return Ok(share);
    }
    let reason = format!(
        "refill.recycle is {}, and what is left in these namespaces is not looked at: slots that have them cannot \
         be used again",
        refill.recycle
    );
    Err(ConfigError::Invalid {
        origin: origin.expect("nothing is shared where nothing is said"),
        key: key.to_owned(),
        reason,
    })
}

pub(super) fn mtu(n: i64) -> Result<u32, String> {
    number(SMALLEST_MTU..=LARGEST_MTU)(n)
}

fn class_name(name: String, index: usize) -> Result<String, String> {
    limits::check_class(&name).map_err(|error| error.to_string())?;
    if name == DEFAULT_CLASS {
        return Err("the class default is what the settings at top level are about".to_owned());
    }
    few(index, MOST_CLASSES, "classes")?;
    Ok(name)
}

fn reserve_name(name: String, index: usize) -> Result<String, String> {
    limits::check_class(&name).map_err(|error| error.to_string())?;
    few(index, MOST_RESERVES, "reservations")?;
    Ok(name)
}

fn few(index: usize, most: usize, what: &str) -> Result<(), String> {
    if index < most {
        Ok(())
    } else {
        Err(format!("more than {most} {what}"))
    }
}

fn network(text: &str) -> Result<Ipv4Net, String> {
    let network: Ipv4Net = text
        .parse()
        .map_err(|_| format!("'{text}' is not an IPv4 network in CIDR notation"))?;
    if network == network.trunc() {
        return Ok(network);
    }
    Err(format!(
        "{network} is an address in a network, the network is {}",
        network.trunc()
    ))
}

pub(super) fn optional<G, T>(
    key: &str,
    given: Option<Given<G>>,
    checked: impl FnOnce(G) -> Result<T, String>,
) -> Result<Option<T>, ConfigError> {
    given.map(|given| check(key, given, checked)).transpose()
}
