//! Settings of one source, as they were written and with the place they were written at. Types are
//! checked here, values are not.

use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};

/// What one source says; `None` where it says nothing.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) socket: Option<Given<String>>,
    pub(super) state_dir: Option<Given<String>>,
    pub(super) bpffs: Option<Given<String>>,
    pub(super) on_exit: Option<Given<String>>,
    pub(super) host_mounts: Option<Given<String>>,
    pub(super) capacity: Option<Given<i64>>,
    pub(super) max_capacity: Option<Given<i64>>,
    pub(super) ready: Option<Given<i64>>,
    pub(super) pool_cidr: Option<Given<String>>,
    pub(super) pool_cidr6: Option<Given<String>>,
    pub(super) address_mode: Option<Given<String>>,
    pub(super) clone_inner: Option<Given<String>>,
    pub(super) clone_inner6: Option<Given<String>>,
    pub(super) egress: Option<Given<String>>,
    pub(super) ipv6_egress: Option<Given<String>>,
    pub(super) uplink: Option<Given<Vec<String>>>,
    pub(super) workers: Option<Given<i64>>,
    pub(super) max_rtnl_wait: Option<Given<String>>,
    pub(super) refill: RefillLayer,
    pub(super) mtu: Option<Given<i64>>,
    pub(super) share: Option<Given<Vec<String>>>,
    /// By their names.
    pub(super) classes: Vec<(Given<String>, ClassLayer)>,
    /// The same.
    pub(super) reserves: Vec<(Given<String>, ReserveLayer)>,
    pub(super) nat_ports: Option<Given<String>>,
    pub(super) nat_flows: Option<Given<i64>>,
    pub(super) nat_flows_per_slot: Option<Given<i64>>,
    pub(super) publish_max_ports: Option<Given<i64>>,
    pub(super) policy: PolicyLayer,
    pub(super) api_max_clients: Option<Given<i64>>,
    pub(super) access_group: Option<Given<String>>,
    pub(super) access_viewers: Option<Given<Vec<String>>>,
    pub(super) access_users: Option<Given<Vec<String>>>,
    pub(super) access_administrators: Option<Given<Vec<String>>>,
    pub(super) locks_enabled: Option<Given<bool>>,
    pub(super) locks_long_wait_ms: Option<Given<i64>>,
    pub(super) reaper_interval: Option<Given<String>>,
    pub(super) metrics_listen: Option<Given<String>>,
    pub(super) log_format: Option<Given<String>>,
    pub(super) log_level: Option<Given<String>>,
    pub(super) quota_tenant: QuotaLayer,
    pub(super) quota_user: QuotaLayer,
    /// By the tenants' names.
    pub(super) quota_tenants: Vec<(Given<String>, QuotaLayer)>,
}

/// What one source says of how slots are made.
#[derive(Debug, Default)]
pub(super) struct RefillLayer {
    pub(super) target: Option<Given<String>>,
    pub(super) floor: Option<Given<i64>>,
    pub(super) ceiling: Option<Given<i64>>,
    pub(super) one_in: Option<Given<i64>>,
    pub(super) window_s: Option<Given<i64>>,
    pub(super) recycle: Option<Given<String>>,
}

/// What one source says of whom slots reach, and how fast.
#[derive(Debug, Default)]
pub(super) struct PolicyLayer {
    pub(super) default: Option<Given<String>>,
    pub(super) allow: Option<Given<Vec<String>>>,
    pub(super) deny: Option<Given<Vec<String>>>,
    pub(super) rate_up: Option<Given<String>>,
    pub(super) rate_down: Option<Given<String>>,
    pub(super) rate_up_packets: Option<Given<String>>,
    pub(super) rate_down_packets: Option<Given<String>>,
}

/// What one source says of a class of slots.
#[derive(Debug, Default)]
pub(super) struct ClassLayer {
    pub(super) capacity: Option<Given<i64>>,
    pub(super) ready: Option<Given<i64>>,
    pub(super) addresses: Option<Given<String>>,
    pub(super) mtu: Option<Given<i64>>,
    pub(super) share: Option<Given<Vec<String>>>,
    pub(super) refill: RefillLayer,
    pub(super) policy: PolicyLayer,
}

/// What one source says of slots that are held back.
#[derive(Debug, Default)]
pub(super) struct ReserveLayer {
    pub(super) class: Option<Given<String>>,
    pub(super) tenants: Option<Given<Vec<String>>>,
    pub(super) warm: Option<Given<i64>>,
}

