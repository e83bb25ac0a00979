//! Which rules and limits can be given to all attachments of a class.

use pcpm_api::{
    error::PoolError,
    options::Options,
    rates::{self, Rate},
    rules::{self, Rules},
    types::DefaultPolicy,
};

use super::{
    Config,
    error::{ConfigError, Origin},
    layer::{Given, PolicyLayer},
    validate::{check, set},
};
use crate::policy::Ranges;

/// Whether the world is open where no rule says.
pub(super) fn default(
    table: &str,
    given: Option<Given<String>>,
) -> Result<Option<DefaultPolicy>, ConfigError> {
    let key = format!("{table}.default");
    given
        .map(|given| check(&key, given, |text| text.parse()))
        .transpose()
}

/// Rules and limits; as `otherwise`, where nothing is said.
pub(super) fn template(
    table: &str,
    layer: PolicyLayer,
    otherwise: &Options,
) -> Result<Options, ConfigError> {
    let key = |name| format!("{table}.{name}");
    let before = &otherwise.rules;
    let origin = layer.deny.as_ref().or(layer.allow.as_ref());
    let origin = origin.map(|given| given.origin.clone());
    let list = |name, given, before: &[rules::Rule]| {
        set(&key(name), given, before.to_vec(), |texts: Vec<String>| {
            rules::parse_all(name, &texts).map_err(reason)
        })
    };
    let allow = list("allow", layer.allow, before.allow())?;
    let deny = list("deny", layer.deny, before.deny())?;
    let rules = match (Rules::new(allow, deny), origin) {
        (Ok(rules), _) => rules,
        (Err(error), Some(origin)) => return Err(together(table, origin, error)),
        (Err(error), None) => unreachable!("rules of the top level were checked there: {error}"),
    };
    let rate = |name, given, before, check: Check| {
        set(&key(name), given, before, |text: String| {
            let rate = rates::parse(&text)?;
            check(name, Some(rate)).map_err(reason)
        })
    };
    let (up, down) = (otherwise.up, otherwise.down);
    let (bits, packets): (Check, Check) = (rates::check_bits, rates::check_packets);
    Ok(Options {
        rules,
        up: Rate {
            bits: rate("rate_up", layer.rate_up, up.bits, bits)?,
            packets: rate(
                "rate_up_packets",
                layer.rate_up_packets,
                up.packets,
                packets,
            )?,
        },
        down: Rate {
            bits: rate("rate_down", layer.rate_down, down.bits, bits)?,
            packets: rate(
                "rate_down_packets",
                layer.rate_down_packets,
                down.packets,
                packets,
            )?,
        },
        ..Options::default()
    })
}

type Check = fn(&str, Option<u64>) -> Result<Option<u64>, PoolError>;

/// What is only known with the pool's addresses: whether the kernel's table takes the rules.
pub(super) fn check_rules(config: &Config, template: &Options) -> Result<(), String> {
    let v6 = config.pool_cidr6.prefix.map(Into::into);
    let pool = [config.pool_cidr.into()].into_iter().chain(v6);
    let checked = Ranges::new(pool).check(&template.rules);
    checked.map_err(|error| error.to_string())
}

fn together(table: &str, origin: Origin, error: PoolError) -> ConfigError {
    let (field, reason) = match error {
        PoolError::InvalidArgument { field, reason } => (field, reason),
        other => ("allow".to_owned(), other.to_string()),
    };
    ConfigError::Invalid {
        origin,
        key: format!("{table}.{field}"),
        reason,
    }
}

fn reason(error: PoolError) -> String {
    match error {
        PoolError::InvalidArgument { reason, .. } => reason,
        other => other.to_string(),
    }
}
