//! tc ingress of the uplink: the world's answers to slots, and errors. All else is the host's.

use pcpm_ebpf::{
    abi::Config,
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::Endpoint,
    packet::{Frame, Transport},
};

use crate::{flows, fragments, maps, rewrite, skb::Skb, verdict::Verdict};

/// What cannot be read here is for the host's stack to judge, never dropped.
#[inline(always)]
pub(crate) fn try_from_uplink(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.has_vlan_tag() {
        return Ok(Verdict::Next);
    }
    let Ok(config) = maps::config() else {
        return Ok(Verdict::Next);
    };
    let Ok(frame) = skb.frame() else {
        return Ok(Verdict::Next);
    };
    if config.capacity == 0 {
        return Ok(Verdict::Next);
    }
    // Whatever link address it is sent to: the host would take a broadcast, too.
    if config.in_pool(&frame.source) {
        return Err(DropReason::SpoofedFromUplink);
    }
    if !skb.is_for_this_host() {
        return Ok(Verdict::Next);
    }
    if config.in_pool(&frame.destination) {
        return Err(DropReason::PoolFromUplink);
    }
    if frame.destination != config.uplink_address {
        return Ok(Verdict::Next);
    }
    fragments::forget_last(frame);
    match skb.transport(frame) {
        Ok(transport) => answer(skb, config, frame, transport),
        Err(DropReason::NotReply) => error(skb, config, frame),
        Err(DropReason::Fragment) => later_fragment(skb, config, frame),
        Err(_) => Ok(Verdict::Next),
    }
}

#[inline(always)]
fn answer(
    skb: &Skb,
    config: &Config,
    frame: &Frame,
    transport: &Transport,
) -> Result<Verdict, DropReason> {
    let Some(flow) = flows::answered_flow(frame, transport) else {
        return Ok(Verdict::Next);
    };
    let link = maps::hub_link(flow.slot)?;
    fragments::let_others_arrive(frame, flow.slot, flow.epoch)?;
    let inside = Endpoint {
        address: config.slot_address(flow.slot),
        port: flow.port,
    };
    rewrite::destination(skb, frame, transport, &inside)?;
    skb.set_mark(flow.epoch);
    Ok(skb.redirect_peer(link))
}

/// An error about what a slot sent, by any router on the way.
#[inline(always)]
fn error(skb: &Skb, config: &Config, frame: &Frame) -> Result<Verdict, DropReason> {
    let Ok(quote) = Quote::parse(skb, frame) else {
        return Ok(Verdict::Next);
    };
    let Some(flow) = flows::quoted_flow(&quote) else {
        return Ok(Verdict::Next);
    };
    let link = maps::hub_link(flow.slot)?;
    let inside = Endpoint {
        address: config.slot_address(flow.slot),
        port: flow.port,
    };
    rewrite::quoted_source(skb, frame, &quote, &inside)?;
    rewrite::ip_destination(skb, frame, &inside.address)?;
    skb.set_mark(flow.epoch);
    Ok(skb.redirect_peer(link))
}

/// What follows the first fragment of an answer. The host's own datagrams come in fragments, too.
#[inline(always)]
fn later_fragment(skb: &Skb, config: &Config, frame: &Frame) -> Result<Verdict, DropReason> {
    let Some((slot, epoch)) = fragments::arrived_at(frame) else {
        return Ok(Verdict::Next);
    };
    let link = maps::hub_link(slot)?;
    rewrite::ip_destination(skb, frame, &config.slot_address(slot))?;
    skb.set_mark(epoch);
    Ok(skb.redirect_peer(link))
}
