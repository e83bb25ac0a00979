//! What comes into a hub: from the host's own stack, from other hubs, from the world; and what may
//! leave the host for a hub at all.

use std::net::IpAddr;

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, flow_kind, slot_mac};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, in_both};
use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet};

const UDP: Content = Content::Udp { from: 53, to: 1000 };

/// Slot 1 is held in epoch 6, slot 3 by nobody.
fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.publish(1, AttachmentWord::attached(6, 7))?;
    lab.publish(3, AttachmentWord::detached(4))?;
    Ok(lab)
}

fn to_slot(net: &Net, slot: u32, content: Content) -> Packet {
    Packet::arriving(GATEWAY_MAC, net.gateway, net.slot(slot), content)
}

fn delivered(packet: &Packet, slot: u32) -> Fate {
    let arrived = Packet {
        source_mac: GATEWAY_MAC,
        destination_mac: slot_mac(slot),
        ..packet.clone()
    };
    Fate::Redirected {
        bytes: arrived.bytes(),
        mark: 0,
    }
}

#[test]
fn the_host_reaches_slots_that_are_held() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1, UDP);
        let fate = lab.send(Hook::FromHost { mark: 0 }, &packet)?;
        assert_eq!(fate, delivered(&packet, 1));
        let fate = lab.send(Hook::FromHost { mark: 0 }, &to_slot(net, 3, UDP))?;
        assert_eq!(fate, Fate::Dropped(DropReason::DestinationDetached));
        Ok(())
    })
}

#[test]
fn an_authorised_packet_is_delivered_to_the_holder_it_was_meant_for() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1, UDP);
        for (mark, expected) in [
            (6, delivered(&packet, 1)),
            (5, Fate::Dropped(DropReason::Stale)),
            (7, Fate::Dropped(DropReason::Stale)),
        ] {
            let fate = lab.send(Hook::FromHost { mark }, &packet)?;
            assert_eq!(fate, expected, "mark {mark}");
        }
        Ok(())
    })
}

#[test]
fn only_what_opens_a_connection_is_remembered() -> Result<()> {
    const SYN: Content = Content::Tcp {
        from: 40_000,
        to: 80,
        flags: 2,
    };
    in_both(|net| {
        let mut lab = lab()?;
        let error = Content::Icmp {
            kind: net.errors[0],
            identifier: 0,
        };
        for (content, remembered) in [
            (SYN, true),
            (UDP, true),
            (Content::Echo { identifier: 1 }, true),
            (Content::EchoReply { identifier: 2 }, false),
            (error, false),
            (Content::Other { protocol: 132 }, false),
        ] {
            let before = lab.flows(flow_kind::HOST)?.len();
            let packet = to_slot(net, 1, content);
            let fate = lab.send(Hook::FromHost { mark: 0 }, &packet)?;
            assert_eq!(fate, delivered(&packet, 1), "{content:?}");
            let made = lab.flows(flow_kind::HOST)?.len() - before;
            assert_eq!(made == 1, remembered, "{content:?}");
        }
        Ok(())
    })
}

#[test]
fn what_was_authorised_elsewhere_opens_nothing_for_the_slot() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        lab.send(Hook::FromHost { mark: 6 }, &to_slot(net, 1, UDP))?;
        assert!(lab.flows(flow_kind::HOST)?.is_empty());
        Ok(())
    })
}

#[test]
fn an_address_without_a_slot_is_refused() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for address in [net.slot(5000), net.uplink] {
            let packet = Packet::arriving(GATEWAY_MAC, net.gateway, address, UDP);
            let fate = lab.send(Hook::FromHost { mark: 0 }, &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::NoSuchSlot), "{address}");
        }
        let (mac, group) = match net.gateway {
            IpAddr::V4(_) => ([0x01, 0, 0x5e, 0, 0, 22], "224.0.0.22"),
            IpAddr::V6(_) => ([0x33, 0x33, 0, 0, 0, 22], "ff02::16"),
        };
        let packet = Packet::arriving(mac, net.gateway, group.parse::<IpAddr>()?, UDP);
        let fate = lab.send(Hook::FromHost { mark: 0 }, &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Multicast), "{group}");
        Ok(())
    })
}

#[test]
fn the_host_sends_to_slots_but_does_not_forward_to_them() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1, UDP);
        let own = lab.send(Hook::ToHub { ingress: 0 }, &packet)?;
        assert_eq!(own, Fate::Left);
        let forwarded = lab.send(Hook::ToHub { ingress: 60 }, &packet)?;
        assert_eq!(forwarded, Fate::Dropped(DropReason::ForwardedToSlot));
        Ok(())
    })
}
