//! ICMP errors: the packet that an error quotes says which connection the error is about.
//!
//! Whoever translated that packet has to translate the quote as well, or its sender would not know
//! it again (RFC 5508, section 4). An error neither keeps a flow alive nor ends it.

use crate::abi::FlowKey;
use crate::address::Address;
use crate::drop_reason::DropReason;
use crate::packet::{
    Fragment, Frame, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, PacketFields, Transport, TransportKind,
    fragment, ipv4_address, ipv4_header_length, protocol,
};

const DESTINATION_UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// What every error carries before the packet it quotes.
const ICMP_HEADER_LENGTH: u32 = 8;

/// The beginning of a packet, as an ICMP error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
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
        let [type_and_code] = packet
            .fields(frame.transport_offset)
            .ok_or(DropReason::Malformed)?;
        let [icmp_type, _] = type_and_code.to_be_bytes();
        if frame.protocol != protocol::ICMP
            || frame.fragment != Fragment::Whole
            || !is_error(icmp_type)
        {
            return Err(DropReason::NotReply);
        }
        let ip_offset = frame.transport_offset + ICMP_HEADER_LENGTH;
        let [
            lengths,
            _,
            _,
            fragments,
            ttl_and_protocol,
            _,
            s0,
            s1,
            d0,
            d1,
        ] = packet.raw_fields(ip_offset).ok_or(DropReason::Malformed)?;
        let [version_and_length, _] = lengths.to_ne_bytes();
        let [_, ip_protocol] = ttl_and_protocol.to_ne_bytes();
        if fragment(u16::from_be(fragments)).is_later() {
            return Err(DropReason::NotReply);
        }
        let transport_offset = ip_offset + ipv4_header_length(version_and_length)?;
        let (transport, checksum) = quoted_transport(packet, ip_protocol, transport_offset)?;
        Ok(Self {
            ip_offset,
            transport_offset,
            checksum_offset: if checksum == 0 {
                0
            } else {
                transport_offset + checksum
            },
            source: ipv4_address(s0, s1),
            destination: ipv4_address(d0, d1),
            protocol: ip_protocol,
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

    /// Whether the error in `frame` is by the receiver of the quoted packet and for its sender.
    #[inline(always)]
    pub fn is_by_receiver(&self, frame: &Frame) -> bool {
        self.source == frame.destination && self.destination == frame.source
    }
}

#[inline(always)]
const fn is_error(icmp_type: u8) -> bool {
    matches!(
        icmp_type,
        DESTINATION_UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// What the first 8 bytes of a transport header say, and where the checksum is in it (0: nowhere).
#[inline(always)]
fn quoted_transport(
    packet: &(impl PacketFields + ?Sized),
    ip_protocol: u8,
    offset: u32,
) -> Result<(Transport, u32), DropReason> {
    let [first, second, third, fourth] = packet.fields(offset).ok_or(DropReason::Malformed)?;
    let [icmp_type, _] = first.to_be_bytes();
    let (kind, source_port, destination_port, checksum) = match (ip_protocol, icmp_type) {
        (protocol::TCP, _) => {
            let quoted = packet.fields::<9>(offset).is_some();
            (
                TransportKind::Tcp,
                first,
                second,
                if quoted { 16 } else { 0 },
            )
        }
        (protocol::UDP, _) => (
            TransportKind::Udp,
            first,
            second,
            if fourth == 0 { 0 } else { 6 },
        ),
        (protocol::ICMP, ICMP_ECHO_REQUEST) => (TransportKind::EchoRequest, third, 0, 2),
        (protocol::ICMP, ICMP_ECHO_REPLY) => (TransportKind::EchoReply, 0, third, 2),
        _ => return Err(DropReason::NotReply),
    };
    let transport = Transport {
        kind,
        source_port,
        destination_port,
        tcp_flags: 0,
    };
    Ok((transport, checksum))
}
