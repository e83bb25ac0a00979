//! Translation: what slots send to the world, what comes back, and which port stands for what.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};

use anyhow::{Result, bail};
use pcpm_ebpf::abi::flow_kind;
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::in_both;
use crate::lab::{self, Fate, Hook, LAB_PORTS, uplink_with};
use crate::packet::{Content, Packet, extension};
use crate::world::{
    ACK, CONTENTS, MARKED, RST, SYN, UDP, answer_to, lab, lab_with_ports, restored, tcp, to_slot,
    translate,
};

#[test]
fn connections_are_translated_and_answers_find_back() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for content in CONTENTS {
            for options in [0, 8] {
                let packet = Packet {
                    options,
                    ..Packet::of_slot(1, net.peer, content)
                };
                let port = translate(&mut lab, net, 1, &packet)?;
                assert!(LAB_PORTS.contains(&port));
                let answer = Packet {
                    options,
                    ..answer_to(net, content, port)
                };
                let fate = lab.send(Hook::FromUplink, &answer)?;
                assert_eq!(fate, to_slot(&restored(net, &answer, 1, content)));
            }
        }
        Ok(())
    })
}

#[test]
fn ports_are_translated_behind_extension_headers() -> Result<()> {
    use crate::families::V6;
    use extension::{DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING};
    let mut lab = lab()?;
    for extensions in [
        &[HOP_BY_HOP][..],
        &[ROUTING],
        &[DESTINATION_OPTIONS, ROUTING, DESTINATION_OPTIONS],
        &[
            HOP_BY_HOP,
            DESTINATION_OPTIONS,
            ROUTING,
            DESTINATION_OPTIONS,
        ],
    ] {
        for content in CONTENTS {
            let packet = Packet {
                extensions,
                ..Packet::of_slot(1, V6.peer, content)
            };
            let port = translate(&mut lab, &V6, 1, &packet)?;
            let answer = Packet {
                extensions,
                ..answer_to(&V6, content, port)
            };
            let fate = lab.send(Hook::FromUplink, &answer)?;
            let expected = to_slot(&restored(&V6, &answer, 1, content));
            assert_eq!(fate, expected, "{extensions:?}");
        }
    }
    Ok(())
}

#[test]
fn udp_checksums_that_come_out_as_zero_are_sent_as_ones() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        // The peer's port at which the translated datagram has such a checksum, found by trying all.
        for to in 1..=u16::MAX {
            let untouched = Packet::of_slot(1, net.peer, Content::Udp { from: 1000, to });
            let translated = Packet {
                source: net.uplink,
                content: Content::Udp { from: 20_000, to },
                ..untouched.clone()
            };
            let checksum = 14 + net.least_quote - 2;
            if translated.bytes()[checksum..checksum + 2] == [0xff, 0xff] {
                translate(&mut lab, net, 1, &untouched)?;
                return Ok(());
            }
        }
        bail!("no port gives such a checksum")
    })
}

#[test]
fn a_connection_keeps_its_port() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let syn = Packet::of_slot(1, net.peer, tcp(SYN));
        let ack = Packet::of_slot(1, net.peer, tcp(ACK));
        let port = translate(&mut lab, net, 1, &syn)?;
        for _ in 0..10 {
            assert_eq!(translate(&mut lab, net, 1, &ack)?, port);
        }
        Ok(())
    })
}

#[test]
fn both_versions_of_ip_have_ports_of_their_own() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    for net in [crate::families::V4, crate::families::V6] {
        // One after the other with the same number: nothing is shared.
        let packet = Packet::of_slot(1, net.peer, UDP);
        let fate = lab.send(MARKED, &packet)?;
        assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
        let answer = answer_to(&net, UDP, 20_000);
        let fate = lab.send(Hook::FromUplink, &answer)?;
        assert_eq!(fate, to_slot(&restored(&net, &answer, 1, UDP)));
    }
    Ok(())
}

#[test]
fn connections_of_several_slots_do_not_share_a_port_to_one_peer() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_003)?;
        let mut ports: Vec<_> = [(1, 1000), (1, 1001), (2, 1000), (2, 1001)]
            .into_iter()
            .map(|(slot, from)| {
                let packet = Packet::of_slot(slot, net.peer, Content::Udp { from, to: 53 });
                translate(&mut lab, net, slot, &packet)
            })
            .collect::<Result<_>>()?;
        ports.sort_unstable();
        assert_eq!(ports, [20_000, 20_001, 20_002, 20_003]);
        Ok(())
    })
}

#[test]
fn when_all_ports_to_a_peer_are_taken_others_are_still_reached() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        let fate = lab.send(MARKED, &Packet::of_slot(2, net.peer, UDP))?;
        assert_eq!(fate, Fate::Dropped(DropReason::NoFreePort));
        let elsewhere = Packet::of_slot(2, net.stranger, UDP);
        assert_eq!(translate(&mut lab, net, 2, &elsewhere)?, 20_000);
        Ok(())
    })
}

