//! Datagrams in fragments: the first, which has the ports, decides for the others.
//!
//! What the entries mean is written in `pcpm_ebpf::nat`.

use aya_ebpf::bindings::BPF_ANY;
use pcpm_ebpf::{
    abi::{AttachmentWord, FlowKey},
    address::Address,
    drop_reason::DropReason,
    nat::{self, Endpoint},
    packet::{Fragment, Frame},
};

use crate::{
    flows::{Entry, Receiver, now_ns},
    global,
    maps::{self, FRAGMENTS},
    quota,
};

/// Notes that a packet of `slot` was let pass as one of `shown`: if it is a first fragment, others
/// follow it.
#[inline(always)]
pub(crate) fn let_others_follow(
    frame: &Frame,
    slot: u32,
    word: AttachmentWord,
    shown: &Address,
) -> Result<(), DropReason> {
    if frame.fragment != Fragment::First {
        return Ok(());
    }
    let pair = maps::pair()?;
    pair.egress = FlowKey::leaving_fragment(frame);
    pair.shown.address = *shown;
    global::remember_first(&pair.egress, slot, word.epoch(), &pair.shown.address)
}

/// Lets a later fragment of `slot` pass if the first one did, as one of the address that is returned.
#[inline(always)]
pub(crate) fn follow_first(
    frame: &Frame,
    slot: u32,
    word: AttachmentWord,
) -> Result<&'static Address, DropReason> {
    let shown = &mut maps::pair()?.shown.address;
    global::follow_first(frame, slot, word, shown)?;
    Ok(shown)
}

/// As [`follow_first`]: `shown` becomes the address.
#[inline(always)]
pub(crate) fn follow(
    frame: &Frame,
    slot: u32,
    word: AttachmentWord,
    shown: &mut Address,
) -> Result<(), DropReason> {
    let key = FlowKey::leaving_fragment(frame);
    let entry = find(&key).ok_or(DropReason::Fragment)?;
    if entry.flow.slot != slot || !nat::may_go_on(entry.flow, word, now_ns()) {
        return Err(DropReason::Fragment);
    }
    forget_at_the_end(frame, &key, entry.flow.slot);
    *shown = entry.flow.translated_address;
    Ok(())
}

/// Notes that a packet from the world was let pass to `slot`.
#[inline(always)]
pub(crate) fn let_others_arrive(frame: &Frame, slot: u32, epoch: u32) -> Result<(), DropReason> {
    if frame.fragment != Fragment::First {
        return Ok(());
    }
    let pair = maps::pair()?;
    pair.ingress = FlowKey::arriving_fragment(frame);
    pair.shown.address = Address::ANY;
    global::remember_first(&pair.ingress, slot, epoch, &pair.shown.address)
}

/// Whether the first fragment of a datagram from the world went to a slot, and to which `receiver`.
#[inline(always)]
pub(crate) fn arrived_at(frame: &Frame, receiver: &mut Receiver) -> bool {
    let key = FlowKey::arriving_fragment(frame);
    let Some(entry) = find(&key) else {
        return false;
    };
    let Ok(word) = maps::attachment(entry.flow.slot) else {
        return false;
    };
    if !nat::may_go_on(entry.flow, word, now_ns()) {
        return false;
    }
    forget_at_the_end(frame, &key, entry.flow.slot);
    *receiver = entry.receiver();
    true
}

/// A first fragment from the world begins another datagram than the one that had its
/// identification before.
#[inline(always)]
pub(crate) fn forget_last(frame: &Frame) {
    if frame.fragment == Fragment::First {
        let _ = FRAGMENTS.remove(FlowKey::arriving_fragment(frame));
    }
}

#[inline(always)]
fn find(key: &FlowKey) -> Option<Entry> {
    Entry::at(FRAGMENTS.get_ptr_mut(key)?, key)
}

/// Notes that a first fragment was let pass.
#[inline(always)]
pub(crate) fn remember(
    key: &FlowKey,
    slot: u32,
    epoch: u32,
    shown: &Address,
) -> Result<(), DropReason> {
    let shown = Endpoint {
        address: *shown,
        port: 0,
    };
    let now = now_ns();
    quota::begin_datagram(slot, now)?;
    let draft = &mut maps::draft()?.entry;
    draft.flow = nat::new_flow(slot, epoch, &shown, now);
    draft.seal = draft.flow.seal(key);
    FRAGMENTS
        .insert(key, draft, u64::from(BPF_ANY))
        .map_err(|_| DropReason::FlowTable)
}

#[inline(always)]
fn forget_at_the_end(frame: &Frame, key: &FlowKey, slot: u32) {
    if frame.fragment == Fragment::Last && FRAGMENTS.remove(key).is_ok() {
        quota::end_datagram(slot, now_ns());
    }
}
