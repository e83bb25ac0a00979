//! What slots send.

use anyhow::Result;
use pcpm_ebpf::abi::{AttachmentWord, GATEWAY_MAC, SLOTS_PER_HUB, slot_mac};
use pcpm_ebpf::drop_reason::DropReason;

use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet};

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

fn to_slot(receiver: u32) -> Packet {
    Packet::of_slot(0, Packet::address_of(receiver).octets(), UDP)
}

#[test]
fn a_slot_reaches_slots_of_its_tenant() -> Result<()> {
    let mut lab = lab()?;
    let packet = to_slot(1);
    let delivered = Packet {
        source_mac: GATEWAY_MAC,
        destination_mac: slot_mac(1),
        ..packet.clone()
    };
    let fate = lab.send(Hook::FromSlot(0), &packet)?;
    assert_eq!(
        fate,
        Fate::Redirected {
            bytes: delivered.bytes(),
            mark: 0
        }
    );
    Ok(())
}

#[test]
fn a_packet_for_another_hub_carries_the_epoch_of_its_receiver() -> Result<()> {
    let mut lab = lab()?;
    let packet = to_slot(OTHER_HUB);
    let fate = lab.send(Hook::FromSlot(0), &packet)?;
    assert_eq!(
        fate,
        Fate::Redirected {
            bytes: packet.bytes(),
            mark: 9
        }
    );
    Ok(())
}

#[test]
fn a_packet_for_host_or_world_carries_the_epoch_of_its_sender() -> Result<()> {
    let mut lab = lab()?;
    for destination in [[169, 254, 1, 1], [192, 0, 2, 1], [198, 51, 100, 1]] {
        let packet = Packet::of_slot(0, destination, UDP);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert_eq!(
            fate,
            Fate::Redirected {
                bytes: packet.bytes(),
                mark: 5
            }
        );
    }
    Ok(())
}

#[test]
fn a_slot_reaches_nobody_else() -> Result<()> {
    let mut lab = lab()?;
    for (packet, reason) in [
        (to_slot(2), DropReason::OtherTenant),
        (to_slot(3), DropReason::DestinationDetached),
        (to_slot(600), DropReason::DestinationDetached),
        (to_slot(700), DropReason::NoSuchSlot),
        (
            Packet::of_slot(0, [169, 254, 169, 254], UDP),
            DropReason::Metadata,
        ),
        (
            Packet::of_slot(0, [224, 0, 0, 251], UDP),
            DropReason::Multicast,
        ),
        (Packet::of_slot(0, [255; 4], UDP), DropReason::Broadcast),
        (
            Packet::of_slot(0, [127, 0, 0, 1], UDP),
            DropReason::Reserved,
        ),
    ] {
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
    }
    Ok(())
}

#[test]
fn a_slot_cannot_pretend_to_be_another() -> Result<()> {
    let mut lab = lab()?;
    let packet = to_slot(1);
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
                source: Packet::address_of(1),
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
    assert_eq!(
        fate,
        Fate::Dropped(DropReason::SpoofedMac),
        "seen on another link"
    );
    Ok(())
}

#[test]
fn a_slot_that_nobody_holds_passes_nothing() -> Result<()> {
    let mut lab = lab()?;
    for destination in [
        Packet::address_of(1).octets(),
        [169, 254, 1, 1],
        [198, 51, 100, 1],
    ] {
        let packet = Packet::of_slot(3, destination, UDP);
        let fate = lab.send(Hook::FromSlot(3), &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::Detached));
    }
    Ok(())
}

#[test]
fn an_attach_and_a_detach_count_at_once() -> Result<()> {
    let mut lab = lab()?;
    let packet = to_slot(3);
    assert!(matches!(
        lab.send(Hook::FromSlot(0), &packet)?,
        Fate::Dropped(_)
    ));
    lab.publish(3, AttachmentWord::attached(5, TENANT))?;
    assert!(matches!(
        lab.send(Hook::FromSlot(0), &packet)?,
        Fate::Redirected { .. }
    ));
    lab.publish(3, AttachmentWord::detached(5))?;
    assert!(matches!(
        lab.send(Hook::FromSlot(0), &packet)?,
        Fate::Dropped(_)
    ));
    Ok(())
}

#[test]
fn fragments_pass_between_slots() -> Result<()> {
    let mut lab = lab()?;
    let packet = Packet {
        fragment: 0x2010,
        ..to_slot(1)
    };
    let fate = lab.send(Hook::FromSlot(0), &packet)?;
    assert!(matches!(fate, Fate::Redirected { .. }), "{fate:?}");
    Ok(())
}

#[test]
fn only_ip_passes() -> Result<()> {
    let mut lab = lab()?;
    for (ethertype, reason) in [
        ([0x08, 0x06], DropReason::Arp),
        ([0x86, 0xdd], DropReason::Malformed),
        ([0x88, 0xcc], DropReason::NotIp),
    ] {
        let mut frame = to_slot(1).bytes();
        frame[12..14].copy_from_slice(&ethertype);
        let fate = lab.send_bytes(Hook::FromSlot(0), &frame)?;
        assert_eq!(fate, Fate::Dropped(reason));
    }
    Ok(())
}

#[test]
fn short_frames_are_dropped() -> Result<()> {
    let mut lab = lab()?;
    let frame = to_slot(1).bytes();
    for length in 14..34 {
        // The kernel refuses to make a packet of some of these lengths itself.
        if let Ok(fate) = lab.send_bytes(Hook::FromSlot(0), &frame[..length]) {
            assert_eq!(fate, Fate::Dropped(DropReason::Malformed), "{length} bytes");
        }
    }
    Ok(())
}

#[test]
fn traffic_is_counted_at_both_slots() -> Result<()> {
    let mut lab = lab()?;
    let packet = to_slot(1);
    let length = u64::try_from(packet.bytes().len())?;
    lab.send(Hook::FromSlot(0), &packet)?;
    lab.send_segments(Hook::FromSlot(0), &packet, 10)?;
    lab.send(Hook::FromSlot(0), &to_slot(2))?;
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
}
