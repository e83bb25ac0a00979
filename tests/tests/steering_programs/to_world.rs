//! Translation: what slots send to the world, and what comes back.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};
use pcpm_ebpf::abi::{AttachmentWord, Flow, Uplink, flow_kind};
use pcpm_ebpf::drop_reason::DropReason;

use crate::lab::{self, Fate, Hook, LAB_PORTS, LAB_UPLINK, Lab};
use crate::packet::{Content, Packet};

pub(crate) const PEER: [u8; 4] = [198, 51, 100, 1];
pub(crate) const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x60];
pub(crate) const EPOCH: u32 = 6;
pub(crate) const MARKED: Hook = Hook::FromHub { mark: EPOCH };
pub(crate) const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const UDP: Content = Content::Udp { from: 1000, to: 53 };

/// Slots 1 and 2 are held in the same epoch.
pub(crate) fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    for slot in [1, 2] {
        lab.publish(slot, AttachmentWord::attached(EPOCH, slot))?;
    }
    Ok(lab)
}

/// One port only, so that it is known which one is taken.
fn lab_with_ports(first: u16, last: u16) -> Result<Lab> {
    let mut lab = lab()?;
    lab.configure(|config| {
        config.nat_port_first = first;
        config.nat_port_last = last;
    })?;
    Ok(lab)
}

/// The content with the ports of the slot's side replaced, and as the peer answers it.
fn seen_by_world(content: Content, port: u16) -> (Content, Content) {
    match content {
        Content::Tcp { to, flags, .. } => (
            Content::Tcp {
                from: port,
                to,
                flags,
            },
            Content::Tcp {
                from: to,
                to: port,
                flags: SYN | ACK,
            },
        ),
        Content::Udp { to, .. } => (
            Content::Udp { from: port, to },
            Content::Udp { from: to, to: port },
        ),
        Content::UdpUnchecked { to, .. } => (
            Content::UdpUnchecked { from: port, to },
            Content::UdpUnchecked { from: to, to: port },
        ),
        Content::Icmp { kind, .. } => (
            Content::Icmp {
                kind,
                identifier: port,
            },
            Content::Icmp {
                kind: 0,
                identifier: port,
            },
        ),
        Content::Other { .. } => (content, content),
    }
}

fn own_port(content: Content) -> u16 {
    match content {
        Content::Tcp { from, .. }
        | Content::Udp { from, .. }
        | Content::UdpUnchecked { from, .. } => from,
        Content::Icmp { identifier, .. } => identifier,
        Content::Other { .. } => 0,
    }
}

/// The port that stands for the only connection of slot `slot` with this port.
fn translated_port(lab: &Lab, slot: u32, content: Content) -> Result<u16> {
    let owners = lab.flows(flow_kind::INGRESS)?;
    let mut ports = owners
        .values()
        .filter(|(_, flow)| (flow.slot, flow.translated_port) == (slot, own_port(content)));
    let (key, _) = ports.next().context("the connection has no port")?;
    if ports.next().is_some() {
        bail!("the connection has several ports");
    }
    Ok(key.local_port)
}

/// Sends `packet` and says which port stands for it.
pub(crate) fn translate(lab: &mut Lab, slot: u32, packet: &Packet) -> Result<u16> {
    let fate = lab.send(MARKED, packet)?;
    let Fate::Redirected { bytes, mark } = fate else {
        bail!("{packet:?}: {fate:?}");
    };
    let port = translated_port(lab, slot, packet.content)?;
    let expected = Packet {
        source: LAB_UPLINK,
        ttl: packet.ttl - 1,
        content: seen_by_world(packet.content, port).0,
        ..packet.clone()
    };
    assert_eq!(bytes, expected.bytes(), "{packet:?}");
    assert_eq!(mark, 0, "the mark is ours, not the host's");
    Ok(port)
}