#[test]
fn ports_of_the_hosts_own_sockets_are_left_alone() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_001)?;
        let _udp = UdpSocket::bind((net.uplink, 20_000))?;
        let _tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 20_001))?;
        for (content, free) in [(UDP, 20_001), (tcp(SYN), 20_000)] {
            let packet = Packet::of_slot(1, net.peer, content);
            assert_eq!(translate(&mut lab, net, 1, &packet)?, free, "{content:?}");
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_translated_is_dropped() -> Result<()> {
    let icmp = |kind| Content::Icmp {
        kind,
        identifier: 1,
    };
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        let later = Packet {
            fragment: 0x0010,
            ..packet.clone()
        };
        let fate = lab.send(MARKED, &later)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Fragment));
        for (content, reason) in [
            (
                Content::Other { protocol: 132 },
                DropReason::UnsupportedProtocol,
            ),
            (Content::EchoReply { identifier: 1 }, DropReason::NotReply),
            // Its data is no packet that could be quoted.
            (icmp(net.errors[0]), DropReason::Malformed),
            (icmp(net.redirect), DropReason::NotReply),
            (tcp(RST), DropReason::NotReply),
        ] {
            let fate = lab.send(MARKED, &Packet::of_slot(1, net.peer, content))?;
            assert_eq!(fate, Fate::Dropped(reason), "{content:?}");
        }
        let spent = lab.flows(flow_kind::INGRESS)?;
        assert!(spent.is_empty(), "a port was spent on it");
        Ok(())
    })
}

#[test]
fn headers_that_hide_what_a_packet_carries_are_not_translated() -> Result<()> {
    use crate::families::V6;
    use extension::{AUTHENTICATION, DESTINATION_OPTIONS, HOP_BY_HOP, ROUTING};
    const NO_NEXT_HEADER: u8 = 59;
    let mut lab = lab()?;
    let packet = Packet::of_slot(1, V6.peer, UDP);
    for (extensions, content) in [
        (&[AUTHENTICATION][..], UDP),
        (&[HOP_BY_HOP, AUTHENTICATION], UDP),
        (&[DESTINATION_OPTIONS; 9], UDP),
        (
            &[],
            Content::Other {
                protocol: NO_NEXT_HEADER,
            },
        ),
        // ICMP of the other version.
        (&[ROUTING], Content::Other { protocol: 1 }),
    ] {
        let packet = Packet {
            extensions,
            content,
            ..packet.clone()
        };
        let fate = lab.send(MARKED, &packet)?;
        assert!(matches!(fate, Fate::Dropped(_)), "{packet:?}: {fate:?}");
        let arriving = Packet {
            extensions,
            ..answer_to(&V6, content, 20_000)
        };
        let fate = lab.send(Hook::FromUplink, &arriving)?;
        assert_eq!(fate, Fate::Left, "{arriving:?}");
    }
    Ok(())
}

#[test]
fn a_packet_whose_time_is_over_is_left_for_the_host_to_refuse() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for ttl in [0, 1] {
            let packet = Packet {
                ttl,
                ..Packet::of_slot(1, net.peer, UDP)
            };
            let fate = lab.send(MARKED, &packet)?;
            assert_eq!(fate, Fate::Refused(DropReason::TtlExpired));
        }
        assert!(lab.flows(flow_kind::INGRESS)?.is_empty());
        assert_eq!(lab.counters(1)?.dropped_packets, 2);
        Ok(())
    })
}

#[test]
fn a_packet_too_large_for_the_uplink_is_left_for_the_host_to_answer() -> Result<()> {
    /// That of the lab's uplink, and the link header.
    const LARGEST: usize = 1500 + 14;
    in_both(|net| {
        let mut lab = lab()?;
        for content in CONTENTS {
            let mut frame = Packet::of_slot(1, net.peer, content).bytes();
            frame.resize(LARGEST, 0);
            let fate = lab.send_bytes(MARKED, &frame)?;
            assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
            frame.push(0);
            let fate = lab.send_bytes(MARKED, &frame)?;
            assert_eq!(fate, Fate::Refused(DropReason::TooBig));
        }
        Ok(())
    })
}

#[test]
fn only_the_uplink_leads_to_the_world() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for (address, reason) in [
            (net.neighbour, DropReason::NotUplink),
            (net.blackhole, DropReason::NoRoute),
        ] {
            let fate = lab.send(MARKED, &Packet::of_slot(1, address, UDP))?;
            assert_eq!(fate, Fate::Dropped(reason), "{address}");
        }
        lab.set_uplink(lab::UPLINK, &uplink_with(net, None))?;
        let fate = lab.send(MARKED, &Packet::of_slot(1, net.peer, UDP))?;
        assert_eq!(fate, Fate::Dropped(DropReason::NoUplink));
        lab.remove_uplink(lab::UPLINK)?;
        let fate = lab.send(MARKED, &Packet::of_slot(1, net.peer, UDP))?;
        assert_eq!(fate, Fate::Dropped(DropReason::NotUplink));
        Ok(())
    })
}

#[test]
fn a_new_address_of_the_uplink_counts_for_the_next_packet() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        translate(&mut lab, net, 1, &packet)?;
        lab.set_uplink(lab::UPLINK, &uplink_with(net, Some(net.second)))?;
        let fate = lab.send(MARKED, &packet)?;
        let Fate::Redirected { bytes, .. } = fate else {
            bail!("{fate:?}");
        };
        let port = lab
            .flows(flow_kind::INGRESS)?
            .into_keys()
            .find_map(|(local, port, ..)| (local == net.second).then_some(port));
        let Some(from) = port else {
            bail!("no port of the new address");
        };
        let expected = Packet {
            source: net.second,
            ttl: packet.ttl - 1,
            content: Content::Udp { from, to: 53 },
            ..packet
        };
        assert_eq!(bytes, expected.bytes());
        Ok(())
    })
}
