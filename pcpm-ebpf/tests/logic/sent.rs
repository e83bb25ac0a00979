//! Packets built the slow way, and packets in memory that can be changed. Checksums are sums over all bytes. For
//! the kernel's helpers stands what they do to a packet whose checksums are all in it (`net/core/filter.c`,
//! `include/net/checksum.h`).

use std::cell::RefCell;

use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::nat::Endpoint;
use pcpm_ebpf::packet::PacketFields;
use pcpm_ebpf::rewrite::{Field, KEEP_NONE, PacketEditor};
use proptest::prelude::*;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const ETHERNET: usize = 14;

/// A frame in memory.
pub(crate) struct Editable(pub(crate) RefCell<Vec<u8>>);

impl Editable {
    pub(crate) fn of(frame: &[u8]) -> Self {
        Self(RefCell::new(frame.to_vec()))
    }

    /// Applies `change` to the checksum at `offset`, as it stands in memory.
    pub(crate) fn change_sum(
        &self,
        offset: u32,
        change: impl Fn(u16) -> u16,
    ) -> Result<(), DropReason> {
        let [sum] = self.raw_fields(offset).ok_or(DropReason::Rewrite)?;
        self.store(offset, &change(sum))
    }
}

impl PacketFields for Editable {
    fn raw_fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.0.borrow().as_slice().raw_fields(offset)
    }

    fn raw_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.0.borrow().as_slice().raw_words(offset)
    }
}

impl PacketEditor for Editable {
    fn store<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason> {
        let offset = usize::try_from(offset).map_err(|_| DropReason::Rewrite)?;
        let mut bytes = self.0.borrow_mut();
        let end = offset + size_of::<T>();
        let place = bytes.get_mut(offset..end).ok_or(DropReason::Rewrite)?;
        value.put(place);
        Ok(())
    }

    fn store_summed<T: Field>(&self, offset: u32, value: &T) -> Result<(), DropReason> {
        self.store(offset, value)
    }

    fn difference(&self, from: &Address, to: &Address) -> u64 {
        let words = from.0.map(|word| !word).into_iter().chain(to.0);
        words.fold(0, add).into()
    }

    fn keep_received_sum(&self, _: u64) {}

    fn replace_ip_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        size: u64,
    ) -> Result<(), DropReason> {
        assert!(matches!(size, 0 | 2 | 4) && (size != 0 || from == 0));
        self.change_sum(offset, |sum| replaced(sum, from, to))
    }

    fn replace_transport_checksum(
        &self,
        offset: u32,
        from: u64,
        to: u64,
        flags: u64,
    ) -> Result<(), DropReason> {
        let size = flags & 0xf;
        assert!(matches!(size, 0 | 2 | 4) && (size != 0 || from == 0));
        let keeps_none = flags & KEEP_NONE != 0;
        self.change_sum(offset, |sum| match replaced(sum, from, to) {
            _ if keeps_none && sum == 0 => 0,
            0 if keeps_none => u16::MAX,
            sum => sum,
        })
    }
}

/// Ones' complement addition.
pub(crate) fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

/// RFC 1624, equation 3.
pub(crate) fn replaced(sum: u16, from: u64, to: u64) -> u16 {
    let word = |number| u32::try_from(number).expect("helpers take 32 bits");
    let mut sum = add(add(u32::from(!sum), !word(from)), word(to));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A packet with ports, as the tests build it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) is_v6: bool,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    /// TCP, UDP, or a ping.
    pub(crate) kind: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Units of 8 bytes of options, or of an extension header.
    pub(crate) options: u8,
    /// UDP: without checksum.
    pub(crate) unchecked: bool,
    pub(crate) data: Vec<u8>,
}

