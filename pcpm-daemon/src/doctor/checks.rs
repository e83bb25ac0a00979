//! The checks, in the order an operator would go through them. Each is one function from what is
//! known to a verdict: what was found and, unless all is well, what to do.

use std::net::Ipv4Addr;
use std::path::Path;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::BpfHelper;
use ipnet::{Ipv4Net, Ipv6Net};
use pcpm_api::types::{self, Check, CheckStatus};
use pcpm_ebpf::abi::GATEWAY_V4;

use super::{Fact, Feature, HostFacts, LockState, Probe, SocketUse};
use crate::api::Access;
use crate::config::{AddressMode, Config, Ipv6Egress, PortRange, UplinkSetting};
use crate::open_files;

/// tcx, by which the uplink keeps other people's programs, is there since then. Everything else is
/// older: `BPF_FIB_LOOKUP_SKIP_NEIGH` 6.3, `bpf_redirect_peer` 5.10, mmapable arrays 5.5.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

/// Bits of the capabilities that cannot be done without (`linux/capability.h`).
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];

/// Network namespaces beside the slots': hubs, and what a retired slot's users still hold open.
const OTHER_NAMESPACES: u64 = 256;

/// What the kernel programs are made of.
const FEATURES: [Feature; 11] = [
    Feature {
        name: "tc programs",
        probe: Probe::Program(ProgramType::SchedClassifier),
    },
    Feature {
        name: "cgroup socket address programs",
        probe: Probe::Program(ProgramType::CgroupSockAddr),
    },
    Feature {
        name: "BPF_MAP_TYPE_ARRAY",
        probe: Probe::Map(MapType::Array),
    },
    Feature {
        name: "BPF_MAP_TYPE_PERCPU_ARRAY",
        probe: Probe::Map(MapType::PerCpuArray),
    },
    Feature {
        name: "BPF_MAP_TYPE_HASH",
        probe: Probe::Map(MapType::Hash),
    },
    Feature {
        name: "BPF_MAP_TYPE_LRU_HASH",
        probe: Probe::Map(MapType::LruHash),
    },
    helper("bpf_redirect_peer", BpfHelper::BPF_FUNC_redirect_peer),
    helper("bpf_redirect_neigh", BpfHelper::BPF_FUNC_redirect_neigh),
    helper("bpf_fib_lookup", BpfHelper::BPF_FUNC_fib_lookup),
    helper("bpf_skc_lookup_tcp", BpfHelper::BPF_FUNC_skc_lookup_tcp),
    helper("bpf_sk_lookup_udp", BpfHelper::BPF_FUNC_sk_lookup_udp),
];

/// Checks the host for `config`. A failed check means that the daemon cannot run; a warning, that
/// something will be missing.
pub(crate) fn checks(config: &Config, host: &dyn HostFacts) -> Vec<Check> {
    let privileges = privileges(host);
    let may_probe = privileges.status == CheckStatus::Ok;
    let mut checks = vec![
        kernel_version(host),
        privileges,
        bpf_features(host, may_probe),
        bpf_jit(host),
        bpffs(config, host),
        control_groups(host),
        open_files(config, host),
        net_namespaces(config, host),
        pool_cidr(config, host),
        pool_cidr6(config, host),
        uplinks(config, host),
        egress(config, host),
        nat_ports(config, host),
        state_directory(config, host),
        state_lock(config, host),
        socket(config, host),
        access(config),
    ];
    checks.extend(inner_addresses(config, host));
    checks
}

fn kernel_version(host: &dyn HostFacts) -> Check {
    let name = "kernel-version";
    let release = match host.kernel_release() {
        Ok(release) => release,
        Err(e) => return unknown(name, e),
    };
    let detail = format!("Linux {release}");
    match version(&release) {
        None => unknown(name, format!("cannot read the version from '{release}'")),
        Some(version) if version < OLDEST_KERNEL => {
            let (major, minor) = OLDEST_KERNEL;
            failed(name, detail, format!("use Linux {major}.{minor} or later"))
        }
        Some(_) => ok(name, detail),
    }
}

