//! Published ports: what comes in, what goes back, and the way from slot to slot through the door.

use std::net::IpAddr;

use anyhow::{Result, bail};
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, PortKey, PortTarget, flow_kind, slot_mac};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, LAB_PORTS, Lab, OTHER, UPLINK_MAC, uplink_with};
use crate::packet::{Content, Packet, extension};
use crate::world::{ACK, EPOCH, FIN, MARKED, RST, SYN, lab, to_slot, to_world};

const DOOR: u16 = 8080;
const INSIDE: u16 = 80;
const CLIENT: u16 = 40_000;
const FIRST: u16 = 0x2000;
const LAST: u16 = 0x0020;

fn key(address: Option<IpAddr>, protocol: u8) -> PortKey {
    let address = address.map_or(Address::ANY, Address::from);
    PortKey::on(address, DOOR, protocol)
}

/// Port 80 of slot 1 is port 8080 of the host, by TCP and UDP.
fn published(net: &Net) -> Result<Lab> {
    let mut lab = lab()?;
    for address in [net.uplink, net.second] {
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
fn asked(net: &Net, host: IpAddr, content: Content) -> Packet {
    Packet::arriving(UPLINK_MAC, net.peer, host, content)
}

/// `packet` as it gets to slot 1, in its epoch.
fn delivered(net: &Net, packet: &Packet, content: Content) -> Fate {
    to_slot(&Packet {
        destination: net.slot(1),
        content,
        ..packet.clone()
    })
}

/// `packet` of slot 1 as the world gets it from `host`.
fn answered(packet: &Packet, host: IpAddr, content: Content) -> Fate {
    to_world(&Packet {
        source: host,
        ttl: packet.ttl - 1,
        content,
        ..packet.clone()
    })
}

#[test]
fn what_comes_to_a_port_goes_to_the_slot_and_back_from_where_it_was_asked() -> Result<()> {
    let syn = |from, to| tcp(from, to, SYN);
    in_both(|net| {
        let mut lab = published(net)?;
        for (host, client) in [(net.uplink, 1000), (net.second, 2000)] {
            for content in [syn, udp, unchecked] {
                let question = asked(net, host, content(client, DOOR));
                let fate = lab.send(Hook::FromUplink, &question)?;
                assert_eq!(fate, delivered(net, &question, content(client, INSIDE)));
                let answer = Packet::of_slot(1, net.peer, content(INSIDE, client));
                let fate = lab.send(MARKED, &answer)?;
                assert_eq!(fate, answered(&answer, host, content(DOOR, client)));
            }
        }
        Ok(())
    })
}

#[test]
fn answers_take_the_way_of_the_address_that_was_asked() -> Result<()> {
    /// Rules of the host for the second uplink's address, and where they lead.
    fn rules(net: &Net) -> String {
        let (address, router) = (net.elsewhere, net.neighbour);
        format!(
            "link set other mtu 1300\n\
             route add default via {router} dev other table 100\n\
             rule add from {address} lookup 100\n"
        )
    }
    in_both(|net| {
        let mut lab = published(net)?;
        lab.add_host_address(net.elsewhere.into())?;
        lab.set_uplink(OTHER, &uplink_with(net, Some(net.elsewhere)))?;
        let question = asked(net, net.elsewhere, udp(CLIENT, DOOR));
        lab.send(Hook::FromUplink, &question)?;
        let answer = Packet::of_slot(1, net.peer, udp(INSIDE, CLIENT));
        let mut large = answer.bytes();
        large.resize(1400, 0);
        let fate = lab.send_bytes(MARKED, &large)?;
        assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
        lab.ip(net.family, &rules(net))?;
        let fate = lab.send(MARKED, &answer)?;
        assert_eq!(fate, answered(&answer, net.elsewhere, udp(DOOR, CLIENT)));
        let fate = lab.send_bytes(MARKED, &large)?;
        assert_eq!(fate, Fate::Dropped(DropReason::AnswerTooBig));
        lab.remove_uplink(OTHER)?;
        let fate = lab.send(MARKED, &answer)?;
        assert_eq!(fate, Fate::Dropped(DropReason::NotUplink));
        Ok(())
    })
}

#[test]
fn a_port_is_reached_behind_extension_headers() -> Result<()> {
    let mut lab = published(&V6)?;
    let question = Packet {
        extensions: &[extension::HOP_BY_HOP, extension::DESTINATION_OPTIONS],
        ..asked(&V6, V6.uplink, udp(CLIENT, DOOR))
    };
    let fate = lab.send(Hook::FromUplink, &question)?;
    assert_eq!(fate, delivered(&V6, &question, udp(CLIENT, INSIDE)));
    let hidden = Packet {
        extensions: &[extension::AUTHENTICATION],
        ..question
    };
    assert_eq!(lab.send(Hook::FromUplink, &hidden)?, Fate::Left);
    Ok(())
}

#[test]
fn only_a_syn_opens_a_tcp_connection_and_many_segments_are_one_packet() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        for flags in [ACK, SYN | ACK, RST] {
            let stray = asked(net, net.uplink, tcp(CLIENT, DOOR, flags));
            assert_eq!(lab.send(Hook::FromUplink, &stray)?, Fate::Left);
        }
        assert!(lab.all_flows()?.is_empty());
        let opening = asked(net, net.uplink, tcp(CLIENT, DOOR, SYN));
        lab.send(Hook::FromUplink, &opening)?;
        let data = asked(net, net.uplink, tcp(CLIENT, DOOR, ACK));
        let fate = lab.send_segments(Hook::FromUplink, &data, 40)?;
        assert_eq!(fate, delivered(net, &data, tcp(CLIENT, INSIDE, ACK)));
        Ok(())
    })
}

