//! Run by the daemon with dead flows in place of a packet, which it found in the table: removes those that
//! still are what they were.
//!
//! The kernel runs it as if a packet had come: with softirqs off, so that no packet interrupts it on its
//! CPU. On others a packet may come for an entry whose seal is broken and which is not removed yet; who
//! wants to write it tries again.
#![expect(unsafe_code, reason = "calls a kernel helper with a callback")]

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use pcpm_ebpf::{
    abi::{DEAD_FLOWS, DEAD_FLOWS_OFFSET, DeadFlow, FlowKey, flow_kind},
    nat,
};

use crate::{
    flows::{Entry, now_ns},
    global,
    maps::{self, FLOWS},
    quota,
    skb::Skb,
};

struct Round {
    skb: Skb,
    /// A bit for each that was removed.
    gone: u32,
}

/// Removes what the packet tells of; a bit for each that was removed.
#[inline(always)]
pub(crate) fn collect(skb: &Skb) -> i32 {
    let mut round = Round { skb: *skb, gone: 0 };
    let place = (&raw mut round).cast();
    // SAFETY: `collect_next` has the signature that the helper calls, and `round` outlives it.
    unsafe { bpf_loop(DEAD_FLOWS, collect_next as *mut c_void, place, 0) };
    round.gone.cast_signed()
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

extern "C" fn collect_next(index: u64, round: *mut c_void) -> i64 {
    // SAFETY: `round` is what `collect` passed.
    let round = unsafe { &mut *round.cast::<Round>() };
    let index = index as u32;
    let Ok(dead) = maps::dead_flow() else {
        return STOP;
    };
    let offset = DEAD_FLOWS_OFFSET + index * size_of::<DeadFlow>() as u32;
    if !round.skb.load(offset, dead) {
        return STOP;
    }
    if global::collect_flow(dead) {
        round.gone |= 1_u32.wrapping_shl(index);
    }
    CONTINUE
}

/// Removes an entry if nothing happened to it since it was found dead.
#[inline(always)]
pub(crate) fn collect_flow(dead: &DeadFlow) -> bool {
    let key = &dead.key;
    let Some(entry) = Entry::find(key) else {
        return false;
    };
    let (flow, [seal, ..]) = (entry.flow, entry.flow.seal(key));
    let is_same = seal == dead.seal && flow.last_seen_ns == dead.last_seen_ns;
    let (slot, epoch) = (flow.slot, flow.epoch);
    if !is_same || key.kind == flow_kind::EGRESS && has_owner(key, &entry) || !entry.retire(key) {
        return false;
    }
    let _ = FLOWS.remove(key);
    quota::give_back(slot, epoch, 1);
    true
}

/// Whether the connection of the EGRESS entry `egress` lives.
#[inline(always)]
fn has_owner(key: &FlowKey, egress: &Entry) -> bool {
    let (slot, epoch) = (egress.flow.slot, egress.flow.epoch);
    let Ok(word) = maps::attachment(slot) else {
        return false;
    };
    Entry::find(&key.translated(&egress.flow.shown())).is_some_and(|ingress| {
        nat::is_reverse_of(ingress.flow, key, slot, epoch) && ingress.is_live(word, now_ns())
    })
}