/// A quota of one source.
#[derive(Debug, Default)]
pub(super) struct QuotaLayer {
    pub(super) attachments: Option<Given<i64>>,
    pub(super) attach_rate: Option<Given<i64>>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) origin: Origin,
}

impl Layer {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(source) => Err(ConfigError::Read {
                path: path.to_owned(),
                source,
            }),
        }
    }

    pub(super) fn read_if_present(path: &Path) -> Result<Self, ConfigError> {
        match Self::read(path) {
            Err(ConfigError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Ok(Self::default())
            }
            other => other,
        }
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let file = File { text, path };
        let document = DeTable::parse(text).map_err(|e| file.syntax_error(&e))?;
        let mut root = Table::new(file, "", document.get_ref());
        let mut clone = root.table("clone")?;
        let mut ipv6 = root.table("ipv6")?;
        let mut refill = root.table("refill")?;
        let mut nat = root.table("nat")?;
        let mut publish = root.table("publish")?;
        let mut policy = root.table("policy")?;
        let mut api = root.table("api")?;
        let mut access = root.table("access")?;
        let mut quota = root.table("quota")?;
        let mut locks = root.table("locks")?;
        let mut reaper = root.table("reaper")?;
        let mut log = root.table("log")?;
        let mut metrics = root.table("metrics")?;
        let layer = Self {
            socket: root.text("socket")?,
            state_dir: root.text("state_dir")?,
            bpffs: root.text("bpffs")?,
            on_exit: root.text("on_exit")?,
            host_mounts: root.text("host_mounts")?,
            capacity: root.integer("capacity")?,
            max_capacity: root.integer("max_capacity")?,
            ready: root.integer("ready")?,
            pool_cidr: root.text("pool_cidr")?,
            pool_cidr6: root.text("pool_cidr6")?,
            address_mode: root.text("address_mode")?,
            clone_inner: clone.text("inner")?,
            clone_inner6: clone.text("inner6")?,
            egress: root.text("egress")?,
            ipv6_egress: ipv6.text("egress")?,
            uplink: root.text_or_texts("uplink")?,
            workers: refill.integer("workers")?,
            max_rtnl_wait: refill.text("max_rtnl_wait")?,
            refill: refill.refill()?,
            mtu: root.integer("mtu")?,
            share: root.texts("share")?,
            classes: root.table("class")?.tables(Table::class)?,
            reserves: root.table("reserve")?.tables(Table::reserve)?,
            nat_ports: nat.text("ports")?,
            nat_flows: nat.integer("flows")?,
            nat_flows_per_slot: nat.integer("flows_per_slot")?,
            publish_max_ports: publish.integer("max_ports")?,
            policy: policy.policy()?,
            api_max_clients: api.integer("max_clients")?,
            access_group: access.text("group")?,
            access_viewers: access.texts("viewers")?,
            access_users: access.texts("users")?,
            access_administrators: access.texts("administrators")?,
            locks_enabled: locks.boolean("enabled")?,
            locks_long_wait_ms: locks.integer("long_wait_ms")?,
            reaper_interval: reaper.text("interval")?,
            metrics_listen: metrics.text("listen")?,
            log_format: log.text("format")?,
            log_level: log.text("level")?,
            quota_tenant: quota.table("tenant")?.quota()?,
            quota_user: quota.table("user")?.quota()?,
            quota_tenants: quota.table("tenants")?.tables(Table::quota)?,
        };
        [
            root, clone, ipv6, refill, nat, publish, policy, api, access, quota, locks, reaper,
            metrics, log,
        ]
        .iter()
        .try_for_each(Table::deny_unknown)?;
        Ok(layer)
    }

    /// `over` where it says something, else this layer.
    pub(super) fn overridden_by(self, over: Self) -> Self {
        Self {
            socket: over.socket.or(self.socket),
            state_dir: over.state_dir.or(self.state_dir),
            bpffs: over.bpffs.or(self.bpffs),
            on_exit: over.on_exit.or(self.on_exit),
            host_mounts: over.host_mounts.or(self.host_mounts),
            capacity: over.capacity.or(self.capacity),
            ready: over.ready.or(self.ready),
            pool_cidr: over.pool_cidr.or(self.pool_cidr),
            pool_cidr6: over.pool_cidr6.or(self.pool_cidr6),
            egress: over.egress.or(self.egress),
            ipv6_egress: over.ipv6_egress.or(self.ipv6_egress),
            uplink: over.uplink.or(self.uplink),
            refill: RefillLayer {
                target: over.refill.target.or(self.refill.target),
                ..self.refill
            },
            nat_ports: over.nat_ports.or(self.nat_ports),
            nat_flows: over.nat_flows.or(self.nat_flows),
            nat_flows_per_slot: over.nat_flows_per_slot.or(self.nat_flows_per_slot),
            publish_max_ports: over.publish_max_ports.or(self.publish_max_ports),
            api_max_clients: over.api_max_clients.or(self.api_max_clients),
            metrics_listen: over.metrics_listen.or(self.metrics_listen),
            log_format: over.log_format.or(self.log_format),
            log_level: over.log_level.or(self.log_level),
            // There are no options for these.
            ..self
        }
    }
}

