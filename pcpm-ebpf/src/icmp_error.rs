//! ICMP errors: the packet that an error quotes says which connection the error is about.
//!
//! Whoever translated that packet has to translate the quote as well, or its sender would not know
//! it again (RFC 5508, section 4). An error neither keeps a flow alive nor ends it.

use crate::abi::FlowKey;
use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::packet::{
    Family, Fragment, Frame, IpHeader, PacketFields, Transport, TransportKind, covering_checksum,
    echo, echo_ports, protocol,
};

/// What every error carries before the packet it quotes.
const ICMP_HEADER_LENGTH: u32 = 8;

/// The beginning of a packet, as an ICMP error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Version of IP.
    pub family: Family,
    /// Offset of the quoted IP header in the frame.
    pub ip_offset: u32,
    /// Offset of the quoted transport header in the frame.
    pub transport_offset: u32,
    /// Offset of the quoted transport checksum in the frame; 0 when the quote ends before, or when
    /// there was none (UDP).
    pub checksum_offset: u32,
    /// Whom the error is for: the sender of the quoted packet.
    pub source: Address,
    /// Where the quoted packet was to go.
    pub destination: Address,
    /// IP protocol number of the quoted packet.
    pub protocol: u8,
    /// Kind and ports of the quoted packet. Errors quote 8 bytes at least, so there are no TCP flags.
    pub transport: Transport,
}

impl Quote {
    /// Reads what the ICMP error in `frame` quotes.
    ///
    /// # Errors
    /// [`DropReason::NotReply`] when it is no error about a packet with ports or an echo;
    /// [`DropReason::Malformed`] when it is too short.
    #[inline(always)]
    pub fn parse(packet: &(impl PacketFields + ?Sized), frame: &Frame) -> Result<Self, DropReason> {
        Self::behind(packet, frame, &quoted_header(packet, frame)?)
    }

    /// Reads what an ICMP error quotes behind the IP header.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    #[inline(always)]
    pub fn behind(
        packet: &(impl PacketFields + ?Sized),
        frame: &Frame,
        header: &IpHeader,
    ) -> Result<Self, DropReason> {
        if header.fragment.is_later() {
            return Err(DropReason::NotReply);
        }
        let (transport, checksum) = quoted_transport(packet, header)?;
        Ok(Self {
            family: header.family,
            ip_offset: quoted_offset(frame),
            transport_offset: header.end,
            checksum_offset: if checksum == 0 {
                0
            } else {
                header.end + checksum
            },
            source: header.source,
            destination: header.destination,
            protocol: header.protocol,
            transport,
        })
    }

    /// The key of the quoted packet's flow, if a slot sent it (or the address that stands for it).
    #[inline(always)]
    pub const fn leaving(&self, kind: u8) -> FlowKey {
        FlowKey {
            local: self.source,
            remote: self.destination,
            local_port: self.transport.source_port,
            remote_port: self.transport.destination_port,
            protocol: self.protocol,
            kind,
            padding: 0,
        }
    }

    /// The key of the quoted packet's flow, if it went to a slot.
    #[inline(always)]
    pub const fn arriving(&self, kind: u8) -> FlowKey {
        FlowKey {
            local: self.destination,
            remote: self.source,
            local_port: self.transport.destination_port,
            remote_port: self.transport.source_port,
            protocol: self.protocol,
            kind,
            padding: 0,
        }
    }

    /// Its addresses alone.
    #[inline(always)]
    pub const fn addresses(&self) -> QuotedAddresses {
        QuotedAddresses {
            family: self.family,
            ip_offset: self.ip_offset,
            checksum_offset: match self.protocol {
                protocol::ICMP => 0,
                _ => self.checksum_offset,
            },
            source: self.source,
            destination: self.destination,
        }
    }

    /// Whether the error in `frame` is by the receiver of the quoted packet and for its sender.
    #[inline(always)]
    pub fn is_by_receiver(&self, frame: &Frame) -> bool {
        self.source == frame.destination && self.destination == frame.source
    }
}

