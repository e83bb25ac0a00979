//! The ways that packets take: ours, and what else connects containers, each in a world of its own.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use clap::ValueEnum;
use pcpm_tests::{Daemon, HOST_ADDRESS, INTERNET_ADDRESS, Place, World};
use serde::Serialize;
use serde_json::json;

use super::load::{FIRST_PORT, PORTS, Pair};
use crate::plain::HUB_SLOTS;
use crate::progress;

/// Firewall rules that one slot has in [`Kind::Iptables`].
pub(super) const RULES_PER_SLOT: u32 = 30;

/// How packets get from one end to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A veth pair between the two ends and nothing else.
    Veth,
    /// A veth pair to the host, which routes.
    Routed,
    /// A bridge in the host; towards the world the host routes.
    Bridge,
    /// The same with nftables: masquerade, published ports, forwarding rules.
    Nftables,
    /// The same with iptables and many rules, for that many slots.
    Iptables(u32),
    /// The product with that many attached slots.
    Product(u32),
}

/// What is measured beside the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Beside {
    Nothing,
    Veth,
    Routed,
    Bridge,
    Nftables,
    /// For three numbers of slots.
    Iptables,
}

impl Beside {
    pub(super) const ALL: [Self; 5] = [
        Self::Veth,
        Self::Routed,
        Self::Bridge,
        Self::Nftables,
        Self::Iptables,
    ];
}

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Route {
    SlotToSlot,
    /// Between slots whose links are in different hubs.
    SlotToFarSlot,
    SlotToWorld,
    WorldToPort,
}

/// A world with one kind of path in it.
pub(super) struct Path {
    pub(super) kind: Kind,
    one: Place,
    other: Place,
    other_address: Ipv4Addr,
    /// A slot of another hub.
    far: Option<(Place, Ipv4Addr)>,
    internet: Place,
    world_address: Ipv4Addr,
    /// Where the world finds `one`.
    published: Ipv4Addr,
    // Dropped in this order: the daemon lives in the world.
    _daemon: Option<Daemon>,
    world: World,
}

const ONE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// `one` and `other`, `$far` being what their links lead to.
const TWO_SLOTS: &str = "\
netns add one
netns add other
link add one mtu 1500 type veth peer name eth0 netns one
link add other mtu 1500 type veth peer name eth0 netns other
link set one up
link set other up
";
const ROUTES: &str = "\
addr add 10.9.0.1/32 dev lo
route add 10.9.0.2/32 dev one src 10.9.0.1
route add 10.9.0.3/32 dev other src 10.9.0.1
";
const BRIDGE: &str = "\
link add br0 mtu 1500 type bridge
link set one master br0
link set other master br0
addr add 10.9.0.1/16 dev br0
link set br0 up
";
const DIRECT: &str = "\
netns add one
netns add other
link add eth0 netns one mtu 1500 type veth peer name eth0 netns other
";

impl Path {
    /// Builds the world of `kind`.
    ///
    /// # Errors
    /// When a tool or the daemon fails.
    pub(super) fn build(kind: Kind) -> Result<Self> {
        match kind {
            Kind::Product(slots) => product(slots),
            Kind::Veth => veth(),
            Kind::Routed => plain(kind, ROUTES, "10.9.0.1 dev eth0 onlink"),
            Kind::Bridge => plain(kind, BRIDGE, "10.9.0.1"),
            Kind::Nftables => filtered(kind, &["nft", "-f", "-"], nftables()),
            Kind::Iptables(slots) => filtered(kind, &["iptables-restore"], iptables(slots)),
        }
    }

    /// Those who ask and answer.
    pub(super) fn ends(&self) -> Vec<(&'static str, &Place)> {
        let ends = [
            ("a slot", &self.one),
            ("another slot", &self.other),
            ("the world", &self.internet),
        ];
        let far = self.far.as_ref().map(|(place, _)| ("a far slot", place));
        ends.into_iter().chain(far).collect()
    }

    /// The two ends of `route`, if this path has it.
    pub(super) fn pair(&self, route: Route) -> Option<Pair> {
        let pair = |client: &Place, server: &Place, address| {
            let (client, server) = (client.clone(), server.clone());
            Some(Pair {
                client,
                server,
                address,
            })
        };
        match route {
            Route::SlotToSlot => pair(&self.one, &self.other, self.other_address),
            Route::SlotToFarSlot => {
                let (far, address) = self.far.as_ref()?;
                pair(&self.one, far, *address)
            }
            Route::SlotToWorld => pair(&self.one, &self.internet, self.world_address),
            Route::WorldToPort => pair(&self.internet, &self.one, self.published),
        }
    }
}

