//! The flow table: finding and following flows. Ports for new connections are chosen in `ports`.
//!
//! What the entries mean is written in `pcpm_ebpf::nat`.
#![expect(
    unsafe_code,
    reason = "flow entries are shared with other CPUs through raw pointers"
)]

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_ktime_get_ns,
};
use pcpm_ebpf::{
    abi::{AttachmentWord, Config, Flow, FlowKey, SealedFlow, flow_kind},
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::{self, Direction, Endpoint},
    packet::{Family, Frame, Transport},
};

use crate::{
    global,
    maps::{self, FLOWS},
    names,
    policy::{self, Holder},
    skb::Skb,
};

/// Notes that the host sent to `slot`: makes the flow, or keeps it alive.
#[inline(always)]
pub(crate) fn open_host_flow(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<(), DropReason> {
    let key = FlowKey::arriving(flow_kind::HOST, frame, transport);
    let now = now_ns();
    if let Some(entry) = Entry::find(&key)
        && entry.is_live(word, now)
    {
        entry.follow(Direction::Forward, transport, now);
        return Ok(());
    }
    if !nat::opens_connection(key.protocol, transport.tcp_flags) {
        return Ok(());
    }
    global::take_entries(slot, word.epoch(), 1)?;
    let draft = &mut maps::draft()?.entry;
    draft.flow = nat::new_flow(slot, word.epoch(), &Endpoint::default(), now);
    global::write_flow(&key, draft)
}

/// Whether a packet of `slot` answers the host.
#[inline(always)]
pub(crate) fn answers_host(
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> bool {
    let key = FlowKey::leaving(flow_kind::HOST, frame, transport);
    let now = now_ns();
    let Some(entry) = Entry::find(&key) else {
        return false;
    };
    if entry.flow.slot != slot || !entry.is_live(word, now) {
        return false;
    }
    entry.follow(Direction::Reply, transport, now);
    true
}

/// Whether an error by `slot` is about what the host sent to it.
#[inline(always)]
pub(crate) fn concerns_host(slot: u32, word: AttachmentWord, frame: &Frame, quote: &Quote) -> bool {
    quote.is_by_receiver(frame)
        && Entry::find(&quote.arriving(flow_kind::HOST))
            .is_some_and(|entry| entry.flow.slot == slot && entry.is_live(word, now_ns()))
}

/// The flow that an error from the world is about, if it is one of a slot's present holder.
#[inline(always)]
pub(crate) fn quoted_flow(quote: &Quote) -> Option<Receiver> {
    let key = quote.leaving(flow_kind::INGRESS);
    let entry = Entry::find(&key)?;
    let word = maps::attachment(entry.flow.slot).ok()?;
    entry.stands(&key, word, now_ns()).then(|| entry.receiver())
}

/// Where a packet from the world belongs.
#[derive(Clone, Copy, Default)]
pub(crate) struct Receiver {
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) port: u16,
}

impl Receiver {
    /// The slot's side of the connection.
    #[inline(always)]
    pub(crate) fn inside(&self, config: &Config, family: Family) -> Endpoint {
        Endpoint {
            address: config.slot_address(self.slot, family),
            port: self.port,
        }
    }
}

/// The flow that a packet from the world belongs to, whose INGRESS key is `key`, if it is one of a slot's present
/// holder.
#[inline(always)]
pub(crate) fn arriving_flow(
    skb: &Skb,
    config: &Config,
    frame: &Frame,
    transport: &Transport,
    key: &FlowKey,
) -> Result<Option<Receiver>, DropReason> {
    let Some((entry, word)) = Entry::find_held(key) else {
        return Ok(None);
    };
    let now = now_ns();
    if !entry.stands(key, word, now) {
        return Ok(None);
    }
    let (holder, standing) = (Holder::of(entry.flow.slot, word), entry.standing());
    policy::check_answer(config, &holder, key, standing)?;
    // What comes from the host itself is another slot's.
    if standing == Standing::Outbound
        && names::tells(transport, &holder)
        && !maps::is_host_address(&frame.source)
    {
        global::learn_names(*skb, frame.transport_offset, &holder);
    }
    entry.follow(entry.flow.to_slot(), transport, now);
    Ok(Some(entry.receiver()))
}

/// What a connection between a slot and the world is to the slot's rules.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none yet.
    New,
    /// The slot opened it, and was allowed to.
    Outbound,
    /// It was opened from outside, through a published port.
    Inbound,
}

