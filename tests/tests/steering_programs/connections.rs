//! How long connections with the world live, and who gets their ports after them.

use anyhow::{Context, Result};
use pcpm_ebpf::abi::{AttachmentWord, Flow, flow_kind};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, in_both};
use crate::lab::{Fate, Hook, Lab, UPLINK_MAC};
use crate::packet::{Content, Packet};
use crate::world::{
    ACK, EPOCH, FIN, MARKED, RST, SYN, UDP, answer_to, lab, lab_with_ports, restored, tcp, to_slot,
    translate,
};

#[test]
fn an_answer_for_the_last_holder_does_not_reach_the_next() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        for word in [
            AttachmentWord::detached(EPOCH),
            AttachmentWord::attached(EPOCH + 1, 1),
        ] {
            lab.publish(1, word)?;
            let fate = lab.send(Hook::FromUplink, &answer_to(net, UDP, port))?;
            assert_eq!(fate, Fate::Left, "{word:?}");
        }
        Ok(())
    })
}

#[test]
fn what_the_last_holder_sent_is_not_sent_for_the_next() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        for word in [
            AttachmentWord::detached(EPOCH),
            AttachmentWord::attached(EPOCH + 1, 1),
        ] {
            lab.publish(1, word)?;
            let fate = lab.send(MARKED, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::Stale), "{word:?}");
        }
        Ok(())
    })
}

#[test]
fn the_port_of_a_dead_connection_is_taken_over() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        lab.publish(1, AttachmentWord::detached(EPOCH))?;
        let content = Content::Udp { from: 2000, to: 53 };
        translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, content))?;
        let answer = answer_to(net, content, 20_000);
        let fate = lab.send(Hook::FromUplink, &answer)?;
        assert_eq!(fate, to_slot(&restored(net, &answer, 2, content)));
        Ok(())
    })
}

#[test]
fn an_idle_connection_loses_its_port() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        lab.change_flows(|_, flow| {
            Some(Flow {
                last_seen_ns: 0,
                ..flow
            })
        })?;
        let late = lab.send(Hook::FromUplink, &answer_to(net, UDP, 20_000))?;
        assert_eq!(late, Fate::Left);
        let content = Content::Udp { from: 2000, to: 53 };
        translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, content))?;
        let first = lab.send(MARKED, &Packet::of_slot(1, net.peer, UDP))?;
        assert_eq!(first, Fate::Dropped(DropReason::NoFreePort));
        Ok(())
    })
}

fn segment(from: u16, flags: u8) -> Content {
    Content::Tcp {
        from,
        to: 443,
        flags,
    }
}

/// A connection of slot 1 from port 1000, shown as port 20000, that both sides have just finished.
fn closed(lab: &mut Lab, net: &Net) -> Result<()> {
    let opening = Packet::of_slot(1, net.peer, segment(1000, SYN));
    translate(lab, net, 1, &opening)?;
    let end = Content::Tcp {
        from: 443,
        to: 20_000,
        flags: FIN | ACK,
    };
    let end = Packet::arriving(UPLINK_MAC, net.peer, net.uplink, end);
    let answer = lab.send(Hook::FromUplink, &end)?;
    assert!(matches!(answer, Fate::Redirected { .. }), "{answer:?}");
    let finish = Packet::of_slot(1, net.peer, segment(1000, FIN | ACK));
    translate(lab, net, 1, &finish).map(drop)
}

#[test]
fn a_closed_connection_gives_its_port_to_the_next_of_its_slot_and_to_no_other() -> Result<()> {
    in_both(|net| {
        let mut lab = lab_with_ports(20_000, 20_000)?;
        closed(&mut lab, net)?;
        let next = Packet::of_slot(1, net.peer, segment(1001, SYN));
        let too_soon = lab.send(MARKED, &next)?;
        assert_eq!(too_soon, Fate::Dropped(DropReason::NoFreePort));
        lab.change_flows(|_, flow| {
            Some(Flow {
                last_seen_ns: flow.last_seen_ns.saturating_sub(4_000_000_000),
                ..flow
            })
        })?;
        let strange = lab.send(MARKED, &Packet::of_slot(2, net.peer, segment(1001, SYN)))?;
        assert_eq!(strange, Fate::Dropped(DropReason::NoFreePort));
        assert_eq!(translate(&mut lab, net, 1, &next)?, 20_000);
        let answer = answer_to(net, segment(1001, SYN), 20_000);
        let fate = lab.send(Hook::FromUplink, &answer)?;
        let expected = restored(net, &answer, 1, segment(1001, SYN));
        assert_eq!(fate, to_slot(&expected));
        Ok(())
    })
}

#[test]
fn a_connection_whose_port_was_evicted_does_not_send_from_it() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        let port = translate(&mut lab, net, 1, &packet)?;
        lab.configure(|config| (config.nat_port_first, config.nat_port_last) = (port, port))?;
        // Evicted, and taken by a connection of slot 2.
        lab.change_flows(|key, flow| (key.kind != flow_kind::INGRESS).then_some(flow))?;
        let content = Content::Udp { from: 2000, to: 53 };
        let taken = translate(&mut lab, net, 2, &Packet::of_slot(2, net.peer, content))?;
        assert_eq!(taken, port);
        let fate = lab.send(MARKED, &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::NoFreePort));
        lab.configure(|config| config.nat_port_last = port + 1)?;
        assert_eq!(translate(&mut lab, net, 1, &packet)?, port + 1);
        Ok(())
    })
}

#[test]
fn an_evicted_memory_of_a_port_costs_a_new_port_and_nothing_else() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet::of_slot(1, net.peer, UDP);
        let port = translate(&mut lab, net, 1, &packet)?;
        lab.change_flows(|key, flow| (key.kind != flow_kind::EGRESS).then_some(flow))?;
        let fate = lab.send(MARKED, &packet)?;
        assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
        let answer = answer_to(net, UDP, port);
        let fate = lab.send(Hook::FromUplink, &answer)?;
        assert_eq!(fate, to_slot(&restored(net, &answer, 1, UDP)));
        Ok(())
    })
}

#[test]
fn a_tcp_connection_that_both_sides_confirmed_outlives_silence() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let sent = |flags| Packet::of_slot(1, net.peer, tcp(flags));
        let port = translate(&mut lab, net, 1, &sent(SYN))?;
        lab.send(Hook::FromUplink, &answer_to(net, tcp(SYN), port))?;
        translate(&mut lab, net, 1, &sent(ACK))?;
        let confirmed = only_owner(&lab)?;
        translate(&mut lab, net, 1, &sent(ACK | RST))?;
        let reset = only_owner(&lab)?;
        let lives = |flow: &Flow| pcpm_ebpf::nat::idle_timeout_ns(6, flow.state);
        assert!(lives(&confirmed) > 10 * lives(&reset));
        Ok(())
    })
}

fn only_owner(lab: &Lab) -> Result<Flow> {
    let mut owners = lab.flows(flow_kind::INGRESS)?.into_values();
    let (_, flow) = owners.next().context("a flow")?;
    Ok(flow)
}
