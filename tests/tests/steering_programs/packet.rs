//! Packets made by hand, with checksums computed the slow way: what a program makes of a packet is
//! compared with the packet that should have come out, byte for byte.

use std::net::Ipv4Addr;

use pcpm_ebpf::abi::{GATEWAY_MAC, slot_mac};

/// An IPv4 packet in an Ethernet frame.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Source hardware address.
    pub(crate) source_mac: [u8; 6],
    /// Destination hardware address.
    pub(crate) destination_mac: [u8; 6],
    /// Source address.
    pub(crate) source: Ipv4Addr,
    /// Destination address.
    pub(crate) destination: Ipv4Addr,
    /// Time to live.
    pub(crate) ttl: u8,
    /// Bytes of IP options, a multiple of four.
    pub(crate) options: u8,
    /// Flags and offset of the fragment, as in the header.
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

const DATA: &[u8] = b"an odd number of bytes.";

impl Packet {
    /// What slot `slot` (of a pool at 10.213.0.0) sends to its gateway for `destination`.
    pub(crate) fn of_slot(slot: u32, destination: [u8; 4], content: Content) -> Self {
        Self {
            source_mac: slot_mac(slot),
            destination_mac: GATEWAY_MAC,
            source: Self::address_of(slot),
            destination: destination.into(),
            ttl: 64,
            options: 0,
            fragment: 0,
            content,
        }
    }

    /// What `source` sends to the link with the hardware address `destination_mac`.
    pub(crate) fn arriving(
        destination_mac: [u8; 6],
        source: [u8; 4],
        destination: Ipv4Addr,
        content: Content,
    ) -> Self {
        Self {
            source_mac: [2, 0, 0, 0, 0, 9],
            destination_mac,
            source: source.into(),
            destination,
            ttl: 60,
            options: 0,
            fragment: 0,
            content,
        }
    }

    /// The address of slot `slot` of a pool at 10.213.0.0.
    pub(crate) fn address_of(slot: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 213, 0, 0).to_bits() + slot)
    }

    /// The frame.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let payload = self.payload();
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        bytes.extend([0x08, 0x00]);
        bytes.extend(self.ip_header(payload.len()));
        bytes.extend(payload);
        bytes
    }

    /// The frame of an ICMP error of type `kind`, with the addresses of this packet, that quotes the
    /// first `length` bytes of `quoted`.
    pub(crate) fn error(&self, kind: u8, quoted: &Self, length: usize) -> Vec<u8> {
        let mut payload = vec![kind, 1, 0, 0, 0, 0, 5, 0];
        payload.extend(quoted.bytes()[14..].iter().take(length));
        let sum = checksum(&payload);
        payload[2..4].copy_from_slice(&sum.to_be_bytes());
        let around = Self {
            content: Content::Other { protocol: 1 },
            ..self.clone()
        };
        let mut bytes = [self.destination_mac, self.source_mac].concat();
        bytes.extend([0x08, 0x00]);
        bytes.extend(around.ip_header(payload.len()));
        bytes.extend(payload);
        bytes
    }

    fn ip_header(&self, payload: usize) -> Vec<u8> {
        let length = 20 + usize::from(self.options);
        let total = u16::try_from(length + payload).unwrap_or(u16::MAX);
        let words = u8::try_from(length / 4).unwrap_or(15);
        let mut header = vec![0x40 | words, 0];
        header.extend(total.to_be_bytes());
        header.extend([0x12, 0x34]);
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol(), 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        // "No operation".
        header.extend(vec![1; self.options.into()]);
        let checksum = checksum(&header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    fn protocol(&self) -> u8 {
        match self.content {
            Content::Tcp { .. } => 6,
            Content::Udp { .. } | Content::UdpUnchecked { .. } => 17,
            Content::Icmp { .. } => 1,
            Content::Other { protocol } => protocol,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self.content {
            Content::Tcp { from, to, flags } => self.with_checksum(&tcp(from, to, flags), 16),
            Content::Udp { from, to } => self.with_checksum(&udp(from, to), 6),
            Content::UdpUnchecked { from, to } => udp(from, to),
            Content::Icmp { kind, identifier } => icmp(kind, identifier),
            Content::Other { .. } => DATA.to_vec(),
        }
    }

    /// The transport checksum covers a pseudo header of addresses, protocol and length.
    fn with_checksum(&self, payload: &[u8], offset: usize) -> Vec<u8> {
        let mut covered = [self.source.octets(), self.destination.octets()].concat();
        covered.extend([0, self.protocol()]);
        covered.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
        covered.extend(payload);
        let checksum = match checksum(&covered) {
            0 if offset == 6 => u16::MAX,
            checksum => checksum,
        };
        let mut payload = payload.to_vec();
        payload[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        payload
    }
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
    let checksum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
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
