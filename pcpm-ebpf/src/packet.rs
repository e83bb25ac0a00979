//! Reading a frame's headers: Ethernet, IPv4, and what identifies a connection above.
//!
//! Reads through [`PacketFields`], so the kernel's packet buffers and a test's byte strings take the
//! same path. Nothing here decides what may pass.

use crate::address::Address;
use crate::drop_reason::DropReason;

/// Length of the Ethernet header; a VLAN tag is not part of the frame when a tc program sees it.
pub const ETHERNET_LENGTH: u32 = 14;
/// Offset of the destination hardware address in the frame.
pub const DESTINATION_MAC_OFFSET: u32 = 0;
/// Offset of the TTL in the frame; the protocol follows it.
pub const TTL_OFFSET: u32 = ETHERNET_LENGTH + 8;
/// Offset of the IPv4 header checksum in the frame.
pub const IP_CHECKSUM_OFFSET: u32 = ETHERNET_LENGTH + CHECKSUM_IN_IP;
/// Offset of the source address in an IPv4 header.
pub const SOURCE_IN_IP: u32 = 12;
/// Offset of the destination address in an IPv4 header.
pub const DESTINATION_IN_IP: u32 = 16;
/// Offset of the checksum in an IPv4 header.
pub const CHECKSUM_IN_IP: u32 = 10;
/// Offset of the checksum in an ICMP message.
pub const CHECKSUM_IN_ICMP: u32 = 2;

/// Length of a UDP header.
pub const UDP_HEADER_LENGTH: u32 = 8;

/// IP protocol numbers that are understood.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
}

/// TCP flags that matter to connection tracking.
pub mod tcp_flag {
    /// No more bytes from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Breaks a connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const IPV4_MIN_LENGTH: u32 = 20;
pub(crate) const ICMP_ECHO_REPLY: u8 = 0;
pub(crate) const ICMP_ECHO_REQUEST: u8 = 8;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// Where the bytes of a frame come from. They are read as what the headers consist of: 16-bit fields,
/// which the BPF target, unable to load across alignment, handles better than bytes.
pub trait PacketFields {
    /// `N` fields from `offset` on as they stand in memory, or `None` when the frame ends before.
    fn raw_fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]>;

    /// `N` fields from `offset` on as numbers, or `None` when the frame ends before.
    #[inline(always)]
    fn fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        Some(self.raw_fields(offset)?.map(u16::from_be))
    }
}

impl PacketFields for [u8] {
    fn raw_fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        let bytes = self.get(usize::try_from(offset).ok()?..)?;
        let mut pairs = bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        let mut fields = [0; N];
        for field in &mut fields {
            *field = u16::from_ne_bytes(pairs.next()?);
        }
        Some(fields)
    }
}

/// A hardware address as a number: the BPF target has no `memcmp`, and one comparison is quicker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(u64);

impl Mac {
    /// The address with these bytes.
    #[inline(always)]
    pub const fn new(mac: [u8; 6]) -> Self {
        Self(u64::from_be_bytes([
            0, 0, mac[0], mac[1], mac[2], mac[3], mac[4], mac[5],
        ]))
    }

    #[inline(always)]
    const fn of_raw_fields(high: u16, middle: u16, low: u16) -> Self {
        let [high, middle, low] = [u16::from_be(high), u16::from_be(middle), u16::from_be(low)];
        Self((high as u64) << 32 | (middle as u64) << 16 | low as u64)
    }
}

/// Which part of a datagram a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The beginning, with the ports.
    First,
    /// Something after the beginning, without ports.
    Middle,
    /// The end, without ports.
    Last,
}

impl Fragment {
    /// Whether this is behind the part that has the ports.
    #[inline(always)]
    pub const fn is_later(self) -> bool {
        matches!(self, Self::Middle | Self::Last)
    }
}

/// The Ethernet and IPv4 headers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination hardware address.
    pub destination_mac: Mac,
    /// Source hardware address.
    pub source_mac: Mac,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Offset of the transport header in the frame: behind the IP options, if any.
    pub transport_offset: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Which part of the datagram this is.
    pub fragment: Fragment,
    /// What the parts of one datagram have in common.
    pub identification: u32,
}

impl Frame {
    /// Reads the headers of an IPv4 frame.
    ///
    /// # Errors
    /// [`DropReason::Arp`], [`DropReason::Ipv6`], [`DropReason::NotIp`] by ethertype;
    /// [`DropReason::Malformed`] for a frame that is too short or no valid IPv4.
    #[inline(always)]
    pub fn parse(packet: &(impl PacketFields + ?Sized)) -> Result<Self, DropReason> {
        let [d0, d1, d2, s0, s1, s2, ethertype, ip @ ..] =
            packet.raw_fields::<17>(0).ok_or(DropReason::Malformed)?;
        expect_ipv4(u16::from_be(ethertype))?;
        let [
            lengths,
            _,
            identification,
            fragments,
            ttl_and_protocol,
            _,
            addresses @ ..,
        ] = ip;
        let [version_and_length, _] = lengths.to_ne_bytes();
        let [ttl, protocol] = ttl_and_protocol.to_ne_bytes();
        Ok(Self {
            destination_mac: Mac::of_raw_fields(d0, d1, d2),
            source_mac: Mac::of_raw_fields(s0, s1, s2),
            source: ipv4_address(addresses[0], addresses[1]),
            destination: ipv4_address(addresses[2], addresses[3]),
            transport_offset: ETHERNET_LENGTH + ipv4_header_length(version_and_length)?,
            protocol,
            ttl,
            fragment: fragment(u16::from_be(fragments)),
            identification: u16::from_be(identification).into(),
        })
    }
}

