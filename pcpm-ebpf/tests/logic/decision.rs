//! What may pass, and where to.

use std::net::IpAddr;

use crate::frames::{Ipv4, icmp, ports};
use pcpm_ebpf::abi::{AttachmentWord, Config, GATEWAY_MAC, slot_mac};
use pcpm_ebpf::address::Address;
use pcpm_ebpf::decision::{
    Destination, check_mark, check_sender, check_tenants, destination, is_gateway_ping, next_ttl,
};
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::packet::{Family, protocol};
use proptest::prelude::*;

const CONFIG: Config = Config {
    pool_base: u32::from_be_bytes([10, 213, 0, 0]),
    pool_mask: 0xffff_0000,
    capacity: 600,
    pool6: Address([0xfd00_7063_u32.to_be(), 0x706d_0000_u32.to_be(), 0, 0]),
    pool6_mask: Address([u32::MAX, u32::MAX, 0, 0]),
    nat_port_first: 16_384,
    nat_port_last: 32_767,
    world_is_closed: 0,
    ipv6_is_routed: 0,
    host_forwards: 0,
    padding: 0,
    slots_are_clones: 0,
    inner: Address::ANY,
    inner6: Address::ANY,
    abi_version: pcpm_ebpf::abi::ABI_VERSION,
    host_netns: 0,
};

fn from_slot_seven() -> Ipv4 {
    Ipv4 {
        destination_mac: GATEWAY_MAC,
        source_mac: slot_mac(7),
        source: [10, 213, 0, 7],
        ..Ipv4::default()
    }
}

#[test]
fn a_slot_sends_from_its_own_addresses_to_its_gateway() {
    let cases = [
        (from_slot_seven(), Ok(())),
        (
            Ipv4 {
                destination_mac: slot_mac(8),
                ..from_slot_seven()
            },
            Err(DropReason::WrongNextHop),
        ),
        (
            Ipv4 {
                destination_mac: [0xff; 6],
                ..from_slot_seven()
            },
            Err(DropReason::WrongNextHop),
        ),
        (
            Ipv4 {
                source_mac: slot_mac(8),
                ..from_slot_seven()
            },
            Err(DropReason::SpoofedMac),
        ),
        (
            Ipv4 {
                source: [10, 213, 0, 8],
                ..from_slot_seven()
            },
            Err(DropReason::SpoofedAddress),
        ),
        (
            Ipv4 {
                source: [0, 0, 0, 0],
                ..from_slot_seven()
            },
            Err(DropReason::SpoofedAddress),
        ),
    ];
    for (packet, verdict) in cases {
        assert_eq!(
            check_sender(&CONFIG, 7, &packet.frame()),
            verdict,
            "{packet:?}"
        );
    }
}

#[test]
fn destinations_are_slots_the_host_or_nowhere() {
    let cases = [
        ("10.213.0.0", Ok(Destination::Slot(0))),
        ("10.213.2.87", Ok(Destination::Slot(599))),
        ("10.213.2.88", Err(DropReason::NoSuchSlot)),
        ("10.213.255.255", Err(DropReason::NoSuchSlot)),
        ("10.214.0.0", Ok(Destination::Host)),
        ("169.254.1.1", Ok(Destination::Host)),
        ("169.254.1.2", Err(DropReason::Metadata)),
        ("169.254.169.254", Err(DropReason::Metadata)),
        ("224.0.0.1", Err(DropReason::Multicast)),
        ("239.255.255.250", Err(DropReason::Multicast)),
        ("255.255.255.255", Err(DropReason::Broadcast)),
        ("0.0.0.0", Err(DropReason::Reserved)),
        ("127.0.0.1", Err(DropReason::Reserved)),
        ("240.0.0.1", Err(DropReason::Reserved)),
        ("255.255.255.254", Err(DropReason::Reserved)),
        ("192.0.2.1", Ok(Destination::Host)),
        ("fd00:7063:706d::", Ok(Destination::Slot(0))),
        ("fd00:7063:706d::257", Ok(Destination::Slot(599))),
        ("fd00:7063:706d::258", Err(DropReason::NoSuchSlot)),
        ("fd00:7063:706d::1:0:1", Err(DropReason::NoSuchSlot)),
        ("fd00:7063:706d:0:8000::", Err(DropReason::NoSuchSlot)),
        ("fd00:7063:706d:1::", Ok(Destination::Host)),
        ("fe80::1", Ok(Destination::Host)),
        ("fe80::2", Err(DropReason::Metadata)),
        ("febf::1", Err(DropReason::Metadata)),
        ("fd00:ec2::254", Err(DropReason::Metadata)),
        ("ff02::1", Err(DropReason::Multicast)),
        ("::", Err(DropReason::Reserved)),
        ("::1", Err(DropReason::Reserved)),
        ("64:ff9b::808:808", Ok(Destination::Host)),
        ("2001:db8::1", Ok(Destination::Host)),
        ("8.8.8.8", Ok(Destination::Host)),
    ];
    for (address, expected) in cases {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(destination(&CONFIG, &address.into()), expected, "{address}");
    }
}

