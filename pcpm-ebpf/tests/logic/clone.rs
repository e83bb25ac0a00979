//! Slots with one inner address: at their edges a packet becomes the same as if it had been built with the other
//! address, whatever it carries.

use pcpm_ebpf::address::Address;
use pcpm_ebpf::clone;
use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::icmp_error::{QuotedAddresses, quoted_header};
use pcpm_ebpf::packet::Frame;
use proptest::prelude::*;

use crate::sent::{
    ETHERNET, Editable, Sent, address, bytes_of, checksum, nothing, same, sent, sums,
};

/// What becomes of `bytes` that a slot sends, which has the address `identity` outside.
fn left(bytes: &[u8], identity: &Address) -> Result<Vec<u8>, DropReason> {
    let frame = Frame::parse(bytes)?;
    let editable = Editable::of(bytes);
    let quoted = quoted(bytes, &frame);
    clone::leave(&editable, &frame, quoted.as_ref(), identity)?;
    Ok(editable.0.into_inner())
}

/// What becomes of `bytes` that are delivered to a slot, which has the address `inner` inside.
fn entered(bytes: &[u8], identity: &Address, inner: &Address) -> Result<Vec<u8>, DropReason> {
    let frame = Frame::parse(bytes)?;
    let editable = Editable::of(bytes);
    let quoted = quoted(bytes, &frame);
    clone::enter(&editable, &frame, quoted.as_ref(), identity, inner)?;
    Ok(editable.0.into_inner())
}

fn quoted(bytes: &[u8], frame: &Frame) -> Option<QuotedAddresses> {
    let header = quoted_header(bytes, frame).ok()?;
    Some(QuotedAddresses::of(bytes, frame, &header))
}

/// The address that `packet` has in its version of IP.
fn of_packet(packet: &Sent, address: &[u8; 16]) -> Address {
    packet.endpoint(address, 0).address
}

fn from(packet: &Sent, identity: &Address) -> Sent {
    Sent {
        source: bytes_of(identity),
        ..packet.clone()
    }
}

fn to(packet: &Sent, inner: &Address) -> Sent {
    Sent {
        destination: bytes_of(inner),
        ..packet.clone()
    }
}

/// An error by the receiver of `quoted`.
fn answer(quoted: &Sent) -> Sent {
    Sent {
        source: quoted.destination,
        destination: quoted.source,
        options: 0,
        ..quoted.clone()
    }
}

/// How much an error quotes: all headers, 8 bytes, and `words` of 16 bits. Half a checksum is none.
fn quoted_length(packet: &Sent, words: usize) -> usize {
    let header = if packet.is_v6 { 40 } else { 20 };
    header + usize::from(packet.options) * 8 + 8 + 2 * words
}

/// Where the checksums are of an error by `around` that quotes `quoted`.
fn error_sums(around: &Sent, quoted: &Sent) -> Vec<usize> {
    let outer = sums(around, ETHERNET, true);
    [outer, sums(quoted, outer[1] + 6, false)].concat()
}

