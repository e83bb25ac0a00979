//! What comes to an address of the host, from outside or from a slot: translated for the slot that it
//! belongs to. All else is the host's.

use pcpm_ebpf::{
    abi::{FlowKey, flow_kind},
    drop_reason::DropReason,
    icmp_error::Quote,
    packet::{Frame, Transport},
};

use crate::{
    flows::{self, Receiver},
    fragments, global, inbound, maps, rewrite,
    skb::Skb,
};

/// What a packet from outside may belong to: `receiver` becomes its slot then. Its INGRESS key is that of
/// [`maps::pair`].
pub(crate) trait Arrivals {
    /// Whether it belongs to a connection that exists.
    fn follow(
        skb: Skb,
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason>;

    /// Whether it opens a connection through a published port.
    fn enter(
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason>;
}

/// For a program that does little else: a call costs some nanoseconds, which every answer from the
/// world would pay.
pub(crate) enum Here {}

impl Arrivals for Here {
    #[inline(always)]
    fn follow(
        skb: Skb,
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason> {
        follow(skb, frame, transport, receiver)
    }

    #[inline(always)]
    fn enter(
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason> {
        match inbound::door(frame, transport) {
            Some(target) => global::open_inbound(&target, receiver).map(|()| true),
            None => Ok(false),
        }
    }
}

/// For a program that needs its stack for other things.
pub(crate) enum Elsewhere {}

impl Arrivals for Elsewhere {
    #[inline(always)]
    fn follow(
        skb: Skb,
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason> {
        global::follow_arrival(skb, frame, transport, receiver)
    }

    #[inline(always)]
    fn enter(
        frame: &Frame,
        transport: &Transport,
        receiver: &mut Receiver,
    ) -> Result<bool, DropReason> {
        global::enter(frame, transport, receiver)
    }
}

/// See [`Arrivals::follow`].
#[inline(always)]
pub(crate) fn follow(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    receiver: &mut Receiver,
) -> Result<bool, DropReason> {
    let key = &maps::pair()?.ingress;
    match flows::arriving_flow(&skb, maps::config()?, frame, transport, key)? {
        Some(found) => *receiver = found,
        None => return Ok(false),
    }
    Ok(true)
}

/// Translates a packet if it belongs to a slot, and says whether it does; `receiver` is whom it is for then.
/// What cannot be read here is for the host's stack to judge.
#[inline(always)]
pub(crate) fn translate<A: Arrivals>(
    skb: Skb,
    frame: &Frame,
    receiver: &mut Receiver,
) -> Result<bool, DropReason> {
    fragments::forget_last(frame);
    match skb.transport(frame) {
        Ok(transport) => packet::<A>(skb, frame, transport, receiver),
        Err(DropReason::NotReply) => match skb.quote(frame) {
            Ok(quote) => global::translate_error(skb, frame, quote, receiver),
            Err(_) => Ok(false),
        },
        Err(DropReason::Fragment) => later_fragment(skb, frame, receiver),
        Err(_) => Ok(false),
    }
}

#[inline(always)]
fn packet<A: Arrivals>(
    skb: Skb,
    frame: &Frame,
    transport: &Transport,
    receiver: &mut Receiver,
) -> Result<bool, DropReason> {
    let config = maps::config()?;
    maps::pair()?.ingress = FlowKey::arriving(flow_kind::INGRESS, frame, transport);
    if !A::follow(skb, frame, transport, receiver)? {
        // A published port is the host's: at slots' own addresses there are only answers.
        if config.in_pool(&frame.destination) || !A::enter(frame, transport, receiver)? {
            return Ok(false);
        }
    }
    fragments::let_others_arrive(frame, receiver.slot, receiver.epoch)?;
    let inside = receiver.inside(config, frame.family);
    global::rewrite_destination(skb, frame, transport, &inside)?;
    Ok(true)
}

/// Translates an error about what a slot sent, by any router on the way.
#[inline(always)]
pub(crate) fn translate_error(
    skb: Skb,
    frame: &Frame,
    quote: &Quote,
    receiver: &mut Receiver,
) -> Result<bool, DropReason> {
    match flows::quoted_flow(quote) {
        Some(found) => *receiver = found,
        None => return Ok(false),
    }
    let inside = receiver.inside(maps::config()?, frame.family);
    global::rewrite_quoted_source(skb, frame, quote, &inside)?;
    rewrite::error_destination(&skb, frame, &inside.address)?;
    Ok(true)
}

/// What follows a first fragment. The host's own datagrams come in fragments, too.
#[inline(always)]
fn later_fragment(skb: Skb, frame: &Frame, receiver: &mut Receiver) -> Result<bool, DropReason> {
    if !global::arrived_at(frame, receiver) {
        return Ok(false);
    }
    let inside = maps::config()?.slot_address(receiver.slot, frame.family);
    rewrite::ip_destination(&skb, frame, &inside)?;
    Ok(true)
}
