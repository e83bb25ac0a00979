//! ICMP errors: about what slots sent to the world, about what the world and the host sent to slots.

use std::net::Ipv4Addr;

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC};
use pcpm_ebpf::drop_reason::DropReason;

use crate::lab::{Fate, Hook, LAB_UPLINK};
use crate::packet::{Content, Packet};
use crate::to_world::{
    EPOCH, MARKED, PEER, SYN, UDP, UPLINK_MAC, answer_to, lab, restored, translate,
};

const ROUTER: [u8; 4] = [203, 0, 113, 77];
const UNREACHABLE: u8 = 3;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;
/// What every router quotes: an IP header and 8 bytes.
const LEAST: usize = 28;
const ALL: usize = 200;

const CONTENTS: [Content; 4] = [
    Content::Tcp {
        from: 40_000,
        to: 443,
        flags: SYN,
    },
    UDP,
    Content::UdpUnchecked { from: 1001, to: 53 },
    Content::Icmp {
        kind: 8,
        identifier: 77,
    },
];

/// Addressed like any packet from `ROUTER` to `destination`; what it carries does not matter.
fn from_router(destination: Ipv4Addr) -> Packet {
    Packet::arriving(UPLINK_MAC, ROUTER, destination, UDP)
}

/// `packet` of slot 1 as the world sees it from `port`.
fn seen(packet: &Packet, port: u16) -> Packet {
    let content = match packet.content {
        Content::Tcp { to, flags, .. } => Content::Tcp {
            from: port,
            to,
            flags,
        },
        Content::Udp { to, .. } => Content::Udp { from: port, to },
        Content::UdpUnchecked { to, .. } => Content::UdpUnchecked { from: port, to },
        Content::Icmp { kind, .. } => Content::Icmp {
            kind,
            identifier: port,
        },
        other @ Content::Other { .. } => other,
    };
    Packet {
        source: LAB_UPLINK,
        content,
        ..packet.clone()
    }
}

#[test]
fn errors_of_routers_reach_the_slot_with_the_packet_it_sent() -> Result<()> {
    let mut lab = lab()?;
    let slot = Packet::address_of(1);
    for content in CONTENTS {
        for (kind, options, length) in [
            (UNREACHABLE, 0, LEAST),
            (UNREACHABLE, 0, ALL),
            (TIME_EXCEEDED, 8, LEAST + 8),
            (PARAMETER_PROBLEM, 40, ALL),
        ] {
            let sent = Packet {
                options,
                ..Packet::of_slot(1, PEER, content)
            };
            let port = translate(&mut lab, 1, &sent)?;
            let error = from_router(LAB_UPLINK).error(kind, &seen(&sent, port), length);
            let fate = lab.send_bytes(Hook::FromUplink, &error)?;
            let bytes = from_router(slot).error(kind, &sent, length);
            assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH }, "{sent:?}");
        }
    }
    Ok(())
}

#[test]
fn errors_about_no_connection_of_a_slot_stay_the_hosts() -> Result<()> {
    let mut lab = lab()?;
    let sent = Packet::of_slot(1, PEER, UDP);
    let port = translate(&mut lab, 1, &sent)?;
    let seen = seen(&sent, port);
    let elsewhere = Packet {
        destination: ROUTER.into(),
        ..seen.clone()
    };
    let by_host = Packet {
        content: Content::Udp { from: 999, to: 53 },
        ..seen.clone()
    };
    let later_fragment = Packet {
        fragment: 0x0010,
        ..seen.clone()
    };
    let around = from_router(LAB_UPLINK);
    for (error, what) in [
        (around.error(UNREACHABLE, &elsewhere, ALL), "another peer"),
        (around.error(UNREACHABLE, &by_host, ALL), "another port"),
        (around.error(UNREACHABLE, &later_fragment, ALL), "no ports"),
        (around.error(5, &seen, ALL), "a redirect"),
        (around.error(UNREACHABLE, &seen, LEAST - 1), "too short"),
        (around.error(UNREACHABLE, &seen, 12), "much too short"),
    ] {
        let fate = lab.send_bytes(Hook::FromUplink, &error)?;
        assert_eq!(fate, Fate::Left, "{what}");
    }
    lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
    let error = around.error(UNREACHABLE, &seen, ALL);
    assert_eq!(lab.send_bytes(Hook::FromUplink, &error)?, Fate::Left);
    Ok(())
}