proptest! {
    #[test]
    fn what_a_slot_sends_is_as_if_built_by_its_identity(packet in sent(), identity in address()) {
        let identity = of_packet(&packet, &identity);
        let found = left(&packet.frame(), &identity).expect("all of it is there");
        let expected = from(&packet, &identity).frame();
        prop_assert!(same(&found, &expected, &sums(&packet, ETHERNET, false)));
    }

    #[test]
    fn what_a_slot_gets_is_as_if_built_for_its_inner_address(packet in sent(), inner in address()) {
        let (identity, inner) = (of_packet(&packet, &packet.destination), of_packet(&packet, &inner));
        let found = entered(&packet.frame(), &identity, &inner).expect("all of it is there");
        let expected = to(&packet, &inner).frame();
        prop_assert!(same(&found, &expected, &sums(&packet, ETHERNET, false)));
    }

    /// As slots see it: what one sends to another's identity and gets back is what the other one answered.
    #[test]
    fn there_and_back_is_the_identity(packet in sent(), identity in address(), other in address()) {
        let inner = of_packet(&packet, &packet.source);
        let [identity, other] = [identity, other].map(|address| of_packet(&packet, &address));
        let packet = to(&packet, &other);
        let out = left(&packet.frame(), &identity).expect("all of it is there");
        let delivered = entered(&out, &other, &inner).expect("all of it is there");
        let expected = to(&from(&packet, &identity), &inner);
        prop_assert!(same(&delivered, &expected.frame(), &sums(&packet, ETHERNET, false)));
        let answered = left(&to(&packet, &identity).frame(), &other).expect("all of it is there");
        let back = entered(&answered, &identity, &inner).expect("all of it is there");
        let expected = to(&from(&packet, &other), &inner).frame();
        prop_assert!(same(&back, &expected, &sums(&packet, ETHERNET, false)));
    }

    #[test]
    fn an_error_by_a_slot_quotes_what_its_peer_sent(
        packet in sent(), identity in address(), words in 0_usize..60,
    ) {
        let identity = of_packet(&packet, &identity);
        let length = quoted_length(&packet, words);
        let around = answer(&packet);
        let found = left(&around.error(&packet, length), &identity).expect("all of it is there");
        let around = from(&around, &identity);
        let expected = around.error(&to(&packet, &identity), length);
        prop_assert!(
            same(&found, &expected, &error_sums(&around, &packet)), "{found:02x?}\n{expected:02x?}"
        );
    }

    #[test]
    fn an_error_for_a_slot_quotes_what_it_sent(
        packet in sent(), router in address(), inner in address(), words in 0_usize..60,
    ) {
        let (identity, inner) = (of_packet(&packet, &packet.source), of_packet(&packet, &inner));
        let length = quoted_length(&packet, words);
        let around = Sent { source: router, ..answer(&packet) };
        let found = entered(&around.error(&packet, length), &identity, &inner);
        let found = found.expect("all of it is there");
        let around = to(&around, &inner);
        let expected = around.error(&from(&packet, &inner), length);
        prop_assert!(
            same(&found, &expected, &error_sums(&around, &packet)), "{found:02x?}\n{expected:02x?}"
        );
    }

    /// Of somebody else's packet nothing in the quote is ours.
    #[test]
    fn a_quote_of_another_packet_stays(packet in sent(), inner in address(), other in address()) {
        prop_assume!(other != packet.source && other[..4] != packet.source[..4]);
        let (identity, inner) = (of_packet(&packet, &packet.source), of_packet(&packet, &inner));
        let quoted = Sent { source: other, ..packet.clone() };
        let around = answer(&packet);
        let found = entered(&around.error(&quoted, 200), &identity, &inner).expect("it is there");
        let expected = to(&around, &inner).error(&quoted, 200);
        prop_assert!(same(&found, &expected, &error_sums(&around, &quoted)));
    }

    /// What has no checksum over the addresses changes in its IP header alone: other protocols, later fragments,
    /// and other messages of ICMP.
    #[test]
    fn what_covers_no_addresses_keeps_its_bytes(
        is_v6: bool, offset in 1_u16..0x1fff, rest in prop::collection::vec(any::<u8>(), 0..40),
        identity in address(),
    ) {
        let packet = Sent { is_v6, ..nothing() };
        let identity = of_packet(&packet, &identity);
        for protocol in [17, 47, 132] {
            let (protocol, payload) = match (protocol, is_v6) {
                (17, true) => {
                    let place = (offset << 3).to_be_bytes();
                    (44, [&[17, 0][..], &place, &[0, 0, 0, 1], &rest].concat())
                }
                _ => (protocol, rest.clone()),
            };
            let mut sent = packet.around(protocol, &payload);
            let mut expected = from(&packet, &identity).around(protocol, &payload);
            if protocol == 17 {
                for bytes in [&mut sent, &mut expected] {
                    fragment(bytes, offset);
                }
            }
            let found = left(&sent, &identity).expect("there is nothing to miss");
            let sums = sums(&packet, ETHERNET, false);
            prop_assert!(same(&found, &expected, &sums[..1]), "{found:02x?}\n{expected:02x?}");
        }
    }

    #[test]
    fn any_bytes_are_changed_in_place_or_dropped(
        is_v6: bool,
        protocol in prop::sample::select(vec![0, 1, 6, 17, 33, 43, 44, 58, 60, 136]),
        rest in prop::collection::vec(any::<u8>(), 0..140),
        identity in address(),
        inner in address(),
    ) {
        let packet = Sent { is_v6, ..nothing() };
        let bytes = packet.around(protocol, &rest);
        let [identity, inner] = [identity, inner].map(|address| of_packet(&packet, &address));
        for changed in [left(&bytes, &identity), entered(&bytes, &identity, &inner)].into_iter().flatten() {
            prop_assert_eq!(changed.len(), bytes.len());
        }
    }

    #[test]
    fn nothing_leaves_for_the_inner_address(packet in sent(), identity in address()) {
        let packet = Sent { destination: packet.source, ..packet };
        let found = left(&packet.frame(), &of_packet(&packet, &identity));
        prop_assert_eq!(found, Err(DropReason::InnerAddress));
    }
}

/// Makes an IPv4 packet a fragment, with the right checksum.
fn fragment(bytes: &mut [u8], offset: u16) {
    let header = &mut bytes[ETHERNET..ETHERNET + 20];
    header[6..8].copy_from_slice(&offset.to_be_bytes());
    header[10..12].fill(0);
    let sum = checksum(header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
}

/// Checksums of UDP-Lite and DCCP stand where that of UDP does, and cover the addresses as it does.
#[test]
fn rarer_protocols_with_a_pseudo_header_keep_right_checksums() {
    for (protocol, is_v6) in [(33, false), (33, true), (136, false), (136, true)] {
        let packet = Sent { is_v6, ..nothing() };
        let identity = of_packet(&packet, &[0x44; 16]);
        let unsealed = [[7; 6].as_slice(), &[0; 2], &[7; 8]].concat();
        let payload = packet.sealed(protocol, unsealed.clone(), 6);
        let found = left(&packet.around(protocol, &payload), &identity);
        let shown = from(&packet, &identity);
        let payload = shown.sealed(protocol, unsealed, 6);
        assert_eq!(found, Ok(shown.around(protocol, &payload)), "{protocol}");
    }
}
