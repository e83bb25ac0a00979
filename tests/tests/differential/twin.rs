//! A host that translates for one slot, with raw access to both ends: ours, and one with netfilter.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pcpm_ebpf::abi::{GATEWAY_MAC, slot_mac};
use pcpm_tests::{Daemon, HOST_ADDRESS, INTERNET_ADDRESS, PATIENCE, Place, Tap, UPLINK, World};
use serde_json::json;

use crate::packet::{Datagram, ICMP, Sum, TCP, UDP, field, icmp, set_field, tcp, udp};
use crate::traffic::{Damage, End, Flow, Parts, Quote, Step, What};

pub(crate) const SLOT: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);
const WORLD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// Where the world sends to while it has seen nothing of the slot.
const NOBODYS_PORT: u16 = 50_000;
/// A port of the host's and the slot's port that answers there.
pub(crate) const PUBLISHED: (u16, u16) = (9000, 8000);
const MARKER_PORT: u16 = 9;
/// Bytes of a fragment's body.
const FRAGMENT: usize = 560;
/// How soon a marker is sent again while links come up.
const RETRY: Duration = Duration::from_millis(100);
const LARGEST_PACKET: usize = 1500;
/// ICMP; it tells the time of day, which is never the same.
const TIMESTAMP_REPLY: u8 = 14;

/// From the IP header on.
type Packet = Vec<u8>;

/// What a twin's ends saw of one step, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) at_slot: Vec<Sight>,
    pub(crate) at_world: Vec<Sight>,
}

/// A packet that arrived, without what may differ: the translated port is the slot's own again,
/// datagrams are put together, checksums are judged and not compared.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sight {
    pub(crate) source: String,
    pub(crate) destination: String,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// 0 for packets that the host makes itself.
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) options: Vec<u8>,
    pub(crate) header_is_right: bool,
    pub(crate) sum: Sum,
    pub(crate) body: Vec<u8>,
    /// For an error: what it quotes.
    pub(crate) quote: Option<String>,
    /// For a datagram whose fragments did not all arrive.
    pub(crate) incomplete: bool,
}

impl Seen {
    pub(crate) fn any(&self, is: impl Fn(&Sight) -> bool) -> bool {
        self.at_slot.iter().chain(&self.at_world).any(is)
    }

    pub(crate) fn all(&self, is: impl Fn(&Sight) -> bool) -> bool {
        !self.any(|sight| !is(sight))
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any(|_| true)
    }
}

impl fmt::Debug for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            source,
            destination,
            protocol,
            ttl,
            tos,
            identification,
            dont_fragment,
            options,
            header_is_right,
            sum,
            body,
            quote,
            incomplete,
        } = self;
        let start = &body[..body.len().min(20)];
        write!(
            f,
            "{source} to {destination}, protocol {protocol}, ttl {ttl}, tos {tos}, id {identification}, \
             df {dont_fragment}, options {options:?}, header right: {header_is_right}, checksum {sum:?}, \
             {} bytes {start:02x?}, quote {quote:?}, incomplete: {incomplete}",
            body.len()
        )
    }
}

pub(crate) struct Twin {
    slot: Tap,
    world: Tap,
    markers: u32,
    conversation: Conversation,
    // Dropped in this order.
    _daemon: Option<Daemon>,
    _world: World,
}

