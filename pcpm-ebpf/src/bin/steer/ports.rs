//! Translated ports: the one that a slot's connection to the world has, or the search for a new one.
#![expect(unsafe_code, reason = "calls kernel helpers, one with a callback")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::{bpf_get_prandom_u32, bpf_loop},
};
use pcpm_ebpf::{
    abi::{AttachmentWord, Config, Flow, FlowKey, flow_kind},
    drop_reason::DropReason,
    icmp_error::Quote,
    nat::{self, Direction, PORT_TRIES, PortSequence},
    packet::{Frame, Transport, TransportKind, tcp_flag},
};

use crate::{
    flows::{Entry, insert, now_ns},
    host,
    maps::{self, FLOWS},
    skb::Skb,
};

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

/// The port that stands for the connection whose packet an error by `slot` quotes.
#[inline(always)]
pub(crate) fn quoted_port(
    config: &Config,
    slot: u32,
    word: AttachmentWord,
    frame: &Frame,
    quote: &Quote,
) -> Result<u16, DropReason> {
    let connection = Opening {
        egress: quote.arriving(flow_kind::EGRESS),
        slot,
        word,
        now: now_ns(),
    };
    match connection.entries(config) {
        Some((egress, _)) if quote.is_by_receiver(frame) => Ok(egress.flow.translated_port),
        _ => Err(DropReason::NotReply),
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
    /// The port the connection has, which the packet at hand keeps alive.
    #[inline(always)]
    fn present_port(&self, config: &Config, transport: &Transport) -> Option<u16> {
        let (egress, ingress) = self.entries(config)?;
        ingress.follow(Direction::Forward, transport, self.now);
        egress.refresh(self.now);
        Some(egress.flow.translated_port)
    }

    /// The EGRESS and the INGRESS entry, as long as they agree.
    #[inline(always)]
    fn entries(&self, config: &Config) -> Option<(Entry, Entry)> {
        let egress = Entry::find(&self.egress)?;
        let port = egress.flow.translated_port;
        let reverse = self.egress.translated(config.uplink_address, port);
        let ingress = Entry::find(&reverse)?;
        let agree = nat::is_reverse_of(&ingress.flow, &self.egress, self.slot, self.word.epoch());
        (agree && ingress.is_live(self.word, self.now)).then_some((egress, ingress))
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
        let egress = self.flow(&self.egress, port);
        insert(&self.egress, &egress, BPF_ANY)?;
        Ok(port)
    }

    #[inline(always)]
    fn claim_port(&self, skb: &Skb, config: &Config) -> Result<u16, DropReason> {
        let mut search = Search {
            skb: *skb,
            reverse: self.egress.translated(config.uplink_address, 0),
            owner: self.flow(&self.egress, self.egress.local_port),
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
    fn flow(&self, key: &FlowKey, port: u16) -> Flow {
        nat::new_flow(key, self.slot, self.word.epoch(), port, self.now)
    }
}

/// A search for a port that nobody uses.
struct Search {
    skb: Skb,
    /// The INGRESS key with the port that is tried.
    reverse: FlowKey,
    /// Its entry, but for the seal.
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
    search.owner.seal_for(&search.reverse);
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
/// see an entry that does not exist, and try another port.
#[inline(always)]
fn take_over(key: &FlowKey, flow: &Flow) -> bool {
    let Some(entry) = Entry::find(key) else {
        return false;
    };
    let Ok(word) = maps::attachment(entry.flow.slot) else {
        return false;
    };
    if entry.is_live(word, flow.last_seen_ns) || !entry.retire() {
        return false;
    }
    if insert(key, flow, BPF_ANY).is_ok() {
        return true;
    }
    // Nobody would ever take over an entry with a broken seal.
    let _ = FLOWS.remove(key);
    false
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}
