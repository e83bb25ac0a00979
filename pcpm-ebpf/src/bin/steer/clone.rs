//! The edges of slots that all have the same inner address, see `pcpm_ebpf::clone`.

use pcpm_ebpf::{
    clone,
    drop_reason::DropReason,
    icmp_error::QuotedAddresses,
    packet::{Frame, protocol},
};

use crate::{maps, skb::Skb};

/// What `slot` sends comes from its identity, and `frame` says so.
#[inline(always)]
pub(crate) fn leave(skb: Skb, frame: &mut Frame, slot: u32) -> Result<(), DropReason> {
    let identity = maps::config()?.slot_address(slot, frame.family);
    clone::leave(&skb, frame, quoted(skb, frame).as_ref(), &identity)?;
    frame.source = identity;
    Ok(())
}

/// What is for `slot` goes to its inner address. `frame` may have been read before the packet was translated.
#[inline(always)]
pub(crate) fn enter(skb: Skb, frame: &Frame, slot: u32) -> Result<(), DropReason> {
    let config = maps::config()?;
    let identity = config.slot_address(slot, frame.family);
    let inner = config.inner_address(slot, frame.family);
    clone::enter(&skb, frame, quoted(skb, frame).as_ref(), &identity, &inner)
}

/// The addresses that the frame quotes, if it is an ICMP error.
#[inline(always)]
fn quoted(skb: Skb, frame: &Frame) -> Option<QuotedAddresses> {
    // A call costs some nanoseconds, which every packet would pay.
    if !matches!(frame.protocol, protocol::ICMP | protocol::ICMPV6) {
        return None;
    }
    let header = skb.quoted_header(frame).ok()?;
    Some(QuotedAddresses::of(&skb, frame, header))
}