pub(crate) fn answer_to(content: Content, port: u16) -> Packet {
    let (_, answer) = seen_by_world(content, port);
    Packet::arriving(UPLINK_MAC, PEER, LAB_UPLINK, answer)
}

pub(crate) fn restored(answer: &Packet, slot: u32, content: Content) -> Packet {
    Packet {
        destination: Packet::address_of(slot),
        content: seen_by_world(content, own_port(content)).1,
        ..answer.clone()
    }
}

#[test]
fn connections_are_translated_and_answers_find_back() -> Result<()> {
    let mut lab = lab()?;
    for content in [
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
    ] {
        for options in [0, 8] {
            let packet = Packet {
                options,
                ..Packet::of_slot(1, PEER, content)
            };
            let port = translate(&mut lab, 1, &packet)?;
            assert!(LAB_PORTS.contains(&port));
            let answer = Packet {
                options,
                ..answer_to(content, port)
            };
            let fate = lab.send(Hook::FromUplink, &answer)?;
            let bytes = restored(&answer, 1, content).bytes();
            assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH }, "{content:?}");
        }
    }
    Ok(())
}

#[test]
fn udp_checksums_that_come_out_as_zero_are_sent_as_ones() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    let checksum = 14 + 20 + 6;
    // The peer's port at which the translated datagram has such a checksum, found by trying all.
    for to in 1..=u16::MAX {
        let untouched = Packet::of_slot(1, PEER, Content::Udp { from: 1000, to });
        let translated = Packet {
            source: LAB_UPLINK,
            content: Content::Udp { from: 20_000, to },
            ..untouched.clone()
        };
        if translated.bytes()[checksum..checksum + 2] == [0xff, 0xff] {
            translate(&mut lab, 1, &untouched)?;
            return Ok(());
        }
    }
    bail!("no port gives such a checksum")
}

#[test]
fn a_connection_keeps_its_port() -> Result<()> {
    let mut lab = lab()?;
    let syn = Packet::of_slot(
        1,
        PEER,
        Content::Tcp {
            from: 40_000,
            to: 443,
            flags: SYN,
        },
    );
    let ack = Packet::of_slot(
        1,
        PEER,
        Content::Tcp {
            from: 40_000,
            to: 443,
            flags: ACK,
        },
    );
    let port = translate(&mut lab, 1, &syn)?;
    for _ in 0..10 {
        assert_eq!(translate(&mut lab, 1, &ack)?, port);
    }
    Ok(())
}

#[test]
fn connections_of_several_slots_do_not_share_a_port_to_one_peer() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_003)?;
    let mut ports: Vec<_> = [(1, 1000), (1, 1001), (2, 1000), (2, 1001)]
        .into_iter()
        .map(|(slot, from)| {
            let packet = Packet::of_slot(slot, PEER, Content::Udp { from, to: 53 });
            translate(&mut lab, slot, &packet)
        })
        .collect::<Result<_>>()?;
    ports.sort_unstable();
    assert_eq!(ports, [20_000, 20_001, 20_002, 20_003]);
    Ok(())
}

#[test]
fn when_all_ports_to_a_peer_are_taken_others_are_still_reached() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    let first = Packet::of_slot(1, PEER, UDP);
    translate(&mut lab, 1, &first)?;
    let second = Packet::of_slot(2, PEER, UDP);
    let fate = lab.send(MARKED, &second)?;
    assert_eq!(fate, Fate::Dropped(DropReason::NoFreePort));
    let elsewhere = Packet::of_slot(2, [198, 51, 100, 2], UDP);
    assert_eq!(translate(&mut lab, 2, &elsewhere)?, 20_000);
    Ok(())
}

#[test]
fn ports_of_the_hosts_own_sockets_are_left_alone() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_001)?;
    let _udp = UdpSocket::bind((LAB_UPLINK, 20_000))?;
    let _tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 20_001))?;
    for (content, free) in [
        (UDP, 20_001),
        (
            Content::Tcp {
                from: 40_000,
                to: 443,
                flags: SYN,
            },
            20_000,
        ),
    ] {
        let packet = Packet::of_slot(1, PEER, content);
        assert_eq!(translate(&mut lab, 1, &packet)?, free, "{content:?}");
    }
    Ok(())
}

