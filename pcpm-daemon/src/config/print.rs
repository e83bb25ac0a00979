//! The settings as a configuration file, each with what it means. This is the one description of
//! the keys in the program; `contrib/pcpmd.toml` is its output for the defaults.

use std::{
    fmt::{Display, Formatter, Result},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use pcpm_api::{options::Options, rates, rules::Rule};

use super::validate::{DEFAULT_INNER, default_flows_per_slot, socket_in, whole_hubs};
use super::{
    Access, AddressMode, Config, Egress, Ipv6Egress, Locks, Log, OnExit, PoolV6, PortRange,
    Principal, Refill, UplinkSetting,
};
use crate::metrics::Endpoint;
use crate::net::HostMounts;
use crate::net::Share;
use crate::pool::{Quota, Quotas};

/// In the range that exporters use (the wiki of Prometheus, "Default port allocations").
const EXAMPLE_METRICS_PORT: u16 = 9464;

const HEAD: &str = "\
# Settings of pcpmd, read from /etc/pcpm/pcpmd.toml or the file named with --config. Options of the
# command line override them. A value that is commented out follows from the others.
";

pub(super) fn to_toml(config: &Config) -> String {
    let mut file = Printer(HEAD.to_owned());
    places(&mut file, config);
    pool(&mut file, config);
    tables(&mut file, config);
    file.0
}

fn places(file: &mut Printer, config: &Config) {
    file.about(&["Directory of the lock file and the namespaces (netns/SLOT). Best on a tmpfs."]);
    file.set("state_dir", &quoted(&config.state_dir.display()));
    file.about(&[
        "Unix socket of the Varlink service io.pcpm.Pool. Default: pcpm.sock in state_dir.",
    ]);
    let derived = config.socket == socket_in(&config.state_dir);
    file.set_unless(derived, "socket", &quoted(&config.socket.display()));
    file.about(&[
        "Directory of the pinned BPF maps and programs. A bpf file system is mounted if there is none.",
    ]);
    file.set("bpffs", &quoted(&config.bpffs.display()));
    file.about(&[
        "What becomes of slots, attachments and traffic when the daemon is told to stop: remove, or keep",
        "them for the next one. A service that is restarted wants keep.",
    ]);
    file.set("on_exit", &quoted(&config.on_exit));
    file.about(&[
        "Slots that are mounted in the host's mount namespace: attached, or all. Every mount there makes starts",
        "of containers slower. auto: attached, but all where the daemon runs in a container.",
    ]);
    let mounts = match config.host_mounts {
        None => "auto",
        Some(HostMounts::Attached) => "attached",
        Some(HostMounts::All) => "all",
    };
    file.set("host_mounts", &quoted(&mounts));
}

fn pool(file: &mut Printer, config: &Config) {
    file.about(&[
        "Number of slots, 1 to 65536: namespaces that are made, handed out and replaced.",
    ]);
    file.set("capacity", &config.capacity);
    file.about(&[
        "The most that a resize of the running daemon can make of it. Default: as many as fit into the hubs",
        "of capacity slots, 512 each, and the pool has addresses for.",
    ]);
    let derived = whole_hubs(config.capacity, config.pool_cidr);
    file.set_unless(
        config.max_capacity == derived,
        "max_capacity",
        &config.max_capacity,
    );
    file.about(&["Number of slots kept ready, 0 to capacity. Default: capacity."]);
    file.set_unless(config.ready == config.capacity, "ready", &config.ready);
    file.about(&["MTU of the slots' links in bytes, 1280 to 65535. Default: that of the uplink."]);
    file.set_unless(config.mtu.is_none(), "mtu", &config.mtu.unwrap_or(1500));
    file.about(&[
        "Namespaces that slots have beside the network one, for containers that share them: \"ipc\", \"uts\". Slots that have",
        "any are not used again (see recycle in [refill]).",
    ]);
    file.set("share", &share(config.share));
    file.about(&[
        "Addresses of the slots: an IPv4 network that nothing else on this host uses, with a prefix length",
        "of 8 to 30 and room for capacity addresses.",
    ]);
    file.set("pool_cidr", &quoted(&config.pool_cidr));
    file.about(&[
        "IPv6 addresses of the slots: a private prefix (fc00::/7) of at most 96 bits that nothing else on",
        "this host uses, or off. Left out, a host without IPv6 has slots without IPv6. Where they are routed",
        "(see [ipv6]), the prefix that the network routes to this host.",
    ]);
    file.set_unless(
        !config.pool_cidr6.is_asked_for,
        "pool_cidr6",
        &quoted(&config.pool_cidr6),
    );
    file.about(&[
        "Which addresses slots have inside: unique (each its own, of the pool), or clone (all the same ones, see",
        "[clone], as restored processes and virtual machines need it; outside each is known by its own).",
    ]);
    file.set("address_mode", &quoted(&config.address_mode));
    file.about(&[
        "Interfaces that lead to the world: a name, a list of names, or auto for those that a default route",
        "leads out of.",
    ]);
    file.set("uplink", &uplink(&config.uplink));
    file.about(&[
        "Who sends slots' packets to the world: ebpf (the kernel programs, no netfilter rule sees them) or host",
        "(the host's own stack, its firewall sees them; one masquerade rule in the table inet pcpm).",
    ]);
    file.set("egress", &quoted(&config.egress));
}

fn tables(file: &mut Printer, config: &Config) {
    inner(file, config.address_mode);
    file.table("ipv6");
    file.about(&[
        "How IPv6 leaves for the world: nat (translated to the uplink's address), or routed (with the slots'",
        "own addresses, of pool_cidr6).",
    ]);
    file.set("egress", &quoted(&config.ipv6.egress));
    file.table("refill");
    file.about(&["Threads that make and destroy slots, 1 to 16. More than 2 seldom help: the kernel serialises."]);
    file.set("workers", &config.workers);
    refill(file, &config.refill, config.capacity);
    file.about(&[
        "How long others may wait for the rtnl lock because of refill: 99 of 100 of their waits for it, such as",
        "2ms or 500us. It slows down where that is exceeded, and only then. off: it does not care.",
    ]);
    let wait = quoted(&max_rtnl_wait(config.max_rtnl_wait));
    file.set("max_rtnl_wait", &wait);
    file.table("nat");
    file.about(&[
        "Ports (and ICMP echo identifiers) of translated packets, \"FIRST-LAST\" from 1024 on, outside",
        "net.ipv4.ip_local_port_range.",
    ]);
    file.set("ports", &quoted(&config.nat.ports));
    file.about(&[
        "Entries of the flow table, 1024 to 16777216. A connection to the world takes two.",
    ]);
    file.set("flows", &config.nat.flows);
    file.about(&[
        "Entries that one slot may have of them, 16 to flows. No slot gets more than are left free for others,",
        "however many these are. Default: a quarter of flows.",
    ]);
    file.set_unless(
        config.nat.flows_per_slot == default_flows_per_slot(config.nat.flows),
        "flows_per_slot",
        &config.nat.flows_per_slot,
    );
    file.table("publish");
    file.about(&[
        "Ports of the host that lead to slots at once, 1 to 65536, of all attachments together. Each takes",
        "a file descriptor.",
    ]);
    file.set("max_ports", &config.publish.max_ports);
    file.table("policy");
    file.about(&["Whether slots reach the world where no rule says: open or closed."]);
    file.set("default", &quoted(&config.policy.default));
    file.about(&[
        "Rules that attachments have beside their own, as with pcpm attach --allow and --deny. All together the most",
        "specific counts, and the attachment's own where both are about the same.",
    ]);
    rules(file, &config.policy.template);
    file.about(&[
        "Limits of attachments that ask for none, in bits and packets a second, such as \"10M\". \"0\" is no limit.",
    ]);
    limits(file, &config.policy.template);
    file.table("api");
    file.about(&["Clients connected at once, 1 to 65536. Each takes up to 3 file descriptors."]);
    file.set("max_clients", &config.api.max_clients);
    access(file, &config.access);
    locks(file, config.locks);
    quotas(file, &config.quotas);
    file.table("reaper");
    file.about(&[
        "How often hubs, slots and hooks are compared with what they are to be, and repaired: 1s to 1h.",
    ]);
    let interval = format!("{}s", config.reaper.interval.as_secs());
    file.set("interval", &quoted(&interval));
    metrics(file, config.metrics.as_ref());
    log(file, config.log);
    classes(file, config);
    reserves(file, config);
}

fn classes(file: &mut Printer, config: &Config) {
    file.about(&[
        "Further classes of slots, chosen at attach by name, as tables [class.NAME]: capacity (which must be",
        "given), ready, mtu, share, tables refill and policy, and addresses, a part of pool_cidr that only this class has.",
        "The settings above are those of the class default, and what a class does not say is as there.",
    ]);
    for class in &config.classes {
        file.table(&format!("class.{}", quoted(&class.name)));
        file.set("capacity", &class.capacity);
        file.set("ready", &class.ready);
        if let Some(addresses) = class.addresses {
            file.set("addresses", &quoted(&addresses));
        }
        if let Some(mtu) = class.mtu {
            file.set("mtu", &mtu);
        }
        file.set("share", &share(class.share));
        file.table(&format!("class.{}.refill", quoted(&class.name)));
        file.set("target", &quoted(&class.refill.target));
        file.set("floor", &class.refill.floor);
        file.set("ceiling", &class.refill.ceiling);
        file.set("one_in", &class.refill.one_in);
        file.set("window_s", &class.refill.window_s);
        file.set("recycle", &quoted(&class.refill.recycle));
        file.table(&format!("class.{}.policy", quoted(&class.name)));
        if let Some(default) = class.default {
            file.set("default", &quoted(&default));
        }
        rules(file, &class.template);
        limits(file, &class.template);
    }
}

fn share(share: Share) -> toml::Value {
    toml::Value::Array(share.kinds().map(|kind| quoted(&kind)).collect())
}

fn rules(file: &mut Printer, template: &Options) {
    let texts =
        |rules: &[Rule]| toml::Value::Array(rules.iter().map(|rule| quoted(rule)).collect());
    file.set("allow", &texts(template.rules.allow()));
    file.set("deny", &texts(template.rules.deny()));
}

fn limits(file: &mut Printer, template: &Options) {
    for (key, rate) in [
        ("rate_up", template.up.bits),
        ("rate_down", template.down.bits),
        ("rate_up_packets", template.up.packets),
        ("rate_down_packets", template.down.packets),
    ] {
        file.set(key, &quoted(&rates::show(rate.unwrap_or(0))));
    }
}

fn reserves(file: &mut Printer, config: &Config) {
    file.about(&[
        "Ready slots that are held back for some tenants, as tables [reserve.NAME]: tenants (names, or beginnings",
        "of names with a * behind them), warm (how many slots) and class.",
    ]);
    for reserve in &config.reserves {
        file.table(&format!("reserve.{}", quoted(&reserve.name)));
        let tenants = reserve.tenants.iter().map(|tenant| quoted(tenant));
        file.set("tenants", &toml::Value::Array(tenants.collect()));
        file.set("warm", &reserve.warm);
        file.set("class", &quoted(&reserve.class));
    }
}

fn refill(file: &mut Printer, refill: &Refill, capacity: u32) {
    file.about(&[
        "fixed: 'ready' slots are kept ready. adaptive: as many as demand asks for, beginning with 'ready'.",
    ]);
    file.set("target", &quoted(&refill.target));
    file.about(&["Bounds of an adaptive target. Defaults: 8, capacity."]);
    file.set_unless(
        refill.floor == 8.min(refill.ceiling),
        "floor",
        &refill.floor,
    );
    file.set_unless(refill.ceiling == capacity, "ceiling", &refill.ceiling);
    file.about(&["Of this many attaches one may find nothing ready, 10 to 1000000."]);
    file.set("one_in", &refill.one_in);
    file.about(&["How long demand is remembered, in seconds, 10 to 86400."]);
    file.set("window_s", &refill.window_s);
    file.about(&[
        "What becomes of a slot that was given back: never (it is destroyed), same-tenant (it is kept for the",
        "tenant that had it) or verified (it is used again if nothing in it differs from how it was made).",
    ]);
    file.set("recycle", &quoted(&refill.recycle));
}

fn inner(file: &mut Printer, mode: AddressMode) {
    let inner = match mode {
        AddressMode::Unique => DEFAULT_INNER,
        AddressMode::Clone(inner) => inner,
    };
    file.table("clone");
    file.about(&[
        "What every slot has inside with address_mode = \"clone\": an IPv4 and, where slots have IPv6, an IPv6",
        "address that is not the pool's and that slots never need to reach anywhere else.",
    ]);
    let derived = |is_default: bool| mode == AddressMode::Unique || is_default;
    file.set_unless(
        derived(inner.v4 == DEFAULT_INNER.v4),
        "inner",
        &quoted(&inner.v4),
    );
    file.set_unless(
        derived(inner.v6 == DEFAULT_INNER.v6),
        "inner6",
        &quoted(&inner.v6),
    );
}

fn access(file: &mut Printer, access: &Access) {
    file.table("access");
    file.about(&[
        "The group whose members may connect to the socket (mode 0660); root's if not set.",
    ]);
    let group = access.group.as_deref().unwrap_or("pcpm");
    file.set_unless(access.group.is_none(), "group", &quoted(&group));
    file.about(&[
        "Who may do what: names or numbers of users, and of groups behind '@'. Viewers see everything;",
        "users attach, and change what the same user attached; administrators, and root, do everything.",
    ]);
    file.set("viewers", &names(&access.viewers));
    file.set("users", &names(&access.users));
    file.set("administrators", &names(&access.administrators));
}

fn max_rtnl_wait(bound: Option<Duration>) -> String {
    let Some(bound) = bound else {
        return "off".to_owned();
    };
    match bound.as_micros() {
        us if us % 1000 == 0 => format!("{}ms", us / 1000),
        us => format!("{us}us"),
    }
}

fn locks(file: &mut Printer, locks: Locks) {
    file.table("locks");
    file.about(&["Whether waits for the kernel's locks are watched (pcpm locks)."]);
    file.set("enabled", &locks.enabled);
    file.about(&["Waits at least as long are told one by one, with their stacks; in milliseconds, 1 to 60000."]);
    file.set("long_wait_ms", &locks.long_wait.as_millis());
}

fn metrics(file: &mut Printer, endpoint: Option<&Endpoint>) {
    file.table("metrics");
    file.about(&[
        "Where monitoring gets OpenMetrics text (GET /metrics): a loopback address with a port, or \"unix:PATH\", which",
        "root and access.group may connect to. Nowhere by default.",
    ]);
    let example = SocketAddr::from((Ipv4Addr::LOCALHOST, EXAMPLE_METRICS_PORT));
    let shown = endpoint.cloned().unwrap_or(Endpoint::Tcp(example));
    file.set_unless(endpoint.is_none(), "listen", &quoted(&shown));
}

fn log(file: &mut Printer, log: Log) {
    file.table("log");
    file.about(&[
        "How the log is written: human, json (an object a line), journald (with fields, to systemd's journal), or",
        "auto: journald where the journal reads stderr, else human.",
    ]);
    file.set("format", &quoted(&log.format));
    file.about(&["How much: error, warn, info, debug (and what happens to each slot) or trace."]);
    file.set("level", &quoted(&log.level));
}

fn quotas(file: &mut Printer, quotas: &Quotas) {
    file.table("quota.tenant");
    file.about(&[
        "What each tenant may have: attachments at once, and attaches a second (of which one second's worth",
        "may come at once). 0 is no limit.",
    ]);
    quota(file, quotas.tenant);
    for (tenant, own) in &quotas.tenants {
        file.table(&format!("quota.tenants.{}", quoted(tenant)));
        quota(file, *own);
    }
    file.table("quota.user");
    file.about(&["The same for each user that is no administrator, whatever the tenants."]);
    quota(file, quotas.user);
}

fn quota(file: &mut Printer, quota: Quota) {
    file.set("attachments", &quota.attachments.unwrap_or(0));
    file.set("attach_rate", &quota.attach_rate.unwrap_or(0));
}

fn names(principals: &[Principal]) -> toml::Value {
    let text = |principal: &Principal| match principal {
        Principal::User(name) => name.clone(),
        Principal::Group(name) => format!("@{name}"),
    };
    principals.iter().map(text).collect::<Vec<_>>().into()
}

struct Printer(String);

impl Printer {
    fn table(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
    }

    fn about(&mut self, lines: &[&str]) {
        let below_a_table = self
            .0
            .lines()
            .last()
            .is_some_and(|line| line.starts_with('['));
        if !below_a_table {
            self.line("");
        }
        for line in lines {
            self.line(&format!("# {line}"));
        }
    }

    fn set(&mut self, key: &str, value: &dyn Display) {
        self.line(&format!("{key} = {value}"));
    }

    fn set_unless(&mut self, derived: bool, key: &str, value: &dyn Display) {
        let comment = if derived { "#" } else { "" };
        self.line(&format!("{comment}{key} = {value}"));
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

fn uplink(setting: &UplinkSetting) -> toml::Value {
    match setting {
        UplinkSetting::Auto => quoted(&"auto"),
        UplinkSetting::Interfaces(names) => match names.as_slice() {
            [name] => quoted(name),
            names => toml::Value::Array(names.iter().map(|name| quoted(name)).collect()),
        },
    }
}

fn quoted(value: &dyn Display) -> toml::Value {
    toml::Value::String(value.to_string())
}

impl Display for AddressMode {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Unique => "unique",
            Self::Clone(_) => "clone",
        })
    }
}

impl Display for Egress {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Host => "host",
        })
    }
}

impl Display for Ipv6Egress {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Nat => "nat",
            Self::Routed => "routed",
        })
    }
}

impl Display for OnExit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Remove => "remove",
            Self::Keep => "keep",
        })
    }
}

impl Display for PoolV6 {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.prefix {
            Some(prefix) => prefix.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}