fn privileges(host: &dyn HostFacts) -> Check {
    let name = "privileges";
    let held = match host.capabilities() {
        Ok(held) => held,
        Err(e) => return unknown(name, e),
    };
    let missing = names(
        CAPABILITIES
            .iter()
            .filter(|(bit, _)| held >> bit & 1 == 0)
            .map(|c| c.1),
    );
    if missing.is_empty() {
        return ok(name, names(CAPABILITIES.iter().map(|c| c.1)));
    }
    failed(
        name,
        format!("{missing} missing"),
        "run it as root, or give it these capabilities",
    )
}

fn bpf_features(host: &dyn HostFacts, may_probe: bool) -> Check {
    let name = "bpf-features";
    if !may_probe {
        return warning(name, "not probed without privileges", "see privileges");
    }
    let mut missing = Vec::new();
    for feature in FEATURES {
        match host.supports(feature) {
            Ok(true) => {}
            Ok(false) => missing.push(feature.name.to_owned()),
            Err(e) => missing.push(format!("{} ({e})", feature.name)),
        }
    }
    if missing.is_empty() {
        return ok(name, "program type, map types and helpers are there");
    }
    let advice = "use a kernel with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF that lets this process load programs";
    failed(name, format!("missing: {}", missing.join(", ")), advice)
}

fn bpf_jit(host: &dyn HostFacts) -> Check {
    let name = "bpf-jit";
    match host.jit() {
        Some(true) => ok(name, "programs are compiled"),
        Some(false) => {
            let advice = "sysctl net.core.bpf_jit_enable=1";
            warning(
                name,
                "programs are interpreted, every packet costs more",
                advice,
            )
        }
        None => ok(name, "not visible from this network namespace"),
    }
}

fn bpffs(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "bpffs";
    let place = match host.place(&config.bpffs) {
        Ok(place) => place,
        Err(e) => return failed(name, e, "choose another directory with --bpffs"),
    };
    let found = place.found.display();
    if place.file_system == "bpf" {
        return ok(name, format!("mounted, seen at {found}"));
    }
    match host.has_file_system("bpf") {
        Err(e) => unknown(name, e),
        Ok(false) => failed(
            name,
            "the kernel has no bpf file system",
            "use a kernel with CONFIG_BPF_SYSCALL",
        ),
        Ok(true) => {
            let detail = format!(
                "none at {found} ({}) yet, the daemon mounts one",
                place.file_system
            );
            ok(name, detail)
        }
    }
}

/// Programs of the root group see what the host's own sockets ask for.
fn control_groups(host: &dyn HostFacts) -> Check {
    let name = "control-groups";
    match host.control_groups() {
        Err(e) => unknown(name, e),
        Ok(Some(root)) => ok(name, format!("cgroup2 at {}", root.display())),
        Ok(None) => warning(
            name,
            "no cgroup2 file system: the host's own programs do not reach published ports",
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified, and start again",
        ),
    }
}

fn open_files(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "open-files";
    let (needed, at_most) = (open_files::needed(config), open_files::at_most(config));
    let limit = match host.open_files() {
        Err(e) => return unknown(name, e),
        Ok(limit) => limit.hard,
    };
    let advice = format!("set LimitNOFILE={at_most} in the unit or run ulimit -n {at_most}");
    if limit >= at_most {
        return ok(name, format!("{at_most} needed, up to {limit} allowed"));
    }
    if limit >= needed {
        let (room, ports) = (limit - needed, config.publish.max_ports);
        return warning(
            name,
            format!(
                "up to {limit} allowed: room for {room} published ports and leases of processes, not for \
                 {ports} ports and a lease for every slot"
            ),
            format!("{advice}, or lower publish.max_ports"),
        );
    }
    let (slots, clients) = (config.slots(), config.api.max_clients);
    let (each, others) = (open_files::PER_CLIENT, open_files::OTHERS);
    failed(
        name,
        format!(
            "{needed} needed ({slots} slots, {clients} clients with {each} each, {others} others), \
             up to {limit} allowed"
        ),
        format!("{advice}, or lower capacity or api.max_clients"),
    )
}