#[test]
fn an_answer_for_the_last_holder_does_not_reach_the_next() -> Result<()> {
    let mut lab = lab()?;
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    for word in [
        AttachmentWord::detached(EPOCH),
        AttachmentWord::attached(EPOCH + 1, 1),
    ] {
        lab.publish(1, word)?;
        let fate = lab.send(Hook::FromUplink, &answer_to(UDP, port))?;
        assert_eq!(fate, Fate::Left, "{word:?}");
    }
    Ok(())
}

#[test]
fn the_port_of_a_dead_connection_is_taken_over() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    lab.publish(1, AttachmentWord::detached(EPOCH))?;
    let content = Content::Udp { from: 2000, to: 53 };
    translate(&mut lab, 2, &Packet::of_slot(2, PEER, content))?;
    let answer = answer_to(content, 20_000);
    let fate = lab.send(Hook::FromUplink, &answer)?;
    let bytes = restored(&answer, 2, content).bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
    Ok(())
}

#[test]
fn an_idle_connection_loses_its_port() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    lab.change_flows(|_, flow| {
        Some(Flow {
            last_seen_ns: 0,
            ..flow
        })
    })?;
    let late = lab.send(Hook::FromUplink, &answer_to(UDP, 20_000))?;
    assert_eq!(late, Fate::Left);
    let content = Content::Udp { from: 2000, to: 53 };
    translate(&mut lab, 2, &Packet::of_slot(2, PEER, content))?;
    let first = lab.send(MARKED, &Packet::of_slot(1, PEER, UDP))?;
    assert_eq!(first, Fate::Dropped(DropReason::NoFreePort));
    Ok(())
}

#[test]
fn a_closed_connection_gives_its_port_to_the_next_of_its_slot_and_to_no_other() -> Result<()> {
    let mut lab = lab_with_ports(20_000, 20_000)?;
    let segment = |from, flags| Content::Tcp {
        from,
        to: 443,
        flags,
    };
    translate(&mut lab, 1, &Packet::of_slot(1, PEER, segment(1000, SYN)))?;
    let end = Content::Tcp {
        from: 443,
        to: 20_000,
        flags: FIN | ACK,
    };
    let end = Packet::arriving(UPLINK_MAC, PEER, LAB_UPLINK, end);
    let answer = lab.send(Hook::FromUplink, &end)?;
    assert!(matches!(answer, Fate::Redirected { .. }), "{answer:?}");
    translate(
        &mut lab,
        1,
        &Packet::of_slot(1, PEER, segment(1000, FIN | ACK)),
    )?;
    let next = Packet::of_slot(1, PEER, segment(1001, SYN));
    let too_soon = lab.send(MARKED, &next)?;
    assert_eq!(too_soon, Fate::Dropped(DropReason::NoFreePort));
    lab.change_flows(|_, flow| {
        Some(Flow {
            last_seen_ns: flow.last_seen_ns.saturating_sub(4_000_000_000),
            ..flow
        })
    })?;
    let strange = lab.send(MARKED, &Packet::of_slot(2, PEER, segment(1001, SYN)))?;
    assert_eq!(strange, Fate::Dropped(DropReason::NoFreePort));
    assert_eq!(translate(&mut lab, 1, &next)?, 20_000);
    let answer = answer_to(segment(1001, SYN), 20_000);
    let fate = lab.send(Hook::FromUplink, &answer)?;
    let bytes = restored(&answer, 1, segment(1001, SYN)).bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
    Ok(())
}

