//! Published ports: what comes in, what goes back, and the way from slot to slot through the door.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, PortKey, PortTarget, flow_kind};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;

use crate::lab::{Fate, Hook, LAB_PORTS, LAB_UPLINK, Lab};
use crate::packet::{Content, Packet};
use crate::to_world::{ACK, EPOCH, MARKED, PEER, SYN, UPLINK_MAC, lab};

/// Another address of the host, and one of its port.
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const DOOR: u16 = 8080;
const INSIDE: u16 = 80;
const CLIENT: u16 = 40_000;
const FIRST: u16 = 0x2000;
const LAST: u16 = 0x0020;

fn key(address: Option<Ipv4Addr>, protocol: u8) -> PortKey {
    let address = address.map_or(Address::ANY, Address::from);
    PortKey::on(address, DOOR, protocol)
}

/// Port 80 of slot 1 is port 8080 of the host, by TCP and UDP.
fn published() -> Result<Lab> {
    let mut lab = lab()?;
    for address in [LAB_UPLINK, OTHER] {
        lab.add_host_address(address.into())?;
    }
    let target = PortTarget {
        slot: 1,
        epoch: EPOCH,
        port: INSIDE,
        padding: [0; 6],
    };
    for protocol in [6, 17] {
        lab.publish_port(key(None, protocol), target)?;
    }
    Ok(lab)
}

fn tcp(from: u16, to: u16, flags: u8) -> Content {
    Content::Tcp { from, to, flags }
}

fn udp(from: u16, to: u16) -> Content {
    Content::Udp { from, to }
}

fn unchecked(from: u16, to: u16) -> Content {
    Content::UdpUnchecked { from, to }
}

/// What a client in the world sends to `host`.
fn asked(host: Ipv4Addr, content: Content) -> Packet {
    Packet::arriving(UPLINK_MAC, PEER, host, content)
}

/// `packet` as it gets to slot 1, in its epoch.
fn delivered(packet: &Packet, content: Content) -> Fate {
    let inside = Packet {
        destination: Packet::address_of(1),
        content,
        ..packet.clone()
    };
    Fate::Redirected {
        bytes: inside.bytes(),
        mark: EPOCH,
    }
}

/// `packet` of slot 1 as the world gets it from `host`.
fn answered(packet: &Packet, host: Ipv4Addr, content: Content) -> Fate {
    let outside = Packet {
        source: host,
        ttl: packet.ttl - 1,
        content,
        ..packet.clone()
    };
    Fate::Redirected {
        bytes: outside.bytes(),
        mark: 0,
    }
}

#[test]
fn what_comes_to_a_port_goes_to_the_slot_and_back_from_where_it_was_asked() -> Result<()> {
    let mut lab = published()?;
    let syn = |from, to| tcp(from, to, SYN);
    for (host, client) in [(LAB_UPLINK, 1000), (OTHER, 2000)] {
        for content in [syn, udp, unchecked] {
            let question = asked(host, content(client, DOOR));
            let fate = lab.send(Hook::FromUplink, &question)?;
            assert_eq!(fate, delivered(&question, content(client, INSIDE)));
            let answer = Packet::of_slot(1, PEER, content(INSIDE, client));
            let fate = lab.send(MARKED, &answer)?;
            assert_eq!(fate, answered(&answer, host, content(DOOR, client)));
        }
    }
    Ok(())
}

#[test]
fn only_a_syn_opens_a_tcp_connection_and_many_segments_are_one_packet() -> Result<()> {
    let mut lab = published()?;
    for flags in [ACK, SYN | ACK, 0x04] {
        let stray = asked(LAB_UPLINK, tcp(CLIENT, DOOR, flags));
        assert_eq!(lab.send(Hook::FromUplink, &stray)?, Fate::Left);
    }
    assert!(lab.all_flows()?.is_empty());
    lab.send(Hook::FromUplink, &asked(LAB_UPLINK, tcp(CLIENT, DOOR, SYN)))?;
    let data = asked(LAB_UPLINK, tcp(CLIENT, DOOR, ACK));
    let fate = lab.send_segments(Hook::FromUplink, &data, 40)?;
    assert_eq!(fate, delivered(&data, tcp(CLIENT, INSIDE, ACK)));
    Ok(())
}

#[test]
fn a_port_of_one_address_counts_before_one_of_all() -> Result<()> {
    let mut lab = published()?;
    let exact = PortTarget {
        slot: 2,
        epoch: EPOCH,
        port: 81,
        padding: [0; 6],
    };
    lab.publish_port(key(Some(OTHER), 17), exact)?;
    let question = asked(OTHER, udp(CLIENT, DOOR));
    let inside = Packet {
        destination: Packet::address_of(2),
        content: udp(CLIENT, 81),
        ..question.clone()
    };
    let fate = lab.send(Hook::FromUplink, &question)?;
    let bytes = inside.bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
    let elsewhere = asked(LAB_UPLINK, udp(CLIENT, DOOR));
    let fate = lab.send(Hook::FromUplink, &elsewhere)?;
    assert_eq!(fate, delivered(&elsewhere, udp(CLIENT, INSIDE)));
    Ok(())
}

