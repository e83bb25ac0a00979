//! tc egress of the hub links in the host: only what the host itself sends may go to slots.

use pcpm_ebpf::drop_reason::DropReason;

use crate::{skb::Skb, verdict::Verdict};

/// A packet that the host forwards carries the link it came in on.
#[inline(always)]
pub(crate) fn try_to_hub(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.ingress_ifindex() == 0 {
        Ok(Verdict::Next)
    } else {
        Err(DropReason::ForwardedToSlot)
    }
}
