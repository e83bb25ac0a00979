//! Slots whose packets the host's own stack sends: they go into it with the slot's address and a port of
//! ours, and what comes back out of it passes as part of a connection that the present holder opened.

use std::net::IpAddr;

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, PortKey, PortTarget, slot_mac};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, LAB_PORTS, Lab, OTHER, UPLINK_MAC};
use crate::packet::{Content, Packet};
use crate::world::{
    self, ACK, CONTENTS, EPOCH, MARKED, SYN, UDP, answered, shown_as, tcp, translated_port,
};

/// Out of the host's stack, into the hub.
const OUT_OF_STACK: Hook = Hook::FromHost { mark: 0 };

fn lab() -> Result<Lab> {
    let mut lab = world::lab()?;
    lab.configure(|config| config.host_forwards = 1)?;
    Ok(lab)
}

/// Sends what slot 1 sends into the host's stack, and says which port stands for its own.
fn hand_over(lab: &mut Lab, packet: &Packet) -> Result<u16> {
    let (fate, bytes) = lab.send_and_see(MARKED, &packet.bytes())?;
    assert_eq!(fate, Fate::Passed, "{packet:?}");
    let port = translated_port(lab, 1, packet.content)?;
    assert!(LAB_PORTS.contains(&port), "{port}");
    assert_eq!(bytes, seen(packet, port).bytes(), "{packet:?}");
    Ok(port)
}

/// `packet` as the host's stack sees it.
fn seen(packet: &Packet, port: u16) -> Packet {
    Packet {
        content: shown_as(packet.content, port),
        ..packet.clone()
    }
}

/// What the host forwards to slot 1 from `source`.
fn forwarded(net: &Net, source: IpAddr, content: Content) -> Packet {
    Packet::arriving(GATEWAY_MAC, source, net.slot(1), content)
}

fn delivered(mut packet: Packet, content: Content) -> Fate {
    packet.content = content;
    to_slot_1(&packet.bytes())
}

/// The frame with the hardware addresses of slot 1's link.
fn to_slot_1(frame: &[u8]) -> Fate {
    let addresses = [slot_mac(1), GATEWAY_MAC].concat();
    Fate::Redirected {
        bytes: [&addresses, &frame[12..]].concat(),
        mark: 0,
    }
}

#[test]
fn packets_go_into_the_hosts_stack_and_answers_come_out_of_it() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for content in CONTENTS {
            let packet = Packet::of_slot(1, net.peer, content);
            let port = hand_over(&mut lab, &packet)?;
            assert_eq!(hand_over(&mut lab, &packet)?, port);
            let answer = forwarded(net, net.peer, answered(content, port));
            let from_elsewhere = Hook::ToHub { ingress: OTHER };
            assert_eq!(lab.send(from_elsewhere, &answer)?, Fate::Left);
            let fate = lab.send(OUT_OF_STACK, &answer)?;
            let expected = answered(content, world::own_port(content));
            assert_eq!(fate, delivered(answer, expected));
        }
        Ok(())
    })
}

#[test]
fn routed_packets_keep_their_ports() -> Result<()> {
    let mut lab = lab()?;
    lab.configure(|config| config.ipv6_is_routed = 1)?;
    let packet = Packet::of_slot(1, V6.peer, UDP);
    let (fate, bytes) = lab.send_and_see(MARKED, &packet.bytes())?;
    assert_eq!((fate, bytes), (Fate::Passed, packet.bytes()));
    let answer = forwarded(&V6, V6.peer, answered(UDP, 1000));
    assert_eq!(
        lab.send(
            Hook::FromUplink,
            &Packet {
                destination_mac: UPLINK_MAC,
                ..answer.clone()
            }
        )?,
        Fate::Left
    );
    let fate = lab.send(OUT_OF_STACK, &answer)?;
    assert_eq!(fate, delivered(answer, answered(UDP, 1000)));
    Ok(())
}

#[test]
fn nothing_but_answers_is_forwarded_to_a_slot() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = hand_over(&mut lab, &Packet::of_slot(1, net.peer, UDP))?;
        let to = |to| Content::Udp { from: 53, to };
        for (source, content) in [
            (net.stranger, to(port)),
            (net.peer, to(1000)),
            (net.peer, Content::Udp { from: 54, to: port }),
            (net.peer, answered(tcp(SYN), port)),
            (net.peer, tcp(SYN)),
            (net.peer, Content::Echo { identifier: port }),
            (net.peer, Content::Other { protocol: 132 }),
        ] {
            let fate = lab.send(OUT_OF_STACK, &forwarded(net, source, content))?;
            let dropped = Fate::Dropped(DropReason::ForwardedToSlot);
            assert_eq!(fate, dropped, "{source} {content:?}");
        }
        // What the host forwards in its own name is not its own.
        for source in [net.gateway, net.uplink] {
            let packet = forwarded(net, source, to(port));
            let fate = lab.send(Hook::ToHub { ingress: OTHER }, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::ForwardedToSlot));
            let fate = lab.send(Hook::ToHub { ingress: 0 }, &packet)?;
            assert_eq!(fate, Fate::Left);
            let fate = lab.send(OUT_OF_STACK, &packet)?;
            assert_eq!(fate, delivered(packet, to(port)));
        }
        Ok(())
    })
}

