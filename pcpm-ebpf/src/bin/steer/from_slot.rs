//! tc ingress of every slot's hub-side link: what slots send.

use pcpm_ebpf::{
    abi::{HUB_UPLINK_INDEX, LINK_INDEX_BASE},
    decision::{Destination, check_discovery, check_sender, destination, hub_of},
    drop_reason::DropReason,
    packet::Frame,
};

use crate::{
    drops::Dropped,
    global, limits, maps,
    policy::{self, Holder},
    rewrite::deliver,
    skb::Skb,
    verdict::Verdict,
};

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
    let destination = vet(skb, slot, frame);
    let sender = Holder::of(slot, sender);
    let is_link_local = match destination {
        Ok(Destination::Slot(receiver)) => return to_slot(skb, frame, &sender, receiver),
        Ok(Destination::Host) => false,
        // Something may open what is link-local.
        Err(DropReason::Metadata) => true,
        Err(reason) => return Err(reason),
    };
    policy::check_world(skb, frame, &sender, is_link_local)?;
    to_host(skb, frame, &sender, sender.word.epoch())
}

/// Where a frame is to go, which has to be the slot's own, and from here on comes from its identity.
#[inline(always)]
fn vet(skb: &Skb, slot: u32, frame: &mut Frame) -> Result<Destination, DropReason> {
    let config = maps::config()?;
    check_discovery(skb, frame)?;
    check_sender(config, slot, frame)?;
    if config.is_clone() {
        global::leave_clone(*skb, frame, slot)?;
    }
    destination(config, &frame.destination)
}

#[inline(always)]
fn to_slot(
    skb: &Skb,
    frame: &Frame,
    sender: &Holder,
    receiver: u32,
) -> Result<Verdict, DropReason> {
    let receiver = Holder::of(receiver, maps::attachment(receiver)?);
    policy::check_slots(skb, frame, sender, &receiver)?;
    if hub_of(sender.slot) != hub_of(receiver.slot) {
        return to_host(skb, frame, sender, receiver.word.epoch());
    }
    limits::take_up(skb, frame, sender)?;
    maps::count_sent(sender.slot, skb);
    deliver(skb, frame, &receiver)
}

/// Out of the hub, authorised for `epoch`: the sender's, or that of a receiver in another hub.
#[inline(always)]
fn to_host(skb: &Skb, frame: &Frame, sender: &Holder, epoch: u32) -> Result<Verdict, DropReason> {
    limits::take_up(skb, frame, sender)?;
    maps::count_sent(sender.slot, skb);
    skb.set_mark(epoch);
    Ok(skb.redirect_peer(HUB_UPLINK_INDEX))
}
