//! Addresses of either family in one form, so that maps and decisions need one of everything.

use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address in the byte order of the wire; IPv4 is mapped into IPv6 as
/// `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2). All zero is "any".
#[derive(Clone, Copy, Debug, Default, Eq)]
#[repr(C)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// No particular address.
    pub const ANY: Self = Self([0; 4]);

    /// The IPv4 address with this number, in host byte order.
    #[inline(always)]
    pub const fn v4(number: u32) -> Self {
        Self([0, 0, 0xffff_u32.to_be(), number.to_be()])
    }

    /// The IPv6 address with these bytes.
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self([
            word(&bytes, 0),
            word(&bytes, 4),
            word(&bytes, 8),
            word(&bytes, 12),
        ])
    }

    /// Whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0xffff_u32.to_be()
    }

    /// The number of an IPv4 address, in host byte order; the lowest 32 bits of an IPv6 one.
    #[inline(always)]
    pub const fn low(&self) -> u32 {
        u32::from_be(self.0[3])
    }

    /// Whether it never leaves the machine: 127.0.0.0/8 or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            self.low() >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.low() == 1
        }
    }

    /// The address `number` behind this one, which has 0 in its last word.
    #[inline(always)]
    #[must_use]
    pub const fn plus(&self, number: u32) -> Self {
        let [a, b, c, _] = self.0;
        Self([a, b, c, number.to_be()])
    }

    /// Whether it lies in the network with this first address and this mask.
    #[inline(always)]
    pub const fn is_within(&self, network: &Self, mask: &Self) -> bool {
        let [own, network, mask] = [self.halves(), network.halves(), mask.halves()];
        (own[0] ^ network[0]) & mask[0] | (own[1] ^ network[1]) & mask[1] == 0
    }

    /// Whether both are the same but for the last word.
    #[inline(always)]
    pub const fn differs_in_last_word_only(&self, other: &Self) -> bool {
        (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]) | (self.0[2] ^ other.0[2]) == 0
    }

    /// Both halves, as words to compute with.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32]
    }

    /// The address with these halves.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes words apart")]
    pub const fn of_halves(first: u64, second: u64) -> Self {
        Self([
            first as u32,
            (first >> 32) as u32,
            second as u32,
            (second >> 32) as u32,
        ])
    }

    /// Its 16 bytes.
    pub fn octets(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

const fn word(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Word by word: what is derived would call `memcmp`, which the BPF target does byte by byte.
impl PartialEq for Address {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let [first, second] = self.halves();
        (first ^ other.halves()[0]) | (second ^ other.halves()[1]) == 0
    }
}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.into())
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);
