//! tc egress of the hub links in the host: what the host itself sends to slots, and answers that it
//! forwards.

use pcpm_ebpf::{abi::HostPeerKey, drop_reason::DropReason};

use crate::{host, maps, skb::Skb, verdict::Verdict};

/// A packet that the host forwards carries the link it came in on.
#[inline(always)]
pub(crate) fn try_to_hub(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.ingress_ifindex() != 0 {
        forwarded(skb)
    } else if asked_for_withdrawn_port(skb) {
        Err(DropReason::PortWithdrawn)
    } else {
        Ok(Verdict::Next)
    }
}

/// Where the host forwards for slots, `from_host` over there decides by the connection that a packet answers.
/// It takes what comes from the host's own addresses for the host's.
#[inline(always)]
fn forwarded(skb: &Skb) -> Result<Verdict, DropReason> {
    if maps::config()?.host_forwards() && !host::is_own(&skb.frame()?.source) {
        Ok(Verdict::Next)
    } else {
        Err(DropReason::ForwardedToSlot)
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
