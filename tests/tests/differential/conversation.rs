//! One conversation: the packets that its ends send, and what they make of those they see.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::packet::{Datagram, ICMP, TCP, UDP, Version, field, icmp, set_field, tcp, udp};
use crate::sight::{self, Sight, put_together};
use crate::traffic::{Damage, End, Flow, Parts, Quote, Step, What};
use crate::twin::{HOST, Packet, SLOT};

const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 1);
/// Where the world sends to while it has seen nothing of the slot.
const NOBODYS_PORT: u16 = 50_000;
/// Bytes of a fragment's body.
const FRAGMENT: usize = 560;
const LARGEST_PACKET: usize = 1500;
/// ICMP; it tells the time of day, which is never the same.
const TIMESTAMP_REPLY: u8 = 14;

/// What is known of the present conversation.
pub(crate) struct Conversation {
    flow: Flow,
    /// The port that stands for the slot's.
    translated: Option<u16>,
    /// The last packet that each end saw.
    last_at_slot: Option<Packet>,
    last_at_world: Option<Packet>,
    sent: Vec<Packet>,
}

impl Conversation {
    pub(crate) fn new(flow: Flow) -> Self {
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

    /// Notes that a packet was sent.
    pub(crate) fn sent(&mut self, packet: Packet) {
        self.sent.push(packet);
    }

    /// The packets of a step; none for an error about nothing.
    pub(crate) fn packets(&self, step: &Step) -> Vec<Packet> {
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
        let version = flow.version();
        let (source, destination, ports) = match step.from {
            End::Slot => (
                own(SLOT, version),
                flow.peer,
                (flow.slot_port, flow.peer_port),
            ),
            End::World => (
                flow.peer,
                own(HOST, version),
                (flow.peer_port, self.host_port()),
            ),
        };
        let mut whole = Datagram {
            source,
            destination,
            protocol: version.icmp(),
            ttl: step.ttl,
            tos: step.tos,
            identification: step.identification,
            dont_fragment: step.dont_fragment,
            more_fragments: false,
            offset: 0,
            options: step.options.clone(),
            body: Vec::new(),
        };
        let identifier = match step.from {
            End::Slot => flow.slot_port,
            End::World => self.host_port(),
        };
        let rest = u32::from(identifier) << 16;
        // What is not cut has to fit.
        let room = match step.parts {
            Parts::Whole => LARGEST_PACKET - whole.header_length(),
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
                    whole.source = own((ROUTER, ROUTER6), version);
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
        let places = Places::of(last)?;
        let mut about = last[..last.len().min(places.transport + quoted)].to_vec();
        // The sender's own address and port are the quote's source, the receiver's its destination.
        match quote {
            Quote::Right => {}
            Quote::OtherPort => {
                let echo = places.is_icmp;
                let at = places.transport + if echo { 4 } else { 0 };
                set_field(&mut about, at, 50_001);
                set_field(&mut about, at + 2, 50_002);
            }
            Quote::OtherPeer => about[places.destination_end - 1] ^= 0x55,
            Quote::OtherProtocol => {
                let protocol = &mut about[places.protocol];
                *protocol = if *protocol == UDP { TCP } else { UDP };
            }
        }
        Some(about)
    }

    /// Notes the port that stands for the slot's, as the world sees it.
    pub(crate) fn learn(&mut self, step: &Step, at_world: &[Packet]) {
        if step.from == End::World || matches!(step.what, What::Error { .. }) {
            return;
        }
        for packet in at_world {
            let Some((seen, _)) = Datagram::parse(packet) else {
                continue;
            };
            let at = identifier_at(&seen);
            let from_slot =
                seen.protocol == self.flow.protocol && seen.destination == self.flow.peer;
            if from_slot && seen.offset == 0 && self.translated.is_none() {
                self.translated = field(&seen.body, at);
            }
        }
    }

    pub(crate) fn remember(&mut self, at_slot: Vec<Packet>, at_world: Vec<Packet>) {
        let of_flow = |packet: &Vec<u8>| {
            Datagram::parse(packet).is_some_and(|(seen, _)| {
                seen.protocol == self.flow.protocol && seen.offset == 0 && !is_error(&seen)
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

    pub(crate) fn sights(&self, at: End, step: &Step, packets: &[Packet]) -> Vec<Sight> {
        let parsed = packets.iter().filter_map(|packet| Datagram::parse(packet));
        let whole = put_together(parsed.collect());
        whole
            .into_iter()
            .map(|(seen, header_is_right, incomplete)| {
                let mut sight = self.sight(at, seen, header_is_right);
                sight.incomplete = incomplete;
                // The sender's own end sees what the host made. Whoever puts an IPv6 datagram together
                // and cuts it again chooses a new one.
                if at == step.from || step.version == Version::V6 {
                    sight.identification = 0;
                }
                sight
            })
            .collect()
    }

    fn sight(&self, at: End, seen: Datagram, header_is_right: bool) -> Sight {
        let sum = seen.sum();
        let mut body = seen.body.clone();
        let quote = is_error(&seen).then(|| {
            let about = body.split_off(body.len().min(8));
            self.name_quote(&about)
        });
        if at == End::World && quote.is_none() {
            let place = identifier_at(&seen);
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
            match self.flow.version() {
                Version::V4 => {
                    set_field(&mut bytes, 10, 0);
                    bytes.iter_mut().skip(8).take(1).for_each(|ttl| *ttl = 0);
                }
                Version::V6 => bytes.iter_mut().skip(7).take(1).for_each(|hops| *hops = 0),
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

/// Whether a packet is an ICMP error.
fn is_error(seen: &Datagram) -> bool {
    let version = seen.version();
    seen.protocol == version.icmp() && version.is_error(&seen.body)
}

/// Where the body has what tells connections apart: a port, or the identifier of an echo.
fn identifier_at(seen: &Datagram) -> usize {
    if seen.protocol == seen.version().icmp() {
        4
    } else {
        0
    }
}

/// Where things are in a packet.
struct Places {
    is_icmp: bool,
    protocol: usize,
    destination_end: usize,
    transport: usize,
}

impl Places {
    fn of(packet: &[u8]) -> Option<Self> {
        let (datagram, _) = Datagram::parse(packet)?;
        let transport = packet.len() - datagram.body.len();
        let (protocol, destination_end) = match datagram.version() {
            Version::V4 => (9, 20),
            Version::V6 => (6, 40),
        };
        Some(Self {
            is_icmp: datagram.protocol == datagram.version().icmp(),
            protocol,
            destination_end,
            transport,
        })
    }
}

fn own((v4, v6): (Ipv4Addr, Ipv6Addr), version: Version) -> IpAddr {
    match version {
        Version::V4 => v4.into(),
        Version::V6 => v6.into(),
    }
}

fn payload(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}

fn name(address: IpAddr) -> String {
    match address {
        own if own == SLOT.0 || own == SLOT.1 => "slot".to_owned(),
        own if own == HOST.0 || own == HOST.1 => sight::HOST.to_owned(),
        other => other.to_string(),
    }
}