fn net_namespaces(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "net-namespaces";
    let needed = u64::from(config.slots()) + OTHER_NAMESPACES;
    match host.most_net_namespaces() {
        Err(e) => unknown(name, e),
        Ok(most) if most >= needed => ok(name, format!("{needed} needed, up to {most} allowed")),
        Ok(most) => failed(
            name,
            format!(
                "{needed} needed for {} slots, up to {most} allowed",
                config.slots()
            ),
            format!("sysctl user.max_net_namespaces={needed}, or lower capacity"),
        ),
    }
}

fn pool_cidr(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "pool-cidr";
    let pool = config.pool_cidr;
    match host.conflict() {
        Err(e) => unknown(name, e),
        Ok(Some(other)) if other.contains(&gateway()) => failed(
            name,
            format!("the slots' gateway is taken: {other}"),
            "stop the other pcpmd of this network namespace, or remove the address",
        ),
        Ok(Some(other)) => failed(
            name,
            format!("{pool} overlaps {other}"),
            "choose a network that nothing else uses with --pool-cidr",
        ),
        Ok(None) if !is_private(pool) => warning(
            name,
            format!(
                "{pool} are addresses of the public internet, which cannot be reached from here any more"
            ),
            "choose a private network with --pool-cidr",
        ),
        Ok(None) => ok(name, format!("{pool} is free")),
    }
}

fn pool_cidr6(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "pool-cidr6";
    let remedy = "boot without ipv6.disable=1, or set pool_cidr6 to off";
    let missing = "this kernel has no IPv6";
    match (config.pool_cidr6.prefix, host.has_ipv6()) {
        (None, _) => ok(name, "off"),
        (Some(prefix), true) => ipv6_prefix(name, prefix, config.ipv6.egress, host.conflict6()),
        (Some(_), false) if config.pool_cidr6.is_asked_for => failed(name, missing, remedy),
        (Some(_), false) => warning(name, format!("{missing}: slots have IPv4 only"), remedy),
    }
}

fn ipv6_prefix(
    name: &'static str,
    prefix: Ipv6Net,
    egress: Ipv6Egress,
    conflict: Fact<Option<String>>,
) -> Check {
    match (conflict, egress) {
        (Err(e), _) => unknown(name, e),
        (Ok(Some(other)), _) => warning(
            name,
            format!("{prefix} overlaps {other}: slots do not reach what is there"),
            "choose a network that nothing else uses with --pool-cidr6",
        ),
        (Ok(None), Ipv6Egress::Nat) => ok(name, format!("{prefix} is free")),
        (Ok(None), Ipv6Egress::Routed) => ok(
            name,
            format!("{prefix}, which the network has to route to this host"),
        ),
    }
}

/// What all slots have inside must not be what the host has on an uplink: they would take it for themselves.
fn inner_addresses(config: &Config, host: &dyn HostFacts) -> Option<Check> {
    let name = "inner-addresses";
    let AddressMode::Clone(inner) = config.address_mode else {
        return None;
    };
    let facts = match host.uplinks() {
        Ok(facts) => facts,
        Err(e) => return Some(unknown(name, e)),
    };
    let (v4, v6) = (inner.v4.to_string(), inner.v6.to_string());
    let taken = facts.usable.iter().find_map(|uplink| {
        let taken = [
            ("clone.inner", &v4, uplink.address == v4),
            ("clone.inner6", &v6, uplink.address6.as_ref() == Some(&v6)),
        ];
        let (key, address, _) = taken.into_iter().find(|(_, _, taken)| *taken)?;
        Some((key, address, &uplink.interface))
    });
    Some(match taken {
        Some((key, address, interface)) => failed(
            name,
            format!("{address} is the address of {interface}"),
            format!("choose one that slots need to reach nowhere with {key}"),
        ),
        None => ok(name, format!("{v4}, {v6}")),
    })
}

