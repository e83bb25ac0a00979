//! What slots send.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, SLOTS_PER_HUB, slot_mac};
use pcpm_ebpf::drop_reason::DropReason;

use crate::families::{Net, V4, V6, in_both};
use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet, extension};

const TENANT: u32 = 7;
const OTHER_HUB: u32 = SLOTS_PER_HUB + 3;
const UDP: Content = Content::Udp { from: 1000, to: 53 };

/// Slots 0 and 1 and one in another hub belong to one tenant, 2 to another, 3 to nobody.
fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.publish(0, AttachmentWord::attached(5, TENANT))?;
    lab.publish(1, AttachmentWord::attached(6, TENANT))?;
    lab.publish(2, AttachmentWord::attached(1, 8))?;
    lab.publish(3, AttachmentWord::detached(4))?;
    lab.publish(OTHER_HUB, AttachmentWord::attached(9, TENANT))?;
    Ok(lab)
}

fn to_slot(net: &Net, receiver: u32) -> Packet {
    Packet::of_slot(0, net.slot(receiver), UDP)
}

#[test]
fn a_slot_reaches_slots_of_its_tenant() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        let delivered = Packet {
            source_mac: GATEWAY_MAC,
            destination_mac: slot_mac(1),
            ..packet
        };
        let bytes = delivered.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 0 });
        Ok(())
    })
}

#[test]
fn a_packet_for_another_hub_carries_the_epoch_of_its_receiver() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, OTHER_HUB);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        let bytes = packet.bytes();
        assert_eq!(fate, Fate::Redirected { bytes, mark: 9 });
        Ok(())
    })
}

#[test]
fn a_packet_for_host_or_world_carries_the_epoch_of_its_sender() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for destination in [net.gateway, net.uplink, net.peer] {
            let packet = Packet::of_slot(0, destination, UDP);
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            let bytes = packet.bytes();
            assert_eq!(fate, Fate::Redirected { bytes, mark: 5 }, "{destination}");
        }
        Ok(())
    })
}

#[test]
fn a_slot_reaches_nobody_else() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for (destination, reason) in [
            (net.slot(2), DropReason::OtherTenant),
            (net.slot(3), DropReason::DestinationDetached),
            (net.slot(600), DropReason::DestinationDetached),
            (net.slot(700), DropReason::NoSuchSlot),
            (net.metadata, DropReason::Metadata),
            (net.multicast, DropReason::Multicast),
            (net.loopback, DropReason::Reserved),
        ] {
            let packet = Packet::of_slot(0, destination, UDP);
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            assert_eq!(fate, Fate::Dropped(reason), "{destination}");
        }
        Ok(())
    })
}

#[test]
fn each_version_of_ip_has_destinations_of_its_own_that_nobody_reaches() -> Result<()> {
    let mut lab = lab()?;
    let v6 = |address: &str| Ok::<_, anyhow::Error>(address.parse::<std::net::IpAddr>()?);
    for (destination, reason) in [
        ([255; 4].into(), DropReason::Broadcast),
        ([240, 0, 0, 1].into(), DropReason::Reserved),
        ([0; 4].into(), DropReason::Reserved),
        (v6("fe80::2")?, DropReason::Metadata),
        (v6("::")?, DropReason::Reserved),
        (v6("ff05::2")?, DropReason::Multicast),
        // An IPv4 address in an IPv6 header.
        (v6("::ffff:198.51.100.1")?, DropReason::Malformed),
        // In the pool's prefix, but not where slots are.
        (v6("fd00:7063:706d:0:1::1")?, DropReason::NoSuchSlot),
    ] {
        let packet = Packet::of_slot(0, destination, UDP);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert_eq!(fate, Fate::Dropped(reason), "{destination}");
    }
    Ok(())
}

#[test]
fn a_slot_cannot_pretend_to_be_another() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1);
        for (packet, reason) in [
            (
                Packet {
                    source_mac: slot_mac(1),
                    ..packet.clone()
                },
                DropReason::SpoofedMac,
            ),
            (
                Packet {
                    source: net.slot(1),
                    ..packet.clone()
                },
                DropReason::SpoofedAddress,
            ),
            (
                Packet {
                    source: net.peer,
                    ..packet.clone()
                },
                DropReason::SpoofedAddress,
            ),
            (
                Packet {
                    source: net.gateway,
                    ..packet.clone()
                },
                DropReason::SpoofedAddress,
            ),
            (
                Packet {
                    destination_mac: slot_mac(1),
                    ..packet.clone()
                },
                DropReason::WrongNextHop,
            ),
        ] {
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
        }
        let fate = lab.send(Hook::FromSlot(1), &packet)?;
        let reason = DropReason::SpoofedMac;
        assert_eq!(fate, Fate::Dropped(reason), "seen on another link");
        Ok(())
    })
}