#[test]
fn a_connection_whose_port_was_evicted_does_not_send_from_it() -> Result<()> {
    let mut lab = lab()?;
    let packet = Packet::of_slot(1, PEER, UDP);
    let port = translate(&mut lab, 1, &packet)?;
    lab.configure(|config| (config.nat_port_first, config.nat_port_last) = (port, port))?;
    // Evicted, and taken by a connection of slot 2.
    lab.change_flows(|key, flow| (key.kind != flow_kind::INGRESS).then_some(flow))?;
    let content = Content::Udp { from: 2000, to: 53 };
    assert_eq!(
        translate(&mut lab, 2, &Packet::of_slot(2, PEER, content))?,
        port
    );
    let fate = lab.send(MARKED, &packet)?;
    assert_eq!(fate, Fate::Dropped(DropReason::NoFreePort));
    lab.configure(|config| config.nat_port_last = port + 1)?;
    assert_eq!(translate(&mut lab, 1, &packet)?, port + 1);
    Ok(())
}

#[test]
fn an_evicted_memory_of_a_port_costs_a_new_port_and_nothing_else() -> Result<()> {
    let mut lab = lab()?;
    let packet = Packet::of_slot(1, PEER, UDP);
    let port = translate(&mut lab, 1, &packet)?;
    lab.change_flows(|key, flow| (key.kind != flow_kind::EGRESS).then_some(flow))?;
    assert!(matches!(
        lab.send(MARKED, &packet)?,
        Fate::Redirected { .. }
    ));
    let answer = answer_to(UDP, port);
    let bytes = restored(&answer, 1, UDP).bytes();
    let fate = lab.send(Hook::FromUplink, &answer)?;
    assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
    Ok(())
}

#[test]
fn a_tcp_connection_that_both_sides_confirmed_outlives_silence() -> Result<()> {
    let mut lab = lab()?;
    let tcp = |flags| Content::Tcp {
        from: 40_000,
        to: 443,
        flags,
    };
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, tcp(SYN)))?;
    lab.send(Hook::FromUplink, &answer_to(tcp(SYN), port))?;
    translate(&mut lab, 1, &Packet::of_slot(1, PEER, tcp(ACK)))?;
    let (_, confirmed) = lab
        .flows(flow_kind::INGRESS)?
        .into_values()
        .next()
        .context("a flow")?;
    translate(&mut lab, 1, &Packet::of_slot(1, PEER, tcp(ACK | RST)))?;
    let (_, reset) = lab
        .flows(flow_kind::INGRESS)?
        .into_values()
        .next()
        .context("a flow")?;
    let lives = |flow: &Flow| pcpm_ebpf::nat::idle_timeout_ns(6, flow.state);
    assert!(lives(&confirmed) > 10 * lives(&reset));
    Ok(())
}

#[test]
fn what_cannot_be_translated_is_dropped() -> Result<()> {
    let mut lab = lab()?;
    let packet = Packet::of_slot(1, PEER, UDP);
    let carrying = |content| Packet {
        content,
        ..packet.clone()
    };
    for (packet, reason) in [
        (
            Packet {
                fragment: 0x0010,
                ..packet.clone()
            },
            DropReason::Fragment,
        ),
        (
            carrying(Content::Other { protocol: 132 }),
            DropReason::UnsupportedProtocol,
        ),
        (
            carrying(Content::Icmp {
                kind: 0,
                identifier: 1,
            }),
            DropReason::NotReply,
        ),
        (
            // Its data is no packet that could be quoted.
            carrying(Content::Icmp {
                kind: 3,
                identifier: 1,
            }),
            DropReason::Malformed,
        ),
        (
            carrying(Content::Tcp {
                from: 1,
                to: 2,
                flags: RST,
            }),
            DropReason::NotReply,
        ),
    ] {
        let fate = lab.send(MARKED, &packet)?;
        assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
    }
    assert!(
        lab.flows(flow_kind::INGRESS)?.is_empty(),
        "no port was spent on it"
    );
    Ok(())
}

