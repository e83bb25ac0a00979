//! What slots send to the host, and through it to other hubs.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, flow_kind};
use pcpm_ebpf::drop_reason::DropReason;

use crate::lab::{Fate, Hook, LAB_UPLINK, Lab};
use crate::packet::{Content, Packet};

const GATEWAY: [u8; 4] = [169, 254, 1, 1];
const PING: Content = Content::Icmp {
    kind: 8,
    identifier: 77,
};
const PONG: Content = Content::Icmp {
    kind: 0,
    identifier: 77,
};
const EPOCH: u32 = 6;
const MARKED: Hook = Hook::FromHub { mark: EPOCH };

fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.publish(1, AttachmentWord::attached(EPOCH, 7))?;
    lab.publish(2, AttachmentWord::attached(3, 7))?;
    Ok(lab)
}

/// What slot 1 answers to `question`.
fn answer(question: &Packet, content: Content) -> Packet {
    Packet::of_slot(1, question.source.octets(), content)
}

#[test]
fn a_slot_pings_its_gateway() -> Result<()> {
    let mut lab = lab()?;
    let fate = lab.send(MARKED, &Packet::of_slot(1, GATEWAY, PING))?;
    assert_eq!(fate, Fate::Passed);
    Ok(())
}

#[test]
fn a_slot_reaches_nothing_else_on_the_host() -> Result<()> {
    let mut lab = lab()?;
    for (address, content) in [
        (GATEWAY, PONG),
        (
            GATEWAY,
            Content::Tcp {
                from: 1000,
                to: 22,
                flags: 2,
            },
        ),
        (GATEWAY, Content::Udp { from: 1000, to: 53 }),
        (LAB_UPLINK.octets(), PING),
        (
            LAB_UPLINK.octets(),
            Content::Tcp {
                from: 1000,
                to: 22,
                flags: 2,
            },
        ),
        ([203, 0, 113, 1], Content::Udp { from: 1000, to: 53 }),
        ([127, 0, 0, 1], PING),
    ] {
        let fate = lab.send(MARKED, &Packet::of_slot(1, address, content))?;
        assert!(
            matches!(fate, Fate::Dropped(_)),
            "{address:?} {content:?}: {fate:?}"
        );
    }
    Ok(())
}

#[test]
fn a_slot_answers_the_host() -> Result<()> {
    let mut lab = lab()?;
    for (question, reply) in [
        (
            Content::Tcp {
                from: 40_000,
                to: 80,
                flags: 2,
            },
            Content::Tcp {
                from: 80,
                to: 40_000,
                flags: 0x12,
            },
        ),
        (
            Content::Udp { from: 53, to: 1000 },
            Content::Udp { from: 1000, to: 53 },
        ),
        (PING, PONG),
    ] {
        for host in [GATEWAY, LAB_UPLINK.octets()] {
            let asked = Packet::arriving(GATEWAY_MAC, host, Packet::address_of(1), question);
            let reply = answer(&asked, reply);
            let before = lab.send(MARKED, &reply)?;
            assert_eq!(before, Fate::Dropped(DropReason::HostClosed), "{reply:?}");
            lab.send(Hook::FromHost { mark: 0 }, &asked)?;
            assert_eq!(lab.send(MARKED, &reply)?, Fate::Passed, "{reply:?}");
        }
    }
    Ok(())
}

#[test]
fn what_the_host_answers_to_a_stranger_opens_nothing_for_the_slot() -> Result<()> {
    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;
    let mut lab = lab()?;
    for flags in [SYN_ACK, ACK] {
        let answered = Packet::arriving(
            GATEWAY_MAC,
            GATEWAY,
            Packet::address_of(1),
            Content::Tcp {
                from: 22,
                to: 40_000,
                flags,
            },
        );
        lab.send(Hook::FromHost { mark: 0 }, &answered)?;
        let next = Content::Tcp {
            from: 40_000,
            to: 22,
            flags: ACK,
        };
        let fate = lab.send(MARKED, &answer(&answered, next))?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed), "{flags:#x}");
    }
    Ok(())
}

