//! What is read from IPv6 frames: extension headers, fragments, echoes, errors, discovery.

use crate::frames::{icmp, ports, tcp};
use pcpm_ebpf::abi::{FlowKey, flow_kind};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::decision::check_discovery;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::icmp_error::Quote;
use pcpm_ebpf::packet::{Fragment, Frame, PacketFields, Transport, TransportKind, protocol};
use proptest::prelude::*;

const SLOT: [u8; 16] = [
    0xfd, 0, 0x70, 0x63, 0x70, 0x6d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,
];
const PEER: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// An IPv6 frame with `extensions` before its `payload`.
#[derive(Clone, Debug)]
struct Ipv6 {
    source: [u8; 16],
    destination: [u8; 16],
    /// Kind of each, and what stands behind its first byte, to a multiple of 8.
    extensions: Vec<(u8, Vec<u8>)>,
    protocol: u8,
    payload: Vec<u8>,
}

impl Default for Ipv6 {
    fn default() -> Self {
        Self {
            source: SLOT,
            destination: PEER,
            extensions: Vec::new(),
            protocol: protocol::UDP,
            payload: ports(1234, 53).to_vec(),
        }
    }
}

impl Ipv6 {
    fn bytes(&self) -> Vec<u8> {
        let kinds = self.extensions.iter().map(|(kind, _)| *kind);
        let mut next = kinds.chain([self.protocol]);
        let mut bytes = vec![2; 12];
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0]);
        bytes.extend([next.next().expect("one at least"), 64]);
        bytes.extend([self.source, self.destination].concat());
        for (_, rest) in &self.extensions {
            bytes.push(next.next().expect("one more than extensions"));
            bytes.extend(rest);
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn frame(&self) -> Frame {
        Frame::parse(self.bytes().as_slice()).expect("the frame is well-formed")
    }

    fn transport(&self) -> Result<Transport, DropReason> {
        Transport::parse(self.bytes().as_slice(), &self.frame())
    }

    fn with(extensions: &[(u8, Vec<u8>)]) -> Self {
        Self {
            extensions: extensions.to_vec(),
            ..Self::default()
        }
    }
}

/// An extension header of `units` of 8 bytes.
fn options(units: u8) -> Vec<u8> {
    let mut bytes = vec![units - 1];
    bytes.resize(usize::from(units) * 8 - 1, 0);
    bytes
}

/// A fragment header with this offset (in bytes).
fn fragment(offset: u16, more: bool, identification: u32) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(identification.to_be_bytes());
    bytes
}

#[test]
fn ports_are_found_behind_extension_headers() {
    for extensions in [
        vec![],
        vec![(HOP_BY_HOP, options(1))],
        vec![(DESTINATION_OPTIONS, options(3)), (ROUTING, options(2))],
        vec![
            (HOP_BY_HOP, options(1)),
            (DESTINATION_OPTIONS, options(1)),
            (ROUTING, options(3)),
            (FRAGMENT, fragment(0, true, 7)),
            (DESTINATION_OPTIONS, options(32)),
        ],
    ] {
        let packet = Ipv6::with(&extensions);
        let frame = packet.frame();
        assert_eq!(
            (frame.source, frame.destination),
            (Address::v6(SLOT), Address::v6(PEER))
        );
        let transport = packet.transport().expect("ports");
        let found = (transport.source_port, transport.destination_port);
        assert_eq!(found, (1234, 53), "{extensions:?}");
    }
}

#[test]
fn more_extension_headers_than_are_looked_behind_are_refused() {
    for (extensions, is_read) in [(5, true), (6, false), (9, false)] {
        let packet = Ipv6::with(&vec![(DESTINATION_OPTIONS, options(1)); extensions]);
        let found = Frame::parse(packet.bytes().as_slice()).map(drop);
        let expected = if is_read {
            Ok(())
        } else {
            Err(DropReason::ExtensionHeaders)
        };
        assert_eq!(found, expected, "{extensions}");
    }
}

#[test]
fn only_the_first_fragment_has_ports_and_all_have_one_key() {
    let part = |offset, more, identification| {
        Ipv6::with(&[(FRAGMENT, fragment(offset, more, identification))])
    };
    let first = part(0, true, 0xdead_beef);
    let last = Ipv6 {
        // What follows the fragment header differs where the first part has options there.
        protocol: protocol::TCP,
        ..part(1232, false, 0xdead_beef)
    };
    assert_eq!(first.frame().fragment, Fragment::First);
    assert!(first.transport().is_ok());
    assert_eq!(last.frame().fragment, Fragment::Last);
    assert_eq!(last.transport(), Err(DropReason::Fragment));
    let key = FlowKey::leaving_fragment(&first.frame());
    assert_eq!(key, FlowKey::leaving_fragment(&last.frame()));
    for other in [0xdead_beee, 0xdeac_beef] {
        let other = part(1232, false, other).frame();
        assert_ne!(key, FlowKey::leaving_fragment(&other));
    }
    let whole = part(0, false, 1).frame();
    assert_eq!(whole.fragment, Fragment::Whole);
}

