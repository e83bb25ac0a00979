//! What a slot sends to an address of the host, where a port is published: its own, or another slot's
//! of any tenant. It is the public door, so the packet goes the way it would go if it had left the
//! host and come back (RFC 4787, REQ-9): translated as towards the world, with the address that was
//! asked for standing for the slot, then taken as if it came from outside. The answer does the same.
//!
//! The first half is done where the packet leaves its hub, the second where it comes back into it.

use core::ops::ControlFlow;

use pcpm_ebpf::{
    abi::{AttachmentWord, HUB_UPLINK_INDEX},
    address::Address,
    decision::hub_of,
    drop_reason::DropReason,
    icmp_error::Quote,
    packet::{Frame, Transport},
};

use crate::{
    fragments, global, inbound, maps,
    policy::{self, Holder},
    ports::{self, Connection},
    skb::Skb,
    verdict::Verdict,
};

/// A packet with ports leaves.
#[inline(always)]
pub(crate) fn leave(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<Verdict, DropReason> {
    let connection = Connection::of(slot, word, frame, transport)?;
    if !global::connection_goes_on(connection, transport)? {
        if !global::is_door(frame, transport) {
            return Err(DropReason::HostClosed);
        }
        policy::check_door(slot, word, frame, transport)?;
        global::open_connection(connection, *skb, &frame.destination, transport)?;
    }
    let shown = connection.shown();
    fragments::let_others_follow(frame, slot, word, &shown.address)?;
    global::rewrite_source(*skb, frame, transport, shown, frame.ttl)?;
    turn_around(skb, slot)
}

/// Whether a slot's packet may open a connection to another slot, or itself.
#[inline(always)]
pub(crate) fn is_door(frame: &Frame, transport: &Transport) -> bool {
    maps::is_host_address(&frame.destination) && inbound::door(frame, transport).is_some()
}

/// An error about what came this way leaves.
#[inline(always)]
pub(crate) fn error_leaves(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    quote: &Quote,
) -> Result<Verdict, DropReason> {
    let shown = ports::quoted_shown(slot, word, frame, quote).ok_or(DropReason::HostClosed)?;
    global::rewrite_quoted_destination(*skb, frame, quote, shown)?;
    global::rewrite_error_source(*skb, frame, &shown.address, frame.ttl)?;
    turn_around(skb, slot)
}

/// What follows a first fragment leaves, as one of `shown`.
#[inline(always)]
pub(crate) fn later_fragment_leaves(
    skb: &Skb,
    slot: u32,
    frame: &Frame,
    shown: &Address,
) -> Result<Verdict, DropReason> {
    global::rewrite_ip_source(*skb, frame, shown, frame.ttl)?;
    turn_around(skb, slot)
}

/// Back into the hub of `slot`. The mark says which one that is, and that it is not 0.
#[inline(always)]
fn turn_around(skb: &Skb, slot: u32) -> Result<Verdict, DropReason> {
    skb.set_mark(1 + hub_of(slot));
    Ok(skb.redirect_peer(maps::hub_link(slot)?))
}

/// A packet comes back into the hub that it left: whom it is to be delivered to here, or where it goes on to.
#[inline(always)]
pub(crate) fn come_back(
    skb: &Skb,
    frame: &Frame,
) -> Result<ControlFlow<Verdict, Holder>, DropReason> {
    let here = skb.mark() - 1;
    let receiver = maps::receiver()?;
    if !global::translate_arrival(*skb, frame, receiver)? {
        return Err(DropReason::HostClosed);
    }
    if hub_of(receiver.slot) != here {
        skb.set_mark(receiver.epoch);
        return Ok(ControlFlow::Break(skb.redirect_peer(HUB_UPLINK_INDEX)));
    }
    let word = maps::attachment(receiver.slot)?;
    Ok(ControlFlow::Continue(Holder::of(receiver.slot, word)))
}