/// The address whose halves stand so in memory.
#[inline(always)]
pub(crate) const fn ipv4_address(first: u16, second: u16) -> Address {
    Address::v4(u32::from_be(word(first, second)))
}

/// Two fields that follow each other in memory as one word.
#[inline(always)]
const fn word(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        first as u32 | (second as u32) << 16
    } else {
        (first as u32) << 16 | second as u32
    }
}

#[inline(always)]
fn expect_ipv4(ethertype: u16) -> Result<(), DropReason> {
    match ethertype {
        ETHERTYPE_IPV4 => Ok(()),
        ETHERTYPE_ARP => Err(DropReason::Arp),
        ETHERTYPE_IPV6 => Err(DropReason::Ipv6),
        _ => Err(DropReason::NotIp),
    }
}

#[inline(always)]
pub(crate) fn ipv4_header_length(version_and_length: u8) -> Result<u32, DropReason> {
    let length = u32::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 == 4 && length >= IPV4_MIN_LENGTH {
        Ok(length)
    } else {
        Err(DropReason::Malformed)
    }
}

#[inline(always)]
pub(crate) fn fragment(flags_and_offset: u16) -> Fragment {
    match (
        flags_and_offset & FRAGMENT_OFFSET_MASK,
        flags_and_offset & MORE_FRAGMENTS,
    ) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        (_, 0) => Fragment::Last,
        _ => Fragment::Middle,
    }
}

/// What a datagram carries, as far as flows are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportKind {
    /// A TCP segment.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request.
    EchoRequest,
    /// An ICMP echo reply.
    EchoReply,
}

/// What identifies a connection above IP.
///
/// The identifier of an ICMP echo takes the place of the port of the side that asked, the other
/// side's port is 0. So a reply is the mirror image of its request, as with ports, and a request
/// can never be taken for a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// What it is.
    pub kind: TransportKind,
    /// Port of the sender.
    pub source_port: u16,
    /// Port of the receiver.
    pub destination_port: u16,
    /// TCP flags, 0 for the others.
    pub tcp_flags: u8,
}

impl Transport {
    /// Reads the transport header of `frame`.
    ///
    /// # Errors
    /// [`DropReason::Fragment`] when the frame does not hold the transport header,
    /// [`DropReason::UnsupportedProtocol`] for other protocols, [`DropReason::NotReply`] for other
    /// ICMP messages, [`DropReason::Malformed`] for a short frame.
    #[inline(always)]
    pub fn parse(packet: &(impl PacketFields + ?Sized), frame: &Frame) -> Result<Self, DropReason> {
        if frame.fragment.is_later() {
            return Err(DropReason::Fragment);
        }
        match frame.protocol {
            protocol::TCP => parse_tcp(packet, frame.transport_offset),
            protocol::UDP => parse_udp(packet, frame.transport_offset),
            protocol::ICMP => parse_icmp(packet, frame.transport_offset),
            _ => Err(DropReason::UnsupportedProtocol),
        }
    }
}

#[inline(always)]
fn parse_tcp(packet: &(impl PacketFields + ?Sized), offset: u32) -> Result<Transport, DropReason> {
    let [source_port, destination_port, _, _, _, _, flags, _, _, _] =
        packet.fields(offset).ok_or(DropReason::Malformed)?;
    let [_, tcp_flags] = flags.to_be_bytes();
    Ok(Transport {
        kind: TransportKind::Tcp,
        source_port,
        destination_port,
        tcp_flags,
    })
}

#[inline(always)]
fn parse_udp(packet: &(impl PacketFields + ?Sized), offset: u32) -> Result<Transport, DropReason> {
    let [source_port, destination_port, _, _] =
        packet.fields(offset).ok_or(DropReason::Malformed)?;
    Ok(Transport {
        kind: TransportKind::Udp,
        source_port,
        destination_port,
        tcp_flags: 0,
    })
}

#[inline(always)]
fn parse_icmp(packet: &(impl PacketFields + ?Sized), offset: u32) -> Result<Transport, DropReason> {
    let [type_and_code, _, identifier, _] = packet.fields(offset).ok_or(DropReason::Malformed)?;
    let [icmp_type, _] = type_and_code.to_be_bytes();
    let (kind, source_port, destination_port) = match icmp_type {
        ICMP_ECHO_REQUEST => (TransportKind::EchoRequest, identifier, 0),
        ICMP_ECHO_REPLY => (TransportKind::EchoReply, 0, identifier),
        _ => return Err(DropReason::NotReply),
    };
    Ok(Transport {
        kind,
        source_port,
        destination_port,
        tcp_flags: 0,
    })
}
