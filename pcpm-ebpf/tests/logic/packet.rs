//! What is read from a frame, and what is refused.

use crate::frames::{Ipv4, icmp, ports, tcp};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::packet::{Fragment, Frame, Mac, Transport, TransportKind, protocol, tcp_flag};
use proptest::prelude::*;

fn transport_of(packet: &Ipv4) -> Result<Transport, DropReason> {
    Transport::parse(packet.bytes().as_slice(), &packet.frame())
}

#[test]
fn the_headers_of_a_frame_are_read() {
    let packet = Ipv4 {
        ttl: 17,
        ..Ipv4::default()
    };
    let frame = packet.frame();
    assert_eq!(frame.destination_mac, Mac::new([2, 0, 0, 0, 0, 1]));
    assert_eq!(frame.source_mac, Mac::new([2, 0, 0, 0, 0, 2]));
    assert_eq!(
        frame.source,
        Address::v4(u32::from_be_bytes([10, 213, 0, 7]))
    );
    assert_eq!(
        frame.destination,
        Address::v4(u32::from_be_bytes([192, 0, 2, 1]))
    );
    assert_eq!((frame.protocol, frame.ttl), (protocol::UDP, 17));
    assert_eq!(frame.fragment, Fragment::Whole);
}

#[test]
fn every_byte_of_a_hardware_address_counts() {
    for byte in 0..6 {
        let mut other = [2, 0, 0, 0, 0, 1];
        other[byte] ^= 0x80;
        assert_ne!(Mac::new(other), Mac::new([2, 0, 0, 0, 0, 1]), "{byte}");
    }
}

#[test]
fn ports_are_found_behind_ip_options() {
    for options in (0..=40).step_by(4) {
        let packet = Ipv4 {
            options,
            ..Ipv4::default()
        };
        let transport = packet.transport();
        let found = (transport.source_port, transport.destination_port);
        assert_eq!(found, (1234, 53), "{options} bytes of options");
    }
}

#[test]
fn only_ipv4_is_taken_for_ipv4() {
    let cases = [
        ([0x08, 0x06], DropReason::Arp),
        ([0x86, 0xdd], DropReason::Malformed),
        ([0x81, 0x00], DropReason::NotIp),
        ([0x00, 0x2e], DropReason::NotIp),
    ];
    for (ethertype, reason) in cases {
        let mut bytes = Ipv4::default().bytes();
        bytes[12..14].copy_from_slice(&ethertype);
        assert_eq!(Frame::parse(bytes.as_slice()), Err(reason));
    }
    for version_and_length in [0x35, 0x65, 0x44, 0x40, 0x05] {
        let mut bytes = Ipv4::default().bytes();
        bytes[14] = version_and_length;
        let refused = Frame::parse(bytes.as_slice());
        assert_eq!(
            refused,
            Err(DropReason::Malformed),
            "{version_and_length:x}"
        );
    }
}

#[test]
fn what_identifies_a_connection_is_read() {
    let cases = [
        (
            protocol::UDP,
            ports(1000, 53).to_vec(),
            TransportKind::Udp,
            1000,
            53,
            0,
        ),
        (
            protocol::TCP,
            tcp(40_000, 443, tcp_flag::SYN),
            TransportKind::Tcp,
            40_000,
            443,
            tcp_flag::SYN,
        ),
        (
            protocol::ICMP,
            icmp(8, 77).to_vec(),
            TransportKind::EchoRequest,
            77,
            0,
            0,
        ),
        (
            protocol::ICMP,
            icmp(0, 77).to_vec(),
            TransportKind::EchoReply,
            0,
            77,
            0,
        ),
    ];
    for (protocol, payload, kind, source_port, destination_port, tcp_flags) in cases {
        let packet = Ipv4 {
            protocol,
            payload,
            ..Ipv4::default()
        };
        let expected = Transport {
            kind,
            source_port,
            destination_port,
            tcp_flags,
        };
        assert_eq!(transport_of(&packet), Ok(expected));
    }
}

#[test]
fn other_protocols_and_messages_have_no_connection() {
    let cases = [
        (132, ports(1, 2).to_vec(), DropReason::UnsupportedProtocol),
        (47, vec![0; 40], DropReason::UnsupportedProtocol),
        (protocol::ICMP, icmp(3, 0).to_vec(), DropReason::NotReply),
        (protocol::ICMP, icmp(13, 5).to_vec(), DropReason::NotReply),
    ];
    for (protocol, payload, reason) in cases {
        let packet = Ipv4 {
            protocol,
            payload,
            ..Ipv4::default()
        };
        assert_eq!(transport_of(&packet), Err(reason), "protocol {protocol}");
    }
}

#[test]
fn only_the_first_fragment_has_ports() {
    let cases = [
        (0x0000, Fragment::Whole, true),
        (0x4000, Fragment::Whole, true),
        (0x2000, Fragment::First, true),
        (0x2001, Fragment::Middle, false),
        (0x1fff, Fragment::Last, false),
    ];
    for (flags_and_offset, fragment, has_ports) in cases {
        let packet = Ipv4 {
            flags_and_offset,
            ..Ipv4::default()
        };
        assert_eq!(packet.frame().fragment, fragment, "{flags_and_offset:x}");
        assert_eq!(transport_of(&packet).is_ok(), has_ports);
    }
}

#[test]
fn a_frame_that_ends_within_its_headers_is_malformed() {
    for (protocol, payload) in [
        (protocol::UDP, ports(1, 2).to_vec()),
        (protocol::TCP, tcp(1, 2, 0)),
        (protocol::ICMP, icmp(8, 1).to_vec()),
    ] {
        let packet = Ipv4 {
            protocol,
            payload,
            ..Ipv4::default()
        };
        let bytes = packet.bytes();
        for length in 0..bytes.len() {
            let short = &bytes[..length];
            let outcome = Frame::parse(short).and_then(|frame| Transport::parse(short, &frame));
            assert_eq!(outcome, Err(DropReason::Malformed), "{length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = crate::frames::parse(&bytes);
    }

    #[test]
    fn any_damage_to_a_frame_is_read_or_refused(
        at in 12_usize..60,
        to in any::<u8>(),
        options in 0_usize..=10,
        length in 0_usize..100,
    ) {
        let packet = Ipv4 {
            protocol: protocol::TCP,
            payload: tcp(1, 2, tcp_flag::ACK),
            options: options * 4,
            ..Ipv4::default()
        };
        let mut bytes = packet.bytes();
        if let Some(byte) = bytes.get_mut(at) {
            *byte = to;
        }
        bytes.truncate(length);
        let _ = crate::frames::parse(&bytes);
    }
}