#[test]
fn errors_of_a_slot_reach_its_peer_with_the_packet_it_sent() -> Result<()> {
    let mut lab = lab()?;
    for content in CONTENTS {
        for length in [LEAST, ALL] {
            let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, content))?;
            let answer = answer_to(content, port);
            let got = restored(&answer, 1, content);
            let around = Packet::of_slot(1, PEER, UDP);
            let fate = lab.send_bytes(MARKED, &around.error(UNREACHABLE, &got, length))?;
            let expected = Packet {
                source: LAB_UPLINK,
                ttl: around.ttl - 1,
                ..around
            };
            let bytes = expected.error(UNREACHABLE, &answer, length);
            assert_eq!(fate, Fate::Redirected { bytes, mark: 0 }, "{content:?}");
        }
    }
    Ok(())
}

#[test]
fn a_slot_complains_only_of_what_it_got_to_whom_it_got_it_from() -> Result<()> {
    let mut lab = lab()?;
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    translate(&mut lab, 2, &Packet::of_slot(2, PEER, UDP))?;
    let got = restored(&answer_to(UDP, port), 1, UDP);
    let of_another_slot = Packet {
        destination: Packet::address_of(2),
        ..got.clone()
    };
    let of_no_connection = Packet {
        content: Content::Udp { from: 54, to: 1000 },
        ..got.clone()
    };
    for (quoted, receiver, what) in [
        (&got, [198, 51, 100, 2], "somebody else"),
        (&of_another_slot, PEER, "what another slot got"),
        (&of_no_connection, PEER, "what it did not get"),
    ] {
        let error = Packet::of_slot(1, receiver, UDP).error(UNREACHABLE, quoted, ALL);
        let fate = lab.send_bytes(MARKED, &error)?;
        assert_eq!(fate, Fate::Dropped(DropReason::NotReply), "{what}");
    }
    Ok(())
}

#[test]
fn an_error_does_not_keep_a_connection_alive() -> Result<()> {
    let mut lab = lab()?;
    let sent = Packet::of_slot(1, PEER, UDP);
    let port = translate(&mut lab, 1, &sent)?;
    let before = lab.all_flows()?;
    let error = from_router(LAB_UPLINK).error(UNREACHABLE, &seen(&sent, port), ALL);
    lab.send_bytes(Hook::FromUplink, &error)?;
    let got = restored(&answer_to(UDP, port), 1, UDP);
    let error = Packet::of_slot(1, PEER, UDP).error(UNREACHABLE, &got, ALL);
    lab.send_bytes(MARKED, &error)?;
    assert_eq!(lab.all_flows()?, before);
    Ok(())
}

#[test]
fn a_slot_tells_the_host_of_errors_about_what_the_host_sent() -> Result<()> {
    let mut lab = lab()?;
    let asked = |to| {
        let question = Content::Udp { from: 53, to };
        Packet::arriving(
            GATEWAY_MAC,
            [169, 254, 1, 1],
            Packet::address_of(1),
            question,
        )
    };
    lab.send(Hook::FromHost { mark: 0 }, &asked(1000))?;
    let around = Packet::of_slot(1, [169, 254, 1, 1], UDP);
    for (port, fate) in [
        (1000, Fate::Passed),
        (1001, Fate::Dropped(DropReason::HostClosed)),
    ] {
        let error = around.error(UNREACHABLE, &asked(port), LEAST);
        assert_eq!(lab.send_bytes(MARKED, &error)?, fate, "port {port}");
    }
    let to_another_address = Packet::of_slot(1, LAB_UPLINK.octets(), UDP);
    let error = to_another_address.error(UNREACHABLE, &asked(1000), LEAST);
    let fate = lab.send_bytes(MARKED, &error)?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    Ok(())
}
