//! tc ingress of the uplink: the world's answers to slots, what comes through published ports, and
//! errors. All else is the host's.

use pcpm_ebpf::drop_reason::DropReason;

use crate::{
    arrival::{self, Here},
    flows::Receiver,
    maps,
    skb::Skb,
    verdict::Verdict,
};

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
    // A slot's own address is one for answers where slots are routed.
    let is_slots = config.in_pool(&frame.destination);
    if is_slots && !config.is_routed(frame.family) {
        return Err(DropReason::PoolFromUplink);
    }
    if is_slots && config.host_forwards() {
        return Ok(Verdict::Next);
    }
    // What claims to come from the host itself is for the host to judge: connections between slots
    // through published ports have such sources.
    let (to, from) = (&frame.destination, &frame.source);
    if !is_slots && (!maps::is_host_address(to) || maps::is_host_address(from)) {
        return Ok(Verdict::Next);
    }
    let mut receiver = Receiver::default();
    if arrival::translate::<Here>(*skb, frame, &mut receiver)? {
        skb.set_mark(receiver.epoch);
        return Ok(skb.redirect_peer(maps::hub_link(receiver.slot)?));
    }
    if is_slots {
        return Err(DropReason::PoolFromUplink);
    }
    Ok(Verdict::Next)
}