#[test]
fn an_echo_is_one_of_its_own_version_of_ip() {
    for (icmp_type, kind) in [
        (128, Some(TransportKind::EchoRequest)),
        (129, Some(TransportKind::EchoReply)),
        (8, None),
        (0, None),
    ] {
        let packet = Ipv6 {
            protocol: protocol::ICMPV6,
            payload: icmp(icmp_type, 77).to_vec(),
            ..Ipv6::default()
        };
        let found = packet.transport().map(|transport| transport.kind);
        assert_eq!(found.ok(), kind, "type {icmp_type}");
    }
    let ipv4_message = Ipv6 {
        protocol: protocol::ICMP,
        payload: icmp(8, 77).to_vec(),
        ..Ipv6::default()
    };
    assert_eq!(ipv4_message.transport(), Err(DropReason::NotReply));
}

#[test]
fn an_ipv4_address_in_an_ipv6_header_is_refused() {
    let mapped = Address::v4(0x0ad5_0007).octets();
    for packet in [
        Ipv6 {
            source: mapped,
            ..Ipv6::default()
        },
        Ipv6 {
            destination: mapped,
            ..Ipv6::default()
        },
    ] {
        let refused = Frame::parse(packet.bytes().as_slice());
        assert_eq!(refused, Err(DropReason::Malformed));
    }
}

#[test]
fn messages_of_neighbour_and_router_discovery_are_known() {
    for (icmp_type, verdict) in [
        (133, Err(DropReason::RouterDiscovery)),
        (134, Err(DropReason::RouterDiscovery)),
        (135, Err(DropReason::NeighbourDiscovery)),
        (136, Err(DropReason::NeighbourDiscovery)),
        (137, Err(DropReason::Redirect)),
        (128, Ok(())),
        (1, Ok(())),
    ] {
        for extensions in [vec![], vec![(HOP_BY_HOP, options(1))]] {
            let packet = Ipv6 {
                extensions,
                protocol: protocol::ICMPV6,
                payload: icmp(icmp_type, 0).to_vec(),
                ..Ipv6::default()
            };
            let found = check_discovery(packet.bytes().as_slice(), &packet.frame());
            assert_eq!(found, verdict, "type {icmp_type}");
        }
    }
}

/// An error about `quoted`, of which it carries all but the hardware addresses.
fn error(icmp_type: u8, quoted: &Ipv6) -> Ipv6 {
    Ipv6 {
        source: PEER,
        destination: SLOT,
        extensions: Vec::new(),
        protocol: protocol::ICMPV6,
        payload: [&icmp(icmp_type, 0), &quoted.bytes()[14..]].concat(),
    }
}

#[test]
fn errors_say_what_they_are_about() {
    for (protocol, payload) in [
        (protocol::TCP, tcp(1000, 443, 0)),
        (protocol::UDP, ports(1000, 53).to_vec()),
        (protocol::ICMPV6, icmp(128, 1000).to_vec()),
    ] {
        let packet = Ipv6 {
            protocol,
            payload,
            extensions: vec![(DESTINATION_OPTIONS, options(2))],
            ..Ipv6::default()
        };
        for (icmp_type, is_error) in [(1, true), (2, true), (3, true), (4, true), (5, false)] {
            let error = error(icmp_type, &packet);
            let quote = Quote::parse(error.bytes().as_slice(), &error.frame());
            let found = quote.map(|quote| quote.leaving(flow_kind::EGRESS));
            let transport = packet.transport().expect("ports");
            let key = FlowKey::leaving(flow_kind::EGRESS, &packet.frame(), &transport);
            let expected = if is_error {
                Ok(key)
            } else {
                Err(DropReason::NotReply)
            };
            assert_eq!(found, expected, "type {icmp_type}");
        }
    }
}

proptest! {
    /// Whatever is said to be found is within the frame.
    #[test]
    fn any_bytes_are_read_within_the_frame_or_refused(
        next in prop::sample::select(vec![0, 6, 17, 43, 44, 58, 60]),
        rest in prop::collection::vec(any::<u8>(), 0..120),
        length in 0_usize..180,
    ) {
        let packet = Ipv6 { protocol: next, payload: rest, ..Ipv6::default() };
        let mut bytes = packet.bytes();
        bytes.truncate(length);
        let bytes = bytes.as_slice();
        let Ok(frame) = Frame::parse(bytes) else { return Ok(()) };
        if Transport::parse(bytes, &frame).is_ok() {
            prop_assert!(bytes.fields::<4>(frame.transport_offset).is_some());
        }
        if let Ok(quote) = Quote::parse(bytes, &frame) {
            prop_assert!(bytes.fields::<4>(quote.transport_offset).is_some());
            prop_assert!(bytes.fields::<1>(quote.checksum_offset).is_some());
        }
    }
}
