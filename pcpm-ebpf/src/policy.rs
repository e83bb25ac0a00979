//! What a node of the policy table says about a packet, and where in the table to look.

use crate::abi::{
    Config, GATEWAY_V4, GATEWAY_V6, PolicyKey, PolicyNode, PolicyRule, settings_flag, verdict,
};
use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::packet::{Transport, TransportKind, tcp_flag};

/// Bits of a [`PolicyKey`] in front of the address.
pub const POLICY_BITS: u32 = u32::BITS;
/// Bits of an [`Address`].
pub const ADDRESS_BITS: u32 = 128;
/// Bits of an [`Address`] that say it is an IPv4 one.
pub const V4_BITS: u32 = 96;

/// What the rules of an attachment say about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Nothing: the default for such a destination counts.
    None,
    /// It may pass.
    Allow,
    /// It is dropped.
    Deny,
    /// It is dropped, unless the address was learned for a name that is allowed.
    Close,
}

impl PolicyKey {
    /// Where to look for the rules of `policy` about one address.
    #[inline(always)]
    pub const fn of(policy: u32, address: Address) -> Self {
        Self::range(policy, address, ADDRESS_BITS)
    }

    /// Where the rules of `policy` about all addresses with the first `bits` bits of `address` stand.
    #[inline(always)]
    pub const fn range(policy: u32, address: Address, bits: u32) -> Self {
        Self {
            prefix_length: POLICY_BITS + bits,
            policy: policy.to_be(),
            address,
        }
    }
}

impl PolicyRule {
    #[inline(always)]
    const fn matches(self, protocol: u8, port: u16) -> bool {
        (self.protocol == 0 || self.protocol == protocol)
            && self.port_first <= port
            && port <= self.port_last
    }

    #[inline(always)]
    const fn ruling(self) -> Ruling {
        match self.verdict {
            verdict::ALLOW => Ruling::Allow,
            verdict::DENY => Ruling::Deny,
            verdict::CLOSE => Ruling::Close,
            _ => Ruling::None,
        }
    }
}

impl PolicyNode {
    /// What the node says about a packet of `protocol` to `port` of an address it is about. What has no
    /// ports has port 0, which no rule with ports names.
    #[inline(always)]
    pub fn ruling(&self, protocol: u8, port: u16) -> Ruling {
        for (index, rule) in self.rules.iter().enumerate() {
            if index >= self.count as usize {
                break;
            }
            if rule.matches(protocol, port) {
                return rule.ruling();
            }
        }
        Ruling::None
    }
}

/// What a packet is about, as far as rules are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Talk {
    /// IP protocol number.
    pub protocol: u8,
    /// The sender's port, 0 for none.
    pub sender_port: u16,
    /// The receiver's port, 0 for none.
    pub receiver_port: u16,
    /// Whether it may be an answer: all but what opens a TCP connection.
    pub may_answer: bool,
}

impl Talk {
    /// Of a packet with a transport header that is understood.
    #[inline(always)]
    pub const fn of(protocol: u8, transport: &Transport) -> Self {
        let (sender_port, receiver_port) = match transport.kind {
            TransportKind::Tcp | TransportKind::Udp => {
                (transport.source_port, transport.destination_port)
            }
            // An identifier is no port.
            TransportKind::EchoRequest | TransportKind::EchoReply => (0, 0),
        };
        let opens = transport.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
        Self {
            protocol,
            sender_port,
            receiver_port,
            may_answer: !opens,
        }
    }

    /// Of any other packet.
    #[inline(always)]
    pub const fn without_ports(protocol: u8) -> Self {
        Self {
            protocol,
            sender_port: 0,
            receiver_port: 0,
            may_answer: true,
        }
    }

    /// Of what answers a packet, an error for instance.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            sender_port: self.receiver_port,
            receiver_port: self.sender_port,
            may_answer: true,
            ..self
        }
    }
}

/// The slots' gateway: where rules about the host's services stand.
#[inline(always)]
pub const fn gateway(is_v4: bool) -> Address {
    if is_v4 {
        Address::v4(GATEWAY_V4)
    } else {
        Address::v6(GATEWAY_V6)
    }
}

/// Whether the world is closed where no rule says, to an attachment with these settings: as they say, or
/// as the pool's default is.
#[inline(always)]
pub const fn world_is_closed(config: &Config, flags: u32) -> bool {
    // Without branches, each of which the verifier would follow wherever this is asked.
    let is_opened = flags / settings_flag::WORLD_OPEN;
    let is_closed = flags / settings_flag::WORLD_CLOSED;
    (is_closed | config.world_is_closed & !is_opened) & 1 != 0
}

/// Whether a packet to the world may pass, as far as addresses tell. `is_closed` is the default.
///
/// # Errors
/// Why it may not, unless its address was learned for a name.
#[inline(always)]
pub const fn check_world(ruling: Ruling, is_closed: bool) -> Result<(), Refusal> {
    match ruling {
        Ruling::Allow => Ok(()),
        Ruling::None if !is_closed => Ok(()),
        Ruling::None => Err(Refusal::UnlessNamed(DropReason::WorldClosed)),
        Ruling::Close => Err(Refusal::UnlessNamed(DropReason::PolicyDenied)),
        Ruling::Deny => Err(Refusal::Final(DropReason::PolicyDenied)),
    }
}

/// Whether a packet to a link-local address may pass: only what a rule opens.
///
/// # Errors
/// None does.
#[inline(always)]
pub const fn check_link_local(ruling: Ruling) -> Result<(), Refusal> {
    match ruling {
        Ruling::Allow => Ok(()),
        _ => Err(Refusal::Final(DropReason::Metadata)),
    }
}

/// Why a packet may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Whatever is known of the address.
    Final(DropReason),
    /// Unless its address was learned for a name that is allowed.
    UnlessNamed(DropReason),
}

impl Refusal {
    /// The reason, if nothing makes an exception.
    #[inline(always)]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Final(reason) | Self::UnlessNamed(reason) => reason,
        }
    }
}

/// Whether `address` is link-local, which is closed unless a rule opens it: clouds serve credentials
/// there. `fd00:ec2::/32`, where Amazon does, counts as such.
#[inline(always)]
pub const fn is_link_local(address: &Address) -> bool {
    let [first, _, _, last] = address.0;
    if address.is_v4() {
        u32::from_be(last) >> 16 == 0xa9fe
    } else {
        let first = u32::from_be(first);
        first >> 22 == 0xfe80 >> 6 || first == 0xfd00_0ec2
    }
}