#[test]
fn without_a_configuration_every_destination_is_refused() {
    for address in [0, 0x0808_0808, u32::MAX] {
        let refused = destination(&Config::default(), &Address::v4(address));
        assert_eq!(refused, Err(DropReason::NoSuchSlot));
    }
}

#[test]
fn tenants_are_kept_apart() {
    let sender = AttachmentWord::attached(1, 5);
    let cases = [
        (AttachmentWord::attached(9, 5), Ok(())),
        (AttachmentWord::attached(1, 6), Err(DropReason::OtherTenant)),
        (
            AttachmentWord::detached(1),
            Err(DropReason::DestinationDetached),
        ),
        (
            AttachmentWord::default(),
            Err(DropReason::DestinationDetached),
        ),
    ];
    for (receiver, verdict) in cases {
        assert_eq!(check_tenants(sender, receiver), verdict, "{receiver:?}");
    }
}

#[test]
fn a_packet_passes_only_for_the_attachment_it_was_authorised_for() {
    let word = AttachmentWord::attached(3, 1);
    let cases = [
        (3, word, Ok(())),
        (2, word, Err(DropReason::Stale)),
        (4, word, Err(DropReason::Stale)),
        (0, word, Err(DropReason::NotAuthorised)),
        (3, AttachmentWord::detached(3), Err(DropReason::Stale)),
        (0, AttachmentWord::default(), Err(DropReason::NotAuthorised)),
    ];
    for (mark, word, verdict) in cases {
        assert_eq!(check_mark(mark, word), verdict, "mark {mark} for {word:?}");
    }
}

#[test]
fn a_forwarded_packet_lives_a_hop_less() {
    assert_eq!(next_ttl(64), Some(63));
    assert_eq!(next_ttl(2), Some(1));
    for spent in [0, 1] {
        assert_eq!(next_ttl(spent), None);
    }
}

#[test]
fn only_an_echo_request_to_the_gateway_is_its_ping() {
    let ping = Ipv4 {
        destination: [169, 254, 1, 1],
        protocol: protocol::ICMP,
        payload: icmp(8, 1).to_vec(),
        ..from_slot_seven()
    };
    let others = [
        Ipv4 {
            payload: icmp(0, 1).to_vec(),
            ..ping.clone()
        },
        Ipv4 {
            destination: [192, 0, 2, 1],
            ..ping.clone()
        },
        Ipv4 {
            protocol: protocol::UDP,
            payload: ports(1, 2).to_vec(),
            ..ping.clone()
        },
    ];
    assert!(is_gateway_ping(&ping.frame(), &ping.transport()));
    for other in others {
        assert!(
            !is_gateway_ping(&other.frame(), &other.transport()),
            "{other:?}"
        );
    }
}

proptest! {
    #[test]
    fn a_slot_is_found_by_its_address(index in 0..CONFIG.capacity) {
        for family in [Family::V4, Family::V6] {
            let address = CONFIG.slot_address(index, family);
            prop_assert_eq!(Family::of(&address), family);
            prop_assert_eq!(destination(&CONFIG, &address), Ok(Destination::Slot(index)));
        }
    }

    #[test]
    fn an_address_outside_the_pool_is_never_a_slot(address: u32) {
        prop_assume!(address >> 16 != CONFIG.pool_base >> 16);
        let address = Address::v4(address);
        let is_slot = matches!(destination(&CONFIG, &address), Ok(Destination::Slot(_)));
        prop_assert!(!is_slot);
        prop_assert_eq!(CONFIG.slot_of(&address), None);
    }

    #[test]
    fn a_word_holds_epoch_and_tenant(epoch: u32, tenant in 1..u32::MAX) {
        let word = AttachmentWord::attached(epoch, tenant);
        prop_assert_eq!((word.epoch(), word.tenant()), (epoch, tenant));
        prop_assert!(!AttachmentWord::detached(epoch).is_attached());
    }
}
