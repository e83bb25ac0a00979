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
        Some(hop) => match to_world(skb, slot, word, frame, hop) {
            Err(DropReason::TooBig) => too_big(skb, slot, frame),
            outcome => outcome,
        },
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
            let shown = fragments::follow_first(frame, slot, word)?;
            if *shown == Address::ANY {
                return Ok(Verdict::Pass);
            }
            hairpin::later_fragment_leaves(skb, slot, frame, shown)
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
    let uplink = uplink_address(maps::config()?, frame, hop);
    let Some(ttl) = next_ttl(frame.ttl) else {
        return Ok(expired(slot));
    };
    // The host's stack counts hops itself.
    let left = |way: Option<Hop>| if way.is_some() { ttl } else { frame.ttl };
    let way = match skb.transport(frame) {
        Ok(transport) => {
            let shown = ports::shown(skb, uplink, slot, word, frame, transport)?;
            let way = way_out(skb, frame, hop, uplink, &shown.address)?;
            fragments::let_others_follow(frame, slot, word, &shown.address)?;
            global::rewrite_source(*skb, frame, transport, shown, left(way))?;
            way
        }
        Err(DropReason::NotReply) => {
            let quote = skb.quote(frame)?;
            let shown = ports::quoted_shown(slot, word, frame, quote);
            let shown = shown.ok_or(DropReason::NotReply)?;
            let way = way_out(skb, frame, hop, uplink, &shown.address)?;
            global::rewrite_quoted_destination(*skb, frame, quote, shown)?;
            global::rewrite_error_source(*skb, frame, &shown.address, left(way))?;
            way
        }
        Err(DropReason::Fragment) => {
            let shown = fragments::follow_first(frame, slot, word)?;
            let way = way_out(skb, frame, hop, uplink, shown)?;
            global::rewrite_ip_source(*skb, frame, shown, left(way))?;
            way
        }
        Err(reason) => return Err(reason),
    };
    Ok(match way {
        Some(hop) => Verdict::Redirect(skb.redirect_neighbour(hop)),
        None => Verdict::Pass,
    })
}

/// What packets that take the way `hop` are shown as: the uplink's address, or the slot's own where
/// that is routed, or left to the host's stack to translate.
#[inline(always)]
fn uplink_address<'a>(
    config: &Config,
    frame: &'a Frame,
    hop: Hop,
) -> Result<&'a Address, DropReason> {
    let uplink = maps::uplink(hop.ifindex()).ok_or(DropReason::NotUplink)?;
    if config.keeps_addresses(frame.family) {
        return Ok(&frame.source);
    }
    uplink.address(frame.family).ok_or(DropReason::NoUplink)
}

/// The way of a packet that is shown as `shown`: none where the host's stack is to send it, else `hop`, whose
/// address is `uplink`, unless the packet answers from another address of the host. Then it goes where the
/// host's own answers from there go.
///
/// # Errors
/// [`DropReason::TooBig`] where the host's stack, which takes the way `hop`, finds the same.
#[inline(always)]
fn way_out(
    skb: &Skb,
    frame: &Frame,
    hop: Hop,
    uplink: Result<&Address, DropReason>,
    shown: &Address,
) -> Result<Option<Hop>, DropReason> {
    let ordinary = hop.ifindex();
    let mut way = hop;
    if !uplink.is_ok_and(|address| *address == *shown) {
        way = host::route_from(skb, frame, shown)?.ok_or(DropReason::NoRoute)?;
        maps::uplink(way.ifindex()).ok_or(DropReason::NotUplink)?;
    } else if maps::config()?.host_forwards() {
        return Ok(None);
    }
    if !host::is_too_big(skb, way) {
        Ok(Some(way))
    } else if way.ifindex() == ordinary {
        Err(DropReason::TooBig)
    } else {
        Err(DropReason::AnswerTooBig)
    }
}

/// The host's stack forwards nothing without decrementing the TTL first (`net/ipv4/ip_forward.c`):
/// it finds that there is none left, answers the sender, and drops the packet.
#[inline(always)]
fn expired(slot: u32) -> Verdict {
    Verdict::Refuse(Dropped::of(slot, DropReason::TtlExpired))
}

/// The stack does not look at the MTU before that either. It fragments IPv4 packets that allow it, so
/// this one no longer does: there is no translating what it would make.
#[inline(always)]
fn too_big(skb: &Skb, slot: u32, frame: &Frame) -> Result<Verdict, DropReason> {
    if frame.is_v4() {
        rewrite::forbid_fragments(skb)?;
    }
    Ok(Verdict::Refuse(Dropped::of(slot, DropReason::TooBig)))
}
