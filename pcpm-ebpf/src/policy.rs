//! What a node of the policy table says about a packet, and where in the table to look.

use crate::abi::{PolicyKey, PolicyNode, PolicyRule, verdict};
use crate::address::Address;
use crate::packet::{Transport, TransportKind};

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

/// The receiver's port as rules know it: an ICMP identifier is none.
#[inline(always)]
pub const fn receiver_port(transport: &Transport) -> u16 {
    match transport.kind {
        TransportKind::Tcp | TransportKind::Udp => transport.destination_port,
        TransportKind::EchoRequest | TransportKind::EchoReply => 0,
    }
}

/// The sender's port as rules know it: an ICMP identifier is none.
#[inline(always)]
pub const fn sender_port(transport: &Transport) -> u16 {
    match transport.kind {
        TransportKind::Tcp | TransportKind::Udp => transport.source_port,
        TransportKind::EchoRequest | TransportKind::EchoReply => 0,
    }
}
