//! Reading the configuration again while the daemon runs: what changed, what of it takes effect at once,
//! and what waits for the next start. A configuration that is wrong changes nothing.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use pcpm_api::types::ReloadReply;

use crate::{
    api::{Access, Live},
    config::{Args, Class, Config},
    engine::{ClassSpec, Shared},
    log::Log,
    pool::{Target, Terms},
    supervisor::Supervisor,
};

/// Keys, or tables, that take effect at once.
const LIVE: [&str; 19] = [
    "capacity",
    "ready",
    "refill.target",
    "refill.floor",
    "refill.ceiling",
    "refill.one_in",
    "refill.window_s",
    "policy.allow",
    "policy.deny",
    "policy.rate_up",
    "policy.rate_down",
    "policy.rate_up_packets",
    "policy.rate_down_packets",
    "quota",
    "access.viewers",
    "access.users",
    "access.administrators",
    "api.max_clients",
    "log.level",
];

/// Keys of the pool's size: a reload that changes none of them leaves a resize in force.
const SIZES: [&str; 7] = [
    "capacity",
    "ready",
    "refill.target",
    "refill.floor",
    "refill.ceiling",
    "refill.one_in",
    "refill.window_s",
];

/// Reads the configuration from where it was read at the start.
pub(crate) struct Reload {
    args: Args,
    engine: Shared,
    live: Rc<Live>,
    log: Rc<Log>,
    supervisor: Rc<Supervisor>,
    /// As it was read at the start; what waits for the next one is told against this.
    started_with: Config,
    /// As it was read last.
    read: RefCell<Config>,
}

impl Reload {
    pub(crate) fn new(
        (args, config): (Args, Config),
        engine: Shared,
        live: Rc<Live>,
        log: Rc<Log>,
        supervisor: Rc<Supervisor>,
    ) -> Self {
        Self {
            args,
            engine,
            live,
            log,
            supervisor,
            started_with: config.clone(),
            read: RefCell::new(config),
        }
    }

    /// Reads it again and applies what can be applied.
    ///
    /// # Errors
    /// What is wrong with it; nothing changed then.
    pub(crate) fn run(&self) -> Result<ReloadReply, String> {
        let done = self.supervisor.reloading(|| self.apply());
        match &done {
            Ok(reply) => {
                let restart = reply.restart_needed.clone();
                let mut engine = self.engine.borrow_mut();
                engine.reloaded(&reply.changed, restart, reply.updated);
            }
            Err(reason) => self.engine.borrow_mut().reload_failed(reason),
        }
        done
    }

    fn apply(&self) -> Result<ReloadReply, String> {
        let config = Config::load(&self.args).map_err(|error| error_chain(&error))?;
        let filter = config.log_filter(&self.args, std::env::var("RUST_LOG").ok())?;
        let access = Access::resolve(&config.access)?;
        let changed = difference(&self.read.borrow(), &config);
        let waits = |key: &String| !self.is_live(key, &config);
        let mut restart_needed: Vec<_> = difference(&self.started_with, &config)
            .into_iter()
            .filter(waits)
            .collect();
        let mut engine = self.engine.borrow_mut();
        let sizes = |key: &String| is_one_of(self.within_class(key, &config), &SIZES);
        if changed.iter().any(sizes) && !engine.resize_as_configured(&self.sizes(&config)) {
            restart_needed.push("capacity".to_owned());
        }
        let updated = engine.set_terms(self.terms(&config));
        engine.set_quotas(config.quotas.clone());
        self.live.set(access, config.api.max_clients);
        self.log.set_filter(filter);
        self.read.replace(config);
        let changed = changed.into_iter().collect();
        Ok(ReloadReply {
            changed,
            restart_needed,
            updated,
        })
    }
}

impl Reload {
    /// Whether a change of the key takes effect at once.
    fn is_live(&self, key: &str, config: &Config) -> bool {
        let within = self.within_class(key, config);
        if within == key {
            is_one_of(key, &LIVE)
        } else {
            is_one_of(within, &SIZES) || is_one_of(within, &["policy"])
        }
    }

    /// The key as it stands in the table of its class, if that is a class which was there at the start and
    /// still is.
    fn within_class<'k>(&self, key: &'k str, config: &Config) -> &'k str {
        let kept = self.started_with.classes.iter();
        let mut kept = kept.filter(|class| class_of(config, &class.name).is_some());
        let within = kept.find_map(|class| {
            let table = key.strip_prefix("class.")?.strip_prefix(&*class.name)?;
            table.strip_prefix('.')
        });
        within.unwrap_or(key)
    }

    /// The sizes of the classes that there are, in their order.
    fn sizes(&self, config: &Config) -> Vec<(u32, Target)> {
        let classes = self.classes(config).into_iter();
        let sizes = classes.map(|class| (class.pool.capacity, class.pool.target));
        sizes.collect()
    }

    /// What they say of rules and limits.
    fn terms(&self, config: &Config) -> Vec<Option<Rc<Terms>>> {
        let classes = self.classes(config).into_iter();
        classes.map(|class| class.terms).collect()
    }

    /// The classes that there are, as they are configured now, or as they were where they are no more.
    fn classes(&self, config: &Config) -> Vec<ClassSpec> {
        let now = config.class_specs();
        let started = self.started_with.class_specs().into_iter();
        let all = started.map(|class| {
            let now = now.iter().find(|now| now.name == class.name);
            now.cloned().unwrap_or(class)
        });
        all.collect()
    }
}

fn class_of<'c>(config: &'c Config, name: &str) -> Option<&'c Class> {
    config.classes.iter().find(|class| class.name == name)
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Whether `key` is one of `keys`, or in a table that is.
fn is_one_of(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|&known| {
        key.strip_prefix(known)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// The keys in which two configurations differ.
fn difference(before: &Config, after: &Config) -> BTreeSet<String> {
    let (before, after) = (settings(before), settings(after));
    let keys = before.keys().chain(after.keys());
    keys.filter(|&key| before.get(key) != after.get(key))
        .cloned()
        .collect()
}

/// All settings by their full keys, as they are printed.
fn settings(config: &Config) -> BTreeMap<String, toml::Value> {
    let table: toml::Table = config
        .to_toml()
        .parse()
        .expect("printed settings can be read");
    let mut all = BTreeMap::new();
    flatten("", table, &mut all);
    all
}

fn flatten(prefix: &str, table: toml::Table, all: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            toml::Value::Table(table) => flatten(&format!("{key}."), table, all),
            value => drop(all.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_differ_are_named_in_full() {
        let before = Config::default();
        let mut after = before.clone();
        after.publish.max_ports = 7;
        after.quotas.tenant.attachments = Some(3);
        let keys = difference(&before, &after);
        let expected = ["publish.max_ports", "quota.tenant.attachments"];
        assert_eq!(keys.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_key_is_live_by_itself_or_by_its_table() {
        assert!(is_one_of("quota.tenants.a.attach_rate", &LIVE));
        assert!(is_one_of("capacity", &LIVE));
        assert!(!is_one_of("capacity_of_something", &LIVE));
        assert!(!is_one_of("nat.flows", &LIVE));
    }
}