#[test]
fn a_slot_finds_no_routers_and_no_neighbours_and_is_none() -> Result<()> {
    use extension::{DESTINATION_OPTIONS, HOP_BY_HOP};
    let mut lab = lab()?;
    for (kind, reason) in [
        (133, DropReason::RouterDiscovery),
        (134, DropReason::RouterDiscovery),
        (135, DropReason::NeighbourDiscovery),
        (136, DropReason::NeighbourDiscovery),
        (137, DropReason::Redirect),
    ] {
        let message = Content::Icmp {
            kind,
            identifier: 0,
        };
        for destination in [V6.slot(1), V6.gateway, V6.multicast, V6.peer] {
            for extensions in [&[][..], &[HOP_BY_HOP], &[HOP_BY_HOP, DESTINATION_OPTIONS]] {
                for fragment in [0, 0x2000] {
                    let packet = Packet {
                        ttl: 255,
                        extensions,
                        fragment,
                        ..Packet::of_slot(0, destination, message)
                    };
                    let fate = lab.send(Hook::FromSlot(0), &packet)?;
                    assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
                }
            }
        }
    }
    Ok(())
}

/// What is behind more headers than are looked at could be anything, discovery for instance.
#[test]
fn a_slot_hides_nothing_behind_many_headers() -> Result<()> {
    let mut lab = lab()?;
    let advertisement = Content::Icmp {
        kind: 136,
        identifier: 0,
    };
    for content in [advertisement, UDP] {
        for destination in [V6.slot(1), V6.slot(OTHER_HUB), V6.gateway, V6.peer] {
            let packet = Packet {
                extensions: &[extension::DESTINATION_OPTIONS; 6],
                ..Packet::of_slot(0, destination, content)
            };
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            let reason = DropReason::ExtensionHeaders;
            assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
        }
    }
    Ok(())
}

#[test]
fn a_pool_without_ipv6_carries_none() -> Result<()> {
    let mut lab = lab()?;
    lab.configure(|config| config.pool6 = pcpm_ebpf::address::Address::ANY)?;
    for destination in [V6.slot(1), V6.gateway, V6.peer] {
        let packet = Packet::of_slot(0, destination, UDP);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Ipv6), "{destination}");
    }
    let fate = lab.send(Hook::FromSlot(0), &to_slot(&V4, 1))?;
    assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
    Ok(())
}

#[test]
fn a_slot_that_nobody_holds_passes_nothing() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for destination in [net.slot(1), net.gateway, net.peer] {
            let packet = Packet::of_slot(3, destination, UDP);
            let fate = lab.send(Hook::FromSlot(3), &packet)?;
            assert_eq!(fate, Fate::Dropped(DropReason::Detached));
        }
        Ok(())
    })
}

#[test]
fn an_attach_and_a_detach_count_at_once() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 3);
        for (word, passes) in [
            (AttachmentWord::detached(4), false),
            (AttachmentWord::attached(5, TENANT), true),
            (AttachmentWord::detached(5), false),
        ] {
            lab.publish(3, word)?;
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            assert_eq!(matches!(fate, Fate::Redirected { .. }), passes, "{word:?}");
        }
        Ok(())
    })
}

#[test]
fn fragments_pass_between_slots() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = Packet {
            fragment: 0x2010,
            ..to_slot(net, 1)
        };
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
        Ok(())
    })
}

#[test]
fn what_its_tenant_understands_passes_between_slots() -> Result<()> {
    let mut lab = lab()?;
    for extensions in [
        &[extension::HOP_BY_HOP][..],
        &[extension::DESTINATION_OPTIONS, extension::ROUTING],
        &[extension::AUTHENTICATION],
    ] {
        let packet = Packet {
            extensions,
            ..to_slot(&V6, 1)
        };
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
    }
    Ok(())
}

#[test]
fn only_ip_passes() -> Result<()> {
    let mut lab = lab()?;
    for (net, ethertype, reason) in [
        (V4, [0x08, 0x06], DropReason::Arp),
        (V4, [0x86, 0xdd], DropReason::Malformed),
        (V4, [0x88, 0xcc], DropReason::NotIp),
        (V6, [0x08, 0x00], DropReason::Malformed),
        (V6, [0x88, 0xcc], DropReason::NotIp),
    ] {
        let mut frame = to_slot(&net, 1).bytes();
        frame[12..14].copy_from_slice(&ethertype);
        let fate = lab.send_bytes(Hook::FromSlot(0), &frame)?;
        assert_eq!(fate, Fate::Dropped(reason));
    }
    Ok(())
}

#[test]
fn short_frames_are_dropped() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let frame = to_slot(net, 1).bytes();
        for length in 14..14 + net.least_quote - 8 {
            // The kernel refuses to make a packet of some of these lengths itself.
            if let Ok(fate) = lab.send_bytes(Hook::FromSlot(0), &frame[..length]) {
                let dropped = Fate::Dropped(DropReason::Malformed);
                assert_eq!(fate, dropped, "{length} bytes");
            }
        }
        Ok(())
    })
}

#[test]
fn traffic_is_counted_at_both_slots() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = to_slot(net, 1);
        let length = u64::try_from(packet.bytes().len())?;
        lab.send(Hook::FromSlot(0), &packet)?;
        lab.send_segments(Hook::FromSlot(0), &packet, 10)?;
        lab.send(Hook::FromSlot(0), &to_slot(net, 2))?;
        let sender = lab.counters(0)?;
        assert_eq!((sender.sent_packets, sender.sent_bytes), (11, 2 * length));
        assert_eq!((sender.received_packets, sender.dropped_packets), (0, 1));
        let receiver = lab.counters(1)?;
        assert_eq!(
            (receiver.received_packets, receiver.received_bytes),
            (11, 2 * length)
        );
        assert_eq!((receiver.sent_packets, receiver.dropped_packets), (0, 0));
        Ok(())
    })
}