#[test]
fn a_slot_may_answer_a_ping_but_not_ping_back() -> Result<()> {
    let mut lab = lab()?;
    let host = LAB_UPLINK.octets();
    let asked = Packet::arriving(GATEWAY_MAC, host, Packet::address_of(1), PING);
    lab.send(Hook::FromHost { mark: 0 }, &asked)?;
    assert_eq!(lab.send(MARKED, &answer(&asked, PONG))?, Fate::Passed);
    let fate = lab.send(MARKED, &answer(&asked, PING))?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    Ok(())
}

#[test]
fn another_slot_does_not_answer_in_its_place() -> Result<()> {
    let mut lab = lab()?;
    let question = Content::Udp { from: 53, to: 1000 };
    let asked = Packet::arriving(GATEWAY_MAC, GATEWAY, Packet::address_of(1), question);
    lab.send(Hook::FromHost { mark: 0 }, &asked)?;
    let reply = Packet::of_slot(2, GATEWAY, Content::Udp { from: 1000, to: 53 });
    let fate = lab.send(Hook::FromHub { mark: 3 }, &reply)?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    Ok(())
}

#[test]
fn the_next_holder_of_a_slot_does_not_answer_for_the_last() -> Result<()> {
    let mut lab = lab()?;
    let question = Content::Udp { from: 53, to: 1000 };
    let asked = Packet::arriving(GATEWAY_MAC, GATEWAY, Packet::address_of(1), question);
    lab.send(Hook::FromHost { mark: 0 }, &asked)?;
    lab.publish(1, AttachmentWord::attached(EPOCH + 1, 7))?;
    let reply = answer(&asked, Content::Udp { from: 1000, to: 53 });
    let fate = lab.send(Hook::FromHub { mark: EPOCH + 1 }, &reply)?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    Ok(())
}

#[test]
fn an_idle_connection_of_the_host_ends() -> Result<()> {
    let mut lab = lab()?;
    let question = Content::Udp { from: 53, to: 1000 };
    let asked = Packet::arriving(GATEWAY_MAC, GATEWAY, Packet::address_of(1), question);
    lab.send(Hook::FromHost { mark: 0 }, &asked)?;
    assert_eq!(lab.flows(flow_kind::HOST)?.len(), 1);
    lab.change_flows(|_, mut flow| {
        flow.last_seen_ns = 0;
        Some(flow)
    })?;
    let reply = answer(&asked, Content::Udp { from: 1000, to: 53 });
    let fate = lab.send(MARKED, &reply)?;
    assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
    Ok(())
}

#[test]
fn a_packet_between_hubs_keeps_its_mark() -> Result<()> {
    let mut lab = lab()?;
    let udp = Content::Udp { from: 1, to: 2 };
    let packet = Packet::of_slot(1, Packet::address_of(600).octets(), udp);
    let fate = lab.send(Hook::FromHub { mark: 44 }, &packet)?;
    assert_eq!(
        fate,
        Fate::Redirected {
            bytes: packet.bytes(),
            mark: 44
        }
    );
    Ok(())
}

#[test]
fn what_no_program_authorised_goes_nowhere() -> Result<()> {
    let mut lab = lab()?;
    let udp = Content::Udp { from: 1, to: 2 };
    for address in [Packet::address_of(600).octets(), GATEWAY, [198, 51, 100, 1]] {
        let fate = lab.send(Hook::FromHub { mark: 0 }, &Packet::of_slot(1, address, udp))?;
        assert_eq!(
            fate,
            Fate::Dropped(DropReason::NotAuthorised),
            "{address:?}"
        );
    }
    let fate = lab.send(
        Hook::FromHub { mark: EPOCH - 1 },
        &Packet::of_slot(1, GATEWAY, PING),
    )?;
    assert_eq!(fate, Fate::Dropped(DropReason::Stale));
    Ok(())
}
