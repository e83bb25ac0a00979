//! tc ingress of `up0` in every hub: what the host, the world and other hubs send to slots.

use pcpm_ebpf::{
    decision::check_mark,
    drop_reason::DropReason,
    packet::{Fragment, Frame, Transport, TransportKind},
};

use crate::{
    drops::Dropped, flows, global, hairpin, maps, names, policy::Holder, rewrite::deliver,
    skb::Skb, verdict::Verdict,
};

#[inline(always)]
pub(crate) fn try_from_host(skb: &Skb) -> Result<Verdict, Dropped> {
    let frame = skb.frame()?;
    let config = maps::config()?;
    if skb.mark() != 0 && !config.in_pool(&frame.destination) {
        return Ok(hairpin::come_back(skb, frame)?);
    }
    let slot = config
        .slot_of(&frame.destination)
        .ok_or(DropReason::NoSuchSlot)?;
    steer(skb, slot, frame).map_err(|reason| Dropped::of(slot, reason))
}

/// A mark was set by the hop that authorised the packet. Without one it comes from the host's own
/// stack: a mark never survives the way through a veth, and `to_hub` lets nothing else pass.
#[inline(always)]
fn steer(skb: &Skb, slot: u32, frame: &Frame) -> Result<Verdict, DropReason> {
    let word = maps::attachment(slot)?;
    if !word.is_attached() {
        return Err(DropReason::DestinationDetached);
    }
    let receiver = Holder::of(slot, word);
    match skb.mark() {
        0 => global::from_own_stack(*skb, frame, &receiver)?,
        mark => check_mark(mark, word)?,
    }
    skb.set_mark(0);
    deliver(skb, frame, &receiver)
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
        _ => Ok(()),
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
