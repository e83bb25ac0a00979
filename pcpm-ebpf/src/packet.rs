//! Reading a frame's headers: Ethernet, IPv4 or IPv6, and what identifies a connection above.
//!
//! Reads through [`PacketFields`], so the kernel's packet buffers and a test's byte strings take the
//! same path. Nothing here decides what may pass.

use crate::address::Address;
use crate::drop_reason::DropReason;

/// Length of the Ethernet header; a VLAN tag is not part of the frame when a tc program sees it.
pub const ETHERNET_LENGTH: u32 = 14;
/// Offset of the destination hardware address in the frame.
pub const DESTINATION_MAC_OFFSET: u32 = 0;
/// Offset of the hop limit of IPv6 in the frame.
pub const HOP_LIMIT_OFFSET: u32 = ETHERNET_LENGTH + 7;
/// Offset of the TTL of IPv4 in the frame; the protocol follows it.
pub const TTL_OFFSET: u32 = ETHERNET_LENGTH + 8;
/// Flags and offset of an IPv4 fragment.
pub const FRAGMENT_FLAGS_OFFSET: u32 = ETHERNET_LENGTH + 6;
/// Offset of the IPv4 header checksum in the frame.
pub const IP_CHECKSUM_OFFSET: u32 = ETHERNET_LENGTH + CHECKSUM_IN_IP;
/// Offset of the source address in an IPv4 header.
pub const SOURCE_IN_IP: u32 = 12;
/// Offset of the destination address in an IPv4 header.
pub const DESTINATION_IN_IP: u32 = 16;
/// Offset of the source address in an IPv6 header.
pub const SOURCE_IN_IPV6: u32 = 8;
/// Offset of the destination address in an IPv6 header.
pub const DESTINATION_IN_IPV6: u32 = 24;
/// Offset of the checksum in an IPv4 header.
pub const CHECKSUM_IN_IP: u32 = 10;
/// Offset of the checksum in an ICMP message.
pub const CHECKSUM_IN_ICMP: u32 = 2;
/// Offset of the checksum in a TCP header.
pub const CHECKSUM_IN_TCP: u32 = 16;
/// Offset of the checksum in a UDP header, and in those of UDP-Lite and DCCP.
pub const CHECKSUM_IN_UDP: u32 = 6;

/// Length of a UDP header.
pub const UDP_HEADER_LENGTH: u32 = 8;

/// IP protocol numbers that mean something here.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;

    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
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
const IPV6_LENGTH: u32 = 40;
/// Extension headers of IPv6 that are passed over: each may occur once, destination options twice.
const EXTENSIONS: usize = 5;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;
/// In the field at [`FRAGMENT_FLAGS_OFFSET`].
pub const DO_NOT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET_MASK: u16 = 0x1fff;

/// Where the bytes of a frame come from. They are read as what the headers consist of: 16-bit fields,
/// which the BPF target, unable to load across alignment, handles better than bytes.
pub trait PacketFields {
    /// `N` fields from `offset` on as they stand in memory, or `None` when the frame ends before.
    fn raw_fields<const N: usize>(&self, offset: u32) -> Option<[u16; N]>;

    /// `N` 32-bit words from `offset` on as they stand in memory, or `None` when the frame ends before.
    fn raw_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

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

    fn raw_words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (word, offset) in words.iter_mut().zip((offset..).step_by(4)) {
            *word = u32::from_ne_bytes(*self.get(usize::try_from(offset).ok()?..)?.first_chunk()?);
        }
        Some(words)
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

    /// Whether it stands for many: the first bit on the wire (IEEE 802, I/G).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 & 1 << 40 != 0
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

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// That of an address.
    #[inline(always)]
    pub const fn of(address: &Address) -> Self {
        if address.is_v4() { Self::V4 } else { Self::V6 }
    }
}

/// The Ethernet and IP headers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Destination hardware address.
    pub destination_mac: Mac,
    /// Source hardware address.
    pub source_mac: Mac,
    /// Version of IP. Both addresses are of it: IPv4 addresses in IPv6 headers are refused.
    pub family: Family,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Offset of the transport header in the frame: behind options or extension headers, if any.
    pub transport_offset: u32,
    /// IP protocol number; in IPv6 that of the last header that was read.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Which part of the datagram this is.
    pub fragment: Fragment,
    /// What the parts of one datagram have in common.
    pub identification: u32,
    /// The checksum of an IPv4 header as it stands in memory; means nothing in IPv6, which has none.
    pub ip_checksum: u16,
}