#[derive(Clone, Copy)]
struct File<'a> {
    text: &'a str,
    path: &'a Path,
}

impl File<'_> {
    fn origin(&self, span: Option<Range<usize>>) -> Origin {
        let start = span.map_or(0, |span| span.start.min(self.text.len()));
        let line = 1 + self.text[..start].matches('\n').count();
        Origin::File {
            path: self.path.to_owned(),
            line,
        }
    }

    fn syntax_error(&self, error: &toml::de::Error) -> ConfigError {
        ConfigError::Syntax {
            origin: self.origin(error.span()),
            reason: error.message().trim_end().replace('\n', ", "),
        }
    }
}

/// One table of the file, and which of its keys were asked for: those are the known ones.
struct Table<'a> {
    file: File<'a>,
    name: String,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
}

impl<'a> Table<'a> {
    fn new(
        file: File<'a>,
        name: impl Into<String>,
        entries: impl Into<Option<&'a DeTable<'a>>>,
    ) -> Self {
        Self {
            file,
            name: name.into(),
            entries: entries.into(),
            known: Vec::new(),
        }
    }

    fn table(&mut self, key: &'static str) -> Result<Self, ConfigError> {
        let found = self.value(key, "a table", DeValue::as_table)?;
        let name = self.full_name(key);
        Ok(Self::new(self.file, name, found.map(|(_, table)| table)))
    }

    fn refill(&mut self) -> Result<RefillLayer, ConfigError> {
        Ok(RefillLayer {
            target: self.text("target")?,
            floor: self.integer("floor")?,
            ceiling: self.integer("ceiling")?,
            one_in: self.integer("one_in")?,
            window_s: self.integer("window_s")?,
            recycle: self.text("recycle")?,
        })
    }

    fn policy(&mut self) -> Result<PolicyLayer, ConfigError> {
        Ok(PolicyLayer {
            default: self.text("default")?,
            allow: self.texts("allow")?,
            deny: self.texts("deny")?,
            rate_up: self.text("rate_up")?,
            rate_down: self.text("rate_down")?,
            rate_up_packets: self.text("rate_up_packets")?,
            rate_down_packets: self.text("rate_down_packets")?,
        })
    }

    /// The quota that the table is.
    fn quota(mut self) -> Result<QuotaLayer, ConfigError> {
        let quota = QuotaLayer {
            attachments: self.integer("attachments")?,
            attach_rate: self.integer("attach_rate")?,
        };
        self.deny_unknown()?;
        Ok(quota)
    }

    /// The class of slots that the table is.
    fn class(mut self) -> Result<ClassLayer, ConfigError> {
        let mut refill = self.table("refill")?;
        let mut policy = self.table("policy")?;
        let class = ClassLayer {
            capacity: self.integer("capacity")?,
            ready: self.integer("ready")?,
            addresses: self.text("addresses")?,
            mtu: self.integer("mtu")?,
            share: self.texts("share")?,
            refill: refill.refill()?,
            policy: policy.policy()?,
        };
        refill.deny_unknown()?;
        policy.deny_unknown()?;
        self.deny_unknown()?;
        Ok(class)
    }

    /// The slots held back that the table is about.
    fn reserve(mut self) -> Result<ReserveLayer, ConfigError> {
        let reserve = ReserveLayer {
            class: self.text("class")?,
            tenants: self.texts("tenants")?,
            warm: self.integer("warm")?,
        };
        self.deny_unknown()?;
        Ok(reserve)
    }

    /// What the tables in this one are, by name.
    fn tables<T>(
        &self,
        read: impl Fn(Self) -> Result<T, ConfigError>,
    ) -> Result<Vec<(Given<String>, T)>, ConfigError> {
        let entries = self.entries.into_iter().flat_map(DeTable::iter);
        entries
            .map(|(key, value)| {
                let name = key.get_ref().as_ref();
                let origin = self.file.origin(Some(key.span()));
                let Some(table) = value.get_ref().as_table() else {
                    let found = value.get_ref().type_str();
                    return Err(self.invalid(
                        name,
                        origin,
                        format!("must be a table, found {found}"),
                    ));
                };
                let table = read(Self::new(self.file, self.full_name(name), table))?;
                let value = name.to_owned();
                Ok((Given { value, origin }, table))
            })
            .collect()
    }

