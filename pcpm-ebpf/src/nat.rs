//! Flows: keys and entries, connection tracking, timeouts, and the choice of ports for translation.
//!
//! A connection of a slot to the world has two entries. The INGRESS entry owns the translated port
//! and is the truth: it holds the tracking state, and it alone decides where an answer goes. The
//! EGRESS entry only remembers which port that was; it counts for nothing unless the INGRESS entry
//! points back ([`is_reverse_of`]). So neither the order of insertion nor the eviction of one of
//! the two can deliver a packet to somebody else.
//!
//! A connection that the host opened to a slot has one HOST entry.
//!
//! Only the first fragment of a datagram has ports. What it decided stands in an entry of a table of
//! its own (FRAGMENT) until the last one, which its successors follow. A first fragment that decides
//! otherwise ends it, and so does time, so that a datagram that was never finished does not decide
//! for a later one with the same identification. Fragments that come before the first are lost, as
//! with any translation that does not put datagrams together.
//!
//! # Ports of closed connections
//!
//! RFC 5382 has an entry live for four minutes after its connection was closed, so that late segments
//! find their way. A client that opens a hundred short connections a second to one server would then
//! run out of ports. So when half of the tries found no free port, the others may take that of a
//! connection which both sides have finished, or one has reset, and which has been silent since
//! ([`may_give_way`]). Linux does likewise (`nf_nat_used_tuple_harder`).
//!
//! Only connections of the same attachment give way. A late segment then reaches nobody who could not
//! see it anyway. And a server that still has the old connection in TIME-WAIT takes a new one with a
//! later timestamp or sequence number for what it is (RFC 6191): those of one slot's stack to one peer
//! mostly grow, those of two slots tell nothing about each other. Where they do not grow (stacks that
//! give each port a clock of its own), the server answers with what it expects, the slot's stack resets
//! that, and its next SYN is taken: a second is lost, not the connection.
//!
//! # What is collected
//!
//! An entry that does not exist any more takes room until somebody removes it: the daemon, which looks
//! through the table and has a program remove what it finds ([`is_worth_collecting`]). An EGRESS entry
//! says nothing of its own life: it goes when no INGRESS entry that lives points back at it.
//!
//! A slot that has half of the entries that it may have loses what it hardly needs before its time:
//! closed connections, questions without an answer, UDP that fell silent. RFC 4787 and 5382 ask for
//! minutes, which is for how many a NAT has room; thus a hundred queries a second by one slot would
//! fill its share. Established TCP connections stay.
//!
//! Whoever removes or replaces an entry breaks its seal first, by an exchange that only one can win. So
//! nobody removes by its key what another has just put there.
//!
//! # Entries are sealed
//!
//! The kernel uses the place of an element again at once, without waiting for programs that still
//! hold a pointer (`kernel/bpf/hashtab.c`, `prealloc_lru_pop`). Between a lookup of key K and the
//! reading of the value, another CPU may evict the entry and copy that of a key K' into its place; so
//! what is read may be K's value, that of K', or a mixture. `slot` and `epoch` say who gets the
//! packet, `translated_*` as what. One number, the identity, is computed from all of these and the
//! flags; the seal is each 64-bit word of the key, mixed with it:
//!
//! ```text
//! seal[i] = word i of the key ^ identity
//! ```
//!
//! A reader that looked up K computes the identity of what it read, and compares all five words with
//! those of K; on difference the entry does not exist ([`unseal`]). It does not matter in which order
//! words are written or read. An accepted word i of the seal is
//!
//! - the one of K: then what was read has the identity of K's value, and is it; or
//! - the one of K': then word i of K and K' differ by exactly as much as the identity of what was read
//!   and that of the value of K'. If these are the same, so are the words; as this holds for all five,
//!   K' is K. If they are not, then every word of the two keys differs by the same number; but the
//!   words of an IPv4 key that say so are the same in all of them.
//!
//! So no packet gets to another attachment than the entry of its own key names, nor to another port.
//! Left are identities that are the same by chance (64 bits; a slot chooses the 16 of its port), IPv6
//! keys that differ by one number in all words, which has to be that of two identities by chance, and
//! mixtures below the size of a word, which pass by chance as well.
//!
//! Time and state are written after the check, perhaps into an entry that has just become another.
//! They decide only about how long it lives, and whether it gives way to another of its owner's.