impl Sent {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let transport = self.transport();
        self.around(self.protocol(), &transport)
    }

    /// The frame of an error that quotes the first bytes of `quoted`, with this packet's addresses.
    pub(crate) fn error(&self, quoted: &Self, length: usize) -> Vec<u8> {
        let unreachable = if self.is_v6 { 1 } else { 3 };
        let mut message = vec![unreachable, 0, 0, 0, 0, 0, 0, 0];
        message.extend(quoted.frame()[ETHERNET..].iter().take(length));
        let message = self.sealed(self.icmp(), message, 2);
        self.around(self.icmp(), &message)
    }

    pub(crate) fn icmp(&self) -> u8 {
        if self.is_v6 { ICMPV6 } else { ICMP }
    }

    pub(crate) fn protocol(&self) -> u8 {
        [TCP, UDP, self.icmp()][usize::from(self.kind)]
    }

    pub(crate) fn addresses(&self) -> Vec<u8> {
        let length = if self.is_v6 { 16 } else { 4 };
        [&self.source[..length], &self.destination[..length]].concat()
    }

    pub(crate) fn transport(&self) -> Vec<u8> {
        let ports = [self.source_port, self.destination_port].map(u16::to_be_bytes);
        let mut bytes = match self.kind {
            0 => [
                &ports.concat()[..],
                &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, 16, 1, 0, 0, 0, 0, 0],
            ]
            .concat(),
            1 => [&ports.concat()[..], &[0, 9, 0, 0]].concat(),
            _ => {
                let request = if self.is_v6 { 128 } else { 8 };
                [&[request, 0, 0, 0][..], &ports[0], &[0, 7]].concat()
            }
        };
        bytes.extend(&self.data);
        match self.kind {
            0 => self.sealed(TCP, bytes, 16),
            1 if self.unchecked => bytes,
            1 => self.sealed(UDP, bytes, 6),
            _ => self.sealed(self.icmp(), bytes, 2),
        }
    }

    pub(crate) fn sealed(&self, protocol: u8, mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
        let sum =
            match checksum(&[self.pseudo_header(protocol, bytes.len()), bytes.clone()].concat()) {
                0 if protocol == UDP => u16::MAX,
                sum => sum,
            };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    pub(crate) fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        if protocol == ICMP {
            return Vec::new();
        }
        let length = u32::try_from(length).expect("short").to_be_bytes();
        [&self.addresses()[..], &length, &[0, 0, 0, protocol]].concat()
    }

    pub(crate) fn around(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let options = usize::from(self.options) * 8;
        let mut frame = vec![2; 12];
        if self.is_v6 {
            let length = u16::try_from(options + payload.len()).expect("short");
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([if options == 0 { protocol } else { 60 }, 64]);
            frame.extend(self.addresses());
            if options != 0 {
                frame.extend([protocol, self.options - 1]);
                frame.resize(frame.len() + options - 2, 0);
            }
        } else {
            let length = u16::try_from(20 + options + payload.len()).expect("short");
            frame.extend([0x08, 0x00, 0x45 + 2 * self.options, 0]);
            frame.extend(length.to_be_bytes());
            frame.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
            frame.extend(self.addresses());
            frame.resize(frame.len() + options, 1);
            let sum = checksum(&frame[ETHERNET..]);
            frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        }
        frame.extend(payload);
        frame
    }

    pub(crate) fn sent_from(&self, to: &Endpoint) -> Self {
        Self {
            source: bytes_of(&to.address),
            source_port: to.port,
            ..self.clone()
        }
    }

    /// With the ports of an echo where they are: the identifier is that of both sides.
    pub(crate) fn sent_to(&self, to: &Endpoint) -> Self {
        let port = if self.kind == 2 {
            self.source_port
        } else {
            to.port
        };
        Self {
            destination: bytes_of(&to.address),
            destination_port: port,
            ..self.clone()
        }
    }

    pub(crate) fn endpoint(&self, address: &[u8; 16], port: u16) -> Endpoint {
        let [a, b, c, d, ..] = *address;
        let address = if self.is_v6 {
            Address::v6(*address)
        } else {
            Address::v4(u32::from_be_bytes([a, b, c, d]))
        };
        Endpoint { address, port }
    }
}

/// As [`Sent`] holds them: an IPv4 address is in the first four.
pub(crate) fn bytes_of(address: &Address) -> [u8; 16] {
    let mut bytes = address.octets();
    if address.is_v4() {
        bytes.copy_within(12.., 0);
    }
    bytes
}

/// RFC 1071 over all bytes.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

prop_compose! {
    pub(crate) fn address()(bytes: [u8; 16]) -> [u8; 16] {
        // No IPv4 address in an IPv6 header.
        [&[0x20], &bytes[1..]].concat().try_into().expect("as many")
    }
}

prop_compose! {
    pub(crate) fn sent()(
        is_v6: bool,
        source in address(),
        destination in address(),
        kind in 0_u8..3,
        source_port: u16,
        destination_port: u16,
        options in 0_u8..=5,
        unchecked: bool,
        data in prop::collection::vec(any::<u8>(), 0..40),
    ) -> Sent {
        Sent {
            is_v6, source, destination, kind, source_port, destination_port, options, unchecked, data,
        }
    }
}

/// Addresses, and nothing else that counts.
pub(crate) fn nothing() -> Sent {
    Sent {
        is_v6: false,
        source: [0x20; 16],
        destination: [0x30; 16],
        kind: 1,
        source_port: 0,
        destination_port: 0,
        options: 0,
        unchecked: false,
        data: Vec::new(),
    }
}

/// Bytes are the same, but that a checksum at one of `sums` may be either of the two zeroes.
pub(crate) fn same(found: &[u8], expected: &[u8], sums: &[usize]) -> bool {
    let canonical = |bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        for sum in sums {
            if let Some(place @ [0xff, 0xff]) = bytes.get_mut(*sum..sum + 2) {
                place.fill(0);
            }
        }
        bytes
    };
    canonical(found) == canonical(expected)
}

/// Where the checksums of a frame of `packet` are, and behind them those of what it quotes.
pub(crate) fn sums(packet: &Sent, at: usize, error: bool) -> [usize; 2] {
    let header = if packet.is_v6 { 40 } else { 20 };
    let transport = at + header + usize::from(packet.options) * 8;
    let in_transport = match packet.kind {
        _ if error => 2,
        0 => 16,
        1 => 6,
        _ => 2,
    };
    let in_header = if packet.is_v6 {
        transport + in_transport
    } else {
        at + 10
    };
    [in_header, transport + in_transport]
}
