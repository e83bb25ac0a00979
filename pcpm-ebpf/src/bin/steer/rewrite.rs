//! Changing headers: hardware addresses on delivery, addresses and ports for translation.
//!
//! Checksums are updated by the kernel's helpers, which know the states a packet's checksum can be
//! in (computed, left to the device, GSO).

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use pcpm_ebpf::{
    abi::{GATEWAY_MAC, LINK_INDEX_BASE, slot_mac},
    drop_reason::DropReason,
    packet::{
        DESTINATION_MAC_OFFSET, DESTINATION_OFFSET, Frame, IP_CHECKSUM_OFFSET, SOURCE_OFFSET,
        TTL_OFFSET, Transport, TransportKind,
    },
};

use crate::{maps, skb::Skb, verdict::Verdict};

/// Hands a packet to `slot`, whose link is in this hub.
#[inline(always)]
pub(crate) fn deliver(skb: &Skb, slot: u32) -> Result<Verdict, DropReason> {
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

/// Changes the packet's time to live.
#[inline(always)]
pub(crate) fn time_to_live(skb: &Skb, frame: &Frame, ttl: u8) -> Result<(), DropReason> {
    let word = |ttl: u8| u64::from(u16::from_ne_bytes([ttl, frame.protocol]));
    skb.replace_ip_checksum(IP_CHECKSUM_OFFSET, word(frame.ttl), word(ttl), 2)?;
    skb.store(TTL_OFFSET, &ttl)
}

/// Makes the packet come from `address` and `port`.
#[inline(always)]
pub(crate) fn source(
    skb: &Skb,
    frame: &Frame,
    transport: &Transport,
    address: u32,
    port: u16,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    change_address(skb, &checksum, SOURCE_OFFSET, frame.source, address)?;
    let offset = frame.transport_offset + source_port_offset(transport.kind);
    change_port(skb, &checksum, offset, transport.source_port, port)
}

/// Makes the packet go to `address` and `port`.
#[inline(always)]
pub(crate) fn destination(
    skb: &Skb,
    frame: &Frame,
    transport: &Transport,
    address: u32,
    port: u16,
) -> Result<(), DropReason> {
    let checksum = Checksum::of(frame, transport.kind);
    change_address(
        skb,
        &checksum,
        DESTINATION_OFFSET,
        frame.destination,
        address,
    )?;
    let offset = frame.transport_offset + destination_port_offset(transport.kind);
    change_port(skb, &checksum, offset, transport.destination_port, port)
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
            TransportKind::EchoRequest | TransportKind::EchoReply => (2, false, 0),
        };
        Self {
            offset: frame.transport_offset + offset,
            covers_addresses,
            flags,
        }
    }
}

#[inline(always)]
fn change_address(
    skb: &Skb,
    checksum: &Checksum,
    offset: u32,
    from: u32,
    to: u32,
) -> Result<(), DropReason> {
    let to = to.to_be();
    let (old, new) = (u64::from(from.to_be()), u64::from(to));
    if checksum.covers_addresses {
        let flags = checksum.flags | u64::from(BPF_F_PSEUDO_HDR) | 4;
        skb.replace_transport_checksum(checksum.offset, old, new, flags)?;
    }
    skb.replace_ip_checksum(IP_CHECKSUM_OFFSET, old, new, 4)?;
    skb.store(offset, &to)
}

#[inline(always)]
fn change_port(
    skb: &Skb,
    checksum: &Checksum,
    offset: u32,
    from: u16,
    to: u16,
) -> Result<(), DropReason> {
    let to = to.to_be();
    let (old, new) = (u64::from(from.to_be()), u64::from(to));
    skb.replace_transport_checksum(checksum.offset, old, new, checksum.flags | 2)?;
    skb.store(offset, &to)
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