/// The addresses of a packet that an error quotes, whatever it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedAddresses {
    /// Version of IP.
    pub family: Family,
    /// Offset of the quoted IP header in the frame.
    pub ip_offset: u32,
    /// Offset in the frame of a quoted checksum that covers the addresses besides that of the header; 0 when
    /// there is none.
    pub checksum_offset: u32,
    /// Whom the error is for: the sender of the quoted packet.
    pub source: Address,
    /// Where the quoted packet was to go.
    pub destination: Address,
}

impl QuotedAddresses {
    /// Those in the IP header that the ICMP error in `frame` quotes.
    #[inline(always)]
    pub fn of(packet: &(impl PacketFields + ?Sized), frame: &Frame, header: &IpHeader) -> Self {
        Self {
            family: header.family,
            ip_offset: quoted_offset(frame),
            checksum_offset: quoted_checksum(packet, header).unwrap_or(0),
            source: header.source,
            destination: header.destination,
        }
    }
}

/// Where the quoted checksum is that covers the addresses, if the quote holds one.
#[inline(always)]
fn quoted_checksum(packet: &(impl PacketFields + ?Sized), header: &IpHeader) -> Option<u32> {
    if header.fragment.is_later() {
        return None;
    }
    let offset = header.end + covering_checksum(header.family, header.protocol)?;
    let [checksum] = packet.raw_fields(offset)?;
    // Of UDP, 0 means that there is none.
    (checksum != 0 || header.protocol != protocol::UDP).then_some(offset)
}

/// The IP header that the ICMP error in `frame` quotes.
///
/// # Errors
/// [`DropReason::NotReply`] when it is no error; [`DropReason::Malformed`] when it quotes no IP header.
#[inline(always)]
pub fn quoted_header(
    packet: &(impl PacketFields + ?Sized),
    frame: &Frame,
) -> Result<IpHeader, DropReason> {
    let [type_and_code] = packet
        .fields(frame.transport_offset)
        .ok_or(DropReason::Malformed)?;
    let [icmp_type, _] = type_and_code.to_be_bytes();
    if frame.fragment != Fragment::Whole || !is_error(frame.family, frame.protocol, icmp_type) {
        return Err(DropReason::NotReply);
    }
    let offset = quoted_offset(frame);
    match frame.family {
        Family::V4 => {
            let fields = packet.raw_fields(offset).ok_or(DropReason::Malformed)?;
            IpHeader::v4(&fields, offset)
        }
        Family::V6 => IpHeader::v6(packet, offset),
    }
}

#[inline(always)]
const fn quoted_offset(frame: &Frame) -> u32 {
    frame.transport_offset + ICMP_HEADER_LENGTH
}

#[inline(always)]
fn is_error(family: Family, ip_protocol: u8, icmp_type: u8) -> bool {
    match (family, ip_protocol) {
        // Destination unreachable, time exceeded, parameter problem.
        (Family::V4, protocol::ICMP) => matches!(icmp_type, 3 | 11 | 12),
        // Destination unreachable, packet too big, time exceeded, parameter problem.
        (Family::V6, protocol::ICMPV6) => matches!(icmp_type, 1..=4),
        _ => false,
    }
}

/// What the first 8 bytes of a transport header say, and where the checksum is in it (0: nowhere).
#[inline(always)]
fn quoted_transport(
    packet: &(impl PacketFields + ?Sized),
    header: &IpHeader,
) -> Result<(Transport, u32), DropReason> {
    let [first, second, third, fourth] = packet.fields(header.end).ok_or(DropReason::Malformed)?;
    let (kind, (source_port, destination_port), checksum) = match header.protocol {
        protocol::TCP => {
            let quoted = packet.fields::<9>(header.end).is_some();
            (
                TransportKind::Tcp,
                (first, second),
                if quoted { 16 } else { 0 },
            )
        }
        protocol::UDP => {
            let checked = fourth != 0;
            (
                TransportKind::Udp,
                (first, second),
                if checked { 6 } else { 0 },
            )
        }
        _ => {
            let [icmp_type, _] = first.to_be_bytes();
            let kind = echo(header.family, header.protocol, icmp_type);
            let kind = kind.ok_or(DropReason::NotReply)?;
            (kind, echo_ports(kind, third), 2)
        }
    };
    let transport = Transport {
        kind,
        source_port,
        destination_port,
        tcp_flags: 0,
    };
    Ok((transport, checksum))
}
