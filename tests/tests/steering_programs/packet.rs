//! Packets made by hand, with checksums computed the slow way: what a program makes of a packet is
//! compared with the packet that should have come out, byte for byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use pcpm_ebpf::abi::{GATEWAY_MAC, slot_mac};
use pcpm_ebpf::packet::Family;

/// First address of the pool.
pub(crate) const POOL: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 0);
/// First IPv6 address of the pool.
pub(crate) const POOL6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x7063, 0x706d, 0, 0, 0, 0, 0);

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Source hardware address.
    pub(crate) source_mac: [u8; 6],
    /// Destination hardware address.
    pub(crate) destination_mac: [u8; 6],
    /// Source address, of the same version of IP as the destination.
    pub(crate) source: IpAddr,
    /// Destination address.
    pub(crate) destination: IpAddr,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
    /// Bytes of IP options, a multiple of four; of IPv6 those of a header of destination options, a
    /// multiple of eight.
    pub(crate) options: u8,
    /// IPv6: kinds of extension headers before the fragment header.
    pub(crate) extensions: &'static [u8],
    /// Flags and offset of the fragment, as in the header of IPv4.
    pub(crate) fragment: u16,
    /// What it carries.
    pub(crate) content: Content,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content {
    /// A TCP segment.
    Tcp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
        /// Flags.
        flags: u8,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// A UDP datagram without a checksum.
    UdpUnchecked {
        /// Source port.
        from: u16,
        /// Destination port.
        to: u16,
    },
    /// A ping.
    Echo {
        /// Identifier.
        identifier: u16,
    },
    /// The answer to a ping.
    EchoReply {
        /// Identifier.
        identifier: u16,
    },
    /// An ICMP message whose rest of header begins with `identifier`.
    Icmp {
        /// Type.
        kind: u8,
        /// Identifier.
        identifier: u16,
    },
    /// Any other protocol.
    Other {
        /// Protocol number.
        protocol: u8,
    },
}

/// Kinds of IPv6 extension headers.
pub(crate) mod extension {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const AUTHENTICATION: u8 = 51;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const IDENTIFICATION: u16 = 0x1234;
const CHECKSUM_IN_ICMP: usize = 2;
const CHECKSUM_IN_UDP: usize = 6;
const CHECKSUM_IN_TCP: usize = 16;

const DATA: &[u8] = b"an odd number of bytes.";

impl Packet {
    /// What slot `slot` sends to its gateway for `destination`.
    pub(crate) fn of_slot(slot: u32, destination: impl Into<IpAddr>, content: Content) -> Self {
        let destination = destination.into();
        Self {
            source_mac: slot_mac(slot),
            destination_mac: GATEWAY_MAC,
            source: Self::address_in(family_of(destination), slot),
            destination,
            ttl: 64,
            options: 0,
            extensions: &[],
            fragment: 0,
            content,
        }
    }

