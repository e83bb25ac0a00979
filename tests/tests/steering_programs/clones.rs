//! Slots that all have the same inner address: what they send, and what is delivered to them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use pcpm_ebpf::abi::{
    AttachmentWord, CLONE_MAC, GATEWAY_MAC, PortKey, PortTarget, SLOTS_PER_HUB, slot_mac,
};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::packet::Family;

use crate::families::{Net, V6, in_both};
use crate::lab::{Fate, Hook, Lab};
use crate::packet::{Content, Packet, extension};
use crate::world::{CONTENTS, SYN, UDP};

const INNER: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
const INNER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc10e, 0, 0, 0, 0, 0, 2);
const TENANT: u32 = 7;
/// Of slot 0, which sends, slot 1, and one in another hub, which get something.
const EPOCHS: [u32; 3] = [5, 6, 9];
const OTHER_HUB: u32 = SLOTS_PER_HUB + 3;
/// Of a quoted packet, more than it has.
const ALL: usize = 200;
/// The first fragment, and one behind it.
const FRAGMENTS: [u16; 2] = [0x2000, 0x2010];

fn lab() -> Result<Lab> {
    let mut lab = Lab::new()?;
    lab.configure(|config| {
        config.slots_are_clones = 1;
        config.inner = INNER.into();
        config.inner6 = INNER6.into();
    })?;
    for (slot, epoch) in [0, 1, OTHER_HUB].into_iter().zip(EPOCHS) {
        lab.publish(slot, AttachmentWord::attached(epoch, TENANT))?;
    }
    Ok(lab)
}

fn inner(net: &Net) -> IpAddr {
    match net.family {
        Family::V4 => INNER.into(),
        Family::V6 => INNER6.into(),
    }
}

/// What slot 0 sends, as it builds it.
fn sent(net: &Net, destination: IpAddr, content: Content) -> Packet {
    Packet {
        source_mac: CLONE_MAC,
        source: inner(net),
        ..Packet::of_slot(0, destination, content)
    }
}

/// `packet` of slot `slot` as everybody else sees it.
fn shown(net: &Net, packet: &Packet, slot: u32) -> Packet {
    Packet {
        source: net.slot(slot),
        ..packet.clone()
    }
}

/// `packet` as a slot gets it.
fn got(net: &Net, packet: &Packet) -> Packet {
    Packet {
        source_mac: GATEWAY_MAC,
        destination_mac: CLONE_MAC,
        destination: inner(net),
        ..packet.clone()
    }
}

fn redirected(bytes: Vec<u8>, mark: u32) -> Fate {
    Fate::Redirected { bytes, mark }
}

/// One of everything that slots send to each other.
fn packets(net: &Net, to: IpAddr) -> Vec<Packet> {
    let rare = [Content::EchoReply { identifier: 9 }, sctp()];
    let contents = CONTENTS.into_iter().chain(rare);
    let mut packets: Vec<_> = contents.map(|content| sent(net, to, content)).collect();
    packets.push(Packet {
        options: 16,
        ..sent(net, to, UDP)
    });
    packets.push(Packet {
        extensions: match net.family {
            Family::V4 => &[],
            Family::V6 => &[extension::HOP_BY_HOP],
        },
        ..sent(net, to, UDP)
    });
    packets.extend(FRAGMENTS.map(|fragment| Packet {
        fragment,
        content: match fragment {
            0x2000 => UDP,
            _ => Content::Other { protocol: 17 },
        },
        ..sent(net, to, UDP)
    }));
    packets
}

/// Its checksum covers no address.
const fn sctp() -> Content {
    Content::Other { protocol: 132 }
}

#[test]
fn slots_know_each_other_by_their_identities() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for packet in packets(net, net.slot(1)) {
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            let delivered = got(net, &shown(net, &packet, 0));
            assert_eq!(fate, redirected(delivered.bytes(), 0), "{packet:?}");
        }
        Ok(())
    })
}

#[test]
fn between_hubs_packets_carry_both_identities() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let mark = EPOCHS[2];
        for packet in packets(net, net.slot(OTHER_HUB)) {
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            let on_its_way = shown(net, &packet, 0);
            assert_eq!(fate, redirected(on_its_way.bytes(), mark), "{packet:?}");
            let fate = lab.send(Hook::FromHost { mark }, &on_its_way)?;
            let delivered = got(net, &on_its_way);
            assert_eq!(fate, redirected(delivered.bytes(), 0), "{packet:?}");
        }
        Ok(())
    })
}

#[test]
fn to_host_and_world_a_slot_is_its_identity() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for destination in [net.gateway, net.uplink, net.peer] {
            for packet in packets(net, destination) {
                let fate = lab.send(Hook::FromSlot(0), &packet)?;
                let shown = shown(net, &packet, 0);
                assert_eq!(fate, redirected(shown.bytes(), EPOCHS[0]), "{packet:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn what_the_host_sends_comes_to_the_inner_address() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for content in CONTENTS {
            let packet = Packet::arriving(GATEWAY_MAC, net.gateway, net.slot(1), content);
            let fate = lab.send(Hook::FromHost { mark: 0 }, &packet)?;
            assert_eq!(
                fate,
                redirected(got(net, &packet).bytes(), 0),
                "{content:?}"
            );
        }
        Ok(())
    })
}

