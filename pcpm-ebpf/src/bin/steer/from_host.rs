//! tc ingress of `up0` in every hub: what the host, the world and other hubs send to slots.

use core::ops::ControlFlow;

use pcpm_ebpf::{
    abi::AttachmentWord,
    decision::{check_mark, for_nobody},
    drop_reason::DropReason,
    packet::{Fragment, Frame, Transport, TransportKind},
};

use crate::{
    drops::Dropped,
    flows::{self, Receiver},
    global, hairpin, host, maps, names,
    policy::Holder,
    rewrite::deliver,
    skb::Skb,
    verdict::Verdict,
};

#[inline(always)]
pub(crate) fn try_from_host(skb: &Skb) -> Result<Verdict, Dropped> {
    let frame = skb.frame()?;
    let config = maps::config()?;
    let receiver = if skb.mark() != 0 && !config.in_pool(&frame.destination) {
        match hairpin::come_back(skb, frame)? {
            ControlFlow::Continue(receiver) => receiver,
            ControlFlow::Break(verdict) => return Ok(verdict),
        }
    } else {
        let slot = config
            .slot_of(&frame.destination)
            .ok_or_else(|| for_nobody(frame))?;
        authorised(skb, slot, frame).map_err(|reason| Dropped::of(slot, reason))?
    };
    skb.set_mark(0);
    deliver(skb, frame, &receiver).map_err(|reason| Dropped::of(receiver.slot, reason))
}

/// Whom a packet for `slot` is to be delivered to. A mark was set by the hop that authorised the packet. Without one it comes out of the host's stack: a
/// mark never survives the way through a veth, and `to_hub` lets nothing else pass.
#[inline(always)]
fn authorised(skb: &Skb, slot: u32, frame: &Frame) -> Result<Holder, DropReason> {
    let word = maps::attachment(slot)?;
    if !word.is_attached() {
        return Err(DropReason::DestinationDetached);
    }
    let receiver = Holder::of(slot, word);
    match skb.mark() {
        0 if is_forwarded(frame)? => check_answer(skb, frame, word)?,
        0 => global::from_own_stack(*skb, frame, &receiver)?,
        mark => check_mark(mark, word)?,
    }
    Ok(receiver)
}

/// Whether the host's stack forwarded a packet, or sent it in somebody's name (a proxy that slots know nothing
/// of). `to_hub` lets no such packet pass where the host does not send for slots.
#[inline(always)]
fn is_forwarded(frame: &Frame) -> Result<bool, DropReason> {
    Ok(maps::config()?.host_forwards() && !host::is_own(&frame.source))
}

/// Translates what was forwarded, if it belongs to a connection of the slot's present holder.
#[inline(always)]
fn check_answer(skb: &Skb, frame: &Frame, word: AttachmentWord) -> Result<(), DropReason> {
    let receiver = maps::receiver()?;
    if !global::translate_arrival(*skb, frame, receiver)? {
        return Err(DropReason::ForwardedToSlot);
    }
    check_mark(receiver.epoch, word)
}

/// What the host's own stack sends always passes.
#[inline(always)]
pub(crate) fn from_own_stack(skb: Skb, frame: &Frame, receiver: &Holder) -> Result<(), DropReason> {
    match skb.transport(frame) {
        Ok(transport) => {
            if names::tells(transport, receiver) {
                global::learn_names(skb, frame.transport_offset, receiver);
            }
            remember_host_flow(frame, transport, receiver)
        }
        Err(DropReason::Malformed) if frame.fragment == Fragment::Whole => {
            Err(DropReason::Malformed)
        }
        Err(DropReason::NotReply) if maps::config()?.host_forwards() => {
            restore_quote(skb, frame);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// An error of the host's stack may be about what it was to forward for the slot, which has another port there.
#[inline(always)]
fn restore_quote(skb: Skb, frame: &Frame) {
    if let Ok(quote) = skb.quote(frame) {
        // If it is about something else, there is nothing to restore.
        let _ = global::translate_error(skb, frame, quote, &mut Receiver::default());
    }
}

/// Notes a connection of the host, so that the slot may answer. What carries no ports passes all
/// the same: answers to the slot, errors, later fragments.
#[inline(always)]
fn remember_host_flow(
    frame: &Frame,
    transport: &Transport,
    receiver: &Holder,
) -> Result<(), DropReason> {
    if transport.kind == TransportKind::EchoReply {
        return Ok(());
    }
    flows::open_host_flow(receiver.slot, receiver.word, frame, transport)
}