/// What is known of the present conversation.
struct Conversation {
    flow: Flow,
    /// The port that stands for the slot's.
    translated: Option<u16>,
    /// The last packet that each end saw.
    last_at_slot: Option<Packet>,
    last_at_world: Option<Packet>,
    sent: Vec<Packet>,
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
        ensure!(reply.attachment.addresses[0] == SLOT.to_string());
        let place = daemon.place(&reply);
        // Nobody answers by himself.
        place.tool("ip address flush dev eth0").run()?;
        Self::new(world, Some(daemon), &place)
    }

    /// Linux's own: a routed veth, `masquerade` and `dnat`.
    pub(crate) fn netfilters() -> Result<Self> {
        let world = raw_world()?;
        let (gateway, slot) = (text(GATEWAY_MAC), text(slot_mac(0)));
        let links = format!(
            "netns add slot
             link add slot0 mtu 1500 address {gateway} type veth peer name eth0 netns slot
             addr add 169.254.1.1/32 dev slot0 scope link
             link set slot0 up
             route add {SLOT}/32 dev slot0
             neigh replace {SLOT} lladdr {slot} dev slot0 nud permanent\n"
        );
        world.command("ip", ["-batch", "-"]).input(links).run()?;
        let place = world.host().at("/run/netns/slot");
        let link = format!("ip link set eth0 address {slot} up");
        place.tool(&link).run()?;
        world.command("nft", ["-f", "-"]).input(rules()).run()?;
        world
            .tool("sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_tcp_be_liberal=1")
            .run()?;
        Self::new(world, None, &place)
    }

    fn new(world: World, daemon: Option<Daemon>, slot: &Place) -> Result<Self> {
        let mut twin = Self {
            slot: Tap::open(slot, "eth0")?,
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
            self.conversation.sent.push(packet);
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
            End::Slot => (&self.slot, GATEWAY_MAC, slot_mac(0)),
            End::World => (&self.world, HOST_MAC, WORLD_MAC),
        };
        tap.send(&[&to[..], &own, &[8, 0], packet].concat())
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
        let there = marker((SLOT, MARKER_PORT), (internet, MARKER_PORT), &payload);
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

const NOBODY: Flow = Flow {
    protocol: 0,
    slot_port: 0,
    peer: Ipv4Addr::UNSPECIFIED,
    peer_port: 0,
    published_port: None,
};

fn rules() -> String {
    let (outside, inside) = PUBLISHED;
    format!(
        "table ip nat {{
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname eth0 masquerade
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname eth0 tcp dport {outside} dnat to {SLOT}:{inside}
                iifname eth0 udp dport {outside} dnat to {SLOT}:{inside}
            }}
        }}
        table ip filter {{
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
         neigh replace 192.0.2.1 lladdr {internet} dev {UPLINK} nud permanent\n"
    );
    world.command("ip", ["-batch", "-"]).input(links).run()?;
    world.tool("sysctl -qw net.ipv4.icmp_ratemask=0").run()?;
    Ok(world)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn marker(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &str) -> Vec<u8> {
    let body = udp((from.1, to.1), payload.as_bytes());
    Datagram {
        source: from.0,
        destination: to.0,
        body,
        ..datagram(UDP)
    }
    .seal()
    .bytes()
}

fn datagram(protocol: u8) -> Datagram {
    Datagram {
        source: SLOT,
        destination: SLOT,
        protocol,
        ttl: 64,
        tos: 0,
        identification: 1,
        dont_fragment: false,
        more_fragments: false,
        offset: 0,
        options: Vec::new(),
        body: Vec::new(),
    }
}

/// The packets before the one that ends with `payload`, and that one, if it comes within `patience`.
fn until(tap: &Tap, payload: &str, patience: Duration) -> Result<Option<(Vec<Packet>, Packet)>> {
    let mut before = Vec::new();
    while let Some(packet) = next_packet(tap, patience)? {
        if packet.ends_with(payload.as_bytes()) && packet[9] == UDP {
            return Ok(Some((before, packet)));
        }
        before.push(packet);
    }
    Ok(None)
}

/// The next IPv4 packet, without its Ethernet header.
fn next_packet(tap: &Tap, patience: Duration) -> Result<Option<Packet>> {
    while let Some(mut frame) = tap.receive(patience)? {
        if frame.get(12..14) == Some(&[8, 0]) {
            return Ok(Some(frame.split_off(14)));
        }
    }
    Ok(None)
}

impl Conversation {
    fn new(flow: Flow) -> Self {
        Self {
            flow,
            translated: flow.published_port,
            last_at_slot: None,
            last_at_world: None,
            sent: Vec::new(),
        }
    }

    /// The host's port that the world sends to.
    fn host_port(&self) -> u16 {
        self.translated.unwrap_or(NOBODYS_PORT)
    }

    /// The packets of a step; none for an error about nothing.
    fn packets(&self, step: &Step) -> Vec<Packet> {
        let Some(whole) = self.datagram(step) else {
            return Vec::new();
        };
        let mut parts = match step.parts {
            Parts::Whole => vec![whole],
            _ => whole.fragments(FRAGMENT),
        };
        match step.parts {
            Parts::Reversed => parts.reverse(),
            Parts::Overtaken if parts.len() > 1 => parts.swap(0, 1),
            _ => {}
        }
        let packets = parts.iter().map(Datagram::bytes);
        packets
            .map(|mut packet| {
                if step.damage == Damage::Header {
                    packet[10] ^= 0x55;
                }
                packet
            })
            .collect()
    }

    fn datagram(&self, step: &Step) -> Option<Datagram> {
        let flow = &self.flow;
        let (source, destination, ports) = match step.from {
            End::Slot => (SLOT, flow.peer, (flow.slot_port, flow.peer_port)),
            End::World => (
                flow.peer,
                HOST_ADDRESS.parse().unwrap(),
                (flow.peer_port, self.host_port()),
            ),
        };
        let mut whole = Datagram {
            source,
            destination,
            ttl: step.ttl,
            tos: step.tos,
            identification: step.identification,
            dont_fragment: step.dont_fragment,
            options: step.options.clone(),
            ..datagram(ICMP)
        };
        let identifier = match step.from {
            End::Slot => flow.slot_port,
            End::World => self.host_port(),
        };
        let rest = u32::from(identifier) << 16;
        // What is not cut has to fit.
        let room = match step.parts {
            Parts::Whole => LARGEST_PACKET - 20 - step.options.len(),
            _ => usize::MAX,
        };
        let payload = |length: usize, header: usize| payload(length.min(room - header));
        match step.what {
            What::Tcp {
                flags,
                numbers,
                length,
            } => {
                whole.protocol = TCP;
                whole.body = tcp(ports, flags, numbers, &payload(length, 20));
            }
            What::Udp { length, .. } => {
                whole.protocol = UDP;
                whole.body = udp(ports, &payload(length, 8));
            }
            What::Echo {
                kind,
                number,
                length,
            } => whole.body = icmp(kind, 0, rest | u32::from(number), &payload(length, 8)),
            What::OtherIcmp { kind } => whole.body = icmp(kind, 0, rest, &[0; 12]),
            What::Error {
                kind,
                code,
                rest,
                quoted,
                quote,
                router,
            } => {
                let about = self.quote(step.from, quoted, quote)?;
                whole.body = icmp(kind, code, rest, &about);
                if router && step.from == End::World {
                    whole.source = ROUTER;
                }
            }
        }
        let keeps_none = matches!(
            step.what,
            What::Udp {
                checksum: false,
                ..
            }
        );
        let mut whole = if keeps_none { whole } else { whole.seal() };
        if step.damage == Damage::Transport && !keeps_none {
            let at = whole.checksum_at();
            whole.body[at] ^= 0x55;
        }
        Some(whole)
    }

    /// The beginning of the last packet that `end` saw, as it saw it or slightly wrong.
    fn quote(&self, end: End, quoted: usize, quote: Quote) -> Option<Packet> {
        let last = match end {
            End::Slot => self.last_at_slot.as_ref()?,
            End::World => self.last_at_world.as_ref()?,
        };
        let header = usize::from(last[0] & 15) * 4;
        let mut about = last[..last.len().min(header + quoted)].to_vec();
        // The sender's own address and port are the quote's source, the receiver's its destination.
        match quote {
            Quote::Right => {}
            Quote::OtherPort => {
                let echo = last[9] == ICMP;
                set_field(&mut about, header + if echo { 4 } else { 0 }, 50_001);
                set_field(&mut about, header + if echo { 6 } else { 2 }, 50_002);
            }
            Quote::OtherPeer => about[19] ^= 0x55,
            Quote::OtherProtocol => about[9] = if last[9] == UDP { TCP } else { UDP },
        }
        Some(about)
    }

    /// Notes the port that stands for the slot's, as the world sees it.
    fn learn(&mut self, step: &Step, at_world: &[Packet]) {
        if step.from == End::World || matches!(step.what, What::Error { .. }) {
            return;
        }
        for packet in at_world {
            let Some((seen, _)) = Datagram::parse(packet) else {
                continue;
            };
            let at = if seen.protocol == ICMP { 4 } else { 0 };
            let from_slot =
                seen.protocol == self.flow.protocol && seen.destination == self.flow.peer;
            if from_slot && seen.offset == 0 && self.translated.is_none() {
                self.translated = field(&seen.body, at);
            }
        }
    }

    fn remember(&mut self, at_slot: Vec<Packet>, at_world: Vec<Packet>) {
        let of_flow = |packet: &Vec<u8>| {
            Datagram::parse(packet).is_some_and(|(seen, _)| {
                let errors = seen.protocol == ICMP && is_error(&seen.body);
                seen.protocol == self.flow.protocol && seen.offset == 0 && !errors
            })
        };
        self.last_at_slot = at_slot
            .into_iter()
            .rfind(of_flow)
            .or(self.last_at_slot.take());
        self.last_at_world = at_world
            .into_iter()
            .rfind(of_flow)
            .or(self.last_at_world.take());
    }

    fn sights(&self, at: End, step: &Step, packets: &[Packet]) -> Vec<Sight> {
        let parsed = packets.iter().filter_map(|packet| Datagram::parse(packet));
        let whole = put_together(parsed.collect());
        whole
            .into_iter()
            .map(|(seen, header_is_right, incomplete)| {
                let mut sight = self.sight(at, seen, header_is_right);
                sight.incomplete = incomplete;
                // The sender's own end sees what the host made.
                if at == step.from {
                    sight.identification = 0;
                }
                sight
            })
            .collect()
    }

    fn sight(&self, at: End, seen: Datagram, header_is_right: bool) -> Sight {
        let sum = seen.sum();
        let mut body = seen.body.clone();
        let quote = (seen.protocol == ICMP && is_error(&body)).then(|| {
            let about = body.split_off(body.len().min(8));
            self.name_quote(&about)
        });
        if at == End::World && quote.is_none() {
            let place = if seen.protocol == ICMP { 4 } else { 0 };
            if field(&body, place) == self.translated {
                set_field(&mut body, place, self.flow.slot_port);
            }
        }
        if seen.protocol == ICMP && body[0] == TIMESTAMP_REPLY {
            body.truncate(8);
        }
        set_field(&mut body, seen.checksum_at(), 0);
        Sight {
            source: name(seen.source),
            destination: name(seen.destination),
            protocol: seen.protocol,
            ttl: seen.ttl,
            tos: seen.tos,
            identification: seen.identification,
            dont_fragment: seen.dont_fragment,
            options: seen.options,
            header_is_right,
            sum,
            body,
            quote,
            incomplete: false,
        }
    }

    /// Which packet an error quotes. On its way the TTL became less, and with it the checksum.
    fn name_quote(&self, about: &[u8]) -> String {
        let blind = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            set_field(&mut bytes, 10, 0);
            if let Some(ttl) = bytes.get_mut(8) {
                *ttl = 0;
            }
            bytes
        };
        let about = blind(about);
        let sent = self.sent.iter().map(|sent| blind(sent));
        match sent.enumerate().find(|(_, sent)| sent.starts_with(&about)) {
            Some((index, _)) => format!("{} bytes of packet {index}", about.len()),
            None => format!("{about:02x?}"),
        }
    }
}