#[test]
fn a_port_of_one_address_counts_before_one_of_all() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let exact = PortTarget {
            slot: 2,
            epoch: EPOCH,
            port: 81,
            padding: [0; 6],
        };
        lab.publish_port(key(Some(net.second), 17), exact)?;
        let question = asked(net, net.second, udp(CLIENT, DOOR));
        let fate = lab.send(Hook::FromUplink, &question)?;
        let inside = Packet {
            destination: net.slot(2),
            content: udp(CLIENT, 81),
            ..question
        };
        assert_eq!(fate, to_slot(&inside));
        let elsewhere = asked(net, net.uplink, udp(CLIENT, DOOR));
        let fate = lab.send(Hook::FromUplink, &elsewhere)?;
        assert_eq!(fate, delivered(net, &elsewhere, udp(CLIENT, INSIDE)));
        Ok(())
    })
}

#[test]
fn what_is_not_published_stays_the_hosts() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let question = asked(net, net.uplink, udp(CLIENT, DOOR));
        for packet in [
            asked(net, net.uplink, udp(CLIENT, DOOR + 1)),
            asked(net, net.nobody, udp(CLIENT, DOOR)),
            // It claims to come from the host itself.
            Packet {
                source: net.second,
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
    })
}

#[test]
fn a_withdrawn_port_cuts_what_came_through_it_both_ways() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let question = asked(net, net.uplink, tcp(CLIENT, DOOR, SYN));
        lab.send(Hook::FromUplink, &question)?;
        lab.withdraw_port(key(None, 6))?;
        assert_eq!(lab.send(Hook::FromUplink, &question)?, Fate::Left);
        let answer = Packet::of_slot(1, net.peer, tcp(INSIDE, CLIENT, ACK));
        let fate = lab.send(MARKED, &answer)?;
        assert_eq!(fate, Fate::Dropped(DropReason::PortWithdrawn));
        // A connection of its own that begins with the same ports is another.
        let own = Packet::of_slot(1, net.peer, tcp(INSIDE, CLIENT, SYN));
        assert!(matches!(lab.send(MARKED, &own)?, Fate::Redirected { .. }));
        Ok(())
    })
}

#[test]
fn a_client_that_cannot_be_told_from_itself_is_refused() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let first = asked(net, net.uplink, udp(CLIENT, DOOR));
        lab.send(Hook::FromUplink, &first)?;
        let again = asked(net, net.second, udp(CLIENT, DOOR));
        let fate = lab.send(Hook::FromUplink, &again)?;
        assert_eq!(fate, Fate::Dropped(DropReason::AmbiguousClient));
        // When the first way is gone, the second is free.
        lab.change_flows(|key, flow| (key.local != Address::from(net.uplink)).then_some(flow))?;
        let fate = lab.send(Hook::FromUplink, &again)?;
        assert_eq!(fate, delivered(net, &again, udp(CLIENT, INSIDE)));
        Ok(())
    })
}

#[test]
fn a_client_may_use_the_port_of_a_closed_connection_again() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        for flags in [SYN, FIN | ACK] {
            let segment = asked(net, net.uplink, tcp(CLIENT, DOOR, flags));
            lab.send(Hook::FromUplink, &segment)?;
        }
        let again = asked(net, net.second, tcp(CLIENT, DOOR, SYN));
        let fate = lab.send(Hook::FromUplink, &again)?;
        assert_eq!(fate, delivered(net, &again, tcp(CLIENT, INSIDE, SYN)));
        let answer = Packet::of_slot(1, net.peer, tcp(INSIDE, CLIENT, SYN | ACK));
        let fate = lab.send(MARKED, &answer)?;
        let expected = tcp(DOOR, CLIENT, SYN | ACK);
        assert_eq!(fate, answered(&answer, net.second, expected));
        Ok(())
    })
}

