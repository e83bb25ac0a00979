//! Changing headers: hardware addresses on delivery, addresses and ports for translation.
//!
//! Checksums are updated by the kernel's helpers, which know the states a packet's checksum can be
//! in (computed, left to the device, GSO).

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use pcpm_ebpf::{
    abi::{GATEWAY_MAC, LINK_INDEX_BASE, slot_mac},
    address::Address,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::Endpoint,
    packet::{
        CHECKSUM_IN_ICMP, CHECKSUM_IN_IP, DESTINATION_IN_IP, DESTINATION_IN_IPV6,
        DESTINATION_MAC_OFFSET, DO_NOT_FRAGMENT, ETHERNET_LENGTH, FRAGMENT_FLAGS_OFFSET, Family,
        Frame, HOP_LIMIT_OFFSET, IP_CHECKSUM_OFFSET, PacketFields as _, SOURCE_IN_IP,
        SOURCE_IN_IPV6, TTL_OFFSET, Transport, TransportKind, protocol,
    },
};

use crate::{limits, maps, policy::Holder, skb::Skb, verdict::Verdict};

/// Hands a packet to a slot whose link is in this hub, unless that would be too much for it.
#[inline(always)]
pub(crate) fn deliver(skb: &Skb, frame: &Frame, receiver: &Holder) -> Result<Verdict, DropReason> {
    limits::take_down(skb, frame, receiver)?;
    let slot = receiver.slot;
    skb.store(DESTINATION_MAC_OFFSET, &hardware_addresses(slot))?;
    maps::count_received(slot, skb);
    Ok(skb.redirect_peer(LINK_INDEX_BASE + slot))
}

/// Destination and source of a frame to `slot`, as the frame begins; in words, because bytes would
/// be copied from a constant in another map.
#[inline(always)]
const fn hardware_addresses(slot: u32) -> [u32; 3] {
    let [a, b, c, d, e, f] = slot_mac(slot);
    let [g, h, i, j, k, l] = GATEWAY_MAC;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ]
}

/// Changes the packet's time to live, or hop limit.
#[inline(always)]
pub(crate) fn time_to_live(skb: &Skb, frame: &Frame, ttl: u8) -> Result<(), DropReason> {
    if !frame.is_v4() {
        return skb.store_summed(HOP_LIMIT_OFFSET, &ttl);
    }
    let word = |ttl: u8| u64::from(u16::from_ne_bytes([ttl, frame.protocol]));
    skb.replace_ip_checksum(IP_CHECKSUM_OFFSET, word(frame.ttl), word(ttl), 2)?;
    skb.store(TTL_OFFSET, &ttl)
}

/// Says that no router may take the packet apart.
#[inline(always)]
pub(crate) fn forbid_fragments(skb: &Skb) -> Result<(), DropReason> {
    let [flags] = skb
        .fields(FRAGMENT_FLAGS_OFFSET)
        .ok_or(DropReason::Malformed)?;
    let forbidden: u16 = flags | DO_NOT_FRAGMENT;
    let (old, new) = (in_memory(flags), in_memory(forbidden));
    skb.replace_ip_checksum(IP_CHECKSUM_OFFSET, old, new, 2)?;
    skb.store(FRAGMENT_FLAGS_OFFSET, &forbidden.to_be())
}

/// Makes the packet come from `to`.
#[inline(always)]
pub(crate) fn source(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    cover_address(&skb, &checksum, &frame.source, &to.address)?;
    ip_source(&skb, frame, &to.address)?;
    let offset = frame.transport_offset + source_port_offset(transport.kind);
    change_port(&skb, &checksum, offset, transport.source_port, to.port)
}

/// Makes the packet go to `to`.
#[inline(always)]
pub(crate) fn destination(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    cover_address(&skb, &checksum, &frame.destination, &to.address)?;
    ip_destination(&skb, frame, &to.address)?;
    let offset = frame.transport_offset + destination_port_offset(transport.kind);
    change_port(&skb, &checksum, offset, transport.destination_port, to.port)
}

