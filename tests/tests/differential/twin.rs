//! A host that translates for one slot, with raw access to both ends: ours, and one with netfilter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pcpm_ebpf::abi::{GATEWAY_MAC, slot_mac};
use pcpm_tests::{Daemon, INTERNET_ADDRESS, PATIENCE, Place, Tap, UPLINK, World};
use serde_json::json;

use crate::conversation::Conversation;
use crate::packet::{Datagram, ICMPV6, UDP, Version, field, udp};
use crate::sight::Seen;
use crate::traffic::{End, Flow, Step};

/// What the slot has inside, in both versions of IP.
pub(crate) const SLOT: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 213, 0, 0),
    Ipv6Addr::new(0xfd00, 0x7063, 0x706d, 0, 0, 0, 0, 0),
);
/// The host on its uplink.
pub(crate) const HOST: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
);
const WORLD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
/// A port of the host's and the slot's port that answers there.
pub(crate) const PUBLISHED: (u16, u16) = (9000, 8000);
const MARKER_PORT: u16 = 9;
/// How soon a marker is sent again while links come up.
const RETRY: Duration = Duration::from_millis(100);
/// Router and neighbour discovery and what multicast groups need: a link's own affairs.
const LINK_MESSAGES: [u8; 9] = [130, 131, 132, 133, 134, 135, 136, 143, 151];

/// From the IP header on.
pub(crate) type Packet = Vec<u8>;

pub(crate) struct Twin {
    slot: Tap,
    slot_mac: [u8; 6],
    world: Tap,
    markers: u32,
    conversation: Conversation,
    // Dropped in this order.
    _daemon: Option<Daemon>,
    _world: World,
}

impl Twin {
    /// The product's.
    pub(crate) fn ours() -> Result<Self> {
        let world = raw_world()?;
        let daemon = world.pool_of(1)?;
        let (outside, inside) = PUBLISHED;
        let ports = ["tcp", "udp"].map(|protocol| format!("{protocol}:{outside}:{inside}"));
        let request = json!({"owner": "one", "tenant": "t", "publish": ports});
        let reply = daemon.attach_with(&request)?;
        let own = [SLOT.0.to_string(), SLOT.1.to_string()];
        ensure!(reply.attachment.inner_addresses == own, "{reply:?}");
        let place = daemon.place(&reply);
        // Nobody answers by himself.
        place.tool("ip address flush dev eth0").run()?;
        let mac = bytes(&reply.attachment.mac).context("no hardware address")?;
        Self::new(world, Some(daemon), &place, mac)
    }

    /// Linux's own: a routed veth, `masquerade` and `dnat`.
    pub(crate) fn netfilters() -> Result<Self> {
        let world = raw_world()?;
        let (gateway, slot) = (text(GATEWAY_MAC), text(slot_mac(0)));
        let (own, own6) = SLOT;
        let links = format!(
            "netns add slot
             link add slot0 mtu 1500 address {gateway} type veth peer name eth0 netns slot
             link set slot0 addrgenmode none
             addr add 169.254.1.1/32 dev slot0 scope link
             addr add fe80::1/64 dev slot0 nodad
             link set slot0 up
             route add {own}/32 dev slot0
             route add {own6}/128 dev slot0
             neigh replace {own} lladdr {slot} dev slot0 nud permanent
             neigh replace {own6} lladdr {slot} dev slot0 nud permanent\n"
        );
        world.command("ip", ["-batch", "-"]).input(links).run()?;
        let place = world.host().at("/run/netns/slot");
        let link = format!("ip link set eth0 address {slot} up");
        place.tool(&link).run()?;
        world.command("nft", ["-f", "-"]).input(rules()).run()?;
        world
            .tool(
                "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
                 net.netfilter.nf_conntrack_tcp_be_liberal=1",
            )
            .run()?;
        Self::new(world, None, &place, slot_mac(0))
    }

    fn new(world: World, daemon: Option<Daemon>, slot: &Place, slot_mac: [u8; 6]) -> Result<Self> {
        let mut twin = Self {
            slot: Tap::open(slot, "eth0")?,
            slot_mac,
            world: Tap::open(&world.internet(), UPLINK)?,
            markers: 0,
            conversation: Conversation::new(NOBODY),
            _daemon: daemon,
            _world: world,
        };
        twin.wait_until_it_forwards()?;
        Ok(twin)
    }

    /// From now on packets are those of `flow`.
    pub(crate) fn begin(&mut self, flow: Flow) {
        self.conversation = Conversation::new(flow);
    }

    /// Sends what `step` says, and waits until all has arrived that will.
    pub(crate) fn play(&mut self, step: &Step) -> Result<Seen> {
        for packet in self.conversation.packets(step) {
            self.send(step.from, &packet)?;
            self.conversation.sent(packet);
        }
        let (at_world, at_slot) = self.arrivals()?;
        self.conversation.learn(step, &at_world);
        let seen = Seen {
            at_slot: self.conversation.sights(End::Slot, step, &at_slot),
            at_world: self.conversation.sights(End::World, step, &at_world),
        };
        self.conversation.remember(at_slot, at_world);
        Ok(seen)
    }

    fn send(&self, from: End, packet: &[u8]) -> Result<()> {
        let (tap, to, own) = match from {
            End::Slot => (&self.slot, GATEWAY_MAC, self.slot_mac),
            End::World => (&self.world, HOST_MAC, WORLD_MAC),
        };
        let version = match packet[0] >> 4 {
            4 => Version::V4,
            _ => Version::V6,
        };
        tap.send(&[&to[..], &own, &version.ethertype(), packet].concat())
    }