/// What the connection of the EGRESS key `key` is to the rules of `slot`.
#[inline(always)]
pub(crate) fn standing(key: &FlowKey, slot: u32, word: AttachmentWord) -> Standing {
    let Some(egress) = Entry::find(key) else {
        return Standing::New;
    };
    let reverse = key.translated(&egress.flow.shown());
    match Entry::find(&reverse) {
        Some(ingress)
            if nat::is_reverse_of(ingress.flow, key, slot, word.epoch())
                && ingress.stands(&reverse, word, now_ns()) =>
        {
            ingress.standing()
        }
        _ => Standing::New,
    }
}

/// A flow entry: what it held when it was found, and where it lives. By now it may have become
/// another one; `pcpm_ebpf::nat` says why that does no harm.
pub(crate) struct Entry {
    pub(crate) flow: &'static Flow,
    protocol: u8,
    place: *mut SealedFlow,
}

/// Reads the entry of `key` at `place`, and says whether all of it is.
#[inline(always)]
pub(crate) fn unseal(place: &mut SealedFlow, key: &FlowKey, flow: &mut Flow) -> bool {
    let place = ptr::from_mut(place).cast::<u64>();
    // SAFETY: the pointer came from a lookup and is valid until the program ends; `SealedFlow`
    // consists of words. Another CPU may write meanwhile; what is read is used only if the seal is
    // whole.
    let word = |index| unsafe { place.add(index).read_volatile() };
    nat::unseal(key, word, flow)
}

impl Entry {
    #[inline(always)]
    pub(crate) fn find(key: &FlowKey) -> Option<Self> {
        Self::at(FLOWS.get_ptr_mut(key)?, key)
    }

    /// The entry of `key`, and who holds its slot.
    #[inline(always)]
    fn find_held(key: &FlowKey) -> Option<(Self, AttachmentWord)> {
        let entry = Self::find(key)?;
        let word = maps::attachment(entry.flow.slot).ok()?;
        Some((entry, word))
    }

    /// The entry of `key` at `place`, which was found by it.
    #[inline(always)]
    pub(crate) fn at(place: *mut SealedFlow, key: &FlowKey) -> Option<Self> {
        let flow = maps::room_for_flow(key.kind)?;
        // SAFETY: the pointer came from a lookup and is valid until the program ends.
        global::unseal(unsafe { &mut *place }, key, flow).then_some(Self {
            flow,
            protocol: key.protocol,
            place,
        })
    }

    #[inline(always)]
    pub(crate) fn is_live(&self, word: AttachmentWord, now: u64) -> bool {
        nat::is_live(self.flow, self.protocol, word, now)
    }

    /// Whether its connection is closed and gives its port to that of `new`.
    #[inline(always)]
    pub(crate) fn gives_way_to(&self, new: &Flow) -> bool {
        nat::may_give_way(
            self.flow,
            self.protocol,
            new.slot,
            new.epoch,
            new.last_seen_ns,
        )
    }

    /// Whether the connection of the INGRESS key `key` exists, whose entry this is.
    #[inline(always)]
    pub(crate) fn stands(&self, key: &FlowKey, word: AttachmentWord, now: u64) -> bool {
        self.is_live(word, now) && (!self.flow.is_inbound() || global::is_open(key, self.flow))
    }

    #[inline(always)]
    fn standing(&self) -> Standing {
        if self.flow.is_inbound() {
            Standing::Inbound
        } else {
            Standing::Outbound
        }
    }

    #[inline(always)]
    pub(crate) fn receiver(&self) -> Receiver {
        Receiver {
            slot: self.flow.slot,
            epoch: self.flow.epoch,
            port: self.flow.translated_port,
        }
    }

    /// Follows the connection's state, and keeps the entry alive.
    #[inline(always)]
    pub(crate) fn follow(&self, direction: Direction, transport: &Transport, now: u64) {
        let before = self.flow.state;
        let after = nat::next_state(before, self.protocol, direction, transport.tcp_flags);
        if after != before {
            // SAFETY: as in `find`; one byte.
            unsafe { (&raw mut (*self.place).flow.state).write_volatile(after) };
        }
        self.refresh(now);
    }