use crate::abi::{AttachmentWord, Config, Flow, FlowKey, flow_flag, flow_kind};
use crate::address::Address;
use crate::packet::{Frame, Transport, protocol, tcp_flag};

/// Ports tried for a new connection before it is given up.
pub const PORT_TRIES: u32 = 32;
/// The first of them that may take the port of a closed connection.
pub const FIRST_LATE_TRY: u32 = PORT_TRIES / 2;
/// A slot has many entries that has more than the range has ports divided by this.
const MANY: u32 = 8;
/// The part of the range that slots with many entries leave to others, and the smallest range that has
/// one. A slot could take all ports towards one peer otherwise.
const RESERVE: u32 = 4;
const LEAST_WITH_RESERVE: u32 = RESERVE * PORT_TRIES;

const SECOND_NS: u64 = 1_000_000_000;
/// An entry's time is written at most this often, to keep its cache line clean.
const REFRESH_NS: u64 = SECOND_NS;
/// RFC 5382 REQ-5: transitory connections (partially open, closing) at least 4 minutes.
const TCP_TRANSITORY_NS: u64 = 240 * SECOND_NS;
/// RFC 5382 REQ-5: established connections at least 2 hours 4 minutes.
const TCP_ESTABLISHED_NS: u64 = 7440 * SECOND_NS;
/// RFC 4787 REQ-5 speaks of a mapping in use; one that was never answered lives as long as in
/// Linux's conntrack, so that a port scan does not hold ports for minutes.
const UDP_UNANSWERED_NS: u64 = 30 * SECOND_NS;
/// RFC 4787 REQ-5: 5 minutes recommended.
const UDP_NS: u64 = 300 * SECOND_NS;
/// RFC 5508 REQ-2: ICMP queries at least 60 seconds.
const ICMP_NS: u64 = 60 * SECOND_NS;

/// Silence after which a closed connection may give way. `last_seen_ns` may be a second too old.
const CLOSED_REST_NS: u64 = 3 * SECOND_NS;

/// The parts of a datagram travel together; the identification comes again after 65536 others.
pub(crate) const FRAGMENTS_NS: u64 = 2 * SECOND_NS;

/// What a slot loses early that has half of what it may have: questions without an answer, and UDP that
/// was answered (as in Linux's conntrack).
const PRESSED_UNANSWERED_NS: u64 = 10 * SECOND_NS;
const PRESSED_UDP_NS: u64 = 30 * SECOND_NS;
/// Silence of the slot after which its EGRESS entry is worth a look at the INGRESS entry.
const DOUBTFUL_NS: u64 = 30 * SECOND_NS;

/// Tracking states, `Flow::state`.
pub mod state {
    /// Nothing came back yet.
    pub const OPENING: u8 = 0;
    /// The other side has answered; for UDP and ICMP as good as it gets.
    pub const ANSWERED: u8 = 1;
    /// TCP: the opener has acknowledged the answer.
    pub const ESTABLISHED: u8 = 2;
    /// TCP: the opener has finished.
    pub const OPENER_FINISHED: u8 = 3;
    /// TCP: the other side has finished.
    pub const PEER_FINISHED: u8 = 4;
    /// TCP: both sides have finished.
    pub const CLOSED: u8 = 5;
    /// TCP: one side has reset the connection.
    pub const RESET: u8 = 6;
}

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the side that opened the flow.
    Forward,
    /// Back to it.
    Reply,
}

/// The state of a flow after a packet. `tcp_flags` is 0 for other protocols.
#[inline(always)]
pub const fn next_state(before: u8, ip_protocol: u8, direction: Direction, tcp_flags: u8) -> u8 {
    if ip_protocol == protocol::TCP {
        next_tcp_state(before, direction, tcp_flags)
    } else {
        match direction {
            Direction::Forward => before,
            Direction::Reply => state::ANSWERED,
        }
    }
}