    /// What `source` sends to the link with the hardware address `destination_mac`.
    pub(crate) fn arriving(
        destination_mac: [u8; 6],
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        content: Content,
    ) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac,
            source: source.into(),
            destination: destination.into(),
            ttl: 60,
            options: 0,
            extensions: &[],
            fragment: 0,
            content,
        }
    }

    /// The IPv4 address of slot `slot`.
    pub(crate) fn address_of(slot: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(POOL.to_bits() + slot)
    }

    /// The address of slot `slot` in one version of IP.
    pub(crate) fn address_in(family: Family, slot: u32) -> IpAddr {
        match family {
            Family::V4 => Self::address_of(slot).into(),
            Family::V6 => Ipv6Addr::from_bits(POOL6.to_bits() + u128::from(slot)).into(),
        }
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.frame(self.protocol(), &self.payload())
    }

    /// The frame of an ICMP error of type `kind`, with the addresses of this packet, that quotes the
    /// first `length` bytes of `quoted`.
    pub(crate) fn error(&self, kind: u8, quoted: &Self, length: usize) -> Vec<u8> {
        let mut payload = vec![kind, 1, 0, 0, 0, 0, 5, 0];
        payload.extend(quoted.bytes()[14..].iter().take(length));
        let protocol = self.icmp();
        let payload = self.with_checksum(protocol, payload, CHECKSUM_IN_ICMP);
        self.frame(protocol, &payload)
    }

    fn frame(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (ethertype, header) = match family_of(self.source) {
            Family::V4 => ([0x08, 0x00], self.ipv4_header(protocol, payload.len())),
            Family::V6 => ([0x86, 0xdd], self.ipv6_headers(protocol, payload.len())),
        };
        let macs = [self.destination_mac, self.source_mac].concat();
        [&macs, &ethertype[..], &header, payload].concat()
    }

    fn ipv4_header(&self, protocol: u8, payload: usize) -> Vec<u8> {
        let length = 20 + usize::from(self.options);
        let total = u16::try_from(length + payload).unwrap_or(u16::MAX);
        let words = u8::try_from(length / 4).unwrap_or(15);
        let mut header = vec![0x40 | words, 0];
        header.extend(total.to_be_bytes());
        header.extend(IDENTIFICATION.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(self.addresses());
        // "No operation".
        header.extend(vec![1; self.options.into()]);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn ipv6_headers(&self, protocol: u8, payload: usize) -> Vec<u8> {
        let extensions = self.ipv6_extensions();
        let kinds = extensions.iter().map(|(kind, _)| *kind);
        let mut next = kinds.chain([protocol]);
        let behind: usize = extensions.iter().map(|(_, rest)| 1 + rest.len()).sum();
        let length = u16::try_from(behind + payload).unwrap_or(u16::MAX);
        let mut headers = vec![0x60, 0, 0, 0];
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

    /// Kind of each extension header, and what stands behind its first byte.
    fn ipv6_extensions(&self) -> Vec<(u8, Vec<u8>)> {
        let plain = self.extensions.iter().map(|kind| match *kind {
            // Counts in words of four bytes, without the first two.
            extension::AUTHENTICATION => (*kind, [&[4][..], &[0; 22]].concat()),
            _ => (*kind, padding(8)),
        });
        let mut extensions: Vec<_> = plain.collect();
        if self.options != 0 {
            extensions.push((extension::DESTINATION_OPTIONS, padding(self.options)));
        }
        if self.fragment != 0 {
            extensions.push((extension::FRAGMENT, self.ipv6_fragment()));
        }
        extensions
    }

    fn ipv6_fragment(&self) -> Vec<u8> {
        let (offset, more) = (self.fragment & 0x1fff, self.fragment >> 13 & 1);
        let mut rest = vec![0];
        rest.extend((offset << 3 | more).to_be_bytes());
        rest.extend(u32::from(IDENTIFICATION).to_be_bytes());
        rest
    }

    fn addresses(&self) -> Vec<u8> {
        let octets = |address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        [octets(self.source), octets(self.destination)].concat()
    }

    fn icmp(&self) -> u8 {
        match family_of(self.source) {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        }
    }

    fn protocol(&self) -> u8 {
        match self.content {
            Content::Tcp { .. } => TCP,
            Content::Udp { .. } | Content::UdpUnchecked { .. } => UDP,
            Content::Echo { .. } | Content::EchoReply { .. } | Content::Icmp { .. } => self.icmp(),
            Content::Other { protocol } => protocol,
        }
    }

    fn payload(&self) -> Vec<u8> {
        let (payload, checksum) = match self.content {
            Content::Tcp { from, to, flags } => (tcp(from, to, flags), CHECKSUM_IN_TCP),
            Content::Udp { from, to } => (udp(from, to), CHECKSUM_IN_UDP),
            Content::UdpUnchecked { from, to } => return udp(from, to),
            Content::Echo { identifier } => (icmp(self.echo()[0], identifier), CHECKSUM_IN_ICMP),
            Content::EchoReply { identifier } => {
                (icmp(self.echo()[1], identifier), CHECKSUM_IN_ICMP)
            }
            Content::Icmp { kind, identifier } => (icmp(kind, identifier), CHECKSUM_IN_ICMP),
            Content::Other { .. } => return DATA.to_vec(),
        };
        self.with_checksum(self.protocol(), payload, checksum)
    }

    /// Types of an echo and its reply.
    fn echo(&self) -> [u8; 2] {
        match family_of(self.source) {
            Family::V4 => [8, 0],
            Family::V6 => [128, 129],
        }
    }

    fn with_checksum(&self, protocol: u8, mut payload: Vec<u8>, offset: usize) -> Vec<u8> {
        let covered = [self.pseudo_header(protocol, payload.len()), payload.clone()].concat();
        let checksum = match (protocol, checksum(&covered)) {
            (UDP, 0) => u16::MAX,
            (_, checksum) => checksum,
        };
        payload[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        payload
    }

    /// What a transport checksum covers beside the transport header and what follows it: addresses,
    /// length and protocol. That of ICMP for IPv4 covers nothing else.
    fn pseudo_header(&self, protocol: u8, length: usize) -> Vec<u8> {
        if protocol == ICMP {
            return Vec::new();
        }
        let mut header = self.addresses();
        header.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
        header.extend([0, 0, 0, protocol]);
        header
    }
}

fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    }
}

/// An extension header of `length` bytes, without the first, that pads.
fn padding(length: u8) -> Vec<u8> {
    let mut rest = vec![length / 8 - 1];
    // "PadN", and what it pads with.
    rest.extend([1, length - 4]);
    rest.resize(usize::from(length) - 1, 0);
    rest
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(DATA);
    bytes
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    let length = u16::try_from(8 + DATA.len()).unwrap_or(0);
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes()].concat();
    bytes.extend([0, 0]);
    bytes.extend(DATA);
    bytes
}

fn icmp(kind: u8, identifier: u16) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(identifier.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(DATA);
    bytes
}

/// RFC 1071, one 16-bit word at a time.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0;
    for word in bytes.chunks(2) {
        let low = word.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([word[0], low]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}