impl Frame {
    /// Reads the headers of a frame.
    ///
    /// # Errors
    /// [`DropReason::Arp`], [`DropReason::NotIp`] by ethertype; [`DropReason::Malformed`] for a frame
    /// that is too short or no valid IP; [`DropReason::ExtensionHeaders`] for IPv6 with more of them than
    /// are passed over.
    #[inline(always)]
    pub fn parse(packet: &(impl PacketFields + ?Sized)) -> Result<Self, DropReason> {
        let [d0, d1, d2, s0, s1, s2, ethertype, ip @ ..] =
            packet.raw_fields::<17>(0).ok_or(DropReason::Malformed)?;
        let header = match u16::from_be(ethertype) {
            ETHERTYPE_IPV4 => IpHeader::v4(&ip, ETHERNET_LENGTH)?,
            ETHERTYPE_IPV6 => IpHeader::v6(packet, ETHERNET_LENGTH)?,
            ETHERTYPE_ARP => return Err(DropReason::Arp),
            _ => return Err(DropReason::NotIp),
        };
        Ok(Self {
            destination_mac: Mac::of_raw_fields(d0, d1, d2),
            source_mac: Mac::of_raw_fields(s0, s1, s2),
            family: header.family,
            source: header.source,
            destination: header.destination,
            transport_offset: header.end,
            protocol: header.protocol,
            ttl: header.ttl,
            fragment: header.fragment,
            identification: header.identification,
            ip_checksum: ip[CHECKSUM_IN_IP as usize / 2],
        })
    }

    /// Whether it is an IPv4 packet.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        matches!(self.family, Family::V4)
    }
}

/// An IP header, of a frame or of what an error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// Version of IP.
    pub family: Family,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Offset of what follows it and its extensions.
    pub end: u32,
    /// IP protocol number; in IPv6 that of the last header that was read.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Which part of the datagram follows.
    pub fragment: Fragment,
    /// What the parts of one datagram have in common.
    pub identification: u32,
}

impl IpHeader {
    /// Reads the header at `offset`, which begins with `fields` as they stand in memory.
    #[inline(always)]
    pub(crate) fn v4(fields: &[u16; 10], offset: u32) -> Result<Self, DropReason> {
        let [
            lengths,
            _,
            identification,
            fragments,
            ttl_and_protocol,
            _,
            s0,
            s1,
            d0,
            d1,
        ] = *fields;
        let [version_and_length, _] = lengths.to_ne_bytes();
        let [ttl, protocol] = ttl_and_protocol.to_ne_bytes();
        Ok(Self {
            family: Family::V4,
            source: ipv4_address(s0, s1),
            destination: ipv4_address(d0, d1),
            end: offset + ipv4_header_length(version_and_length)?,
            protocol,
            ttl,
            fragment: fragment(u16::from_be(fragments)),
            identification: u16::from_be(identification).into(),
        })
    }

    /// Reads the header at `offset`, and the extensions behind it. The addresses come last: a kernel
    /// program has little room to keep them in meanwhile.
    #[inline(always)]
    pub(crate) fn v6(
        packet: &(impl PacketFields + ?Sized),
        offset: u32,
    ) -> Result<Self, DropReason> {
        let [version, _, _, next_and_hops] =
            packet.raw_fields(offset).ok_or(DropReason::Malformed)?;
        let [version_and_class, _] = version.to_ne_bytes();
        if version_and_class >> 4 != 6 {
            return Err(DropReason::Malformed);
        }
        let [next, ttl] = next_and_hops.to_ne_bytes();
        let mut header = Self {
            family: Family::V6,
            source: Address::ANY,
            destination: Address::ANY,
            end: offset + IPV6_LENGTH,
            protocol: next,
            ttl,
            fragment: Fragment::Whole,
            identification: 0,
        };
        for _ in 0..EXTENSIONS {
            if !header.pass_extension(packet)? {
                break;
            }
        }
        // What is behind more of them would not be looked at.
        if header.is_at_extension() && !header.fragment.is_later() {
            return Err(DropReason::ExtensionHeaders);
        }
        let [s0, s1, s2, s3, d0, d1, d2, d3] = packet
            .raw_words(offset + SOURCE_IN_IPV6)
            .ok_or(DropReason::Malformed)?;
        header.source = Address([s0, s1, s2, s3]);
        header.destination = Address([d0, d1, d2, d3]);
        if header.source.is_v4() || header.destination.is_v4() {
            return Err(DropReason::Malformed);
        }
        Ok(header)
    }

