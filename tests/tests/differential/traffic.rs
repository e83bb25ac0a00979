//! Traffic between a slot and the world, made up from a seed.

use std::net::IpAddr;

use crate::packet::{ACK, FIN, RST, SYN, TCP, UDP, Version};

/// Where a packet starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Slot,
    World,
}

/// A conversation, seen from the slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) protocol: u8,
    pub(crate) slot_port: u16,
    pub(crate) peer: IpAddr,
    pub(crate) peer_port: u16,
    /// The host's port that is published for the slot's, for a conversation that the world opens.
    pub(crate) published_port: Option<u16>,
}

impl Flow {
    pub(crate) fn version(&self) -> Version {
        Version::of(self.peer)
    }
}

/// One packet, or the fragments of one.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) version: Version,
    pub(crate) from: End,
    pub(crate) what: What,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) identification: u16,
    /// Counts in IPv4.
    pub(crate) dont_fragment: bool,
    /// As in [`Datagram`](crate::packet::Datagram).
    pub(crate) options: Vec<u8>,
    pub(crate) parts: Parts,
    pub(crate) damage: Damage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tcp {
        flags: u8,
        numbers: (u32, u32),
        length: usize,
    },
    Udp {
        length: usize,
        checksum: bool,
    },
    Echo {
        kind: u8,
        number: u16,
        length: usize,
    },
    /// An ICMP error about the last packet that this end has seen.
    Error {
        kind: u8,
        code: u8,
        rest: u32,
        /// Bytes of the transport header and its payload.
        quoted: usize,
        quote: Quote,
        /// Whether a router sends it and not the peer.
        router: bool,
    },
    /// ICMP that is neither echo nor error.
    OtherIcmp {
        kind: u8,
    },
}

/// How the packet that an error quotes differs from the one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quote {
    Right,
    OtherPort,
    OtherPeer,
    OtherProtocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parts {
    Whole,
    InOrder,
    Reversed,
    /// The first comes second.
    Overtaken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    Header,
    Transport,
}

/// One conversation and its packets.
#[derive(Clone, Debug)]
pub(crate) struct Episode {
    pub(crate) flow: Flow,
    pub(crate) steps: Vec<Step>,
}

/// Numbers from a seed (`SplitMix64`).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).unwrap()]
    }
}

const LENGTHS: [usize; 8] = [0, 1, 7, 64, 512, 1459, 1460, 1400];
const UDP_LENGTHS: [usize; 8] = [0, 1, 7, 64, 512, 1471, 1472, 1400];
/// Type and code: unreachable, time exceeded, parameter problem, source quench, redirect.
const ERRORS_OF_IPV4: [(u8, u8); 11] = [
    (3, 0),
    (3, 1),
    (3, 3),
    (3, 4),
    (3, 9),
    (3, 13),
    (11, 0),
    (11, 1),
    (12, 0),
    (4, 0),
    (5, 1),
];
/// Type and code: unreachable, packet too big, time exceeded, parameter problem, redirect.
const ERRORS_OF_IPV6: [(u8, u8); 11] = [
    (1, 0),
    (1, 1),
    (1, 3),
    (1, 4),
    (1, 5),
    (2, 0),
    (3, 0),
    (3, 1),
    (4, 0),
    (4, 1),
    (137, 0),
];

/// Makes the steps of one flow.
pub(crate) struct Script<'a> {
    random: &'a mut Random,
    version: Version,
    steps: Vec<Step>,
}

impl<'a> Script<'a> {
    fn new(random: &'a mut Random, version: Version) -> Self {
        Self {
            random,
            version,
            steps: Vec::new(),
        }
    }

    fn say(&mut self, from: End, what: What) -> &mut Step {
        let random = &mut *self.random;
        self.steps.push(Step {
            version: self.version,
            from,
            what,
            ttl: 64,
            tos: random.pick(&[0, 0x10, 0xb8]),
            identification: u16::try_from(random.below(0x1_0000)).unwrap(),
            dont_fragment: random.one_in(2),
            options: Vec::new(),
            parts: Parts::Whole,
            damage: Damage::None,
        });
        self.steps.last_mut().unwrap()
    }

    fn tcp(&mut self, from: End, flags: u8, length: usize) {
        let numbers = match from {
            End::Slot => (1000 + self.said(from), 5000 + self.said(End::World)),
            End::World => (5000 + self.said(from), 1000 + self.said(End::Slot)),
        };
        let acknowledged = if flags & ACK == 0 { 0 } else { numbers.1 };
        let numbers = (numbers.0, acknowledged);
        let what = What::Tcp {
            flags,
            numbers,
            length,
        };
        self.say(from, what);
    }

    /// Sequence numbers that `from` has used so far.
    fn said(&self, from: End) -> u32 {
        let steps = self.steps.iter().filter(|step| step.from == from);
        let lengths = steps.map(|step| match step.what {
            What::Tcp { flags, length, .. } => {
                u32::try_from(length).unwrap() + u32::from(flags & (SYN | FIN) != 0)
            }
            _ => 0,
        });
        lengths.sum()
    }

