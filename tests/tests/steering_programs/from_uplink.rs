//! What comes in from the world without belonging to a slot: the host's own, and what is nobody's.

use anyhow::Result;
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::in_both;
use crate::lab::{Fate, Hook};
use crate::packet::{Content, Packet};
use crate::world::{SYN, UDP, answer_to, lab, translate};

#[test]
fn nobody_outside_speaks_in_a_slots_name() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        let answer = answer_to(net, UDP, port);
        for destination_mac in [answer.destination_mac, [0xff; 6]] {
            let spoofed = Packet {
                source: net.slot(2),
                destination_mac,
                ..answer.clone()
            };
            let fate = lab.send(Hook::FromUplink, &spoofed)?;
            assert_eq!(fate, Fate::Dropped(DropReason::SpoofedFromUplink));
        }
        Ok(())
    })
}

#[test]
fn what_is_not_for_a_slot_stays_the_hosts() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        let answer = answer_to(net, UDP, port);
        for content in [
            Content::Udp {
                from: 53,
                to: port + 1,
            },
            Content::Udp { from: 54, to: port },
            Content::Tcp {
                from: 53,
                to: port,
                flags: SYN,
            },
            Content::Icmp {
                kind: net.errors[0],
                identifier: port,
            },
            Content::Echo { identifier: port },
            Content::EchoReply { identifier: port },
            Content::Other { protocol: 132 },
        ] {
            let packet = Packet {
                content,
                ..answer.clone()
            };
            let fate = lab.send(Hook::FromUplink, &packet)?;
            assert_eq!(fate, Fate::Left, "{content:?}");
        }
        for packet in [
            Packet {
                source: net.stranger,
                ..answer.clone()
            },
            Packet {
                destination: net.nobody,
                ..answer.clone()
            },
            Packet {
                destination_mac: [2, 0, 0, 0, 0, 0x61],
                ..answer.clone()
            },
            Packet {
                fragment: 0x0010,
                ..answer
            },
        ] {
            let fate = lab.send(Hook::FromUplink, &packet)?;
            assert_eq!(fate, Fate::Left, "{packet:?}");
        }
        Ok(())
    })
}

/// What the host lives on: it finds its router and its neighbours by these.
#[test]
fn discovery_on_the_uplink_is_the_hosts() -> Result<()> {
    use crate::families::V6;
    let mut lab = lab()?;
    for kind in 133..=137 {
        for destination in [V6.uplink, V6.multicast] {
            let message = Content::Icmp {
                kind,
                identifier: 0,
            };
            let packet =
                Packet::arriving([0x33, 0x33, 0, 0, 0, 1], V6.router, destination, message);
            let fate = lab.send(Hook::FromUplink, &packet)?;
            assert_eq!(fate, Fate::Left, "type {kind} to {destination}");
        }
    }
    Ok(())
}

#[test]
fn nobody_reaches_the_pool_from_outside() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let port = translate(&mut lab, net, 1, &Packet::of_slot(1, net.peer, UDP))?;
        for slot in [1, 3, 5000] {
            let packet = Packet {
                destination: net.slot(slot),
                ..answer_to(net, UDP, port)
            };
            let fate = lab.send(Hook::FromUplink, &packet)?;
            assert_eq!(
                fate,
                Fate::Dropped(DropReason::PoolFromUplink),
                "slot {slot}"
            );
        }
        Ok(())
    })
}
