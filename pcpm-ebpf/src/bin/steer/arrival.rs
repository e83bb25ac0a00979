//! What comes to an address of the host, from outside or from a slot: translated for the slot that it
//! belongs to. All else is the host's.

use pcpm_ebpf::{
    abi::Config,
    drop_reason::DropReason,
    packet::{Frame, Transport},
};

use crate::{
    flows::{self, Receiver},
    fragments, global, inbound, rewrite,
    skb::Skb,
};

/// Translates a packet if it belongs to a slot, and says whom it is for. What cannot be read here is
/// for the host's stack to judge.
#[inline(always)]
pub(crate) fn translate(
    skb: &Skb,
    config: &Config,
    frame: &Frame,
) -> Result<Option<Receiver>, DropReason> {
    fragments::forget_last(frame);
    match skb.transport(frame) {
        Ok(transport) => packet(skb, config, frame, transport),
        Err(DropReason::NotReply) => error(skb, config, frame),
        Err(DropReason::Fragment) => later_fragment(skb, config, frame),
        Err(_) => Ok(None),
    }
}

#[inline(always)]
fn packet(
    skb: &Skb,
    config: &Config,
    frame: &Frame,
    transport: &Transport,
) -> Result<Option<Receiver>, DropReason> {
    let Some(receiver) = inbound::receiver(skb, config, frame, transport)? else {
        return Ok(None);
    };
    fragments::let_others_arrive(frame, receiver.slot, receiver.epoch)?;
    global::rewrite_destination(
        *skb,
        frame,
        transport,
        &receiver.inside(config, frame.family),
    )?;
    Ok(Some(receiver))
}

/// An error about what a slot sent, by any router on the way.
#[inline(always)]
fn error(skb: &Skb, config: &Config, frame: &Frame) -> Result<Option<Receiver>, DropReason> {
    let Ok(quote) = skb.quote(frame) else {
        return Ok(None);
    };
    let Some(receiver) = flows::quoted_flow(quote) else {
        return Ok(None);
    };
    let inside = receiver.inside(config, frame.family);
    global::rewrite_quoted_source(*skb, frame, quote, &inside)?;
    rewrite::error_destination(skb, frame, &inside.address)?;
    Ok(Some(receiver))
}

/// What follows a first fragment. The host's own datagrams come in fragments, too.
#[inline(always)]
fn later_fragment(
    skb: &Skb,
    config: &Config,
    frame: &Frame,
) -> Result<Option<Receiver>, DropReason> {
    let mut receiver = Receiver::default();
    if !global::arrived_at(frame, &mut receiver) {
        return Ok(None);
    }
    rewrite::ip_destination(
        skb,
        frame,
        &config.slot_address(receiver.slot, frame.family),
    )?;
    Ok(Some(receiver))
}