    fn either(&mut self) -> End {
        self.random.pick(&[End::Slot, End::World])
    }

    fn length(&mut self) -> usize {
        self.random.pick(&LENGTHS)
    }

    fn handshake(&mut self) {
        self.tcp(End::Slot, SYN, 0);
        self.tcp(End::World, SYN | ACK, 0);
        self.tcp(End::Slot, ACK, 0);
    }

    fn talk(&mut self) {
        for _ in 0..self.random.below(5) {
            let (from, length) = (self.either(), self.length());
            self.tcp(from, ACK, length);
        }
    }

    fn close(&mut self, first: End) {
        let second = other(first);
        self.tcp(first, FIN | ACK, 0);
        self.tcp(second, ACK, 0);
        self.tcp(second, FIN | ACK, 0);
        self.tcp(first, ACK, 0);
    }

    fn datagram(&mut self, from: End) -> &mut Step {
        let length = self.random.pick(&UDP_LENGTHS);
        let checksum = !self.random.one_in(4);
        self.say(from, What::Udp { length, checksum })
    }

    fn echo_request(&mut self, from: End) {
        self.echo(from, self.version.echo().0);
    }

    fn echo_reply(&mut self, from: End) {
        self.echo(from, self.version.echo().1);
    }

    fn echo(&mut self, from: End, kind: u8) {
        let length = self.random.pick(&UDP_LENGTHS);
        let number = u16::try_from(self.steps.len()).unwrap();
        let what = What::Echo {
            kind,
            number,
            length,
        };
        self.say(from, what);
    }

    fn error(&mut self, from: End) {
        let (kind, code) = match self.version {
            Version::V4 => self.random.pick(&ERRORS_OF_IPV4),
            Version::V6 => self.random.pick(&ERRORS_OF_IPV6),
        };
        let too_big = match self.version {
            Version::V4 => (3, 4),
            Version::V6 => (2, 0),
        };
        let right = Quote::Right;
        let what = What::Error {
            kind,
            code,
            rest: if (kind, code) == too_big { 1400 } else { 0 },
            quoted: self.random.pick(&[8, 8, 20, 28, 128, 548]),
            quote: self.random.pick(&[
                right,
                right,
                right,
                Quote::OtherPort,
                Quote::OtherPeer,
                Quote::OtherProtocol,
            ]),
            router: self.random.one_in(2),
        };
        self.say(from, what);
    }

    /// Makes about one packet in twelve unusual.
    fn bend(mut self) -> Vec<Step> {
        for step in &mut self.steps {
            if self.random.one_in(12) {
                bend(step, self.random);
            }
        }
        self.steps
    }
}

fn bend(step: &mut Step, random: &mut Random) {
    match (random.below(4), step.version) {
        (0, _) => step.ttl = random.pick(&[0, 1, 2, 3, 255]),
        (1, Version::V4) => {
            step.damage = random.pick(&[Damage::Header, Damage::Transport]);
        }
        (1, Version::V6) => step.damage = Damage::Transport,
        (2, Version::V4) => step.options = ipv4_options(random),
        (2, Version::V6) => step.options = ipv6_options(random),
        _ => {
            step.parts = random.pick(&[Parts::InOrder, Parts::Reversed, Parts::Overtaken]);
            step.dont_fragment = false;
        }
    }
}

fn ipv4_options(random: &mut Random) -> Vec<u8> {
    let nothing = &[1, 1, 1, 0][..];
    let router_alert = &[148, 4, 0, 0];
    let record_route = &[7, 7, 4, 0, 0, 0, 0, 0];
    random.pick(&[nothing, router_alert, record_route]).to_vec()
}

/// Headers that stay in front of a fragment header, whoever cuts the datagram.
fn ipv6_options(random: &mut Random) -> Vec<u8> {
    const HOP_BY_HOP: u8 = 0;
    let nothing = &[HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0][..];
    let router_alert = &[HOP_BY_HOP, 0, 5, 2, 0, 0, 1, 0];
    let both = &[HOP_BY_HOP, 1, 1, 4, 0, 0, 0, 0, 5, 2, 0, 0, 1, 2, 0, 0];
    random.pick(&[nothing, router_alert, both]).to_vec()
}

/// With the ends changed over: what the slot did the world does.
pub(crate) fn from_world(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        step.from = other(step.from);
    }
    steps
}

fn other(end: End) -> End {
    match end {
        End::Slot => End::World,
        End::World => End::Slot,
    }
}

/// Opened, used, and closed, reset, or left alone.
pub(crate) fn tcp_connection(random: &mut Random, version: Version) -> Vec<Step> {
    let ending = random.below(6);
    let mut script = Script::new(random, version);
    script.handshake();
    script.talk();
    let end = script.either();
    match ending {
        0 | 1 => script.close(end),
        2 => script.tcp(end, RST | ACK, 0),
        3 => {
            script.tcp(end, FIN | ACK, 0);
            script.talk();
        }
        4 => {
            script.tcp(End::Slot, FIN | ACK, 0);
            script.tcp(End::World, FIN | ACK, 0);
            script.tcp(End::Slot, ACK, 0);
            script.tcp(End::World, ACK, 0);
        }
        _ => {}
    }
    script.bend()
}

