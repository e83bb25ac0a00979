//! The flow table: finding, opening and following flows, and owning translated ports.
//!
//! What the entries mean is written in `pcpm_ebpf::nat`.
#![expect(
    unsafe_code,
    reason = "flow entries are shared with other CPUs through raw pointers"
)]

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_loop},
};
use pcpm_ebpf::{
    abi::{AttachmentWord, Config, Flow, FlowKey, flow_kind},
    drop_reason::DropReason,
    nat::{self, Direction, PORT_TRIES, PortSequence},
    packet::{Frame, Transport, TransportKind, tcp_flag},
};

use crate::{
    host,
    maps::{self, FLOWS},
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
    let flow = nat::new_flow(slot, word.epoch(), 0, 0, now);
    insert(&key, &flow, BPF_ANY)
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

/// Where an answer from the world belongs.
pub(crate) struct Answered {
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) port: u16,
}

/// The flow that a packet from the world answers, if it is one of a slot's present holder.
#[inline(always)]
pub(crate) fn answered_flow(frame: &Frame, transport: &Transport) -> Option<Answered> {
    let key = FlowKey::arriving(flow_kind::INGRESS, frame, transport);
    let entry = Entry::find(&key)?;
    let word = maps::attachment(entry.flow.slot).ok()?;
    let now = now_ns();
    if !entry.is_live(word, now) {
        return None;
    }
    entry.follow(Direction::Reply, transport, now);
    Some(Answered {
        slot: entry.flow.slot,
        epoch: entry.flow.epoch,
        port: entry.flow.translated_port,
    })
}

/// The port that stands for a slot's connection to the world: the one it has, or a new one.
#[inline(always)]
pub(crate) fn translated_port(
    skb: &Skb,
    config: &Config,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    transport: &Transport,
) -> Result<u16, DropReason> {
    if transport.kind == TransportKind::EchoReply {
        return Err(DropReason::NotReply);
    }
    let opening = Opening {
        egress: FlowKey::leaving(flow_kind::EGRESS, frame, transport),
        slot,
        word,
        now: now_ns(),
    };
    match opening.present_port(config, transport) {
        Some(port) => Ok(port),
        None => opening.new_port(skb, config, transport),
    }
}

/// A connection to the world, and the moment it is looked at.
struct Opening {
    egress: FlowKey,
    slot: u32,
    word: AttachmentWord,
    now: u64,
}

impl Opening {
    /// The port the connection has, as long as the INGRESS entry agrees.
    #[inline(always)]
    fn present_port(&self, config: &Config, transport: &Transport) -> Option<u16> {
        let egress = Entry::find(&self.egress)?;
        let port = egress.flow.translated_port;
        let reverse = self.egress.translated(config.uplink_address, port);
        let ingress = Entry::find(&reverse)?;
        if !nat::is_reverse_of(&ingress.flow, &self.egress, self.slot, self.word.epoch())
            || !ingress.is_live(self.word, self.now)
        {
            return None;
        }
        ingress.follow(Direction::Forward, transport, self.now);
        egress.refresh(self.now);
        Some(port)
    }

    #[inline(always)]
    fn new_port(
        &self,
        skb: &Skb,
        config: &Config,
        transport: &Transport,
    ) -> Result<u16, DropReason> {
        if transport.tcp_flags & tcp_flag::RST != 0 {
            return Err(DropReason::NotReply);
        }
        let port = self.claim_port(skb, config)?;
        let egress = self.flow(config.uplink_address, port);
        insert(&self.egress, &egress, BPF_ANY)?;
        Ok(port)
    }

    #[inline(always)]
    fn claim_port(&self, skb: &Skb, config: &Config) -> Result<u16, DropReason> {
        let mut search = Search {
            skb: *skb,
            reverse: self.egress.translated(config.uplink_address, 0),
            owner: self.flow(self.egress.local_address, self.egress.local_port),
            ports: PortSequence::new(config, random()),
            found: false,
        };
        search.run();
        if search.found {
            Ok(search.reverse.local_port)
        } else {
            Err(DropReason::NoFreePort)
        }
    }

    #[inline(always)]
    fn flow(&self, address: u32, port: u16) -> Flow {
        nat::new_flow(self.slot, self.word.epoch(), address, port, self.now)
    }
}

/// A search for a port that nobody uses.
struct Search {
    skb: Skb,
    /// The INGRESS key with the port that is tried.
    reverse: FlowKey,
    owner: Flow,
    ports: PortSequence,
    found: bool,
}

