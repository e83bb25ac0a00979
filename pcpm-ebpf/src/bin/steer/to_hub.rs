//! tc egress of the hub links in the host: only what the host itself sends may go to slots.

use pcpm_ebpf::{abi::HostPeerKey, drop_reason::DropReason};

use crate::{maps, skb::Skb, verdict::Verdict};

/// A packet that the host forwards carries the link it came in on.
#[inline(always)]
pub(crate) fn try_to_hub(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.ingress_ifindex() != 0 {
        Err(DropReason::ForwardedToSlot)
    } else if asked_for_withdrawn_port(skb) {
        Err(DropReason::PortWithdrawn)
    } else {
        Ok(Verdict::Next)
    }
}

/// A connected socket is asked once where it wants to go, and goes there as long as it lives: it must
/// not get to whoever holds the slot next.
#[inline(always)]
fn asked_for_withdrawn_port(skb: &Skb) -> bool {
    let Ok(frame) = skb.frame() else {
        return false;
    };
    let Ok(transport) = skb.transport(frame) else {
        return false;
    };
    let (slot, port) = (frame.destination, transport.destination_port);
    let key = HostPeerKey::new(skb.socket_cookie(), slot, port);
    maps::host_peer(&key)
        .is_some_and(|peer| maps::published(&mut { peer.asked }) != Some(peer.target))
}
