//! Datagrams in fragments, to and from the world and the host.

use std::net::UdpSocket;

use anyhow::{Context, Result, bail};
use pcpm_ebpf::abi::AttachmentWord;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_tests::{HOST_ADDRESS, INTERNET_ADDRESS, PATIENCE, Place};

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, Lab};
use crate::network::{FAR, NEAR, Network};
use crate::packet::{Content, Packet, extension};
use crate::world::{EPOCH, MARKED, UDP, answer_to, lab, to_slot, to_world, translate};

const FIRST: u16 = 0x2000;
const MIDDLE: u16 = 0x2010;
const LAST: u16 = 0x0020;
/// Without ports: bytes of UDP.
const REST: Content = Content::Other { protocol: 17 };

fn part(packet: &Packet, fragment: u16) -> Packet {
    let content = if fragment == FIRST {
        packet.content
    } else {
        REST
    };
    Packet {
        fragment,
        content,
        ..packet.clone()
    }
}

/// Sends the first fragment of a datagram of slot 1, and of an answer to it.
fn begun(lab: &mut Lab, net: &Net) -> Result<(Packet, Packet)> {
    let sent = Packet::of_slot(1, net.peer, UDP);
    let port = translate(lab, net, 1, &part(&sent, FIRST))?;
    let answer = answer_to(net, UDP, port);
    let fate = lab.send(Hook::FromUplink, &part(&answer, FIRST))?;
    if !matches!(fate, Fate::Redirected { .. }) {
        bail!("{fate:?}");
    }
    Ok((sent, answer))
}

#[test]
fn later_fragments_follow_the_first() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let (sent, answer) = begun(&mut lab, net)?;
        for fragment in [MIDDLE, MIDDLE, LAST] {
            let sent = part(&sent, fragment);
            let fate = lab.send(MARKED, &sent)?;
            let expected = Packet {
                source: net.uplink,
                ttl: sent.ttl - 1,
                ..sent
            };
            assert_eq!(fate, to_world(&expected), "{fragment:x}");
            let answer = part(&answer, fragment);
            let fate = lab.send(Hook::FromUplink, &answer)?;
            let expected = Packet {
                destination: net.slot(1),
                ..answer
            };
            assert_eq!(fate, to_slot(&expected), "{fragment:x}");
        }
        Ok(())
    })
}

/// Headers before the fragment header are in every part, those behind it in the first.
#[test]
fn fragments_are_known_behind_extension_headers() -> Result<()> {
    let mut lab = lab()?;
    let sent = Packet {
        extensions: &[extension::HOP_BY_HOP, extension::ROUTING],
        ..Packet::of_slot(1, V6.peer, UDP)
    };
    translate(&mut lab, &V6, 1, &part(&sent, FIRST))?;
    let last = part(&sent, LAST);
    let fate = lab.send(MARKED, &last)?;
    let expected = Packet {
        source: V6.uplink,
        ttl: last.ttl - 1,
        ..last
    };
    assert_eq!(fate, to_world(&expected));
    Ok(())
}

#[test]
fn fragments_that_come_before_the_first_or_after_the_last_go_nowhere() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let early = part(&Packet::of_slot(1, net.peer, UDP), MIDDLE);
        let fate = lab.send(MARKED, &early)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Fragment));
        let (sent, answer) = begun(&mut lab, net)?;
        for fragment in [LAST, MIDDLE] {
            let ends = fragment == LAST;
            let fate = lab.send(MARKED, &part(&sent, fragment))?;
            assert_eq!(fate != Fate::Dropped(DropReason::Fragment), ends);
            let fate = lab.send(Hook::FromUplink, &part(&answer, fragment))?;
            assert_eq!(fate != Fate::Left, ends);
        }
        Ok(())
    })
}

#[test]
fn fragments_of_another_datagram_do_not_follow() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let (sent, answer) = begun(&mut lab, net)?;
        let elsewhere = Packet {
            destination: net.stranger,
            ..part(&sent, MIDDLE)
        };
        let of_another_slot = part(&Packet::of_slot(2, net.peer, UDP), MIDDLE);
        for packet in [elsewhere, of_another_slot] {
            let fate = lab.send(MARKED, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::Fragment), "{packet:?}");
        }
        let of_another_peer = Packet {
            source: net.stranger,
            ..part(&answer, MIDDLE)
        };
        let fate = lab.send(Hook::FromUplink, &of_another_peer)?;
        assert_eq!(fate, Fate::Left);
        Ok(())
    })
}

