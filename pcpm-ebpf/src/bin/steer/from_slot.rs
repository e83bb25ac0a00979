//! tc ingress of every slot's hub-side link: what slots send.

use pcpm_ebpf::{
    abi::{AttachmentWord, HUB_UPLINK_INDEX, LINK_INDEX_BASE},
    decision::{Destination, check_sender, check_tenants, destination, hub_of},
    drop_reason::DropReason,
};

use crate::{drops::Dropped, maps, rewrite::deliver, skb::Skb, verdict::Verdict};

/// The sender is known by the link, never by what the packet claims.
#[inline(always)]
pub(crate) fn try_from_slot(skb: &Skb) -> Result<Verdict, Dropped> {
    let slot = skb.ifindex().wrapping_sub(LINK_INDEX_BASE);
    steer(skb, slot).map_err(|reason| Dropped::of(slot, reason))
}

#[inline(always)]
fn steer(skb: &Skb, slot: u32) -> Result<Verdict, DropReason> {
    let sender = maps::attachment(slot)?;
    if !sender.is_attached() {
        return Err(DropReason::Detached);
    }
    if skb.has_vlan_tag() {
        return Err(DropReason::Vlan);
    }
    let frame = skb.frame()?;
    let config = maps::config()?;
    check_sender(config, slot, frame)?;
    match destination(config, &frame.destination)? {
        Destination::Slot(receiver) => to_slot(skb, slot, sender, receiver),
        Destination::Host => Ok(to_host(skb, slot, sender.epoch())),
    }
}

#[inline(always)]
fn to_slot(
    skb: &Skb,
    slot: u32,
    sender: AttachmentWord,
    receiver_slot: u32,
) -> Result<Verdict, DropReason> {
    let receiver = maps::attachment(receiver_slot)?;
    check_tenants(sender, receiver)?;
    if hub_of(slot) != hub_of(receiver_slot) {
        return Ok(to_host(skb, slot, receiver.epoch()));
    }
    maps::count_sent(slot, skb);
    deliver(skb, receiver_slot)
}

/// Out of the hub, authorised for `epoch`: the sender's, or that of a receiver in another hub.
#[inline(always)]
fn to_host(skb: &Skb, slot: u32, epoch: u32) -> Verdict {
    maps::count_sent(slot, skb);
    skb.set_mark(epoch);
    skb.redirect_peer(HUB_UPLINK_INDEX)
}