    #[inline(always)]
    const fn is_at_extension(&self) -> bool {
        matches!(
            self.protocol,
            protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::FRAGMENT
                | protocol::DESTINATION_OPTIONS
        )
    }

    /// Passes over an extension header, if there is one: whether there may be another.
    #[inline(always)]
    fn pass_extension(
        &mut self,
        packet: &(impl PacketFields + ?Sized),
    ) -> Result<bool, DropReason> {
        match self.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let [first] = packet.fields(self.end).ok_or(DropReason::Malformed)?;
                let [next, length] = first.to_be_bytes();
                self.protocol = next;
                self.end += (u32::from(length) + 1) * 8;
                Ok(true)
            }
            protocol::FRAGMENT => {
                let [next, place, high, low] =
                    packet.fields(self.end).ok_or(DropReason::Malformed)?;
                let [next, _] = next.to_be_bytes();
                self.protocol = next;
                self.end += 8;
                self.fragment = ipv6_fragment(place);
                self.identification = u32::from(high) << 16 | u32::from(low);
                Ok(!self.fragment.is_later())
            }
            _ => Ok(false),
        }
    }
}

/// The address whose halves stand so in memory.
#[inline(always)]
const fn ipv4_address(first: u16, second: u16) -> Address {
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
fn ipv4_header_length(version_and_length: u8) -> Result<u32, DropReason> {
    let length = u32::from(version_and_length & 0x0f) * 4;
    if version_and_length >> 4 == 4 && length >= IPV4_MIN_LENGTH {
        Ok(length)
    } else {
        Err(DropReason::Malformed)
    }
}

#[inline(always)]
fn fragment(flags_and_offset: u16) -> Fragment {
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

#[inline(always)]
fn ipv6_fragment(offset_and_flag: u16) -> Fragment {
    match (offset_and_flag & 0xfff8, offset_and_flag & 1) {
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
            protocol::ICMP | protocol::ICMPV6 => parse_icmp(packet, frame),
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
fn parse_icmp(
    packet: &(impl PacketFields + ?Sized),
    frame: &Frame,
) -> Result<Transport, DropReason> {
    let [type_and_code, _, identifier, _] = packet
        .fields(frame.transport_offset)
        .ok_or(DropReason::Malformed)?;
    let [icmp_type, _] = type_and_code.to_be_bytes();
    let kind = echo(frame.family, frame.protocol, icmp_type).ok_or(DropReason::NotReply)?;
    let (source_port, destination_port) = echo_ports(kind, identifier);
    Ok(Transport {
        kind,
        source_port,
        destination_port,
        tcp_flags: 0,
    })
}

/// Which echo an ICMP message is, if it is one.
#[inline(always)]
pub(crate) fn echo(family: Family, ip_protocol: u8, icmp_type: u8) -> Option<TransportKind> {
    match (family, ip_protocol, icmp_type) {
        (Family::V4, protocol::ICMP, ICMP_ECHO_REQUEST)
        | (Family::V6, protocol::ICMPV6, ICMPV6_ECHO_REQUEST) => Some(TransportKind::EchoRequest),
        (Family::V4, protocol::ICMP, ICMP_ECHO_REPLY)
        | (Family::V6, protocol::ICMPV6, ICMPV6_ECHO_REPLY) => Some(TransportKind::EchoReply),
        _ => None,
    }
}

/// Source and destination port that an echo's identifier stands for.
#[inline(always)]
pub(crate) const fn echo_ports(kind: TransportKind, identifier: u16) -> (u16, u16) {
    match kind {
        TransportKind::EchoReply => (0, identifier),
        _ => (identifier, 0),
    }
}

/// Where the checksum is in a transport header that covers the addresses too (RFC 9293, section 3.1; RFC 8200,
/// section 8.1), if there is one.
#[inline(always)]
pub(crate) const fn covering_checksum(family: Family, ip_protocol: u8) -> Option<u32> {
    match (family, ip_protocol) {
        (_, protocol::TCP) => Some(CHECKSUM_IN_TCP),
        (_, protocol::UDP | protocol::UDP_LITE | protocol::DCCP) => Some(CHECKSUM_IN_UDP),
        (Family::V6, protocol::ICMPV6) => Some(CHECKSUM_IN_ICMP),
        _ => None,
    }
}