    fn texts(&mut self, key: &'static str) -> Result<Option<Given<Vec<String>>>, ConfigError> {
        let wanted = "a list of strings";
        let Some((origin, entries)) = self.value(key, wanted, DeValue::as_array)? else {
            return Ok(None);
        };
        let texts = entries.iter().map(|entry| {
            let text = entry.get_ref().as_str().map(str::to_owned);
            text.ok_or_else(|| {
                let found = entry.get_ref().type_str();
                let reason = format!("must be {wanted}, found {found} in it");
                self.invalid(key, self.file.origin(Some(entry.span())), reason)
            })
        });
        let value = texts.collect::<Result<_, _>>()?;
        Ok(Some(Given { value, origin }))
    }

    fn text(&mut self, key: &'static str) -> Result<Option<Given<String>>, ConfigError> {
        let found = self.value(key, "a string", DeValue::as_str)?;
        Ok(found.map(|(origin, text)| Given {
            value: text.to_owned(),
            origin,
        }))
    }

    /// One string, or a list of them.
    fn text_or_texts(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Given<Vec<String>>>, ConfigError> {
        let entry = self.entries.and_then(|entries| entries.get(key));
        if entry.is_none_or(|entry| entry.get_ref().as_str().is_none()) {
            return self.texts(key);
        }
        let text = self.text(key)?;
        Ok(text.map(|Given { value, origin }| Given {
            value: vec![value],
            origin,
        }))
    }

    fn boolean(&mut self, key: &'static str) -> Result<Option<Given<bool>>, ConfigError> {
        let found = self.value(key, "true or false", |value| match value {
            DeValue::Boolean(boolean) => Some(boolean),
            _ => None,
        })?;
        Ok(found.map(|(origin, &value)| Given { value, origin }))
    }

    fn integer(&mut self, key: &'static str) -> Result<Option<Given<i64>>, ConfigError> {
        let Some((origin, integer)) = self.value(key, "an integer", DeValue::as_integer)? else {
            return Ok(None);
        };
        match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) => Ok(Some(Given { value, origin })),
            Err(e) => Err(self.invalid(key, origin, format!("{}: {e}", integer.as_str()))),
        }
    }

    fn value<T: ?Sized>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl FnOnce(&'a DeValue<'a>) -> Option<&'a T>,
    ) -> Result<Option<(Origin, &'a T)>, ConfigError> {
        self.known.push(key);
        let Some(entry) = self.entries.and_then(|entries| entries.get(key)) else {
            return Ok(None);
        };
        let origin = self.file.origin(Some(entry.span()));
        let Some(value) = read(entry.get_ref()) else {
            let found = entry.get_ref().type_str();
            return Err(self.invalid(key, origin, format!("must be {wanted}, found {found}")));
        };
        Ok(Some((origin, value)))
    }

    fn deny_unknown(&self) -> Result<(), ConfigError> {
        let keys = self.entries.into_iter().flat_map(DeTable::keys);
        match keys.min_by_key(|key| (self.is_known(key), key.span().start)) {
            Some(key) if !self.is_known(key) => Err(self.unknown(key)),
            _ => Ok(()),
        }
    }

    fn is_known(&self, key: &Spanned<toml::de::DeString<'_>>) -> bool {
        self.known
            .iter()
            .any(|known| *known == key.get_ref().as_ref())
    }

    fn unknown(&self, key: &Spanned<toml::de::DeString<'_>>) -> ConfigError {
        let name = key.get_ref().as_ref();
        ConfigError::UnknownKey {
            origin: self.file.origin(Some(key.span())),
            key: self.full_name(name),
            nearest: nearest(name, &self.known).map(|known| self.full_name(known)),
        }
    }

    fn invalid(&self, key: &str, origin: Origin, reason: String) -> ConfigError {
        ConfigError::Invalid {
            origin,
            key: self.full_name(key),
            reason,
        }
    }

    fn full_name(&self, key: &str) -> String {
        match self.name.as_str() {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        }
    }
}

/// The known key with the fewest edits, if they are few enough for a slip of the fingers.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let spelled = name.to_ascii_lowercase().replace('-', "_");
    let nearest = known.iter().min_by_key(|known| edits(&spelled, known))?;
    (edits(&spelled, nearest) <= 2.max(nearest.len() / 3)).then_some(nearest)
}

/// Levenshtein distance in bytes, with two rows.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
