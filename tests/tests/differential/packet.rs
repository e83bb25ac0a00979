//! Packets as bytes, built and read with no code of the product.

use std::net::Ipv4Addr;

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) const ECHO_REPLY: u8 = 0;
pub(crate) const ECHO_REQUEST: u8 = 8;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv4 header and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    pub(crate) identification: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// In bytes.
    pub(crate) offset: usize,
    pub(crate) options: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Datagram {
    /// With a right header checksum.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = 5 + u8::try_from(self.options.len() / 4).unwrap();
        let length = u16::try_from(usize::from(words) * 4 + self.body.len()).unwrap();
        let mut flags = u16::try_from(self.offset / 8).unwrap();
        flags |= if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        flags |= if self.more_fragments {
            MORE_FRAGMENTS
        } else {
            0
        };
        let mut header = vec![0x40 | words, self.tos];
        for field in [length, self.identification, flags] {
            header.extend(field.to_be_bytes());
        }
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(&self.body);
        header
    }

    /// Reads a whole packet; the flag tells whether its header checksum is right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, bool)> {
        let header = usize::from(bytes.first()? & 15) * 4;
        let length = usize::from(field(bytes, 2)?);
        let flags = field(bytes, 6)?;
        let address = |at: usize| {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets))
        };
        let datagram = Self {
            source: address(12)?,
            destination: address(16)?,
            protocol: bytes[9],
            ttl: bytes[8],
            tos: bytes[1],
            identification: field(bytes, 4)?,
            dont_fragment: flags & DONT_FRAGMENT != 0,
            more_fragments: flags & MORE_FRAGMENTS != 0,
            offset: usize::from(flags & 0x1fff) * 8,
            options: bytes.get(20..header)?.to_vec(),
            body: bytes.get(header..length.min(bytes.len()))?.to_vec(),
        };
        Some((datagram, checksum(&[&bytes[..header]]) == 0))
    }

    /// Cuts the body into parts of `size` bytes, a multiple of 8.
    pub(crate) fn fragments(&self, size: usize) -> Vec<Self> {
        let count = self.body.len().div_ceil(size);
        let parts = self.body.chunks(size).zip(0..);
        let fragment = |(part, index): (&[u8], usize)| Self {
            offset: index * size,
            more_fragments: index + 1 < count,
            dont_fragment: false,
            body: part.to_vec(),
            ..self.clone()
        };
        parts.map(fragment).collect()
    }

    fn pseudo_header(&self) -> Vec<u8> {
        let length = u16::try_from(self.body.len()).unwrap();
        let mut header = self.source.octets().to_vec();
        header.extend(self.destination.octets());
        header.extend([0, self.protocol]);
        header.extend(length.to_be_bytes());
        header
    }

    /// Where the transport checksum is in the body.
    pub(crate) fn checksum_at(&self) -> usize {
        match self.protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        }
    }

    /// The sum over what the transport checksum covers, the checksum included: 0 when it is right.
    fn transport_sum(&self) -> u16 {
        match self.protocol {
            ICMP => checksum(&[&self.body]),
            _ => checksum(&[&self.pseudo_header(), &self.body]),
        }
    }

    /// Puts in the right transport checksum.
    pub(crate) fn seal(mut self) -> Self {
        let at = self.checksum_at();
        self.body[at..at + 2].fill(0);
        let sum = match (self.protocol, self.transport_sum()) {
            (UDP, 0) => 0xffff,
            (_, sum) => sum,
        };
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        self
    }

    /// What a receiver thinks of the transport checksum.
    pub(crate) fn sum(&self) -> Sum {
        match field(&self.body, self.checksum_at()) {
            Some(0) if self.protocol == UDP => Sum::None,
            Some(_) if self.transport_sum() == 0 => Sum::Right,
            _ => Sum::Wrong,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Right,
    Wrong,
    None,
}

pub(crate) fn tcp(ports: (u16, u16), flags: u8, numbers: (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut body = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    body.extend(numbers.0.to_be_bytes());
    body.extend(numbers.1.to_be_bytes());
    body.extend([5 << 4, flags, 0x72, 0x10, 0, 0, 0, 0]);
    body.extend(payload);
    body
}

pub(crate) fn udp(ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let fields = [ports.0, ports.1, length, 0].map(u16::to_be_bytes);
    [&fields.concat(), payload].concat()
}

/// `rest` is the second word: of an echo the identifier and the number.
pub(crate) fn icmp(kind: u8, code: u8, rest: u32, payload: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest.to_be_bytes());
    body.extend(payload);
    body
}

/// The field of two bytes at `at`.
pub(crate) fn field(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn set_field(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
