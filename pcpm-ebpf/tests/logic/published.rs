//! Which published port an address and port of the host mean.

use std::net::IpAddr;

use pcpm_ebpf::abi::{AttachmentWord, PortKey, PortTarget};
use pcpm_ebpf::address::Address;
use proptest::prelude::*;

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

#[test]
fn any_address_means_this_machine_to_a_socket() {
    for (asked, meant) in [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("127.0.0.2", "127.0.0.2"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::", "2001:db8::"),
    ] {
        let key = PortKey::asked_for(address(asked), 80, 6);
        assert_eq!(key.address, address(meant), "{asked}");
    }
}

#[test]
fn loopback_addresses_are_known_in_both_families() {
    for (text, is_loopback) in [
        ("127.0.0.1", true),
        ("127.255.255.255", true),
        ("128.0.0.1", false),
        ("0.0.0.1", false),
        ("::1", true),
        ("::2", false),
        ("::7f00:1", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(address(text).is_loopback(), is_loopback, "{text}");
    }
}

proptest! {
    #[test]
    fn every_socket_asks_for_one_address(words: [u32; 4], port: u16) {
        let asked = PortKey::asked_for(Address(words), port, 17);
        prop_assert_ne!(asked.address, Address::ANY, "that is the entry of all addresses");
        let again = PortKey::asked_for(asked.address, port, 17);
        prop_assert_eq!(again, asked);
    }

    #[test]
    fn a_port_leads_to_the_attachment_that_published_it(epoch in 1..9_u32, other in 1..9_u32, tenant in 1_u32..) {
        let target = PortTarget { epoch, ..PortTarget::default() };
        prop_assert!(target.is_current(AttachmentWord::attached(epoch, tenant)));
        prop_assert!(!target.is_current(AttachmentWord::detached(epoch)));
        let is_current = target.is_current(AttachmentWord::attached(other, tenant));
        prop_assert_eq!(is_current, other == epoch);
    }
}