impl Route {
    pub(super) const ALL: [Self; 4] = [
        Self::SlotToSlot,
        Self::SlotToFarSlot,
        Self::SlotToWorld,
        Self::WorldToPort,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SlotToSlot => "slot to slot",
            Self::SlotToFarSlot => "slot to slot of another hub",
            Self::SlotToWorld => "slot to world",
            Self::WorldToPort => "world to published port",
        }
    }

    /// For names of ratios.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::SlotToSlot => "slot-to-slot",
            Self::SlotToFarSlot => "slot-to-far-slot",
            Self::SlotToWorld => "slot-to-world",
            Self::WorldToPort => "world-to-port",
        }
    }

    /// The route that other paths are compared on: they know no hubs.
    pub(super) fn compared(self) -> Self {
        match self {
            Self::SlotToFarSlot => Self::SlotToSlot,
            route => route,
        }
    }
}

impl Kind {
    pub(super) fn name(self) -> String {
        match self {
            Self::Veth => "(a) veth pair".to_owned(),
            Self::Routed => "(a') veth, routed".to_owned(),
            Self::Bridge => "(b) bridge".to_owned(),
            Self::Nftables => "(c) bridge, nftables".to_owned(),
            Self::Iptables(slots) => format!("(d) bridge, iptables for {slots} slots"),
            Self::Product(slots) => format!("pcpm, {slots} slots"),
        }
    }

    /// For names of ratios.
    pub(super) fn key(self) -> String {
        match self {
            Self::Veth => "veth".to_owned(),
            Self::Routed => "routed".to_owned(),
            Self::Bridge => "bridge".to_owned(),
            Self::Nftables => "nftables".to_owned(),
            Self::Iptables(slots) => format!("iptables-{slots}"),
            Self::Product(slots) => format!("pcpm-{slots}"),
        }
    }

    /// Below a column.
    pub(super) fn short(self) -> String {
        match self {
            Self::Veth => "(a)".to_owned(),
            Self::Routed => "(a')".to_owned(),
            Self::Bridge => "(b)".to_owned(),
            Self::Nftables => "(c)".to_owned(),
            Self::Iptables(slots) => format!("(d) {slots}"),
            Self::Product(slots) => format!("pcpm {slots}"),
        }
    }
}

/// Both ends of one pair stand for everything: there is no host between them.
fn veth() -> Result<Path> {
    let world = World::new()?;
    world.command("ip", ["-batch", "-"]).input(DIRECT).run()?;
    let (one, other) = (slot(&world, "one"), slot(&world, "other"));
    configure(&one, ONE, 16, "")?;
    configure(&other, OTHER, 16, "")?;
    Ok(Path {
        kind: Kind::Veth,
        internet: other.clone(),
        world_address: OTHER,
        published: ONE,
        one,
        other,
        other_address: OTHER,
        far: None,
        _daemon: None,
        world,
    })
}

fn plain(kind: Kind, links: &str, gateway: &str) -> Result<Path> {
    let world = World::new()?;
    let batch = format!("{TWO_SLOTS}{links}");
    world.command("ip", ["-batch", "-"]).input(batch).run()?;
    world.tool("sysctl -qw net.ipv4.ip_forward=1").run()?;
    let internet = world.internet();
    internet
        .tool(&format!("ip route add 10.9.0.0/16 via {HOST_ADDRESS}"))
        .run()?;
    let (one, other) = (slot(&world, "one"), slot(&world, "other"));
    let prefix = if kind == Kind::Routed { 32 } else { 16 };
    let gateway = format!("route add default via {gateway}\n");
    configure(&one, ONE, prefix, &gateway)?;
    configure(&other, OTHER, prefix, &gateway)?;
    let translates = !matches!(kind, Kind::Routed | Kind::Bridge);
    Ok(Path {
        kind,
        one,
        other,
        other_address: OTHER,
        far: None,
        internet,
        world_address: INTERNET_ADDRESS.parse()?,
        published: if translates {
            HOST_ADDRESS.parse()?
        } else {
            ONE
        },
        _daemon: None,
        world,
    })
}

/// A bridge with rules that `tool` reads. They see what is bridged, too: Docker and Kubernetes want
/// that.
fn filtered(kind: Kind, tool: &[&str], rules: String) -> Result<Path> {
    let path = plain(kind, BRIDGE, "10.9.0.1")?;
    let (program, arguments) = tool.split_first().context("no tool")?;
    let sysctl = "sysctl -qw net.bridge.bridge-nf-call-iptables=1";
    path.world.tool(sysctl).run()?;
    let arguments = arguments.iter().copied();
    path.world.command(program, arguments).input(rules).run()?;
    Ok(path)
}

fn slot(world: &World, name: &str) -> Place {
    world.host().at(format!("/run/netns/{name}"))
}

fn configure(slot: &Place, address: Ipv4Addr, prefix: u8, routes: &str) -> Result<()> {
    let batch =
        format!("link set lo up\naddr add {address}/{prefix} dev eth0\nlink set eth0 up\n{routes}");
    slot.command("ip", ["-batch", "-"]).input(batch).run()?;
    Ok(())
}

fn nftables() -> String {
    let ports = format!("{FIRST_PORT}-{}", PORTS[PORTS.len() - 1]);
    format!(
        "table ip containers {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                ip saddr 10.9.0.0/16 oifname eth0 masquerade
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname eth0 tcp dport {ports} dnat to {ONE}
                iifname eth0 udp dport {ports} dnat to {ONE}
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname br0 accept
                ct status dnat accept
            }}
        }}\n"
    )
}