/// What does not begin or go on as it should.
pub(crate) fn tcp_oddity(random: &mut Random, version: Version) -> Vec<Step> {
    let oddity = random.below(6);
    let mut script = Script::new(random, version);
    match oddity {
        0 => script.tcp(End::Slot, SYN, 0),
        1 => {
            script.tcp(End::Slot, SYN, 0);
            script.tcp(End::World, RST | ACK, 0);
        }
        2 => {
            script.tcp(End::Slot, SYN, 0);
            script.tcp(End::World, SYN, 0);
            script.tcp(End::Slot, SYN | ACK, 0);
            script.tcp(End::World, SYN | ACK, 0);
        }
        3 => {
            script.tcp(End::Slot, SYN, 0);
            script.tcp(End::Slot, SYN, 0);
            script.tcp(End::World, SYN | ACK, 0);
            script.tcp(End::Slot, RST, 0);
        }
        4 => script.tcp(End::Slot, RST, 0),
        _ => {
            script.tcp(End::Slot, ACK, 100);
            script.tcp(End::World, ACK, 100);
        }
    }
    script.talk();
    script.bend()
}

pub(crate) fn udp_exchange(random: &mut Random, version: Version) -> Vec<Step> {
    let count = 1 + random.below(6);
    let mut script = Script::new(random, version);
    script.datagram(End::Slot);
    for _ in 0..count {
        let from = script.either();
        script.datagram(from);
    }
    script.bend()
}

pub(crate) fn echo_exchange(random: &mut Random, version: Version) -> Vec<Step> {
    let count = 1 + random.below(4);
    let mut script = Script::new(random, version);
    for _ in 0..count {
        script.echo_request(End::Slot);
        script.echo_reply(End::World);
    }
    let from = script.either();
    // What time is it; what is your name.
    let question = match version {
        Version::V4 => 13,
        Version::V6 => 139,
    };
    match script.random.below(4) {
        0 => script.echo_reply(from),
        1 => script.echo_request(End::World),
        2 => drop(script.say(from, What::OtherIcmp { kind: question })),
        _ => {}
    }
    script.bend()
}

/// An exchange of any protocol, with errors in between.
pub(crate) fn errors(random: &mut Random, version: Version) -> Vec<Step> {
    errors_about(&[TCP, UDP, version.icmp()], random, version)
}

/// The same of what has ports.
pub(crate) fn errors_about_ports(random: &mut Random, version: Version) -> Vec<Step> {
    errors_about(&[TCP, UDP], random, version)
}

fn errors_about(protocols: &[u8], random: &mut Random, version: Version) -> Vec<Step> {
    let protocol = random.pick(protocols);
    let mut script = Script::new(random, version);
    match protocol {
        TCP => script.handshake(),
        UDP => {
            script.datagram(End::Slot);
            script.datagram(End::World);
        }
        _ => {
            script.echo_request(End::Slot);
        }
    }
    for _ in 0..=script.random.below(3) {
        let from = if protocol == version.icmp() {
            End::World
        } else {
            script.either()
        };
        script.error(from);
    }
    match protocol {
        TCP => script.talk(),
        UDP => drop(script.datagram(End::World)),
        _ => script.echo_reply(End::World),
    }
    script.bend()
}

/// Datagrams that are longer than a packet, or cut for no reason.
pub(crate) fn fragments(random: &mut Random, version: Version) -> Vec<Step> {
    let count = random.below(5);
    let mut script = Script::new(random, version);
    for index in 0..=count {
        let from = if index == 0 {
            End::Slot
        } else {
            script.either()
        };
        let length = script.random.pick(&[64, 1400, 1473, 3000, 6000]);
        let checksum = !script.random.one_in(4);
        let parts = script.random.pick(&[
            Parts::InOrder,
            Parts::InOrder,
            Parts::InOrder,
            Parts::Reversed,
            Parts::Overtaken,
        ]);
        let step = script.say(from, What::Udp { length, checksum });
        step.parts = parts;
        step.dont_fragment = false;
    }
    script.bend()
}

/// What the world sends without having been asked.
pub(crate) fn unsolicited(random: &mut Random, version: Version) -> Vec<Step> {
    let protocol = random.pick(&[TCP, UDP, version.icmp()]);
    let mut script = Script::new(random, version);
    for _ in 0..3 {
        match protocol {
            TCP => {
                let flags = script.random.pick(&[SYN, SYN | ACK, ACK, RST, FIN | ACK]);
                script.tcp(End::World, flags, 0);
            }
            UDP => drop(script.datagram(End::World)),
            _ => {
                let (request, reply) = version.echo();
                let kind = script.random.pick(&[reply, request]);
                script.echo(End::World, kind);
            }
        }
    }
    script.bend()
}

/// The protocol of a conversation is that of its first packet.
pub(crate) fn protocol_of(steps: &[Step]) -> u8 {
    match steps[0].what {
        What::Tcp { .. } => TCP,
        What::Udp { .. } => UDP,
        _ => steps[0].version.icmp(),
    }
}