#[test]
fn an_answer_to_an_earlier_holder_is_dropped() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = hand_over(&mut lab, &Packet::of_slot(1, net.peer, UDP))?;
        let answer = forwarded(net, net.peer, answered(UDP, port));
        for (word, reason) in [
            (
                AttachmentWord::detached(EPOCH),
                DropReason::DestinationDetached,
            ),
            (
                AttachmentWord::attached(EPOCH + 1, 1),
                DropReason::ForwardedToSlot,
            ),
        ] {
            lab.publish(1, word)?;
            let fate = lab.send(OUT_OF_STACK, &answer)?;
            assert_eq!(fate, Fate::Dropped(reason), "{word:?}");
        }
        Ok(())
    })
}

#[test]
fn errors_name_the_port_that_the_slot_knows() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for content in [UDP, tcp(SYN), Content::Echo { identifier: 77 }] {
            let packet = Packet::of_slot(1, net.peer, content);
            let port = hand_over(&mut lab, &packet)?;
            // The host's own, and a router's.
            for source in [net.gateway, net.router] {
                let error = forwarded(net, source, UDP);
                for kind in net.errors {
                    let arriving = error.error(kind, &seen(&packet, port), 200);
                    let fate = lab.send_bytes(OUT_OF_STACK, &arriving)?;
                    let expected = error.error(kind, &packet, 200);
                    assert_eq!(fate, to_slot_1(&expected), "{source} {content:?}");
                }
            }
            let of_nothing = Packet {
                destination: net.stranger,
                ..packet
            };
            let error = forwarded(net, net.router, UDP).error(net.errors[0], &of_nothing, 200);
            let fate = lab.send_bytes(OUT_OF_STACK, &error)?;
            assert_eq!(fate, Fate::Dropped(DropReason::ForwardedToSlot));
        }
        Ok(())
    })
}

#[test]
fn later_fragments_follow_the_first_into_the_stack_and_out_of_it() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let fragments = [0x2000, 0x2003, 0x0006];
        let of = |packet: &Packet, fragment| Packet {
            fragment,
            ..packet.clone()
        };
        let packet = Packet::of_slot(1, net.peer, UDP);
        let first = of(&packet, fragments[0]);
        let port = hand_over(&mut lab, &first)?;
        for later in &fragments[1..] {
            let later = of(&packet, *later);
            let (fate, bytes) = lab.send_and_see(MARKED, &later.bytes())?;
            assert_eq!((fate, bytes), (Fate::Passed, later.bytes()));
        }
        let answer = forwarded(net, net.peer, answered(UDP, port));
        let fate = lab.send(OUT_OF_STACK, &of(&answer, fragments[0]))?;
        let expected = answered(UDP, world::own_port(UDP));
        assert_eq!(fate, delivered(of(&answer, fragments[0]), expected));
        for later in &fragments[1..] {
            let later = of(&answer, *later);
            let content = later.content;
            let fate = lab.send(OUT_OF_STACK, &later)?;
            assert_eq!(fate, delivered(later, content));
        }
        Ok(())
    })
}

#[test]
fn published_ports_are_still_led_by_the_programs() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        lab.add_host_address(net.uplink.into())?;
        let key = PortKey {
            port: 8080,
            protocol: 6,
            ..PortKey::default()
        };
        let target = PortTarget {
            slot: 1,
            epoch: EPOCH,
            port: 80,
            ..PortTarget::default()
        };
        lab.publish_port(key, target)?;
        let segment = |from, to, flags| Content::Tcp { from, to, flags };
        let question = Packet::arriving(UPLINK_MAC, net.peer, net.uplink, segment(5000, 8080, SYN));
        let fate = lab.send(Hook::FromUplink, &question)?;
        assert!(
            matches!(fate, Fate::Redirected { mark, .. } if mark == EPOCH),
            "{fate:?}"
        );
        let answer = Packet::of_slot(1, net.peer, segment(80, 5000, SYN | ACK));
        let expected = Packet {
            source: net.uplink,
            ttl: answer.ttl - 1,
            content: segment(8080, 5000, SYN | ACK),
            ..answer.clone()
        };
        assert_eq!(lab.send(MARKED, &answer)?, world::to_world(&expected));
        Ok(())
    })
}

#[test]
fn what_comes_to_the_uplink_is_the_stacks_but_for_the_pool() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = hand_over(&mut lab, &Packet::of_slot(1, net.peer, UDP))?;
        let content = answered(UDP, port);
        let arriving = |to| Packet::arriving(UPLINK_MAC, net.peer, to, content);
        let fate = lab.send(Hook::FromUplink, &arriving(net.uplink))?;
        assert_eq!(fate, Fate::Left);
        let fate = lab.send(Hook::FromUplink, &arriving(net.slot(1)))?;
        assert_eq!(fate, Fate::Dropped(DropReason::PoolFromUplink));
        Ok(())
    })
}