#[inline(always)]
const fn next_tcp_state(before: u8, direction: Direction, tcp_flags: u8) -> u8 {
    if tcp_flags & tcp_flag::RST != 0 {
        return state::RESET;
    }
    if tcp_flags & tcp_flag::FIN != 0 {
        return match (before, direction) {
            (state::PEER_FINISHED | state::CLOSED, Direction::Forward)
            | (state::OPENER_FINISHED | state::CLOSED, Direction::Reply) => state::CLOSED,
            (_, Direction::Forward) => state::OPENER_FINISHED,
            (_, Direction::Reply) => state::PEER_FINISHED,
        };
    }
    let opens = tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
    match (before, direction) {
        // The opener uses the same ports again for a new connection.
        (_, Direction::Forward) if opens => state::OPENING,
        (state::OPENING, Direction::Reply) => state::ANSWERED,
        (state::ANSWERED, Direction::Forward) => state::ESTABLISHED,
        // Somebody goes on: the reset was a stranger's, or is repeated.
        (state::RESET, Direction::Forward) => state::OPENER_FINISHED,
        (state::RESET, Direction::Reply) => state::PEER_FINISHED,
        _ => before,
    }
}

/// Whether a packet of the host opens a connection to a slot. Its answers do not: somebody may have
/// asked in the slot's name, and the slot must not get to the host's services that way.
#[inline(always)]
pub const fn opens_connection(ip_protocol: u8, tcp_flags: u8) -> bool {
    const OF_INTEREST: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::FIN | tcp_flag::RST;
    ip_protocol != protocol::TCP || tcp_flags & OF_INTEREST == tcp_flag::SYN
}

/// Whether a packet is the first of a new connection for sure, whatever went before with its ports.
#[inline(always)]
pub const fn begins_connection(ip_protocol: u8, tcp_flags: u8) -> bool {
    ip_protocol == protocol::TCP && opens_connection(ip_protocol, tcp_flags)
}

/// Idle time after which a flow no longer exists.
#[inline(always)]
pub const fn idle_timeout_ns(ip_protocol: u8, flow_state: u8) -> u64 {
    match (ip_protocol, flow_state) {
        (protocol::TCP, state::ESTABLISHED) => TCP_ESTABLISHED_NS,
        (protocol::TCP, _) => TCP_TRANSITORY_NS,
        (protocol::UDP, state::OPENING) => UDP_UNANSWERED_NS,
        (protocol::UDP, _) => UDP_NS,
        _ => ICMP_NS,
    }
}

/// Whether `flow` exists at `now_ns` for the present holder of its slot.
#[inline(always)]
pub const fn is_live(flow: &Flow, ip_protocol: u8, word: AttachmentWord, now_ns: u64) -> bool {
    word.is_attached() && flow.epoch == word.epoch() && !is_idle(flow, ip_protocol, now_ns)
}

/// Whether a TCP connection was finished by a side, or reset.
#[inline(always)]
pub const fn is_closing(flow_state: u8) -> bool {
    matches!(
        flow_state,
        state::OPENER_FINISHED | state::PEER_FINISHED | state::CLOSED | state::RESET
    )
}

/// Whether the live connection of `flow` gives its port to a new one of the attachment `slot`, `epoch`
/// where none is free.
#[inline(always)]
pub const fn may_give_way(
    flow: &Flow,
    ip_protocol: u8,
    slot: u32,
    epoch: u32,
    now_ns: u64,
) -> bool {
    ip_protocol == protocol::TCP
        && matches!(flow.state, state::CLOSED | state::RESET)
        && flow.slot == slot
        && flow.epoch == epoch
        && !flow.is_inbound()
        && now_ns.saturating_sub(flow.last_seen_ns) > CLOSED_REST_NS
}

