//! What is read from the packet that an ICMP error quotes.

use crate::frames::{Ipv4, icmp, ports, tcp};
use pcpm_ebpf::abi::{FlowKey, flow_kind};
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::icmp_error::Quote;
use pcpm_ebpf::packet::{PacketFields, protocol};
use proptest::prelude::*;

const UNREACHABLE: u8 = 3;

/// An error about `quoted`, of which it carries all but the hardware addresses.
fn error(kind: u8, quoted: &Ipv4) -> Ipv4 {
    Ipv4 {
        protocol: protocol::ICMP,
        source: [203, 0, 113, 7],
        destination: quoted.source,
        payload: [&icmp(kind, 0), &quoted.bytes()[14..]].concat(),
        ..Ipv4::default()
    }
}

fn quote_of(error: &Ipv4) -> Result<Quote, DropReason> {
    Quote::parse(error.bytes().as_slice(), &error.frame())
}

proptest! {
    #[test]
    fn an_error_has_the_keys_of_the_packet_it_is_about(
        which in 0..3,
        options in 0_usize..=10,
        quoted_options in 0_usize..=10,
        source: [u8; 4],
        destination: [u8; 4],
        source_port: u16,
        destination_port: u16,
    ) {
        let (protocol, payload) = match which {
            0 => (protocol::TCP, tcp(source_port, destination_port, 0)),
            1 => (protocol::UDP, ports(source_port, destination_port).to_vec()),
            _ => (protocol::ICMP, icmp(8, source_port).to_vec()),
        };
        let options_length = 4 * quoted_options;
        let packet = Ipv4 {
            protocol, payload, source, destination, options: options_length, ..Ipv4::default()
        };
        let error = Ipv4 { options: 4 * options, ..error(UNREACHABLE, &packet) };
        let quote = quote_of(&error).expect("an error about a packet with ports");
        let (frame, transport) = (packet.frame(), packet.transport());
        for kind in [flow_kind::EGRESS, flow_kind::INGRESS, flow_kind::HOST] {
            prop_assert_eq!(quote.leaving(kind), FlowKey::leaving(kind, &frame, &transport));
            prop_assert_eq!(quote.arriving(kind), FlowKey::arriving(kind, &frame, &transport));
        }
    }

    #[test]
    fn a_quote_is_read_within_the_frame_or_not_at_all(
        payload in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let error = Ipv4 { protocol: protocol::ICMP, payload, ..Ipv4::default() };
        let bytes = error.bytes();
        if let Ok(quote) = quote_of(&error) {
            prop_assert!(bytes.as_slice().fields::<4>(quote.transport_offset).is_some());
            prop_assert!(bytes.as_slice().fields::<1>(quote.checksum_offset).is_some());
        }
    }
}

#[test]
fn a_checksum_is_found_only_where_there_is_one() {
    let checked = [0, 9, 0, 9, 0, 8, 0xab, 0xcd];
    for (protocol, payload, inside) in [
        (protocol::TCP, tcp(1, 2, 0), Some(16)),
        (protocol::TCP, tcp(1, 2, 0)[..16].to_vec(), None),
        (protocol::UDP, checked.to_vec(), Some(6)),
        (protocol::UDP, ports(9, 9).to_vec(), None),
        (protocol::ICMP, icmp(8, 1).to_vec(), Some(2)),
    ] {
        let packet = Ipv4 {
            protocol,
            payload,
            ..Ipv4::default()
        };
        let quote = quote_of(&error(UNREACHABLE, &packet)).expect("an error");
        let expected = inside.map_or(0, |offset| quote.transport_offset + offset);
        assert_eq!(quote.checksum_offset, expected, "{packet:?}");
    }
}

#[test]
fn only_errors_about_packets_with_ports_are_read() {
    let packet = Ipv4::default();
    let later = Ipv4 {
        flags_and_offset: 0x0010,
        ..packet.clone()
    };
    let other = Ipv4 {
        protocol: 132,
        ..packet.clone()
    };
    let about_an_error = error(UNREACHABLE, &packet);
    let fragment = Ipv4 {
        flags_and_offset: 0x2000,
        ..about_an_error.clone()
    };
    for kind in [UNREACHABLE, 11, 12] {
        assert!(quote_of(&error(kind, &packet)).is_ok(), "type {kind}");
    }
    for refused in [
        error(0, &packet),
        error(5, &packet),
        error(8, &packet),
        error(UNREACHABLE, &later),
        error(UNREACHABLE, &other),
        error(UNREACHABLE, &about_an_error),
        fragment,
        packet,
    ] {
        assert_eq!(quote_of(&refused), Err(DropReason::NotReply), "{refused:?}");
    }
}