#[test]
fn errors_about_a_connection_from_outside_go_both_ways() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let [unreachable, ..] = net.errors;
        let question = asked(net, net.uplink, udp(CLIENT, DOOR));
        lab.send(Hook::FromUplink, &question)?;
        let got = asked(net, net.slot(1), udp(CLIENT, INSIDE));
        let answer = Packet::of_slot(1, net.peer, udp(INSIDE, CLIENT));
        let sent = Packet {
            source: net.uplink,
            content: udp(DOOR, CLIENT),
            ..answer.clone()
        };
        for length in [net.least_quote, 200] {
            // The slot says that nobody listens.
            let refusal = answer.error(unreachable, &got, length);
            let fate = lab.send_bytes(MARKED, &refusal)?;
            let outside = Packet {
                ttl: answer.ttl - 1,
                ..sent.clone()
            };
            let bytes = outside.error(unreachable, &question, length);
            assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
            // A router says that the answer did not get through.
            let router = |to| Packet::arriving(UPLINK_MAC, net.router, to, udp(0, 0));
            let lost = router(net.uplink).error(unreachable, &sent, length);
            let fate = lab.send_bytes(Hook::FromUplink, &lost)?;
            let bytes = router(net.slot(1)).error(unreachable, &answer, length);
            assert_eq!(fate, Fate::Redirected { bytes, mark: EPOCH });
        }
        Ok(())
    })
}

#[test]
fn fragments_follow_the_first_through_the_port() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let part = |packet: &Packet, fragment| Packet {
            fragment,
            ..packet.clone()
        };
        let question = part(&asked(net, net.uplink, udp(CLIENT, DOOR)), FIRST);
        let fate = lab.send(Hook::FromUplink, &question)?;
        assert_eq!(fate, delivered(net, &question, udp(CLIENT, INSIDE)));
        let rest = Content::Other { protocol: 17 };
        let last = part(&asked(net, net.uplink, rest), LAST);
        let fate = lab.send(Hook::FromUplink, &last)?;
        assert_eq!(fate, delivered(net, &last, rest));
        Ok(())
    })
}

/// Slot 2 asks for the port at the host's address; the packet as the door sees it, and the port that
/// stands for the slot's.
fn turned_around(lab: &mut Lab, net: &Net) -> Result<(Packet, u16)> {
    let sent = Packet::of_slot(2, net.uplink, tcp(1000, DOOR, SYN));
    let fate = lab.send(MARKED, &sent)?;
    let Fate::Redirected { bytes, mark: 1 } = fate else {
        bail!("{fate:?}");
    };
    let port = lab
        .flows(flow_kind::INGRESS)?
        .into_values()
        .find_map(|(key, flow)| (flow.slot == 2).then_some(key.local_port));
    let Some(port) = port else {
        bail!("the connection has no port");
    };
    let seen = Packet {
        source: net.uplink,
        content: tcp(port, DOOR, SYN),
        ..sent
    };
    assert_eq!(bytes, seen.bytes());
    Ok((seen, port))
}

#[test]
fn a_slot_goes_out_of_the_door_and_back_in() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let (seen, port) = turned_around(&mut lab, net)?;
        assert!(LAB_PORTS.contains(&port));
        let fate = lab.send(Hook::FromHost { mark: 1 }, &seen)?;
        let inside = Packet {
            source_mac: GATEWAY_MAC,
            destination_mac: slot_mac(1),
            destination: net.slot(1),
            content: tcp(port, INSIDE, SYN),
            ..seen
        };
        let bytes = inside.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
        // The answer does the same.
        let answer = Packet::of_slot(1, net.uplink, tcp(INSIDE, port, SYN | ACK));
        let fate = lab.send(MARKED, &answer)?;
        let seen = Packet {
            source: net.uplink,
            content: tcp(DOOR, port, SYN | ACK),
            ..answer
        };
        let bytes = seen.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 1 });
        let fate = lab.send(Hook::FromHost { mark: 1 }, &seen)?;
        let inside = Packet {
            source_mac: GATEWAY_MAC,
            destination_mac: slot_mac(2),
            destination: net.slot(2),
            content: tcp(DOOR, 1000, SYN | ACK),
            ..seen
        };
        let bytes = inside.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
        Ok(())
    })
}

#[test]
fn what_comes_back_into_another_hub_is_sent_on_for_its_receiver() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        let (seen, port) = turned_around(&mut lab, net)?;
        let fate = lab.send(Hook::FromHost { mark: 2 }, &seen)?;
        let expected = delivered(net, &seen, tcp(port, INSIDE, SYN));
        assert_eq!(fate, expected);
        Ok(())
    })
}

#[test]
fn there_is_no_way_around_the_door() -> Result<()> {
    in_both(|net| {
        let mut lab = published(net)?;
        for (address, content) in [
            (net.uplink, tcp(1000, DOOR + 1, SYN)),
            (net.uplink, tcp(1000, DOOR, ACK)),
            (net.uplink, udp(1000, 53)),
            (net.gateway, tcp(1000, DOOR, SYN)),
        ] {
            let packet = Packet::of_slot(2, address, content);
            let fate = lab.send(MARKED, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::HostClosed), "{packet:?}");
        }
        assert!(lab.all_flows()?.is_empty());
        Ok(())
    })
}
