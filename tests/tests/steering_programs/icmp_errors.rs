//! ICMP errors: about what slots sent to the world, about what the world and the host sent to slots.

use std::net::IpAddr;

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, UPLINK_MAC};
use crate::packet::{Content, Packet, extension};
use crate::world::{CONTENTS, EPOCH, MARKED, UDP, answer_to, lab, restored, shown_as, translate};

/// Of a quoted packet, more than it has.
const ALL: usize = 200;
const PACKET_TOO_BIG: u8 = 2;

/// Addressed like any packet from a router to `destination`; what it carries does not matter.
fn from_router(net: &Net, destination: IpAddr) -> Packet {
    Packet::arriving(UPLINK_MAC, net.router, destination, UDP)
}

/// `packet` of slot 1 as the world sees it from `port`.
fn seen(net: &Net, packet: &Packet, port: u16) -> Packet {
    Packet {
        source: net.uplink,
        content: shown_as(packet.content, port),
        ..packet.clone()
    }
}

fn redirected(bytes: Vec<u8>, mark: u32) -> Fate {
    Fate::Redirected { bytes, mark }
}

#[test]
fn errors_of_routers_reach_the_slot_with_the_packet_it_sent() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let [unreachable, time_exceeded, parameter_problem] = net.errors;
        let least = net.least_quote;
        for content in CONTENTS {
            for (kind, options, length) in [
                (unreachable, 0, least),
                (unreachable, 0, ALL),
                (time_exceeded, 8, least + 8),
                (parameter_problem, 40, ALL),
            ] {
                let sent = Packet {
                    options,
                    ..Packet::of_slot(1, net.peer, content)
                };
                let port = translate(&mut lab, net, 1, &sent)?;
                let error = from_router(net, net.uplink);
                let error = error.error(kind, &seen(net, &sent, port), length);
                let fate = lab.send_bytes(Hook::FromUplink, &error)?;
                let bytes = from_router(net, net.slot(1)).error(kind, &sent, length);
                assert_eq!(fate, redirected(bytes, EPOCH), "{sent:?}");
            }
        }
        Ok(())
    })
}

/// Path MTU discovery; of IPv6 it has a type of its own.
#[test]
fn a_slot_is_told_that_its_packet_was_too_big() -> Result<()> {
    let mut lab = lab()?;
    for content in CONTENTS {
        for extensions in [&[][..], &[extension::HOP_BY_HOP, extension::ROUTING]] {
            let sent = Packet {
                extensions,
                ..Packet::of_slot(1, V6.peer, content)
            };
            let port = translate(&mut lab, &V6, 1, &sent)?;
            let error = from_router(&V6, V6.uplink);
            let error = error.error(PACKET_TOO_BIG, &seen(&V6, &sent, port), ALL);
            let fate = lab.send_bytes(Hook::FromUplink, &error)?;
            let bytes = from_router(&V6, V6.slot(1)).error(PACKET_TOO_BIG, &sent, ALL);
            assert_eq!(fate, redirected(bytes, EPOCH), "{sent:?}");
        }
    }
    Ok(())
}

#[test]
fn errors_about_no_connection_of_a_slot_stay_the_hosts() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let sent = Packet::of_slot(1, net.peer, UDP);
        let port = translate(&mut lab, net, 1, &sent)?;
        let seen = seen(net, &sent, port);
        let elsewhere = Packet {
            destination: net.router,
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
        let around = from_router(net, net.uplink);
        let ([unreachable, ..], least) = (net.errors, net.least_quote);
        for (error, what) in [
            (around.error(unreachable, &elsewhere, ALL), "another peer"),
            (around.error(unreachable, &by_host, ALL), "another port"),
            (around.error(unreachable, &later_fragment, ALL), "no ports"),
            (around.error(net.redirect, &seen, ALL), "a redirect"),
            (around.error(unreachable, &seen, least - 1), "too short"),
            (around.error(unreachable, &seen, 12), "much too short"),
        ] {
            let fate = lab.send_bytes(Hook::FromUplink, &error)?;
            assert_eq!(fate, Fate::Left, "{what}");
        }
        lab.publish(1, AttachmentWord::attached(EPOCH + 1, 1))?;
        let error = around.error(unreachable, &seen, ALL);
        assert_eq!(lab.send_bytes(Hook::FromUplink, &error)?, Fate::Left);
        Ok(())
    })
}

