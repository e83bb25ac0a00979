//! Packets as bytes, built and read with no code of the product.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: u8 = 44;
/// Hop-by-hop options, routing, destination options: of the same form.
const PLAIN_EXTENSIONS: [u8; 3] = [0, 43, 60];

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V6,
}

impl Version {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    pub(crate) fn icmp(self) -> u8 {
        match self {
            Self::V4 => ICMP,
            Self::V6 => ICMPV6,
        }
    }

    /// Type of an echo request; that of its reply.
    pub(crate) fn echo(self) -> (u8, u8) {
        match self {
            Self::V4 => (8, 0),
            Self::V6 => (128, 129),
        }
    }

    /// Whether an ICMP message quotes a packet.
    pub(crate) fn is_error(self, body: &[u8]) -> bool {
        match self {
            Self::V4 => matches!(body.first(), Some(3..=5 | 11 | 12)),
            Self::V6 => matches!(body.first(), Some(1..=4)),
        }
    }

    pub(crate) fn ethertype(self) -> [u8; 2] {
        match self {
            Self::V4 => [0x08, 0x00],
            Self::V6 => [0x86, 0xdd],
        }
    }
}

/// An IP header and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// IPv6: of fragments alone, else 0.
    pub(crate) identification: u16,
    /// IPv4 alone.
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// In bytes.
    pub(crate) offset: usize,
    /// IPv6: kind of each extension header, and what stands behind its first byte, one after the other.
    pub(crate) options: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Datagram {
    pub(crate) fn version(&self) -> Version {
        Version::of(self.source)
    }

    /// Bytes of the header that are not in every packet.
    pub(crate) fn header_length(&self) -> usize {
        match self.version() {
            Version::V4 => 20 + self.options.len(),
            Version::V6 => IPV6_HEADER + self.options.len(),
        }
    }

    /// With a right header checksum, where there is one.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self.version() {
            Version::V4 => self.ipv4_header(),
            Version::V6 => self.ipv6_headers(),
        };
        bytes.extend(&self.body);
        bytes
    }

    fn ipv4_header(&self) -> Vec<u8> {
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
        header.extend(self.addresses());
        header.extend(&self.options);
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn ipv6_headers(&self) -> Vec<u8> {
        let mut extensions = extensions(&self.options);
        if self.is_part() {
            let offset = u16::try_from(self.offset).unwrap() | u16::from(self.more_fragments);
            let mut rest = vec![0];
            rest.extend(offset.to_be_bytes());
            rest.extend(u32::from(self.identification).to_be_bytes());
            extensions.push((FRAGMENT_HEADER, rest));
        }
        let kinds = extensions.iter().map(|(kind, _)| *kind);
        let mut next = kinds.chain([self.protocol]);
        let behind: usize = extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
        let length = u16::try_from(behind + self.body.len()).unwrap();
        let mut headers = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        headers.extend(length.to_be_bytes());
        headers.extend(next.next());
        headers.push(self.ttl);
        headers.extend(self.addresses());
        for (_, rest) in &extensions {
            headers.extend(next.next());
            headers.extend(rest);
        }
        headers
    }

    fn is_part(&self) -> bool {
        self.offset != 0 || self.more_fragments
    }

    fn addresses(&self) -> Vec<u8> {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        [octets(self.source), octets(self.destination)].concat()
    }

    /// Reads a whole packet; the flag tells whether its header checksum is right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<(Self, bool)> {
        match bytes.first()? >> 4 {
            4 => Self::parse_ipv4(bytes),
            6 => Some((Self::parse_ipv6(bytes)?, true)),
            _ => None,
        }
    }

    fn parse_ipv4(bytes: &[u8]) -> Option<(Self, bool)> {
        let header = usize::from(bytes.first()? & 15) * 4;
        let length = usize::from(field(bytes, 2)?);
        let flags = field(bytes, 6)?;
        let address = |at: usize| {
            let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
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

    fn parse_ipv6(bytes: &[u8]) -> Option<Self> {
        let address = |at: usize| {
            let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        let end = IPV6_HEADER + usize::from(field(bytes, 4)?);
        let mut datagram = Self {
            source: address(8)?,
            destination: address(24)?,
            protocol: bytes[6],
            ttl: bytes[7],
            tos: bytes[0] << 4 | bytes[1] >> 4,
            identification: 0,
            dont_fragment: false,
            more_fragments: false,
            offset: 0,
            options: Vec::new(),
            body: bytes.get(IPV6_HEADER..end.min(bytes.len()))?.to_vec(),
        };
        while datagram.take_extension()? {}
        Some(datagram)
    }

    /// Takes the header that the body begins with out of it, if it is an extension.
    fn take_extension(&mut self) -> Option<bool> {
        let is_part = self.is_part();
        if self.protocol == FRAGMENT_HEADER && !is_part {
            let place = field(&self.body, 2)?;
            self.identification = field(&self.body, 6)?;
            self.offset = usize::from(place & 0xfff8);
            self.more_fragments = place & 1 != 0;
            self.protocol = self.body[0];
            self.body.drain(..8);
            return Some(self.offset == 0);
        }
        if !PLAIN_EXTENSIONS.contains(&self.protocol) {
            return Some(false);
        }
        let length = (usize::from(*self.body.get(1)?) + 1) * 8;
        let header: Vec<_> = self.body.get(..length)?.to_vec();
        self.body.drain(..length);
        self.options.push(self.protocol);
        self.options.extend(&header[1..]);
        self.protocol = header[0];
        Some(true)
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

    /// What a transport checksum covers beside the body; that of ICMP for IPv4 nothing.
    fn pseudo_header(&self) -> Vec<u8> {
        if self.protocol == ICMP {
            return Vec::new();
        }
        let length = u32::try_from(self.body.len()).unwrap();
        let mut header = self.addresses();
        header.extend(length.to_be_bytes());
        header.extend([0, 0, 0, self.protocol]);
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
        checksum(&[&self.pseudo_header(), &self.body])
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

/// Takes the bytes of [`Datagram::options`] of IPv6 apart.
fn extensions(mut options: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut extensions = Vec::new();
    while let Some((kind, rest)) = options.split_first() {
        let length = (usize::from(rest[0]) + 1) * 8 - 1;
        extensions.push((*kind, rest[..length].to_vec()));
        options = &rest[length..];
    }
    extensions
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