/// Whether `flow`, an entry of this kind, is to be collected; an EGRESS entry if it has no owner.
/// `pressed`: its slot has half of what it may have.
#[inline(always)]
pub const fn is_worth_collecting(
    key: &FlowKey,
    flow: &Flow,
    word: AttachmentWord,
    pressed: bool,
    now_ns: u64,
) -> bool {
    if !word.is_attached() || flow.epoch != word.epoch() {
        return true;
    }
    let timeout = match (key.kind, pressed) {
        (flow_kind::EGRESS, false) => DOUBTFUL_NS,
        (flow_kind::EGRESS, true) => CLOSED_REST_NS,
        (_, false) => idle_timeout_ns(key.protocol, flow.state),
        (_, true) => pressed_timeout_ns(key.protocol, flow.state),
    };
    now_ns.saturating_sub(flow.last_seen_ns) > timeout
}

/// Idle time after which a flow of a slot goes that has half of what it may have.
#[inline(always)]
const fn pressed_timeout_ns(ip_protocol: u8, flow_state: u8) -> u64 {
    match (ip_protocol, flow_state) {
        (protocol::TCP, state::CLOSED | state::RESET) => CLOSED_REST_NS,
        (protocol::TCP, state::OPENING | state::ANSWERED) => PRESSED_UNANSWERED_NS,
        (protocol::TCP, _) => idle_timeout_ns(ip_protocol, flow_state),
        (protocol::UDP, state::ANSWERED) => PRESSED_UDP_NS,
        _ => PRESSED_UNANSWERED_NS,
    }
}

/// Whether the datagram whose first fragment made `flow` may still go on at `now_ns`.
#[inline(always)]
pub const fn may_go_on(flow: &Flow, word: AttachmentWord, now_ns: u64) -> bool {
    word.is_attached()
        && flow.epoch == word.epoch()
        && now_ns.saturating_sub(flow.last_seen_ns) <= FRAGMENTS_NS
}

#[inline(always)]
const fn is_idle(flow: &Flow, ip_protocol: u8, now_ns: u64) -> bool {
    // Another CPU's later clock reading may already stand in the entry.
    now_ns.saturating_sub(flow.last_seen_ns) > idle_timeout_ns(ip_protocol, flow.state)
}

/// Whether the entry's time is old enough to be written anew.
#[inline(always)]
pub const fn needs_refresh(last_seen_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(last_seen_ns) > REFRESH_NS
}

impl FlowKey {
    /// The key of a packet that leaves a slot.
    #[inline(always)]
    pub const fn leaving(kind: u8, frame: &Frame, transport: &Transport) -> Self {
        Self {
            local: frame.source,
            remote: frame.destination,
            local_port: transport.source_port,
            remote_port: transport.destination_port,
            protocol: frame.protocol,
            kind,
            padding: 0,
        }
    }

    /// The key of a packet that goes to a slot, or to the address that stands for it.
    #[inline(always)]
    pub const fn arriving(kind: u8, frame: &Frame, transport: &Transport) -> Self {
        Self {
            local: frame.destination,
            remote: frame.source,
            local_port: transport.destination_port,
            remote_port: transport.source_port,
            protocol: frame.protocol,
            kind,
            padding: 0,
        }
    }

