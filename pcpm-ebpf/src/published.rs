//! Published ports: which entry of the table counts for an address and port of the host.
//!
//! An entry leads to a slot only while the attachment that made it holds the slot. The table is
//! asked again for every packet of a connection that came through it, so a port that is withdrawn,
//! or published for another slot, cuts them. That also makes up for what may happen while a program
//! reads an entry: its place in memory may become that of another port. A connection that was opened
//! by such a reading ends with its next packet.

use crate::abi::{AttachmentWord, HostPeerKey, PortKey, PortTarget};
use crate::address::Address;
use crate::packet::protocol;

impl PortKey {
    /// The entry of a port that is published on `address` alone.
    #[inline(always)]
    pub const fn on(address: Address, port: u16, ip_protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol: ip_protocol,
            padding: 0,
        }
    }

    /// What a socket of the host means that asks for `address`: "any" is the host itself.
    #[inline(always)]
    pub const fn asked_for(address: Address, port: u16, ip_protocol: u8) -> Self {
        Self::on(meant(address), port, ip_protocol)
    }
}

#[inline(always)]
const fn meant(address: Address) -> Address {
    const LOCALHOST: Address = Address::v4(0x7f00_0001);
    const LOCALHOST_V6: Address = Address([0, 0, 0, 1_u32.to_be()]);
    let [a, b, c, d] = address.0;
    if a | b | d != 0 {
        address
    } else if c == 0 {
        LOCALHOST_V6
    } else if address.is_v4() {
        LOCALHOST
    } else {
        address
    }
}

impl PortTarget {
    /// Whether the attachment that published the port still holds its slot, whose word is `word`.
    #[inline(always)]
    pub const fn is_current(&self, word: AttachmentWord) -> bool {
        word.is_attached() && word.epoch() == self.epoch
    }
}

impl HostPeerKey {
    /// The socket `cookie` of the host that speaks to `port` of the slot with `address`.
    #[inline(always)]
    pub const fn new(cookie: u64, address: Address, port: u16) -> Self {
        Self {
            cookie,
            address,
            port,
            padding: [0; 6],
        }
    }
}

/// Whether ports of this protocol can be published.
#[inline(always)]
pub const fn has_ports(ip_protocol: u8) -> bool {
    matches!(ip_protocol, protocol::TCP | protocol::UDP)
}
