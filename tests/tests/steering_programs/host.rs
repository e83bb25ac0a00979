//! What slots send to the host, and through it to other hubs.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, flow_kind};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet, extension};

const PING: Content = Content::Echo { identifier: 77 };
const PONG: Content = Content::EchoReply { identifier: 77 };
const QUESTION: Content = Content::Udp { from: 53, to: 1000 };
const REPLY: Content = Content::Udp { from: 1000, to: 53 };
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const EPOCH: u32 = 6;
const MARKED: Hook = Hook::FromHub { mark: EPOCH };

fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.publish(1, AttachmentWord::attached(EPOCH, 7))?;
    lab.publish(2, AttachmentWord::attached(3, 7))?;
    Ok(lab)
}

const fn tcp(from: u16, to: u16, flags: u8) -> Content {
    Content::Tcp { from, to, flags }
}

/// The host asks slot 1, from its address `host`.
fn ask(lab: &mut Lab, net: &Net, host: std::net::IpAddr, question: Content) -> Result<Packet> {
    let asked = Packet::arriving(GATEWAY_MAC, host, net.slot(1), question);
    lab.send(Hook::FromHost { mark: 0 }, &asked)?;
    Ok(asked)
}

/// What slot 1 answers to `question`.
fn answer(question: &Packet, content: Content) -> Packet {
    Packet::of_slot(1, question.source, content)
}

#[test]
fn a_slot_pings_its_gateway() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let ping = Packet::of_slot(1, net.gateway, PING);
        assert_eq!(lab.send(MARKED, &ping)?, Fate::Passed);
        Ok(())
    })
}

#[test]
fn a_slot_reaches_nothing_else_on_the_host() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for (address, content) in [
            (net.gateway, PONG),
            (net.gateway, tcp(1000, 22, SYN)),
            (net.gateway, REPLY),
            (net.uplink, PING),
            (net.uplink, tcp(1000, 22, SYN)),
            (net.elsewhere, REPLY),
            (net.loopback, PING),
        ] {
            let fate = lab.send(MARKED, &Packet::of_slot(1, address, content))?;
            let dropped = matches!(fate, Fate::Dropped(_));
            assert!(dropped, "{address} {content:?}: {fate:?}");
        }
        Ok(())
    })
}

#[test]
fn what_headers_hide_is_not_for_the_host() -> Result<()> {
    let mut lab = lab()?;
    let ping = Packet::of_slot(1, V6.gateway, PING);
    for (extensions, passes) in [
        (&[extension::HOP_BY_HOP][..], true),
        (&[extension::DESTINATION_OPTIONS, extension::ROUTING], true),
        (&[extension::AUTHENTICATION], false),
        (&[extension::DESTINATION_OPTIONS; 9], false),
    ] {
        let packet = Packet {
            extensions,
            ..ping.clone()
        };
        let fate = lab.send(MARKED, &packet)?;
        assert_eq!(fate == Fate::Passed, passes, "{extensions:?}: {fate:?}");
    }
    Ok(())
}

#[test]
fn a_slot_answers_the_host() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for (question, reply) in [
            (tcp(40_000, 80, SYN), tcp(80, 40_000, SYN | ACK)),
            (QUESTION, REPLY),
            (PING, PONG),
        ] {
            for host in [net.gateway, net.uplink] {
                let reply = Packet::of_slot(1, host, reply);
                let before = lab.send(MARKED, &reply)?;
                assert_eq!(before, Fate::Dropped(DropReason::HostClosed), "{reply:?}");
                ask(&mut lab, net, host, question)?;
                assert_eq!(lab.send(MARKED, &reply)?, Fate::Passed, "{reply:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_the_host_answers_to_a_stranger_opens_nothing_for_the_slot() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for flags in [SYN | ACK, ACK] {
            let answered = ask(&mut lab, net, net.gateway, tcp(22, 40_000, flags))?;
            let next = answer(&answered, tcp(40_000, 22, ACK));
            let fate = lab.send(MARKED, &next)?;
            assert_eq!(fate, Fate::Dropped(DropReason::HostClosed), "{flags:#x}");
        }
        Ok(())
    })
}

#[test]
fn a_slot_may_answer_a_ping_but_not_ping_back() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let asked = ask(&mut lab, net, net.uplink, PING)?;
        assert_eq!(lab.send(MARKED, &answer(&asked, PONG))?, Fate::Passed);
        let fate = lab.send(MARKED, &answer(&asked, PING))?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
        Ok(())
    })
}

#[test]
fn another_slot_does_not_answer_in_its_place() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        ask(&mut lab, net, net.gateway, QUESTION)?;
        let reply = Packet::of_slot(2, net.gateway, REPLY);
        let fate = lab.send(Hook::FromHub { mark: 3 }, &reply)?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
        Ok(())
    })
}

#[test]
fn the_next_holder_of_a_slot_does_not_answer_for_the_last() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let asked = ask(&mut lab, net, net.gateway, QUESTION)?;
        lab.publish(1, AttachmentWord::attached(EPOCH + 1, 7))?;
        let next = Hook::FromHub { mark: EPOCH + 1 };
        let fate = lab.send(next, &answer(&asked, REPLY))?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
        Ok(())
    })
}

#[test]
fn an_idle_connection_of_the_host_ends() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let asked = ask(&mut lab, net, net.gateway, QUESTION)?;
        assert_eq!(lab.flows(flow_kind::HOST)?.len(), 1);
        lab.change_flows(|_, mut flow| {
            flow.last_seen_ns = 0;
            Some(flow)
        })?;
        let fate = lab.send(MARKED, &answer(&asked, REPLY))?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
        Ok(())
    })
}

#[test]
fn a_packet_between_hubs_keeps_its_mark() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.slot(600), REPLY);
        let fate = lab.send(Hook::FromHub { mark: 44 }, &packet)?;
        let bytes = packet.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 44 });
        Ok(())
    })
}

#[test]
fn what_no_program_authorised_goes_nowhere() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for address in [net.slot(600), net.gateway, net.peer] {
            let packet = Packet::of_slot(1, address, REPLY);
            let fate = lab.send(Hook::FromHub { mark: 0 }, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::NotAuthorised), "{address}");
        }
        let ping = Packet::of_slot(1, net.gateway, PING);
        let fate = lab.send(Hook::FromHub { mark: EPOCH - 1 }, &ping)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Stale));
        Ok(())
    })
}
