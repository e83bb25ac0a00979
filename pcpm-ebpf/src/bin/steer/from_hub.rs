//! tc ingress of the hub links in the host: what slots send to other hubs, the host and the world.

use pcpm_ebpf::{
    abi::{AttachmentWord, Config},
    address::Address,
    decision::{check_mark, is_gateway_ping, next_ttl},
    drop_reason::DropReason,
    packet::Frame,
};

use crate::{
    drops::Dropped,
    fragments, global, hairpin,
    host::{self, Hop},
    maps, policy, ports, rewrite,
    skb::Skb,
    verdict::Verdict,
};

#[inline(always)]
pub(crate) fn try_from_hub(skb: &Skb) -> Result<Verdict, Dropped> {
    let frame = skb.frame()?;
    let config = maps::config()?;
    if config.in_pool(&frame.destination) {
        return Ok(to_other_hub(skb, config, frame)?);
    }
    let slot = config.slot_of(&frame.source).ok_or(DropReason::NotASlot)?;
    steer(skb, slot, frame).map_err(|reason| Dropped::of(slot, reason))
}

/// The mark is that of the receiver; `from_host` over there compares it.
#[inline(always)]
fn to_other_hub(skb: &Skb, config: &Config, frame: &Frame) -> Result<Verdict, DropReason> {
    if skb.mark() == 0 {
        return Err(DropReason::NotAuthorised);
    }
    let slot = config
        .slot_of(&frame.destination)
        .ok_or(DropReason::NoSuchSlot)?;
    Ok(skb.redirect_peer(maps::hub_link(slot)?))
}

#[inline(always)]
fn steer(skb: &Skb, slot: u32, frame: &Frame) -> Result<Verdict, DropReason> {
    let word = maps::attachment(slot)?;
    check_mark(skb.mark(), word)?;
    skb.set_mark(0);
    match host::route(skb, frame)? {
        Some(hop) => to_world(skb, slot, word, frame, hop),
        None => to_this_host(skb, slot, word, frame),
    }
}

#[inline(always)]
fn to_this_host(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
) -> Result<Verdict, DropReason> {
    match skb.transport(frame) {
        Ok(transport) => {
            if !is_gateway_ping(frame, transport)
                && !global::answers_host(slot, word, frame, transport)
                && !policy::opens_host(slot, word, frame, transport)
            {
                return hairpin::leave(skb, slot, word, frame, transport);
            }
            fragments::let_others_follow(frame, slot, word, &Address::ANY)?;
            Ok(Verdict::Pass)
        }
        Err(DropReason::NotReply) => error_to_this_host(skb, slot, word, frame),
        Err(DropReason::Fragment) => {
            let mut shown = Address::ANY;
            global::follow_first(frame, slot, word, &mut shown)?;
            if shown == Address::ANY {
                return Ok(Verdict::Pass);
            }
            hairpin::later_fragment_leaves(skb, slot, frame, &shown)
        }
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn error_to_this_host(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
) -> Result<Verdict, DropReason> {
    let quote = skb.quote(frame)?;
    if global::concerns_host(slot, word, frame, quote) {
        return Ok(Verdict::Pass);
    }
    hairpin::error_leaves(skb, slot, word, frame, quote)
}

#[inline(always)]
fn to_world(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    hop: Hop,
) -> Result<Verdict, DropReason> {
    let uplink = maps::uplink(hop.ifindex()).ok_or(DropReason::NotUplink)?;
    let address = uplink.address(frame.family).ok_or(DropReason::NoUplink)?;
    let Some(ttl) = next_ttl(frame.ttl) else {
        return Ok(expired(slot));
    };
    match skb.transport(frame) {
        Ok(transport) => {
            let shown = ports::shown(skb, address, slot, word, frame, transport)?;
            fragments::let_others_follow(frame, slot, word, &shown.address)?;
            global::rewrite_source(*skb, frame, transport, shown)?;
        }
        Err(DropReason::NotReply) => error_to_world(skb, slot, word, frame)?,
        Err(DropReason::Fragment) => {
            let mut shown = Address::ANY;
            global::follow_first(frame, slot, word, &mut shown)?;
            rewrite::ip_source(skb, frame, &shown)?;
        }
        Err(reason) => return Err(reason),
    }
    rewrite::time_to_live(skb, frame, ttl)?;
    Ok(Verdict::Redirect(skb.redirect_neighbour(hop)))
}

/// The host's stack forwards nothing without decrementing the TTL first (`net/ipv4/ip_forward.c`):
/// it finds that there is none left, answers the sender, and drops the packet.
#[inline(always)]
fn expired(slot: u32) -> Verdict {
    Verdict::Refuse(Dropped::of(slot, DropReason::TtlExpired))
}

/// An error about what a peer of the slot sent, for instance to a port that has been closed since.
#[inline(always)]
fn error_to_world(
    skb: &Skb,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
) -> Result<(), DropReason> {
    let quote = skb.quote(frame)?;
    let shown = ports::quoted_shown(slot, word, frame, quote).ok_or(DropReason::NotReply)?;
    global::rewrite_quoted_destination(*skb, frame, quote, shown)?;
    rewrite::error_source(skb, frame, &shown.address)
}
