//! tc ingress of the hub links in the host: what slots send to other hubs, the host and the world.

use pcpm_ebpf::{
    abi::{AttachmentWord, Config},
    decision::{check_mark, check_whole, is_gateway_ping, next_ttl},
    drop_reason::DropReason,
    packet::{Frame, Transport},
};

use crate::{
    flows,
    host::{self, Hop, Route},
    maps, ports, rewrite,
    skb::Skb,
    verdict::Verdict,
};

#[inline(always)]
pub(crate) fn try_from_hub(skb: &Skb) -> Result<Verdict, DropReason> {
    let frame = Frame::parse(skb)?;
    let config = maps::config()?;
    if config.in_pool(frame.destination) {
        return to_other_hub(skb, config, &frame);
    }
    let slot = config.slot_of(frame.source).ok_or(DropReason::NotASlot)?;
    steer(skb, config, slot, &frame).inspect_err(|_| maps::count_dropped(slot))
}

/// The mark is that of the receiver; `from_host` over there compares it.
#[inline(always)]
fn to_other_hub(skb: &Skb, config: &Config, frame: &Frame) -> Result<Verdict, DropReason> {
    if skb.mark() == 0 {
        return Err(DropReason::NotAuthorised);
    }
    let slot = config
        .slot_of(frame.destination)
        .ok_or(DropReason::NoSuchSlot)?;
    Ok(skb.redirect_peer(maps::hub_link(slot)?))
}

#[inline(always)]
fn steer(skb: &Skb, config: &Config, slot: u32, frame: &Frame) -> Result<Verdict, DropReason> {
    let word = maps::attachment(slot)?;
    check_mark(skb.mark(), word)?;
    skb.set_mark(0);
    check_whole(frame)?;
    let transport = Transport::parse(skb, frame)?;
    match host::route(skb, frame)? {
        Route::Forward(hop) => to_world(skb, config, slot, word, frame, &transport, &hop),
        Route::NotForwarded => to_this_host(slot, word, frame, &transport),
    }
}

#[inline(always)]
fn to_this_host(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<Verdict, DropReason> {
    if is_gateway_ping(frame, transport) || flows::answers_host(slot, word, frame, transport) {
        Ok(Verdict::Pass)
    } else {
        Err(DropReason::HostClosed)
    }
}

#[inline(always)]
fn to_world(
    skb: &Skb,
    config: &Config,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
    hop: &Hop,
) -> Result<Verdict, DropReason> {
    if config.uplink_ifindex == 0 || config.uplink_address == 0 {
        return Err(DropReason::NoUplink);
    }
    if hop.ifindex != config.uplink_ifindex {
        return Err(DropReason::NotUplink);
    }
    let ttl = next_ttl(frame.ttl)?;
    let port = ports::translated_port(skb, config, slot, word, frame, transport)?;
    rewrite::time_to_live(skb, frame, ttl)?;
    rewrite::source(skb, frame, transport, config.uplink_address, port)?;
    Ok(skb.redirect_neighbour(hop))
}