    /// What the fragments of one datagram have in common that leaves a slot.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "both halves of the identification are there"
    )]
    pub const fn leaving_fragment(frame: &Frame) -> Self {
        Self {
            local: frame.source,
            remote: frame.destination,
            local_port: frame.identification as u16,
            remote_port: (frame.identification >> 16) as u16,
            // The parts of an IPv6 datagram may begin with different headers.
            protocol: if frame.is_v4() {
                frame.protocol
            } else {
                protocol::FRAGMENT
            },
            kind: flow_kind::FRAGMENT,
            padding: 0,
        }
    }

    /// What the fragments of one datagram have in common that goes to the address that stands for
    /// slots.
    #[inline(always)]
    pub const fn arriving_fragment(frame: &Frame) -> Self {
        Self {
            local: frame.destination,
            remote: frame.source,
            kind: flow_kind::ARRIVING_FRAGMENT,
            ..Self::leaving_fragment(frame)
        }
    }

    /// The INGRESS key of the EGRESS connection `self` when it is seen as `shown`.
    #[inline(always)]
    #[must_use]
    pub const fn translated(&self, shown: &Endpoint) -> Self {
        Self {
            local: shown.address,
            local_port: shown.port,
            kind: flow_kind::INGRESS,
            ..*self
        }
    }

    /// The EGRESS key of the INGRESS connection `self` when `inside` is the slot's side of it.
    #[inline(always)]
    #[must_use]
    pub const fn restored(&self, inside: &Endpoint) -> Self {
        Self {
            local: inside.address,
            local_port: inside.port,
            kind: flow_kind::EGRESS,
            ..*self
        }
    }

    /// Its words, as they stand in the memory of a little-endian machine: one load each.
    #[inline(always)]
    const fn words(&self) -> [u64; 5] {
        let [[a, b], [c, d]] = [self.local.halves(), self.remote.halves()];
        let ports = self.local_port as u64
            | (self.remote_port as u64) << 16
            | (self.protocol as u64) << 32
            | (self.kind as u64) << 40
            | (self.padding as u64) << 48;
        [a, b, c, d, ports]
    }
}

/// An address and a port (or the identifier of an echo): what one side of a connection is shown as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port, in host byte order.
    pub port: u16,
}

/// A new flow, seen now, whose local side is rewritten to `shown`.
#[inline(always)]
pub const fn new_flow(slot: u32, epoch: u32, shown: &Endpoint, now_ns: u64) -> Flow {
    Flow {
        last_seen_ns: now_ns,
        slot,
        epoch,
        translated_address: shown.address,
        translated_port: shown.port,
        state: state::OPENING,
        flags: 0,
        policy: 0,
    }
}

impl Flow {
    /// The seal that makes it the entry of `key`.
    #[inline(always)]
    pub const fn seal(&self, key: &FlowKey) -> [u64; 5] {
        let identity = self.identity();
        let [a, b, c, d, ports] = key.words();
        [
            a ^ identity,
            b ^ identity,
            c ^ identity,
            d ^ identity,
            ports ^ identity,
        ]
    }

    /// Makes it one of a connection that was opened from outside.
    #[inline(always)]
    #[must_use]
    pub const fn inbound(mut self) -> Self {
        self.flags |= flow_flag::INBOUND;
        self
    }

    /// Whether the connection was opened from outside, through a published port.
    #[inline(always)]
    pub const fn is_inbound(&self) -> bool {
        self.flags & flow_flag::INBOUND != 0
    }

    /// What a packet of the connection is that goes to the slot.
    #[inline(always)]
    pub const fn to_slot(&self) -> Direction {
        if self.is_inbound() {
            Direction::Forward
        } else {
            Direction::Reply
        }
    }

    /// What a packet of the connection is that comes from the slot.
    #[inline(always)]
    pub const fn from_slot(&self) -> Direction {
        if self.is_inbound() {
            Direction::Reply
        } else {
            Direction::Forward
        }
    }

    /// What the local side of its key is rewritten to.
    #[inline(always)]
    pub const fn shown(&self) -> Endpoint {
        Endpoint {
            address: self.translated_address,
            port: self.translated_port,
        }
    }

    /// A number for what decides about packets. It is one-to-one in the owner, and every bit of the
    /// rest has its part in many: single words that changed do not cancel out.
    #[inline(always)]
    const fn identity(&self) -> u64 {
        let [first, second] = self.translated_address.halves();
        let port_and_flags = (self.translated_port as u64) << 8 | self.flags as u64;
        scramble((self.slot as u64) << 32 | self.epoch as u64)
            ^ scramble(
                first
                    .wrapping_mul(0xbf58_476d_1ce4_e5b9)
                    .wrapping_add(second.wrapping_mul(0x94d0_49bb_1331_11eb))
                    .wrapping_add(port_and_flags.wrapping_mul(0xd6e8_feb8_6659_fd93)),
            )
    }
}