impl Search {
    /// Tries ports until one is found, at most [`PORT_TRIES`]. The helper (5.17) has the verifier
    /// follow one round instead of all of them.
    #[inline(always)]
    fn run(&mut self) {
        let search = (&raw mut *self).cast();
        // SAFETY: `try_next_port` has the signature that the helper calls, and `self` outlives it.
        unsafe { bpf_loop(PORT_TRIES, try_next_port as *mut c_void, search, 0) };
    }
}

const CONTINUE: i64 = 0;
const STOP: i64 = 1;

/// One round of [`Search::run`].
extern "C" fn try_next_port(_round: u64, search: *mut c_void) -> i64 {
    // SAFETY: `search` is what `Search::run` passed.
    let search = unsafe { &mut *search.cast::<Search>() };
    search.reverse.local_port = search.ports.next_port();
    if host::has_socket(&search.skb, &search.reverse) || !claim(&search.reverse, &search.owner) {
        return CONTINUE;
    }
    search.found = true;
    STOP
}

/// Makes `flow` the owner of a translated port, unless the port has an owner that still exists.
#[inline(always)]
fn claim(key: &FlowKey, flow: &Flow) -> bool {
    insert(key, flow, BPF_NOEXIST).is_ok() || take_over(key, flow)
}

/// Replaces a dead owner. Of several CPUs that find it dead only one wins the exchange; the others
/// see epoch 0, which no attachment has, and try another port.
#[inline(always)]
fn take_over(key: &FlowKey, flow: &Flow) -> bool {
    let Some(entry) = Entry::find(key) else {
        return false;
    };
    let Ok(word) = maps::attachment(entry.flow.slot) else {
        return false;
    };
    if entry.flow.epoch == 0 || entry.is_live(word, flow.last_seen_ns) || !entry.retire() {
        return false;
    }
    if insert(key, flow, BPF_ANY).is_ok() {
        return true;
    }
    // Nobody would ever take over an entry of epoch 0.
    let _ = FLOWS.remove(key);
    false
}

/// A flow entry: what it held when it was found, and where it lives.
struct Entry {
    flow: Flow,
    protocol: u8,
    place: *mut Flow,
}

impl Entry {
    #[inline(always)]
    fn find(key: &FlowKey) -> Option<Self> {
        let place = FLOWS.get_ptr_mut(key)?;
        // SAFETY: the pointer came from a lookup and is valid until the program ends. Another CPU
        // may write time and state meanwhile, each of which is one aligned store.
        let flow = unsafe { place.read_volatile() };
        Some(Self {
            flow,
            protocol: key.protocol,
            place,
        })
    }

    #[inline(always)]
    fn is_live(&self, word: AttachmentWord, now: u64) -> bool {
        nat::is_live(&self.flow, self.protocol, word, now)
    }

    /// Follows the connection's state, and keeps the entry alive.
    #[inline(always)]
    fn follow(&self, direction: Direction, transport: &Transport, now: u64) {
        let before = self.flow.state;
        let after = nat::next_state(before, self.protocol, direction, transport.tcp_flags);
        if after != before {
            // SAFETY: as in `find`; one byte.
            unsafe { (&raw mut (*self.place).state).write_volatile(after) };
        }
        self.refresh(now);
    }

    #[inline(always)]
    fn refresh(&self, now: u64) {
        if nat::needs_refresh(self.flow.last_seen_ns, now) {
            // SAFETY: as in `find`; one aligned word.
            unsafe { (&raw mut (*self.place).last_seen_ns).write_volatile(now) };
        }
    }

    /// Marks the entry as owned by nobody (epoch 0), unless it has changed hands since it was found.
    #[inline(always)]
    fn retire(&self) -> bool {
        let owner = |epoch: u32| {
            let [a, b, c, d] = self.flow.slot.to_ne_bytes();
            let [e, f, g, h] = epoch.to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        // SAFETY: `slot` and `epoch` are neighbours that fill one aligned word, see `abi::Flow`.
        unsafe {
            let word = (&raw mut (*self.place).slot).cast();
            compare_exchange(word, owner(self.flow.epoch), owner(0))
        }
    }
}

/// Writes `new` if `expected` is there, and says whether it did. Rust offers no such operation for
/// this target (`core::sync::atomic` knows only loads and stores), the kernel does (5.12).
///
/// # Safety
/// `word` is aligned and may be written.
#[inline(always)]
unsafe fn compare_exchange(word: *mut u64, expected: u64, new: u64) -> bool {
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

#[inline(always)]
fn insert(key: &FlowKey, flow: &Flow, flags: u32) -> Result<(), DropReason> {
    FLOWS
        .insert(key, flow, u64::from(flags))
        .map_err(|_| DropReason::FlowTable)
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}