fn gateway() -> String {
    Ipv4Addr::from(GATEWAY_V4).to_string()
}

fn uplinks(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "uplink";
    let facts = match host.uplinks() {
        Ok(facts) => facts,
        Err(e) => return unknown(name, e),
    };
    let usable: Vec<_> = facts.usable.iter().map(described).collect();
    let refused = facts.refused.join("; ");
    let alone = "slots reach each other and the host only";
    match (usable.is_empty(), refused.is_empty(), &config.uplink) {
        (false, true, _) => ok(name, usable.join(", ")),
        (false, false, _) => warning(
            name,
            format!("{}; {refused}", usable.join(", ")),
            "what slots send that way is dropped; name the interfaces to use with --uplink",
        ),
        (true, true, UplinkSetting::Auto) => warning(
            name,
            format!("no default route: {alone}"),
            "add a default route, or name the interface with --uplink",
        ),
        (true, _, UplinkSetting::Auto) => warning(
            name,
            format!("{refused}: {alone}"),
            "name another interface with --uplink",
        ),
        (true, _, UplinkSetting::Interfaces(_)) => failed(
            name,
            refused,
            "name an interface that is there and has an address, or auto",
        ),
    }
}

fn described(uplink: &types::Uplink) -> String {
    format!("{} {} mtu {}", uplink.interface, uplink.address, uplink.mtu)
}

fn egress(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "egress";
    let Some(facts) = host.egress() else {
        return ok(name, "by the kernel programs");
    };
    let has_ipv6 = config.pool_cidr6.prefix.is_some() && host.has_ipv6();
    match facts.table {
        Err(reason) => failed(
            name,
            format!("no table of nftables: {reason}"),
            "install nftables, use a kernel with nf_tables, NAT and masquerading (CONFIG_NFT_MASQ), or set \
             egress to ebpf",
        ),
        Ok(()) if has_ipv6 && !facts.forwards_ipv6 => warning(
            name,
            "the host forwards no IPv6, and this kernel cannot for single interfaces (Linux 6.17 can): slots' \
             IPv6 does not reach the world",
            "sysctl net.ipv6.conf.all.forwarding=1, with accept_ra=2 for interfaces that take router \
             advertisements",
        ),
        Ok(()) => ok(name, "by the host's stack, translated in table inet pcpm"),
    }
}

fn nat_ports(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "nat-ports";
    let ours = config.nat.ports;
    let known = host
        .ephemeral_ports()
        .and_then(|e| Ok((e, host.reserved_ports()?)));
    let (ephemeral, reserved) = match known {
        Ok(known) => known,
        Err(e) => return unknown(name, e),
    };
    if !may_collide(ours, ephemeral, &reserved) {
        return ok(
            name,
            format!("{ours}, the host takes its own from {ephemeral}"),
        );
    }
    failed(
        name,
        format!(
            "{ours} overlaps {ephemeral}, from which the host takes the ports of its own connections"
        ),
        format!("sysctl net.ipv4.ip_local_reserved_ports={ours}, or set nat.ports to others"),
    )
}

fn state_directory(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "state-directory";
    let place = match host.place(&config.state_dir) {
        Ok(place) => place,
        Err(e) => return failed(name, e, "choose another directory with --state-dir"),
    };
    let path = config.state_dir.display();
    let found = place.found.display();
    if !place.writable {
        let advice = "run it as root, or choose another directory with --state-dir";
        return failed(name, format!("{found} is not writable"), advice);
    }
    if place.found == config.state_dir && place.mode & 0o022 != 0 {
        let detail = format!("others may write to {path} (mode {:04o})", place.mode);
        return failed(name, detail, format!("chmod 755 {path}"));
    }
    if place.file_system != "tmpfs" {
        let detail = format!(
            "{path} is on {}: attaches may wait for a disk",
            place.file_system
        );
        return warning(
            name,
            detail,
            "choose a directory on a tmpfs, such as /run/pcpm",
        );
    }
    ok(name, format!("{path} on tmpfs"))
}