/// Reads the entry of `key`, whose words are `word(0)` to `word(9)`, and says whether all of it is.
///
/// Each word is asked for once, the seal first: little is held at one time, as a kernel program has
/// few registers and little stack.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "takes words apart, as a little-endian machine puts them together"
)]
pub fn unseal(key: &FlowKey, word: impl Fn(usize) -> u64, flow: &mut Flow) -> bool {
    let [a, b, c, d, ports] = key.words();
    let identity = word(5) ^ a;
    let differences = (word(6) ^ b ^ identity)
        | (word(7) ^ c ^ identity)
        | (word(8) ^ d ^ identity)
        | (word(9) ^ ports ^ identity);
    let [last_seen_ns, owner, first, second, rest] = [word(0), word(1), word(2), word(3), word(4)];
    *flow = Flow {
        last_seen_ns,
        slot: owner as u32,
        epoch: (owner >> 32) as u32,
        translated_address: Address::of_halves(first, second),
        translated_port: rest as u16,
        state: (rest >> 16) as u8,
        flags: (rest >> 24) as u8,
        policy: (rest >> 32) as u32,
    };
    differences == 0 && flow.identity() == identity
}

/// One-to-one, and every bit of the result depends on many.
#[inline(always)]
const fn scramble(word: u64) -> u64 {
    let mixed = (word ^ word >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// Whether the INGRESS entry `ingress` was made for the EGRESS connection `egress` of `slot` in
/// `epoch`. Only then does the translated port belong to that connection.
#[inline(always)]
pub const fn is_reverse_of(ingress: &Flow, egress: &FlowKey, slot: u32, epoch: u32) -> bool {
    ingress.slot == slot && ingress.epoch == epoch && ingress.translated_port == egress.local_port
}

/// The ports to try for a new connection: [`PORT_TRIES`] of them, all in the configured range.
///
/// Start and stride are random (RFC 6056), so that ports cannot be guessed and two connections that
/// start on a taken port do not follow each other. No port comes twice, unless the range has fewer
/// than [`PORT_TRIES`], or the sequence turns to the reserve in between.
#[derive(Clone, Copy, Debug)]
pub struct PortSequence {
    first: u32,
    span: u32,
    offset: u32,
    stride: u32,
    /// Ports at the end of the range that slots with many entries do not get; 0 if this is one.
    reserve: u32,
}

impl PortSequence {
    /// The sequence that `random` selects for a slot that has `in_use` entries. A reversed range is
    /// taken as its first port alone.
    #[inline(always)]
    pub const fn new(config: &Config, random: u32, in_use: u32) -> Self {
        let first = config.nat_port_first as u32;
        let all = (config.nat_port_last as u32).saturating_sub(first) + 1;
        let reserve = if all < LEAST_WITH_RESERVE {
            0
        } else {
            all / RESERVE
        };
        let has_many = in_use > all / MANY;
        let (span, reserve) = if has_many {
            (all - reserve, 0)
        } else {
            (all, reserve)
        };
        Self {
            first,
            span,
            offset: (random & 0xffff) % span,
            stride: stride(span / PORT_TRIES, random >> 16),
            reserve,
        }
    }

    /// Goes on with ports that slots with many entries leave to others, if this one has few.
    #[inline(always)]
    pub const fn turn_to_reserve(&mut self) {
        if self.reserve == 0 {
            return;
        }
        self.first += self.span - self.reserve;
        self.span = self.reserve;
        self.offset %= self.span;
        self.stride = stride(self.span / (PORT_TRIES - FIRST_LATE_TRY), self.stride);
    }

    /// The next port to try.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "first + offset is at most the last port of the range"
    )]
    pub const fn next_port(&mut self) -> u16 {
        let port = self.first + self.offset;
        self.offset += self.stride;
        if self.offset >= self.span {
            self.offset -= self.span;
        }
        port as u16
    }
}

/// One of as many strides as there are, at least one.
#[inline(always)]
const fn stride(strides: u32, random: u32) -> u32 {
    if strides == 0 {
        1
    } else {
        1 + random % strides
    }
}