#[test]
fn a_packet_whose_time_is_over_is_left_for_the_host_to_refuse() -> Result<()> {
    let mut lab = lab()?;
    for ttl in [0, 1] {
        let packet = Packet {
            ttl,
            ..Packet::of_slot(1, PEER, UDP)
        };
        let fate = lab.send(MARKED, &packet)?;
        assert_eq!(fate, Fate::Refused(DropReason::TtlExpired));
    }
    assert!(lab.flows(flow_kind::INGRESS)?.is_empty());
    assert_eq!(lab.counters(1)?.dropped_packets, 2);
    Ok(())
}

#[test]
fn only_the_uplink_leads_to_the_world() -> Result<()> {
    let mut lab = lab()?;
    let elsewhere = lab.send(MARKED, &Packet::of_slot(1, [203, 0, 113, 9], UDP))?;
    assert_eq!(elsewhere, Fate::Dropped(DropReason::NotUplink));
    let blackhole = lab.send(MARKED, &Packet::of_slot(1, [198, 18, 0, 1], UDP))?;
    assert_eq!(blackhole, Fate::Dropped(DropReason::NoRoute));
    for (addresses, reason) in [
        (Some(Uplink::default()), DropReason::NoUplink),
        (None, DropReason::NotUplink),
    ] {
        match addresses {
            Some(addresses) => lab.set_uplink(lab::UPLINK, &addresses)?,
            None => lab.remove_uplink(lab::UPLINK)?,
        }
        let fate = lab.send(MARKED, &Packet::of_slot(1, PEER, UDP))?;
        assert_eq!(fate, Fate::Dropped(reason));
    }
    Ok(())
}

#[test]
fn nobody_outside_speaks_in_a_slots_name() -> Result<()> {
    let mut lab = lab()?;
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    for destination_mac in [answer_to(UDP, port).destination_mac, [0xff; 6]] {
        let spoofed = Packet {
            source: Packet::address_of(2),
            destination_mac,
            ..answer_to(UDP, port)
        };
        let fate = lab.send(Hook::FromUplink, &spoofed)?;
        assert_eq!(fate, Fate::Dropped(DropReason::SpoofedFromUplink));
    }
    Ok(())
}

#[test]
fn what_is_not_for_a_slot_stays_the_hosts() -> Result<()> {
    let mut lab = lab()?;
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    let answer = answer_to(UDP, port);
    let to_slot = |content| Packet {
        content,
        ..answer.clone()
    };
    for packet in [
        to_slot(Content::Udp {
            from: 53,
            to: port + 1,
        }),
        to_slot(Content::Udp { from: 54, to: port }),
        to_slot(Content::Tcp {
            from: 53,
            to: port,
            flags: SYN,
        }),
        to_slot(Content::Icmp {
            kind: 3,
            identifier: port,
        }),
        to_slot(Content::Icmp {
            kind: 8,
            identifier: port,
        }),
        Packet {
            source: [198, 51, 100, 2].into(),
            ..answer.clone()
        },
        Packet {
            destination: [192, 0, 2, 7].into(),
            ..answer.clone()
        },
        Packet {
            destination_mac: [2, 0, 0, 0, 0, 0x61],
            ..answer.clone()
        },
        Packet {
            fragment: 0x0010,
            ..answer.clone()
        },
    ] {
        assert_eq!(
            lab.send(Hook::FromUplink, &packet)?,
            Fate::Left,
            "{packet:?}"
        );
    }
    Ok(())
}

#[test]
fn nobody_reaches_the_pool_from_outside() -> Result<()> {
    let mut lab = lab()?;
    let port = translate(&mut lab, 1, &Packet::of_slot(1, PEER, UDP))?;
    for slot in [1, 3, 5000] {
        let packet = Packet {
            destination: Packet::address_of(slot),
            ..answer_to(UDP, port)
        };
        let fate = lab.send(Hook::FromUplink, &packet)?;
        assert_eq!(
            fate,
            Fate::Dropped(DropReason::PoolFromUplink),
            "slot {slot}"
        );
    }
    Ok(())
}