fn state_lock(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "state-lock";
    let path = config.state_dir.display();
    match host.lock(&config.state_dir) {
        Err(e) => unknown(name, e),
        Ok(LockState::Free) => ok(name, "nobody runs there"),
        Ok(LockState::Own) => ok(name, "held by this daemon"),
        Ok(LockState::Held(holder)) => failed(
            name,
            format!("state directory {path} is in use by {holder}"),
            "stop it, or choose another --state-dir, --bpffs and --pool-cidr",
        ),
    }
}

fn socket(config: &Config, host: &dyn HostFacts) -> Check {
    let name = "socket";
    let path = config.socket.display();
    let other = "choose another path with --socket";
    match host.socket(&config.socket) {
        Err(e) => failed(name, e, other),
        Ok(SocketUse::Own) => ok(name, format!("{path} is served by this daemon")),
        Ok(SocketUse::Held) => ok(name, format!("{path} is held by the service manager")),
        Ok(SocketUse::Served(holder)) => {
            failed(name, format!("{path} is served by {holder}"), other)
        }
        Ok(SocketUse::NotASocket) => failed(name, format!("{path} is not a socket"), other),
        Ok(SocketUse::Stale) => ok(name, format!("{path} is left over and will be replaced")),
        Ok(SocketUse::Free) => free_socket(name, config, host),
    }
}

/// The state directory is made by the daemon, other directories are not.
/// Whether the users and groups that have a role exist.
fn access(config: &Config) -> Check {
    let name = "access";
    let roles = &config.access;
    let members = roles.viewers.len() + roles.users.len() + roles.administrators.len();
    match Access::resolve(roles) {
        Ok(_) if members == 0 => ok(name, "root only"),
        Ok(_) => ok(name, format!("root, and {members} users or groups")),
        Err(reason) => failed(name, reason, "make it, or change the configuration"),
    }
}

fn free_socket(name: &str, config: &Config, host: &dyn HostFacts) -> Check {
    let path = &config.socket;
    let directory = path.parent().unwrap_or(Path::new("/"));
    match host.place(directory) {
        Err(e) => failed(name, e, "choose another path with --socket"),
        Ok(place) if place.found != directory && directory != config.state_dir => {
            let directory = directory.display();
            failed(
                name,
                format!("there is no directory {directory}"),
                format!("mkdir -p {directory}"),
            )
        }
        Ok(_) => ok(name, format!("{} is free", path.display())),
    }
}

/// Whether the host may give a port of ours to a connection of its own.
fn may_collide(ours: PortRange, ephemeral: PortRange, reserved: &[PortRange]) -> bool {
    let both = ours.first.max(ephemeral.first)..=ours.last.min(ephemeral.last);
    let is_reserved = |port| {
        reserved
            .iter()
            .any(|range| (range.first..=range.last).contains(&port))
    };
    both.into_iter().any(|port| !is_reserved(port))
}

/// Networks for private use: RFC 1918, RFC 6598 and RFC 2544.
fn is_private(pool: Ipv4Net) -> bool {
    [
        Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
        Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
        Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
        Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
        Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
    ]
    .iter()
    .any(|private| private.contains(&pool))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

const fn helper(name: &'static str, id: BpfHelper) -> Feature {
    Feature {
        name,
        probe: Probe::TcHelper(id),
    }
}

fn ok(name: &str, detail: impl Into<String>) -> Check {
    Check {
        name: name.to_owned(),
        status: CheckStatus::Ok,
        detail: detail.into(),
        advice: None,
    }
}

fn warning(name: &str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
    let status = CheckStatus::Warning;
    Check {
        name: name.to_owned(),
        status,
        detail: detail.into(),
        advice: Some(advice.into()),
    }
}

fn failed(name: &str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
    Check {
        status: CheckStatus::Failed,
        ..warning(name, detail, advice)
    }
}

/// Not knowing is no reason to refuse: if it matters, what depends on it fails with its own words.
fn unknown(name: &str, reason: String) -> Check {
    warning(name, reason, "check it by hand")
}