/// Makes a packet without a transport header come from `to`.
#[inline(always)]
pub(crate) fn ip_source(skb: &Skb, frame: &Frame, to: &Address) -> Result<(), DropReason> {
    change_address(
        skb,
        source_at(frame.family, ETHERNET_LENGTH),
        &frame.source,
        to,
    )
}

/// Makes a packet without a transport header go to `to`.
#[inline(always)]
pub(crate) fn ip_destination(skb: &Skb, frame: &Frame, to: &Address) -> Result<(), DropReason> {
    let place = destination_at(frame.family, ETHERNET_LENGTH);
    change_address(skb, place, &frame.destination, to)
}

/// Makes an error come from `to`.
#[inline(always)]
pub(crate) fn error_source(skb: &Skb, frame: &Frame, to: &Address) -> Result<(), DropReason> {
    cover_address(skb, &Checksum::of_error(frame), &frame.source, to)?;
    ip_source(skb, frame, to)
}

/// Makes an error go to `to`.
#[inline(always)]
pub(crate) fn error_destination(skb: &Skb, frame: &Frame, to: &Address) -> Result<(), DropReason> {
    cover_address(skb, &Checksum::of_error(frame), &frame.destination, to)?;
    ip_destination(skb, frame, to)
}

/// Makes the packet that an error quotes come from `to`.
#[inline(always)]
pub(crate) fn quoted_source(
    skb: Skb,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let from = Endpoint {
        address: quote.source,
        port: quote.transport.source_port,
    };
    let place = source_at(quote.family, quote.ip_offset);
    change_address(&skb, place, &from.address, &to.address)?;
    quoted_sums(&skb, frame, quote, &from, to)?;
    let offset = quote.transport_offset + source_port_offset(quote.transport.kind);
    skb.store(offset, &to.port.to_be())
}

/// Makes the packet that an error quotes go to `to`.
#[inline(always)]
pub(crate) fn quoted_destination(
    skb: Skb,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let from = Endpoint {
        address: quote.destination,
        port: quote.transport.destination_port,
    };
    let place = destination_at(quote.family, quote.ip_offset);
    change_address(&skb, place, &from.address, &to.address)?;
    quoted_sums(&skb, frame, quote, &from, to)?;
    let offset = quote.transport_offset + destination_port_offset(quote.transport.kind);
    skb.store(offset, &to.port.to_be())
}

/// Updates the quoted transport checksum, if it is in the quote, and that of the error around it,
/// for a change of the quoted address and port.
///
/// The latter covers all of the quote. Where a field and a checksum that covers it change within the
/// quote, the sum over both stays; only what is not made up for in the quote counts:
///
/// - IPv4: the port when there is no quoted checksum, and the address when there is, whose change it
///   carries as well as the IP header's checksum does;
/// - IPv6, whose header has no checksum: both when there is no quoted checksum.
#[inline(always)]
fn quoted_sums(
    skb: &Skb,
    frame: &Frame,
    quote: &Quote,
    from: &Endpoint,
    to: &Endpoint,
) -> Result<(), DropReason> {
    let outer = frame.transport_offset + CHECKSUM_IN_ICMP;
    let (old, new) = (in_memory(from.port), in_memory(to.port));
    let addresses = skb.difference(&from.address, &to.address);
    let is_v4 = matches!(quote.family, Family::V4);
    if quote.checksum_offset == 0 {
        if !is_v4 {
            skb.replace_transport_checksum(outer, 0, addresses, 0)?;
        }
        return skb.replace_transport_checksum(outer, old, new, 2);
    }
    // The helper for IP headers adds up, without regard to what the device may still have to do.
    skb.replace_ip_checksum(quote.checksum_offset, old, new, 2)?;
    if quote.protocol == protocol::ICMP {
        return Ok(());
    }
    skb.replace_ip_checksum(quote.checksum_offset, 0, addresses, 0)?;
    if is_v4 {
        skb.replace_transport_checksum(outer, ipv4(&to.address), ipv4(&from.address), 4)?;
    }
    Ok(())
}

/// Where the transport checksum is, and what it covers.
struct Checksum {
    offset: u32,
    covers_addresses: bool,
    flags: u64,
}

