//! Changing headers: hardware addresses on delivery; for translation as `pcpm_ebpf::rewrite` says.

pub(crate) use pcpm_ebpf::rewrite::{error_destination, forbid_fragments, ip_destination};
use pcpm_ebpf::{
    abi::{GATEWAY_MAC, LINK_INDEX_BASE},
    address::Address,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::Endpoint,
    packet::{DESTINATION_MAC_OFFSET, Frame, Transport},
    rewrite::{self, PacketEditor as _},
};

use crate::{global, limits, maps, policy::Holder, skb::Skb, verdict::Verdict};

/// Hands a packet to a slot whose link is in this hub, unless that would be too much for it.
#[inline(always)]
pub(crate) fn deliver(skb: &Skb, frame: &Frame, receiver: &Holder) -> Result<Verdict, DropReason> {
    limits::take_down(skb, frame, receiver)?;
    let slot = receiver.slot;
    let config = maps::config()?;
    if config.is_clone() {
        global::enter_clone(*skb, frame, slot)?;
    }
    skb.store(
        DESTINATION_MAC_OFFSET,
        &hardware_addresses(config.slot_mac(slot)),
    )?;
    maps::count_received(slot, skb);
    Ok(skb.redirect_peer(LINK_INDEX_BASE + slot))
}

/// Destination and source of a frame to a slot, as the frame begins; in words, because bytes would
/// be copied from a constant in another map.
#[inline(always)]
const fn hardware_addresses(slot_mac: [u8; 6]) -> [u32; 3] {
    let [a, b, c, d, e, f] = slot_mac;
    let [g, h, i, j, k, l] = GATEWAY_MAC;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ]
}

/// [`rewrite::source`] for a global function.
#[inline(always)]
pub(crate) fn source(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
    ttl: u8,
) -> Result<(), DropReason> {
    rewrite::source(&skb, frame, transport, to, ttl)
}

/// [`rewrite::ip_source`] for a global function.
#[inline(always)]
pub(crate) fn ip_source(skb: Skb, frame: &Frame, to: &Address, ttl: u8) -> Result<(), DropReason> {
    rewrite::ip_source(&skb, frame, to, ttl)
}

/// [`rewrite::error_source`] for a global function.
#[inline(always)]
pub(crate) fn error_source(
    skb: Skb,
    frame: &Frame,
    to: &Address,
    ttl: u8,
) -> Result<(), DropReason> {
    rewrite::error_source(&skb, frame, to, ttl)
}

/// [`rewrite::destination`] for a global function.
#[inline(always)]
pub(crate) fn destination(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    to: &Endpoint,
) -> Result<(), DropReason> {
    rewrite::destination(&skb, frame, transport, to)
}

/// [`rewrite::quoted_source`] for a global function.
#[inline(always)]
pub(crate) fn quoted_source(
    skb: Skb,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    rewrite::quoted_source(&skb, frame, quote, to)
}

/// [`rewrite::quoted_destination`] for a global function.
#[inline(always)]
pub(crate) fn quoted_destination(
    skb: Skb,
    frame: &Frame,
    quote: &Quote,
    to: &Endpoint,
) -> Result<(), DropReason> {
    rewrite::quoted_destination(&skb, frame, quote, to)
}