/// The headers are changed twice by one program: for the door, and for the slot.
#[test]
fn what_comes_back_through_a_published_port_comes_to_the_inner_address() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        lab.add_host_address(net.uplink.into())?;
        let target = PortTarget {
            slot: 1,
            epoch: EPOCHS[1],
            port: 80,
            padding: [0; 6],
        };
        lab.publish_port(PortKey::on(Address::ANY, 8080, 6), target)?;
        let tcp = |to| Content::Tcp {
            from: 20_000,
            to,
            flags: SYN,
        };
        let turned = Packet::arriving(GATEWAY_MAC, net.uplink, net.uplink, tcp(8080));
        let fate = lab.send(Hook::FromHost { mark: 1 }, &turned)?;
        let delivered = Packet {
            content: tcp(80),
            ..got(net, &turned)
        };
        assert_eq!(fate, redirected(delivered.bytes(), 0));
        Ok(())
    })
}

#[test]
fn errors_between_slots_quote_what_was_sent() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for kind in net.errors {
            for packet in packets(net, net.slot(1)) {
                for length in [net.least_quote + 24, ALL] {
                    let quoted = got(net, &shown(net, &packet, 0));
                    let error = sent(net, net.slot(0), UDP);
                    let fate =
                        lab.send_bytes(Hook::FromSlot(1), &error.error(kind, &quoted, length))?;
                    let expected = got(net, &shown(net, &error, 1));
                    let bytes = expected.error(kind, &packet, length);
                    assert_eq!(fate, redirected(bytes, 0), "{packet:?}");
                }
            }
        }
        Ok(())
    })
}

#[test]
fn errors_of_the_host_and_of_routers_quote_what_the_slot_sent() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        for content in CONTENTS {
            let packet = sent(net, net.peer, content);
            for (source, mark) in [(net.gateway, 0), (net.router, EPOCHS[0])] {
                let error = Packet::arriving(GATEWAY_MAC, source, net.slot(0), UDP);
                let bytes = error.error(net.errors[1], &shown(net, &packet, 0), ALL);
                let fate = lab.send_bytes(Hook::FromHost { mark }, &bytes)?;
                let expected = got(net, &error).error(net.errors[1], &packet, ALL);
                assert_eq!(fate, redirected(expected, 0), "{packet:?}");
            }
        }
        Ok(())
    })
}

/// What a slot's own address outside is does not concern it: it leads back to it, as any other does to its slot.
#[test]
fn a_slot_reaches_itself_by_its_identity() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = sent(net, net.slot(0), UDP);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        let delivered = got(net, &shown(net, &packet, 0));
        assert_eq!(fate, redirected(delivered.bytes(), 0));
        Ok(())
    })
}

#[test]
fn the_inner_address_leads_nowhere() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let packet = sent(net, inner(net), UDP);
        let fate = lab.send(Hook::FromSlot(0), &packet)?;
        assert_eq!(fate, Fate::Dropped(DropReason::InnerAddress));
        let by_host = Packet::arriving(GATEWAY_MAC, net.gateway, inner(net), UDP);
        let fate = lab.send(Hook::FromHost { mark: 0 }, &by_host)?;
        assert_eq!(fate, Fate::Dropped(DropReason::NoSuchSlot));
        Ok(())
    })
}

#[test]
fn a_slot_sends_from_its_inner_address_and_hardware_address_only() -> Result<()> {
    in_both(|net| {
        let mut lab = lab()?;
        let honest = sent(net, net.peer, UDP);
        let by_identity = Packet {
            source: net.slot(0),
            ..honest.clone()
        };
        let by_another = Packet {
            source: net.slot(1),
            ..honest.clone()
        };
        let by_hardware = Packet {
            source_mac: slot_mac(0),
            ..honest
        };
        for (packet, reason) in [
            (by_identity, DropReason::SpoofedAddress),
            (by_another, DropReason::SpoofedAddress),
            (by_hardware, DropReason::SpoofedMac),
        ] {
            let fate = lab.send(Hook::FromSlot(0), &packet)?;
            assert_eq!(fate, Fate::Dropped(reason), "{packet:?}");
        }
        Ok(())
    })
}

/// A checksum that another fragment holds cannot be changed here.
#[test]
fn a_first_fragment_without_its_checksum_is_dropped() -> Result<()> {
    let mut lab = lab()?;
    let mut bytes = Packet {
        fragment: 0x2000,
        content: Content::Other { protocol: 6 },
        ..sent(&V6, V6.slot(1), UDP)
    }
    .bytes();
    bytes.truncate(bytes.len() - 8);
    let fate = lab.send_bytes(Hook::FromSlot(0), &bytes)?;
    assert_eq!(fate, Fate::Dropped(DropReason::Rewrite));
    Ok(())
}