/// Whether an ICMP message quotes a packet.
fn is_error(body: &[u8]) -> bool {
    matches!(body.first(), Some(3..=5 | 11 | 12))
}

fn payload(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}

fn name(address: Ipv4Addr) -> String {
    match address.to_string() {
        own if own == SLOT.to_string() => "slot".to_owned(),
        own if own == HOST_ADDRESS => "host".to_owned(),
        other => other,
    }
}

/// Puts fragments together, as their receiver would; the last flag is for what stays incomplete.
fn put_together(packets: Vec<(Datagram, bool)>) -> Vec<(Datagram, bool, bool)> {
    let mut whole: Vec<(Datagram, bool, bool)> = Vec::new();
    let mut parts: Vec<(Datagram, bool)> = Vec::new();
    for (packet, right) in packets {
        if packet.offset == 0 && !packet.more_fragments {
            whole.push((packet, right, false));
        } else {
            parts.push((packet, right));
        }
    }
    while let Some((first, _)) = parts.first().cloned() {
        let same = |part: &Datagram| {
            part.identification == first.identification && part.source == first.source
        };
        let (mut own, others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|(part, _)| same(part));
        parts = others;
        own.sort_by_key(|(part, _)| part.offset);
        let right = own.iter().all(|(_, right)| *right);
        let ends = own.last().is_some_and(|(part, _)| !part.more_fragments);
        let mut datagram = Datagram {
            body: Vec::new(),
            offset: 0,
            more_fragments: false,
            ..own[0].0.clone()
        };
        let mut complete = ends;
        for (part, _) in own {
            complete &= part.offset == datagram.body.len();
            datagram.body.extend(part.body);
        }
        whole.push((datagram, right, !complete));
    }
    whole
}