    /// Links need a moment to come up, and what is sent before is lost.
    fn wait_until_it_forwards(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.markers_pass(RETRY)?.is_none() {
            ensure!(Instant::now() < deadline, "nothing is forwarded");
        }
        Ok(())
    }

    /// All that arrives before a packet there and one back: nothing overtakes on the way.
    fn arrivals(&mut self) -> Result<(Vec<Packet>, Vec<Packet>)> {
        self.markers_pass(PATIENCE)?.context("a marker was lost")
    }

    /// What arrived before the markers did; `None` when one does not within `patience`.
    fn markers_pass(&mut self, patience: Duration) -> Result<Option<(Vec<Packet>, Vec<Packet>)>> {
        self.markers += 1;
        let payload = format!("marker {}", self.markers);
        let internet = INTERNET_ADDRESS.parse()?;
        let slot = IpAddr::from(SLOT.0);
        let there = marker((slot, MARKER_PORT), (internet, MARKER_PORT), &payload);
        self.send(End::Slot, &there)?;
        let Some((mut at_world, seen)) = until(&self.world, &payload, patience)? else {
            return Ok(None);
        };
        let (seen, _) = Datagram::parse(&seen).context("the marker")?;
        let port = field(&seen.body, 0).context("the marker's port")?;
        let back = marker((internet, MARKER_PORT), (seen.source, port), &payload);
        self.send(End::World, &back)?;
        let Some((at_slot, _)) = until(&self.slot, &payload, patience)? else {
            return Ok(None);
        };
        // What the host answers to the world is there by now as well.
        while let Some(packet) = next_packet(&self.world, Duration::ZERO)? {
            at_world.push(packet);
        }
        Ok(Some((at_world, at_slot)))
    }
}

/// A hardware address from its text.
fn bytes(mac: &str) -> Option<[u8; 6]> {
    let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<_> = bytes.collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

const NOBODY: Flow = Flow {
    protocol: 0,
    slot_port: 0,
    peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    peer_port: 0,
    published_port: None,
};

/// The same for both versions of IP.
fn rules() -> String {
    let (slot, slot6) = (SLOT.0.to_string(), format!("[{}]", SLOT.1));
    rules_of("ip", &slot) + &rules_of("ip6", &slot6)
}

fn rules_of(family: &str, slot: &str) -> String {
    let (outside, inside) = PUBLISHED;
    format!(
        "table {family} nat {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname eth0 masquerade
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname eth0 tcp dport {outside} dnat to {slot}:{inside}
                iifname eth0 udp dport {outside} dnat to {slot}:{inside}
            }}
        }}
        table {family} filter {{
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state invalid drop
                iifname slot0 accept
                ct state established,related accept
                ct status dnat accept
            }}
        }}\n"
    )
}

/// A world whose internet is the test alone, and whose host tells every error.
fn raw_world() -> Result<World> {
    let world = World::new()?;
    let (host, internet) = (text(HOST_MAC), text(WORLD_MAC));
    let links = format!(
        "link set {UPLINK} address {host}
         neigh replace 192.0.2.1 lladdr {internet} dev {UPLINK} nud permanent
         neigh replace 2001:db8:1::1 lladdr {internet} dev {UPLINK} nud permanent\n"
    );
    world.command("ip", ["-batch", "-"]).input(links).run()?;
    let every_error = "sysctl -qw net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratemask=255";
    world.tool(every_error).run()?;
    Ok(world)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn marker(from: (IpAddr, u16), to: (IpAddr, u16), payload: &str) -> Packet {
    let marker = Datagram {
        source: from.0,
        destination: to.0,
        protocol: UDP,
        ttl: 64,
        tos: 0,
        identification: 1,
        dont_fragment: false,
        more_fragments: false,
        offset: 0,
        options: Vec::new(),
        body: udp((from.1, to.1), payload.as_bytes()),
    };
    marker.seal().bytes()
}

/// The packets before the one that ends with `payload`, and that one, if it comes within `patience`.
fn until(tap: &Tap, payload: &str, patience: Duration) -> Result<Option<(Vec<Packet>, Packet)>> {
    let mut before = Vec::new();
    while let Some(packet) = next_packet(tap, patience)? {
        // Markers are IPv4, whatever they mark.
        if packet.ends_with(payload.as_bytes()) && packet[0] >> 4 == 4 && packet[9] == UDP {
            return Ok(Some((before, packet)));
        }
        before.push(packet);
    }
    Ok(None)
}

/// The next IP packet, without its Ethernet header.
fn next_packet(tap: &Tap, patience: Duration) -> Result<Option<Packet>> {
    while let Some(mut frame) = tap.receive(patience)? {
        let ethertype = frame.get(12..14).unwrap_or_default();
        if [Version::V4, Version::V6]
            .iter()
            .any(|version| version.ethertype() == ethertype)
        {
            let packet = frame.split_off(14);
            if !is_of_the_link(&packet) {
                return Ok(Some(packet));
            }
        }
    }
    Ok(None)
}

/// Whether it is about the link itself, between link-local addresses or for a group.
fn is_of_the_link(packet: &[u8]) -> bool {
    let Some((datagram, _)) = Datagram::parse(packet) else {
        return false;
    };
    let kind = datagram.body.first().copied().unwrap_or_default();
    datagram.protocol == ICMPV6 && LINK_MESSAGES.contains(&kind)
}
