//! What translation makes of packets: the same as if they had been built with the other address and port.

use pcpm_ebpf::drop_reason::DropReason;
use pcpm_ebpf::icmp_error::Quote;
use pcpm_ebpf::packet::{Frame, Transport};
use pcpm_ebpf::rewrite;
use proptest::prelude::*;

use crate::sent::{ETHERNET, Editable, Sent, address, checksum, nothing, same, sent, sums};

/// Runs `change` over `frame`.
fn edited(
    frame: &[u8],
    change: impl Fn(&Editable, &Frame, &Transport) -> Result<(), DropReason>,
) -> Vec<u8> {
    let parsed = Frame::parse(frame).expect("a frame");
    let transport = Transport::parse(frame, &parsed).expect("ports");
    let editable = Editable::of(frame);
    change(&editable, &parsed, &transport).expect("all of it is there");
    editable.0.into_inner()
}

/// The same with an error and what it quotes.
fn edited_error(
    frame: &[u8],
    change: impl Fn(&Editable, &Frame, &Quote) -> Result<(), DropReason>,
) -> Vec<u8> {
    let parsed = Frame::parse(frame).expect("a frame");
    let quote = Quote::parse(frame, &parsed).expect("an error");
    let editable = Editable::of(frame);
    change(&editable, &parsed, &quote).expect("all of it is there");
    editable.0.into_inner()
}

