//! IPv6 that is routed: packets leave as they are, answers come to the slots' own addresses, and
//! nothing else does.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, PortKey, PortTarget};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{V4, V6};
use crate::lab::{self, Fate, Hook, Lab, UPLINK_MAC, uplink_with};
use crate::packet::{Content, Packet};
use crate::world::{
    self, ACK, CONTENTS, EPOCH, MARKED, SYN, UDP, answer_to, restored, tcp, to_slot, to_world,
    translate,
};

fn lab() -> Result<Lab> {
    let mut lab = world::lab()?;
    lab.configure(|config| config.ipv6_is_routed = 1)?;
    // Its own address is of no use to slots.
    lab.set_uplink(lab::UPLINK, &uplink_with(&V6, None))?;
    Ok(lab)
}

/// What a peer answers to slot 1.
fn answer(content: Content) -> Packet {
    let of_slot_port = answer_to(&V6, content, 0);
    restored(&V6, &of_slot_port, 1, content)
}

/// A packet of slot 1 leaves as it is.
fn leaves(lab: &mut Lab, packet: &Packet) -> Result<()> {
    let fate = lab.send(MARKED, packet)?;
    let sent = Packet {
        ttl: packet.ttl - 1,
        ..packet.clone()
    };
    assert_eq!(fate, to_world(&sent), "{packet:?}");
    Ok(())
}

#[test]
fn packets_leave_as_they_are_and_answers_come_back() -> Result<()> {
    let mut lab = lab()?;
    for content in CONTENTS {
        for _ in 0..2 {
            leaves(&mut lab, &Packet::of_slot(1, V6.peer, content))?;
            let answer = answer(content);
            let fate = lab.send(Hook::FromUplink, &answer)?;
            assert_eq!(fate, to_slot(&answer));
        }
    }
    Ok(())
}

#[test]
fn nothing_but_answers_comes_to_a_slots_own_address() -> Result<()> {
    let mut lab = lab()?;
    leaves(&mut lab, &Packet::of_slot(1, V6.peer, UDP))?;
    let answer = answer(UDP);
    for uninvited in [
        Packet {
            source: V6.stranger,
            ..answer.clone()
        },
        Packet {
            destination: V6.slot(2),
            ..answer.clone()
        },
        Packet {
            content: Content::Udp { from: 54, to: 1000 },
            ..answer.clone()
        },
        Packet {
            content: Content::Tcp {
                from: 53,
                to: 1000,
                flags: SYN,
            },
            ..answer.clone()
        },
        Packet {
            content: Content::Echo { identifier: 77 },
            ..answer.clone()
        },
        Packet {
            content: Content::Other { protocol: 132 },
            ..answer.clone()
        },
    ] {
        let fate = lab.send(Hook::FromUplink, &uninvited)?;
        assert_eq!(
            fate,
            Fate::Dropped(DropReason::PoolFromUplink),
            "{uninvited:?}"
        );
    }
    Ok(())
}

#[test]
fn a_connection_ends_with_its_attachment() -> Result<()> {
    let mut lab = lab()?;
    leaves(&mut lab, &Packet::of_slot(1, V6.peer, UDP))?;
    lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
    let dropped = Fate::Dropped(DropReason::PoolFromUplink);
    assert_eq!(lab.send(Hook::FromUplink, &answer(UDP))?, dropped);
    // The next holder may use the same port for the same peer.
    let next = Hook::FromHub { mark: EPOCH + 1 };
    let fate = lab.send(next, &Packet::of_slot(1, V6.peer, UDP))?;
    assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
    let fate = lab.send(Hook::FromUplink, &answer(UDP))?;
    assert!(matches!(fate, Fate::Redirected { mark, .. } if mark == EPOCH + 1));
    Ok(())
}

#[test]
fn a_published_port_is_the_hosts_and_not_the_slots() -> Result<()> {
    let mut lab = lab()?;
    let key = PortKey {
        port: 80,
        protocol: 6,
        ..PortKey::default()
    };
    let target = PortTarget {
        slot: 2,
        epoch: EPOCH,
        port: 8080,
        ..PortTarget::default()
    };
    lab.publish_port(key, target)?;
    for port in [80, 8080] {
        let content = Content::Tcp {
            from: 5000,
            to: port,
            flags: SYN,
        };
        for slot in [1, 2] {
            let client = Packet::arriving(UPLINK_MAC, V6.peer, V6.slot(slot), content);
            let fate = lab.send(Hook::FromUplink, &client)?;
            assert_eq!(fate, Fate::Dropped(DropReason::PoolFromUplink));
        }
    }
    Ok(())
}

#[test]
fn an_error_about_a_routed_packet_finds_its_slot() -> Result<()> {
    let mut lab = lab()?;
    for content in [UDP, tcp(SYN), Content::Echo { identifier: 77 }] {
        let packet = Packet::of_slot(1, V6.peer, content);
        leaves(&mut lab, &packet)?;
        let router = Packet::arriving(UPLINK_MAC, V6.router, V6.slot(1), UDP);
        for kind in V6.errors {
            let error = router.error(kind, &packet, 200);
            let fate = lab.send_bytes(Hook::FromUplink, &error)?;
            assert_eq!(
                fate,
                Fate::Redirected {
                    bytes: error,
                    mark: EPOCH
                }
            );
        }
        let of_another = Packet {
            destination: V6.stranger,
            ..packet
        };
        let error = router.error(V6.errors[0], &of_another, 200);
        let fate = lab.send_bytes(Hook::FromUplink, &error)?;
        assert_eq!(fate, Fate::Dropped(DropReason::PoolFromUplink));
    }
    Ok(())
}

#[test]
fn later_fragments_follow_the_first_both_ways() -> Result<()> {
    let mut lab = lab()?;
    let packet = Packet::of_slot(1, V6.peer, UDP);
    for fragment in [0x2000, 0x2003, 0x0006] {
        leaves(
            &mut lab,
            &Packet {
                fragment,
                ..packet.clone()
            },
        )?;
        let answer = Packet {
            fragment,
            ..answer(UDP)
        };
        assert_eq!(lab.send(Hook::FromUplink, &answer)?, to_slot(&answer));
    }
    Ok(())
}

#[test]
fn ipv4_is_translated_all_the_same() -> Result<()> {
    let mut lab = lab()?;
    lab.set_uplink(lab::UPLINK, &uplink_with(&V4, Some(V4.uplink)))?;
    let content = tcp(SYN);
    let port = translate(&mut lab, &V4, 1, &Packet::of_slot(1, V4.peer, content))?;
    let answer = answer_to(&V4, content, port);
    let fate = lab.send(Hook::FromUplink, &answer)?;
    assert_eq!(fate, to_slot(&restored(&V4, &answer, 1, content)));
    let uninvited = Packet::arriving(UPLINK_MAC, V4.peer, V4.slot(1), tcp(ACK));
    let fate = lab.send(Hook::FromUplink, &uninvited)?;
    assert_eq!(fate, Fate::Dropped(DropReason::PoolFromUplink));
    Ok(())
}