#[test]
fn errors_of_a_slot_reach_its_peer_with_the_packet_it_sent() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let [unreachable, ..] = net.errors;
        for content in CONTENTS {
            for length in [net.least_quote, ALL] {
                let asked = Packet::of_slot(1, net.peer, content);
                let port = translate(&mut lab, net, 1, &asked)?;
                let answer = answer_to(net, content, port);
                let got = restored(net, &answer, 1, content);
                let around = Packet::of_slot(1, net.peer, UDP);
                let error = around.error(unreachable, &got, length);
                let fate = lab.send_bytes(MARKED, &error)?;
                let expected = Packet {
                    source: net.uplink,
                    ttl: around.ttl - 1,
                    ..around
                };
                let bytes = expected.error(unreachable, &answer, length);
                assert_eq!(fate, redirected(bytes, 0), "{content:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_slot_complains_only_of_what_it_got_to_whom_it_got_it_from() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, UDP))?;
        let got = restored(net, &answer_to(net, UDP, port), 1, UDP);
        let of_another_slot = Packet {
            destination: net.slot(2),
            ..got.clone()
        };
        let of_no_connection = Packet {
            content: Content::Udp { from: 54, to: 1000 },
            ..got.clone()
        };
        for (quoted, receiver, what) in [
            (&got, net.stranger, "somebody else"),
            (&of_another_slot, net.peer, "what another slot got"),
            (&of_no_connection, net.peer, "what it did not get"),
        ] {
            let around = Packet::of_slot(1, receiver, UDP);
            let error = around.error(net.errors[0], quoted, ALL);
            let fate = lab.send_bytes(MARKED, &error)?;
            assert_eq!(fate, Fate::Dropped(DropReason::NotReply), "{what}");
        }
        Ok(())
    })
}

#[test]
fn an_error_does_not_keep_a_connection_alive() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let [unreachable, ..] = net.errors;
        let sent = Packet::of_slot(1, net.peer, UDP);
        let port = translate(&mut lab, net, 1, &sent)?;
        let before = lab.all_flows()?;
        let around = from_router(net, net.uplink);
        let error = around.error(unreachable, &seen(net, &sent, port), ALL);
        lab.send_bytes(Hook::FromUplink, &error)?;
        let got = restored(net, &answer_to(net, UDP, port), 1, UDP);
        let error = Packet::of_slot(1, net.peer, UDP).error(unreachable, &got, ALL);
        lab.send_bytes(MARKED, &error)?;
        assert_eq!(lab.all_flows()?, before);
        Ok(())
    })
}

#[test]
fn a_slot_tells_the_host_of_errors_about_what_the_host_sent() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let [unreachable, ..] = net.errors;
        let asked = |to| {
            let question = Content::Udp { from: 53, to };
            Packet::arriving(GATEWAY_MAC, net.gateway, net.slot(1), question)
        };
        lab.send(Hook::FromHost { mark: 0 }, &asked(1000))?;
        let around = Packet::of_slot(1, net.gateway, UDP);
        for (port, fate) in [
            (1000, Fate::Passed),
            (1001, Fate::Dropped(DropReason::HostClosed)),
        ] {
            let error = around.error(unreachable, &asked(port), net.least_quote);
            assert_eq!(lab.send_bytes(MARKED, &error)?, fate, "port {port}");
        }
        let to_another_address = Packet::of_slot(1, net.uplink, UDP);
        let error = to_another_address.error(unreachable, &asked(1000), net.least_quote);
        let fate = lab.send_bytes(MARKED, &error)?;
        assert_eq!(fate, Fate::Dropped(DropReason::HostClosed));
        Ok(())
    })
}