proptest! {
    #[test]
    fn a_translated_packet_is_as_if_built_with_the_other_address_and_port(
        packet in sent(), to in address(), port: u16,
    ) {
        let to = packet.endpoint(&to, port);
        let sums = sums(&packet, ETHERNET, false);
        let found = edited(&packet.frame(), |editable, frame, transport| {
            rewrite::source(editable, frame, transport, &to, frame.ttl)
        });
        let expected = packet.sent_from(&to).frame();
        prop_assert!(same(&found, &expected, &sums), "{found:02x?}\n{expected:02x?}");
        if packet.kind == 2 {
            return Ok(());
        }
        let found = edited(&packet.frame(), |editable, frame, transport| {
            rewrite::destination(editable, frame, transport, &to)
        });
        let expected = packet.sent_to(&to).frame();
        prop_assert!(same(&found, &expected, &sums), "{found:02x?}\n{expected:02x?}");
    }

    #[test]
    fn translating_there_and_back_changes_nothing(packet in sent(), to in address(), port: u16) {
        let to = packet.endpoint(&to, port);
        let own = packet.endpoint(&packet.source, packet.source_port);
        let original = packet.frame();
        let there = edited(&original, |editable, frame, transport| {
            rewrite::source(editable, frame, transport, &to, frame.ttl)
        });
        let back = edited(&there, |editable, frame, transport| {
            rewrite::source(editable, frame, transport, &own, frame.ttl)
        });
        prop_assert!(same(&back, &original, &sums(&packet, ETHERNET, false)));
    }

    #[test]
    fn a_udp_checksum_stays_none_or_stays_one(packet in sent(), to in address(), port: u16) {
        let packet = Sent { kind: 1, ..packet };
        let to = packet.endpoint(&to, port);
        let found = edited(&packet.frame(), |editable, frame, transport| {
            rewrite::source(editable, frame, transport, &to, frame.ttl)
        });
        let [_, sum] = sums(&packet, ETHERNET, false);
        prop_assert_eq!(found[sum..sum + 2] == [0, 0], packet.unchecked);
    }

    #[test]
    fn a_translated_error_quotes_the_packet_as_its_sender_built_it(
        packet in sent(),
        router in address(),
        to in address(),
        port: u16,
        around_options in 0_u8..=2,
        words in 0_usize..60,
    ) {
        // Every error quotes the IP header and 8 bytes. Half a checksum cannot be changed, so none ends
        // within one.
        let header = if packet.is_v6 { 40 } else { 20 };
        let length = header + usize::from(packet.options) * 8 + 8 + 2 * words;
        let to = packet.endpoint(&to, port);
        let own = packet.sent_from(&to);
        let around = Sent {
            source: router,
            destination: packet.source,
            options: around_options,
            ..packet.clone()
        };
        let found = edited_error(&around.error(&packet, length), |editable, frame, quote| {
            rewrite::quoted_source(editable, frame, quote, &to)?;
            rewrite::error_destination(editable, frame, &to.address)
        });
        let around = Sent { destination: own.source, ..around };
        let expected = around.error(&own, length);
        let quoted = sums(&around, ETHERNET, true)[1] + 6;
        let places = [sums(&around, ETHERNET, true), sums(&packet, quoted, false)].concat();
        prop_assert!(same(&found, &expected, &places), "{found:02x?}\n{expected:02x?}");
    }

    #[test]
    fn an_error_of_a_slot_quotes_the_packet_as_the_peer_sent_it(
        packet in sent(), to in address(), port: u16, words in 0_usize..60,
    ) {
        // What came to a slot has its address and port; an echo has one identifier for both.
        prop_assume!(packet.kind != 2);
        let header = if packet.is_v6 { 40 } else { 20 };
        let length = header + usize::from(packet.options) * 8 + 8 + 2 * words;
        let to = packet.endpoint(&to, port);
        let shown = packet.sent_to(&to);
        let around = Sent {
            source: packet.destination,
            destination: packet.source,
            options: 0,
            ..packet.clone()
        };
        let found = edited_error(&around.error(&packet, length), |editable, frame, quote| {
            rewrite::quoted_destination(editable, frame, quote, &to)?;
            rewrite::error_source(editable, frame, &to.address, frame.ttl)
        });
        let around = Sent { source: shown.destination, ..around };
        let expected = around.error(&shown, length);
        let quoted = sums(&around, ETHERNET, true)[1] + 6;
        let places = [sums(&around, ETHERNET, true), sums(&packet, quoted, false)].concat();
        prop_assert!(same(&found, &expected, &places), "{found:02x?}\n{expected:02x?}");
    }

    /// A program that has read a packet's headers never fails to change them.
    #[test]
    fn what_was_read_of_any_bytes_can_be_changed(
        is_v6: bool,
        protocol in prop::sample::select(vec![0, 1, 6, 17, 43, 44, 58, 60]),
        rest in prop::collection::vec(any::<u8>(), 0..140),
        to in address(),
        port: u16,
    ) {
        let packet = Sent { is_v6, ..nothing() };
        let bytes = packet.around(protocol, &rest);
        let to = packet.endpoint(&to, port);
        let Ok(frame) = Frame::parse(bytes.as_slice()) else { return Ok(()) };
        let editable = Editable::of(&bytes);
        if let Ok(transport) = Transport::parse(bytes.as_slice(), &frame) {
            prop_assert!(rewrite::source(&editable, &frame, &transport, &to, 1).is_ok());
            prop_assert!(rewrite::destination(&editable, &frame, &transport, &to).is_ok());
        }
        if let Ok(quote) = Quote::parse(bytes.as_slice(), &frame) {
            prop_assert!(rewrite::quoted_source(&editable, &frame, &quote, &to).is_ok());
            prop_assert!(rewrite::quoted_destination(&editable, &frame, &quote, &to).is_ok());
            prop_assert!(rewrite::error_source(&editable, &frame, &to.address, 1).is_ok());
        }
        prop_assert_eq!(editable.0.into_inner().len(), bytes.len());
    }

    #[test]
    fn a_header_with_less_time_to_live_has_a_right_checksum(
        packet in sent(), to in address(), ttl: u8,
    ) {
        let to = packet.endpoint(&to, 0).address;
        let found = edited(&packet.frame(), |editable, frame, _| {
            rewrite::ip_source(editable, frame, &to, ttl)
        });
        let frame = Frame::parse(found.as_slice()).expect("a frame");
        prop_assert_eq!((frame.source, frame.ttl), (to, ttl));
        if !packet.is_v6 {
            let end = ETHERNET + 20 + usize::from(packet.options) * 8;
            prop_assert_eq!(checksum(&found[ETHERNET..end]), 0);
        }
    }
}