#[test]
fn what_is_not_published_stays_the_hosts() -> Result<()> {
    let mut lab = published()?;
    let question = asked(LAB_UPLINK, udp(CLIENT, DOOR));
    for packet in [
        asked(LAB_UPLINK, udp(CLIENT, DOOR + 1)),
        asked([192, 0, 2, 77].into(), udp(CLIENT, DOOR)),
        // It claims to come from the host itself.
        Packet {
            source: OTHER,
            ..question.clone()
        },
    ] {
        let fate = lab.send(Hook::FromUplink, &packet)?;
        assert_eq!(fate, Fate::Left, "{packet:?}");
    }
    for word in [
        AttachmentWord::detached(EPOCH),
        AttachmentWord::attached(EPOCH + 1, 1),
    ] {
        lab.publish(1, word)?;
        assert_eq!(lab.send(Hook::FromUplink, &question)?, Fate::Left);
    }
    Ok(())
}

#[test]
fn a_withdrawn_port_cuts_what_came_through_it_both_ways() -> Result<()> {
    let mut lab = published()?;
    let question = asked(LAB_UPLINK, tcp(CLIENT, DOOR, SYN));
    lab.send(Hook::FromUplink, &question)?;
    lab.withdraw_port(key(None, 6))?;
    assert_eq!(lab.send(Hook::FromUplink, &question)?, Fate::Left);
    let answer = Packet::of_slot(1, PEER, tcp(INSIDE, CLIENT, ACK));
    let fate = lab.send(MARKED, &answer)?;
    assert_eq!(fate, Fate::Dropped(DropReason::PortWithdrawn));
    // A connection of its own that begins with the same ports is another.
    let own = Packet::of_slot(1, PEER, tcp(INSIDE, CLIENT, SYN));
    assert!(matches!(lab.send(MARKED, &own)?, Fate::Redirected { .. }));
    Ok(())
}

#[test]
fn a_client_that_cannot_be_told_from_itself_is_refused() -> Result<()> {
    let mut lab = published()?;
    lab.send(Hook::FromUplink, &asked(LAB_UPLINK, udp(CLIENT, DOOR)))?;
    let again = asked(OTHER, udp(CLIENT, DOOR));
    let fate = lab.send(Hook::FromUplink, &again)?;
    assert_eq!(fate, Fate::Dropped(DropReason::AmbiguousClient));
    // When the first way is gone, the second is free.
    lab.change_flows(|key, flow| (key.local != Address::from(LAB_UPLINK)).then_some(flow))?;
    let fate = lab.send(Hook::FromUplink, &again)?;
    assert_eq!(fate, delivered(&again, udp(CLIENT, INSIDE)));
    Ok(())
}

#[test]
fn a_client_may_use_the_port_of_a_closed_connection_again() -> Result<()> {
    const FIN: u8 = 0x01;
    let mut lab = published()?;
    for flags in [SYN, FIN | ACK] {
        lab.send(
            Hook::FromUplink,
            &asked(LAB_UPLINK, tcp(CLIENT, DOOR, flags)),
        )?;
    }
    let again = asked(OTHER, tcp(CLIENT, DOOR, SYN));
    let fate = lab.send(Hook::FromUplink, &again)?;
    assert_eq!(fate, delivered(&again, tcp(CLIENT, INSIDE, SYN)));
    let answer = Packet::of_slot(1, PEER, tcp(INSIDE, CLIENT, SYN | ACK));
    let fate = lab.send(MARKED, &answer)?;
    assert_eq!(fate, answered(&answer, OTHER, tcp(DOOR, CLIENT, SYN | ACK)));
    Ok(())
}

#[test]
fn errors_about_a_connection_from_outside_go_both_ways() -> Result<()> {
    const UNREACHABLE: u8 = 3;
    let mut lab = published()?;
    let question = asked(LAB_UPLINK, udp(CLIENT, DOOR));
    lab.send(Hook::FromUplink, &question)?;
    let got = asked(Packet::address_of(1), udp(CLIENT, INSIDE));
    let answer = Packet::of_slot(1, PEER, udp(INSIDE, CLIENT));
    let sent = Packet {
        source: LAB_UPLINK,
        content: udp(DOOR, CLIENT),
        ..answer.clone()
    };
    for length in [28, 200] {
        // The slot says that nobody listens.
        let refusal = answer.error(UNREACHABLE, &got, length);
        let fate = lab.send_bytes(MARKED, &refusal)?;
        let outside = Packet {
            ttl: answer.ttl - 1,
            ..sent.clone()
        };
        let bytes = outside.error(UNREACHABLE, &question, length);
        assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
        // A router says that the answer did not get through.
        let router = |to| Packet::arriving(UPLINK_MAC, [203, 0, 113, 77], to, udp(0, 0));
        let lost = router(LAB_UPLINK).error(UNREACHABLE, &sent, length);
        let fate = lab.send_bytes(Hook::FromUplink, &lost)?;
        let bytes = router(Packet::address_of(1)).error(UNREACHABLE, &answer, length);
        assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
    }
    Ok(())
}