impl Checksum {
    #[inline(always)]
    fn of(frame: &Frame, kind: TransportKind) -> Self {
        let (offset, covers_addresses, flags) = match kind {
            TransportKind::Tcp => (16, true, 0),
            // A UDP checksum of 0 means none, and one that comes out as 0 is sent as 0xffff.
            TransportKind::Udp => (6, true, u64::from(BPF_F_MARK_MANGLED_0)),
            TransportKind::EchoRequest | TransportKind::EchoReply => {
                (CHECKSUM_IN_ICMP, !frame.is_v4(), 0)
            }
        };
        Self {
            offset: frame.transport_offset + offset,
            covers_addresses,
            flags,
        }
    }

    #[inline(always)]
    fn of_error(frame: &Frame) -> Self {
        Self {
            offset: frame.transport_offset + CHECKSUM_IN_ICMP,
            covers_addresses: !frame.is_v4(),
            flags: 0,
        }
    }
}

/// Updates the transport checksum for a change of one of the addresses.
#[inline(always)]
fn cover_address(
    skb: &Skb,
    checksum: &Checksum,
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    if !checksum.covers_addresses {
        return Ok(());
    }
    let flags = checksum.flags | u64::from(BPF_F_PSEUDO_HDR);
    if from.is_v4() {
        return skb.replace_transport_checksum(checksum.offset, ipv4(from), ipv4(to), flags | 4);
    }
    let difference = skb.difference(from, to);
    skb.replace_transport_checksum(checksum.offset, 0, difference, flags)?;
    skb.keep_received_sum(difference);
    Ok(())
}

/// Where the source address is of an IP header at `offset`.
#[inline(always)]
const fn source_at(family: Family, offset: u32) -> (u32, u32) {
    match family {
        Family::V4 => (offset, offset + SOURCE_IN_IP),
        Family::V6 => (offset, offset + SOURCE_IN_IPV6),
    }
}

/// Where the destination address is of an IP header at `offset`.
#[inline(always)]
const fn destination_at(family: Family, offset: u32) -> (u32, u32) {
    match family {
        Family::V4 => (offset, offset + DESTINATION_IN_IP),
        Family::V6 => (offset, offset + DESTINATION_IN_IPV6),
    }
}

/// Changes an address in an IP header, and its checksum if it has one. `place` is where the header
/// and the address begin.
#[inline(always)]
fn change_address(
    skb: &Skb,
    place: (u32, u32),
    from: &Address,
    to: &Address,
) -> Result<(), DropReason> {
    let (header, field) = place;
    if !from.is_v4() {
        return skb.store(field, to);
    }
    skb.replace_ip_checksum(header + CHECKSUM_IN_IP, ipv4(from), ipv4(to), 4)?;
    skb.store(field, &to.0[3])
}

/// An IPv4 address as the checksum helpers want it.
#[inline(always)]
fn ipv4(address: &Address) -> u64 {
    u64::from(address.0[3])
}

#[inline(always)]
fn change_port(
    skb: &Skb,
    checksum: &Checksum,
    offset: u32,
    from: u16,
    to: u16,
) -> Result<(), DropReason> {
    let (old, new) = (in_memory(from), in_memory(to));
    skb.replace_transport_checksum(checksum.offset, old, new, checksum.flags | 2)?;
    skb.store(offset, &to.to_be())
}

/// A field as the checksum helpers want it.
#[inline(always)]
fn in_memory(field: u16) -> u64 {
    u64::from(field.to_be())
}

/// An echo's identifier stands at the same place in request and reply.
#[inline(always)]
const fn source_port_offset(kind: TransportKind) -> u32 {
    match kind {
        TransportKind::Tcp | TransportKind::Udp => 0,
        TransportKind::EchoRequest | TransportKind::EchoReply => 4,
    }
}

#[inline(always)]
const fn destination_port_offset(kind: TransportKind) -> u32 {
    match kind {
        TransportKind::Tcp | TransportKind::Udp => 2,
        TransportKind::EchoRequest | TransportKind::EchoReply => 4,
    }
}