/// The identification of IPv4 is one of a protocol, that of IPv6 is not: a later part may begin with
/// another header than the first (RFC 8200, section 4.5).
#[test]
fn the_protocol_tells_datagrams_of_ipv4_apart() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let (sent, _) = begun(&mut lab, net)?;
        let of_another_protocol = Packet {
            content: Content::Other { protocol: 6 },
            ..part(&sent, MIDDLE)
        };
        let fate = lab.send(MARKED, &of_another_protocol)?;
        let is_dropped = fate == Fate::Dropped(DropReason::Fragment);
        assert_eq!(is_dropped, net.peer.is_ipv4(), "{fate:?}");
        Ok(())
    })
}

#[test]
fn the_next_holder_of_a_slot_gets_no_rest_of_a_datagram() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let (sent, answer) = begun(&mut lab, net)?;
        lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
        let next = Hook::FromHub { mark: EPOCH + 1 };
        let fate = lab.send(next, &part(&sent, MIDDLE))?;
        assert_eq!(fate, Fate::Dropped(DropReason::Fragment));
        let fate = lab.send(Hook::FromUplink, &part(&answer, MIDDLE))?;
        assert_eq!(fate, Fate::Left);
        Ok(())
    })
}

/// A datagram to the host has the identification of one to a slot that was never finished.
#[test]
fn a_first_fragment_for_the_host_takes_its_others_along() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let (_, answer) = begun(&mut lab, net)?;
        let for_host = Packet {
            content: Content::Udp { from: 53, to: 999 },
            ..answer
        };
        for fragment in [FIRST, MIDDLE] {
            let fate = lab.send(Hook::FromUplink, &part(&for_host, fragment))?;
            assert_eq!(fate, Fate::Left, "{fragment:x}");
        }
        Ok(())
    })
}

#[test]
fn what_may_not_go_to_the_host_may_not_in_fragments() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.gateway, UDP);
        for (fragment, reason) in [
            (FIRST, DropReason::HostClosed),
            (MIDDLE, DropReason::Fragment),
        ] {
            let fate = lab.send(MARKED, &part(&packet, fragment))?;
            assert_eq!(fate, Fate::Dropped(reason));
        }
        Ok(())
    })
}

fn pings_with(from: &Place, to: &str, bytes: usize) -> Result<()> {
    let ping = format!("ping -n -c2 -i0.1 -W3 -s{bytes} {to}");
    from.tool(&ping).run().map(drop)
}

#[test]
fn large_pings_pass_on_every_way() -> Result<()> {
    let network = Network::new()?;
    let address = |slot| Packet::address_of(slot).to_string();
    for slot in [NEAR, FAR] {
        let place = network.slot(slot);
        pings_with(&place, INTERNET_ADDRESS, 3000)?;
        pings_with(&place, INTERNET_ADDRESS, 60_000)?;
        pings_with(&place, "169.254.1.1", 3000)?;
        pings_with(network.world.host(), &address(slot), 3000)?;
    }
    pings_with(&network.slot(NEAR), &address(FAR), 3000)
}

#[test]
fn large_datagrams_are_asked_and_answered_through_the_world() -> Result<()> {
    let network = Network::new()?;
    let internet = network.world.internet();
    let server = internet.within(|| Ok(UdpSocket::bind((INTERNET_ADDRESS, 53))?))?;
    for slot in [NEAR, FAR] {
        let place = network.slot(slot);
        let client = place.within(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        let question: Vec<u8> = (0..8192_u32).map(|i| i.to_be_bytes()[3]).collect();
        let answer: Vec<u8> = question.iter().rev().copied().collect();
        let mut buffer = [0; 9000];
        for _ in 0..20 {
            client.send_to(&question, (INTERNET_ADDRESS, 53))?;
            let (length, from) = server.recv_from(&mut buffer).context("the question")?;
            assert!(buffer[..length] == question, "another question");
            assert_eq!(from.ip().to_string(), HOST_ADDRESS);
            server.send_to(&answer, from)?;
            let length = client.recv(&mut buffer).context("the answer")?;
            assert!(buffer[..length] == answer, "another answer");
        }
    }
    Ok(())
}