#[test]
fn fragments_follow_the_first_through_the_port() -> Result<()> {
    let mut lab = published()?;
    let part = |packet: &Packet, fragment| Packet {
        fragment,
        ..packet.clone()
    };
    let question = part(&asked(LAB_UPLINK, udp(CLIENT, DOOR)), FIRST);
    let fate = lab.send(Hook::FromUplink, &question)?;
    assert_eq!(fate, delivered(&question, udp(CLIENT, INSIDE)));
    let rest = Content::Other { protocol: 17 };
    let last = part(&asked(LAB_UPLINK, rest), LAST);
    let fate = lab.send(Hook::FromUplink, &last)?;
    assert_eq!(fate, delivered(&last, rest));
    Ok(())
}

/// Slot 2 asks for the port at the host's address; the port that stands for it.
fn turned_around(lab: &mut Lab, content: Content) -> Result<(Packet, u16)> {
    let Content::Tcp { from, flags, .. } = content else {
        bail!("{content:?} is not TCP");
    };
    let sent = Packet::of_slot(2, LAB_UPLINK.octets(), content);
    let fate = lab.send(MARKED, &sent)?;
    let Fate::Redirected { bytes, mark: 1 } = fate else {
        bail!("{fate:?}");
    };
    let port = lab
        .flows(flow_kind::INGRESS)?
        .into_values()
        .find_map(|(key, flow)| (flow.slot == 2).then_some(key.local_port));
    let Some(port) = port else {
        bail!("{from} has no port");
    };
    let seen = Packet {
        source: LAB_UPLINK,
        content: tcp(port, DOOR, flags),
        ..sent
    };
    assert_eq!(bytes, seen.bytes());
    Ok((seen, port))
}

#[test]
fn a_slot_goes_out_of_the_door_and_back_in() -> Result<()> {
    let mut lab = published()?;
    let (seen, port) = turned_around(&mut lab, tcp(1000, DOOR, SYN))?;
    assert!(LAB_PORTS.contains(&port));
    let fate = lab.send(Hook::FromHost { mark: 1 }, &seen)?;
    let inside = Packet {
        source_mac: GATEWAY_MAC,
        destination_mac: pcpm_ebpf::abi::slot_mac(1),
        destination: Packet::address_of(1),
        content: tcp(port, INSIDE, SYN),
        ..seen
    };
    let bytes = inside.bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
    // The answer does the same.
    let answer = Packet::of_slot(1, LAB_UPLINK.octets(), tcp(INSIDE, port, SYN | ACK));
    let fate = lab.send(MARKED, &answer)?;
    let seen = Packet {
        source: LAB_UPLINK,
        content: tcp(DOOR, port, SYN | ACK),
        ..answer
    };
    let bytes = seen.bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: 1 });
    let fate = lab.send(Hook::FromHost { mark: 1 }, &seen)?;
    let inside = Packet {
        source_mac: GATEWAY_MAC,
        destination_mac: pcpm_ebpf::abi::slot_mac(2),
        destination: Packet::address_of(2),
        content: tcp(DOOR, 1000, SYN | ACK),
        ..seen
    };
    let bytes = inside.bytes();
    assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
    Ok(())
}

#[test]
fn what_comes_back_into_another_hub_is_sent_on_for_its_receiver() -> Result<()> {
    let mut lab = published()?;
    let (seen, port) = turned_around(&mut lab, tcp(1000, DOOR, SYN))?;
    let fate = lab.send(Hook::FromHost { mark: 2 }, &seen)?;
    let expected = delivered(&seen, tcp(port, INSIDE, SYN));
    assert_eq!(fate, expected);
    Ok(())
}

#[test]
fn there_is_no_way_around_the_door() -> Result<()> {
    let mut lab = published()?;
    for content in [
        tcp(1000, DOOR + 1, SYN),
        tcp(1000, DOOR, ACK),
        udp(1000, 53),
    ] {
        let packet = Packet::of_slot(2, LAB_UPLINK.octets(), content);
        let fate = lab.send(MARKED, &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed), "{content:?}");
    }
    let gateway = Packet::of_slot(2, [169, 254, 1, 1], tcp(1000, DOOR, SYN));
    let fate = lab.send(MARKED, &gateway)?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    assert!(lab.all_flows()?.is_empty());
    Ok(())
}