    #[inline(always)]
    pub(crate) fn refresh(&self, now: u64) {
        if nat::needs_refresh(self.flow.last_seen_ns, now) {
            // SAFETY: as in `find`; one aligned word.
            unsafe { (&raw mut (*self.place).flow.last_seen_ns).write_volatile(now) };
        }
    }

    /// Breaks the seal that `key` gives it, so that the entry does not exist, unless it has become
    /// another one since it was found.
    #[inline(always)]
    pub(crate) fn retire(&self, key: &FlowKey) -> bool {
        let [seal, ..] = self.flow.seal(key);
        // SAFETY: an aligned word of the entry, see `abi::SealedFlow`.
        unsafe {
            let place = (&raw mut (*self.place).seal[0]).cast();
            compare_exchange(place, seal, !seal)
        }
    }
}

/// Writes `new` if `expected` is there, and says whether it did. Rust offers no such operation for
/// this target (`core::sync::atomic` knows only loads and stores), the kernel does (5.12).
///
/// # Safety
/// `word` is aligned and may be written.
#[inline(always)]
pub(crate) unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> bool {
    let seen: u64;
    // SAFETY: the caller vouches for `word`; the instruction touches nothing else.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") expected => seen,
        );
    }
    seen == expected
}

/// Makes `entry` the entry of `key`.
#[inline(always)]
pub(crate) fn seal(key: &FlowKey, entry: &mut SealedFlow) {
    entry.seal = entry.flow.seal(key);
}

/// What the kernel says if there is an entry.
const EEXIST: i32 = 17;
/// How often an entry is tried to be written that others write, or remove, at the same time.
const WRITE_TRIES: u32 = 3;

/// Seals and writes the entry of `key`, which was counted before, and says whether it did: not if there is
/// one.
///
/// # Errors
/// The kernel has no room.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, entry: &mut SealedFlow) -> Result<bool, DropReason> {
    global::seal_flow(key, entry);
    match FLOWS.insert(key, &*entry, u64::from(BPF_NOEXIST)) {
        Ok(()) => Ok(true),
        Err(error) if error == -EEXIST => Ok(false),
        Err(_) => Err(DropReason::FlowTable),
    }
}

/// Seals and writes the entry of `key` in place of `old`, unless somebody else does so, and says whether it
/// did. From the exchange on the key is ours: others find no entry, and no room for theirs.
///
/// # Errors
/// The kernel has no room.
#[inline(always)]
pub(crate) fn replace(
    key: &FlowKey,
    old: &Entry,
    entry: &mut SealedFlow,
) -> Result<bool, DropReason> {
    let (slot, epoch) = (old.flow.slot, old.flow.epoch);
    if !old.retire(key) {
        return Ok(false);
    }
    global::seal_flow(key, entry);
    let written = FLOWS.insert(key, &*entry, u64::from(BPF_ANY));
    if written.is_err() {
        // Nobody would ever take over an entry with a broken seal.
        let _ = FLOWS.remove(key);
    }
    global::give_back_entries(slot, epoch, 1);
    written.map(|()| true).map_err(|_| DropReason::FlowTable)
}

/// Writes the entry of `key`, which was counted before, whatever stands there.
///
/// # Errors
/// It could not be written, and is not counted any more.
#[inline(always)]
pub(crate) fn write(key: &FlowKey, entry: &mut SealedFlow) -> Result<(), DropReason> {
    let (slot, epoch) = (entry.flow.slot, entry.flow.epoch);
    for _ in 0..WRITE_TRIES {
        match try_write(key, entry) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(_) => break,
        }
    }
    global::give_back_entries(slot, epoch, 1);
    Err(DropReason::FlowTable)
}

#[inline(always)]
fn try_write(key: &FlowKey, entry: &mut SealedFlow) -> Result<bool, DropReason> {
    if insert(key, entry)? {
        return Ok(true);
    }
    match Entry::find(key) {
        Some(old) => replace(key, &old, entry),
        None => Ok(false),
    }
}

/// The clock of `Flow::last_seen_ns`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}
