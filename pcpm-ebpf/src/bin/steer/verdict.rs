//! What a program tells the kernel to do with the packet.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC};
use pcpm_ebpf::abi::Hop;

use crate::{
    drops::{self, Dropped},
    skb::Skb,
};

/// The outcome for a packet that is not dropped.
#[derive(Clone, Copy)]
pub(crate) enum Verdict {
    /// Into the network stack of this namespace.
    Pass,
    /// Into the network stack of this namespace, which refuses it and says so to the sender.
    Refuse(Dropped),
    /// None of our business: the next program on this link decides.
    Next,
    /// What a redirect helper returned: redirected, or shot when the helper refused.
    Redirect(i32),
}

/// The tc action for the outcome at `hop`; a drop is counted.
#[inline(always)]
pub(crate) fn finish(skb: &Skb, hop: Hop, outcome: Result<Verdict, impl Into<Dropped>>) -> i32 {
    match outcome {
        Ok(Verdict::Pass) => TC_ACT_OK,
        Ok(Verdict::Refuse(dropped)) => {
            drops::count(skb, hop, dropped);
            TC_ACT_OK
        }
        Ok(Verdict::Next) => TC_ACT_UNSPEC,
        Ok(Verdict::Redirect(action)) => action,
        Err(dropped) => {
            drops::count(skb, hop, dropped.into());
            TC_ACT_SHOT
        }
    }
}