/// Rules as CNI plugins and network policies make them: known connections first, then for each slot
/// jumps into chains of its own. The slots that are measured stand in the middle.
fn iptables(slots: u32) -> String {
    let addresses: Vec<_> = (0..slots)
        .map(|index| slot_of_rules(index, slots))
        .collect();
    format!("{}{}", nat_rules(&addresses), filter_rules(&addresses))
}

/// For each slot 2 jumps, 2 rules for the way out, 1 for a published port: 5 of 30.
fn nat_rules(addresses: &[Ipv4Addr]) -> String {
    let mut chains = "*nat\n".to_owned();
    let mut rules = String::new();
    for (index, address) in addresses.iter().enumerate() {
        let ports = if *address == ONE {
            format!("{FIRST_PORT}:{}", PORTS[PORTS.len() - 1])
        } else {
            (10_000 + index).to_string()
        };
        let _ = write!(chains, ":OUT-{index} - [0:0]\n:IN-{index} - [0:0]\n");
        let _ = write!(
            rules,
            "-A POSTROUTING -s {address} -j OUT-{index}\n\
             -A OUT-{index} -d 10.9.0.0/16 -j ACCEPT\n\
             -A OUT-{index} ! -d 224.0.0.0/4 -j MASQUERADE\n\
             -A PREROUTING -p tcp --dport {ports} -m addrtype --dst-type LOCAL -j IN-{index}\n\
             -A PREROUTING -p udp --dport {ports} -m addrtype --dst-type LOCAL -j IN-{index}\n\
             -A IN-{index} -j DNAT --to-destination {address}\n"
        );
    }
    format!("{chains}{rules}COMMIT\n")
}

/// For each slot 2 jumps, and a policy of 22 rules that allow everything in the end.
fn filter_rules(addresses: &[Ipv4Addr]) -> String {
    const POLICY: u32 = RULES_PER_SLOT - 6 - 2;
    let mut chains = "*filter\n".to_owned();
    let mut rules = "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n".to_owned();
    for (index, address) in addresses.iter().enumerate() {
        let _ = writeln!(chains, ":FW-{index} - [0:0]");
        let _ = write!(
            rules,
            "-A FORWARD -s {address} -j FW-{index}\n-A FORWARD -d {address} -j FW-{index}\n"
        );
        for rule in 1..POLICY {
            let _ = writeln!(rules, "-A FW-{index} -d 172.16.{rule}.0/24 -j DROP");
        }
        let _ = writeln!(rules, "-A FW-{index} -j ACCEPT");
    }
    format!("{chains}{rules}COMMIT\n")
}

fn slot_of_rules(index: u32, slots: u32) -> Ipv4Addr {
    let middle = slots / 2;
    match index {
        _ if index == middle => ONE,
        _ if index + 1 == middle => OTHER,
        _ => Ipv4Addr::from_bits(Ipv4Addr::new(10, 9, 1, 0).to_bits() + index),
    }
}

/// A pool with every slot attached, all of one tenant; the first has published ports.
fn product(slots: u32) -> Result<Path> {
    let world = World::new()?;
    let daemon = world.spawn_daemon(&["--capacity", &slots.to_string()])?;
    progress::fill(&daemon, slots)?;
    let attach = |index| {
        let ports = if index == 0 {
            published_ports()
        } else {
            Vec::new()
        };
        let owner = format!("owner-{index}");
        let request = json!({"owner": owner, "tenant": "bench", "publish": ports});
        let reply = daemon.attach_with(&request)?;
        let address: Ipv4Addr = reply.attachment.addresses[0].parse()?;
        anyhow::Ok((daemon.place(&reply), address))
    };
    let attached = (0..slots).map(attach).collect::<Result<Vec<_>>>()?;
    let mut attached = attached.into_iter();
    let (one, own_address) = attached.next().context("no slot")?;
    let (mut near, mut far): (Vec<_>, Vec<_>) =
        attached.partition(|(_, address)| hub_of(*address) == hub_of(own_address));
    let (other, other_address) = near.pop().context("no second slot in the hub")?;
    Ok(Path {
        kind: Kind::Product(slots),
        one,
        other,
        other_address,
        far: far.pop(),
        internet: world.internet(),
        world_address: INTERNET_ADDRESS.parse()?,
        published: HOST_ADDRESS.parse()?,
        _daemon: Some(daemon),
        world,
    })
}

fn published_ports() -> Vec<String> {
    let ports = format!("{FIRST_PORT}-{}", PORTS[PORTS.len() - 1]);
    let both = ["tcp", "udp"].map(|protocol| format!("{protocol}:{ports}:{ports}"));
    both.into()
}

/// The pool begins at a multiple of a hub's slots.
fn hub_of(address: Ipv4Addr) -> u32 {
    address.to_bits() / HUB_SLOTS
}
